//! Apply: committed proposals into the shard's state, on every replica alike.
//!
//! The state machine takes effects only; it never evaluates. Two fences decide, from the log and the state
//! alone, whether a proposal takes effect:
//!
//! 1. its term is the term of its entry: it was evaluated by the leader that appended it;
//! 2. its sequence follows the last one applied in that term: what it was evaluated on came to be.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cirrus_proto::internal::v1 as pb;
use cirrus_storage::{ApplyBatch, ShardState, StorageError};
use futures::{FutureExt as _, Stream, StreamExt as _};
use openraft::OptionalSend;
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder as _, RaftStateMachine, Snapshot};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::task::JoinHandle;

use crate::convert::{Malformed, log_id_from_pb, log_id_to_pb, membership_to_pb, stored_membership_from_pb};
use crate::log::into_io;
use crate::snapshot::{CurrentSnapshot, SnapshotBuilder, SnapshotDirectory};
use crate::state_hash::ApplyStops;
use crate::types::{ApplyOutcome, LogId, Payload, SnapshotMeta, StoredMembership, TypeConfig};

/// Where the fence is kept, in TABLE_META.
const FENCE_KEY: &[u8] = b"fence";

/// Effects that one write to the state holds at most, bytes.
const APPLY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Adapts [`ShardState`] to openraft.
pub(crate) struct StateMachine {
    shard_id: u32,
    state: Arc<ShardState>,
    fence: pb::StoredFence,
    snapshots: PathBuf,
    current: CurrentSnapshot,
    /// For readers that wait for an index: the last applied index plus one.
    applied_next: Arc<AtomicU64>,
    stops: Arc<ApplyStops>,
    /// The buffer of effects, on its way into the state's RocksDB.
    write_back: Option<JoinHandle<Result<(), StorageError>>>,
    skipped: metrics::Counter,
    applied_proposals: metrics::Counter,
}

impl StateMachine {
    pub(crate) fn open(
        shard_id: u32,
        state: Arc<ShardState>,
        snapshots: PathBuf,
        applied_next: Arc<AtomicU64>,
        stops: Arc<ApplyStops>,
    ) -> io::Result<Self> {
        let fence = read_fence(&state)?;
        applied_next.store(next_index(&state), Ordering::Release);
        let shard = shard_id.to_string();
        Ok(StateMachine {
            shard_id,
            state,
            fence,
            snapshots,
            current: Arc::new(Mutex::new(None)),
            applied_next,
            stops,
            write_back: None,
            skipped: metrics::counter!("cirrus_proposals_skipped_total", "shard" => shard.clone()),
            applied_proposals: metrics::counter!("cirrus_proposals_applied_total", "shard" => shard),
        })
    }

    /// Adds one entry and tells what comes of it.
    fn stage(&mut self, staged: &mut Staged, log_id: &LogId, payload: Payload) -> io::Result<ApplyOutcome> {
        staged.batch.applied = log_id_to_pb(log_id);
        match payload {
            Payload::Blank => {}
            Payload::Membership(membership) => {
                staged.batch.membership = Some(pb::StoredMembership {
                    log_id: Some(log_id_to_pb(log_id)),
                    membership: Some(membership_to_pb(&membership)),
                });
            }
            Payload::Normal(bytes) => {
                let size = bytes.0.len();
                let proposal = pb::Proposal::decode(bytes.0).map_err(|error| Malformed::new("Proposal", error))?;
                if !admits(&self.fence, log_id.leader_id.term, &proposal) {
                    self.skipped.increment(1);
                    tracing::warn!(
                        shard = self.shard_id,
                        index = log_id.index,
                        term = log_id.leader_id.term,
                        proposal_term = proposal.term,
                        sequence = proposal.sequence,
                        "fenced off a proposal"
                    );
                    return Ok(ApplyOutcome::Skipped);
                }
                self.fence = pb::StoredFence { term: proposal.term, sequence: proposal.sequence };
                self.applied_proposals.increment(1);
                staged.batch.effects.extend(proposal.effects);
                staged.proposals += 1;
                staged.bytes += size;
            }
        }
        Ok(ApplyOutcome::Applied)
    }

    /// Writes the batch, then lets the replies leave.
    fn commit(&mut self, staged: Staged) -> io::Result<()> {
        let Staged { mut batch, responses, proposals, .. } = staged;
        let applied_index = batch.applied.index;
        if proposals > 0 {
            batch.effects.push(pb::Effect {
                table: pb::Table::Meta.into(),
                key: Bytes::from_static(FENCE_KEY),
                change: Some(pb::effect::Change::Put(self.fence.encode_to_vec().into())),
            });
        }
        self.state.apply(&batch).map_err(into_io)?;
        self.write_back_if_due()?;
        self.applied_next.store(applied_index + 1, Ordering::Release);
        for (responder, outcome) in responses {
            responder.send(outcome);
        }
        Ok(())
    }

    /// Writes a full buffer back on a thread that may block, and fails where that failed the last time.
    fn write_back_if_due(&mut self) -> io::Result<()> {
        if let Some(written) =
            self.write_back.take_if(|running| running.is_finished()).and_then(|ended| ended.now_or_never())
        {
            written.map_err(io::Error::other)?.map_err(into_io)?;
        }
        if self.write_back.is_none() && self.state.is_write_back_due() {
            let state = self.state.clone();
            self.write_back = Some(tokio::task::spawn_blocking(move || state.write_back()));
        }
        Ok(())
    }
}

/// Entries on their way into one write to the state.
struct Staged {
    batch: ApplyBatch,
    responses: Vec<(ApplyResponder<TypeConfig>, ApplyOutcome)>,
    proposals: usize,
    bytes: usize,
}

impl Staged {
    fn new() -> Self {
        let batch = ApplyBatch { effects: Vec::new(), applied: pb::LogId::default(), membership: None };
        Staged { batch, responses: Vec::new(), proposals: 0, bytes: 0 }
    }
}

/// Whether a proposal in an entry of `entry_term` takes effect, given the last one that did.
fn admits(fence: &pb::StoredFence, entry_term: u64, proposal: &pb::Proposal) -> bool {
    let last_in_term = if fence.term == proposal.term { fence.sequence } else { 0 };
    proposal.term == entry_term && proposal.sequence == last_in_term + 1
}

pub(crate) fn read_fence(state: &ShardState) -> io::Result<pb::StoredFence> {
    match state.get(pb::Table::Meta, FENCE_KEY).map_err(into_io)? {
        Some(bytes) => Ok(pb::StoredFence::decode(bytes).map_err(|error| Malformed::new("StoredFence", error))?),
        None => Ok(pb::StoredFence::default()),
    }
}

pub(crate) fn next_index(state: &ShardState) -> u64 {
    state.applied().log_id.map_or(0, |applied| applied.index + 1)
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotDirectory;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.state.applied();
        Ok((applied.log_id.as_ref().map(log_id_from_pb), stored_membership_from_pb(applied.membership)?))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let mut staged = Staged::new();
        let mut waiting = false;
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let index = entry.log_id.index;
            let outcome = self.stage(&mut staged, &entry.log_id, entry.payload)?;
            if let Some(responder) = responder {
                staged.responses.push((responder, outcome));
            }
            waiting = true;
            let stops_here = self.stops.are_at(index);
            if staged.bytes >= APPLY_BYTES_MAX || stops_here {
                self.commit(std::mem::replace(&mut staged, Staged::new()))?;
                waiting = false;
            }
            if stops_here {
                self.stops.stop_at(index).await;
            }
        }
        if waiting {
            self.commit(staged)?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        SnapshotBuilder { state: self.state.clone(), folder: self.snapshots.clone(), current: self.current.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotDirectory) -> Result<(), io::Error> {
        let state = self.state.clone();
        let directory = snapshot.clone();
        tokio::task::spawn_blocking(move || state.install(directory.path()))
            .await
            .map_err(io::Error::other)?
            .map_err(into_io)?;
        self.fence = read_fence(&self.state)?;
        self.applied_next.store(next_index(&self.state), Ordering::Release);
        // The install consumed the received directory. A leader that has purged what a follower lacks must have a
        // snapshot to send, or openraft fails the group; so this one is linked anew from the state.
        self.get_snapshot_builder().await.build_snapshot().await?;
        tracing::info!(shard = self.shard_id, last = ?meta.last_log_id, "installed a snapshot");
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotDirectory>>, io::Error> {
        let current = self.current.lock().clone();
        Ok(current.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposal(term: u64, sequence: u64) -> pb::Proposal {
        pb::Proposal { term, sequence, ..Default::default() }
    }

    #[test]
    fn the_fence_admits_only_the_chain_of_the_entrys_own_term() {
        let fence = pb::StoredFence { term: 5, sequence: 3 };
        let cases = [
            (5, proposal(5, 4), true, "the next of the same term"),
            (5, proposal(5, 3), false, "a repeat"),
            (5, proposal(5, 5), false, "its predecessor was rejected"),
            (6, proposal(5, 4), false, "evaluated in an earlier term"),
            (6, proposal(6, 1), true, "the first of a new term"),
            (6, proposal(6, 2), false, "a new term must start at 1"),
        ];
        for (entry_term, proposal, expected, why) in cases {
            assert_eq!(admits(&fence, entry_term, &proposal), expected, "{why}");
        }
    }
}
