//! All nodes killed at once and started again: everything acknowledged is there, and the cluster goes on.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use cirrus_tests::checker::assert_linearizable;
use cirrus_tests::cluster::TestCluster;
use cirrus_tests::outcome::TestResult;
use cirrus_tests::workload::{Access, COUNTER_LIBRARY, COUNTER_PROCEDURE, Mix, Workload};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_all_nodes_at_once_loses_nothing_acknowledged() -> TestResult {
    let mut cluster = TestCluster::three_nodes().await?;
    cluster.node(2)?.upload("counter", COUNTER_LIBRARY).await?;
    let keys: Vec<String> = (0..64).map(|number| format!("key-{number}")).collect();
    let workload = Workload { clients: 32, keys: keys.clone(), mix: Mix::ALL, pause: Duration::from_millis(2) };
    let running = workload.start(Access::Nodes(cluster.all_nodes()?));
    for round in 1..=2 {
        running.wait_for_operations(3000, Duration::from_secs(30)).await?;
        let killed = running.recorder().elapsed();
        cluster.kill9_all().await?;
        for node_id in cluster.node_ids() {
            cluster.start_again(node_id)?;
        }
        cluster.wait_ready().await?;
        running.wait_for_operations(1000, Duration::from_secs(30)).await?;
        let outage = running.recorder().first_write_after(killed, |_| true);
        eprintln!("round {round}: all nodes killed and started again; writes resumed after {outage:?}");
    }
    let recorder = running.finish(&keys, &cluster.node(3)?).await?;
    let (operations, unknown) = recorder.counts();
    eprintln!("{operations} operations, {unknown} unknown");
    assert_linearizable(&recorder.history());

    // The library came back with the catalog.
    let sum = cluster.node(1)?.call(COUNTER_PROCEDURE, "after the cut", &["5"]).await?;
    assert_eq!(sum, b"5");
    Ok(())
}
