//! The driver against nodes that live in this process: three of them over one map of values.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use cirrus_proto::v1::cluster_server::{Cluster, ClusterServer};
use cirrus_proto::v1::key_value_server::{KeyValue, KeyValueServer};
use cirrus_proto::v1::procedures_server::{Procedures, ProceduresServer};
use cirrus_proto::v1::{self, pipeline_request, pipeline_response};
use cirrus_proto::{Reason, routing};
use futures::{Stream, StreamExt as _};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Code, Request, Streaming};

use cirrus_proto::v1::{CallRequest, GetRequest, PutRequest, StatusRequest, StatusResponse, UploadLibraryRequest};
use cirrus_proto::{Failure, LEADER_METADATA};
use std::sync::Arc;
use tonic::{Response, Status};

use super::*;
use crate::arguments::{KvArgs, Mode};
use crate::driver::PipelinedSession as _;
use crate::load::{self, Plan};
use crate::report::Report;
use crate::target::{System, Target};

const SHARD_COUNT: u32 = 6;
const NODE_COUNT: usize = 3;

#[derive(Default)]
struct World {
    addresses: Vec<String>,
    values: Mutex<HashMap<Bytes, Bytes>>,
    libraries: Mutex<HashMap<String, Bytes>>,
    /// Added to a shard's id to find its leader.
    rotation: AtomicUsize,
    /// Requests that reached a node which does not lead the key's shard.
    astray: AtomicU64,
    /// Whether such a node refuses, rather than forwards.
    refuses_astray: AtomicBool,
    /// Breaks the next pipeline's stream at its first request.
    breaks_next_stream: AtomicBool,
}

impl World {
    fn leader(&self, shard: u32) -> usize {
        (shard as usize + self.rotation.load(Ordering::SeqCst)) % NODE_COUNT
    }
}

#[derive(Clone)]
struct FakeNode {
    world: Arc<World>,
    number: usize,
}

type Answer<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl FakeNode {
    /// Answers as a node does that is, or is not, the leader.
    fn answer<T>(&self, key: &Bytes, value: T) -> Answer<T> {
        let leader = self.world.leader(routing::shard_of_key(key, SHARD_COUNT));
        let mut response = Response::new(value);
        if leader != self.number {
            self.world.astray.fetch_add(1, Ordering::SeqCst);
            let address = &self.world.addresses[leader];
            if self.world.refuses_astray.load(Ordering::SeqCst) {
                return Err(Failure::new(Reason::NotLeader, "ask another").with("leader", address).into());
            }
            response.metadata_mut().insert(LEADER_METADATA, address.parse().unwrap());
        }
        Ok(response)
    }

    fn store(&self, put: PutRequest) -> v1::PutResponse {
        self.world.values.lock().insert(put.key, put.value);
        v1::PutResponse { applied: true, version: 1 }
    }

    fn read(&self, key: &Bytes) -> v1::GetResponse {
        let value = self.world.values.lock().get(key).cloned();
        v1::GetResponse { found: value.is_some(), value: value.unwrap_or_default(), ..Default::default() }
    }
}

fn unused<T>() -> Answer<T> {
    Err(Status::unimplemented("the bench has no use for it"))
}

#[tonic::async_trait]
impl KeyValue for FakeNode {
    type ScanStream = Answers<v1::ScanResponse>;
    type PipelineStream = Answers<v1::PipelineResponse>;

    async fn get(&self, request: Request<GetRequest>) -> Answer<v1::GetResponse> {
        let key = request.into_inner().key;
        self.answer(&key, self.read(&key))
    }

    async fn put(&self, request: Request<PutRequest>) -> Answer<v1::PutResponse> {
        let put = request.into_inner();
        self.answer(&put.key.clone(), self.store(put))
    }

    async fn pipeline(&self, request: Request<Streaming<v1::PipelineRequest>>) -> Answer<Self::PipelineStream> {
        let node = self.clone();
        let answers = request.into_inner().map(move |request| {
            let v1::PipelineRequest { id, request } = request?;
            if node.world.breaks_next_stream.swap(false, Ordering::SeqCst) {
                return Err(Failure::new(Reason::ShuttingDown, "stopping").into());
            }
            let response = match request.unwrap() {
                pipeline_request::Request::Put(put) if put.value.len() == 13 => {
                    let failure = v1::Failure {
                        code: Code::InvalidArgument.into(),
                        message: "bad luck".to_owned(),
                        reason: Reason::ValueTooLarge.as_str().to_owned(),
                        retry_after_ms: 0,
                    };
                    pipeline_response::Response::Failure(failure)
                }
                pipeline_request::Request::Put(put) => pipeline_response::Response::Put(node.store(put)),
                pipeline_request::Request::Get(get) => pipeline_response::Response::Get(node.read(&get.key)),
                other => panic!("{other:?}"),
            };
            Ok(v1::PipelineResponse { id, response: Some(response) })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn delete(&self, _: Request<v1::DeleteRequest>) -> Answer<v1::DeleteResponse> {
        unused()
    }
    async fn increment(&self, _: Request<v1::IncrementRequest>) -> Answer<v1::IncrementResponse> {
        unused()
    }
    async fn batch(&self, _: Request<v1::BatchRequest>) -> Answer<v1::BatchResponse> {
        unused()
    }
    async fn transact(&self, _: Request<v1::TransactRequest>) -> Answer<v1::TransactResponse> {
        unused()
    }
    async fn scan(&self, _: Request<v1::ScanRequest>) -> Answer<Self::ScanStream> {
        unused()
    }
}

#[tonic::async_trait]
impl Procedures for FakeNode {
    type FollowLogsStream = Answers<v1::FollowLogsResponse>;

    async fn upload_library(&self, request: Request<UploadLibraryRequest>) -> Answer<v1::UploadLibraryResponse> {
        let upload = request.into_inner();
        let library = v1::Library { name: upload.name.clone(), version: 1, ..Default::default() };
        self.world.libraries.lock().insert(upload.name, upload.source);
        Ok(Response::new(v1::UploadLibraryResponse { library: Some(library), ..Default::default() }))
    }

    async fn call(&self, request: Request<CallRequest>) -> Answer<v1::CallResponse> {
        let call = request.into_inner();
        let (library, function) = call.procedure.split_once('.').unwrap();
        let source = self.world.libraries.lock().get(library).cloned().ok_or_else(|| Status::not_found("library"))?;
        assert!(String::from_utf8_lossy(&source).contains(&format!("function {function}(")));
        let mut values = self.world.values.lock();
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).parse::<i64>().unwrap();
        let sum = values.get(&call.key).map_or(0, text) + text(&call.args[0]);
        let result = Bytes::from(sum.to_string());
        values.insert(call.key.clone(), result.clone());
        drop(values);
        self.answer(&call.key, v1::CallResponse { result, ..Default::default() })
    }

    async fn list_libraries(&self, _: Request<v1::ListLibrariesRequest>) -> Answer<v1::ListLibrariesResponse> {
        unused()
    }
    async fn get_library(&self, _: Request<v1::GetLibraryRequest>) -> Answer<v1::GetLibraryResponse> {
        unused()
    }
    async fn activate_library(&self, _: Request<v1::ActivateLibraryRequest>) -> Answer<v1::ActivateLibraryResponse> {
        unused()
    }
    async fn rollback_library(&self, _: Request<v1::RollbackLibraryRequest>) -> Answer<v1::RollbackLibraryResponse> {
        unused()
    }
    async fn set_library_limits(
        &self,
        _: Request<v1::SetLibraryLimitsRequest>,
    ) -> Answer<v1::SetLibraryLimitsResponse> {
        unused()
    }
    async fn list_library_versions(
        &self,
        _: Request<v1::ListLibraryVersionsRequest>,
    ) -> Answer<v1::ListLibraryVersionsResponse> {
        unused()
    }
    async fn follow_logs(&self, _: Request<v1::FollowLogsRequest>) -> Answer<Self::FollowLogsStream> {
        unused()
    }
    async fn list_running_calls(
        &self,
        _: Request<v1::ListRunningCallsRequest>,
    ) -> Answer<v1::ListRunningCallsResponse> {
        unused()
    }
    async fn kill_call(&self, _: Request<v1::KillCallRequest>) -> Answer<v1::KillCallResponse> {
        unused()
    }
    async fn schedule_procedure(
        &self,
        _: Request<v1::ScheduleProcedureRequest>,
    ) -> Answer<v1::ScheduleProcedureResponse> {
        unused()
    }
    async fn list_schedules(&self, _: Request<v1::ListSchedulesRequest>) -> Answer<v1::ListSchedulesResponse> {
        unused()
    }
    async fn delete_schedule(&self, _: Request<v1::DeleteScheduleRequest>) -> Answer<v1::DeleteScheduleResponse> {
        unused()
    }
    async fn delete_library(&self, _: Request<v1::DeleteLibraryRequest>) -> Answer<v1::DeleteLibraryResponse> {
        unused()
    }
}

#[tonic::async_trait]
impl Cluster for FakeNode {
    type VerifyStream = Answers<v1::VerifyResponse>;
    async fn verify(&self, _: Request<v1::VerifyRequest>) -> Answer<Self::VerifyStream> {
        unused()
    }

    async fn status(&self, _: Request<StatusRequest>) -> Answer<StatusResponse> {
        let node = |(number, address): (usize, &String)| v1::NodeStatus {
            node_id: number as u64 + 1,
            address: address.clone(),
            ..Default::default()
        };
        let shard = |shard_id| {
            let (first, last) = routing::slots_of_shard(shard_id, SHARD_COUNT);
            v1::ShardStatus {
                shard_id,
                slots: vec![v1::SlotRange { first: first.into(), last: last.into() }],
                leader_node_id: self.world.leader(shard_id) as u64 + 1,
                term: 1,
                ..Default::default()
            }
        };
        let catalog = v1::ShardStatus { leader_node_id: 1, term: 1, ..Default::default() };
        Ok(Response::new(StatusResponse {
            nodes: self.world.addresses.iter().enumerate().map(node).collect(),
            shards: std::iter::once(catalog).chain((1..=SHARD_COUNT).map(shard)).collect(),
            ..Default::default()
        }))
    }
}

async fn start() -> Arc<World> {
    let mut listeners = Vec::new();
    for _ in 0..NODE_COUNT {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let addresses = listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
    let world = Arc::new(World { addresses, ..World::default() });
    for (number, listener) in listeners.into_iter().enumerate() {
        let node = FakeNode { world: Arc::clone(&world), number };
        let server = Server::builder()
            .add_service(KeyValueServer::new(node.clone()))
            .add_service(ProceduresServer::new(node.clone()))
            .add_service(ClusterServer::new(node));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    }
    world
}

/// By way of the first node only: the others are found through it.
async fn connect(world: &World) -> CirrusDriver {
    CirrusDriver::connect(&world.addresses[..1], 2, Duration::from_secs(10)).await.unwrap()
}

fn key(number: usize) -> Bytes {
    Bytes::from(format!("key {number}"))
}

#[tokio::test]
async fn every_request_goes_straight_to_its_leader() {
    let world = start().await;
    let driver = connect(&world).await;
    driver.prepare(Operation::Call).await.unwrap();
    let mut session = driver.session(1).await.unwrap();
    for number in 0..50 {
        session.put(key(number), Bytes::from_static(b"value")).await.unwrap();
        assert_eq!(session.get(key(number)).await.unwrap(), Some(5));
        session.call(Bytes::from(format!("number {number}"))).await.unwrap();
    }
    assert_eq!(session.get(Bytes::from_static(b"absent")).await.unwrap(), None);
    assert_eq!(world.astray.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_leader_that_moved_is_learnt_from_the_first_answer() {
    let world = start().await;
    let driver = connect(&world).await;
    let mut session = driver.session(0).await.unwrap();
    let value = Bytes::from_static(b"value");
    session.put(key(1), value.clone()).await.unwrap();
    assert_eq!(world.astray.load(Ordering::SeqCst), 0);

    world.rotation.fetch_add(1, Ordering::SeqCst);
    let mut moved = driver.session(0).await.unwrap();
    moved.put(key(1), value.clone()).await.unwrap();
    moved.put(key(1), value.clone()).await.unwrap();
    assert!(world.astray.load(Ordering::SeqCst) <= 1, "forwarded once, or not at all after a refresh");

    world.refuses_astray.store(true, Ordering::SeqCst);
    world.rotation.fetch_add(1, Ordering::SeqCst);
    moved.put(key(1), value.clone()).await.unwrap();
    moved.put(key(1), value).await.unwrap();
    assert!(world.astray.load(Ordering::SeqCst) <= 2, "refused once, or not at all after a refresh");
}

fn put(number: usize, value: &'static [u8]) -> crate::workload::Request {
    crate::workload::Request::Put { key: key(number), value: Bytes::from_static(value) }
}

#[tokio::test]
async fn a_pipeline_answers_every_request_under_its_id() {
    let world = start().await;
    let driver = connect(&world).await;
    let mut pipeline = driver.pipeline(0, 100);
    for id in 0..99 {
        pipeline.submit(id, put(id, b"value"));
    }
    pipeline.submit(99, put(99, b"unlucky value"));
    let mut answered = Vec::new();
    for _ in 0..100 {
        let (id, outcome) = pipeline.completion().await;
        match id {
            99 => assert_eq!(outcome.unwrap_err().kind, "VALUE_TOO_LARGE"),
            _ => assert_eq!(outcome.unwrap(), crate::driver::Answer::Done),
        }
        answered.push(id);
    }
    answered.sort_unstable();
    assert_eq!(answered, (0..100).collect::<Vec<_>>());
    assert_eq!(world.values.lock().len(), 99);

    pipeline.submit(3, crate::workload::Request::Get { key: key(3) });
    assert_eq!(pipeline.completion().await, (3, Ok(crate::driver::Answer::Value(Some(5)))));
}

#[tokio::test]
async fn a_broken_stream_fails_what_was_on_it_and_the_next_request_opens_another() {
    let world = start().await;
    let driver = connect(&world).await;
    let mut pipeline = driver.pipeline(0, 2);
    world.breaks_next_stream.store(true, Ordering::SeqCst);
    for id in 0..2 {
        pipeline.submit(id, put(7, b"value"));
    }
    for _ in 0..2 {
        let (_, outcome) = pipeline.completion().await;
        assert_eq!(outcome.unwrap_err().kind, "SHUTTING_DOWN");
    }
    pipeline.submit(0, put(7, b"value"));
    assert_eq!(pipeline.completion().await, (0, Ok(crate::driver::Answer::Done)));
}

async fn measure(world: &World, operation: Operation, mode: Mode) -> Report {
    let target = Target { system: System::Cirrus, endpoints: world.addresses.clone() };
    let args = KvArgs {
        operation,
        clients: 4,
        seconds: 0.3,
        warmup_seconds: 0.1,
        value_bytes: 64,
        keys: 100,
        get_percent: 50,
        target: None,
        mode,
        window: 16,
        connections: 1,
        threads: 1,
        connect_seconds: 10.0,
    };
    let plan = Plan::new(&args).unwrap();
    let driver = connect(world).await;
    let measurement = match mode {
        Mode::Unary => load::run(&driver, &plan).await,
        Mode::Pipeline => load::run_pipelined(&driver, &plan, args.window).await,
    };
    Report::new(&args, target, &measurement.unwrap())
}

#[tokio::test]
async fn whole_runs_succeed_at_every_operation() {
    for operation in [Operation::Put, Operation::Get, Operation::Mixed, Operation::Call] {
        for mode in [Mode::Unary, Mode::Pipeline] {
            if System::Cirrus.require_support(operation, mode).is_ok() {
                let world = start().await;
                let report = measure(&world, operation, mode).await;
                assert!(report.operations > 10 && report.errors.is_empty(), "{report}");
                if operation == Operation::Get {
                    assert_eq!(world.values.lock().len(), 100, "all keys were stored first");
                }
            }
        }
    }
}
