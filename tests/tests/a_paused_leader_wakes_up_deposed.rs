//! A leader that stood still (SIGSTOP) while another was elected does no harm when it wakes up: it answers no read
//! from its old state and acknowledges no write that is lost.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use cirrus_proto::v1::ReadConsistency;
use cirrus_tests::checker::assert_linearizable;
use cirrus_tests::cluster::{ClusterOptions, TestCluster};
use cirrus_tests::node_client::NodeClient;
use cirrus_tests::outcome::TestResult;
use cirrus_tests::shards::keys_of_shard;
use cirrus_tests::wait::eventually;
use cirrus_tests::workload::{Access, Mix, Workload};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_sent_to_it_while_it_slept_is_not_stale() -> TestResult {
    let mut cluster = TestCluster::start(ClusterOptions { shards: 1, ..ClusterOptions::default() }).await?;
    for round in 1..=3 {
        let leader = cluster.leader_of_shard(1).await?;
        // Connected before the pause, so that the requests below are in its socket when it wakes up.
        let sleeper = NodeClient::new(&cluster.endpoint(leader)?, Duration::from_secs(20))?;
        sleeper.put("watched", format!("old {round}")).await?;
        sleeper.value("watched").await?;

        cluster.pause(leader)?;
        let next = cluster.next_leader_of_shard(1, leader).await?;
        let new_value = format!("new {round}").into_bytes();
        eventually("the next leader takes a write", Duration::from_secs(10), async || {
            Ok(cluster.node(next)?.put("watched", new_value.clone()).await?)
        })
        .await?;

        let reads: Vec<_> = (0..20)
            .map(|_| {
                let sleeper = sleeper.clone();
                tokio::spawn(async move { sleeper.get("watched", ReadConsistency::Linearizable).await })
            })
            .collect();
        let write = {
            let sleeper = sleeper.clone();
            tokio::spawn(async move { sleeper.put("written", "by a sleeper").await })
        };
        // Long enough for the requests to reach the sleeper's socket; what is tested holds at any length.
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.resume(leader)?;

        let mut answered = 0;
        for read in reads {
            match read.await? {
                Ok(found) => {
                    answered += 1;
                    assert_eq!(found.value, new_value, "a stale read in round {round}");
                }
                Err(status) => eprintln!("round {round}: the woken leader refused a read: {}", status.message()),
            }
        }
        eprintln!("round {round}: node {leader} slept, node {next} led; {answered} of 20 reads answered, none stale");
        let acknowledged = write.await?.is_ok();
        let written = eventually("the shard serves reads", Duration::from_secs(10), async || {
            Ok(cluster.node(next)?.value("written").await?)
        })
        .await?;
        assert!(!acknowledged || written.is_some(), "the woken leader acknowledged a write that is lost");
        cluster.wait_ready().await?;
        cluster.node(next)?.delete("written").await?;
    }
    Ok(())
}

/// An election takes about a second. Nodes that go on waiting for the paused leader's answer, after another was
/// elected, do so until its connection is given up, after 4 s.
const OUTAGE_MAX: Duration = Duration::from_millis(3500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pauses_under_load_keep_the_history_linearizable() -> TestResult {
    let mut cluster = TestCluster::start(ClusterOptions { shards: 2, ..ClusterOptions::default() }).await?;
    let status = cluster.status().await?;
    let keys = keys_of_shard(&status, 1, "paused", 32);
    let mix = Mix { call: 0, ..Mix::ALL };
    let workload = Workload { clients: 16, keys: keys.clone(), mix, pause: Duration::from_millis(2) };
    let running = workload.start(Access::Nodes(cluster.all_nodes()?));
    for _ in 0..3 {
        running.wait_for_operations(1000, Duration::from_secs(30)).await?;
        let leader = cluster.leader_of_shard(1).await?;
        let paused = running.recorder().elapsed();
        cluster.pause(leader)?;
        cluster.next_leader_of_shard(1, leader).await?;
        running.wait_for_operations(200, Duration::from_secs(30)).await?;
        let outage = running.recorder().first_write_after(paused, |_| true);
        cluster.resume(leader)?;
        eprintln!("node {leader} paused; writes resumed after {outage:?}");
        assert!(outage.is_some_and(|outage| outage < OUTAGE_MAX), "writes resumed after {outage:?}");
    }
    running.wait_for_operations(1000, Duration::from_secs(30)).await?;
    let recorder = running.finish(&keys, &cluster.node(1)?).await?;
    let (operations, unknown) = recorder.counts();
    eprintln!("{operations} operations, {unknown} unknown");
    assert_linearizable(&recorder.history());
    Ok(())
}
