//! Whatever happens to the nodes and to the wires between them, what all clients saw fits one order.
//!
//! A seed decides which faults come when. It is printed; `CIRRUS_TEST_SEED` sets it. Processes and threads are
//! timed by the machine, so a seed repeats the faults and not the run.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use cirrus_tests::checker::assert_linearizable;
use cirrus_tests::cluster::{ClusterOptions, TestCluster};
use cirrus_tests::outcome::TestResult;
use cirrus_tests::workload::{Access, COUNTER_LIBRARY, Mix, Workload};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

const RUN_FOR: Duration = Duration::from_secs(40);

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill,
    Pause,
    Isolate,
    /// What the node sends is lost, what is sent to it arrives.
    Mute,
    /// The other way round.
    Deafen,
    Stop,
}

/// Does one thing to one node, lets the clients feel it, and undoes it.
async fn strike(cluster: &mut TestCluster, random: &mut StdRng, fault: Fault, node_id: u64) -> Result<()> {
    let lasting = Duration::from_millis(random.random_range(300..3000));
    eprintln!("{fault:?} of node {node_id} for {lasting:?}");
    let others: Vec<u64> = cluster.node_ids().into_iter().filter(|&other| other != node_id).collect();
    match fault {
        Fault::Kill => cluster.kill9(node_id).await?,
        Fault::Stop => drop(cluster.stop(node_id).await?),
        Fault::Pause => cluster.pause(node_id)?,
        Fault::Isolate => cluster.network()?.isolate(node_id),
        Fault::Mute => others.iter().try_for_each(|&other| cluster.network().map(|it| it.cut(node_id, other)))?,
        Fault::Deafen => others.iter().try_for_each(|&other| cluster.network().map(|it| it.cut(other, node_id)))?,
    }
    tokio::time::sleep(lasting).await;
    match fault {
        Fault::Kill | Fault::Stop => cluster.restart(node_id).await?,
        Fault::Pause => cluster.resume(node_id)?,
        Fault::Isolate | Fault::Mute | Fault::Deafen => cluster.network()?.mend(),
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_see_one_order_through_all_faults() -> TestResult {
    let seed = match std::env::var("CIRRUS_TEST_SEED") {
        Ok(text) => text.parse().context("CIRRUS_TEST_SEED is a number")?,
        Err(_) => rand::rng().random(),
    };
    eprintln!("CIRRUS_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let options = ClusterOptions { shards: 2, network: true, ..ClusterOptions::default() };
    let mut cluster = TestCluster::start(options).await?;
    cluster.node(1)?.upload("counter", COUNTER_LIBRARY).await?;

    let keys: Vec<String> = (0..40).map(|number| format!("key-{number}")).collect();
    let workload = Workload { clients: 16, keys: keys.clone(), mix: Mix::ALL, pause: Duration::from_millis(4) };
    // Half of the history comes from clients that never retry, half from the Rust client, which retries under
    // request ids. Their keys differ, since each half is checked alone.
    let direct = workload.clone().start(Access::Nodes(cluster.all_nodes()?));
    let retried_keys: Vec<String> = keys.iter().map(|key| format!("retried-{key}")).collect();
    let retried =
        Workload { keys: retried_keys.clone(), ..workload }.start(Access::Client(cluster.client(true).await?));

    let started = Instant::now();
    while started.elapsed() < RUN_FOR {
        direct.wait_for_operations(500, Duration::from_secs(30)).await?;
        retried.wait_for_operations(500, Duration::from_secs(30)).await?;
        let all = [Fault::Kill, Fault::Pause, Fault::Isolate, Fault::Mute, Fault::Deafen, Fault::Stop];
        let fault = *all.choose(&mut random).unwrap();
        // Leaders are hurt more often than followers.
        let node_id = match random.random_bool(0.7) {
            true => cluster.leader_of(keys.choose(&mut random).unwrap()).await?,
            false => random.random_range(1..=3),
        };
        strike(&mut cluster, &mut random, fault, node_id).await?;
    }
    cluster.wait_ready().await?;
    direct.wait_for_operations(500, Duration::from_secs(30)).await?;
    retried.wait_for_operations(500, Duration::from_secs(30)).await?;

    let reader = cluster.node(random.random_range(1..=3))?;
    let direct = direct.finish(&keys, &reader).await?;
    let retried = retried.finish(&retried_keys, &reader).await?;
    for (name, recorder) in [("direct", &direct), ("retried", &retried)] {
        let (operations, unknown) = recorder.counts();
        eprintln!("{name}: {operations} operations, {unknown} unknown");
    }
    assert_linearizable(&direct.history());
    assert_linearizable(&retried.history());
    let (operations, unknown) = retried.counts();
    assert!(unknown == 0, "{unknown} of {operations} retried requests ended unknown");
    cluster.identical_replicas(vec![]).await?;
    Ok(())
}
