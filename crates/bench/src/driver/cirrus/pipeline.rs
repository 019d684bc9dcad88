//! `KeyValue.Pipeline`: one stream to each node that leads, many requests in flight.
//!
//! A client's window is shared by its streams: an answer from any node makes room for the next request,
//! whichever node that goes to. A broken stream fails what was in flight on it, and is opened again by
//! the next request. The generated stub is used as it is: the window already bounds what is queued.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::time::Duration;

use cirrus_client::{Client, Reason};
use cirrus_proto::Failure;
use cirrus_proto::v1::key_value_client::KeyValueClient;
use cirrus_proto::v1::pipeline_request::Request as Kind;
use cirrus_proto::v1::pipeline_response::Response as Outcome;
use cirrus_proto::v1::{GetRequest, PipelineRequest, PipelineResponse, PutRequest};
use futures::FutureExt as _;
use futures::stream::{SelectAll, Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::require_applied;
use crate::driver::{Answer, PipelinedSession, grpc};
use crate::recorder::OperationError;
use crate::workload::Request;

/// One client of Cirrus, with a window of requests in flight.
pub(crate) struct Pipeline {
    /// Knows who leads.
    client: Client,
    lanes: Vec<Lane>,
    lane_of_address: HashMap<String, usize>,
    answers: SelectAll<Pin<Box<dyn Stream<Item = Arrival> + Send>>>,
    /// By request id: the lane that it is on.
    in_flight: Vec<Option<usize>>,
    /// Requests whose stream broke.
    failed: VecDeque<(usize, OperationError)>,
    /// Picks a lane, modulo their number, while a shard's leader is unknown; any node forwards.
    fallback: usize,
}

/// The way to one node.
struct Lane {
    stub: KeyValueClient<Channel>,
    /// `None` while no stream is open. What is queued here is bounded by the window.
    sender: Option<mpsc::UnboundedSender<PipelineRequest>>,
}

/// What comes from a lane's stream.
struct Arrival {
    lane: usize,
    what: Result<PipelineResponse, Status>,
}

impl Pipeline {
    /// `number` differs between clients; `nodes` are connections by address.
    pub(crate) fn new(client: Client, nodes: Vec<(String, Channel)>, number: usize, window: usize) -> Pipeline {
        let lane_of_address = nodes.iter().map(|(address, _)| address.clone()).zip(0..).collect();
        // Values of any size that the node lets through are welcome.
        let stub = |channel| KeyValueClient::new(channel).max_decoding_message_size(usize::MAX);
        Pipeline {
            client,
            lanes: nodes.into_iter().map(|(_, channel)| Lane { stub: stub(channel), sender: None }).collect(),
            lane_of_address,
            answers: SelectAll::new(),
            in_flight: vec![None; window],
            failed: VecDeque::new(),
            fallback: number,
        }
    }

    fn lane_for(&mut self, key: &[u8]) -> usize {
        let leader = self.client.leader_address(key);
        let known = leader.and_then(|address| self.lane_of_address.get(&address).copied());
        known.unwrap_or_else(|| {
            self.fallback = self.fallback.wrapping_add(1);
            self.fallback % self.lanes.len()
        })
    }

    fn open(&mut self, lane: usize) -> mpsc::UnboundedSender<PipelineRequest> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut stub = self.lanes[lane].stub.clone();
        let answers = async move {
            match stub.pipeline(UnboundedReceiverStream::new(receiver)).await {
                Ok(answers) => answers.into_inner().left_stream(),
                Err(status) => futures::stream::iter([Err(status)]).right_stream(),
            }
        };
        // However a stream ends, its end must be seen, once: what comes after the first error is not.
        let ended = futures::stream::iter([Err(Status::unavailable("the node ended the stream"))]);
        let arrivals = answers.flatten_stream().chain(ended).map(move |what| Arrival { lane, what });
        let until_error = arrivals.scan(false, |is_over, arrival| {
            let item = (!*is_over).then_some(());
            *is_over |= arrival.what.is_err();
            futures::future::ready(item.map(|()| arrival))
        });
        self.answers.push(Box::pin(until_error));
        sender
    }

    fn break_stream(&mut self, lane: usize, status: &Status) {
        self.lanes[lane].sender = None;
        let error = grpc::operation_error(status, Failure::from_status(status));
        for (id, flight) in self.in_flight.iter_mut().enumerate() {
            if flight.take_if(|on| *on == lane).is_some() {
                self.failed.push_back((id, error.clone()));
            }
        }
    }

    /// The id of the request that this answers, if it is in flight.
    fn land(&mut self, answer: &PipelineResponse) -> Option<usize> {
        let id = usize::try_from(answer.id).ok()?;
        self.in_flight.get_mut(id)?.take().map(|_| id)
    }
}

impl PipelinedSession for Pipeline {
    fn submit(&mut self, id: usize, request: Request) {
        let (lane, kind) = match request {
            Request::Put { key, value } => {
                (self.lane_for(&key), Kind::Put(PutRequest { key, value, ..PutRequest::default() }))
            }
            Request::Get { key } => (self.lane_for(&key), Kind::Get(GetRequest { key, ..GetRequest::default() })),
            Request::Call { .. } => {
                let error = OperationError::new("UNSUPPORTED", "a pipeline carries no procedure calls");
                self.failed.push_back((id, error));
                return;
            }
        };
        let sender = match self.lanes[lane].sender.take() {
            Some(sender) => sender,
            None => self.open(lane),
        };
        self.in_flight[id] = Some(lane);
        // Where the stream has broken, its end is on the way and fails this request too.
        drop(sender.send(PipelineRequest { id: id as u64, request: Some(kind) }));
        self.lanes[lane].sender = Some(sender);
    }

    async fn completion(&mut self) -> (usize, Result<Answer, OperationError>) {
        loop {
            if let Some((id, error)) = self.failed.pop_front() {
                return (id, Err(error));
            }
            let Some(arrival) = self.answers.next().await else {
                // No stream is open, so nothing is in flight: whoever waits here waits for nothing.
                std::future::pending::<()>().await;
                continue;
            };
            match arrival.what {
                Err(status) => self.break_stream(arrival.lane, &status),
                Ok(answer) => match self.land(&answer) {
                    Some(id) => return (id, outcome(answer.response)),
                    None => {
                        let message = format!("the node answered request {}, which is not in flight", answer.id);
                        self.break_stream(arrival.lane, &Status::internal(message));
                    }
                },
            }
        }
    }
}

fn outcome(answer: Option<Outcome>) -> Result<Answer, OperationError> {
    match answer {
        Some(Outcome::Put(put)) => require_applied(put.applied).map(|()| Answer::Done),
        Some(Outcome::Get(get)) => Ok(Answer::Value(get.found.then_some(get.value.len()))),
        Some(Outcome::Failure(failure)) => {
            let kind = match Reason::parse(&failure.reason) {
                Some(reason) => reason.as_str(),
                None => cirrus_proto::code_name(Code::from(failure.code)),
            };
            let retry_after = (failure.retry_after_ms > 0).then(|| Duration::from_millis(failure.retry_after_ms));
            Err(OperationError { kind: kind.into(), message: failure.message, retry_after })
        }
        _ => Err(OperationError::new("UNEXPECTED_ANSWER", "an answer of another kind than the request")),
    }
}
