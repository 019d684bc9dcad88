//! How the kernel schedules a node's threads.

use cirrus_server::Scheduling;

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
