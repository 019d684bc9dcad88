//! The CPU time that one request may use.
//!
//! SQLite asks every [`OPERATIONS_BETWEEN_CHECKS`] operations of its virtual machine whether to go on. A thread's CPU clock is
//! a system call, so a request is charged elapsed time until a part of its budget has passed, and CPU time from
//! then on, as procedures are (`cirrus-procedures`). One that waits for the disk so keeps its CPU time, and [`WALL_FACTOR`]
//! bounds how long it may hold its shard all the same.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// How often SQLite asks. A thousand operations take some ten microseconds.
pub(crate) const OPERATIONS_BETWEEN_CHECKS: i32 = 1000;

/// This part of the budget is charged by elapsed time: one tenth.
const FREE_SHARE: u32 = 10;

/// A request is stopped after this many times its CPU limit of elapsed time, however little CPU it got.
const WALL_FACTOR: u32 = 10;

/// Why a request was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Time,
    Killed,
}

pub(crate) struct Budget<'a> {
    killed: &'a AtomicBool,
    began: Cell<Instant>,
    limit: Cell<Duration>,
    /// When the CPU clock is worth reading.
    check_at: Cell<Instant>,
    /// The thread's CPU clock at the start; none: it was not read yet.
    cpu_began: Cell<Option<Duration>>,
    stopped: Cell<Option<Stop>>,
}

impl<'a> Budget<'a> {
    /// Starts now, for work on the calling thread.
    pub(crate) fn new(limit: Duration, killed: &'a AtomicBool) -> Self {
        let now = Instant::now();
        Budget {
            killed,
            began: Cell::new(now),
            limit: Cell::new(limit),
            check_at: Cell::new(now + limit / FREE_SHARE),
            cpu_began: Cell::new(None),
            stopped: Cell::new(None),
        }
    }

    /// Starts again with another limit; what was stopped stays so.
    pub(crate) fn restart(&self, limit: Duration) {
        let now = Instant::now();
        self.began.set(now);
        self.limit.set(limit);
        self.check_at.set(now + limit / FREE_SHARE);
        self.cpu_began.set(None);
    }

    /// Time passed in which nothing ran: the caller's doing, not the request's.
    pub(crate) fn excuse(&self, waited: Duration) {
        self.began.set(self.began.get() + waited);
        self.check_at.set(self.check_at.get() + waited);
    }

    pub(crate) fn limit(&self) -> Duration {
        self.limit.get()
    }

    /// CPU time since the start; elapsed time as long as that is a small part of the limit.
    pub(crate) fn used(&self) -> Duration {
        match self.cpu_began.get() {
            None => self.began.get().elapsed(),
            Some(began) => thread_cpu().saturating_sub(began),
        }
    }

    /// Why the request was stopped, if it was.
    pub(crate) fn stopped(&self) -> Option<Stop> {
        self.stopped.get()
    }

    /// Whether the request must end. Once it must, it always must.
    pub(crate) fn is_exhausted(&self) -> bool {
        if self.stopped.get().is_none() {
            if self.killed.load(Relaxed) {
                self.stopped.set(Some(Stop::Killed));
            } else if Instant::now() >= self.check_at.get() && self.check() {
                self.stopped.set(Some(Stop::Time));
            }
        }
        self.stopped.get().is_some()
    }

    #[cold]
    fn check(&self) -> bool {
        let (now, cpu, limit) = (Instant::now(), thread_cpu(), self.limit.get());
        let elapsed = now - self.began.get();
        let cpu_began = self.cpu_began.get().unwrap_or_else(|| cpu.saturating_sub(elapsed.min(limit / FREE_SHARE)));
        self.cpu_began.set(Some(cpu_began));
        let left = limit.saturating_sub(cpu.saturating_sub(cpu_began));
        let wall_left = limit.saturating_mul(WALL_FACTOR).saturating_sub(elapsed);
        self.check_at.set(now + left.min(wall_left));
        left.is_zero() || wall_left.is_zero()
    }
}

/// CPU time that the calling thread has used since it started.
fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has a CPU clock").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_thread_uses_its_budget_up_and_stays_exhausted() {
        let killed = AtomicBool::new(false);
        let budget = Budget::new(Duration::from_millis(5), &killed);
        let start = Instant::now();
        while !budget.is_exhausted() {
            assert!(start.elapsed() < Duration::from_secs(10), "never exhausted");
        }
        assert!(start.elapsed() >= Duration::from_millis(5));
        assert_eq!((budget.is_exhausted(), budget.stopped()), (true, Some(Stop::Time)));
    }

    #[test]
    fn a_waiting_thread_keeps_its_cpu_time() {
        let killed = AtomicBool::new(false);
        let budget = Budget::new(Duration::from_millis(200), &killed);
        std::thread::sleep(Duration::from_millis(250));
        assert!(!budget.is_exhausted(), "waiting is not CPU time");
        killed.store(true, Relaxed);
        assert_eq!((budget.is_exhausted(), budget.stopped()), (true, Some(Stop::Killed)));
    }
}
