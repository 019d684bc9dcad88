//! SQLite databases whose pages are keys: a tiny one for every user, replicated with their keys.
//!
//! Owns SQLite: how it is set up, the file system that it sees, what statements may do and take, which databases stay open,
//! and how a database is stored (`keys.rs`, `page.rs`); schemas for all databases of a dbname ([`Schema`]); and the pure part of
//! SPHiveDB's protocol ([`json_rpc`], [`SphivedbConfig`]). It knows a shard as a [`Transaction`](cirrus_engine::Transaction)
//! or a [`View`](cirrus_engine::View), and nothing of Raft or gRPC.
//!
//! ```text
//! Request ─► entry in TABLE_SQL ─► connection, kept or opened             databases.rs, cache.rs, connection.rs
//!   the request is lent to SQLite's callbacks:                            running.rs
//!     pages ◄─ Transaction │ time │ leave to go on │ leave to do it       vfs.rs, file.rs │ budget.rs │ gate.rs
//!   PRAGMA foreign_keys, schema upgrade, BEGIN, statements, COMMIT        session.rs, schema/
//! ─► pages that differ, and the entry ─► Transaction                      stored.rs
//! ```
//!
//! Invariants:
//! - A request is one transaction of SQLite's, and its effects are exactly the pages that differ from what is stored, and the
//!   database's entry. A request that fails writes nothing.
//! - A connection is used only while the database's stored generation is the one whose pages it has in memory. Every change of
//!   a page draws a new generation at random, so a transaction that was given up, a proposal that was lost, another leader's
//!   writes and an import all leave one that no connection has. A failed request's connection is kept only where SQLite
//!   undid everything in memory, and the schema's upgrade before it as well.
//! - SQLite sees one file, the running request's, and no other: journals, sorters and temporary tables stay in memory, and nothing
//!   opens a file of the machine's.
//! - Every request ends: CPU time, memory, results, values and the database's size are bounded, and a kill flag ends it
//!   from outside. What cannot be interrupted, a built-in function, takes at most linear time.
//! - What one request does to its connection, the next does not see: temporary tables, foreign keys, the last row id.
//! - No statement, file or body makes this crate panic; a fault in SQLite's wrapper costs the request and its connection.
//!
//! Time comes in as a value (`Transaction::now_ms`), and `random()` may be used: only the leader evaluates.
//!
//! Read in this order: [`DatabaseId`], `keys.rs`, [`Databases::execute`], `session.rs`, [`Schema`]. For users: docs/sql.md.
//!
//! Next stop on a request's path: the executor offers the transaction's effects to Raft (`cirrus-replication`).

mod budget;
mod cache;
mod changes;
mod connection;
mod databases;
mod file;
mod functions;
mod gate;
mod id;
pub mod json_rpc;
mod keys;
mod library;
mod listing;
mod memory;
mod page;
mod removal;
mod running;
mod schema;
mod session;
mod spent;
mod sphivedb_config;
mod statement;
mod statistics;
mod stored;
mod transfer;
mod trouble;
mod vfs;

pub use changes::{Change, changed_databases};
pub use databases::{Databases, Executed, Request};
pub use id::DatabaseId;
pub use library::initialize;
pub use listing::{DatabaseInfo, Description, ListFilter, ListPage, SchemaObject, UpgradeFailure, list};
pub use removal::Removal;
pub use schema::{Migration, Schema};
pub use spent::Spent;
pub use sphivedb_config::SphivedbConfig;
pub use statement::{Cell, Column, Parameters, Part, ResultSet, Statement, TakeParts};
pub use statistics::Statistics;
pub use stored::Stored;
pub use transfer::{Import, ImportPart, export};
