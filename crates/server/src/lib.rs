//! The node as its clients and operators meet it: gRPC and HTTP listeners, configuration, metrics and probes.
//!
//! Owns everything that speaks to the outside: the services `KeyValue`, `Procedures`, `Sql` and `Cluster` of
//! `cirrus.v1`, the node-to-node service `Node`, reflection and health; what a request may take ([`config`]);
//! and the order in which a node starts and stops ([`serve`]).
//!
//! ```text
//! connection ─► connections (bounded) ─► HTTP/2 ─► service ─► edge: admission, deadline, validation, routing,
//!     span, metrics ─► ClusterNode ─► answer, with the leader's address where the request was forwarded
//! ```
//!
//! Invariants:
//! - Everything that a peer can make the node hold is bounded: connections, streams a connection, requests under way,
//!   requests and bytes of one pipeline, a scan's pages. Above a bound a client is refused with a retry delay, or
//!   held back by flow control.
//! - A request is validated before it is routed, so that what can never succeed takes no place in a mailbox.
//! - A request that another node forwarded is not forwarded again.
//! - Requests of one pipeline to one shard take effect in the order sent.
//! - A request pays for tracing and metrics with a few atomic operations, unless the operator turns spans on.
//!
//! Read in this order: [`serve`], `edge`, `key_value`, `scan`, `pipeline`.
//!
//! Next stop on a request's path: `cirrus-cluster`, which finds the shard's leader.

// A handler's future nests those of all layers below it; their types are deeper than the default.
#![recursion_limit = "256"]

mod admission;
mod cluster;
pub mod config;
mod connections;
mod deadline;
mod edge;
mod grpc;
mod http;
mod key_value;
pub mod logging;
mod logs;
mod node;
mod observation;
mod peers;
mod pipeline;
mod procedures;
mod readiness;
mod routing;
mod scan;
pub mod serve;
mod sphivedb;
mod sql;
mod validation;
mod verify;

pub use config::{ConfigError, Flags, Scheduling, ServerConfig};
pub use serve::{ServeError, run};
