//! A cluster of scripted nodes, each a real gRPC server on its own runtime, so that one can be cut off or
//! frozen as a process can.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cirrus_proto::v1::cluster_server::{Cluster, ClusterServer};
use cirrus_proto::v1::key_value_server::{KeyValue, KeyValueServer};
use cirrus_proto::v1::*;
use cirrus_proto::{Failure, LEADER_METADATA};
use futures::{Stream, StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

/// What a node does with a request. With an empty script it answers.
pub(crate) enum Step {
    Fail(Failure),
    /// Answers, and names that leader as one that it forwarded to.
    HintLeader(String),
    /// Never answers.
    Hang,
    /// Stops the whole node for good, as SIGSTOP does: its sockets stay open.
    Freeze,
    /// A scan's first pages, then this status.
    PagesThenStatus(Vec<ScanResponse>, Status),
}

#[derive(Default)]
pub(crate) struct Script {
    pub(crate) steps: VecDeque<Step>,
    pub(crate) puts: Vec<PutRequest>,
    pub(crate) gets: usize,
    pub(crate) scans: Vec<ScanRequest>,
    /// The `grpc-timeout` of each put.
    pub(crate) deadlines: Vec<String>,
    /// Requests that hung until their client gave them up.
    pub(crate) given_up: usize,
    pub(crate) statuses: usize,
    pub(crate) status: StatusResponse,
}

pub(crate) struct FakeNode {
    pub(crate) address: String,
    script: Arc<Mutex<Script>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl FakeNode {
    pub(crate) fn start() -> FakeNode {
        FakeNode::start_on(std::net::TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// A new node on the address of one that was killed.
    pub(crate) fn start_again(address: &str) -> FakeNode {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match std::net::TcpListener::bind(address) {
                Ok(listener) => return FakeNode::start_on(listener),
                Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn start_on(listener: std::net::TcpListener) -> FakeNode {
        listener.set_nonblocking(true).unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        // One worker, so that one blocked handler freezes the node.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let script = Arc::new(Mutex::new(Script::default()));
        let service = Service { script: Arc::clone(&script) };
        runtime.spawn(async move {
            let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
            tonic::transport::Server::builder()
                .add_service(KeyValueServer::new(service.clone()))
                .add_service(ClusterServer::new(service))
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        FakeNode { address: address.to_string(), script, runtime: Some(runtime) }
    }

    pub(crate) fn script(&self) -> parking_lot::MutexGuard<'_, Script> {
        self.script.lock()
    }

    pub(crate) fn then(&self, step: Step) {
        self.script().steps.push_back(step);
    }

    /// Ends the node and its connections.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Tells every node that they form a cluster of one data shard, led by the node at that index.
pub(crate) fn form_cluster(nodes: &[&FakeNode], leader: usize) {
    let status = StatusResponse {
        nodes: nodes
            .iter()
            .zip(1..)
            .map(|(node, node_id)| NodeStatus { node_id, address: node.address.clone(), ..Default::default() })
            .collect(),
        shards: (0..=1)
            .map(|shard_id| ShardStatus { shard_id, leader_node_id: leader as u64 + 1, term: 1, ..Default::default() })
            .collect(),
        ..Default::default()
    };
    for node in nodes {
        node.script().status = status.clone();
    }
}

/// Counts when a hanging handler is dropped.
struct GivenUp(Arc<Mutex<Script>>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.lock().given_up += 1;
    }
}

#[derive(Clone)]
struct Service {
    script: Arc<Mutex<Script>>,
}

impl Service {
    async fn play<T>(&self, answer: T) -> Result<Response<T>, Status> {
        let step = self.script.lock().steps.pop_front();
        match step {
            None | Some(Step::PagesThenStatus(..)) => Ok(Response::new(answer)),
            Some(Step::Fail(failure)) => Err(failure.into()),
            Some(Step::HintLeader(leader)) => {
                let mut response = Response::new(answer);
                response.metadata_mut().insert(LEADER_METADATA, leader.parse().unwrap());
                Ok(response)
            }
            Some(Step::Hang) => {
                let _given_up = GivenUp(Arc::clone(&self.script));
                std::future::pending().await
            }
            Some(Step::Freeze) => {
                std::thread::sleep(Duration::from_secs(5));
                Err(Status::unavailable("woken up"))
            }
        }
    }
}

type BoxedStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl KeyValue for Service {
    type ScanStream = BoxedStream<ScanResponse>;
    type PipelineStream = BoxedStream<PipelineResponse>;

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        self.script.lock().gets += 1;
        self.play(GetResponse { found: true, value: request.into_inner().key, ..Default::default() }).await
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let deadline = request.metadata().get("grpc-timeout").map(|value| value.to_str().unwrap().to_owned());
        let request = request.into_inner();
        let version = request.value.len() as u64;
        {
            let mut script = self.script.lock();
            script.deadlines.extend(deadline);
            script.puts.push(request);
        }
        self.play(PutResponse { applied: true, version }).await
    }

    async fn delete(&self, _: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        self.play(DeleteResponse::default()).await
    }

    async fn increment(&self, _: Request<IncrementRequest>) -> Result<Response<IncrementResponse>, Status> {
        self.play(IncrementResponse::default()).await
    }

    async fn batch(&self, _: Request<BatchRequest>) -> Result<Response<BatchResponse>, Status> {
        self.play(BatchResponse::default()).await
    }

    async fn transact(&self, _: Request<TransactRequest>) -> Result<Response<TransactResponse>, Status> {
        self.play(TransactResponse::default()).await
    }

    async fn scan(&self, request: Request<ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let mut script = self.script.lock();
        script.scans.push(request.into_inner());
        let items: Vec<_> = match script.steps.pop_front() {
            Some(Step::PagesThenStatus(pages, status)) => pages.into_iter().map(Ok).chain([Err(status)]).collect(),
            _ => Vec::new(),
        };
        Ok(Response::new(stream::iter(items).boxed()))
    }

    async fn pipeline(
        &self,
        requests: Request<Streaming<PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        let answers = requests.into_inner().map(|request| {
            let request = request?;
            let Some(pipeline_request::Request::Put(put)) = request.request else {
                return Err(Status::unimplemented("only puts"));
            };
            // Answers as large as the requests, so that both directions are limited by their windows.
            let answer = GetResponse { found: true, value: put.value, ..Default::default() };
            Ok(PipelineResponse { id: request.id, response: Some(pipeline_response::Response::Get(answer)) })
        });
        Ok(Response::new(answers.boxed()))
    }
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let mut script = self.script.lock();
        script.statuses += 1;
        Ok(Response::new(script.status.clone()))
    }

    type VerifyStream = BoxedStream<VerifyResponse>;

    async fn verify(&self, _: Request<VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        Err(Status::unimplemented("not part of these tests"))
    }
}
