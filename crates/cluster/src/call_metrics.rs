//! What calls cost, by library and procedure: metrics, and a line in the log for each slow call.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use cirrus_procedures::CallOutcome;
use cirrus_proto::v1::CallRequest;
use cirrus_proto::{Failure, Reason};
use metrics::{Counter, Histogram, Unit};
use parking_lot::Mutex;

/// Most procedures of a node that metrics tell apart; the rest are counted together. Each is some twenty series.
const PROCEDURES_MAX: usize = 256;

/// What those beyond the limit are counted as.
const OTHER: &str = "other";

/// A call that takes longer gets a line in the log: it holds its shard up.
const SLOW: Duration = Duration::from_millis(20);

/// The procedures that this node's metrics tell apart.
#[derive(Default)]
pub(crate) struct KnownProcedures(Mutex<HashSet<(String, String)>>);

impl KnownProcedures {
    /// Whether the procedure is one of them, or still can be.
    fn admit(&self, library: &str, function: &str) -> bool {
        let mut known = self.0.lock();
        let procedure = (library.to_owned(), function.to_owned());
        known.contains(&procedure) || (known.len() < PROCEDURES_MAX && known.insert(procedure))
    }

    /// The labels of a procedure's metrics.
    fn labels(&self, library: &str, function: &str) -> [(&'static str, String); 2] {
        let (library, function) = if self.admit(library, function) { (library, function) } else { (OTHER, OTHER) };
        [("library", library.to_owned()), ("procedure", function.to_owned())]
    }

    /// A call was refused before it ran.
    pub(crate) fn count_refused(&self, library: &str, function: &str, reason: Reason) {
        let [library, function] = self.labels(library, function);
        let labels = [library, function, ("reason", reason.as_str().to_owned())];
        metrics::counter!("cirrus_calls_refused_total", &labels).increment(1);
    }

    /// A procedure was suspended.
    pub(crate) fn count_suspended(&self, library: &str, function: &str) {
        let labels = self.labels(library, function);
        metrics::counter!("cirrus_procedure_suspensions_total", &labels).increment(1);
    }
}

/// Tells what the metrics of this module mean.
pub(crate) fn describe() {
    metrics::describe_counter!("cirrus_calls_total", "Calls evaluated, by library and procedure");
    metrics::describe_counter!("cirrus_call_failures_total", "Calls that failed, by library, procedure and reason");
    metrics::describe_histogram!("cirrus_call_seconds", Unit::Seconds, "Evaluating one call");
    metrics::describe_histogram!("cirrus_call_cpu_seconds", Unit::Seconds, "CPU time of one successful call");
    metrics::describe_counter!("cirrus_calls_refused_total", "Calls refused before they ran, by procedure and reason");
    metrics::describe_counter!(
        "cirrus_procedure_suspensions_total",
        "Times that a procedure was suspended, since its calls were killed again and again"
    );
    metrics::describe_gauge!("cirrus_procedures_suspended", "Procedures that are suspended");
    metrics::describe_counter!("cirrus_call_write_bytes_total", Unit::Bytes, "Keys and values that calls wrote");
}

/// One shard's meters.
pub(crate) struct CallMetrics {
    known: Arc<KnownProcedures>,
    /// By library and function.
    meters: HashMap<String, HashMap<String, Meters>>,
}

struct Meters {
    library: String,
    function: String,
    calls: Counter,
    seconds: Histogram,
    cpu_seconds: Histogram,
    write_bytes: Counter,
}

impl Meters {
    fn new(library: &str, function: &str) -> Self {
        let labels = [("library", library.to_owned()), ("procedure", function.to_owned())];
        Meters {
            library: library.to_owned(),
            function: function.to_owned(),
            calls: metrics::counter!("cirrus_calls_total", &labels),
            seconds: metrics::histogram!("cirrus_call_seconds", &labels),
            cpu_seconds: metrics::histogram!("cirrus_call_cpu_seconds", &labels),
            write_bytes: metrics::counter!("cirrus_call_write_bytes_total", &labels),
        }
    }
}

impl CallMetrics {
    pub(crate) fn new(known: Arc<KnownProcedures>) -> Self {
        CallMetrics { known, meters: HashMap::new() }
    }

    /// Takes note of a call of a library that there is. A function that it has not is none of its procedures: clients
    /// choose what they ask for.
    pub(crate) fn record(
        &mut self,
        (library, function): (&str, &str),
        request: &CallRequest,
        outcome: &Result<CallOutcome, Failure>,
        took: Duration,
        write_bytes: usize,
    ) {
        let exists = !matches!(outcome, Err(failure) if failure.reason == Reason::FunctionNotFound);
        let meters = self.meters_of(library, if exists { function } else { OTHER });
        meters.calls.increment(1);
        meters.seconds.record(took);
        match outcome {
            Ok(outcome) => {
                meters.cpu_seconds.record(outcome.cpu);
                meters.write_bytes.increment(write_bytes as u64);
            }
            Err(failure) => {
                let Meters { library, function, .. } = meters;
                let labels = [
                    ("library", library.clone()),
                    ("procedure", function.clone()),
                    ("reason", failure.reason.as_str().to_owned()),
                ];
                metrics::counter!("cirrus_call_failures_total", &labels).increment(1);
            }
        }
        if took >= SLOW {
            // Sizes only: what users store is not for the log.
            tracing::warn!(
                procedure = request.procedure,
                took_ms = took.as_millis() as u64,
                key_bytes = request.key.len(),
                args = request.args.len(),
                args_bytes = request.args.iter().map(bytes::Bytes::len).sum::<usize>(),
                write_bytes,
                outcome = outcome.as_ref().map_or_else(|failure| failure.reason.as_str(), |_| "ok"),
                "a slow call"
            );
        }
    }

    fn meters_of(&mut self, library: &str, function: &str) -> &Meters {
        let is_known = |meters: &HashMap<String, HashMap<String, Meters>>| {
            meters.get(library).is_some_and(|functions| functions.contains_key(function))
        };
        // Not by `entry`: no name is copied for a procedure that is known.
        if !is_known(&self.meters) {
            let (library, function) = match self.known.admit(library, function) {
                true => (library, function),
                false => (OTHER, OTHER),
            };
            let functions = self.meters.entry(library.to_owned()).or_default();
            return functions.entry(function.to_owned()).or_insert_with(|| Meters::new(library, function));
        }
        &self.meters[library][function]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn procedures_beyond_the_limit_are_counted_together() {
        let known = Arc::new(KnownProcedures::default());
        let mut one = CallMetrics::new(known.clone());
        for number in 0..PROCEDURES_MAX + 50 {
            one.meters_of("library", &format!("f{number}"));
        }
        assert_eq!(one.meters.values().map(HashMap::len).sum::<usize>(), PROCEDURES_MAX + 1);
        assert_eq!(one.meters_of("library", "f7").function, "f7");
        // Another shard of the node shares the limit, and knows the same procedures.
        let mut two = CallMetrics::new(known);
        assert_eq!(two.meters_of("library", "f7").function, "f7");
        assert_eq!(two.meters_of("library", "new").library, OTHER);
    }
}
