//! What a machine takes from outside of it: the time and randomness of the node, or those of a test.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The operating system's clock and randomness; or, for tests that repeat, ones that are set. Clones share theirs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Surroundings(Option<Arc<Staged>>);

#[derive(Debug)]
struct Staged {
    now_ms: AtomicU64,
    random: AtomicU64,
}

impl Surroundings {
    /// A clock that stands still, and numbers that follow from the seed.
    pub(crate) fn staged(now_ms: u64, seed: u64) -> Self {
        Surroundings(Some(Arc::new(Staged { now_ms: AtomicU64::new(now_ms), random: AtomicU64::new(seed) })))
    }

    /// Whether they are a test's.
    pub(crate) fn are_staged(&self) -> bool {
        self.0.is_some()
    }

    /// Since 1970.
    pub(crate) fn now(&self) -> Duration {
        match &self.0 {
            None => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            Some(staged) => Duration::from_millis(staged.now_ms.load(Relaxed)),
        }
    }

    /// Sets a test's clock; the operating system's goes by itself.
    pub(crate) fn set_now_ms(&self, now_ms: u64) {
        if let Some(staged) = &self.0 {
            staged.now_ms.store(now_ms, Relaxed);
        }
    }

    /// A number that a script cannot predict, unless it is a test's.
    pub(crate) fn random(&self) -> u64 {
        /// SplitMix64's step: odd, and no multiple brings it back early.
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        match &self.0 {
            // The standard library's hasher keys are random, which is all that is needed here.
            None => RandomState::new().hash_one(()),
            Some(staged) => {
                let mut mixed = staged.random.fetch_add(STEP, Relaxed).wrapping_add(STEP);
                mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                mixed ^ (mixed >> 31)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_staged_repeats_and_stands_still() {
        let numbers = |seed| {
            let staged = Surroundings::staged(0, seed);
            [staged.random(), staged.random(), staged.clone().random()]
        };
        // The reference implementation's first outputs for the seed 0.
        assert_eq!(numbers(0), [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
        assert_ne!(numbers(1), numbers(2));
        let staged = Surroundings::staged(1500, 0);
        assert_eq!(staged.now(), Duration::from_millis(1500));
        staged.set_now_ms(2000);
        assert_eq!(staged.clone().now(), Duration::from_secs(2));
    }

    #[test]
    fn the_operating_systems_are_neither() {
        let real = Surroundings::default();
        real.set_now_ms(0);
        assert!(real.now() > Duration::from_secs(1_600_000_000));
        assert_ne!([real.random(), real.random()], [real.random(), real.random()]);
    }
}
