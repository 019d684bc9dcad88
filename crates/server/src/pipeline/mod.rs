//! `KeyValue.Pipeline`: many requests over one stream, many of them under way at a time.
//!
//! [`lane`] decides when a request may go without overtaking another of its shard, [`stream`] runs them and
//! collects their answers, [`relay`] takes them to the node that leads their shard, where that is another.

mod lane;
mod relay;
mod stream;
#[cfg(test)]
mod tests;
mod translate;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use cirrus_proto::internal::v1::{Command, query, query_result, reply};
use cirrus_proto::v1::pipeline_response::Response;
use cirrus_proto::v1::{GetRequest, PipelineRequest, PipelineResponse};
use cirrus_proto::{FORWARDED_METADATA, Failure, Reason};
use cirrus_replication::Submitted;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};
use tracing::Instrument as _;

use self::lane::Place;
use self::relay::{Answers, Opening};
use self::stream::{Answering, Bounds, Job, Outcome, Shards};
use self::translate::{KINDS, Operation, ordered_read, response_of_ordered_read, response_of_reply};
use crate::admission::{Admission, Admitted};
use crate::config::LimitsSection;
use crate::edge::{
    Arrival, Edge, check_consistency, is_forwarded, mismatched_reply, read_span, reply_kind, request_span,
};
use crate::grpc::key_value_client;
use crate::observation::Rpc;
use crate::peers::Peers;
use crate::routing::check_key;

/// An open pipeline's answers.
pub(crate) type Pipeline = Pin<Box<dyn Stream<Item = Result<PipelineResponse, Status>> + Send>>;

/// Opens pipelines.
pub(crate) struct Pipelines {
    edge: Arc<Edge>,
    admission: Admission,
    rpcs: Arc<[Rpc; KINDS.len()]>,
    bounds: Bounds,
    peers: Peers,
    stopping: watch::Receiver<bool>,
}

impl Pipelines {
    /// `stopping` turns true when the node stops: pipelines then read no further, answer, and end.
    pub(crate) fn new(
        edge: Arc<Edge>,
        limits: &LimitsSection,
        peers: Peers,
        stopping: watch::Receiver<bool>,
    ) -> Pipelines {
        let bounds = Bounds {
            requests: limits.pipeline_requests,
            bytes: limits.pipeline_bytes,
            deadline: edge.deadlines.default,
            may_relay: true,
        };
        Pipelines {
            edge,
            admission: Admission::new("pipelines", limits.pipeline_streams),
            rpcs: Arc::new(KINDS.map(Rpc::new)),
            bounds,
            peers,
            stopping,
        }
    }

    /// Pipelines that are open.
    pub(crate) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Opens a pipeline over a stream of requests.
    pub(crate) fn open(self: &Arc<Self>, request: Request<Streaming<PipelineRequest>>) -> Result<Pipeline, Failure> {
        let admitted = self.admission.admit()?;
        let forwarded = is_forwarded(request.metadata());
        let edge = Arc::clone(&self.edge);
        let run = move |job| run(&edge, job);
        let bounds = Bounds { may_relay: !forwarded, ..self.bounds };
        let shards = Routes { pipelines: Arc::clone(self), _admitted: admitted };
        let mut stopping = self.stopping.clone();
        let stopped = async move {
            // The sender outlives all pipelines; were it gone, the node would be stopping too.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        };
        let requests = request.into_inner();
        let rpcs = Arc::clone(&self.rpcs);
        Ok(Box::pin(Answering::new(requests, shards, run, rpcs, bounds, Box::pin(stopped))))
    }
}

/// One pipeline's way to the shards.
struct Routes {
    pipelines: Arc<Pipelines>,
    _admitted: Admitted,
}

impl Shards for Routes {
    fn route(&self, operation: &Operation) -> Result<u32, Failure> {
        let edge = &self.pipelines.edge;
        match operation {
            Operation::Command(command) => edge.route(command),
            Operation::Get(get) => {
                check_key(&get.key, &edge.limits)?;
                check_consistency(get.consistency)?;
                edge.node.shard_of(&get.key)
            }
        }
    }

    fn open(&self, leader: &str, requests: mpsc::UnboundedReceiver<PipelineRequest>) -> Opening {
        let channel = self.pipelines.peers.channel(leader);
        Box::pin(async move {
            let mut request = Request::new(UnboundedReceiverStream::new(requests));
            request.metadata_mut().insert(FORWARDED_METADATA, MetadataValue::from_static("1"));
            let answers: Answers = key_value_client(channel?).pipeline(request).await?.into_inner().boxed();
            Ok(answers)
        })
    }
}

/// Runs one request on this node. A command is in its shard's mailbox when this returns.
fn run(edge: &Arc<Edge>, job: Job) -> impl Future<Output = Outcome> + Send + use<> {
    let rpc = job.rpc();
    let Job { pending, place, operation, deadline } = job;
    let kept = place.map(|_| operation.clone());
    let shard_id = pending.shard_id;
    let edge = Arc::clone(edge);
    let running = match (operation, place) {
        (Operation::Command(command), _) => {
            Running::Submitted(submit(&edge, rpc, shard_id, command, deadline), response_of_reply)
        }
        (Operation::Get(get), Some(Place::Executor)) => {
            Running::Submitted(submit(&edge, rpc, shard_id, ordered_read(get), deadline), response_of_ordered_read)
        }
        (Operation::Get(get), _) => {
            // What has an order is taken to the leader by the pipeline itself: forwarded one by one, requests
            // could overtake each other.
            let arrival = Arrival { deadline, forwarded: place.is_some() };
            // Boxed, since every request takes the room of the largest kind.
            Running::Read(Box::pin(read(Arc::clone(&edge), rpc, shard_id, get, arrival)))
        }
    };
    async move {
        let result = match running {
            Running::Read(read) => read.await,
            Running::Submitted(Err(failure), _) => Err(failure),
            Running::Submitted(Ok(submitted), response_of) => match submitted.outcome().await {
                Ok(executed) => {
                    reply_kind(executed.reply).and_then(|reply| response_of(reply).ok_or_else(mismatched_reply))
                }
                Err(failure) if failure.reason == Reason::NotLeader => Err(elsewhere(&edge, shard_id)),
                Err(failure) => Err(failure),
            },
        };
        Outcome { pending, place, result, operation: kept }
    }
}

enum Running {
    Submitted(Result<Submitted, Failure>, fn(reply::Kind) -> Option<Response>),
    Read(BoxFuture<'static, Result<Response, Failure>>),
}

fn submit(
    edge: &Edge,
    rpc: &'static str,
    shard_id: u32,
    command: Command,
    deadline: Instant,
) -> Result<Submitted, Failure> {
    let _entered = request_span(rpc, shard_id, &command).entered();
    edge.node.submit(shard_id, command, deadline).unwrap_or_else(|| Err(elsewhere(edge, shard_id)))
}

/// Where this node's replica of a shard says its leader is.
fn elsewhere(edge: &Edge, shard_id: u32) -> Failure {
    match edge.node.replication().shard(shard_id) {
        Some(shard) => shard.elsewhere(),
        None => Failure::new(Reason::NoLeader, format!("this node has no replica of shard {shard_id}")),
    }
}

async fn read(
    edge: Arc<Edge>,
    rpc: &'static str,
    shard_id: u32,
    get: GetRequest,
    arrival: Arrival,
) -> Result<Response, Failure> {
    let consistency = get.consistency;
    let span = read_span(rpc, shard_id);
    match edge.query(shard_id, query::Kind::Get(get), consistency, arrival).instrument(span).await?.value {
        query_result::Kind::Get(get) => Ok(Response::Get(get)),
        _ => Err(mismatched_reply()),
    }
}
