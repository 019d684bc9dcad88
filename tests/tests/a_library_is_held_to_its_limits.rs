//! A library with limits gets its share of each node, and no more; the others go on unharmed.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cirrus_client::Client;
use cirrus_proto::v1::{
    ActivateLibraryRequest, CallRequest, KillCallRequest, LibraryLimits, ListLibrariesRequest,
    ListLibraryVersionsRequest, ListRunningCallsRequest, RollbackLibraryRequest, SetLibraryLimitsRequest,
};
use cirrus_proto::{Failure, Reason};
use cirrus_tests::cluster::{ClusterOptions, TestCluster};
use cirrus_tests::node_client::{NodeClient, reason};
use cirrus_tests::outcome::TestResult;
use cirrus_tests::shards::keys_of_shard;
use cirrus_tests::wait::eventually;
use tonic::{Code, Status};

async fn limit(node: &NodeClient, name: &str, concurrency: Option<u32>, cpu_percent: Option<u32>) -> Result<()> {
    let (name, set_by) = (name.to_owned(), "ada".to_owned());
    let request = SetLibraryLimitsRequest { name, concurrency, cpu_percent, set_by, request_id: None };
    node.procedures.clone().set_library_limits(request).await?;
    Ok(())
}

/// A cluster in which one node leads two shards, and a key of each.
struct Fixture {
    cluster: TestCluster,
    nodes: Vec<NodeClient>,
    here: String,
    there: String,
}

impl Fixture {
    async fn start() -> Result<Fixture> {
        // Ten times as much elapsed time: a call may sleep for five seconds.
        let config = "[limits]\ncall_cpu_ms = 500\n".to_owned();
        let cluster = TestCluster::start(ClusterOptions { config, ..Default::default() }).await?;
        cluster.wait_spread().await?;
        assert_eq!(cluster.leader_of_shard(1).await?, cluster.leader_of_shard(4).await?);
        let status = cluster.status().await?;
        let [here, there] = [1, 4].map(|shard_id| keys_of_shard(&status, shard_id, "k", 1).remove(0));
        Ok(Fixture { nodes: cluster.all_nodes()?, cluster, here, there })
    }

    /// Calls through all nodes while a call of the library runs on the node that leads both shards.
    async fn beside_another(&self, procedure: &str) -> Result<Vec<Result<Vec<u8>, Status>>> {
        let holding = tokio::spawn({
            let (node, here) = (self.nodes[0].clone(), self.here.clone());
            async move { node.call("held.hold", &here, &[]).await }
        });
        let held = eventually("the call runs", Duration::from_secs(10), async || {
            let request = ListRunningCallsRequest {};
            let calls = self.nodes[0].procedures.clone().list_running_calls(request).await?.into_inner().calls;
            calls.into_iter().next().context("no call runs")
        })
        .await?;
        let mut outcomes = Vec::new();
        for node in &self.nodes {
            outcomes.push(node.call(procedure, &self.there, &[]).await);
        }
        let kill = KillCallRequest { call_id: held.call_id };
        ensure!(self.nodes[0].procedures.clone().kill_call(kill).await?.into_inner().killed, "it ended too early");
        let killed = holding.await?.unwrap_err();
        ensure!(reason(&killed) == Some(Reason::CallKilled), "{killed:?}");
        Ok(outcomes)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_its_number_of_calls_they_are_refused_at_once() -> TestResult {
    let fixture = Fixture::start().await?;
    let nodes = &fixture.nodes;
    let source = "function hold(key) _sleep(4) return 'slept' end function quick(key) return 'quick' end";
    nodes[0].upload("held", source).await?;
    nodes[0].upload("other", source).await?;
    for outcome in fixture.beside_another("held.quick").await? {
        assert_eq!(outcome?, b"quick", "there is no limit yet");
    }
    limit(&nodes[1], "held", Some(1), None).await?;
    let all_busy = |outcomes: Vec<Result<Vec<u8>, Status>>| {
        for outcome in outcomes {
            let refused = outcome.unwrap_err();
            let failure = Failure::from_status(&refused).unwrap();
            assert_eq!((failure.reason, refused.code()), (Reason::LibraryBusy, Code::ResourceExhausted), "{failure:?}");
            assert!(failure.retry_after.is_some());
            assert_eq!((failure.metadata["library"].as_str(), failure.metadata["limit"].as_str()), ("held", "1"));
        }
    };
    all_busy(fixture.beside_another("held.quick").await?);
    for outcome in fixture.beside_another("other.quick").await? {
        assert_eq!(outcome?, b"quick", "others are not limited");
    }
    // Whatever is active, and for whoever pins a version.
    nodes[0].upload("held", source).await?;
    all_busy(fixture.beside_another("held.quick").await?);
    all_busy(fixture.beside_another("held@1.quick").await?);
    let rollback = RollbackLibraryRequest { name: "held".to_owned(), ..Default::default() };
    nodes[1].procedures.clone().rollback_library(rollback).await?;
    all_busy(fixture.beside_another("held.quick").await?);
    let activate = ActivateLibraryRequest { name: "held".to_owned(), version: 2, ..Default::default() };
    nodes[1].procedures.clone().activate_library(activate).await?;
    all_busy(fixture.beside_another("held.quick").await?);

    // It is shown, and a change holds for the next call through any node.
    let request = ListLibraryVersionsRequest { name: "held".to_owned() };
    let shown = nodes[2].procedures.clone().list_library_versions(request).await?.into_inner().limits.unwrap();
    let is_one = |limits: &LibraryLimits| limits.concurrency == 1 && limits.cpu_percent == 0 && limits.set_by == "ada";
    assert!(is_one(&shown) && shown.set_at_ms > 0, "{shown:?}");
    let listed = nodes[2].procedures.clone().list_libraries(ListLibrariesRequest {}).await?.into_inner().limits;
    assert!(listed.len() == 1 && is_one(&listed["held"]), "{listed:?}");
    for round in 0..6 {
        let two = round % 2 == 0;
        limit(&nodes[round % 3], "held", Some(if two { 2 } else { 1 }), None).await?;
        let outcomes = fixture.beside_another("held.quick").await?;
        if two { assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}") } else { all_busy(outcomes) }
    }
    assert!(fixture.cluster.metric(2, "cirrus_calls_refused_total").await? > 0.0);
    let unknown = limit(&nodes[0], "nobody", Some(1), None).await.unwrap_err();
    assert_eq!(reason(unknown.downcast_ref().unwrap()), Some(Reason::LibraryNotFound));
    Ok(())
}

/// What the greedy library got.
#[derive(Default)]
struct Taken {
    succeeded: usize,
    cpu: Duration,
    refused: usize,
}

/// Calls in a row, until told to stop.
async fn be_greedy(node: NodeClient, key: String, stop: Arc<AtomicBool>) -> Result<Taken> {
    let mut taken = Taken::default();
    while !stop.load(Ordering::Relaxed) {
        let (procedure, key) = ("greedy.work".to_owned(), key.clone().into());
        let request = CallRequest { procedure, key, ..Default::default() };
        match node.procedures.clone().call(request).await {
            Ok(response) => {
                taken.succeeded += 1;
                taken.cpu += Duration::from_micros(response.into_inner().cpu_us);
            }
            Err(status) => {
                let failure = Failure::from_status(&status).with_context(|| format!("{status:?}"))?;
                ensure!(failure.reason == Reason::LibraryBudgetExceeded, "{failure:?}");
                ensure!(status.code() == Code::ResourceExhausted, "{status:?}");
                let wait = failure.retry_after.context("it says when there is more")?;
                ensure!(!wait.is_zero() && wait < Duration::from_secs(30), "{wait:?}");
                taken.refused += 1;
                // Sooner than it was told: one that is greedy does not care.
                tokio::time::sleep(wait / 4).await;
            }
        }
    }
    Ok(taken)
}

/// Calls of the neighbour, of which none may fail.
async fn be_modest(client: Client, stop: Arc<AtomicBool>) -> Result<usize> {
    let mut calls = 0;
    while !stop.load(Ordering::Relaxed) {
        client.call("modest.count", format!("modest-{}", calls % 64), Vec::new()).await?;
        calls += 1;
    }
    Ok(calls)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_its_share_of_cpu_time_calls_are_refused_and_others_go_on() -> TestResult {
    const PERCENT: u32 = 10;
    /// Between two looks at the clock, each of the node's shards may have begun one call.
    const CALL_LIMIT: Duration = Duration::from_millis(100);
    const SHARDS: u32 = 4;
    let cluster = TestCluster::start(ClusterOptions { nodes: 1, shards: SHARDS, ..Default::default() }).await?;
    let node = NodeClient::new(&cluster.endpoint(1)?, Duration::from_secs(20))?;
    node.upload(
        "greedy",
        "function work(key) local t = os.clock() while os.clock() - t < 0.02 do end return 'done' end",
    )
    .await?;
    node.upload("modest", "function count(key) return kv.incr(key) end").await?;
    limit(&node, "greedy", None, Some(PERCENT)).await?;

    let (stop, began) = (Arc::new(AtomicBool::new(false)), Instant::now());
    let status = cluster.status().await?;
    let greedy: Vec<_> = (1..=SHARDS)
        .map(|shard_id| {
            let key = keys_of_shard(&status, shard_id, "k", 1).remove(0);
            tokio::spawn(be_greedy(node.clone(), key, stop.clone()))
        })
        .collect();
    let modest = tokio::spawn(be_modest(cluster.client(false).await?, stop.clone()));
    // Long enough that the share, and not the burst, decides.
    eventually("six seconds are over", Duration::from_secs(30), async || {
        ensure!(began.elapsed() > Duration::from_secs(6));
        Ok(())
    })
    .await?;
    stop.store(true, Ordering::Relaxed);
    let mut taken = Taken::default();
    for one in greedy {
        let one = one.await??;
        taken.succeeded += one.succeeded;
        taken.cpu += one.cpu;
        taken.refused += one.refused;
    }
    let elapsed = began.elapsed();
    let calls = modest.await??;
    eprintln!(
        "{:?} of {elapsed:?} in {} calls, {} refused; modest: {calls}",
        taken.cpu, taken.succeeded, taken.refused
    );
    let share = elapsed * PERCENT / 100 + Duration::from_secs(1) * PERCENT / 100 + CALL_LIMIT * SHARDS;
    assert!(taken.cpu <= share, "it took {:?} of {share:?}", taken.cpu);
    assert!(taken.succeeded > 0 && taken.refused > 0);
    assert!(calls > 0);
    assert!(cluster.metric(1, "cirrus_calls_refused_total").await? >= taken.refused as f64);

    // Without the limit it gets what it wants.
    limit(&node, "greedy", None, Some(0)).await?;
    for _ in 0..20 {
        node.call("greedy.work", "key", &[]).await?;
    }
    Ok(())
}
