//! How long a group waits for what.

use std::sync::Arc;

/// A group's timing and log retention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often a leader tells its followers that it lives, milliseconds. Also the bound of one RPC.
    pub heartbeat_ms: u64,
    /// A follower that hears nothing stands for election once the leader's lease, which is `election_max_ms`,
    /// and then a random time between these two have passed.
    pub election_min_ms: u64,
    /// See `election_min_ms`.
    pub election_max_ms: u64,
    /// Entries after which a shard takes a new snapshot.
    pub snapshot_log_entries: u64,
    /// Entries kept behind a snapshot, for followers that lag a little. Generous, since a purge close
    /// behind replication meets openraft's issue #2116.
    pub keep_log_entries: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            // A dead leader is replaced after 1.0 to 1.2 s, and after 1.8 s where the first votes were split.
            heartbeat_ms: 100,
            election_min_ms: 400,
            election_max_ms: 600,
            snapshot_log_entries: 100_000,
            keep_log_entries: 50_000,
        }
    }
}

impl Timing {
    pub(crate) fn raft_config(&self, shard_id: u32) -> Result<Arc<openraft::Config>, openraft::ConfigError> {
        let config = openraft::Config {
            cluster_name: format!("shard-{shard_id}"),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_min_ms,
            election_timeout_max: self.election_max_ms,
            enable_pre_vote: Some(true),
            // A restarted leader must not go on in its old term: the overlay of its in-flight effects is gone.
            enable_leader_restore: Some(false),
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.snapshot_log_entries),
            max_in_snapshot_log_to_keep: self.keep_log_entries,
            purge_batch_size: 1024.min(self.keep_log_entries.max(1)),
            max_payload_entries: 4096,
            install_snapshot_timeout: 60_000,
            // Constant: a single value would double up to a second, and keep a follower that is back waiting.
            backoff: "50ms 50ms 50ms".to_owned(),
            ..openraft::Config::default()
        };
        Ok(Arc::new(config.validate()?))
    }
}
