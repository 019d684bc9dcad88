//! Raft for every shard of a node: everything that names openraft, and the shard executor.
//!
//! Owns: the groups ([`Replication`], [`Shard`]), the links between nodes over which they speak, the
//! executor that turns commands into proposals, and apply. It knows neither Lua nor SQL nor the public
//! API: an [`Evaluator`] runs commands, over the engine's `Transaction`.
//!
//! A write's way through this crate:
//!
//! ```text
//! Shard::execute ─► mailbox ─► executor: evaluate, propose ─► openraft: append + fsync here (log),
//!   replicate (network, link ─► serve on the peers) ─► committed ─► state_machine: apply ─► reply
//! ```
//!
//! Invariants:
//! - A reply leaves only after its proposal was fsynced by a quorum and applied here.
//! - Followers never evaluate. What they apply is decided by the log and the state alone.
//! - A proposal takes effect only in the term in which it was evaluated, and only if all that it was
//!   evaluated on took effect.
//! - Nothing that openraft defines reaches the wire or a disk: `convert` stands between.
//!
//! Next stop on a request's path: `cirrus-engine`, which evaluates; then `cirrus-storage`.

mod clock;
mod commit_pacing;
mod completions;
mod convert;
mod evaluation;
mod executor;
mod lease;
mod link;
mod links;
mod log;
mod mailbox;
mod membership;
mod network;
mod outbox;
mod read_index;
mod replication;
mod serve;
mod shard;
mod snapshot;
mod snapshot_transfer;
mod state_hash;
mod state_machine;
mod state_view;
#[cfg(test)]
mod storage_suite;
mod timing;
mod types;
mod wire;

pub use clock::{head_now, wall_clock};
pub use convert::{Malformed, Node};
pub use evaluation::{Evaluated, Evaluator, Place, Stopped};
pub use link::endpoint;
pub use mailbox::{CommandResult, Executed};
pub use replication::{MakeEvaluator, Replication, ReplicationConfig};
pub use shard::{LeaderView, Shard, ShardReport, Submitted};
pub use snapshot::SnapshotDirectory;
pub use state_view::{SnapshotView, StateView};
pub use timing::Timing;
pub use wire::{LINK_FIRST_BYTE, MESSAGE_BYTES_MAX};
