//! How the kernel is asked to schedule a node.

use serde::{Deserialize, Serialize};

/// Whom a thread that wakes may interrupt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheduling {
    /// As any other process's: the kernel decides.
    #[default]
    Normal,
    /// Nobody: `SCHED_BATCH` of sched(7).
    Batch,
}
