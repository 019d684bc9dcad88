//! What clients note while they run: latencies and errors.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::report::ErrorTally;

/// An operation that did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OperationError {
    /// What errors are counted by: a reason, a status code, or the bench's own word, in capitals.
    pub(crate) kind: Cow<'static, str>,
    /// For people.
    pub(crate) message: String,
    /// How long the target asks to be left alone.
    pub(crate) retry_after: Option<Duration>,
}

impl OperationError {
    pub(crate) fn new(kind: impl Into<Cow<'static, str>>, message: impl ToString) -> Self {
        OperationError { kind: kind.into(), message: message.to_string(), retry_after: None }
    }
}

/// The moments between which operations count.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) start: Instant,
    pub(crate) end: Instant,
}

impl Window {
    pub(crate) fn after(warmup: Duration, length: Duration) -> Window {
        let start = Instant::now() + warmup;
        Window { start, end: start + length }
    }
}

/// One client's notes; merged when all have finished.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    /// Nanoseconds of what ended inside the window.
    latencies: Histogram<u32>,
    /// Successes, the warm-up's included.
    succeeded: u64,
    errors: BTreeMap<Cow<'static, str>, ErrorTally>,
    error_count: u64,
}

/// Longer latencies count as this long.
const LATENCY_NS_MAX: u64 = 600_000_000_000;
/// An error below 1 % for 15 KiB a client, so that the notes of hundreds of clients stay in the cache.
const SIGNIFICANT_DIGITS: u8 = 2;

impl Recorder {
    pub(crate) fn new() -> Recorder {
        let latencies = Histogram::new_with_bounds(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS)
            .expect("the constant bounds are valid: low >= 1, high >= 2 * low, digits <= 5");
        Recorder { latencies, succeeded: 0, errors: BTreeMap::new(), error_count: 0 }
    }

    /// Notes an operation that ran from `began` to `ended`.
    pub(crate) fn note(
        &mut self,
        window: &Window,
        began: Instant,
        ended: Instant,
        outcome: Result<(), &OperationError>,
    ) {
        match outcome {
            Ok(()) => {
                self.succeeded += 1;
                if window.start <= ended && ended < window.end {
                    let elapsed_ns = u64::try_from((ended - began).as_nanos()).unwrap_or(LATENCY_NS_MAX);
                    self.latencies.saturating_record(elapsed_ns);
                }
            }
            Err(error) => self.note_error(error),
        }
    }

    pub(crate) fn note_error(&mut self, error: &OperationError) {
        self.error_count += 1;
        let tally = self.errors.entry(error.kind.clone());
        tally.or_insert_with(|| ErrorTally { count: 0, example: error.message.clone() }).count += 1;
    }

    pub(crate) fn merge(&mut self, other: &Recorder) {
        self.latencies.add(&other.latencies).expect("all recorders have the same bounds");
        self.succeeded += other.succeeded;
        self.error_count += other.error_count;
        for (kind, tally) in &other.errors {
            let own = self.errors.entry(kind.clone());
            own.or_insert_with(|| ErrorTally { count: 0, example: tally.example.clone() }).count += tally.count;
        }
    }

    pub(crate) fn latencies(&self) -> &Histogram<u32> {
        &self.latencies
    }

    pub(crate) fn succeeded(&self) -> u64 {
        self.succeeded
    }

    pub(crate) fn error_count(&self) -> u64 {
        self.error_count
    }

    pub(crate) fn errors(&self) -> BTreeMap<String, ErrorTally> {
        self.errors.iter().map(|(kind, tally)| (kind.clone().into_owned(), tally.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window {
        Window::after(Duration::from_secs(1), Duration::from_secs(1))
    }

    fn note(recorder: &mut Recorder, window: &Window, ended_ms: u64, latency_ms: u64) {
        let ended = window.start + Duration::from_millis(ended_ms);
        recorder.note(window, ended - Duration::from_millis(latency_ms), ended, Ok(()));
    }

    #[test]
    fn only_what_ends_inside_the_window_counts() {
        let (window, mut recorder) = (window(), Recorder::new());
        recorder.note(
            &window,
            window.start - Duration::from_millis(20),
            window.start - Duration::from_millis(1),
            Ok(()),
        );
        note(&mut recorder, &window, 0, 5);
        note(&mut recorder, &window, 999, 5);
        note(&mut recorder, &window, 1000, 5);
        assert_eq!((recorder.latencies().len(), recorder.succeeded()), (2, 4));
    }

    #[test]
    fn merged_notes_hold_everyones_latencies_within_one_percent() {
        let (window, mut all) = (window(), Recorder::new());
        for client in 0..10 {
            let mut recorder = Recorder::new();
            for step in 1..=100 {
                note(&mut recorder, &window, 500, client * 100 + step);
            }
            all.merge(&recorder);
        }
        let latencies = all.latencies();
        assert_eq!(latencies.len(), 1000);
        for (quantile, expected_ms) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (1.0, 1000.0)] {
            let actual_ms = latencies.value_at_quantile(quantile) as f64 / 1e6;
            assert!((actual_ms / expected_ms - 1.0).abs() < 0.01, "{quantile}: {actual_ms} ms");
        }
    }

    #[test]
    fn errors_count_by_kind_and_in_the_warm_up_too() {
        let (window, mut first, mut second) = (window(), Recorder::new(), Recorder::new());
        let refused = OperationError::new("MAILBOX_FULL", "full");
        first.note(
            &window,
            window.start - Duration::from_millis(2),
            window.start - Duration::from_millis(1),
            Err(&refused),
        );
        second.note(&window, window.start, window.start, Err(&refused));
        second.note(&window, window.start, window.start, Err(&OperationError::new("BROKEN", "reset")));
        first.merge(&second);
        let expected = [
            ("BROKEN".to_owned(), ErrorTally { count: 1, example: "reset".to_owned() }),
            ("MAILBOX_FULL".to_owned(), ErrorTally { count: 2, example: "full".to_owned() }),
        ];
        assert_eq!(first.errors(), BTreeMap::from(expected));
        assert_eq!((first.error_count(), first.latencies().len()), (3, 0));
    }

    #[test]
    fn a_latency_beyond_the_bounds_is_kept_as_the_longest() {
        let (window, mut recorder) = (window(), Recorder::new());
        let began = window.start;
        let window = Window { start: began, end: began + Duration::from_secs(4000) };
        recorder.note(&window, began, began + Duration::from_secs(3000), Ok(()));
        assert_eq!(recorder.latencies().len(), 1);
        assert!(recorder.latencies().max() >= LATENCY_NS_MAX);
    }
}
