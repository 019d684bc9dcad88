//! A follower that was down for longer than the log is kept gets a snapshot, and then has everything.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use anyhow::ensure;
use cirrus_proto::v1::ReadConsistency;
use cirrus_tests::cluster::{ClusterOptions, TestCluster};
use cirrus_tests::outcome::TestResult;
use cirrus_tests::shards::shard_status;
use cirrus_tests::wait::eventually;
use futures::{StreamExt as _, TryStreamExt as _};

const KEYS: usize = 3000;
/// So small that the log of the writes below is purged many times over.
const SMALL_LOG: &str = "
[replication]
snapshot_log_entries = 200
keep_log_entries = 50
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_down_past_the_purge_catches_up() -> TestResult {
    let options = ClusterOptions { shards: 1, config: SMALL_LOG.to_owned(), ..ClusterOptions::default() };
    let mut cluster = TestCluster::start(options).await?;
    let leader = cluster.leader_of_shard(1).await?;
    let follower = cluster.node_ids().into_iter().find(|&node_id| node_id != leader).unwrap();
    let writer = cluster.node(leader)?;
    writer.put("deleted meanwhile", "x").await?;
    cluster.kill9(follower).await?;
    writer.delete("deleted meanwhile").await?;

    // A few at a time, so that there are many log entries and not few large batches.
    let value = |number: usize| format!("{number}-{}", "v".repeat(200));
    futures::stream::iter(0..KEYS)
        .map(|number| {
            let writer = writer.clone();
            async move { writer.put(&format!("key-{number}"), value(number)).await }
        })
        .buffer_unordered(4)
        .try_collect::<Vec<_>>()
        .await?;
    let last_log_index = shard_status(&writer.status().await?, 1)?.last_log_index;
    assert!(last_log_index > 500, "{KEYS} writes made only {last_log_index} log entries: too few for a purge");

    cluster.restart(follower).await?;
    let node = cluster.node(follower)?;
    eventually("the follower has applied everything", Duration::from_secs(30), async || {
        let applied = shard_status(&node.status().await?, 1)?.applied_index;
        ensure!(applied >= last_log_index, "applied {applied} of {last_log_index}");
        Ok(())
    })
    .await?;
    let installed = cluster.metric(follower, "cirrus_state_installs_total").await?;
    assert!(installed >= 1.0, "the follower caught up without a snapshot: the log was not purged");

    // Stale reads come from the follower's own state.
    for number in 0..KEYS {
        let found = node.get(&format!("key-{number}"), ReadConsistency::Stale).await?;
        assert!(found.value == value(number), "key-{number} is {found:?} on the follower");
    }
    let deleted = node.get("deleted meanwhile", ReadConsistency::Stale).await?;
    assert!(!deleted.found, "a key that was deleted meanwhile came back on the follower");

    // It counts as a replica again: with the other follower gone, writes need it.
    let other = cluster.node_ids().into_iter().find(|&node_id| node_id != leader && node_id != follower).unwrap();
    cluster.kill9(other).await?;
    eventually("writes go on with the returned follower", Duration::from_secs(10), async || {
        Ok(cluster.node(follower)?.put("after", "the return").await?)
    })
    .await?;
    Ok(())
}
