//! What uploaded libraries may do, and what they cannot.

#![allow(clippy::unwrap_used)]

mod crypto;
mod declared;
mod hostile;
mod isolation;
mod json;
mod key_value;
mod libraries;
mod lightcloud;
mod log;
mod results;
mod shard;
mod sql;
mod status;
mod testing;
mod tyrant;
mod tyrant_data;
mod tyrant_hostile;
mod tyrant_iteration;
mod tyrant_scripts;
mod tyrant_server;
mod values;
