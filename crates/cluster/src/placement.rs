//! Which nodes hold which shards, and who should lead: each shard's leader makes it so, a step at a time.
//!
//! The catalog says which nodes there are. Every node holds the catalog, up to five of them as voters. A data
//! shard has three voters, on the nodes that came first; a node that comes later forwards. Moving shards to
//! later nodes is not done yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cirrus_proto::Failure;
use cirrus_replication::{Node, Shard, ShardReport};

use crate::evaluator::CATALOG_SHARD;
use crate::node::ClusterNode;

/// Voters of the catalog, at most.
const CATALOG_VOTERS_MAX: usize = 5;
/// Voters of a data shard.
const DATA_VOTERS_MAX: usize = 3;
/// How far a learner may lag behind when it becomes a voter, entries.
const PROMOTION_LAG_MAX: u64 = 1000;
const TICK: Duration = Duration::from_millis(200);
const CHANGE_BOUND: Duration = Duration::from_secs(5);
/// How long a hand-over may hold up a shard's writes.
const HAND_OVER_BOUND: Duration = Duration::from_secs(1);
/// How long no hand-over of a shard is tried after one that failed, beyond [`LEADER_SETTLE`].
const HAND_OVER_BACKOFF: Duration = Duration::from_secs(20);
/// How long a shard is left with its leader before it is handed to the preferred one.
const LEADER_SETTLE: Duration = Duration::from_secs(3);

/// The next step towards where a shard should be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    AddLearner(u64),
    Promote(BTreeSet<u64>),
    HandOver(u64),
}

/// Since when this node reaches its peers, and leads its shards undisturbed.
#[derive(Default)]
struct Since {
    connected: BTreeMap<u64, Instant>,
    settled: BTreeMap<u32, Instant>,
}

impl Since {
    fn look(&mut self, node: &ClusterNode, members: &BTreeMap<u64, Node>, leading: &[u32]) {
        self.connected.retain(|id, _| node.replication.is_connected(*id));
        for id in members.keys().filter(|id| node.replication.is_connected(**id)) {
            self.connected.entry(*id).or_insert_with(Instant::now);
        }
        self.settled.retain(|shard_id, _| leading.contains(shard_id));
        for shard_id in leading {
            self.settled.entry(*shard_id).or_insert_with(Instant::now);
        }
    }

    /// Whether the peer is reached, and has been for `at_least`.
    fn reached(&self, id: u64, at_least: Duration) -> bool {
        self.connected.get(&id).is_some_and(|since| since.elapsed() >= at_least)
    }
}

/// Runs until the node stops.
pub(crate) async fn run(node: Arc<ClusterNode>) {
    let mut since = Since::default();
    loop {
        tokio::time::sleep(TICK).await;
        let members = node.members();
        let shards: Vec<Arc<Shard>> = node.replication.shards().into_values().filter(|shard| shard.leads()).collect();
        let leading: Vec<u32> = shards.iter().map(|shard| shard.id()).collect();
        since.look(&node, &members, &leading);
        let steps = shards.iter().filter_map(|shard| {
            let step = next_step(shard.id(), node.config.node_id, &shard.report(), &members, |id, at_least| {
                since.reached(id, at_least)
            })?;
            // `elapsed` of a moment to come is 0: that is how a shard is left alone after a failure.
            let is_settled = since.settled.get(&shard.id()).is_some_and(|since| since.elapsed() >= LEADER_SETTLE);
            (is_settled || !matches!(step, Step::HandOver(_))).then_some((shard, step))
        });
        let taken = futures::future::join_all(steps.map(async |(shard, step)| {
            tracing::info!(shard = shard.id(), ?step, "placement");
            (shard.id(), take(shard, step, &members).await)
        }))
        .await;
        for (shard_id, result) in taken {
            let undisturbed_from = match result {
                Ok(()) => Instant::now(),
                Err(failure) => {
                    tracing::warn!(shard = shard_id, %failure, "placement: will try again");
                    Instant::now() + HAND_OVER_BACKOFF
                }
            };
            since.settled.insert(shard_id, undisturbed_from);
        }
    }
}

async fn take(shard: &Shard, step: Step, members: &BTreeMap<u64, Node>) -> Result<(), Failure> {
    match step {
        Step::AddLearner(id) => match members.get(&id) {
            Some(node) => shard.add_learner(id, node.clone(), CHANGE_BOUND).await,
            None => Ok(()),
        },
        Step::Promote(voters) => shard.change_voters(voters, CHANGE_BOUND).await,
        Step::HandOver(id) => shard.transfer_leader(id, HAND_OVER_BOUND).await,
    }
}

/// What the shard's leader should do next, from what it and the catalog say.
fn next_step(
    shard_id: u32,
    own_id: u64,
    report: &ShardReport,
    members: &BTreeMap<u64, Node>,
    is_reached: impl Fn(u64, Duration) -> bool,
) -> Option<Step> {
    let held: BTreeSet<u64> = report.voters.union(&report.learners).copied().collect();
    let (voters_max, holders_max) = match shard_id {
        CATALOG_SHARD => (CATALOG_VOTERS_MAX, usize::MAX),
        _ => (DATA_VOTERS_MAX, DATA_VOTERS_MAX),
    };
    if held.len() < holders_max
        && let Some(id) = members.keys().find(|id| !held.contains(id))
    {
        return Some(Step::AddLearner(*id));
    }
    let lag = |id: &u64| report.last_log_index.saturating_sub(report.matched.get(id).copied().unwrap_or(0));
    if report.voters.len() < voters_max
        && let Some(id) = report.learners.iter().find(|id| {
            report.matched.contains_key(id) && lag(id) <= PROMOTION_LAG_MAX && is_reached(**id, Duration::ZERO)
        })
    {
        let mut voters = report.voters.clone();
        voters.insert(*id);
        return Some(Step::Promote(voters));
    }
    let preferred = *report.voters.iter().nth(shard_id as usize % report.voters.len().max(1))?;
    // A node that came back a moment ago is still busy with itself.
    let ready =
        preferred != own_id && is_reached(preferred, LEADER_SETTLE) && lag(&preferred) <= PROMOTION_LAG_MAX / 10;
    ready.then_some(Step::HandOver(preferred))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(voters: &[u64], learners: &[u64], matched: &[(u64, u64)]) -> ShardReport {
        ShardReport {
            role: "leader",
            term: 1,
            leader: Some(1),
            voters: voters.iter().copied().collect(),
            learners: learners.iter().copied().collect(),
            nodes: BTreeMap::new(),
            last_log_index: 5000,
            applied_index: 5000,
            matched: matched.iter().copied().collect(),
        }
    }

    fn members(count: u64) -> BTreeMap<u64, Node> {
        (1..=count).map(|id| (id, Node::default())).collect()
    }

    #[test]
    fn a_shard_grows_to_three_voters_then_goes_to_its_preferred_leader() {
        let all_up = |_, _| true;
        let step = |shard, report: ShardReport, count| next_step(shard, 1, &report, &members(count), all_up);
        assert_eq!(step(3, report(&[1], &[], &[(1, 5000)]), 1), None, "alone");
        assert_eq!(step(3, report(&[1], &[], &[]), 3), Some(Step::AddLearner(2)));
        assert_eq!(step(3, report(&[1], &[2], &[(2, 100)]), 2), None, "it lags too far to vote");
        assert_eq!(step(3, report(&[1], &[2], &[(2, 4500)]), 2), Some(Step::Promote(BTreeSet::from([1, 2]))));
        let full = [(2, 5000), (3, 5000)];
        assert_eq!(step(3, report(&[1, 2, 3], &[], &full), 5), None, "three hold it, and node 1 is preferred");
        assert_eq!(step(4, report(&[1, 2, 3], &[], &full), 3), Some(Step::HandOver(2)));
        assert_eq!(step(4, report(&[1, 2, 3], &[], &[(2, 1), (3, 5000)]), 3), None, "the preferred one lags");
    }

    #[test]
    fn every_node_holds_the_catalog_and_five_vote() {
        let matched: Vec<(u64, u64)> = (2..=7).map(|id| (id, 5000)).collect();
        let step = |voters: &[u64], learners: &[u64]| {
            next_step(CATALOG_SHARD, 1, &report(voters, learners, &matched), &members(7), |_, _| true)
        };
        assert_eq!(step(&[1, 2, 3], &[4]), Some(Step::AddLearner(5)));
        assert_eq!(step(&[1, 2, 3, 4], &[5, 6, 7]), Some(Step::Promote((1..=5).collect())));
        assert_eq!(step(&[1, 2, 3, 4, 5], &[6, 7]), None);
    }

    #[test]
    fn nothing_is_handed_to_a_node_that_is_not_reached() {
        let report = report(&[1, 2, 3], &[], &[(2, 5000), (3, 5000)]);
        assert_eq!(next_step(4, 1, &report, &members(3), |id, _| id != 2), None);
    }
}
