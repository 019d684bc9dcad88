//! The node as a member of a cluster: the catalog, routing to leaders, placement, and what shards evaluate.
//!
//! Owns: how a node creates or joins a cluster (`bootstrap`), the catalog in shard 0 (`catalog`), where a
//! request finds its shard's leader (`node`, `forward`), reads (`query`), which nodes hold and lead a shard
//! (`placement`), procedure libraries (`libraries`), schedules and who runs them (`schedules`, `schedule_runner`),
//! which calls may run (`governor`), what they log (`log_book`, `follow_logs`), and the evaluator that every shard's executor runs
//! (`evaluator`). It knows nothing of gRPC handlers.
//!
//! Invariants:
//! - A request is tried again only where its failure says that nothing happened.
//! - After an upload is acknowledged, no call through any node runs an older version (`libraries`).
//! - A data directory belongs to one node of one cluster for good.
//!
//! Next stop on a request's path: `cirrus-replication`, whose executor calls back into `evaluator`.

mod bootstrap;
mod call_metrics;
mod caller;
pub mod catalog;
mod catalog_view;
mod evaluator;
mod follow_logs;
mod forward;
mod governor;
mod identity;
mod libraries;
mod library_cache;
mod library_catalog;
mod log_book;
mod node;
mod placement;
mod query;
mod quick_procedures;
mod read_calls;
mod read_pool;
mod running_calls;
mod schedule_catalog;
mod schedule_metrics;
mod schedule_runner;
mod schedules;
pub mod sql;
mod state_metrics;
mod status;
mod sweep;
mod token_bucket;
mod verify;

pub use cirrus_replication::Timing;
pub use evaluator::CATALOG_SHARD;
pub use governor::SuspensionSettings;
pub use log_book::LogSettings;
pub use node::{ClusterNode, NodeConfig, Routed};
