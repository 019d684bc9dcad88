//! A right that grows with time and shrinks with use. Pure: time is a value.
//!
//! Use is known afterwards only, so it may exceed what is there: the bucket then owes, and until that has grown
//! back nothing more is allowed. Over any length of time, use so stays below what grew in it, plus the bucket's
//! size, plus the last use.

use std::time::{Duration, Instant};

/// Amounts are in the caller's unit.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    per_second: f64,
    size: f64,
    level: f64,
    at: Instant,
}

impl TokenBucket {
    /// A full bucket of what grows in one second. The rate is above 0.
    pub(crate) fn new(per_second: f64, now: Instant) -> Self {
        TokenBucket { per_second, size: per_second, level: per_second, at: now }
    }

    /// Changes the rate. What is there, or owed, stays, up to the new size.
    pub(crate) fn set_rate(&mut self, per_second: f64, now: Instant) {
        self.grow(now);
        self.per_second = per_second;
        self.size = per_second;
        self.level = self.level.min(self.size);
    }

    /// Takes note of use.
    pub(crate) fn take(&mut self, amount: f64, now: Instant) {
        self.grow(now);
        self.level -= amount;
    }

    /// How long until something is there; zero where it is.
    pub(crate) fn wait(&mut self, now: Instant) -> Duration {
        self.grow(now);
        if self.level > 0.0 {
            return Duration::ZERO;
        }
        // What is owed to the last bit would leave the bucket empty; a millisecond's growth does not.
        Duration::from_secs_f64(-self.level / self.per_second) + Duration::from_millis(1)
    }

    /// Takes `amount` where as much is there.
    pub(crate) fn try_take(&mut self, amount: f64, now: Instant) -> bool {
        self.grow(now);
        let enough = self.level >= amount;
        if enough {
            self.level -= amount;
        }
        enough
    }

    pub(crate) fn is_full(&mut self, now: Instant) -> bool {
        self.grow(now);
        self.level >= self.size
    }

    /// An earlier moment than the last one, as another thread may have read it, changes nothing.
    fn grow(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        self.at = self.at.max(now);
        self.level = (self.level + passed.as_secs_f64() * self.per_second).min(self.size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Step {
        /// So much is taken.
        Take(f64),
        /// So much grows in a second from now on.
        Rate(f64),
        /// There are so many seconds to wait.
        Wait(f64),
    }

    /// What it shows, the rate, and steps with their seconds.
    type Case<'a> = (&'a str, f64, &'a [(f64, Step)]);

    #[test]
    fn what_is_owed_grows_back_before_more_is_allowed() {
        use Step::{Rate, Take, Wait};
        let cases: &[Case<'_>] = &[
            ("it begins full", 0.5, &[(0.0, Wait(0.0)), (0.0, Take(0.4)), (0.0, Wait(0.0))]),
            ("one that is empty is no longer enough", 0.5, &[(0.0, Take(0.5)), (0.0, Wait(0.001)), (0.1, Wait(0.0))]),
            ("it may owe", 0.5, &[(0.0, Take(1.5)), (0.0, Wait(2.001)), (1.0, Wait(1.001)), (2.1, Wait(0.0))]),
            ("it grows to its size", 0.5, &[(100.0, Take(0.6)), (100.0, Wait(0.201))]),
            ("a faster one pays sooner", 0.5, &[(0.0, Take(1.5)), (1.0, Rate(5.0)), (1.0, Wait(0.101))]),
            ("a smaller one holds less", 4.0, &[(0.0, Rate(1.0)), (0.0, Take(2.0)), (0.0, Wait(1.001))]),
            ("a larger one is not full at once", 1.0, &[(0.0, Rate(4.0)), (0.0, Take(2.0)), (0.0, Wait(0.251))]),
            ("an earlier moment changes nothing", 1.0, &[(5.0, Take(3.0)), (2.0, Wait(2.001)), (6.0, Wait(1.001))]),
        ];
        for (what, per_second, steps) in cases {
            let start = Instant::now();
            let mut bucket = TokenBucket::new(*per_second, start);
            for (seconds, step) in *steps {
                let now = start + Duration::from_secs_f64(*seconds);
                match step {
                    Take(amount) => bucket.take(*amount, now),
                    Rate(per_second) => bucket.set_rate(*per_second, now),
                    Wait(expected) => {
                        let wait = bucket.wait(now).as_secs_f64();
                        assert!((wait - expected).abs() < 1e-6, "{what}: {wait} at {seconds}");
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_is_taken_that_is_not_there() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(2.0, start);
        let taken: Vec<bool> = (0..4).map(|_| bucket.try_take(1.0, start)).collect();
        assert_eq!(taken, [true, true, false, false]);
        assert!(!bucket.try_take(1.0, start + Duration::from_millis(499)));
        assert!(bucket.try_take(1.0, start + Duration::from_millis(501)));
    }

    #[test]
    fn it_is_full_once_all_has_grown_back() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(2.0, start);
        assert!(bucket.is_full(start));
        bucket.take(1.0, start);
        assert!(!bucket.is_full(start + Duration::from_millis(499)));
        assert!(bucket.is_full(start + Duration::from_millis(501)));
    }

    #[test]
    fn over_any_time_use_stays_below_the_rate_plus_the_size_plus_the_last_use() {
        let (rate, use_of_each, start) = (0.1, 0.03, Instant::now());
        let mut bucket = TokenBucket::new(rate, start);
        let mut used = 0.0;
        // Somebody who asks every millisecond, for ten seconds.
        for millisecond in 0..10_000 {
            let now = start + Duration::from_millis(millisecond);
            if bucket.wait(now).is_zero() {
                bucket.take(use_of_each, now);
                used += use_of_each;
            }
            let bound = rate * millisecond as f64 / 1000.0 + rate + use_of_each;
            assert!(used <= bound + 1e-9, "{used} after {millisecond} ms");
        }
        assert!(used >= 1.0, "{used} is less than its share");
    }
}
