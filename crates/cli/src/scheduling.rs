//! How the kernel schedules a node's threads.

use std::cell::Cell;
use std::time::{Duration, Instant};

use cirrus_server::Scheduling;

/// About as long as it takes to wake a thread whose processor sleeps.
const GIVE_WAY: Duration = Duration::from_micros(30);

/// A thread that sleeps longer has little to do.
const SHORT_SLEEP: Duration = Duration::from_millis(1);

/// Asks the kernel for a policy. Threads that this one starts inherit it.
///
/// With `SCHED_BATCH` a thread that wakes does not interrupt one that runs. Where the nodes of one machine fill its
/// processors, more work gathers that way: a message, an fsync and a reply each serve more requests. Where another
/// process fills them, the node waits for that process's time slices, each time that it wakes.
/// It needs no privilege, and leaves the nice value alone.
#[cfg(target_os = "linux")]
pub(crate) fn set_policy(scheduling: Scheduling) -> std::io::Result<()> {
    use nix::libc::{SCHED_BATCH, sched_param, sched_setscheduler};
    if scheduling == Scheduling::Normal {
        return Ok(());
    }
    let parameter = sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a live value that the call only reads; 0 names the calling thread.
    #[allow(unsafe_code)]
    let outcome = unsafe { sched_setscheduler(0, SCHED_BATCH, &raw const parameter) };
    if outcome == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn set_policy(_: Scheduling) -> std::io::Result<()> {
    Ok(())
}

thread_local! {
    static FELL_ASLEEP: Cell<Option<Instant>> = const { Cell::new(None) };
    static SLEPT: Cell<Duration> = const { Cell::new(Duration::MAX) };
}

/// What a node's only thread does before it sleeps: where it slept shortly the last time, it leaves the processor to
/// whoever wants it, for a moment. What arrives meanwhile wakes nobody, and a processor that stays awake is there at once
/// for the threads next to it.
pub(crate) fn before_sleep() {
    let mut now = Instant::now();
    if SLEPT.get() <= SHORT_SLEEP {
        let sleeps_at = now + GIVE_WAY;
        while now < sleeps_at {
            std::thread::yield_now();
            now = Instant::now();
        }
    }
    FELL_ASLEEP.set(Some(now));
}

/// What it does once it is awake again.
pub(crate) fn after_sleep() {
    SLEPT.set(FELL_ASLEEP.take().map_or(Duration::MAX, |fell_asleep| fell_asleep.elapsed()));
}
