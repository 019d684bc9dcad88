//! The CPU time that one call may use.
//!
//! Luau asks at every call, return and loop turn, and at every step of a pattern, whether to go on; see
//! [`Lua::set_interrupt`](mlua::Lua::set_interrupt). The answer has to be cheap, and a thread's CPU clock is
//! a system call that can cost as much as a whole small call. So each question reads the monotonic clock
//! only. A call that runs longer than a [`FREE_SHARE`] of its budget is charged that much, and from then on
//! by the CPU clock, which is read whenever enough time has passed that the budget *could* be used up. A
//! call whose thread was descheduled, or waited for the disk, so keeps its CPU time; [`WALL_FACTOR`] bounds
//! how long it may hold its shard all the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// This part of the budget is charged by elapsed time: one tenth.
const FREE_SHARE: u32 = 10;

/// A call is killed after this many times its CPU limit of elapsed time, however little CPU it got.
const WALL_FACTOR: u32 = 10;

/// The CPU clock was not read yet.
const UNREAD: u64 = u64::MAX;

/// Shared by a machine's interrupt and the calls that it runs, one at a time and on one thread. Atomics
/// only because the machine must be able to move between threads. Times are nanoseconds.
pub(crate) struct CpuBudget {
    origin: Instant,
    /// Since `origin`.
    started_ns: AtomicU64,
    /// Since `origin`: when the CPU clock is worth reading.
    check_at_ns: AtomicU64,
    /// Since `origin`.
    wall_end_ns: AtomicU64,
    limit_ns: AtomicU64,
    /// The thread's CPU clock, less what the call used before it was first read; or [`UNREAD`].
    cpu_started_ns: AtomicU64,
    exhausted: AtomicBool,
    /// Somebody wants the call to end.
    killed: Arc<AtomicBool>,
}

impl CpuBudget {
    /// `killed` ends what runs like a budget that is used up.
    pub(crate) fn new(killed: Arc<AtomicBool>) -> Self {
        CpuBudget {
            origin: Instant::now(),
            started_ns: AtomicU64::new(0),
            check_at_ns: AtomicU64::new(u64::MAX),
            wall_end_ns: AtomicU64::new(u64::MAX),
            limit_ns: AtomicU64::new(u64::MAX),
            cpu_started_ns: AtomicU64::new(UNREAD),
            exhausted: AtomicBool::new(false),
            killed,
        }
    }

    /// Starts anew, for work on the calling thread. It is killed after `patience` of elapsed time, where given.
    pub(crate) fn start(&self, limit: Duration, patience: Option<Duration>) {
        let now = self.now_ns();
        let wall = limit.saturating_mul(WALL_FACTOR).min(patience.unwrap_or(Duration::MAX));
        self.started_ns.store(now, Relaxed);
        self.check_at_ns.store(now.saturating_add(nanoseconds(wall.min(limit / FREE_SHARE))), Relaxed);
        self.wall_end_ns.store(now.saturating_add(nanoseconds(wall)), Relaxed);
        self.limit_ns.store(nanoseconds(limit), Relaxed);
        self.cpu_started_ns.store(UNREAD, Relaxed);
        self.exhausted.store(false, Relaxed);
    }

    /// Whether the budget is used up. Once true it stays so until the next [`start`](Self::start): a
    /// `pcall` that swallows one interrupt's error meets the next one.
    #[inline]
    pub(crate) fn is_exhausted(&self) -> bool {
        self.exhausted.load(Relaxed)
            || self.killed.load(Relaxed)
            || (self.now_ns() >= self.check_at_ns.load(Relaxed) && self.check())
    }

    /// CPU time that is left.
    pub(crate) fn left(&self) -> Duration {
        Duration::from_nanos(self.limit_ns.load(Relaxed)).saturating_sub(self.used())
    }

    /// Uses up what is left: what was done on the call's behalf found that it took too long.
    pub(crate) fn exhaust(&self) {
        self.exhausted.store(true, Relaxed);
    }

    /// Gives back time that was used for something else than the call.
    pub(crate) fn give_back(&self, time: Duration) {
        let started = match self.cpu_started_ns.load(Relaxed) {
            UNREAD => &self.started_ns,
            _ => &self.cpu_started_ns,
        };
        for instant in [started, &self.check_at_ns, &self.wall_end_ns] {
            instant.store(instant.load(Relaxed).saturating_add(nanoseconds(time)), Relaxed);
        }
    }

    /// Ends what runs.
    pub(crate) fn killed(&self) -> &AtomicBool {
        &self.killed
    }

    /// CPU time since the start; elapsed time as long as that is a small part of the budget.
    pub(crate) fn used(&self) -> Duration {
        Duration::from_nanos(match self.cpu_started_ns.load(Relaxed) {
            UNREAD => self.now_ns().saturating_sub(self.started_ns.load(Relaxed)),
            started => thread_cpu_ns().saturating_sub(started),
        })
    }

    #[cold]
    fn check(&self) -> bool {
        let now = self.now_ns();
        let cpu = thread_cpu_ns();
        if self.cpu_started_ns.load(Relaxed) == UNREAD {
            let elapsed = now.saturating_sub(self.started_ns.load(Relaxed));
            let charged = elapsed.min(self.limit_ns.load(Relaxed) / u64::from(FREE_SHARE));
            self.cpu_started_ns.store(cpu.saturating_sub(charged), Relaxed);
        }
        let used = cpu.saturating_sub(self.cpu_started_ns.load(Relaxed));
        let left = self.limit_ns.load(Relaxed).saturating_sub(used);
        let wall_end = self.wall_end_ns.load(Relaxed);
        let exhausted = left == 0 || now >= wall_end;
        self.exhausted.store(exhausted, Relaxed);
        self.check_at_ns.store(now.saturating_add(left).min(wall_end), Relaxed);
        exhausted
    }

    fn now_ns(&self) -> u64 {
        nanoseconds(self.origin.elapsed())
    }
}

/// CPU time that the calling thread has used since it started.
fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has a CPU clock");
    nanoseconds(Duration::from(time))
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_thread_uses_its_budget_up_and_stays_exhausted() {
        let budget = CpuBudget::new(Arc::default());
        budget.start(Duration::from_millis(5), None);
        let start = Instant::now();
        while !budget.is_exhausted() {
            assert!(start.elapsed() < Duration::from_secs(10), "never exhausted");
        }
        assert!(start.elapsed() >= Duration::from_millis(5));
        assert!(budget.is_exhausted());
        budget.start(Duration::from_secs(60), None);
        assert!(!budget.is_exhausted());
    }

    #[test]
    fn patience_ends_before_the_budget() {
        let budget = CpuBudget::new(Arc::default());
        let start = Instant::now();
        budget.start(Duration::from_secs(60), Some(Duration::from_millis(2)));
        while !budget.is_exhausted() {
            assert!(start.elapsed() < Duration::from_secs(10), "never exhausted");
        }
        assert!(start.elapsed() >= Duration::from_millis(2));
    }

    #[test]
    fn a_waiting_thread_keeps_its_cpu_time_but_not_for_ever() {
        let budget = CpuBudget::new(Arc::default());
        let limit = Duration::from_millis(200);
        let start = Instant::now();
        budget.start(limit, None);
        std::thread::sleep(limit + limit / 4);
        assert!(!budget.is_exhausted(), "waiting is not CPU time");
        while !budget.is_exhausted() {
            assert!(start.elapsed() < Duration::from_secs(30), "never exhausted");
            std::thread::sleep(limit / 10);
        }
        assert!(start.elapsed() >= limit * WALL_FACTOR);
    }
}
