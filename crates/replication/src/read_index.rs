//! Linearizable reads: one quorum round serves every read that waits for it.
//!
//! Source: Ongaro's dissertation, section 6.4. A read that arrives during a round waits for the next one,
//! since a round only vouches for reads that began before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cirrus_proto::{Failure, Reason};
use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::executor::not_leader;
use crate::types::Group;

/// Rounds under way at once: while one waits for its quorum, the next may start.
const ROUNDS_IN_FLIGHT: usize = 2;
/// Reads that one round serves at most.
const READS_PER_ROUND: usize = 1024;

type ReadReply = oneshot::Sender<Result<(), Failure>>;

/// The queue of reads that wait for a round.
pub(crate) struct ReadIndex {
    sender: mpsc::Sender<ReadReply>,
    bound: usize,
}

impl ReadIndex {
    pub(crate) fn start(shard_id: u32, group: Group, applied_next: Arc<AtomicU64>, bound: usize) -> Self {
        let (sender, waiting) = mpsc::channel(bound);
        tokio::spawn(run_rounds(shard_id, group, applied_next, waiting));
        ReadIndex { sender, bound }
    }

    /// Returns once this node has shown that it led after the call began, and has applied every entry
    /// committed by then.
    pub(crate) async fn barrier(&self) -> Result<(), Failure> {
        let (sender, receiver) = oneshot::channel();
        self.sender.try_send(sender).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Failure::new(
                Reason::MailboxFull,
                format!("{} reads wait for the shard, which is the limit", self.bound),
            )
            .with("limit", self.bound)
            .retry_after(Duration::from_millis(20)),
            mpsc::error::TrySendError::Closed(_) => Failure::new(Reason::ShuttingDown, "the shard is stopping"),
        })?;
        receiver.await.map_err(|_| Failure::new(Reason::ShuttingDown, "the shard is stopping"))?
    }
}

async fn run_rounds(shard_id: u32, group: Group, applied_next: Arc<AtomicU64>, mut waiting: mpsc::Receiver<ReadReply>) {
    let rounds = Arc::new(Semaphore::new(ROUNDS_IN_FLIGHT));
    let served = metrics::histogram!("cirrus_read_index_reads", "shard" => shard_id.to_string());
    loop {
        let Ok(round) = rounds.clone().acquire_owned().await else { return };
        let mut reads = Vec::new();
        if waiting.recv_many(&mut reads, READS_PER_ROUND).await == 0 {
            return;
        }
        served.record(reads.len() as f64);
        let (group, applied_next) = (group.clone(), applied_next.clone());
        tokio::spawn(async move {
            let result = confirm(shard_id, &group, &applied_next, ReadPolicy::ReadIndex).await;
            drop(round);
            for read in reads {
                // A reader that gave up no longer waits.
                let _ = read.send(result.clone());
            }
        });
    }
}

/// One round: confirms leadership by `policy`, then waits until the state has caught up with it.
pub(crate) async fn confirm(
    shard_id: u32,
    group: &Group,
    applied_next: &AtomicU64,
    policy: ReadPolicy,
) -> Result<(), Failure> {
    let linearizer = group.get_read_linearizer(policy).await.map_err(|error| match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(_)) => not_leader(shard_id),
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => no_quorum(shard_id),
        RaftError::Fatal(_) => Failure::new(Reason::NotLeader, format!("the replica of shard {shard_id} has stopped")),
    })?;
    if applied_next.load(Ordering::Acquire) > linearizer.read_log_id().index() {
        return Ok(());
    }
    let stopped = |_| Failure::new(Reason::NotLeader, format!("the replica of shard {shard_id} has stopped"));
    linearizer.await_ready(group).await.map_err(stopped)?;
    Ok(())
}

pub(crate) fn no_quorum(shard_id: u32) -> Failure {
    Failure::new(Reason::NoLeader, format!("the leader of shard {shard_id} reaches no quorum"))
        .retry_after(Duration::from_millis(200))
}
