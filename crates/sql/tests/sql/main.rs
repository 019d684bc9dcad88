//! Databases over a shard's state in memory.

#![allow(clippy::unwrap_used)]

mod basics;
mod hostile;
mod json_rpc;
mod limits;
mod model;
mod parts;
mod schemas;
mod shard;
mod streams;
mod whole;
