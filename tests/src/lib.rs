//! Tests that start real nodes, hurt them, and check what their clients saw.
//!
//! Each file under `tests/` holds one promise of the system and is named for it. This library owns what they
//! share:
//! - [`cluster`] starts `cirrus serve` processes, kills, pauses and restarts them, and [`wait`]s until they are ready;
//! - [`shards`] and [`http`] read what nodes say of themselves, [`replicas`] compares what they hold;
//! - [`network`] stands between the nodes and cuts links, in one direction or both;
//! - [`node_client`] speaks to one node without retries, and tells a refusal from an unknown outcome;
//! - [`command_line`] runs the binary as people and scripts do;
//! - [`sql`] speaks to SQLite databases on one node;
//! - [`sql_logic`] runs SQL logic tests on a cluster and on plain SQLite side by side;
//! - [`workload`] drives many clients at once and records a [`history`];
//! - [`writers`] write for as long as a test hurts the cluster, and tell what was acknowledged;
//! - [`checker`] decides whether a history is linearizable.
//!
//! A test returns [`TestResult`](outcome::TestResult).
//!
//! Invariants: every wait has a bound and names what it waited for; no test depends on a fixed port, a
//! fixed directory or another test; where a test fails, the nodes' logs stay on disk and are named.

pub mod checker;
pub mod cluster;
pub mod command_line;
pub mod history;
pub mod http;
pub mod network;
pub mod node_client;
pub mod outcome;
pub mod replicas;
pub mod shards;
pub mod sql;
pub mod sql_logic;
pub mod wait;
pub mod workload;
pub mod writers;
