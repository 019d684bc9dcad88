//! How the kernel schedules a node's threads.

/// Tells the kernel that this process prefers throughput: a thread that wakes does not interrupt one that runs. On
/// processors with room it runs at once all the same; on full ones it finds more work gathered, so that a
/// message, an fsync and a reply each serve more requests (docs/performance.md). Threads inherit it.
///
/// The policy is `SCHED_BATCH` of sched(7). It needs no privilege, and leaves the nice value alone.
#[cfg(target_os = "linux")]
pub(crate) fn prefer_throughput() -> std::io::Result<()> {
    use nix::libc::{SCHED_BATCH, sched_param, sched_setscheduler};
    let parameter = sched_param { sched_priority: 0 };
    // SAFETY: the pointer is to a live value that the call only reads; 0 names the calling thread.
    #[allow(unsafe_code)]
    let outcome = unsafe { sched_setscheduler(0, SCHED_BATCH, &raw const parameter) };
    if outcome == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn prefer_throughput() -> std::io::Result<()> {
    Ok(())
}
