//! Many requests over one stream to one node (`KeyValue.Pipeline`).
//!
//! The caller numbers the requests and matches the answers. Nothing is sent again on its behalf: where the
//! stream breaks, requests without an answer may have taken effect. A stream to the leader of its keys
//! ([`Client::leader_address`]) saves a hop; others are forwarded.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use cirrus_proto::v1::{PipelineRequest, PipelineResponse};
use futures::Stream;
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Streaming};
use tonic_prost::ProstCodec;

use crate::attempt::grpc;
use crate::node::Node;
use crate::policy::Trouble;
use crate::request::Route;
use crate::{Client, ClientError};

const PIPELINE: &str = "/cirrus.v1.KeyValue/Pipeline";

/// Requests that wait to be written to the stream.
const QUEUED_REQUESTS: usize = 1024;

impl Client {
    /// Opens a stream to any node that can be reached.
    pub async fn pipeline(&self) -> Result<(PipelineSender, PipelineReceiver), ClientError> {
        // Opening a stream sends no request, so it may be tried again.
        let mut retry = self.retry(false, true);
        let mut node = self.router().choose(Route::Any, None);
        loop {
            let limit = retry.deadline.saturating_duration_since(Instant::now());
            match open(&node, limit).await {
                Ok(halves) => return Ok(halves),
                Err(trouble) => node = self.recover(&mut retry, Route::Any, &node, trouble).await?,
            }
        }
    }

    /// Opens a stream to the node of that gRPC address.
    pub async fn pipeline_to(&self, address: &str) -> Result<(PipelineSender, PipelineReceiver), ClientError> {
        let node = self.router().node(address);
        open(&node, self.timeout()).await.map_err(|trouble| trouble.into_error(address, false))
    }
}

async fn open(node: &Node, limit: Duration) -> Result<(PipelineSender, PipelineReceiver), Trouble> {
    let connection = node.connection(limit).await.map_err(Trouble::NotSent)?;
    let (requests, queued) = mpsc::channel(QUEUED_REQUESTS);
    let mut grpc = grpc(connection);
    let opening = grpc.streaming(
        Request::new(ReceiverStream::new(queued)),
        PathAndQuery::from_static(PIPELINE),
        ProstCodec::default(),
    );
    match timeout(limit, opening).await {
        Ok(Ok(answer)) => {
            let receiver = PipelineReceiver { responses: answer.into_inner(), address: node.address().to_owned() };
            Ok((PipelineSender { requests }, receiver))
        }
        Ok(Err(status)) => Err(Trouble::from_status(&status)),
        Err(_) => Err(Trouble::TimedOut(limit)),
    }
}

/// The sending half. Dropping all clones ends the stream once all answers have come.
#[derive(Clone)]
pub struct PipelineSender {
    requests: mpsc::Sender<PipelineRequest>,
}

impl PipelineSender {
    /// Queues a request; waits while the node takes no more. Fails once the stream has ended: then nothing of
    /// this request was sent.
    pub async fn send(&self, request: PipelineRequest) -> Result<(), ClientError> {
        self.requests
            .send(request)
            .await
            .map_err(|_| ClientError::new(Code::Unavailable, "the pipeline's stream has ended"))
    }
}

/// The receiving half. Dropping it gives up the stream, and all answers that have not come.
pub struct PipelineReceiver {
    responses: Streaming<PipelineResponse>,
    address: String,
}

impl PipelineReceiver {
    /// The next answer, in whatever order they come; `None` after the last one. An error ends the stream.
    pub async fn receive(&mut self) -> Result<Option<PipelineResponse>, ClientError> {
        self.responses.message().await.map_err(|status| self.error(&status))
    }

    fn error(&self, status: &tonic::Status) -> ClientError {
        let trouble = Trouble::from_status(status);
        let outcome_unknown = trouble.outcome_unknown();
        trouble.into_error(&self.address, outcome_unknown)
    }
}

impl Stream for PipelineReceiver {
    type Item = Result<PipelineResponse, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.responses)
            .poll_next(cx)
            .map(|next| next.map(|answer| answer.map_err(|status| self.error(&status))))
    }
}
