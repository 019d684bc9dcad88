//! A dry run says what a call would do, and leaves no trace of it; a traced call does it, and says so.
#![allow(clippy::unwrap_used)]

use cirrus_proto::Reason;
use cirrus_proto::v1::{CallRequest, CallResponse, RequestId};
use cirrus_tests::cluster::TestCluster;
use cirrus_tests::node_client::{NodeClient, reason};
use cirrus_tests::outcome::TestResult;
use tonic::{Code, Status};

const LIBRARY: &str = r#"
function move(key, to)
    local value = kv.get(key)
    kv.put(to, value, {ttl_ms = 60000})
    kv.put(to, value .. "!")
    kv.delete(key)
    log("moved", key)
    return value
end
function fail(key)
    kv.put(key, "changed")
    error("on purpose")
end
function busy(key)
    kv.put(key, "changed")
    while true do end
end
function large(key)
    kept = string.rep(key, 333334)
    return #kept
end
function many(key)
    for i = 1, 2000 do kv.get(key) end
    return "done"
end
"#;

async fn call(node: &NodeClient, function: &str, dry_run: bool, trace: bool) -> Result<CallResponse, Status> {
    let request = CallRequest {
        procedure: format!("mover.{function}"),
        key: "{a}1".into(),
        args: vec!["{a}2".into()],
        // The same for all: a dry run does not use it up.
        request_id: Some(RequestId { client_id: "c".into(), sequence: 1, acknowledged_below: 0 }),
        dry_run,
        trace,
        ..Default::default()
    };
    Ok(node.procedures.clone().call(request).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_call_would_do_is_told_and_not_done() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    cluster.node(1)?.upload("mover", LIBRARY).await?;
    cluster.node(1)?.put("{a}1", "value").await?;
    for node in cluster.all_nodes()? {
        let dry = call(&node, "move", true, false).await?;
        assert_eq!((dry.result.as_ref(), dry.library_version), (&b"value"[..], 1));
        let large = call(&node, "large", true, false).await?.memory_bytes;
        assert!((1_000_000..10_000_000).contains(&large), "{large} bytes");
        let operations: Vec<_> = dry.steps.iter().map(|step| step.operation.as_str()).collect();
        assert_eq!(operations, ["kv.get", "kv.put", "kv.put", "kv.delete", "log"]);
        assert_eq!((dry.steps[1].key.as_ref(), dry.steps[4].text.as_str()), (&b"{a}2"[..], "moved {a}1"));
        assert!(dry.steps.windows(2).all(|pair| pair[0].at_us <= pair[1].at_us), "{dry:?}");
        let effects = dry.dry_run.unwrap().effects;
        let effects: Vec<_> = effects.iter().map(|e| (e.key.as_ref(), e.deleted, e.value.as_ref())).collect();
        assert_eq!(effects, [(&b"{a}2"[..], false, &b"value!"[..]), (b"{a}1", true, b"")]);
        assert_eq!(node.value("{a}1").await?, Some(b"value".to_vec()));
        assert_eq!(node.value("{a}2").await?, None);

        for (function, expected) in
            [("fail", Reason::ProcedureFailed), ("busy", Reason::CallTimeout), ("nothing", Reason::FunctionNotFound)]
        {
            let dry = call(&node, function, true, false).await?.dry_run.unwrap();
            let failure = dry.failure.unwrap();
            assert_eq!((failure.reason.as_str(), dry.effects.len()), (expected.as_str(), 0), "{function}");
            assert_eq!(failure.code, i32::from(expected.code()), "{function}");
        }
        assert_eq!(call(&node, "many", true, false).await?.steps.len(), 1000);
        assert_eq!(node.value("{a}1").await?, Some(b"value".to_vec()));
    }
    let node = cluster.node(2)?;
    let traced = call(&node, "move", false, true).await?;
    assert_eq!((traced.steps.len(), traced.dry_run), (5, None));
    assert_eq!(node.value("{a}2").await?, Some(b"value!".to_vec()));
    let failed = call(&node, "nothing", false, true).await.unwrap_err();
    // The call above has used the request id.
    assert_eq!((failed.code(), reason(&failed)), (Code::InvalidArgument, Some(Reason::RequestIdReused)));
    Ok(())
}
