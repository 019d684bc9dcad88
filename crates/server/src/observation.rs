//! Metrics: the process's recorder, and what is recorded of each request.
//!
//! Handles are looked up once: a request on its way costs two atomic operations and no allocation.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use metrics::{Counter, Histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tonic::Code;

/// Seconds: from a read in memory to the longest deadline.
const SECONDS_BUCKETS: &[f64] = &[
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    60.0,
];

/// Bytes: from a counter to a snapshot.
const BYTES_BUCKETS: &[f64] =
    &[64.0, 256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];

/// Samples wait in memory until they are folded into buckets; without scrapes, this often.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

static RECORDER: OnceLock<Result<PrometheusHandle, String>> = OnceLock::new();

/// The process's recorder, installed by the first node that starts in it.
pub(crate) fn recorder() -> Result<&'static PrometheusHandle, String> {
    RECORDER.get_or_init(|| install().map_err(|error| error.to_string())).as_ref().map_err(String::clone)
}

fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), BYTES_BUCKETS)?
        .install_recorder()?;
    metrics::describe_counter!("cirrus_requests_total", "Requests answered, by rpc and gRPC status code");
    metrics::describe_histogram!("cirrus_request_seconds", "From a request's arrival to its answer, by rpc");
    metrics::describe_gauge!("cirrus_requests_in_flight", "Requests under way, by kind");
    metrics::describe_gauge!("cirrus_connections", "Open connections, by listener");
    metrics::describe_counter!("cirrus_connections_refused_total", "Connections closed at once: too many are open");
    metrics::describe_counter!("cirrus_connections_silent_total", "Connections closed: the peer sent nothing");
    Ok(handle)
}

/// Folds samples into buckets for as long as the process runs.
pub(crate) async fn upkeep(handle: PrometheusHandle) {
    let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        interval.tick().await;
        handle.run_upkeep();
    }
}

/// The metrics of one rpc.
pub(crate) struct Rpc {
    name: &'static str,
    seconds: Histogram,
    codes: [OnceLock<Counter>; CODE_NAMES.len()],
}

impl Rpc {
    /// The metrics of the rpc of that name, such as "KeyValue/Get".
    pub(crate) fn new(name: &'static str) -> Rpc {
        Rpc {
            name,
            seconds: metrics::histogram!("cirrus_request_seconds", "rpc" => name),
            codes: std::array::from_fn(|_| OnceLock::new()),
        }
    }

    /// The label.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Begins a request. Where its answer is never made (the client went away), it counts as cancelled.
    pub(crate) fn begin(&self) -> Observation<'_> {
        Observation { rpc: self, started: Instant::now(), answered: false }
    }

    /// Records an answer.
    pub(crate) fn record(&self, code: Code, took: Duration) {
        let index = code as usize;
        self.codes[index]
            .get_or_init(|| metrics::counter!("cirrus_requests_total", "rpc" => self.name, "code" => CODE_NAMES[index]))
            .increment(1);
        self.seconds.record(took.as_secs_f64());
    }
}

/// A request under way.
pub(crate) struct Observation<'a> {
    rpc: &'a Rpc,
    started: Instant,
    answered: bool,
}

impl Observation<'_> {
    /// When the request began.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Records the answer.
    pub(crate) fn answer(mut self, code: Code) {
        self.answered = true;
        self.rpc.record(code, self.started.elapsed());
    }
}

impl Drop for Observation<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.rpc.record(Code::Cancelled, self.started.elapsed());
        }
    }
}

/// The names of `google.rpc.Code`, by number.
const CODE_NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The name of a status code, as `google.rpc.Code` spells it.
#[cfg(test)]
pub(crate) fn code_name(code: Code) -> &'static str {
    CODE_NAMES[code as usize]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_answer_is_counted_once_by_its_code() {
        let handle = recorder().unwrap();
        let rpc = Rpc::new("Test/Observed");
        rpc.begin().answer(Code::Ok);
        rpc.begin().answer(Code::Unavailable);
        drop(rpc.begin());
        handle.run_upkeep();
        let text = handle.render();
        for code in ["OK", "UNAVAILABLE", "CANCELLED"] {
            let line = format!("cirrus_requests_total{{rpc=\"Test/Observed\",code=\"{code}\"}} 1");
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
        assert!(text.contains("cirrus_request_seconds_count{rpc=\"Test/Observed\"} 3"), "{text}");
        assert!(text.contains("cirrus_request_seconds_bucket{rpc=\"Test/Observed\",le=\"0.001\"}"), "{text}");
    }

    #[test]
    fn codes_are_named_by_number() {
        assert_eq!(code_name(Code::InvalidArgument), "INVALID_ARGUMENT");
        assert_eq!(code_name(Code::Unauthenticated), "UNAUTHENTICATED");
    }
}
