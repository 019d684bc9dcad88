//! The cluster as this node sees it.

use std::time::Duration;

use cirrus_proto::routing::slots_of_shard;
use cirrus_proto::v1::{NodeStatus, ShardStatus, SlotRange, StatusResponse};
use cirrus_replication::Shard;
use nix::time::{ClockId, clock_gettime};

use crate::catalog::FEATURE_LEVEL;
use crate::evaluator::CATALOG_SHARD;
use crate::node::ClusterNode;

impl ClusterNode {
    /// Nodes and shards. Empty of both before the node belongs to a cluster.
    pub fn status(&self) -> StatusResponse {
        let own_id = self.config.node_id;
        let membership = self.membership.get();
        let nodes = self
            .members()
            .into_iter()
            .map(|(node_id, node)| NodeStatus {
                node_id,
                address: node.address,
                http_address: node.http_address,
                reachable: node_id == own_id || self.replication.is_connected(node_id),
            })
            .collect();
        let shard_count = membership.map_or(0, |membership| membership.shard_count);
        let shard_ids = if membership.is_some() { CATALOG_SHARD..shard_count + 1 } else { 0..0 };
        let shards = shard_ids
            .map(|shard_id| match self.replication.shard(shard_id) {
                Some(shard) => local_status(&shard, shard_count),
                None => ShardStatus {
                    shard_id,
                    slots: slots(shard_id, shard_count),
                    role: "none".to_owned(),
                    ..Default::default()
                },
            })
            .collect();
        StatusResponse {
            cluster_id: membership.map(|membership| membership.cluster_id.clone()).unwrap_or_default(),
            answering_node_id: own_id,
            feature_level: FEATURE_LEVEL,
            nodes,
            shards,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process_cpu_us: process_cpu().as_micros() as u64,
        }
    }
}

fn process_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("every process has a CPU clock").into()
}

pub(crate) fn local_status(shard: &Shard, shard_count: u32) -> ShardStatus {
    let (report, sizes) = (shard.report(), shard.state().statistics());
    ShardStatus {
        shard_id: shard.id(),
        slots: slots(shard.id(), shard_count),
        leader_node_id: shard.leader().borrow().leader.as_ref().map_or(0, |(id, _)| *id),
        term: report.term,
        voters: report.voters.into_iter().collect(),
        learners: report.learners.into_iter().collect(),
        last_log_index: report.last_log_index,
        applied_index: report.applied_index,
        role: report.role.to_owned(),
        state_disk_bytes: sizes.disk_bytes,
        state_memory_bytes: sizes.memory_bytes,
    }
}

fn slots(shard_id: u32, shard_count: u32) -> Vec<SlotRange> {
    if shard_id == CATALOG_SHARD {
        return Vec::new();
    }
    let (first, last) = slots_of_shard(shard_id, shard_count);
    vec![SlotRange { first: first.into(), last: last.into() }]
}
