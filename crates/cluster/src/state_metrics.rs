//! How large this node's replicas are.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use metrics::Unit;

use crate::node::ClusterNode;

const TICK: Duration = Duration::from_secs(5);

/// Tells what the metrics of this module mean.
pub(crate) fn describe() {
    metrics::describe_gauge!("cirrus_state_disk_bytes", Unit::Bytes, "Live table files of a replica's state, by shard");
    metrics::describe_gauge!("cirrus_state_memory_bytes", Unit::Bytes, "What of it is in memory so far, by shard");
}

/// Runs until the node stops.
pub(crate) async fn run(node: Arc<ClusterNode>) {
    let mut told = HashSet::new();
    loop {
        let mut here = HashSet::new();
        for (shard_id, shard) in node.replication.shards() {
            let sizes = shard.state().statistics();
            tell(shard_id, sizes.disk_bytes, sizes.memory_bytes);
            here.insert(shard_id);
        }
        for gone in told.difference(&here) {
            tell(*gone, 0, 0);
        }
        told = here;
        tokio::time::sleep(TICK).await;
    }
}

fn tell(shard_id: u32, disk_bytes: u64, memory_bytes: u64) {
    metrics::gauge!("cirrus_state_disk_bytes", "shard" => shard_id.to_string()).set(disk_bytes as f64);
    metrics::gauge!("cirrus_state_memory_bytes", "shard" => shard_id.to_string()).set(memory_bytes as f64);
}
