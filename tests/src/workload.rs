//! Many clients at once, whose every operation is recorded.
//!
//! A client asks for one thing at a time. It draws a key and an operation, sends the request, and notes how it
//! ended: answered, certainly refused, or unknown. After trouble it pauses for a moment and turns to another node.
//! Put values are unique over the whole run, so that a read tells which write it saw.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use cirrus_client::{Client, ClientError};
use cirrus_proto::v1::compare::{Operator, Target};
use cirrus_proto::v1::transact_operation::Operation as Step;
use cirrus_proto::v1::transact_result::Result as StepResult;
use cirrus_proto::v1::{
    CallRequest, Compare, DeleteRequest, GetRequest, IncrementRequest, PutRequest, ReadConsistency, TransactOperation,
    TransactRequest, TransactResponse,
};
use rand::Rng as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Status;

use crate::history::{Ending, Operation, Outcome, Recorder};
use crate::node_client::{NodeClient, certainly_refused};

/// A library whose function `add` does in Lua what `Increment` does. Kept in the style of old Tyrant scripts.
pub const COUNTER_LIBRARY: &str = include_str!("../lua/counter.lua");
/// The function of [`COUNTER_LIBRARY`], once that is uploaded as "counter".
pub const COUNTER_PROCEDURE: &str = "counter.incr";

/// How the clients reach the cluster.
#[derive(Clone)]
pub enum Access {
    /// Straight to nodes, in turn, each request sent once.
    Nodes(Vec<NodeClient>),
    /// Through the Rust client.
    Client(Client),
}

/// How often each kind of operation is drawn; the weights are relative.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Linearizable reads.
    pub get: u32,
    /// Puts of unique values.
    pub put: u32,
    /// Deletes.
    pub delete: u32,
    /// Compare-and-swap by value, through `Transact`.
    pub cas: u32,
    /// `Increment`.
    pub increment: u32,
    /// `Call` of [`COUNTER_PROCEDURE`].
    pub call: u32,
}

impl Mix {
    /// Some of everything.
    pub const ALL: Mix = Mix { get: 8, put: 4, delete: 1, cas: 3, increment: 2, call: 2 };
    /// Puts, and as many reads.
    pub const GET_PUT: Mix = Mix { get: 1, put: 1, delete: 0, cas: 0, increment: 0, call: 0 };
}

/// What the clients do.
#[derive(Clone, Debug)]
pub struct Workload {
    /// How many clients.
    pub clients: usize,
    /// The keys that they share.
    pub keys: Vec<String>,
    /// What they ask.
    pub mix: Mix,
    /// Pause between two requests of a client. Zero: none.
    pub pause: Duration,
}

/// Clients at work.
pub struct Running {
    recorder: Arc<Recorder>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Workload {
    /// Starts the clients. The counter library must have been uploaded where the mix has calls.
    pub fn start(self, access: Access) -> Running {
        let recorder = Arc::new(Recorder::new());
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for client in 0..self.clients {
            let one = OneClient {
                client,
                workload: self.clone(),
                access: access.clone(),
                recorder: recorder.clone(),
                next_node: client,
                next_value: (client as i64 + 1) * 10_000_000,
                last_seen: None,
            };
            tasks.spawn(one.run(stopped.clone()));
        }
        Running { recorder, stop, tasks }
    }
}

impl Running {
    /// What has been recorded so far.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Waits until `count` more operations have been recorded.
    ///
    /// # Errors
    /// If that takes longer than `within`.
    pub async fn wait_for_operations(&self, count: usize, within: Duration) -> Result<()> {
        let before = self.recorder.counts().0;
        let deadline = self.recorder.elapsed() + within;
        while self.recorder.counts().0 < before + count {
            let done = self.recorder.counts().0 - before;
            ensure!(self.recorder.elapsed() < deadline, "{done} of {count} operations within {within:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Lets every client end its operation, then reads every key once more through `reader`, so that a lost
    /// write has a read that misses it.
    pub async fn finish(mut self, keys: &[String], reader: &NodeClient) -> Result<Arc<Recorder>> {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended?;
        }
        for key in keys {
            let mut last = None;
            for _ in 0..50 {
                let invocation = self.recorder.invoke(usize::MAX, key, Operation::Get);
                match perform_on_node(reader, key, Operation::Get).await {
                    Ok(outcome) => {
                        self.recorder.finish(invocation, Ending::Answered(outcome));
                        last = None;
                        break;
                    }
                    Err(status) => {
                        self.recorder.finish(invocation, Ending::Unknown);
                        last = Some(status);
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
            if let Some(status) = last {
                return Err(anyhow::Error::new(status).context(format!("the last read of {key}")));
            }
        }
        Ok(self.recorder)
    }
}

struct OneClient {
    client: usize,
    workload: Workload,
    access: Access,
    recorder: Arc<Recorder>,
    next_node: usize,
    next_value: i64,
    /// What this client last found, for a compare-and-swap that has a chance.
    last_seen: Option<i64>,
}

impl OneClient {
    async fn run(mut self, stopped: watch::Receiver<bool>) {
        while !*stopped.borrow() {
            let chosen = rand::rng().random_range(0..self.workload.keys.len());
            let key = self.workload.keys[chosen].clone();
            let (operation, call) = self.draw();
            let invocation = self.recorder.invoke(self.client, &key, operation);
            let ending = self.perform(&key, operation, call).await;
            self.recorder.finish(invocation, ending);
            let mut pause = self.workload.pause;
            match ending {
                Ending::Answered(Outcome::Value(seen) | Outcome::Found(seen)) => self.last_seen = seen,
                Ending::Answered(_) => {}
                Ending::Refused | Ending::Unknown => {
                    self.next_node += 1;
                    pause = pause.max(Duration::from_millis(20));
                }
            }
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// What to do next, and whether an addition is to be a procedure call.
    fn draw(&mut self) -> (Operation, bool) {
        let Mix { get, put, delete, cas, increment, call } = self.workload.mix;
        let mut number = rand::rng().random_range(0..get + put + delete + cas + increment + call);
        let mut below = |weight: u32| {
            let drawn = number < weight;
            number = number.wrapping_sub(if drawn { 0 } else { weight });
            drawn
        };
        if below(get) {
            return (Operation::Get, false);
        }
        if below(delete) {
            return (Operation::Delete, false);
        }
        if below(increment) {
            return (Operation::Add(rand::rng().random_range(1..10)), false);
        }
        if below(call) {
            return (Operation::Add(rand::rng().random_range(1..10)), true);
        }
        self.next_value += 1000;
        match below(put) {
            true => (Operation::Put(self.next_value), false),
            false => (Operation::Cas { expected: self.last_seen, new: self.next_value }, false),
        }
    }

    async fn perform(&self, key: &str, operation: Operation, call: bool) -> Ending {
        match &self.access {
            Access::Nodes(nodes) => {
                let node = &nodes[self.next_node % nodes.len()];
                let answer = match operation {
                    Operation::Add(delta) if call => call_on_node(node, key, delta).await,
                    _ => perform_on_node(node, key, operation).await,
                };
                match answer {
                    Ok(outcome) => Ending::Answered(outcome),
                    Err(status) if certainly_refused(&status) => Ending::Refused,
                    Err(_) => Ending::Unknown,
                }
            }
            Access::Client(client) => match perform_by_client(client, key, operation, call).await {
                Ok(outcome) => Ending::Answered(outcome),
                Err(error) if error.outcome_unknown => Ending::Unknown,
                // Of a read that failed nothing is known, and nothing needs to be.
                Err(_) => Ending::Refused,
            },
        }
    }
}

/// Performs an operation on one node, without retries.
///
/// # Errors
/// What the node or the transport answered.
pub async fn perform_on_node(node: &NodeClient, key: &str, operation: Operation) -> Result<Outcome, Status> {
    Ok(match operation {
        Operation::Get => {
            let found = node.get(key, ReadConsistency::Linearizable).await?;
            Outcome::Value(value_of(found.found, &found.value))
        }
        Operation::Put(value) => {
            node.put(key, value.to_string()).await?;
            Outcome::Stored
        }
        Operation::Delete => Outcome::Deleted(node.delete(key).await?),
        Operation::Add(delta) => Outcome::Sum(node.increment(key, delta, None).await?),
        Operation::Cas { expected, new } => {
            swap_outcome(&node.key_value.clone().transact(swap_request(key, expected, new)).await?.into_inner())
        }
    })
}

async fn call_on_node(node: &NodeClient, key: &str, delta: i64) -> Result<Outcome, Status> {
    Ok(Outcome::Sum(number(&node.call(COUNTER_PROCEDURE, key, &[&delta.to_string()]).await?)))
}

async fn perform_by_client(
    client: &Client,
    key: &str,
    operation: Operation,
    call: bool,
) -> Result<Outcome, ClientError> {
    let key_bytes = bytes::Bytes::copy_from_slice(key.as_bytes());
    Ok(match operation {
        Operation::Get => {
            let found = client.get_with(GetRequest { key: key_bytes, ..GetRequest::default() }).await?;
            Outcome::Value(value_of(found.found, &found.value))
        }
        Operation::Put(value) => {
            client
                .put_with(PutRequest { key: key_bytes, value: value.to_string().into(), ..PutRequest::default() })
                .await?;
            Outcome::Stored
        }
        Operation::Delete => Outcome::Deleted(
            client.delete_with(DeleteRequest { key: key_bytes, ..DeleteRequest::default() }).await?.deleted,
        ),
        Operation::Add(delta) if call => {
            let args = vec![delta.to_string().into()];
            let procedure = COUNTER_PROCEDURE.to_owned();
            let called =
                client.call_with(CallRequest { procedure, key: key_bytes, args, ..Default::default() }).await?;
            Outcome::Sum(number(&called.result))
        }
        Operation::Add(delta) => {
            let request = IncrementRequest { key: key_bytes, delta, ..IncrementRequest::default() };
            Outcome::Sum(client.increment_with(request).await?.value)
        }
        Operation::Cas { expected, new } => swap_outcome(&client.transact(swap_request(key, expected, new)).await?),
    })
}

fn value_of(found: bool, value: &[u8]) -> Option<i64> {
    found.then(|| number(value))
}

/// Nobody but these clients writes these keys, so anything but a number means that the node mixed something up.
///
/// # Panics
/// If the bytes are no decimal number.
fn number(bytes: &[u8]) -> i64 {
    let text = std::str::from_utf8(bytes).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{} is no number", bytes.escape_ascii()))
}

/// Stores `new` where the value is `expected`, and otherwise reads what is there.
fn swap_request(key: &str, expected: Option<i64>, new: i64) -> TransactRequest {
    let target = match expected {
        None => Target::Version(0),
        Some(value) => Target::Value(value.to_string().into()),
    };
    let put = PutRequest { key: key.to_owned().into(), value: new.to_string().into(), ..PutRequest::default() };
    let get = GetRequest { key: key.to_owned().into(), ..GetRequest::default() };
    let step = |step| vec![TransactOperation { operation: Some(step) }];
    TransactRequest {
        compare: vec![Compare { key: key.to_owned().into(), operator: Operator::Equal.into(), target: Some(target) }],
        success: step(Step::Put(put)),
        failure: step(Step::Get(get)),
        request_id: None,
    }
}

fn swap_outcome(response: &TransactResponse) -> Outcome {
    match response.results.first().and_then(|result| result.result.as_ref()) {
        Some(StepResult::Put(put)) if response.succeeded && put.applied => Outcome::Swapped,
        Some(StepResult::Get(get)) if !response.succeeded => Outcome::Found(value_of(get.found, &get.value)),
        _ => panic!("a transaction of one put or one get answers {response:?}"),
    }
}
