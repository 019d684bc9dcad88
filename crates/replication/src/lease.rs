//! Reads by the leader's lease: no message, but trust in clocks that run at the same rate.

use std::sync::atomic::{AtomicU64, Ordering};

use cirrus_proto::{Failure, Reason};
use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};

use crate::executor::not_leader;
use crate::read_index::no_quorum;
use crate::types::Group;

/// Returns once the lease vouches for this leader and the state has caught up with what is committed.
pub(crate) async fn confirm_lease(shard_id: u32, group: &Group, applied_next: &AtomicU64) -> Result<(), Failure> {
    let linearizer = group.get_read_linearizer(ReadPolicy::LeaseRead).await.map_err(|error| match error {
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
