//! An old Tyrant script, uploaded as it is, counts every acknowledged call once, also where the leader dies and
//! clients have to repeat themselves.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use cirrus_proto::v1::CallRequest;
use cirrus_tests::cluster::{ClusterOptions, TestCluster};
use cirrus_tests::outcome::TestResult;
use cirrus_tests::wait::eventually;
use cirrus_tests::workload::{COUNTER_LIBRARY, COUNTER_PROCEDURE};
use tokio::task::JoinSet;

const CLIENTS: usize = 64;
const CALLS: usize = 10_000;
/// How often the leader is killed, evenly over the calls.
const KILLS: usize = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_calls_end_at_ten_thousand() -> TestResult {
    let mut cluster = TestCluster::start(ClusterOptions { shards: 2, ..ClusterOptions::default() }).await?;
    let library = cluster.node(2)?.upload("counter", COUNTER_LIBRARY).await?;
    assert_eq!(library.functions, ["incr"]);

    let started = Arc::new(AtomicUsize::new(0));
    let finished = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        // A client each, so that each has a session of its own.
        let client = cluster.client(true).await?;
        let (started, finished) = (started.clone(), finished.clone());
        clients.spawn(async move {
            let mut sums = Vec::new();
            while started.fetch_add(1, Ordering::SeqCst) < CALLS {
                let request = CallRequest {
                    procedure: COUNTER_PROCEDURE.to_owned(),
                    key: "hits".into(),
                    args: vec!["1".into()],
                    ..Default::default()
                };
                let sum = client
                    .call_with(request)
                    .await
                    .context("a call with a request id is retried until it is answered")?;
                finished.fetch_add(1, Ordering::SeqCst);
                sums.push(String::from_utf8(sum.result.to_vec())?.parse::<usize>()?);
            }
            anyhow::Ok(sums)
        });
    }
    for kill in 1..=KILLS {
        let enough = CALLS * kill / (KILLS + 1);
        eventually("the clients get on", Duration::from_secs(60), async || {
            let done = finished.load(Ordering::SeqCst);
            anyhow::ensure!(done >= enough, "{done} calls are done");
            Ok(())
        })
        .await?;
        let leader = cluster.leader_of("hits").await?;
        cluster.kill9(leader).await?;
        eprintln!("killed node {leader}, the leader, after {} calls", finished.load(Ordering::SeqCst));
        cluster.restart(leader).await?;
    }
    let mut sums = BTreeSet::new();
    let mut acknowledged = 0;
    while let Some(client) = clients.join_next().await {
        let of_client = client??;
        acknowledged += of_client.len();
        assert!(of_client.is_sorted(), "a client saw its own sums go back: {of_client:?}");
        sums.extend(of_client);
    }
    assert_eq!(acknowledged, CALLS);
    for node in cluster.all_nodes()? {
        assert_eq!(node.value("hits").await?, Some(CALLS.to_string().into_bytes()), "read through {}", node.address);
    }
    assert_eq!(sums, (1..=CALLS).collect(), "every call got a sum of its own");
    Ok(())
}
