//! `[replication]`: Raft's timing and log retention.

use cirrus_replication::Timing;
use serde::{Deserialize, Serialize};

/// `[replication]`: Raft's timing and log retention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplicationSection {
    /// A leader shows itself this often, milliseconds.
    pub heartbeat_ms: u64,
    /// The shortest wait between the end of a silent leader's lease and an election, milliseconds.
    pub election_min_ms: u64,
    /// The longest such wait, and the leader's lease, milliseconds.
    pub election_max_ms: u64,
    /// A snapshot is taken after this many log entries.
    pub snapshot_log_entries: u64,
    /// This many entries before a snapshot stay in the log, for followers that lag.
    pub keep_log_entries: u64,
}

impl ReplicationSection {
    /// The timing of every shard's group.
    pub fn timing(&self) -> Timing {
        Timing {
            heartbeat_ms: self.heartbeat_ms,
            election_min_ms: self.election_min_ms,
            election_max_ms: self.election_max_ms,
            snapshot_log_entries: self.snapshot_log_entries,
            keep_log_entries: self.keep_log_entries,
        }
    }
}

impl Default for ReplicationSection {
    fn default() -> Self {
        let timing = Timing::default();
        ReplicationSection {
            heartbeat_ms: timing.heartbeat_ms,
            election_min_ms: timing.election_min_ms,
            election_max_ms: timing.election_max_ms,
            snapshot_log_entries: timing.snapshot_log_entries,
            keep_log_entries: timing.keep_log_entries,
        }
    }
}
