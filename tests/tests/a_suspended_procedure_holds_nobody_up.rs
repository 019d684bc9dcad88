//! A procedure whose calls are killed again and again is suspended: its calls are answered at once, and everything
//! else goes on.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cirrus_proto::v1::{
    ActivateLibraryRequest, CallRequest, KillCallRequest, ListRunningCallsRequest, ListRunningCallsResponse, RequestId,
};
use cirrus_proto::{Failure, Reason};
use cirrus_tests::cluster::{ClusterOptions, TestCluster};
use cirrus_tests::node_client::{NodeClient, reason};
use cirrus_tests::outcome::TestResult;
use cirrus_tests::shards::keys_of_shard;
use cirrus_tests::wait::eventually;
use tonic::{Code, Status};

/// Calls of `spin` never end, unless the key says that all is well. A call that sleeps may take ten times as long as
/// one that works.
const LIBRARY: &str = "
    function spin(key)
        if kv.get(key) == 'well' then return 'well' end
        while true do end
    end
    function hold(key) _sleep(4) return 'slept' end
    function quick(key) return 'quick' end
";

const CONFIG: &str = "
    [limits]
    call_cpu_ms = 500
    [procedures]
    suspend_after_kills = 3
    suspend_ms = 10000
    suspend_max_ms = 60000
";

async fn running(node: &NodeClient) -> Result<ListRunningCallsResponse> {
    Ok(node.procedures.clone().list_running_calls(ListRunningCallsRequest {}).await?.into_inner())
}

fn failure(status: &Status) -> Failure {
    Failure::from_status(status).unwrap_or_else(|| panic!("{status:?} is not the cluster's own"))
}

/// Calls `loops.spin` until it is suspended; how many calls were killed.
async fn suspend(node: &NodeClient, key: &str) -> Result<usize> {
    for killed in 0..20 {
        let status = node.call("loops.spin", key, &[]).await.unwrap_err();
        match reason(&status) {
            Some(Reason::CallTimeout) => {}
            Some(Reason::ProcedureSuspended) => return Ok(killed),
            _ => return Err(status.into()),
        }
    }
    anyhow::bail!("20 calls were killed, and loops.spin is not suspended")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn until_it_is_well_again_or_another_version_is_active() -> TestResult {
    let cluster = TestCluster::start(ClusterOptions { config: CONFIG.to_owned(), ..Default::default() }).await?;
    cluster.wait_spread().await?;
    let status = cluster.status().await?;
    let (here, there) = (&keys_of_shard(&status, 1, "k", 1)[0], &keys_of_shard(&status, 2, "k", 1)[0]);
    let (leader, other_leader) = (cluster.leader_of_shard(1).await?, cluster.leader_of_shard(2).await?);
    assert_ne!(leader, other_leader);
    let node = NodeClient::new(&cluster.endpoint(other_leader)?, Duration::from_secs(20))?;
    node.upload("loops", LIBRARY).await?;

    // What was answered under a request id before stays answered.
    let answered = CallRequest {
        procedure: "loops.spin".to_owned(),
        key: here.clone().into(),
        request_id: Some(RequestId { client_id: b"client".to_vec().into(), sequence: 1, acknowledged_below: 0 }),
        ..Default::default()
    };
    node.put(here, "well").await?;
    assert_eq!(node.procedures.clone().call(answered.clone()).await?.into_inner().result, "well");
    node.delete(here).await?;

    assert_eq!(suspend(&node, here).await?, 3);
    for node_id in cluster.node_ids() {
        let refused = cluster.node(node_id)?.call("loops.spin", here, &[]).await.unwrap_err();
        let failure = failure(&refused);
        assert_eq!((failure.reason, refused.code()), (Reason::ProcedureSuspended, Code::ResourceExhausted));
        let delay = failure.retry_after.unwrap();
        assert!(!delay.is_zero() && delay <= Duration::from_secs(10), "{failure:?}");
        for (name, value) in [("library", "loops"), ("function", "spin"), ("version", "1"), ("kills", "3")] {
            assert_eq!(failure.metadata[name], value, "{failure:?}");
        }
    }
    assert_eq!(node.procedures.clone().call(answered).await?.into_inner().result, "well");
    let suspended = running(&node).await?.suspended;
    assert_eq!(suspended.len(), 1, "{suspended:?}");
    assert_eq!((suspended[0].procedure.as_str(), suspended[0].node_id, suspended[0].kills), ("loops.spin", leader, 3));

    // Its neighbours are not, and another node finds out for itself.
    assert_eq!(node.call("loops.quick", here, &[]).await?, b"quick");
    let elsewhere = node.call("loops.spin", there, &[]).await.unwrap_err();
    assert_eq!(reason(&elsewhere), Some(Reason::CallTimeout), "{elsewhere:?}");

    // Once it is well, a probe finds that out.
    node.put(here, "well").await?;
    eventually("a call is let through", Duration::from_secs(30), async || {
        let result = node.call("loops.spin", here, &[]).await?;
        ensure!(result == b"well", "{result:?}");
        Ok(())
    })
    .await?;
    assert!(running(&node).await?.suspended.iter().all(|suspended| suspended.node_id != leader));

    // The same version is tried again once it is activated again, and another one is not suspended with it.
    node.delete(here).await?;
    suspend(&node, here).await?;
    let again = ActivateLibraryRequest { name: "loops".to_owned(), version: 1, ..Default::default() };
    node.procedures.clone().activate_library(again).await?;
    assert_eq!(suspend(&node, here).await?, 3, "it began anew");
    node.upload("loops", "function spin(key) return 'mended' end").await?;
    assert_eq!(node.call("loops.spin", here, &[]).await?, b"mended");
    assert!(cluster.metric(leader, "cirrus_procedure_suspensions_total").await? >= 3.0);
    assert!(cluster.metric(leader, "cirrus_calls_refused_total").await? >= 6.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_calls_do_not_wait_for_the_shard() -> TestResult {
    let cluster = TestCluster::start(ClusterOptions { config: CONFIG.to_owned(), ..Default::default() }).await?;
    cluster.wait_spread().await?;
    let node = NodeClient::new(&cluster.endpoint(1)?, Duration::from_secs(20))?;
    node.upload("loops", LIBRARY).await?;
    suspend(&node, "key").await?;
    let holding = tokio::spawn({
        let node = node.clone();
        async move { node.call("loops.hold", "key", &[]).await }
    });
    let held = eventually("the shard is held up", Duration::from_secs(10), async || {
        running(&node).await?.calls.into_iter().next().context("no call runs")
    })
    .await?;
    let refused = node.call("loops.spin", "key", &[]).await.unwrap_err();
    assert_eq!(reason(&refused), Some(Reason::ProcedureSuspended), "{refused:?}");
    let calls = running(&node).await?.calls;
    assert!(calls.iter().any(|call| call.call_id == held.call_id), "the answer came after the shard was free");
    let kill = KillCallRequest { call_id: held.call_id };
    assert!(node.procedures.clone().kill_call(kill).await?.into_inner().killed);
    assert_eq!(reason(&holding.await?.unwrap_err()), Some(Reason::CallKilled));
    Ok(())
}
