//! On a pipeline, requests of one shard happen in the order sent; a request that fails fails alone.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cirrus_proto::Reason;
use cirrus_proto::v1::pipeline_request::Request;
use cirrus_proto::v1::pipeline_response::Response;
use cirrus_proto::v1::{GetRequest, IncrementRequest, PipelineRequest, PipelineResponse, PutRequest};
use cirrus_tests::cluster::TestCluster;
use cirrus_tests::node_client::NodeClient;
use cirrus_tests::outcome::TestResult;
use cirrus_tests::shards::keys_of_shard;
use tokio_stream::wrappers::ReceiverStream;

/// Sends all requests, as fast as the stream takes them, and collects the responses by id.
async fn exchange(node: &NodeClient, requests: Vec<Request>) -> Result<BTreeMap<u64, Response>> {
    let count = requests.len();
    let (sender, receiver) = tokio::sync::mpsc::channel(64);
    let sending = tokio::spawn(async move {
        for (id, request) in requests.into_iter().enumerate() {
            let request = PipelineRequest { id: id as u64, request: Some(request) };
            sender.send(request).await.context("the pipeline closed early")?;
        }
        anyhow::Ok(())
    });
    let mut stream = node.key_value.clone().pipeline(ReceiverStream::new(receiver)).await?.into_inner();
    let mut responses = BTreeMap::new();
    while let Some(PipelineResponse { id, response }) = stream.message().await? {
        assert!(responses.insert(id, response.unwrap()).is_none(), "request {id} was answered twice");
    }
    sending.await??;
    assert_eq!(responses.len(), count, "the stream ended before all were answered");
    Ok(responses)
}

fn increment(key: &str) -> Request {
    Request::Increment(IncrementRequest { key: key.to_owned().into(), delta: 1, ..IncrementRequest::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_one_shard_happen_in_the_order_sent() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let status = cluster.status().await?;
    let keys: Vec<String> = (1..=4).flat_map(|shard_id| keys_of_shard(&status, shard_id, "p", 2)).collect();
    for node in cluster.all_nodes()? {
        // Longer than the default time of a node's client allows.
        let node = NodeClient::new(&node.address, Duration::from_secs(30))?;
        let mut before = BTreeMap::new();
        for key in &keys {
            before.insert(key, node.increment(key, 0, None).await?);
        }
        const COUNT: usize = 20_000;
        let requests = (0..COUNT).map(|number| increment(&keys[number % keys.len()])).collect();
        let responses = exchange(&node, requests).await?;
        for (number, response) in responses.values().enumerate() {
            let key = &keys[number % keys.len()];
            let expected = before[key] + (number / keys.len()) as i64 + 1;
            assert!(
                matches!(response, Response::Increment(sum) if sum.value == expected),
                "request {number} on {key} through {} is not {expected} but {response:?}",
                node.address
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_fails_fails_alone() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let put = |key: &str, bytes| {
        Request::Put(PutRequest {
            key: key.to_owned().into(),
            value: vec![b'9'; bytes].into(),
            ..PutRequest::default()
        })
    };
    let get = |key: &str| Request::Get(GetRequest { key: key.to_owned().into(), ..GetRequest::default() });
    for node in cluster.all_nodes()? {
        let requests = vec![
            put("same", 3),
            put("", 3),
            put("same", 1_048_577),
            increment("same"),
            put("text", 100),
            increment("text"),
            get("same"),
            get(""),
        ];
        let responses = exchange(&node, requests).await?;
        let reason = |id: u64| match &responses[&id] {
            Response::Failure(failure) => {
                assert!(!failure.message.is_empty());
                let reason = Reason::parse(&failure.reason).unwrap();
                assert_eq!(failure.code, reason.code() as i32, "{failure:?}");
                reason
            }
            other => panic!("request {id} did not fail: {other:?}"),
        };
        assert_eq!(reason(1), Reason::KeyEmpty);
        assert_eq!(reason(2), Reason::ValueTooLarge);
        assert_eq!(reason(5), Reason::NotANumber);
        assert_eq!(reason(7), Reason::KeyEmpty);
        assert!(matches!(&responses[&3], Response::Increment(sum) if sum.value == 1000), "{:?}", responses[&3]);
        assert!(matches!(&responses[&6], Response::Get(found) if found.value == "1000"), "{:?}", responses[&6]);
    }
    Ok(())
}
