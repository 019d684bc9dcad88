//! A pipeline's continuation on the node that leads some of its shards.
//!
//! Requests go there over one stream, so their order is kept; that node answers them or refuses them, and
//! relays nothing further.

use std::collections::HashMap;
use std::pin::Pin;
use std::task::{Context, Poll};

use cirrus_proto::v1::pipeline_response::Response;
use cirrus_proto::v1::{PipelineRequest, PipelineResponse};
use cirrus_proto::{Failure, Reason};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tonic::Status;

/// What the other node answers.
pub(super) type Answers = BoxStream<'static, Result<PipelineResponse, Status>>;

/// Opens a pipeline to the node at an address.
pub(super) type Opening = BoxFuture<'static, Result<Answers, Status>>;

/// One open relay. `T` is what is kept of a request until its answer.
pub(super) struct Relay<T> {
    /// Bounded by the pipeline: it reads no more requests than it may have under way.
    requests: mpsc::UnboundedSender<PipelineRequest>,
    state: State,
    /// By the number that stands for the request on the relay.
    outstanding: HashMap<u64, T>,
}

enum State {
    Opening(Opening),
    Open(Answers),
}

/// What happened on a relay.
pub(super) enum Event<T> {
    Answered(T, Response),
    /// The stream is gone; these were not answered.
    Broken(Vec<T>, Status),
}

impl<T> Relay<T> {
    /// A relay over the pipeline that `open` opens.
    pub(super) fn new(open: impl FnOnce(mpsc::UnboundedReceiver<PipelineRequest>) -> Opening) -> Relay<T> {
        let (requests, receiver) = mpsc::unbounded_channel();
        Relay { requests, state: State::Opening(open(receiver)), outstanding: HashMap::new() }
    }

    /// Sends a request. Where the stream is gone already, [`Relay::poll`] tells so.
    pub(super) fn send(&mut self, number: u64, request: PipelineRequest, kept: T) {
        self.outstanding.insert(number, kept);
        let _ = self.requests.send(PipelineRequest { id: number, ..request });
    }

    /// The next event. After [`Event::Broken`] the relay is of no use.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Event<T>> {
        loop {
            match &mut self.state {
                State::Opening(opening) => match Pin::new(opening).poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(answers)) => self.state = State::Open(answers),
                    Poll::Ready(Err(status)) => return Poll::Ready(self.broken(status)),
                },
                State::Open(answers) => match answers.poll_next_unpin(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Some(Ok(PipelineResponse { id, response: Some(response) }))) => {
                        // An answer to nothing is dropped: there is no one to hand it to.
                        if let Some(kept) = self.outstanding.remove(&id) {
                            return Poll::Ready(Event::Answered(kept, response));
                        }
                    }
                    Poll::Ready(Some(Ok(PipelineResponse { id, response: None }))) => {
                        let status = Status::internal(format!("the leader's answer {id} is empty"));
                        return Poll::Ready(self.broken(status));
                    }
                    Poll::Ready(Some(Err(status))) => return Poll::Ready(self.broken(status)),
                    Poll::Ready(None) => {
                        return Poll::Ready(self.broken(Status::unavailable("the leader ended the stream")));
                    }
                },
            }
        }
    }

    fn broken(&mut self, status: Status) -> Event<T> {
        Event::Broken(self.outstanding.drain().map(|(_, kept)| kept).collect(), status)
    }
}

/// What became of a request whose relay broke.
pub(super) fn failure_of_broken(status: &Status, is_read: bool) -> Failure {
    // The other node refused the stream before it read from it.
    if let Some(failure) = Failure::from_status(status)
        && failure.reason == Reason::TooManyRequests
    {
        return failure;
    }
    let message = format!("the connection to the shard's leader broke: {}", status.message());
    let reason = if is_read { Reason::NoLeader } else { Reason::OutcomeUnknown };
    Failure::new(reason, message)
}
