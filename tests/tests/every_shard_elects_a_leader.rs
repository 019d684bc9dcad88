//! A new cluster elects a leader for every shard, and a node that is told to stop hands over before it leaves.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use anyhow::{Result, ensure};
use cirrus_tests::checker::assert_linearizable;
use cirrus_tests::cluster::{ClusterOptions, TestCluster};
use cirrus_tests::outcome::TestResult;
use cirrus_tests::shards::keys_of_shard;
use cirrus_tests::wait::eventually;
use cirrus_tests::workload::{Access, Mix, Workload};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_agree_on_one_leader_for_every_shard() -> TestResult {
    let cluster = TestCluster::start(ClusterOptions { shards: 8, ..ClusterOptions::default() }).await?;
    let mut slots_seen = Vec::new();
    let reference = cluster.node(1)?.status().await?;
    for node_id in cluster.node_ids() {
        let status = cluster.node(node_id)?.status().await?;
        assert_eq!(status.answering_node_id, node_id);
        assert_eq!(status.cluster_id, reference.cluster_id, "node {node_id} belongs to another cluster");
        assert!(!status.cluster_id.is_empty());
        assert_eq!(status.nodes.len(), 3, "{:?}", status.nodes);
        let ids: Vec<u32> = status.shards.iter().map(|shard| shard.shard_id).collect();
        assert_eq!(ids, (0..=8).collect::<Vec<_>>(), "the catalog first, then eight data shards");
        for (shard, same) in status.shards.iter().zip(&reference.shards) {
            assert_eq!(shard.leader_node_id, same.leader_node_id, "node {node_id} on shard {}", shard.shard_id);
            let leads = shard.leader_node_id == node_id;
            assert_eq!(shard.role, if leads { "leader" } else { "follower" }, "node {node_id}: {shard:?}");
        }
    }
    for shard in &reference.shards[1..] {
        slots_seen.extend(shard.slots.iter().flat_map(|range| range.first..=range.last));
    }
    assert_eq!(slots_seen, (0..16384).collect::<Vec<_>>(), "the data shards share out all slots");
    assert!(reference.shards[0].slots.is_empty(), "no key belongs to the catalog");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_hands_over_first() -> TestResult {
    let mut cluster = TestCluster::three_nodes().await?;
    let status = cluster.status().await?;
    let keys = keys_of_shard(&status, 1, "handover", 16);
    let leader = cluster.leader_of_shard(1).await?;
    let others: Vec<u64> = cluster.node_ids().into_iter().filter(|&node_id| node_id != leader).collect();
    let nodes = others.iter().map(|&node_id| cluster.node(node_id)).collect::<Result<Vec<_>>>()?;

    let workload = Workload { clients: 8, keys: keys.clone(), mix: Mix::GET_PUT, pause: Duration::from_millis(1) };
    let running = workload.start(Access::Nodes(nodes.clone()));
    running.wait_for_operations(500, Duration::from_secs(20)).await?;
    let told = running.recorder().elapsed();
    let exit = cluster.stop(leader).await?;
    let stopped_after = running.recorder().elapsed() - told;
    running.wait_for_operations(500, Duration::from_secs(20)).await?;
    let recorder = running.finish(&keys, &nodes[0]).await?;

    // The longest time between two acknowledged writes, from just before the order to stop.
    let history = recorder.history();
    let mut acknowledged: Vec<Duration> = history
        .values()
        .flatten()
        .filter(|event| event.is_acknowledged_write() && event.ended + Duration::from_millis(100) > told)
        .map(|event| event.ended)
        .collect();
    acknowledged.sort_unstable();
    let gap = acknowledged.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    eprintln!("node {leader} stopped {stopped_after:?} after SIGTERM ({exit}); writes paused for {gap:?}");
    assert!(exit.success(), "node {leader} ended with {exit}");
    // Without the handover, the lease and an election timeout would have to pass, a second at least; handing over
    // takes a few round trips.
    assert!(gap < Duration::from_millis(700), "writes paused for {gap:?}");
    assert_linearizable(&history);

    Ok(eventually("the remaining nodes lead every shard", Duration::from_secs(10), async || {
        for shard in &cluster.node(others[0])?.status().await?.shards {
            ensure!(
                others.contains(&shard.leader_node_id),
                "shard {} is led by {}",
                shard.shard_id,
                shard.leader_node_id
            );
        }
        Ok(())
    })
    .await?)
}
