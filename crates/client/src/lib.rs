//! The Rust client of Cirrus: the first stop on a request's path.
//!
//! Owns the choice of the node that a request goes to, the connections to the nodes, the decision
//! whether a failed request is sent again, and the request ids that make sending again safe. It knows
//! the public protocol (`cirrus_proto::v1`) and nothing of the server's crates.
//!
//! ```text
//! Client::put ─► request id ─► Router: key → shard → leader's node ─► Connection (HTTP/2) ─► node
//!      ▲                                   ▲                                             │
//!      └── policy: send again, or give up ─┴── hints, Cluster.Status ◄───────────────────┘
//! ```
//!
//! Invariants:
//! - A mutating request without a request id is sent once only, unless its failure proves that nothing
//!   happened. Where that cannot be known, [`ClientError::outcome_unknown`] says so.
//! - A request that is sent again keeps its request id and its contents.
//! - `acknowledged_below` never passes a sequence whose request is still waiting for its reply.
//! - No lock is held while waiting for the network, except the one that lets a single caller dial a node.
//! - Everything ends within the caller's timeout, but a pipeline and [`Logs`] that are followed.
//!
//! What to read: `client` has the loop of attempts, `policy` its decisions as a table, `router` where
//! requests go, `request_ids` exactly-once, `connection` the wire.
//!
//! Next stop on a request's path: `cirrus-server` receives it.

mod attempt;
mod client;
mod config;
mod connection;
mod error;
mod key_value;
mod logs;
mod node;
mod pipeline;
mod policy;
mod procedures;
mod request;
mod request_ids;
mod router;
mod scan;
mod shard_map;
mod sql;
mod sql_parts;
mod verify;

pub use client::Client;
pub use config::ClientConfig;
pub use error::ClientError;
pub use logs::{LogEvent, Logs};
pub use pipeline::{PipelineReceiver, PipelineSender};
pub use scan::Scan;
pub use sql_parts::SqlParts;

pub use cirrus_proto::{Advice, Failure, Reason, v1};
