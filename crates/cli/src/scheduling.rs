//! How many threads a node has, and how the kernel schedules them.

use cirrus_server::Scheduling;

/// Processors up to which one thread serves more than several would: the log's writer, flushes and calls have threads
/// of their own, a thread that is alone wakes no other, and it polls.
const PROCESSORS_OF_ONE_THREAD: usize = 2;

/// How many threads a node's runtime has on so many processors, unless it is told.
pub(crate) fn worker_threads(processors: usize) -> usize {
    if processors <= PROCESSORS_OF_ONE_THREAD { 1 } else { processors }
}

/// The processors that this process may use.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_threads_need_more_than_two_processors() {
        let cases = [(0, 1), (1, 1), (2, 1), (3, 3), (16, 16)];
        for (processors, expected) in cases {
            assert_eq!(worker_threads(processors), expected, "{processors} processors");
        }
    }
}
