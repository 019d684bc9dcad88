//! Which shard holds what, read from a cluster's status.

use anyhow::{Context as _, Result};
use cirrus_proto::routing;
use cirrus_proto::v1::{ShardStatus, StatusResponse};

/// The shard that holds a key, by the slots that the cluster reports.
pub fn shard_of(status: &StatusResponse, key: &str) -> Result<u32> {
    let slot = u32::from(routing::slot(key.as_bytes()));
    let holds = |shard: &&ShardStatus| shard.slots.iter().any(|range| (range.first..=range.last).contains(&slot));
    Ok(status.shards.iter().find(holds).with_context(|| format!("no shard holds slot {slot}"))?.shard_id)
}

/// What a node says about a shard.
pub fn shard_status(status: &StatusResponse, shard_id: u32) -> Result<&ShardStatus> {
    let named = |shard: &&ShardStatus| shard.shard_id == shard_id;
    status.shards.iter().find(named).with_context(|| format!("shard {shard_id} is not in the status"))
}

/// `count` keys of one shard: `name-0`, `name-1`, … without those that lie elsewhere.
pub fn keys_of_shard(status: &StatusResponse, shard_id: u32, name: &str, count: usize) -> Vec<String> {
    let keys = (0..1_000_000u32).map(|number| format!("{name}-{number}"));
    keys.filter(|key| shard_of(status, key).is_ok_and(|shard| shard == shard_id)).take(count).collect()
}
