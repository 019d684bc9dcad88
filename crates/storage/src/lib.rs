//! What a node keeps on disk: the [`NodeLog`] of all its shards, and one [`ShardState`] for each shard.
//!
//! ```text
//!   append, vote ─► NodeLog ─ one queue, one writer thread, one fsync a batch ─► segment files
//!                      └─ tail cache ─► replication and apply read recent entries from memory
//!   committed    ─► ShardState::apply ─► buffer ─ effects + applied id in one batch ─► RocksDB, write-ahead log off
//!                      └─ checkpoint (hard links) ─► a snapshot to send ─► ShardState::install on another node
//! ```
//!
//! The Raft log is the state's write-ahead log. That is why the state needs none of its own, and why three
//! promises must hold together:
//!
//! - **What was acknowledged is on disk.** A `done` callback of the log runs after the fsync that covers it, and
//!   after the callbacks of everything that was asked of the node's log before it. A vote is thereby a barrier.
//! - **The state is the effects of exactly the entries up to its applied id**, whatever was lost: effects, applied
//!   id and membership leave the buffer in one write batch, and the column families reach the disk together or not at all.
//! - **The log is never purged past [`ShardState::flushed`]**, which is the caller's part: what a power cut takes
//!   from the state's memory is replayed from the log.
//!
//! Neither Raft nor the network is known here: entries are encoded `internal.v1.Entry` messages with a term and
//! an index. All calls block; those that touch the disk say so.
//!
//! Where to read on: [`log`](NodeLog) and its writer are on the path of every write; [`state`](ShardState) is
//! where a write ends and a read begins. `cirrus-replication` drives both; `cirrus-engine` reads the state through
//! its `View`.

mod durable_files;
mod error;
mod log;
mod resources;
mod state;

pub use error::StorageError;
pub use log::{Done, EncodedEntry, LogConfig, LogState, NodeLog, ShardLog};
pub use resources::{SharedResources, StorageConfig};
pub use state::{
    Applied, ApplyBatch, Checkpoint, CheckpointFile, PinnedState, ShardState, StateHash, StateSnapshot,
    StateStatistics, Visit, delete_checkpoints_except,
};
