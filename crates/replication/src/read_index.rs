//! Linearizable reads: one quorum round serves every read of every shard that waits for it.
//!
//! Source: Ongaro's dissertation, section 6.4. A leader may answer a read from its state once it has heard,
//! after the read came in, from a quorum that still holds to it. It asks each peer once for all shards that have
//! reads waiting, and the peer answers from its newest votes without troubling the groups:
//!
//! ```text
//! reads of shards 1, 4, 7 ─► [1 in term 3, 4 in term 9, 7 in term 3] ─► each peer ─► [1, 4, 7] ─► reads go on
//! ```
//!
//! Why a vote suffices. Another leader of a later term needs votes of a quorum, which shares a member with the
//! quorum that answered. That member votes after it answered here, since a replica's vote counts from the
//! moment that it is asked to save it, before anybody learns of it. So every later leader was elected, and
//! acknowledged its first write, after the read came in.
//!
//! Why the state is new enough. A leader lets reads in once it has applied everything up to its own first entry,
//! so all that earlier leaders acknowledged; and it acknowledges its own writes once they are applied.
//!
//! A read that arrives during a round waits for the next, since a round only vouches for reads that came before it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use cirrus_proto::internal::v1 as pb;
use cirrus_proto::internal::v1::link_frame::Body;
use cirrus_proto::{Failure, Reason};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, oneshot};

use crate::executor::not_leader;
use crate::links::Links;
use crate::replication::Groups;

/// A round usually ends before the next begins, so that reads gather. One that waits for a slow peer
/// holds up the next this long.
const ROUND_HOLDS_UP_MAX: Duration = Duration::from_millis(10);
/// Rounds under way at once, at most.
const ROUNDS_IN_FLIGHT: usize = 64;

type Answer = Result<(), Failure>;

/// The node's queue of reads that wait for a round.
pub(crate) struct ReadIndex {
    /// Reads of one shard that may wait.
    bound: usize,
    waiting: Mutex<BTreeMap<u32, Vec<oneshot::Sender<Answer>>>>,
    arrived: Notify,
}

/// A shard that this node leads.
pub(crate) struct LedShard {
    pub(crate) term: u64,
    /// One set of voters; two while the membership changes. A quorum of each is needed.
    pub(crate) voters: Vec<BTreeSet<u64>>,
}

impl ReadIndex {
    pub(crate) fn new(bound: usize) -> Arc<Self> {
        Arc::new(ReadIndex { bound, waiting: Mutex::default(), arrived: Notify::new() })
    }

    /// Returns once this node has shown that it led the shard after the call began.
    pub(crate) async fn barrier(&self, shard_id: u32) -> Answer {
        let (sender, receiver) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            let reads = waiting.entry(shard_id).or_default();
            if reads.len() >= self.bound {
                let text = format!("{} reads wait for the shard, which is the limit", self.bound);
                return Err(Failure::new(Reason::MailboxFull, text)
                    .with("limit", self.bound)
                    .retry_after(Duration::from_millis(20)));
            }
            reads.push(sender);
        }
        self.arrived.notify_one();
        receiver.await.map_err(|_| Failure::new(Reason::ShuttingDown, "the node is stopping"))?
    }

    /// Runs rounds until the node's groups are gone. A round lasts at most `bound`.
    pub(crate) async fn run(self: Arc<Self>, groups: Weak<Groups>, links: Arc<Links>, bound: Duration) {
        let rounds = Arc::new(Semaphore::new(ROUNDS_IN_FLIGHT));
        let served = metrics::histogram!("cirrus_read_index_reads");
        while let Ok(permit) = rounds.clone().acquire_owned().await {
            self.arrived.notified().await;
            // What else is ready runs first, with one look at the sockets: reads that arrive together share a round.
            tokio::task::yield_now().await;
            let Some(groups) = groups.upgrade() else { return };
            let waiting = std::mem::take(&mut *self.waiting.lock());
            served.record(waiting.values().map(Vec::len).sum::<usize>() as f64);
            let round = Round::begin(&groups, links.own_node_id(), waiting);
            let links = links.clone();
            let round = tokio::spawn(async move {
                round.run(&links, bound).await;
                drop(permit);
            });
            // A round that takes longer goes on by itself.
            let _ = tokio::time::timeout(ROUND_HOLDS_UP_MAX, round).await;
        }
    }
}

/// Reads that one round serves, by shard.
struct Round {
    node_id: u64,
    open: BTreeMap<u32, Open>,
}

struct Open {
    led: LedShard,
    confirmed: BTreeSet<u64>,
    reads: Vec<oneshot::Sender<Answer>>,
}

impl Round {
    fn begin(groups: &Groups, node_id: u64, waiting: BTreeMap<u32, Vec<oneshot::Sender<Answer>>>) -> Self {
        let mut round = Round { node_id, open: BTreeMap::new() };
        for (shard_id, reads) in waiting {
            match groups.led(shard_id) {
                Some(led) => {
                    round.open.insert(shard_id, Open { led, confirmed: BTreeSet::new(), reads });
                }
                None => answer(reads, &Err(not_leader(shard_id))),
            }
        }
        let own: Vec<u32> = groups.held_by(node_id, &round.question());
        round.confirm(node_id, &own);
        round
    }

    fn question(&self) -> pb::ConfirmLeader {
        let leaderships =
            self.open.iter().map(|(shard_id, open)| pb::Leadership { shard_id: *shard_id, term: open.led.term });
        pb::ConfirmLeader { leaderships: leaderships.collect() }
    }

    /// Asks every voter, and lets a shard's reads go on as soon as a quorum has answered.
    async fn run(mut self, links: &Links, bound: Duration) {
        let voters: BTreeSet<u64> =
            self.open.values().flat_map(|open| open.led.voters.iter().flatten().copied()).collect();
        let question = self.question();
        let mut answers: FuturesUnordered<_> = voters
            .into_iter()
            .filter(|voter| *voter != self.node_id)
            .filter_map(|voter| Some((voter, links.existing(voter)?)))
            .map(|(voter, link)| {
                let body = Body::ConfirmLeader(question.clone());
                async move { (voter, link.ask(0, body, bound).await) }
            })
            .collect();
        while !self.open.is_empty()
            && let Some((voter, answered)) = answers.next().await
        {
            match answered {
                Ok(Body::ConfirmLeaderResponse(response)) => self.confirm(voter, &response.shard_ids),
                Ok(_) => tracing::warn!(voter, "an unexpected answer to a round of read index"),
                Err(down) => tracing::debug!(voter, %down, "no answer to a round of read index"),
            }
        }
        for (shard_id, open) in self.open {
            answer(open.reads, &Err(no_quorum(shard_id)));
        }
    }

    fn confirm(&mut self, voter: u64, shard_ids: &[u32]) {
        for shard_id in shard_ids {
            if let Some(open) = self.open.get_mut(shard_id) {
                open.confirmed.insert(voter);
                if is_quorum(&open.led.voters, &open.confirmed)
                    && let Some(open) = self.open.remove(shard_id)
                {
                    answer(open.reads, &Ok(()));
                }
            }
        }
    }
}

/// Whether more than half of every set of voters is among `confirmed`.
fn is_quorum(voters: &[BTreeSet<u64>], confirmed: &BTreeSet<u64>) -> bool {
    !voters.is_empty() && voters.iter().all(|set| set.intersection(confirmed).count() > set.len() / 2)
}

fn answer(reads: Vec<oneshot::Sender<Answer>>, result: &Answer) {
    for read in reads {
        // A reader that gave up no longer waits.
        let _ = read.send(result.clone());
    }
}

pub(crate) fn no_quorum(shard_id: u32) -> Failure {
    Failure::new(Reason::NoLeader, format!("the leader of shard {shard_id} reaches no quorum"))
        .retry_after(Duration::from_millis(200))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_is_more_than_half_of_every_set() {
        type Case = (&'static [&'static [u64]], &'static [u64], bool);
        let cases: [Case; 8] = [
            (&[&[1]], &[1], true),
            (&[&[1, 2, 3]], &[1], false),
            (&[&[1, 2, 3]], &[1, 3], true),
            (&[&[1, 2, 3, 4]], &[1, 3], false),
            (&[&[1, 2, 3]], &[1, 7, 8], false),
            (&[&[1, 2, 3], &[3, 4, 5]], &[1, 2, 3], false),
            (&[&[1, 2, 3], &[3, 4, 5]], &[2, 3, 4], true),
            (&[], &[1], false),
        ];
        for (voters, confirmed, expected) in cases {
            let voters: Vec<BTreeSet<u64>> = voters.iter().map(|set| set.iter().copied().collect()).collect();
            let confirmed: BTreeSet<u64> = confirmed.iter().copied().collect();
            assert_eq!(is_quorum(&voters, &confirmed), expected, "{voters:?} {confirmed:?}");
        }
    }
}
