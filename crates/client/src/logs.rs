//! What calls log, as a stream that survives the loss of the node that serves it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use cirrus_proto::v1::follow_logs_response::Event;
use cirrus_proto::v1::{DroppedLogLines, FollowLogsRequest, FollowLogsResponse, FollowedNode, LogLine};
use futures::Stream;
use futures::stream::{self, BoxStream, StreamExt as _};
use http::uri::PathAndQuery;
use tokio::time::timeout;
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;

use crate::attempt::grpc;
use crate::node::Node;
use crate::policy::{Decision, Trouble, decide};
use crate::request::Route;
use crate::{Client, ClientError};

const FOLLOW_LOGS: &str = "/cirrus.v1.Procedures/FollowLogs";

/// What a follower hears.
#[derive(Clone, Debug, PartialEq)]
pub enum LogEvent {
    /// A line of a call.
    Line(LogLine),
    /// Lines that a node did not send, as they were too many, or this follower too slow.
    Dropped(DroppedLogLines),
    /// A node is followed from now on, or was lost. One that was lost is tried again.
    Node(FollowedNode),
    /// The node that served this stream was lost, for this reason; another one serves it from now on. Lines in
    /// between are missing.
    Interrupted(String),
}

/// Events as they come. Ends after an error and, where the request does not follow, after the lines that were kept.
pub struct Logs {
    events: BoxStream<'static, Result<LogEvent, ClientError>>,
}

impl Client {
    /// Reads what calls log on all nodes. A stream that follows goes on beyond this client's timeout, which bounds how
    /// long a node is looked for that serves it.
    pub fn follow_logs(&self, request: FollowLogsRequest) -> Logs {
        let progress = Progress { client: self.clone(), request, open: None, ended: false };
        Logs { events: stream::unfold(progress, Progress::next).boxed() }
    }
}

impl Stream for Logs {
    type Item = Result<LogEvent, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_next_unpin(cx)
    }
}

struct Progress {
    client: Client,
    request: FollowLogsRequest,
    open: Option<(Arc<Node>, Streaming<FollowLogsResponse>)>,
    ended: bool,
}

impl Progress {
    async fn next(mut self) -> Option<(Result<LogEvent, ClientError>, Progress)> {
        loop {
            if self.ended {
                return None;
            }
            let Some((node, events)) = &mut self.open else {
                if let Err(error) = self.open().await {
                    self.ended = true;
                    return Some((Err(error), self));
                }
                continue;
            };
            let trouble = match events.message().await {
                Ok(Some(FollowLogsResponse { event: Some(event) })) => return Some((Ok(event.into()), self)),
                // Of a kind that this version does not know.
                Ok(Some(FollowLogsResponse { event: None })) => continue,
                Ok(None) if !self.request.follow => return None,
                Ok(None) => Trouble::Lost("the node ended the stream".to_owned()),
                Err(status) => Trouble::from_status(&status),
            };
            let address = node.address().to_owned();
            let goes_on = self.request.follow && decide(&trouble, true) != Decision::GiveUp;
            let error = trouble.into_error(&address, false);
            if !goes_on {
                self.ended = true;
                return Some((Err(error), self));
            }
            self.open = None;
            self.request.last = Some(0);
            return Some((Ok(LogEvent::Interrupted(error.to_string())), self));
        }
    }

    /// Finds a node that serves the stream.
    async fn open(&mut self) -> Result<(), ClientError> {
        let mut retry = self.client.retry(false, true);
        let mut node = self.client.router().choose(Route::Any, None);
        loop {
            match open(&node, &self.request, retry.deadline).await {
                Ok(events) => {
                    self.open = Some((node, events));
                    return Ok(());
                }
                Err(trouble) => node = self.client.recover(&mut retry, Route::Any, &node, trouble).await?,
            }
        }
    }
}

async fn open(
    node: &Node,
    request: &FollowLogsRequest,
    deadline: Instant,
) -> Result<Streaming<FollowLogsResponse>, Trouble> {
    let limit = deadline.saturating_duration_since(Instant::now());
    let connection = node.connection(limit).await.map_err(Trouble::NotSent)?;
    let mut grpc = grpc(connection);
    let method = PathAndQuery::from_static(FOLLOW_LOGS);
    let opening = grpc.server_streaming(Request::new(request.clone()), method, ProstCodec::default());
    match timeout(limit, opening).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(Trouble::from_status(&status)),
        Err(_) => Err(Trouble::TimedOut(limit)),
    }
}

impl From<Event> for LogEvent {
    fn from(event: Event) -> Self {
        match event {
            Event::Line(line) => LogEvent::Line(line),
            Event::Dropped(dropped) => LogEvent::Dropped(dropped),
            Event::Node(node) => LogEvent::Node(node),
        }
    }
}
