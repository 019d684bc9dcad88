//! How much work the node takes on at a time; above a bound, new work is refused at once with a retry delay.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cirrus_proto::{Failure, Reason};
use metrics::Gauge;

/// Long enough for a queue to drain, short enough for a client not to notice.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// A bound on one kind of work. Cheap to clone; clones share the count.
#[derive(Clone)]
pub(crate) struct Admission {
    shared: Arc<Shared>,
}

struct Shared {
    what: &'static str,
    most: usize,
    current: AtomicUsize,
    gauge: Gauge,
}

/// One piece of work under way; dropping it makes room.
pub(crate) struct Admitted {
    shared: Arc<Shared>,
}

impl Admission {
    /// At most `most` of `what`, such as "scans", at a time.
    pub(crate) fn new(what: &'static str, most: usize) -> Admission {
        let gauge = metrics::gauge!("cirrus_requests_in_flight", "kind" => what);
        Admission { shared: Arc::new(Shared { what, most, current: AtomicUsize::new(0), gauge }) }
    }

    /// Takes on one more, or fails with TOO_MANY_REQUESTS.
    pub(crate) fn admit(&self) -> Result<Admitted, Failure> {
        let shared = &self.shared;
        if shared.current.fetch_add(1, Ordering::Relaxed) >= shared.most {
            shared.current.fetch_sub(1, Ordering::Relaxed);
            let message = format!("the node has {} {} under way, its limit", shared.most, shared.what);
            return Err(Failure::new(Reason::TooManyRequests, message)
                .with("limit", shared.most)
                .retry_after(RETRY_DELAY));
        }
        shared.gauge.increment(1.0);
        Ok(Admitted { shared: Arc::clone(shared) })
    }

    /// How many are under way.
    pub(crate) fn current(&self) -> usize {
        self.shared.current.load(Ordering::Relaxed)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.shared.current.fetch_sub(1, Ordering::Relaxed);
        self.shared.gauge.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn work_above_the_bound_is_refused_until_there_is_room() {
        let admission = Admission::new("scans", 2);
        let first = admission.admit().unwrap();
        let _second = admission.admit().unwrap();
        let failure = admission.admit().err().unwrap();
        assert_eq!(failure.reason, Reason::TooManyRequests);
        assert!(failure.retry_after.is_some());
        assert_eq!(admission.current(), 2, "a refusal takes no room");
        drop(first);
        assert!(admission.admit().is_ok());
    }
}
