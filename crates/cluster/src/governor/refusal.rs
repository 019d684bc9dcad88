//! What a caller is told of a call that may not run.

use std::time::Duration;

use cirrus_proto::{Failure, Reason};
use cirrus_replication::wall_clock;

use super::Called;
use super::breaker::Suspension;
use super::library::Refusal;

/// When to ask again where as many calls run as may: most end sooner.
const BUSY_DELAY: Duration = Duration::from_millis(20);

impl Refusal {
    pub(super) fn reason(&self) -> Reason {
        match self {
            Refusal::Suspended(_) => Reason::ProcedureSuspended,
            Refusal::Busy { .. } => Reason::LibraryBusy,
            Refusal::Spent { .. } => Reason::LibraryBudgetExceeded,
        }
    }

    pub(super) fn into_failure(self, called: &Called<'_>) -> Failure {
        let Called { library, version, function, .. } = *called;
        let reason = self.reason();
        let failure = match self {
            Refusal::Suspended(Suspension { kills, remaining }) => {
                let problem = format!(
                    "{library}.{function} is suspended on this node, since {kills} of its calls were killed; one is \
                     let through in {} ms",
                    remaining.as_millis()
                );
                let failure = Failure::new(reason, problem).with("version", version).with("kills", kills);
                wait(failure, remaining)
            }
            Refusal::Busy { limit } => {
                let problem = format!("{library} has {limit} calls running on this node, its limit");
                Failure::new(reason, problem).with("limit", limit).retry_after(BUSY_DELAY)
            }
            Refusal::Spent { limit_percent, wait: until } => {
                let problem = format!(
                    "{library} has used up its {limit_percent} percent of one core on this node; there is more in \
                     {} ms",
                    until.as_millis()
                );
                wait(Failure::new(reason, problem).with("limit", limit_percent), until)
            }
        };
        failure.with("library", library).with("function", function)
    }
}

fn wait(failure: Failure, delay: Duration) -> Failure {
    let delay = delay.max(Duration::from_millis(1));
    failure.with("until_ms", wall_clock().now_ms + delay.as_millis() as u64).retry_after(delay)
}
