//! A procedure that is declared read-only is a read: it leaves the log as it is, and any replica serves it at the
//! consistency that the caller chose.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use anyhow::{Context as _, ensure};
use cirrus_proto::Reason;
use cirrus_proto::v1::{
    CallRequest, CallResponse, KillCallRequest, ListRunningCallsRequest, LuaValue, ReadConsistency,
};
use cirrus_tests::cluster::{ClusterOptions, TestCluster};
use cirrus_tests::node_client::{NodeClient, reason};
use cirrus_tests::outcome::TestResult;
use cirrus_tests::shards::shard_status;
use cirrus_tests::wait::eventually;
use tonic::Status;

const LIBRARY: &str = "
--- The sum of both keys.
---@procedure sum
---@key first
---@key second
---@read_only
function sum(first, second)
    local sum = integer.create(0)
    for _, key in {first, second} do
        sum = integer.add(sum, integer.fromstring(kv.get(key) or '0'))
    end
    return sum
end

--- Takes one from the first and gives so many to the second.
---@procedure move
---@key from
---@key to
---@param count integer
function move(from, to, count)
    kv.incr(from, -1)
    kv.incr(to, count)
    return kv.get(to)
end

---@procedure cheat
---@read_only
function cheat(key) kv.put(key, 'changed') end

---@procedure endless
---@read_only
function endless() while true do end end
";

fn request(function: &str, arguments: &[LuaValue], consistency: ReadConsistency) -> CallRequest {
    CallRequest {
        procedure: format!("bank.{function}"),
        key: "{a}1".into(),
        more_keys: if function == "sum" || function == "move" { vec!["{a}2".into()] } else { vec![] },
        values: arguments.to_vec(),
        typed_result: true,
        consistency: consistency.into(),
        ..Default::default()
    }
}

async fn call(node: &NodeClient, request: CallRequest) -> Result<CallResponse, Status> {
    Ok(node.procedures.clone().call(request).await?.into_inner())
}

async fn last_index(node: &NodeClient, shard_id: u32) -> anyhow::Result<u64> {
    Ok(shard_status(&node.status().await?, shard_id)?.last_log_index)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_leaves_the_log_as_it_is() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let nodes = cluster.all_nodes()?;
    let library = nodes[0].upload("bank", LIBRARY).await?;
    let declared: Vec<_> = library.declarations.iter().map(|one| (&*one.name, one.read_only, one.keys.len())).collect();
    assert_eq!(declared, [("cheat", true, 0), ("endless", true, 0), ("move", false, 2), ("sum", true, 2)]);

    let large = (1_i64 << 53) + 1;
    let moved = call(&nodes[1], request("move", &[(large + 1).into()], ReadConsistency::Unspecified)).await?;
    assert_eq!(moved.value, Some((large + 1).to_string().into()));
    let shard_id = cluster.shard_of("{a}1").await?;
    let leader = cluster.node(cluster.leader_of_shard(shard_id).await?)?;
    let before = last_index(&leader, shard_id).await?;
    for node in &nodes {
        for consistency in [ReadConsistency::Unspecified, ReadConsistency::Linearizable, ReadConsistency::Lease] {
            let answer = call(node, CallRequest { trace: true, ..request("sum", &[], consistency) }).await?;
            assert_eq!((answer.value, answer.library_version), (Some(large.into()), 1));
            assert_eq!(answer.steps.len(), 2, "{:?}", answer.steps);
        }
        let cheated = call(node, request("cheat", &[], ReadConsistency::Unspecified)).await.unwrap_err();
        assert_eq!(reason(&cheated), Some(Reason::ReadOnly), "{cheated:?}");
        let not_read = call(node, request("move", &[1.into()], ReadConsistency::Stale)).await.unwrap_err();
        assert_eq!(reason(&not_read), Some(Reason::NotReadOnly), "{not_read:?}");
        // Nothing has run where the keys disagree, or an argument is none.
        let elsewhere = CallRequest { more_keys: vec!["{b}".into()], ..request("sum", &[], ReadConsistency::Stale) };
        let elsewhere = call(node, elsewhere).await.unwrap_err();
        assert_eq!(reason(&elsewhere), Some(Reason::CrossShard), "{elsewhere:?}");
        let refused = call(node, request("sum", &[1.into(), LuaValue::default()], ReadConsistency::Stale)).await;
        assert_eq!(reason(&refused.unwrap_err()), Some(Reason::InvalidField));
    }
    assert_eq!(last_index(&leader, shard_id).await?, before, "reads have entered the log");
    assert_eq!(nodes[0].value("{a}1").await?, Some(b"-1".to_vec()));

    // What was declared read-only no longer is: the next call through any node knows.
    let undeclared = LIBRARY.replace("---@procedure cheat\n---@read_only\n", "");
    nodes[2].upload("bank", undeclared).await?;
    for node in &nodes {
        call(node, request("cheat", &[], ReadConsistency::Unspecified)).await?;
    }
    assert!(last_index(&leader, shard_id).await? > before);
    assert_eq!(nodes[0].value("{a}1").await?, Some(b"changed".to_vec()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_needs_no_majority_where_stale_will_do() -> TestResult {
    let config = "[limits]\ncall_cpu_ms = 60000\n".to_owned();
    let options = ClusterOptions { shards: 1, config, ..ClusterOptions::default() };
    let mut cluster = TestCluster::start(options).await?;
    cluster.node(1)?.upload("bank", LIBRARY).await?;
    cluster.node(1)?.put("{a}1", "3").await?;
    cluster.node(1)?.put("{a}2", "4").await?;
    let leader = cluster.leader_of_shard(1).await?;
    let survivor = cluster.node_ids().into_iter().find(|&node_id| node_id != leader).unwrap();
    let node = NodeClient::new(&cluster.endpoint(survivor)?, Duration::from_secs(50))?;
    eventually("the survivor-to-be has all", Duration::from_secs(10), async || {
        let answer = call(&node, request("sum", &[], ReadConsistency::Stale)).await?;
        ensure!(answer.value == Some(7.into()), "{answer:?}");
        Ok(())
    })
    .await?;

    // It is served there, and not by the leader: it can be seen, and killed, as one of that node's.
    let caller = node.clone();
    let endless = request("endless", &[], ReadConsistency::Stale);
    let called = tokio::spawn(async move { call(&caller, endless).await });
    let running = eventually("the call is listed", Duration::from_secs(20), async || {
        let running = node.procedures.clone().list_running_calls(ListRunningCallsRequest {}).await?.into_inner();
        running.calls.into_iter().next().context("no call runs")
    })
    .await?;
    assert_eq!((running.node_id, running.shard_id, &*running.procedure), (survivor, 1, "bank.endless"));
    let kill = KillCallRequest { call_id: running.call_id };
    assert!(cluster.node(leader)?.procedures.clone().kill_call(kill).await?.into_inner().killed);
    assert_eq!(reason(&called.await?.unwrap_err()), Some(Reason::CallKilled));

    for node_id in cluster.node_ids().into_iter().filter(|&node_id| node_id != survivor) {
        cluster.kill9(node_id).await?;
    }
    let answer = call(&node, request("sum", &[], ReadConsistency::Stale)).await?;
    assert_eq!(answer.value, Some(7.into()));
    let impatient = NodeClient::new(&cluster.endpoint(survivor)?, Duration::from_secs(2))?;
    for consistency in [ReadConsistency::Unspecified, ReadConsistency::Lease] {
        let refused = call(&impatient, request("sum", &[], consistency)).await;
        assert!(refused.is_err(), "a minority answered {refused:?} as if it were current");
    }
    Ok(())
}
