//! Whole nodes in this process, as a client of any language meets them.

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use cirrus_proto::v1::key_value_client::KeyValueClient;
use cirrus_proto::v1::pipeline_request::Request as Pipelined;
use cirrus_proto::v1::pipeline_response::Response as Answered;
use cirrus_proto::v1::procedures_client::ProceduresClient;
use cirrus_proto::v1::{
    BatchRequest, CallRequest, GetRequest, IncrementRequest, PipelineRequest, PutRequest, ScanRequest,
    UploadLibraryRequest, WriteOperation, write_operation,
};
use cirrus_proto::{Failure, Reason};
use cirrus_server::{ServeError, ServerConfig};
use futures::TryStreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1alpha::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1alpha::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1alpha::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1alpha::{ServerReflectionRequest, ServerReflectionResponse};

/// Long enough for a machine under load.
const BOUND: Duration = Duration::from_secs(30);

struct Node {
    address: SocketAddr,
    channel: Channel,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), ServeError>>,
    _data: tempfile::TempDir,
}

/// A port that was free a moment ago.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A cluster of one node.
async fn start() -> Node {
    start_node(1, Vec::new()).await
}

/// Starts a node and waits until its health service says that it serves.
async fn start_node(node_id: u64, join: Vec<String>) -> Node {
    let data = tempfile::tempdir().unwrap();
    let address = free_address();
    let config = ServerConfig {
        listen: address.to_string(),
        http_listen: "127.0.0.1:0".to_owned(),
        data_dir: data.path().to_owned(),
        node_id,
        join,
        shards: 4,
        ..ServerConfig::default()
    };
    let (stop, stopped) = oneshot::channel();
    let running = tokio::spawn(cirrus_server::run(config, async move { drop(stopped.await) }));
    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let mut health = HealthClient::new(channel.clone());
    let deadline = Instant::now() + BOUND;
    loop {
        let request = HealthCheckRequest { service: "cirrus.v1.KeyValue".to_owned() };
        let answer = health.check(request).await.map(|answer| answer.into_inner().status());
        if matches!(answer, Ok(ServingStatus::Serving)) {
            return Node { address, channel, stop, running, _data: data };
        }
        assert!(!running.is_finished(), "the node ended: {:?}", running.await);
        assert!(Instant::now() < deadline, "not serving: {answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Node {
    fn key_value(&self) -> KeyValueClient<Channel> {
        KeyValueClient::new(self.channel.clone())
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(BOUND, self.running).await.unwrap().unwrap().unwrap();
    }
}

fn put(key: impl Into<bytes::Bytes>, value: impl Into<bytes::Bytes>) -> PutRequest {
    PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() }
}

fn get(key: &'static str) -> GetRequest {
    GetRequest { key: key.into(), ..GetRequest::default() }
}

fn reason(status: &Status) -> Reason {
    Failure::from_status(status).unwrap_or_else(|| panic!("{status:?} has no reason")).reason
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_stores_scans_calls_and_stops() {
    let node = start().await;
    let mut key_value = node.key_value();

    for number in 0..50 {
        let written = key_value.put(put(format!("user:{number:02}"), "v")).await.unwrap().into_inner();
        assert!(written.applied && written.version > 0);
    }
    assert_eq!(key_value.get(get("user:07")).await.unwrap().into_inner().value, "v");
    assert!(!key_value.get(get("nobody")).await.unwrap().into_inner().found);

    let scan = ScanRequest { prefix: "user:".into(), limit: 20, keys_only: true, ..ScanRequest::default() };
    let pages: Vec<_> = key_value.scan(scan).await.unwrap().into_inner().try_collect().await.unwrap();
    let keys: Vec<_> = pages.into_iter().flat_map(|page| page.pairs).map(|pair| pair.key).collect();
    let expected: Vec<_> = (0..20).map(|number| bytes::Bytes::from(format!("user:{number:02}"))).collect();
    assert_eq!(keys, expected, "in key order over all shards, and no more than asked for");

    let mut procedures = ProceduresClient::new(node.channel.clone());
    let source = "function incr(key, by) local n = (tonumber(_get(key)) or 0) + by; _put(key, n); return n end";
    let upload = UploadLibraryRequest { name: "counters".to_owned(), source: source.into(), ..Default::default() };
    let library = procedures.upload_library(upload).await.unwrap().into_inner().library.unwrap();
    assert_eq!(library.functions, ["incr"]);
    for expected in ["5", "10"] {
        let procedure = "counters.incr".to_owned();
        let call = CallRequest { procedure, key: "hits".into(), args: vec!["5".into()], ..Default::default() };
        assert_eq!(procedures.call(call).await.unwrap().into_inner().result, expected);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_requests_get_a_clear_error_and_the_node_goes_on() {
    let node = start().await;
    let mut key_value = node.key_value();

    let status = key_value.put(put("k", vec![0; 10 << 20])).await.unwrap_err();
    assert_eq!(reason(&status), Reason::ValueTooLarge);
    let failure = Failure::from_status(&status).unwrap();
    assert_eq!((&*failure.metadata["actual"], &*failure.metadata["limit"]), ("10485760", "1048576"));
    assert_eq!(reason(&key_value.put(put("", "v")).await.unwrap_err()), Reason::KeyEmpty);
    assert_eq!(reason(&key_value.get(get("")).await.unwrap_err()), Reason::KeyEmpty);
    let status = key_value.put(put("k", vec![0; 20 << 20])).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");

    let operation = |key: &'static str| {
        let put = write_operation::Operation::Put(put(key, "v"));
        WriteOperation { operation: Some(put) }
    };
    let batch = BatchRequest { operations: vec![operation("foo"), operation("bar")], request_id: None };
    assert_eq!(reason(&key_value.batch(batch).await.unwrap_err()), Reason::CrossShard);

    key_value.put(put("text", "seven")).await.unwrap();
    let increment = IncrementRequest { key: "text".into(), delta: 1, ..IncrementRequest::default() };
    assert_eq!(reason(&key_value.increment(increment).await.unwrap_err()), Reason::NotANumber);

    let mut request = tonic::Request::new(get("text"));
    request.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
    assert_eq!(reason(&key_value.get(request).await.unwrap_err()), Reason::InvalidField);

    let mut garbage = TcpStream::connect(node.address).await.unwrap();
    garbage.write_all(&[b'x'; 4096]).await.unwrap();
    let closed = tokio::time::timeout(BOUND, garbage.read_to_end(&mut Vec::new())).await;
    assert!(closed.is_ok(), "what is not HTTP/2 is closed");

    assert_eq!(key_value.get(get("text")).await.unwrap().into_inner().value, "seven");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_keeps_each_shards_order() {
    let node = start().await;
    let mut requests = Vec::new();
    for id in 0..3000u64 {
        let key = format!("{{tag}}{}", id % 3);
        requests.push(match id % 3 {
            0 => Pipelined::Put(put(key, id.to_string())),
            1 => Pipelined::Increment(IncrementRequest { key: key.into(), delta: 1, ..IncrementRequest::default() }),
            // Reads what the put two requests before it stored.
            _ => Pipelined::Get(GetRequest { key: "{tag}0".into(), ..GetRequest::default() }),
        });
    }
    let numbered = requests.into_iter().enumerate();
    let numbered: Vec<_> =
        numbered.map(|(id, request)| PipelineRequest { id: id as u64, request: Some(request) }).collect();
    let answers = node.key_value().pipeline(futures::stream::iter(numbered)).await.unwrap().into_inner();
    let answers: Vec<_> = answers.try_collect().await.unwrap();
    assert_eq!(answers.len(), 3000);
    for answer in answers {
        match answer.response.unwrap() {
            Answered::Put(put) => assert!(put.applied),
            Answered::Increment(increment) => assert_eq!(increment.value, answer.id as i64 / 3 + 1),
            Answered::Get(get) => assert_eq!(get.value, (answer.id - 2).to_string()),
            other => panic!("request {} answered {other:?}", answer.id),
        }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_names_the_public_services_and_no_other() {
    let node = start().await;
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(node.channel.clone());
    let answer = reflection.server_reflection_info(futures::stream::iter([request])).await.unwrap();
    let answer: Vec<ServerReflectionResponse> = answer.into_inner().try_collect().await.unwrap();
    let Some(MessageResponse::ListServicesResponse(services)) = answer[0].message_response.clone() else {
        panic!("{answer:?}");
    };
    let names: Vec<String> = services.service.into_iter().map(|service| service.name).collect();
    for service in ["KeyValue", "Procedures", "Cluster"] {
        assert!(names.contains(&format!("cirrus.v1.{service}")), "{names:?}");
    }
    assert!(names.iter().all(|name| !name.contains("internal")), "{names:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_pipeline_and_a_health_watch_do_not_hold_up_a_stop() {
    let node = start().await;
    let (requests, receiver) = tokio::sync::mpsc::channel(1);
    let requested = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = node.key_value().pipeline(requested).await.unwrap().into_inner();
    requests.send(PipelineRequest { id: 1, request: Some(Pipelined::Put(put("k", "v"))) }).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().id, 1);
    let mut health = HealthClient::new(node.channel.clone());
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);

    let began = Instant::now();
    node.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
    assert_eq!(reason(&answers.message().await.unwrap_err()), Reason::ShuttingDown);
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_to_any_node_keeps_the_order_at_the_leaders() {
    let first = start_node(1, Vec::new()).await;
    let join = vec![first.address.to_string()];
    let second = start_node(2, join.clone()).await;
    let third = start_node(3, join).await;
    let nodes = [first, second, third];
    let mut expected = 0;
    for node in &nodes {
        let increment = |id: u64| {
            // Over all shards, one key each.
            let key = format!("counter{}", id % 16);
            let request = Pipelined::Increment(IncrementRequest { key: key.into(), delta: 1, ..Default::default() });
            PipelineRequest { id, request: Some(request) }
        };
        let requests = futures::stream::iter((0..1600).map(increment));
        let answers = node.key_value().pipeline(requests).await.unwrap().into_inner();
        let answers: Vec<_> = answers.try_collect().await.unwrap();
        assert_eq!(answers.len(), 1600);
        for answer in answers {
            let Answered::Increment(increment) = answer.response.clone().unwrap() else { panic!("{answer:?}") };
            assert_eq!(increment.value, expected + answer.id as i64 / 16 + 1, "request {}", answer.id);
        }
        expected += 100;
    }
    for node in nodes {
        node.stop().await;
    }
}
