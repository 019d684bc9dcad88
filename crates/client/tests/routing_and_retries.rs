//! What the client promises when nodes refuse, hang, freeze, break or point elsewhere.
#![allow(clippy::unwrap_used)]

mod fake_cluster;

use std::time::{Duration, Instant};

use cirrus_client::{Client, ClientConfig, Failure, Reason, v1};
use fake_cluster::{FakeNode, Step, form_cluster};
use futures::StreamExt as _;
use tonic::Status;

fn config(nodes: &[&FakeNode]) -> ClientConfig {
    ClientConfig {
        // So long that a busy machine does not make a quick node look slow.
        timeout: Duration::from_secs(20),
        attempt_timeout: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(5),
        keepalive_timeout: Duration::from_secs(5),
        ..ClientConfig::new(nodes.iter().map(|node| node.address.clone()))
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// For tests in which an attempt has to run out of time.
fn impatient(nodes: &[&FakeNode]) -> ClientConfig {
    ClientConfig { attempt_timeout: Duration::from_millis(500), ..config(nodes) }
}

async fn two_nodes(leader: usize) -> (FakeNode, FakeNode, Client) {
    two_nodes_for(leader, config).await
}

async fn two_nodes_for(leader: usize, config: fn(&[&FakeNode]) -> ClientConfig) -> (FakeNode, FakeNode, Client) {
    let (first, second) = (FakeNode::start(), FakeNode::start());
    form_cluster(&[&first, &second], leader);
    let client = Client::connect(config(&[&first, &second])).await.unwrap();
    (first, second, client)
}

#[tokio::test]
async fn the_map_from_one_endpoint_leads_straight_to_the_leader() {
    let (first, second) = (FakeNode::start(), FakeNode::start());
    form_cluster(&[&first, &second], 1);
    let client = Client::connect(config(&[&first])).await.unwrap();
    assert_eq!(client.shard_count(), 1);
    assert_eq!(client.leader_address(b"k").as_ref(), Some(&second.address));
    for _ in 0..10 {
        assert_eq!(client.put("k", "value").await.unwrap().version, 5);
    }
    assert_eq!((first.script().puts.len(), second.script().puts.len()), (0, 10));
}

#[tokio::test]
async fn a_refusal_that_names_the_leader_is_followed_at_once() {
    let (first, second, client) = two_nodes(0).await;
    first.then(Step::Fail(Failure::new(Reason::NotLeader, "no").with("leader", &second.address)));
    client.put("k", "v").await.unwrap();
    client.put("k", "v").await.unwrap();
    assert_eq!((first.script().puts.len(), second.script().puts.len()), (1, 2));
    assert_eq!(client.leader_address(b"k").as_ref(), Some(&second.address));
}

#[tokio::test]
async fn an_answer_that_was_forwarded_moves_the_next_request_to_the_leader() {
    let (first, second, client) = two_nodes(0).await;
    first.then(Step::HintLeader(second.address.clone()));
    client.put("k", "v").await.unwrap();
    assert_eq!(second.script().puts.len(), 0);
    client.put("k", "v").await.unwrap();
    assert_eq!((first.script().puts.len(), second.script().puts.len()), (1, 1));
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_sent_again_under_the_same_request_id() {
    for step in [Step::Hang, Step::Fail(Failure::new(Reason::OutcomeUnknown, "deposed"))] {
        let (first, second, client) = two_nodes_for(0, impatient).await;
        first.then(step);
        client.put("k", "v").await.unwrap();
        let (sent, resent) = (first.script().puts.clone(), second.script().puts.clone());
        assert_eq!((sent.len(), resent.len()), (1, 1));
        assert_eq!(sent, resent, "the same contents under the same id");
        assert_eq!(sent[0].request_id.as_ref().unwrap().sequence, 1);
        client.put("k", "v").await.unwrap();
        let last = if first.script().puts.len() > 1 { first.script() } else { second.script() }.puts.pop().unwrap();
        let id = last.request_id.unwrap();
        assert_eq!((id.sequence, id.acknowledged_below), (2, 2));
    }
}

#[tokio::test]
async fn a_write_survives_the_end_of_its_node() {
    let (mut first, second, client) = two_nodes(0).await;
    first.then(Step::Hang);
    let writer = tokio::spawn({
        let client = client.clone();
        async move { client.put("k", "v").await }
    });
    until("the put is there", || !first.script().puts.is_empty()).await;
    first.kill();
    writer.await.unwrap().unwrap();
    assert_eq!(first.script().puts, second.script().puts);
    // The dead node refuses connections; requests go round it.
    assert!(client.get("k").await.unwrap().found);
}

#[tokio::test]
async fn without_request_ids_a_write_that_may_have_happened_is_not_sent_again() {
    let (mut first, second) = (FakeNode::start(), FakeNode::start());
    form_cluster(&[&first, &second], 0);
    let client = Client::connect(ClientConfig { request_ids: false, ..config(&[&first, &second]) }).await.unwrap();

    first.then(Step::Fail(Failure::new(Reason::OutcomeUnknown, "deposed")));
    let error = client.put("k", "v").await.unwrap_err();
    assert!(error.outcome_unknown);
    assert_eq!(error.reason(), Some(Reason::OutcomeUnknown));

    first.then(Step::Hang);
    let error = client.with_timeout(Duration::from_millis(300)).put("k", "v").await.unwrap_err();
    assert!(error.outcome_unknown, "{error}");

    first.then(Step::Hang);
    let before = first.script().puts.len();
    let writer = tokio::spawn({
        let client = client.clone();
        async move { client.put("k", "v").await }
    });
    until("the put is there", || first.script().puts.len() > before).await;
    first.kill();
    let error = writer.await.unwrap().unwrap_err();
    assert!(error.outcome_unknown, "{error}");
    assert_eq!(second.script().puts.len(), 0);
    assert!(first.script().puts.iter().all(|put| put.request_id.is_none()));

    // What surely did not happen is sent again even so.
    assert!(client.put("k", "v").await.unwrap().applied);
    assert_eq!(second.script().puts.len(), 1);
}

#[tokio::test]
async fn an_unknown_outcome_is_not_forgotten_when_a_later_attempt_fails_plainly() {
    let (first, second, client) = two_nodes_for(0, impatient).await;
    first.then(Step::Hang);
    second.then(Step::Fail(Failure::new(Reason::ConditionFailed, "no")));
    let error = client.put("k", "v").await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::ConditionFailed));
    assert!(error.outcome_unknown);
}

#[tokio::test]
async fn a_request_that_must_be_fixed_fails_at_once() {
    let (first, second, client) = two_nodes(0).await;
    first.then(Step::Fail(Failure::too_large(Reason::KeyTooLarge, "key", 9000, 4096)));
    let error = client.put("k", "v").await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::KeyTooLarge));
    assert_eq!(error.failure.as_ref().unwrap().metadata["limit"], "4096");
    assert!(!error.outcome_unknown);
    assert_eq!((first.script().puts.len(), second.script().puts.len()), (1, 0));
}

#[tokio::test]
async fn a_node_that_freezes_is_noticed_by_its_pings_and_gone_round() {
    let (first, second) = (FakeNode::start(), FakeNode::start());
    form_cluster(&[&first, &second], 0);
    let client = Client::connect(ClientConfig {
        // Only the pings can notice.
        keepalive_interval: Duration::from_millis(50),
        keepalive_timeout: Duration::from_millis(200),
        connect_timeout: Duration::from_millis(200),
        ..config(&[&first, &second])
    })
    .await
    .unwrap();
    first.then(Step::Freeze);
    let started = Instant::now();
    assert!(client.get("k").await.unwrap().found);
    assert!(started.elapsed() < Duration::from_secs(4), "took {:?}", started.elapsed());
    // The kernel still accepts connections for it. Nobody waits for them now.
    let started = Instant::now();
    for _ in 0..20 {
        assert!(client.get("k").await.unwrap().found);
    }
    assert!(started.elapsed() < Duration::from_secs(4), "took {:?}", started.elapsed());
    assert!(second.script().gets >= 21);
}

#[tokio::test]
async fn many_failing_requests_cause_few_refreshes_and_the_new_leader_is_found() {
    let (first, second, client) = two_nodes(0).await;
    let before = first.script().statuses + second.script().statuses;
    for _ in 0..200 {
        first.then(Step::Fail(Failure::new(Reason::NoLeader, "election")));
    }
    form_cluster(&[&first, &second], 1);
    let requests = (0..100).map(|_| client.put("k", "v"));
    for answer in futures::future::join_all(requests).await {
        answer.unwrap();
    }
    until("the map is refreshed", || client.leader_address(b"k").as_ref() == Some(&second.address)).await;
    let asked = first.script().statuses + second.script().statuses - before;
    assert!(asked <= 2 * 10, "{asked} status requests for 100 failures");
}

#[tokio::test]
async fn a_leader_that_comes_back_is_used_again() {
    let (mut first, second, client) = two_nodes(0).await;
    first.kill();
    assert!(client.get("k").await.unwrap().found);
    let back = FakeNode::start_again(&first.address);
    form_cluster(&[&back, &second], 0);
    let deadline = Instant::now() + Duration::from_secs(5);
    while back.script().gets == 0 {
        assert!(client.get("k").await.unwrap().found);
        assert!(Instant::now() < deadline, "requests still go round the leader");
    }
}

#[tokio::test]
async fn the_deadline_goes_along_and_a_request_given_up_is_cancelled_on_the_node() {
    let (first, _second, client) = two_nodes_for(0, impatient).await;
    client.put("k", "v").await.unwrap();
    assert_eq!(first.script().deadlines, ["450000u"], "an attempt of 500 ms, and a little less for the node");
    first.then(Step::Hang);
    {
        let mut request = Box::pin(client.put("k", "v"));
        let arrived = until("the put is there", || first.script().puts.len() == 2);
        tokio::select! {
            biased;
            () = arrived => {}
            answer = &mut request => panic!("{answer:?}"),
        }
    }
    until("the node gives it up too", || first.script().given_up > 0).await;
}

#[tokio::test]
async fn endpoints_that_nobody_answers_are_an_error_that_names_one() {
    let mut gone = FakeNode::start();
    let address = gone.address.clone();
    gone.kill();
    let error = Client::connect(ClientConfig::new([address.clone()])).await.err().unwrap();
    assert_eq!(error.code, tonic::Code::Unavailable);
    assert!(error.message.contains(&address), "{error}");
}

fn page(keys: &[&str]) -> v1::ScanResponse {
    let pair = |key: &&str| v1::KeyValuePair { key: (*key).to_owned().into(), ..Default::default() };
    v1::ScanResponse { pairs: keys.iter().map(pair).collect() }
}

#[tokio::test]
async fn a_scan_goes_on_behind_the_last_pair_read() {
    let (first, second, client) = two_nodes(0).await;
    for node in [&first, &second] {
        // Whichever is asked first breaks off; the other, or the same again, has the rest.
        node.then(Step::PagesThenStatus(vec![page(&["a", "b"])], Status::unavailable("gone")));
        node.then(Step::PagesThenStatus(vec![page(&["c"])], Status::unavailable("gone")));
    }
    let request = v1::ScanRequest { limit: 4, keys_only: true, ..Default::default() };
    let pairs: Vec<_> = client.scan(request).map(|pair| pair.unwrap().key).take(4).collect().await;
    assert_eq!(pairs, ["a", "b", "a", "b"], "each node's script starts with the same page");
    let mut scans = [first.script().scans.clone(), second.script().scans.clone()].concat();
    scans.sort_by_key(|scan| std::cmp::Reverse(scan.limit));
    assert_eq!(scans.len(), 2);
    assert_eq!((scans[0].start.as_ref(), scans[0].limit), (b"".as_ref(), 4));
    assert_eq!((scans[1].start.as_ref(), scans[1].limit), (b"b\0".as_ref(), 2));
}

#[tokio::test]
async fn values_larger_than_the_flow_control_windows_arrive_whole() {
    let (_first, second, client) = two_nodes(1).await;
    let value = vec![7u8; 3 * 1024 * 1024];
    let answers = futures::future::join_all((0..8).map(|_| client.put("k", value.clone()))).await;
    for answer in answers {
        assert_eq!(answer.unwrap().version, value.len() as u64);
    }
    assert_eq!(second.script().puts.len(), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_carries_more_than_its_windows_in_both_directions() {
    let (_first, second, client) = two_nodes(1).await;
    let (sender, mut receiver) = client.pipeline_to(&second.address).await.unwrap();
    const REQUESTS: u64 = 20_000;
    let writer = tokio::spawn(async move {
        for id in 0..REQUESTS {
            let put = v1::PutRequest { key: "k".into(), value: vec![1u8; 1024].into(), ..Default::default() };
            let request = v1::PipelineRequest { id, request: Some(v1::pipeline_request::Request::Put(put)) };
            sender.send(request).await.unwrap();
        }
    });
    let mut received = 0;
    while let Some(answer) = receiver.receive().await.unwrap() {
        assert_eq!(answer.id, received);
        received += 1;
    }
    writer.await.unwrap();
    assert_eq!(received, REQUESTS);
}

#[tokio::test]
async fn giving_up_a_pipelines_answers_ends_its_sender() {
    let (_first, second, client) = two_nodes(1).await;
    let (sender, receiver) = client.pipeline_to(&second.address).await.unwrap();
    drop(receiver);
    let request = v1::PipelineRequest { id: 1, request: None };
    let deadline = Instant::now() + Duration::from_secs(5);
    while sender.send(request.clone()).await.is_ok() {
        assert!(Instant::now() < deadline, "the stream goes on for nobody");
        tokio::task::yield_now().await;
    }
}
