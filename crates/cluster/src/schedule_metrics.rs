//! What schedules did: metrics, and lines in the log for ticks that failed.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use cirrus_proto::internal::v1::ScheduleTurn;
use cirrus_proto::v1::{Schedule, ScheduleRun};
use metrics::Unit;

/// Most schedules of a node that metrics tell apart; the rest are counted together.
const SCHEDULES_MAX: usize = 256;

/// What those beyond the limit are counted as.
const OTHER: &str = "other";

/// How often a schedule that goes on failing gets a line in the log.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Tells what the metrics of this module mean.
pub(crate) fn describe() {
    metrics::describe_counter!("cirrus_schedule_runs_total", "Ticks of schedules that ran, by schedule");
    metrics::describe_counter!("cirrus_schedule_failures_total", "Ticks that failed, by schedule and reason");
    metrics::describe_counter!("cirrus_schedule_skipped_total", "Ticks that were missed and skipped, by schedule");
    metrics::describe_histogram!(
        "cirrus_schedule_lateness_seconds",
        Unit::Seconds,
        "From when a tick was due to its run"
    );
}

/// One node's.
#[derive(Default)]
pub(crate) struct ScheduleMetrics {
    /// Those that metrics tell apart.
    known: HashSet<String>,
    /// Schedules that fail, by id.
    failing: HashMap<u64, Failing>,
}

struct Failing {
    reason: String,
    logged_at: Instant,
    /// Since then.
    failures: u64,
}

impl ScheduleMetrics {
    /// Takes note of what a turn did. Where its reply was lost with the leadership, nobody does: these counters are
    /// for graphs, and the shard's own are exact.
    pub(crate) fn record(&mut self, schedule: &Schedule, turn: &ScheduleTurn) {
        let Some(run) = &turn.run else { return };
        let label = self.label(&schedule.name);
        metrics::counter!("cirrus_schedule_runs_total", "schedule" => label.clone()).increment(1);
        if turn.skipped > 0 {
            metrics::counter!("cirrus_schedule_skipped_total", "schedule" => label.clone()).increment(turn.skipped);
        }
        let late = Duration::from_millis(run.ran_at_ms.saturating_sub(run.due_at_ms));
        metrics::histogram!("cirrus_schedule_lateness_seconds").record(late);
        match &run.failure {
            None => {
                if self.failing.remove(&schedule.id).is_some() {
                    tracing::info!(schedule = schedule.name, tick = run.tick, "a schedule no longer fails");
                }
            }
            Some(failure) => {
                let labels = [("schedule", label), ("reason", failure.reason.clone())];
                metrics::counter!("cirrus_schedule_failures_total", &labels).increment(1);
                self.log_failure(schedule, run, &failure.reason, &failure.message);
            }
        }
    }

    /// Forgets schedules that this node has nothing to do with any more.
    pub(crate) fn retain(&mut self, is_there: impl Fn(u64) -> bool) {
        self.failing.retain(|id, _| is_there(*id));
    }

    fn label(&mut self, name: &str) -> String {
        if self.known.contains(name) || self.known.len() < SCHEDULES_MAX && self.known.insert(name.to_owned()) {
            return name.to_owned();
        }
        OTHER.to_owned()
    }

    /// The first failure of a kind at once, then one line a minute.
    fn log_failure(&mut self, schedule: &Schedule, run: &ScheduleRun, reason: &str, message: &str) {
        let now = Instant::now();
        let failures = match self.failing.get_mut(&schedule.id) {
            Some(failing) if failing.reason == reason && now - failing.logged_at < LOG_INTERVAL => {
                failing.failures += 1;
                return;
            }
            Some(failing) => failing.failures,
            None => 0,
        };
        let failing = Failing { reason: reason.to_owned(), logged_at: now, failures: 0 };
        self.failing.insert(schedule.id, failing);
        tracing::warn!(
            schedule = schedule.name,
            procedure = schedule.procedure,
            tick = run.tick,
            reason,
            message,
            failures_before = failures,
            "a scheduled call failed"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_beyond_the_limit_are_counted_together() {
        let mut metrics = ScheduleMetrics::default();
        for number in 0..SCHEDULES_MAX {
            assert_eq!(metrics.label(&format!("s{number}")), format!("s{number}"));
        }
        assert_eq!(metrics.label("one-more"), OTHER);
        assert_eq!(metrics.label("s7"), "s7");
    }

    #[test]
    fn a_schedule_that_goes_on_failing_is_not_logged_each_time() {
        let mut metrics = ScheduleMetrics::default();
        let schedule = Schedule { id: 1, name: "flush".to_owned(), ..Default::default() };
        let turn = |reason: Option<&str>| {
            let failure =
                reason.map(|reason| cirrus_proto::v1::Failure { reason: reason.to_owned(), ..Default::default() });
            ScheduleTurn { run: Some(ScheduleRun { failure, ..Default::default() }), ..Default::default() }
        };
        let kept_quiet = |metrics: &ScheduleMetrics| metrics.failing.get(&1).map(|failing| failing.failures);
        for (reason, expected) in [
            (Some("CALL_TIMEOUT"), Some(0)),
            (Some("CALL_TIMEOUT"), Some(1)),
            (Some("CALL_TIMEOUT"), Some(2)),
            (Some("PROCEDURE_FAILED"), Some(0)),
            (None, None),
            (Some("PROCEDURE_FAILED"), Some(0)),
        ] {
            metrics.record(&schedule, &turn(reason));
            assert_eq!(kept_quiet(&metrics), expected);
        }
        metrics.retain(|id| id != 1);
        assert_eq!(kept_quiet(&metrics), None);
    }
}
