//! The order of one shard's requests on one pipeline.
//!
//! Requests of a shard take effect in the order sent. Writes go to the shard's executor, which keeps the order
//! in which it gets them, so they need not wait for each other. Reads are served beside the executor, so that
//! - a read goes there only while no write of its lane is under way; otherwise it joins the writes in the
//!   executor, which sees what they did;
//! - a write waits until the reads under way have been answered.
//!
//! Where another node leads the shard, the lane turns to it once nothing is under way here, and that node keeps
//! the order. Where no node leads, the lane pauses.

use std::collections::VecDeque;
use std::sync::Arc;

/// How a request touches the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Where a request that runs on this node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Concurrently with other reads.
    Beside,
    /// In the shard's executor.
    Executor,
}

/// What to do with a request now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<T> {
    Run(Place, T),
    /// Send it to the leader at that address.
    Relay(Arc<str>, T),
}

/// The state of one shard's requests on one pipeline. Requests are numbered in the order sent.
#[derive(Debug)]
pub(super) struct Lane<T> {
    /// None: this node.
    leader: Option<Arc<str>>,
    reads: usize,
    commands: usize,
    waiting: VecDeque<(Access, T)>,
    /// Until somebody looks for a leader again.
    paused: bool,
    /// Refused because this node does not lead; they go first, in the order sent.
    refused: Vec<(u64, Access, T)>,
    /// The last request that was answered here.
    answered: Option<u64>,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Lane {
            leader: None,
            reads: 0,
            commands: 0,
            waiting: VecDeque::new(),
            paused: false,
            refused: Vec::new(),
            answered: None,
        }
    }
}

impl<T> Lane<T> {
    /// Adds the next request.
    pub(super) fn arrive(&mut self, access: Access, request: T) {
        self.waiting.push_back((access, request));
    }

    /// The next request that may go now.
    pub(super) fn next(&mut self) -> Option<Step<T>> {
        if self.paused {
            return None;
        }
        let idle = self.reads + self.commands == 0;
        if !self.refused.is_empty() {
            if !idle {
                return None;
            }
            self.refused.sort_by_key(|(number, ..)| *number);
            for (_, access, request) in self.refused.drain(..).rev() {
                self.waiting.push_front((access, request));
            }
        }
        let (access, _) = self.waiting.front()?;
        let place = match (&self.leader, access) {
            (Some(_), _) if idle => None,
            (Some(_), _) => return None,
            (None, Access::Read) if self.commands == 0 => Some(Place::Beside),
            (None, Access::Write) if self.reads > 0 => return None,
            (None, _) => Some(Place::Executor),
        };
        let (_, request) = self.waiting.pop_front()?;
        match place {
            Some(Place::Beside) => self.reads += 1,
            Some(Place::Executor) => self.commands += 1,
            None => return self.leader.clone().map(|leader| Step::Relay(leader, request)),
        }
        place.map(|place| Step::Run(place, request))
    }

    /// A request that ran here is answered.
    pub(super) fn answered(&mut self, place: Place, number: u64) {
        self.leave(place);
        self.answered = self.answered.max(Some(number));
    }

    /// A request that ran here was refused, untouched, because the node at `leader` leads, and goes there; or
    /// because no node leads, and the lane pauses. Gives the request back where a later one has been answered
    /// already: sending it now would turn their order around.
    pub(super) fn refused(
        &mut self,
        place: Place,
        number: u64,
        access: Access,
        request: T,
        leader: Option<Arc<str>>,
    ) -> Result<(), T> {
        self.leave(place);
        if self.answered > Some(number) {
            return Err(request);
        }
        self.paused = leader.is_none();
        self.leader = leader;
        self.refused.push((number, access, request));
        Ok(())
    }

    /// The leader that requests were relayed to refused one or cannot be reached: this node, asked next, knows
    /// who leads now.
    pub(super) fn forget_leader(&mut self) {
        self.leader = None;
    }

    /// Ends a pause.
    pub(super) fn resume(&mut self) {
        self.paused = false;
    }

    fn leave(&mut self, place: Place) {
        match place {
            Place::Beside => self.reads -= 1,
            Place::Executor => self.commands -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(requests: &[(Access, u64)]) -> Lane<u64> {
        let mut lane = Lane::default();
        for (access, number) in requests {
            lane.arrive(*access, *number);
        }
        lane
    }

    fn steps(lane: &mut Lane<u64>) -> Vec<Step<u64>> {
        std::iter::from_fn(|| lane.next()).collect()
    }

    use Access::{Read, Write};
    use Place::{Beside, Executor};
    use Step::{Relay, Run};

    #[test]
    fn writes_do_not_wait_for_each_other() {
        let mut lane = lane(&[(Write, 1), (Write, 2), (Write, 3)]);
        assert_eq!(steps(&mut lane), [Run(Executor, 1), Run(Executor, 2), Run(Executor, 3)]);
    }

    #[test]
    fn reads_alone_run_beside_the_executor() {
        let mut lane = lane(&[(Read, 1), (Read, 2)]);
        assert_eq!(steps(&mut lane), [Run(Beside, 1), Run(Beside, 2)]);
    }

    #[test]
    fn a_read_after_a_write_joins_it_in_the_executor() {
        let mut lane = lane(&[(Write, 1), (Read, 2), (Write, 3)]);
        assert_eq!(steps(&mut lane), [Run(Executor, 1), Run(Executor, 2), Run(Executor, 3)]);
    }

    #[test]
    fn a_write_after_a_read_waits_for_it_and_holds_what_follows() {
        let mut lane = lane(&[(Read, 1), (Write, 2), (Read, 3)]);
        assert_eq!(steps(&mut lane), [Run(Beside, 1)]);
        lane.answered(Beside, 1);
        assert_eq!(steps(&mut lane), [Run(Executor, 2), Run(Executor, 3)]);
    }

    #[test]
    fn refused_requests_go_to_the_leader_first_and_in_order() {
        let mut lane = lane(&[(Write, 1), (Write, 2)]);
        assert_eq!(steps(&mut lane).len(), 2);
        lane.arrive(Write, 3);
        assert_eq!(lane.refused(Executor, 2, Write, 2, Some("b".into())), Ok(()));
        assert_eq!(steps(&mut lane), [], "1 is under way here");
        assert_eq!(lane.refused(Executor, 1, Write, 1, Some("b".into())), Ok(()));
        lane.arrive(Read, 4);
        let relayed = |number| Relay("b".into(), number);
        assert_eq!(steps(&mut lane), [1, 2].map(relayed).into_iter().chain([3, 4].map(relayed)).collect::<Vec<_>>());
    }

    #[test]
    fn a_refused_request_is_not_sent_after_a_later_one_took_effect() {
        let mut lane = lane(&[(Write, 1), (Write, 2)]);
        assert_eq!(steps(&mut lane).len(), 2);
        lane.answered(Executor, 2);
        assert_eq!(lane.refused(Executor, 1, Write, 1, Some("b".into())), Err(1));
    }

    #[test]
    fn without_a_leader_requests_wait_and_keep_their_order() {
        let mut lane = lane(&[(Write, 1), (Write, 2)]);
        assert_eq!(steps(&mut lane).len(), 2);
        assert_eq!(lane.refused(Executor, 1, Write, 1, None), Ok(()));
        assert_eq!(lane.refused(Executor, 2, Write, 2, None), Ok(()));
        lane.arrive(Write, 3);
        assert_eq!(steps(&mut lane), []);
        lane.resume();
        assert_eq!(steps(&mut lane), [Run(Executor, 1), Run(Executor, 2), Run(Executor, 3)]);
    }

    #[test]
    fn a_leader_that_refuses_is_forgotten() {
        let mut lane = lane(&[(Write, 1)]);
        assert_eq!(steps(&mut lane).len(), 1);
        assert_eq!(lane.refused(Executor, 1, Write, 1, Some("b".into())), Ok(()));
        assert_eq!(steps(&mut lane), [Relay("b".into(), 1)]);
        lane.forget_leader();
        lane.arrive(Write, 2);
        assert_eq!(steps(&mut lane), [Run(Executor, 2)]);
    }
}
