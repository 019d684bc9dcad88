//! One open pipeline: a stream of answers that, when polled, reads requests and runs them.
//!
//! No task is started, for the stream or for a request: gRPC polls the stream, and each poll collects all the
//! answers that are ready, so that a batch committed together leaves in one frame. Requests are submitted in the order
//! read: futures of the set are first polled in the order in which they were added, and a command's first
//! poll enters it into its shard's mailbox.
//!
//! While answers wait to be sent, or too many requests are under way, no request is read: a client that does
//! not read its answers is held back by flow control.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use cirrus_proto::v1::pipeline_response::Response;
use cirrus_proto::v1::{PipelineRequest, PipelineResponse};
use cirrus_proto::{Failure, Reason};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tonic::{Code, Status};

use super::lane::{Access, Lane, Place, Step};
use super::relay::{Event, Opening, Relay, failure_of_broken};
use super::translate::{KINDS, Operation, response_of_failure};
use crate::observation::Rpc;

/// Requests read before answers are looked at again.
const READ_AT_ONCE: usize = 256;
/// Requests of a shard without a leader are tried again this often, until their deadline.
const LEADER_PAUSE: Duration = Duration::from_millis(25);

/// What a pipeline asks of the node.
pub(super) trait Shards: Send + Unpin + 'static {
    /// Validates an operation and finds its shard.
    fn route(&self, operation: &Operation) -> Result<u32, Failure>;
    /// Opens a pipeline to the leader at that address.
    fn open(&self, leader: &str, requests: mpsc::UnboundedReceiver<PipelineRequest>) -> Opening;
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Pending {
    number: u64,
    /// The client's.
    id: u64,
    pub(super) shard_id: u32,
    kind: usize,
    size: usize,
    started: Instant,
    access: Option<Access>,
}

/// A request to run on this node.
pub(super) struct Job {
    pub(super) pending: Pending,
    /// None: a read without order, which may be forwarded.
    pub(super) place: Option<Place>,
    pub(super) operation: Operation,
    pub(super) deadline: Instant,
}

impl Job {
    /// What the request is called in spans.
    pub(super) fn rpc(&self) -> &'static str {
        KINDS[self.pending.kind]
    }
}

/// What became of a job.
pub(super) struct Outcome {
    pub(super) pending: Pending,
    pub(super) place: Option<Place>,
    pub(super) result: Result<Response, Failure>,
    /// The operation, where it is to be tried again if this node refuses it.
    pub(super) operation: Option<Operation>,
}

/// What bounds one pipeline.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) requests: usize,
    pub(super) bytes: usize,
    pub(super) deadline: Duration,
    /// Whether requests may go on to another node.
    pub(super) may_relay: bool,
}

/// An open pipeline. `I` are the requests, `R` runs a job as an `F`.
pub(super) struct Answering<I, S, R, F> {
    requests: I,
    shards: S,
    run: R,
    rpcs: Arc<[Rpc; KINDS.len()]>,
    bounds: Bounds,
    stopping: BoxFuture<'static, ()>,
    /// Why no further request is read.
    closed: Option<Closed>,
    running: FuturesUnordered<F>,
    /// By shard id; ids are small and dense.
    lanes: Vec<Lane<(Pending, Operation)>>,
    relays: HashMap<Arc<str>, Relay<Pending>>,
    /// The shards whose lanes are paused, and until when.
    paused: Vec<u32>,
    pause: Option<Pin<Box<Sleep>>>,
    ready: VecDeque<PipelineResponse>,
    next_number: u64,
    in_flight: usize,
    in_flight_bytes: usize,
}

enum Closed {
    /// The client has sent all that it wants answered.
    ByClient,
    /// The last item of the stream.
    With(Status),
    Answered,
}

impl<I, S, R, F> Answering<I, S, R, F>
where
    I: Stream<Item = Result<PipelineRequest, Status>> + Unpin,
    S: Shards,
    R: Fn(Job) -> F,
    F: Future<Output = Outcome>,
{
    pub(super) fn new(
        requests: I,
        shards: S,
        run: R,
        rpcs: Arc<[Rpc; KINDS.len()]>,
        bounds: Bounds,
        stopping: BoxFuture<'static, ()>,
    ) -> Self {
        Answering {
            requests,
            shards,
            run,
            rpcs,
            bounds,
            stopping,
            closed: None,
            running: FuturesUnordered::new(),
            lanes: Vec::new(),
            relays: HashMap::new(),
            paused: Vec::new(),
            pause: None,
            ready: VecDeque::new(),
            next_number: 0,
            in_flight: 0,
            in_flight_bytes: 0,
        }
    }

    /// Reads requests while there is room for them. True where it read any.
    fn read(&mut self, context: &mut Context<'_>) -> bool {
        if self.closed.is_none() && self.stopping.as_mut().poll(context).is_ready() {
            self.closed = Some(Closed::With(Failure::new(Reason::ShuttingDown, "the node is stopping").into()));
        }
        let mut read = 0;
        let mut now = None;
        while self.closed.is_none()
            && read < READ_AT_ONCE
            && self.in_flight < self.bounds.requests
            && self.in_flight_bytes < self.bounds.bytes
        {
            match self.requests.poll_next_unpin(context) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(request))) => {
                    read += 1;
                    self.accept(request, *now.get_or_insert_with(Instant::now));
                }
                Poll::Ready(Some(Err(status))) => self.closed = Some(Closed::With(status)),
                Poll::Ready(None) => self.closed = Some(Closed::ByClient),
            }
        }
        read > 0
    }

    fn accept(&mut self, request: PipelineRequest, now: Instant) {
        let number = self.next_number;
        self.next_number += 1;
        let routed = Operation::of(request.request)
            .and_then(|operation| self.shards.route(&operation).map(|shard_id| (operation, shard_id)));
        let (operation, shard_id) = match routed {
            Ok(routed) => routed,
            Err(failure) => {
                let response = Some(response_of_failure(failure));
                return self.ready.push_back(PipelineResponse { id: request.id, response });
            }
        };
        let access = operation.access();
        let (kind, size) = (operation.kind(), operation.size());
        let pending = Pending { number, id: request.id, shard_id, kind, size, started: now, access };
        self.in_flight += 1;
        self.in_flight_bytes += size;
        match access {
            None => self.run(None, pending, operation),
            Some(access) => {
                self.lane(shard_id).arrive(access, (pending, operation));
                self.advance(shard_id);
            }
        }
    }

    fn lane(&mut self, shard_id: u32) -> &mut Lane<(Pending, Operation)> {
        let index = shard_id as usize;
        if self.lanes.len() <= index {
            self.lanes.resize_with(index + 1, Lane::default);
        }
        &mut self.lanes[index]
    }

    /// Starts what a shard's lane lets go.
    fn advance(&mut self, shard_id: u32) {
        while let Some(step) = self.lane(shard_id).next() {
            match step {
                Step::Run(place, (pending, operation)) => self.run(Some(place), pending, operation),
                Step::Relay(leader, (pending, operation)) => self.relay(leader, pending, operation),
            }
        }
    }

    fn run(&mut self, place: Option<Place>, pending: Pending, operation: Operation) {
        let deadline = pending.started + self.bounds.deadline;
        self.running.push((self.run)(Job { pending, place, operation, deadline }));
    }

    fn relay(&mut self, leader: Arc<str>, pending: Pending, operation: Operation) {
        let shards = &self.shards;
        let relay =
            self.relays.entry(leader).or_insert_with_key(|leader| Relay::new(|requests| shards.open(leader, requests)));
        let request = PipelineRequest { id: 0, request: operation.into_request() };
        relay.send(pending.number, request, pending);
    }

    /// Collects the outcomes of requests that ran here. True where there were any.
    fn collect_local(&mut self, context: &mut Context<'_>) -> bool {
        let mut progress = false;
        while let Poll::Ready(Some(outcome)) = self.running.poll_next_unpin(context) {
            progress = true;
            self.settle(outcome);
        }
        progress
    }

    fn settle(&mut self, outcome: Outcome) {
        let Outcome { pending, place, result, operation } = outcome;
        let shard_id = pending.shard_id;
        let (Some(place), Some(access)) = (place, pending.access) else {
            return self.answer(pending, result.unwrap_or_else(response_of_failure));
        };
        let number = pending.number;
        let response = match (result, operation) {
            (Ok(response), _) => response,
            (Err(failure), Some(operation)) if self.may_try_again(&failure, &pending) => {
                let leader = leader_of(&failure);
                let leaderless = leader.is_none();
                match self.lane(shard_id).refused(place, number, access, (pending, operation), leader) {
                    Err((pending, _)) => self.answer(pending, response_of_failure(failure)),
                    Ok(()) if leaderless => self.pause(shard_id),
                    Ok(()) => {}
                }
                return self.advance(shard_id);
            }
            (Err(failure), _) => response_of_failure(failure),
        };
        self.lane(shard_id).answered(place, number);
        self.answer(pending, response);
        self.advance(shard_id);
    }

    /// Whether a request that failed here may succeed at the leader, once there is one.
    fn may_try_again(&self, failure: &Failure, pending: &Pending) -> bool {
        match failure.reason {
            Reason::NotLeader => self.bounds.may_relay && leader_of(failure).is_some(),
            Reason::NoLeader => pending.started.elapsed() + LEADER_PAUSE < self.bounds.deadline,
            _ => false,
        }
    }

    fn pause(&mut self, shard_id: u32) {
        if !self.paused.contains(&shard_id) {
            self.paused.push(shard_id);
        }
        self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(LEADER_PAUSE)));
    }

    /// Ends pauses that are over. True where it did.
    fn end_pause(&mut self, context: &mut Context<'_>) -> bool {
        let Some(pause) = &mut self.pause else { return false };
        if pause.as_mut().poll(context).is_pending() {
            return false;
        }
        self.pause = None;
        for shard_id in std::mem::take(&mut self.paused) {
            self.lane(shard_id).resume();
            self.advance(shard_id);
        }
        true
    }

    /// Collects answers of other nodes. True where there were any.
    fn collect_relayed(&mut self, context: &mut Context<'_>) -> bool {
        if self.relays.is_empty() {
            return false;
        }
        let mut events = Vec::new();
        self.relays.retain(|_, relay| {
            loop {
                match relay.poll(context) {
                    Poll::Pending => return true,
                    Poll::Ready(event) => {
                        let broken = matches!(event, Event::Broken(..));
                        events.push(event);
                        if broken {
                            return false;
                        }
                    }
                }
            }
        });
        let progress = !events.is_empty();
        for event in events {
            match event {
                Event::Answered(pending, response) => {
                    if is_refusal(&response) {
                        self.lane(pending.shard_id).forget_leader();
                    }
                    self.answer(pending, response);
                }
                Event::Broken(unanswered, status) => {
                    for pending in unanswered {
                        self.lane(pending.shard_id).forget_leader();
                        let failure = failure_of_broken(&status, pending.access == Some(Access::Read));
                        self.answer(pending, response_of_failure(failure));
                    }
                }
            }
        }
        progress
    }

    fn answer(&mut self, pending: Pending, response: Response) {
        let code = match &response {
            Response::Failure(failure) => Code::from_i32(failure.code),
            _ => Code::Ok,
        };
        self.rpcs[pending.kind].record(code, pending.started.elapsed());
        self.in_flight -= 1;
        self.in_flight_bytes -= pending.size;
        self.ready.push_back(PipelineResponse { id: pending.id, response: Some(response) });
    }
}

impl<I, S, R, F> Stream for Answering<I, S, R, F>
where
    I: Stream<Item = Result<PipelineRequest, Status>> + Unpin,
    S: Shards,
    R: Fn(Job) -> F + Unpin,
    F: Future<Output = Outcome>,
{
    type Item = Result<PipelineResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(response) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(response)));
            }
            let mut progress = this.collect_local(context);
            progress |= this.collect_relayed(context);
            progress |= this.end_pause(context);
            // Answers go out before more work comes in.
            if this.ready.is_empty() {
                progress |= this.read(context);
            }
            if progress || !this.ready.is_empty() {
                continue;
            }
            if this.in_flight > 0 || this.closed.is_none() {
                return Poll::Pending;
            }
            return Poll::Ready(match this.closed.replace(Closed::Answered) {
                Some(Closed::With(status)) => Some(Err(status)),
                _ => None,
            });
        }
    }
}

/// Where to take a request that this node refused.
fn leader_of(failure: &Failure) -> Option<Arc<str>> {
    if failure.reason != Reason::NotLeader {
        return None;
    }
    failure.metadata.get("leader").filter(|leader| !leader.is_empty()).map(|leader| Arc::from(leader.as_str()))
}

fn is_refusal(response: &Response) -> bool {
    matches!(response, Response::Failure(failure) if failure.reason == Reason::NotLeader.as_str())
}
