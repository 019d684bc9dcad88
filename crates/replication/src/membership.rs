//! Changing who holds a shard, and who leads it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use cirrus_proto::{Failure, Reason};
use openraft::errors::{ClientWriteError, InitializeError, RaftError};

use crate::convert::Node;
use crate::shard::Shard;
use crate::types::TypeConfig;

/// How far a leadership transfer's target may lag behind, entries.
const TRANSFER_LAG_MAX: u64 = 100;

impl Shard {
    /// Makes this replica the first voter of a new group. Does nothing to a group that has begun.
    ///
    /// # Errors
    /// INTERNAL where the group failed.
    pub async fn initialize(&self, node_id: u64, node: Node) -> Result<(), Failure> {
        match self.group().initialize(BTreeMap::from([(node_id, node)])).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(Failure::internal(format!("shard {}: {error}", self.id()))),
        }
    }

    /// Adds a member that does not vote, and returns without waiting for it to catch up. On the leader only.
    ///
    /// # Errors
    /// NOT_LEADER, NO_LEADER, OUTCOME_UNKNOWN.
    pub async fn add_learner(&self, node_id: u64, node: Node, bound: Duration) -> Result<(), Failure> {
        let change = self.group().add_learner(node_id, node, false);
        self.bounded_change(bound, change).await
    }

    /// Makes exactly these members voters; other members stay as learners. On the leader only. A change
    /// that stopped half-way is completed by asking again.
    ///
    /// # Errors
    /// NOT_LEADER, NO_LEADER, OUTCOME_UNKNOWN.
    pub async fn change_voters(&self, voters: BTreeSet<u64>, bound: Duration) -> Result<(), Failure> {
        let change = self.group().change_membership(voters, true);
        self.bounded_change(bound, change).await
    }

    async fn bounded_change<T>(
        &self,
        bound: Duration,
        change: impl Future<Output = Result<T, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>>,
    ) -> Result<(), Failure> {
        match tokio::time::timeout(bound, change).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => Err(self.elsewhere()),
            Ok(Err(error)) => {
                Err(Failure::new(Reason::OutcomeUnknown, format!("shard {}: membership: {error}", self.id())))
            }
            Err(_) => Err(Failure::new(
                Reason::OutcomeUnknown,
                format!("shard {}: the membership change took over {} ms", self.id(), bound.as_millis()),
            )),
        }
    }

    /// Hands leadership to another voter that has caught up, and waits until it leads. On the leader only.
    ///
    /// # Errors
    /// INVALID_FIELD where the target is no other voter, NO_LEADER where it lags or did not take over.
    pub async fn transfer_leader(&self, to: u64, bound: Duration) -> Result<(), Failure> {
        let report = self.report();
        if report.leader == Some(to) || !report.voters.contains(&to) {
            return Err(Failure::invalid_field("to", format!("node {to} is no other voter of shard {}", self.id())));
        }
        let matched = report.matched.get(&to).copied().unwrap_or(0);
        if matched + TRANSFER_LAG_MAX < report.last_log_index {
            let lag = report.last_log_index - matched;
            return Err(Failure::new(
                Reason::NoLeader,
                format!("node {to} lags {lag} entries behind on shard {}, above {TRANSFER_LAG_MAX}", self.id()),
            ));
        }
        let stopped = |error| Failure::internal(format!("shard {}: {error}", self.id()));
        self.group().trigger().transfer_leader(to).await.map_err(stopped)?;
        let deadline = Instant::now() + bound;
        let mut leader = self.leader();
        let took_over = leader.wait_for(|view| view.leader.as_ref().is_some_and(|(id, _)| *id == to));
        match tokio::time::timeout_at(deadline.into(), took_over).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Failure::new(
                Reason::NoLeader,
                format!("node {to} did not take over shard {} in {} ms", self.id(), bound.as_millis()),
            )),
        }
    }

    /// The voters that a leadership transfer may go to, the most caught-up first.
    pub fn transfer_targets(&self) -> Vec<u64> {
        let report = self.report();
        let mut targets: Vec<(u64, u64)> = report
            .matched
            .iter()
            .filter(|(id, matched)| {
                Some(**id) != report.leader
                    && report.voters.contains(id)
                    && **matched + TRANSFER_LAG_MAX >= report.last_log_index
            })
            .map(|(id, matched)| (*matched, *id))
            .collect();
        targets.sort_by(|a, b| b.cmp(a));
        targets.into_iter().map(|(_, id)| id).collect()
    }
}
