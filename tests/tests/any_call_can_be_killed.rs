//! A call can be killed through any node, whatever it does, and leaves nothing.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use cirrus_proto::Reason;
use cirrus_proto::v1::{KillCallRequest, ListRunningCallsRequest, RunningCall};
use cirrus_tests::cluster::{ClusterOptions, TestCluster};
use cirrus_tests::node_client::{NodeClient, reason};
use cirrus_tests::outcome::TestResult;
use cirrus_tests::wait::eventually;

/// Each would run for a minute: the limit that this test sets.
const ENDLESS: &[(&str, &str)] = &[
    ("loop", "while true do end"),
    ("sleep", "_sleep(60)"),
    ("caught", "while true do pcall(function() while true do end end) end"),
    ("pattern", "string.find(string.rep('a', 1e6), string.rep('a?', 30) .. string.rep('a', 1e6) .. 'b')"),
    ("scan", "while true do kv.scan(key) end"),
    ("sort", "local t = {} for i = 1, 2e6 do t[i] = math.random() end while true do table.sort(t) t[1] = 2 end"),
    ("json", "local t = '[' .. string.rep('1,', 1e6) .. '1]' while true do json.decode(t) end"),
    ("strings", "local s = string.rep('x', 1e6) while true do s = s:reverse():upper():lower() end"),
    ("query", "sql.query('d', [[{ENDLESS}]])"),
    ("insert", "while true do pcall(sql.exec, 'd', [[INSERT INTO t {ENDLESS}]]) end"),
    ("updates", "sql.exec('d', 'INSERT INTO t VALUES (1)') while true do sql.exec('d', 'UPDATE t SET x = x + 1') end"),
    ("hashes", "local s = string.rep('x', 1e7) while true do crypto.sha256(s) end"),
];

/// Stands for `{ENDLESS}` above.
const ENDLESS_SELECT: &str = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n";

/// For a busy machine. What is seen on a quiet one is printed: a few milliseconds.
const KILLED_WITHIN: Duration = Duration::from_secs(2);

/// Every call first changes a database as well.
const CHANGE: &str = "sql.exec('d', 'CREATE TABLE t (x)')";

/// What is there: of both nothing.
const QUICK: &str = "M.quick = function(key)
    local tables = sql.exec('d', 'SELECT count(*) AS n FROM sqlite_schema').rows[1].n
    return kv.get(key) or if tables == 0 then 'nothing' else 'tables'
end";

fn library() -> String {
    let functions = ENDLESS
        .iter()
        .map(|(name, body)| format!("M.{name} = function(key) kv.put(key, 'changed') {CHANGE} {body} end\n"));
    let wrapped = functions.collect::<String>().replace("{ENDLESS}", ENDLESS_SELECT);
    format!("local M = {{}}\n{wrapped}{QUICK}\nreturn M\n")
}

async fn running(node: &NodeClient) -> anyhow::Result<Vec<RunningCall>> {
    Ok(node.procedures.clone().list_running_calls(ListRunningCallsRequest {}).await?.into_inner().calls)
}

async fn kill(node: &NodeClient, call_id: &str) -> anyhow::Result<bool> {
    let request = KillCallRequest { call_id: call_id.to_owned() };
    Ok(node.procedures.clone().kill_call(request).await?.into_inner().killed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_it_does() -> TestResult {
    let config = "[limits]\ncall_cpu_ms = 60000\n[sql]\ncpu_ms = 60000\n".to_owned();
    let cluster = TestCluster::start(ClusterOptions { config, ..ClusterOptions::default() }).await?;
    let nodes = cluster.all_nodes()?;
    nodes[0].upload("stuck", library()).await?;
    for pair in 0..200 {
        nodes[0].put(&format!("{{key}}{pair}"), vec![b'x'; 5000]).await?;
    }
    assert!(running(&nodes[0]).await?.is_empty());
    let patient = NodeClient::new(&nodes[1].address, Duration::from_secs(50))?;
    for (round, (function, _)) in ENDLESS.iter().enumerate() {
        let (caller, procedure) = (patient.clone(), format!("stuck.{function}"));
        let called = tokio::spawn({
            let procedure = procedure.clone();
            async move { caller.call(&procedure, "{key}", &[]).await }
        });
        let call = eventually("the call is listed", Duration::from_secs(20), async || {
            let call = running(&nodes[round % 3]).await?.into_iter().next().context("no call runs")?;
            ensure!(call.running_us > 100_000, "it has just begun");
            Ok(call)
        })
        .await?;
        assert_eq!((call.procedure.as_str(), call.key.as_ref(), call.library_version), (&*procedure, &b"{key}"[..], 1));
        let began = Instant::now();
        assert!(kill(&nodes[(round + 1) % 3], &call.call_id).await?, "{procedure}");
        let killed = called.await?.unwrap_err();
        let took = began.elapsed();
        eprintln!("{procedure} ended {took:?} after the kill was sent");
        assert_eq!(reason(&killed), Some(Reason::CallKilled), "{procedure}: {killed:?}");
        assert!(took < KILLED_WITHIN, "{procedure}: {took:?}");
        // The shard goes on at once, without what the call wrote.
        assert_eq!(patient.call("stuck.quick", "{key}", &[]).await?, b"nothing", "{procedure}");
        assert!(!kill(&nodes[round % 3], &call.call_id).await?, "it has ended");
    }
    assert!(running(&nodes[2]).await?.is_empty());
    for (call_id, expected) in [("nonsense", "call_id"), ("9-1-1", "no node 9")] {
        let request = KillCallRequest { call_id: call_id.to_owned() };
        let refused = nodes[0].procedures.clone().kill_call(request).await.unwrap_err();
        assert_eq!(reason(&refused), Some(Reason::InvalidField));
        assert!(refused.message().contains(expected), "{refused:?}");
    }
    Ok(())
}
