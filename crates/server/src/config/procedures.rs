//! `[procedures]`: what is done about procedures that do harm, and with what calls log.

use std::time::Duration;

use cirrus_cluster::{LogSettings, SuspensionSettings};
use serde::{Deserialize, Serialize};

/// `[procedures]`: what is done about procedures that do harm, and with what calls log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProceduresSection {
    /// A procedure is suspended on a node where so many of twice as many of its calls in a row were killed; 0: none is.
    pub suspend_after_kills: u32,
    /// Kills that are longer ago do not count, milliseconds.
    pub suspend_window_ms: u64,
    /// How long a procedure is suspended until one call is let through, milliseconds. It doubles as long as that is
    /// killed, too.
    pub suspend_ms: u64,
    /// The longest that it becomes, milliseconds.
    pub suspend_max_ms: u64,
    /// Lines logged by calls that the node keeps in memory.
    pub log_lines_kept: usize,
    /// Lines logged by calls that each of those who follow gets of this node in a second.
    pub log_lines_per_second: u32,
    /// Those who follow what calls log, through this node or another.
    pub log_followers: usize,
}

impl ProceduresSection {
    /// When a node suspends procedures.
    pub fn suspension(&self) -> SuspensionSettings {
        SuspensionSettings {
            kills: self.suspend_after_kills,
            window: Duration::from_millis(self.suspend_window_ms),
            pause: Duration::from_millis(self.suspend_ms),
            pause_max: Duration::from_millis(self.suspend_max_ms),
        }
    }

    /// How much a node keeps and tells of what calls log.
    pub fn logs(&self) -> LogSettings {
        LogSettings {
            lines_kept: self.log_lines_kept,
            lines_per_second: self.log_lines_per_second,
            followers: self.log_followers,
        }
    }
}

impl Default for ProceduresSection {
    fn default() -> Self {
        let (suspension, logs) = (SuspensionSettings::default(), LogSettings::default());
        ProceduresSection {
            suspend_after_kills: suspension.kills,
            suspend_window_ms: suspension.window.as_millis() as u64,
            suspend_ms: suspension.pause.as_millis() as u64,
            suspend_max_ms: suspension.pause_max.as_millis() as u64,
            log_lines_kept: logs.lines_kept,
            log_lines_per_second: logs.lines_per_second,
            log_followers: logs.followers,
        }
    }
}
