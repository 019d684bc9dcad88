//! Groups in this process: real storage, real connections, a small evaluator.

#![allow(clippy::unwrap_used)]

mod executor;
mod failures;
mod gateway;
mod nodes;
mod refused_snapshots;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cirrus_engine::{Transaction, View as _};
use cirrus_proto::internal::v1::command::Kind;
use cirrus_proto::internal::v1::node_server::{Node as NodeRpc, NodeServer};
use cirrus_proto::internal::v1::{self as pb, Command, Reply, reply};
use cirrus_proto::limits::Limits;
use cirrus_proto::v1::{FollowLogsRequest, IncrementRequest, PutRequest};
use cirrus_proto::{Failure, Reason};
use cirrus_storage::StorageConfig;
use parking_lot::{Condvar, Mutex};
use prost::Message as _;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{MakeEvaluator, Replication, ReplicationConfig};
use crate::convert::Node;
use crate::evaluation::{Evaluated, Evaluator, Place, Stopped};
use crate::mailbox::Executed;
use crate::shard::Shard;
use crate::timing::Timing;
use crate::wire::{LINK_FIRST_BYTE, MESSAGE_BYTES_MAX};
use gateway::Gateway;

/// Long enough for a machine under load; only a test that fails waits for it.
const BOUND: Duration = Duration::from_secs(30);

/// Waits until something holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + BOUND;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {BOUND:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn soon() -> Instant {
    Instant::now() + BOUND
}

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Command {
    let request = PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() };
    Command { kind: Some(Kind::Put(request)) }
}

fn increment(key: &'static str) -> Command {
    let request = IncrementRequest { key: key.into(), delta: 1, ..IncrementRequest::default() };
    Command { kind: Some(Kind::Increment(request)) }
}

fn incremented(executed: &Executed) -> i64 {
    match &executed.reply.kind {
        Some(reply::Kind::Increment(response)) => response.value,
        other => panic!("{other:?}"),
    }
}

/// What is applied under a key.
fn value(shard: &Shard, key: &str) -> Option<Bytes> {
    let stored = shard.view().get(pb::Table::Data, key.as_bytes()).unwrap()?;
    Some(pb::StoredValue::decode(stored).unwrap().value)
}

/// A put to this key writes [`HALF_WRITTEN`], then fails.
const REFUSED: &str = "refused";
const HALF_WRITTEN: &str = "half-written";

/// A put to this key is thought to be quick, and is not: it writes [`HALF_WRITTEN`], and is given up.
const SLOW: &str = "slow";

/// Counts a node's evaluations and can hold them up.
#[derive(Default)]
struct Evaluations {
    counts: Mutex<Counts>,
    released: Condvar,
}

#[derive(Default)]
struct Counts {
    begun: usize,
    held: bool,
}

impl Evaluations {
    fn begun(&self) -> usize {
        self.counts.lock().begun
    }

    fn hold(&self) {
        self.counts.lock().held = true;
    }

    fn release(&self) {
        self.counts.lock().held = false;
        self.released.notify_all();
    }

    fn begin(&self) {
        let mut counts = self.counts.lock();
        counts.begun += 1;
        let deadline = soon();
        while counts.held && !self.released.wait_until(&mut counts, deadline).timed_out() {}
    }
}

struct TestEvaluator {
    evaluations: Arc<Evaluations>,
    /// A put to [`SLOW`] was given up.
    slow_known: bool,
}

impl Evaluator for TestEvaluator {
    fn evaluate(
        &mut self,
        command: &Command,
        transaction: &mut Transaction<'_>,
        place: Place,
    ) -> Result<Evaluated, Stopped> {
        if let Some(Kind::Put(request)) = &command.kind
            && request.key == SLOW
            && place == Place::Shared
        {
            self.slow_known = true;
            transaction.put(HALF_WRITTEN.into(), "x".into(), 0, 0)?;
            return Err(Stopped::TooLong);
        }
        self.evaluations.begin();
        if let Some(Kind::Put(request)) = &command.kind
            && request.key == REFUSED
        {
            transaction.put(HALF_WRITTEN.into(), "x".into(), 0, 0)?;
            return Err(Failure::new(Reason::ProcedureFailed, "as asked").into());
        }
        if let Some(Kind::RequireCatalog(request)) = &command.kind {
            transaction.require_catalog(request.catalog_index);
            return Ok(Evaluated { reply: Reply { kind: Some(reply::Kind::Done(pb::Done {})) }, procedure: None });
        }
        Ok(Evaluated { reply: cirrus_engine::evaluate(command, transaction)?, procedure: None })
    }

    /// A test may hold an evaluation.
    fn may_run_long(&self, command: &Command) -> bool {
        self.slow_known || !matches!(&command.kind, Some(Kind::Put(request)) if request.key == SLOW)
    }
}

/// What a test's nodes have in common.
#[derive(Clone)]
struct Settings {
    shard_id: u32,
    timing: Timing,
    limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        let timing = Timing { heartbeat_ms: 100, election_min_ms: 400, election_max_ms: 700, ..Timing::default() };
        Settings { shard_id: 1, timing, limits: Limits::DEFAULT }
    }
}

impl Settings {
    /// A snapshot each few entries, and the log purged close behind it.
    fn with_short_log(mut self) -> Self {
        self.timing.snapshot_log_entries = 50;
        self.timing.keep_log_entries = 5;
        self
    }
}

/// A node with one shard.
struct TestNode {
    id: u64,
    settings: Settings,
    data: TempDir,
    replication: Arc<Replication>,
    evaluations: Arc<Evaluations>,
    gateway: Gateway,
    stop_server: oneshot::Sender<()>,
    server: JoinHandle<()>,
}

impl TestNode {
    /// Starts a node whose replica waits to be asked into a group.
    async fn start(id: u64, settings: Settings) -> Self {
        Self::start_from(id, settings, tempfile::tempdir().unwrap(), Gateway::start().await).await
    }

    /// Starts a node that leads a group of its own.
    async fn lead_alone(settings: Settings) -> Self {
        let node = Self::start(1, settings).await;
        node.shard().initialize(1, node.member()).await.unwrap();
        node.until_it_leads().await;
        node
    }

    async fn start_from(id: u64, settings: Settings, data: TempDir, gateway: Gateway) -> Self {
        let evaluations = Arc::new(Evaluations::default());
        let for_executor = evaluations.clone();
        let config = ReplicationConfig {
            node_id: id,
            data_dir: data.path().to_owned(),
            timing: settings.timing.clone(),
            limits: settings.limits,
            storage: StorageConfig::default(),
        };
        let make_evaluator: MakeEvaluator =
            Arc::new(move |_| Box::new(TestEvaluator { evaluations: for_executor.clone(), slow_known: false }));
        let mut opened = Replication::open(config.clone(), make_evaluator.clone());
        // After a crash the last one to let go of the log may still be closing it.
        until("the log opens", || {
            if opened.is_err() {
                opened = Replication::open(config.clone(), make_evaluator.clone());
            }
            opened.is_ok()
        })
        .await;
        // Nobody listens to which shards peers ask for: each node starts its one shard itself.
        let (replication, _) = opened.unwrap();
        replication.start_shard(settings.shard_id).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        gateway.lead_to(listener.local_addr().unwrap());
        let service = NodeServer::new(NodeService(replication.clone()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (stop_server, stopped) = oneshot::channel();
        let server = tonic::transport::Server::builder().add_service(service);
        let (requests, incoming) = mpsc::channel(16);
        let serving = server.serve_with_incoming_shutdown(ReceiverStream::new(incoming), async { drop(stopped.await) });
        let links = replication.clone();
        let accepting = async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (requests, links) = (requests.clone(), links.clone());
                open.spawn(async move {
                    let mut first = [1];
                    match stream.peek(&mut first).await {
                        Ok(1) if first == [LINK_FIRST_BYTE] => links.serve_link(stream).await,
                        Ok(_) => drop(requests.send(Ok::<_, std::io::Error>(stream)).await),
                        // The test closed it.
                        Err(_) => {}
                    }
                });
            }
        };
        let server = tokio::spawn(async move {
            tokio::select! {
                served = serving => served.unwrap(),
                () = accepting => {}
            }
        });
        TestNode { id, settings, data, replication, evaluations, gateway, stop_server, server }
    }

    fn member(&self) -> Node {
        Node { address: self.gateway.address(), http_address: String::new() }
    }

    fn shard(&self) -> Arc<Shard> {
        self.replication.shard(self.settings.shard_id).expect("every test node starts its shard")
    }

    async fn until_it_leads(&self) {
        until("the node leads", || self.replication.shard(self.settings.shard_id).is_some_and(|shard| shard.leads()))
            .await;
    }

    /// The last entry that its log no longer has.
    fn purged_upto(&self) -> Option<u64> {
        Some(self.replication.context.log.shard(self.settings.shard_id).state().last_purged?.index)
    }

    /// Names in the shard's folder of snapshots.
    fn snapshots(&self) -> BTreeSet<String> {
        let folder = self.replication.snapshots_of(self.settings.shard_id);
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Stops without handing anything over or flushing anything, then starts again from what is on disk.
    async fn crash_and_restart(self) -> Self {
        let TestNode { id, settings, data, replication, gateway, stop_server, server, .. } = self;
        gateway.close();
        drop(stop_server);
        tokio::time::timeout(BOUND, server).await.unwrap().unwrap();
        let shard = replication.shard(settings.shard_id).unwrap();
        shard.stop().await;
        replication.context.links.close();
        // The last to let go closes the files: here, and not on a thread that may not be done when they are opened again.
        let (log, state) = (replication.context.log.clone(), shard.state().clone());
        drop((replication, shard));
        until("everybody else let go of the log", || Arc::strong_count(&log) == 1).await;
        until("everybody else let go of the state", || Arc::strong_count(&state) == 1).await;
        drop((log, state));
        Self::start_from(id, settings, data, gateway).await
    }
}

/// A node's log that no longer reaches the disk, as if the disk hung. Dropping this ends it.
struct DiskStall {
    _release: std::sync::mpsc::Sender<()>,
}

impl DiskStall {
    fn begin(node: &TestNode) -> Self {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let (began, begun) = std::sync::mpsc::channel();
        // What the log's writer calls back after a write holds up the writes after it.
        let done = Box::new(move |_| {
            began.send(()).unwrap();
            // It ends when the other end is dropped.
            let _ = released.recv_timeout(BOUND);
        });
        node.replication.context.log.shard(u32::MAX).save_vote(pb::Vote::default(), done).unwrap();
        begun.recv_timeout(BOUND).unwrap();
        DiskStall { _release: release }
    }
}

/// Several nodes that hold one shard.
struct Cluster(Vec<TestNode>);

impl Cluster {
    /// Nodes 1 to `count`, all voters.
    async fn start(count: u64, settings: Settings) -> Self {
        let mut nodes = vec![TestNode::lead_alone(settings.clone()).await];
        for id in 2..=count {
            nodes.push(TestNode::start(id, settings.clone()).await);
        }
        let cluster = Cluster(nodes);
        for node in &cluster.0[1..] {
            cluster.add_voter(node).await;
        }
        cluster
    }

    fn leader(&self) -> Option<&TestNode> {
        self.0.iter().find(|node| {
            let shard = node.replication.shard(node.settings.shard_id);
            shard.is_some_and(|shard| shard.leads())
        })
    }

    /// Does something on whoever leads, again where it failed, until it is done.
    async fn on_leader<T>(&self, what: &str, action: impl AsyncFn(Arc<Shard>) -> Result<T, Failure>) -> T {
        let deadline = soon();
        loop {
            let outcome = match self.leader().and_then(|node| node.replication.shard(node.settings.shard_id)) {
                Some(shard) => action(shard).await,
                None => Err(Failure::new(Reason::NoLeader, "nobody leads")),
            };
            match outcome {
                Ok(done) => return done,
                Err(failure) => assert!(Instant::now() < deadline, "{what}: {failure}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn put(&self, key: &str, value: &str) -> Executed {
        let command = put(key.to_owned(), value.to_owned());
        let deadline = || Instant::now() + Duration::from_secs(3);
        self.on_leader("put", async |shard| shard.execute(command.clone(), deadline()).await).await
    }

    async fn add_voter(&self, node: &TestNode) {
        let bound = Duration::from_secs(5);
        self.on_leader("add a learner", async |shard| shard.add_learner(node.id, node.member(), bound).await).await;
        self.on_leader("make it a voter", async |shard| {
            let mut voters = shard.report().voters;
            voters.insert(node.id);
            shard.change_voters(voters, bound).await
        })
        .await;
    }

    /// Hands leadership to a node.
    async fn transfer_to(&self, id: u64) {
        let bound = Duration::from_secs(2);
        self.on_leader("transfer", async |shard| match shard.report().leader {
            Some(leader) if leader == id => Ok(()),
            _ => shard.transfer_leader(id, bound).await,
        })
        .await;
    }

    /// Waits until every node has applied a value.
    async fn until_all_have(&self, key: &str, expected: &str) {
        for node in &self.0 {
            until(&format!("node {} has {key} = {expected}", node.id), || {
                let shard = node.replication.shard(node.settings.shard_id);
                shard.is_some_and(|shard| value(&shard, key).is_some_and(|value| value == expected))
            })
            .await;
        }
    }
}

/// What a node serves to its peers.
struct NodeService(Arc<Replication>);

#[tonic::async_trait]
impl NodeRpc for NodeService {
    type FollowLocalLogsStream = futures::stream::Empty<Result<pb::FollowLocalLogsResponse, Status>>;

    async fn follow_local_logs(
        &self,
        _: Request<FollowLogsRequest>,
    ) -> Result<Response<Self::FollowLocalLogsStream>, Status> {
        Err(Status::unimplemented("not asked in these tests"))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotChunk>>,
    ) -> Result<Response<pb::InstallSnapshotResponse>, Status> {
        self.0.serve_snapshot(request.into_inner()).await.map(Response::new)
    }

    async fn execute(&self, _: Request<pb::ExecuteRequest>) -> Result<Response<pb::ExecuteResponse>, Status> {
        Err(Status::unimplemented("not asked in these tests"))
    }

    async fn join(&self, _: Request<pb::JoinRequest>) -> Result<Response<pb::JoinResponse>, Status> {
        Err(Status::unimplemented("not asked in these tests"))
    }

    async fn describe_replica(
        &self,
        _: Request<pb::DescribeReplicaRequest>,
    ) -> Result<Response<pb::DescribeReplicaResponse>, Status> {
        Err(Status::unimplemented("not asked in these tests"))
    }

    async fn hash_replica(
        &self,
        _: Request<pb::HashReplicaRequest>,
    ) -> Result<Response<pb::HashReplicaResponse>, Status> {
        Err(Status::unimplemented("not asked in these tests"))
    }
}
