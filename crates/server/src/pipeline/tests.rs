//! A pipeline over shards in memory: what reaches them, in which order, and what the client hears.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cirrus_proto::v1::pipeline_request::Request;
use cirrus_proto::v1::pipeline_response::Response;
use cirrus_proto::v1::{GetRequest, GetResponse, PipelineRequest, PipelineResponse, PutRequest, PutResponse};
use cirrus_proto::{Failure, Reason, routing};
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;

use super::lane::Place;
use super::relay::Opening;
use super::stream::{Answering, Bounds, Job, Outcome, Shards};
use super::translate::{KINDS, Operation};
use crate::observation::Rpc;

const SHARDS: u32 = 4;

/// Both nodes' shards, as one test sees them.
#[derive(Default)]
struct World {
    /// What ran here, in order: the key, and where.
    ran: Mutex<Vec<(String, Option<Place>)>>,
    /// What the other node got, in order.
    relayed: Mutex<Vec<String>>,
    /// Under way here, and the most there were.
    running: AtomicUsize,
    running_most: AtomicUsize,
    /// Whether this node leads, whether anybody does.
    led_elsewhere: AtomicBool,
    leaderless: AtomicBool,
    /// What the other node answers.
    leader_refuses: AtomicBool,
    leader_breaks: AtomicBool,
}

type Requests = UnboundedReceiverStream<Result<PipelineRequest, Status>>;

struct Client {
    requests: Option<mpsc::UnboundedSender<Result<PipelineRequest, Status>>>,
    answers: Pin<Box<dyn Stream<Item = Result<PipelineResponse, Status>> + Send>>,
    next_id: u64,
}

struct Routes(Arc<World>);

impl Shards for Routes {
    fn route(&self, operation: &Operation) -> Result<u32, Failure> {
        let key = key_of(operation);
        if key.is_empty() {
            return Err(Failure::new(Reason::KeyEmpty, "key is empty"));
        }
        Ok(routing::shard_of_key(key.as_bytes(), SHARDS))
    }

    fn open(&self, leader: &str, requests: mpsc::UnboundedReceiver<PipelineRequest>) -> Opening {
        assert_eq!(leader, "node-2:7100");
        let world = Arc::clone(&self.0);
        let answers = UnboundedReceiverStream::new(requests).map(move |request| {
            let Some(Request::Put(put)) = request.request else { unreachable!("tests relay puts") };
            world.relayed.lock().unwrap().push(text(&put.key));
            if world.leader_breaks.load(Ordering::Relaxed) {
                return Err(Status::unavailable("connection reset"));
            }
            let response = if world.leader_refuses.load(Ordering::Relaxed) {
                super::translate::response_of_failure(Failure::new(Reason::NotLeader, "deposed"))
            } else {
                Response::Put(PutResponse { applied: true, version: 2 })
            };
            Ok(PipelineResponse { id: request.id, response: Some(response) })
        });
        Box::pin(async { Ok(answers.boxed()) })
    }
}

fn text(key: &[u8]) -> String {
    String::from_utf8(key.to_vec()).unwrap()
}

fn key_of(operation: &Operation) -> String {
    match operation.clone().into_request() {
        Some(Request::Get(get)) => text(&get.key),
        Some(Request::Put(put)) => text(&put.key),
        other => unreachable!("tests send gets and puts, not {other:?}"),
    }
}

async fn run(world: Arc<World>, job: Job) -> Outcome {
    let Job { pending, place, operation, .. } = job;
    let kept = Some(operation.clone());
    if world.leaderless.load(Ordering::Relaxed) {
        let failure = Failure::new(Reason::NoLeader, "an election is under way");
        return Outcome { pending, place, result: Err(failure), operation: kept };
    }
    if world.led_elsewhere.load(Ordering::Relaxed) {
        let failure = Failure::new(Reason::NotLeader, "not here").with("leader", "node-2:7100");
        return Outcome { pending, place, result: Err(failure), operation: kept };
    }
    world.ran.lock().unwrap().push((key_of(&operation), place));
    let running = world.running.fetch_add(1, Ordering::Relaxed) + 1;
    world.running_most.fetch_max(running, Ordering::Relaxed);
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
    world.running.fetch_sub(1, Ordering::Relaxed);
    let response = match operation {
        Operation::Get(_) => Response::Get(GetResponse { found: true, ..GetResponse::default() }),
        Operation::Command(_) => Response::Put(PutResponse { applied: true, version: 1 }),
    };
    Outcome { pending, place, result: Ok(response), operation: kept }
}

fn open(world: &Arc<World>, bounds: Bounds, stopping: impl Future<Output = ()> + Send + 'static) -> Client {
    let (requests, receiver) = mpsc::unbounded_channel();
    let for_runs = Arc::clone(world);
    let answers = Answering::new(
        Requests::new(receiver),
        Routes(Arc::clone(world)),
        move |job| Box::pin(run(Arc::clone(&for_runs), job)),
        Arc::new(KINDS.map(Rpc::new)),
        bounds,
        Box::pin(stopping),
    );
    Client { requests: Some(requests), answers: Box::pin(answers), next_id: 100 }
}

const BOUNDS: Bounds = Bounds { requests: 64, bytes: 1 << 20, deadline: Duration::from_secs(5), may_relay: true };

impl Client {
    fn send(&mut self, request: Request) -> u64 {
        self.next_id += 1;
        let message = PipelineRequest { id: self.next_id, request: Some(request) };
        self.requests.as_ref().unwrap().send(Ok(message)).unwrap();
        self.next_id
    }

    fn put(&mut self, key: &str) -> u64 {
        self.send(Request::Put(PutRequest { key: key.to_owned().into(), ..PutRequest::default() }))
    }

    fn get(&mut self, key: &str) -> u64 {
        self.send(Request::Get(GetRequest { key: key.to_owned().into(), ..GetRequest::default() }))
    }

    /// Ends the requests and reads all answers.
    async fn finish(mut self) -> HashMap<u64, Response> {
        self.requests = None;
        let answers: Vec<_> = self.answers.collect().await;
        answers.into_iter().map(|answer| answer.unwrap()).map(|answer| (answer.id, answer.response.unwrap())).collect()
    }
}

fn reason(response: &Response) -> &str {
    match response {
        Response::Failure(failure) => &failure.reason,
        _ => "",
    }
}

#[tokio::test]
async fn every_request_is_answered_and_one_shards_writes_run_in_the_order_sent() {
    let world = Arc::new(World::default());
    let mut client = open(&world, BOUNDS, std::future::pending());
    let mut ids: Vec<u64> = (0..1000).map(|number| client.put(&format!("{{a}}{number:04}"))).collect();
    ids.push(client.get("{a}0000"));
    let answers = client.finish().await;
    assert_eq!(answers.len(), ids.len());
    assert!(ids.iter().all(|id| reason(&answers[id]).is_empty()));
    let ran = world.ran.lock().unwrap();
    let keys: Vec<&String> = ran[..1000].iter().map(|(key, _)| key).collect();
    assert!(keys.is_sorted(), "{keys:?}");
    assert_eq!(ran[1000], ("{a}0000".to_owned(), Some(Place::Executor)), "a read joins the writes before it");
    let most = world.running_most.load(Ordering::Relaxed);
    assert!((2..=BOUNDS.requests).contains(&most), "{most} were under way at a time");
}

#[tokio::test]
async fn a_request_that_cannot_be_routed_fails_alone() {
    let world = Arc::new(World::default());
    let mut client = open(&world, BOUNDS, std::future::pending());
    let (bad, good) = (client.put(""), client.put("k"));
    let answers = client.finish().await;
    assert_eq!(reason(&answers[&bad]), "KEY_EMPTY");
    assert!(matches!(answers[&good], Response::Put(_)));
}

#[tokio::test]
async fn requests_of_a_shard_led_elsewhere_go_there_in_order() {
    let world = Arc::new(World::default());
    world.led_elsewhere.store(true, Ordering::Relaxed);
    let mut client = open(&world, BOUNDS, std::future::pending());
    let ids: Vec<u64> = (0..200).map(|number| client.put(&format!("{{a}}{number:03}"))).collect();
    let answers = client.finish().await;
    let relayed = |id: &u64| answers[id] == Response::Put(PutResponse { applied: true, version: 2 });
    assert!(ids.iter().all(relayed));
    assert!(world.relayed.lock().unwrap().is_sorted());
    assert_eq!(world.relayed.lock().unwrap().len(), 200);
}

#[tokio::test]
async fn what_was_forwarded_here_goes_no_further() {
    let world = Arc::new(World::default());
    world.led_elsewhere.store(true, Ordering::Relaxed);
    let mut client = open(&world, Bounds { may_relay: false, ..BOUNDS }, std::future::pending());
    let id = client.put("k");
    assert_eq!(reason(&client.finish().await[&id]), "NOT_LEADER");
    assert!(world.relayed.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_leader_that_refuses_is_told_to_the_client_and_asked_no_more() {
    let world = Arc::new(World::default());
    world.led_elsewhere.store(true, Ordering::Relaxed);
    world.leader_refuses.store(true, Ordering::Relaxed);
    let mut client = open(&world, BOUNDS, std::future::pending());
    let first = client.put("{a}1");
    assert_eq!(client.answers.next().await.unwrap().unwrap().id, first);
    world.led_elsewhere.store(false, Ordering::Relaxed);
    let second = client.put("{a}2");
    let answers = client.finish().await;
    assert_eq!(answers[&second], Response::Put(PutResponse { applied: true, version: 1 }), "it ran here");
}

#[tokio::test]
async fn a_write_whose_relay_breaks_has_an_unknown_outcome() {
    let world = Arc::new(World::default());
    world.led_elsewhere.store(true, Ordering::Relaxed);
    world.leader_breaks.store(true, Ordering::Relaxed);
    let mut client = open(&world, BOUNDS, std::future::pending());
    let id = client.put("k");
    assert_eq!(reason(&client.finish().await[&id]), "OUTCOME_UNKNOWN");
}

#[tokio::test]
async fn requests_wait_for_an_election_and_keep_their_order() {
    let world = Arc::new(World::default());
    world.leaderless.store(true, Ordering::Relaxed);
    let mut client = open(&world, BOUNDS, std::future::pending());
    let ids: Vec<u64> = (0..50).map(|number| client.put(&format!("{{a}}{number:02}"))).collect();
    let none_yet = tokio::time::timeout(Duration::from_millis(200), client.answers.next()).await;
    assert!(none_yet.is_err(), "nobody leads, and the requests wait");
    world.leaderless.store(false, Ordering::Relaxed);
    let answers = client.finish().await;
    assert!(ids.iter().all(|id| matches!(answers[id], Response::Put(_))));
    assert!(world.ran.lock().unwrap().is_sorted_by_key(|(key, _)| key.clone()));
}

#[tokio::test]
async fn a_pipeline_without_a_leader_answers_at_its_deadline() {
    let world = Arc::new(World::default());
    world.leaderless.store(true, Ordering::Relaxed);
    let bounds = Bounds { deadline: Duration::from_millis(60), ..BOUNDS };
    let mut client = open(&world, bounds, std::future::pending());
    let id = client.put("k");
    let answers = tokio::time::timeout(Duration::from_secs(5), client.finish()).await.unwrap();
    assert_eq!(reason(&answers[&id]), "NO_LEADER");
}

#[tokio::test]
async fn a_node_that_stops_answers_what_it_read_and_ends_the_stream_with_the_reason() {
    let world = Arc::new(World::default());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut client = open(&world, BOUNDS, async move { drop(stopped.await) });
    let id = client.put("k");
    assert_eq!(client.answers.next().await.unwrap().unwrap().id, id);
    drop(stop);
    let status = client.answers.next().await.unwrap().unwrap_err();
    assert_eq!(Failure::from_status(&status).unwrap().reason, Reason::ShuttingDown);
    assert!(client.answers.next().await.is_none());
}
