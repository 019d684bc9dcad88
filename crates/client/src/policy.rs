//! Whether and where a failed attempt is sent again: pure decisions, no I/O.
//!
//! | attempt ended with | reads, and writes with a request id | writes without one |
//! | --- | --- | --- |
//! | never sent (connect failed, stream refused) | elsewhere | elsewhere |
//! | sent, no answer in time or the connection broke | elsewhere | give up, outcome unknown |
//! | advice `FixRequest`, `Report` | give up | give up |
//! | advice `Retry` | again after a pause | again after a pause |
//! | advice `RetryElsewhere` | the leader it names, or elsewhere | the same |
//! | advice `OutcomeUnknown` | elsewhere | give up, outcome unknown |
//! | a status that is not Cirrus' own | by its code, as below | give up |

use std::time::Duration;

use cirrus_proto::{Advice, Failure, Reason};
use rand::Rng as _;
use tonic::{Code, Status};

use crate::ClientError;

/// How an attempt ended, other than with an answer.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// The request never left for the node, so nothing happened.
    NotSent(String),
    /// The request was sent and the connection ended before the answer.
    Lost(String),
    /// The request was sent and its time passed before the answer.
    TimedOut(Duration),
    /// The cluster's own answer.
    Failed(Failure),
    /// An answer of another origin: a proxy, tonic itself, a newer server's unknown reason.
    Foreign(Code, String),
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    GiveUp,
    /// To the node that leads as far as the router knows, which may be the same one.
    Again,
    /// To another node than the last one.
    Elsewhere,
}

/// Decides about a failed attempt. `resendable`: sending the request twice does no harm.
pub(crate) fn decide(trouble: &Trouble, resendable: bool) -> Decision {
    let if_resendable = if resendable { Decision::Elsewhere } else { Decision::GiveUp };
    match trouble {
        Trouble::NotSent(_) => Decision::Elsewhere,
        Trouble::Lost(_) | Trouble::TimedOut(_) => if_resendable,
        Trouble::Failed(failure) => match failure.advice() {
            Advice::FixRequest | Advice::Report => Decision::GiveUp,
            Advice::Retry => match failure.reason {
                // Another node may know more.
                Reason::NoLeader | Reason::NotReady => Decision::Elsewhere,
                _ => Decision::Again,
            },
            Advice::RetryElsewhere if failure.metadata.contains_key("leader") => Decision::Again,
            Advice::RetryElsewhere => Decision::Elsewhere,
            Advice::OutcomeUnknown => if_resendable,
        },
        Trouble::Foreign(code, _) => match code {
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded => if_resendable,
            _ => Decision::GiveUp,
        },
    }
}

impl Trouble {
    /// What a status that ended an attempt stands for.
    pub(crate) fn from_status(status: &Status) -> Trouble {
        if let Some(failure) = Failure::from_status(status) {
            return Trouble::Failed(failure);
        }
        // A status made of a transport error carries it as its source; one that a server sent does not.
        let mut source = std::error::Error::source(status);
        while let Some(error) = source {
            if let Some(error) = error.downcast_ref::<h2::Error>() {
                // RFC 9113, section 8.7: a refused stream was not processed in any way.
                return match error.reason() {
                    Some(h2::Reason::REFUSED_STREAM) => Trouble::NotSent(error.to_string()),
                    _ => Trouble::Lost(error.to_string()),
                };
            }
            source = error.source();
        }
        Trouble::Foreign(status.code(), status.message().to_owned())
    }

    /// Whether the attempt, if it was a mutating request, may have taken effect.
    pub(crate) fn outcome_unknown(&self) -> bool {
        match self {
            Trouble::NotSent(_) => false,
            Trouble::Lost(_) | Trouble::TimedOut(_) => true,
            // INTERNAL may be said of a request whose proposal is on its way.
            Trouble::Failed(failure) => matches!(failure.advice(), Advice::OutcomeUnknown | Advice::Report),
            Trouble::Foreign(code, _) => !matches!(
                code,
                Code::InvalidArgument
                    | Code::NotFound
                    | Code::PermissionDenied
                    | Code::Unauthenticated
                    | Code::FailedPrecondition
                    | Code::Unimplemented
            ),
        }
    }

    /// Whether the shard map may be out of date.
    pub(crate) fn casts_doubt_on_the_map(&self) -> bool {
        match self {
            Trouble::NotSent(_) | Trouble::Lost(_) | Trouble::TimedOut(_) => true,
            Trouble::Failed(failure) => matches!(
                failure.reason,
                Reason::NotLeader
                    | Reason::NoLeader
                    | Reason::NotReady
                    | Reason::ShuttingDown
                    | Reason::OutcomeUnknown
                    | Reason::DeadlineExceeded
            ),
            Trouble::Foreign(code, _) => *code == Code::Unavailable,
        }
    }

    /// The gRPC address of the shard's leader, where the answer named it.
    pub(crate) fn leader(&self) -> Option<&str> {
        match self {
            Trouble::Failed(failure) => failure.metadata.get("leader").map(String::as_str),
            _ => None,
        }
    }

    /// How long the answer asked to wait.
    pub(crate) fn retry_after(&self) -> Duration {
        match self {
            Trouble::Failed(failure) => failure.retry_after.unwrap_or_default(),
            _ => Duration::ZERO,
        }
    }

    /// Whether the next attempt has a good chance without a pause: it goes to a node that the answer named,
    /// or away from one that could not be reached.
    pub(crate) fn allows_haste(&self) -> bool {
        matches!(self, Trouble::NotSent(_)) || self.leader().is_some()
    }

    /// The error for the caller. `outcome_unknown` covers all attempts.
    pub(crate) fn into_error(self, node: &str, outcome_unknown: bool) -> ClientError {
        let mut error = match self {
            Trouble::NotSent(problem) => {
                ClientError::new(Code::Unavailable, format!("node {node} is unreachable: {problem}"))
            }
            Trouble::Lost(problem) => {
                ClientError::new(Code::Unavailable, format!("the connection to node {node} broke: {problem}"))
            }
            Trouble::TimedOut(limit) => ClientError::new(
                Code::DeadlineExceeded,
                format!("node {node} did not answer within {} ms", limit.as_millis()),
            ),
            Trouble::Failed(failure) => ClientError::from(failure),
            Trouble::Foreign(code, message) => ClientError::new(code, message),
        };
        error.outcome_unknown = outcome_unknown;
        error
    }
}

/// Pauses between attempts: exponential with full jitter on the upper half, so that clients that failed
/// together do not come back together.
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
    hasty_left: u32,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        // Two, so that a hint that is itself out of date costs no pause either.
        Backoff { next: min, max, hasty_left: 2 }
    }

    /// The pause before the next attempt.
    pub(crate) fn pause(&mut self, trouble: &Trouble) -> Duration {
        if trouble.allows_haste() && self.hasty_left > 0 {
            self.hasty_left -= 1;
            return Duration::ZERO;
        }
        let full = self.next.min(self.max);
        self.next = full * 2;
        let jittered = full.mul_f64(rand::rng().random_range(0.5..=1.0));
        jittered.max(trouble.retry_after())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(reason: Reason) -> Trouble {
        Trouble::Failed(Failure::new(reason, ""))
    }

    #[test]
    fn what_may_be_sent_again_and_where() {
        use Decision::{Again, Elsewhere, GiveUp};
        let hint = Trouble::Failed(Failure::new(Reason::NotLeader, "").with("leader", "a:1"));
        // Trouble, with a request id or read, without.
        let table = [
            (Trouble::NotSent(String::new()), Elsewhere, Elsewhere),
            (Trouble::Lost(String::new()), Elsewhere, GiveUp),
            (Trouble::TimedOut(Duration::ZERO), Elsewhere, GiveUp),
            (failed(Reason::KeyEmpty), GiveUp, GiveUp),
            (failed(Reason::ConditionFailed), GiveUp, GiveUp),
            (failed(Reason::RequestIdReused), GiveUp, GiveUp),
            (failed(Reason::SessionFull), GiveUp, GiveUp),
            (failed(Reason::ProcedureFailed), GiveUp, GiveUp),
            (failed(Reason::Internal), GiveUp, GiveUp),
            (failed(Reason::MailboxFull), Again, Again),
            (failed(Reason::TooManyRequests), Again, Again),
            (failed(Reason::DeadlineExceeded), Again, Again),
            (failed(Reason::NoLeader), Elsewhere, Elsewhere),
            (failed(Reason::NotReady), Elsewhere, Elsewhere),
            (failed(Reason::NotLeader), Elsewhere, Elsewhere),
            (hint, Again, Again),
            (failed(Reason::ShuttingDown), Elsewhere, Elsewhere),
            (failed(Reason::OutcomeUnknown), Elsewhere, GiveUp),
            (Trouble::Foreign(Code::Unavailable, String::new()), Elsewhere, GiveUp),
            (Trouble::Foreign(Code::DeadlineExceeded, String::new()), Elsewhere, GiveUp),
            (Trouble::Foreign(Code::Unimplemented, String::new()), GiveUp, GiveUp),
            (Trouble::Foreign(Code::Internal, String::new()), GiveUp, GiveUp),
        ];
        for (trouble, resendable, once_only) in table {
            assert_eq!(decide(&trouble, true), resendable, "{trouble:?}");
            assert_eq!(decide(&trouble, false), once_only, "{trouble:?}");
        }
    }

    #[test]
    fn nothing_whose_outcome_is_unknown_is_sent_again_without_a_request_id() {
        for reason in Reason::ALL {
            let trouble = failed(*reason);
            if trouble.outcome_unknown() {
                assert_eq!(decide(&trouble, false), Decision::GiveUp, "{reason:?}");
            }
        }
        for code in 0..=16 {
            let trouble = Trouble::Foreign(Code::from_i32(code), String::new());
            assert_eq!(decide(&trouble, false), Decision::GiveUp, "{trouble:?}");
        }
    }

    #[test]
    fn statuses_are_told_apart_by_their_origin() {
        let own = Status::from(Failure::new(Reason::NotLeader, "go away").with("leader", "a:1"));
        assert_eq!(Trouble::from_status(&own).leader(), Some("a:1"));
        let broken = Status::from_error(Box::new(h2::Error::from(h2::Reason::INTERNAL_ERROR)));
        assert!(matches!(Trouble::from_status(&broken), Trouble::Lost(_)));
        let refused = Status::from_error(Box::new(h2::Error::from(h2::Reason::REFUSED_STREAM)));
        assert!(matches!(Trouble::from_status(&refused), Trouble::NotSent(_)));
        assert!(matches!(Trouble::from_status(&Status::unavailable("proxy")), Trouble::Foreign(Code::Unavailable, _)));
    }

    #[test]
    fn pauses_grow_to_their_bound_and_honour_the_server() {
        let (min, max) = (Duration::from_millis(4), Duration::from_millis(20));
        let mut backoff = Backoff::new(min, max);
        let no_leader = failed(Reason::NoLeader);
        for expected_ms in [4u64, 8, 16, 20, 20, 20] {
            let pause = backoff.pause(&no_leader);
            let full = Duration::from_millis(expected_ms);
            assert!(pause >= full / 2 && pause <= full, "{pause:?} of {full:?}");
        }
        let busy = Trouble::Failed(Failure::new(Reason::MailboxFull, "").retry_after(Duration::from_millis(70)));
        assert_eq!(backoff.pause(&busy), Duration::from_millis(70));
    }

    #[test]
    fn haste_is_limited_so_that_hints_in_a_circle_do_not_spin() {
        let mut backoff = Backoff::new(Duration::from_millis(4), Duration::from_millis(20));
        let hint = Trouble::Failed(Failure::new(Reason::NotLeader, "").with("leader", "a:1"));
        assert_eq!(backoff.pause(&hint), Duration::ZERO);
        assert_eq!(backoff.pause(&hint), Duration::ZERO);
        assert!(backoff.pause(&hint) > Duration::ZERO);
    }
}
