//! A request with an id takes effect once, however often and wherever it is sent.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use cirrus_proto::Reason;
use cirrus_proto::v1::{CallRequest, DeleteRequest, PutRequest, RequestId};
use cirrus_tests::cluster::TestCluster;
use cirrus_tests::node_client::reason;
use cirrus_tests::outcome::TestResult;
use cirrus_tests::wait::eventually;
use cirrus_tests::workload::{COUNTER_LIBRARY, COUNTER_PROCEDURE};

fn id(client: &str, sequence: u64) -> Option<RequestId> {
    Some(RequestId { client_id: client.to_owned().into(), sequence, acknowledged_below: 0 })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_gets_the_first_reply_through_every_node_and_every_leader() -> TestResult {
    let mut cluster = TestCluster::three_nodes().await?;
    cluster.node(1)?.upload("counter", COUNTER_LIBRARY).await?;
    let nodes = cluster.all_nodes()?;
    let call = CallRequest {
        procedure: COUNTER_PROCEDURE.to_owned(),
        key: "once".into(),
        args: vec!["100".into()],
        request_id: id("a", 2),
        ..CallRequest::default()
    };
    let put = PutRequest { key: "once".into(), value: "1000".into(), request_id: id("a", 3), ..PutRequest::default() };
    let delete = DeleteRequest { key: "once".into(), condition: None, request_id: id("a", 4) };

    for node in &nodes {
        assert_eq!(node.increment("once", 7, id("a", 1)).await?, 7, "through {}", node.address);
    }
    for node in &nodes {
        assert_eq!(node.procedures.clone().call(call.clone()).await?.into_inner().result, "107");
    }
    let version = nodes[0].put_request(put.clone()).await?.version;
    for node in &nodes {
        assert_eq!(node.put_request(put.clone()).await?.version, version, "a repeated put wrote again");
    }
    assert_eq!(nodes[0].increment("once", 1, None).await?, 1001);

    let leader = cluster.leader_of("once").await?;
    cluster.kill9(leader).await?;
    let survivor = cluster.node(cluster.awake()[0])?;
    let sum = eventually("the shard takes writes", Duration::from_secs(15), async || {
        Ok(survivor.increment("once", 7, id("a", 1)).await?)
    })
    .await?;
    assert_eq!(sum, 7, "the next leader gave another reply than the first");
    assert_eq!(survivor.procedures.clone().call(call).await?.into_inner().result, "107");
    assert_eq!(survivor.value("once").await?, Some(b"1001".to_vec()), "a repetition changed the value");

    cluster.restart(leader).await?;
    let restarted = cluster.node(leader)?;
    assert!(restarted.key_value.clone().delete(delete.clone()).await?.into_inner().deleted);
    restarted.put("once", "there again").await?;
    assert!(restarted.key_value.clone().delete(delete).await?.into_inner().deleted, "the first reply");
    assert_eq!(restarted.value("once").await?, Some(b"there again".to_vec()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_is_good_for_one_request_only() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let node = cluster.node(2)?;
    node.increment("k", 1, id("b", 1)).await?;
    let reused = node.increment("k", 2, id("b", 1)).await.unwrap_err();
    assert_eq!(reason(&reused), Some(Reason::RequestIdReused), "{reused:?}");
    assert_eq!(reused.code(), tonic::Code::InvalidArgument);
    assert_eq!(node.increment("k", 1, id("another client", 1)).await?, 2);

    let acknowledge = RequestId { client_id: "b".into(), sequence: 5, acknowledged_below: 5 };
    node.increment("k", 1, Some(acknowledge)).await?;
    let expired = node.increment("k", 1, id("b", 1)).await.unwrap_err();
    assert_eq!(reason(&expired), Some(Reason::RequestIdExpired), "{expired:?}");
    assert_eq!(node.value("k").await?, Some(b"3".to_vec()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_sent_many_times_at_once_happens_once() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let nodes = cluster.all_nodes()?;
    for sequence in 1..=50 {
        let tries = (0..9).map(|number| nodes[number % 3].increment("at once", 1, id("c", sequence)));
        for sum in futures::future::join_all(tries).await {
            assert_eq!(sum?, sequence as i64);
        }
    }
    Ok(())
}
