//! SQLite databases in the cluster: their requests on the way to their shard, and what runs there.
//!
//! ```text
//! Execute, Remove, Import ─► command ─► the shard's executor: `commands`, on its own thread ─► effects on TABLE_SQL
//! Batch with SQL, a call's sql.* ─► the same
//! QueryStream ────────────► a replica: `streams`, on a thread for what blocks, for as long as the client takes rows
//! Query, Describe, List ───► query ───► a replica: `reads`, on a thread for what blocks, on one moment of the state
//! ```

mod calls;
mod commands;
mod messages;
mod metrics;
mod reads;
mod requests;
mod schema_cache;
mod schema_requests;
pub(crate) mod schemas;
mod streams;

pub(crate) use calls::CallDatabases;
pub use calls::databases_in_memory;
pub(crate) use commands::SqlCommands;
pub(crate) use messages::database_message;
pub use messages::{database_id, result_sets};
pub(crate) use metrics::{Owner, describe};
pub(crate) use reads::SqlReads;
pub use requests::{Readable, export_database};
pub(crate) use schema_cache::SchemaCache;
pub use schema_requests::MigrationProgress;
