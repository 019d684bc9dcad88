//! Without a majority nothing is written and nothing is read as if it were current; a stale read, asked for by
//! name, is served.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cirrus_proto::v1::ReadConsistency;
use cirrus_proto::{Advice, Reason};
use cirrus_tests::cluster::{ClusterOptions, TestCluster};
use cirrus_tests::node_client::{NodeClient, reason};
use cirrus_tests::outcome::TestResult;
use cirrus_tests::wait::eventually;

/// Requests of these tests carry a deadline of 3 s; an answer must come by then.
const DEADLINE: Duration = Duration::from_secs(3);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What a node without a majority may say of a write.
fn refuses_as_it_should(status: &tonic::Status) -> bool {
    match reason(status) {
        Some(Reason::OutcomeUnknown | Reason::NoLeader | Reason::NotLeader | Reason::DeadlineExceeded) => true,
        Some(other) => other.advice() == Advice::RetryElsewhere,
        // The client's own timer may win against the node's answer at the deadline.
        None => matches!(status.code(), tonic::Code::Cancelled | tonic::Code::DeadlineExceeded),
    }
}

async fn assert_refuses(node: &NodeClient, key: &str) -> Result<()> {
    let started = Instant::now();
    let (put, read) = tokio::join!(node.put(key, "never"), node.get(key, ReadConsistency::Linearizable));
    let took = started.elapsed();
    let put = put.expect_err("a minority acknowledged a write");
    let read = read.expect_err("a minority answered a linearizable read");
    eprintln!(
        "a minority answers after {took:?}: put {:?} {}; get {:?} {}",
        put.code(),
        put.message(),
        read.code(),
        read.message()
    );
    ensure!(took < ANSWER_WITHIN, "the refusal took {took:?}");
    ensure!(refuses_as_it_should(&put), "the put failed with {put:?}");
    ensure!(refuses_as_it_should(&read), "the read failed with {read:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_survivor_of_three_serves_stale_reads_only() -> TestResult {
    let mut cluster = TestCluster::start(ClusterOptions { shards: 1, ..ClusterOptions::default() }).await?;
    cluster.node(1)?.put("kept", "value").await?;
    // Once a follower as survivor, once the leader: they refuse for different reasons.
    for leader_survives in [false, true] {
        let leader = cluster.leader_of_shard(1).await?;
        let survivor = match leader_survives {
            true => leader,
            false => cluster.node_ids().into_iter().find(|&node_id| node_id != leader).unwrap(),
        };
        let node = NodeClient::new(&cluster.endpoint(survivor)?, DEADLINE)?;
        eventually("the survivor-to-be has the value", Duration::from_secs(10), async || {
            let found = node.get("kept", ReadConsistency::Stale).await?;
            ensure!(found.value == "value", "found {found:?}");
            Ok(())
        })
        .await?;
        let killed: Vec<u64> = cluster.node_ids().into_iter().filter(|&node_id| node_id != survivor).collect();
        for &node_id in &killed {
            cluster.kill9(node_id).await?;
        }
        assert_refuses(&node, "kept").await?;
        // By now a leader without followers has noticed; it must refuse still.
        assert_refuses(&node, "kept").await?;
        let stale = node.get("kept", ReadConsistency::Stale).await?;
        assert_eq!(stale.value, "value", "a stale read needs no majority");
        for &node_id in &killed {
            cluster.start_again(node_id)?;
        }
        cluster.wait_ready().await?;
        // The refused put may have happened in the end; the key must hold one of the two and be writable.
        let value = node.value("kept").await?;
        assert!(value == Some(b"value".to_vec()) || value == Some(b"never".to_vec()), "found {value:?}");
        node.put("kept", "value").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_refuses_while_the_others_go_on() -> TestResult {
    let options = ClusterOptions { shards: 1, network: true, ..ClusterOptions::default() };
    let cluster = TestCluster::start(options).await?;
    let leader = cluster.leader_of_shard(1).await?;
    let cut_off = NodeClient::new(&cluster.endpoint(leader)?, DEADLINE)?;
    cut_off.put("split", "before").await?;

    cluster.network()?.isolate(leader);
    let cut_at = Instant::now();
    let other = cluster.node_ids().into_iter().find(|&node_id| node_id != leader).unwrap();
    let majority = cluster.node(other)?;
    // Through a node whose own link to the old leader is cut: it must find the new one.
    eventually("the majority takes writes", Duration::from_secs(15), async || {
        Ok(majority.put("split", "after").await?)
    })
    .await?;
    eprintln!("the majority took a write {:?} after its leader, node {leader}, was cut off", cut_at.elapsed());

    assert_refuses(&cut_off, "split").await?;
    let stale = cut_off.get("split", ReadConsistency::Stale).await?;
    assert_eq!(stale.value, "before", "what the cut-off node knew");
    assert_eq!(majority.value("split").await?, Some(b"after".to_vec()));

    cluster.network()?.mend();
    Ok(eventually("the node that was cut off serves current reads", Duration::from_secs(20), async || {
        let value = cut_off.value("split").await?;
        ensure!(value == Some(b"after".to_vec()), "it reads {value:?}");
        Ok(())
    })
    .await?)
}
