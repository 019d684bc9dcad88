//! A query's results as a stream of parts.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use cirrus_proto::v1::{SqlQueryStreamRequest, SqlQueryStreamResponse};
use futures::Stream;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::time::{timeout, timeout_at};
use tonic::{Code, Request, Streaming};

use crate::attempt::{next_message, open_stream};
use crate::node::Node;
use crate::policy::Trouble;
use crate::request::user;
use crate::{Client, ClientError};

const QUERY_STREAM: &str = "/cirrus.v1.Sql/QueryStream";

/// Parts of a query's results, as they come. Ends after an error; what ends without one is complete.
pub struct SqlParts {
    parts: BoxStream<'static, Result<SqlQueryStreamResponse, ClientError>>,
}

impl Client {
    /// Runs statements that only read, with results of any size, no faster than the parts are taken. The client's timeout bounds
    /// the wait for each part; the node bounds the whole, and how long it waits for one to be taken. A node that is
    /// lost before the first part is replaced by another. After that the stream ends with the error, since parts
    /// that were taken cannot be taken back. A stream that nobody reads takes up to 4 MiB of its connection's window of
    /// 16 MiB, which other requests of this client share.
    pub fn stream_sql(&self, request: SqlQueryStreamRequest) -> SqlParts {
        let progress = Progress { client: self.clone(), request, open: None, complete: 0, ended: false };
        SqlParts { parts: stream::unfold(progress, Progress::next).boxed() }
    }
}

impl Stream for SqlParts {
    type Item = Result<SqlQueryStreamResponse, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.parts.poll_next_unpin(cx)
    }
}

type Parts = Streaming<SqlQueryStreamResponse>;

struct Progress {
    client: Client,
    request: SqlQueryStreamRequest,
    open: Option<(Arc<Node>, Parts)>,
    /// Statements whose results are complete.
    complete: usize,
    ended: bool,
}

impl Progress {
    async fn next(mut self) -> Option<(Result<SqlQueryStreamResponse, ClientError>, Progress)> {
        if self.ended {
            return None;
        }
        let part = match self.part().await {
            Ok(Some(part)) => {
                self.complete += usize::from(part.last);
                Ok(part)
            }
            Ok(None) if self.complete == self.request.statements.len() => return None,
            Ok(None) => Err(ClientError::new(Code::DataLoss, "the stream ended before the results did")),
            Err(error) => Err(error),
        };
        self.ended = part.is_err();
        Some((part, self))
    }

    async fn part(&mut self) -> Result<Option<SqlQueryStreamResponse>, ClientError> {
        let Some((node, parts)) = &mut self.open else { return self.first_part().await };
        let limit = self.client.timeout();
        let part = match timeout(limit, next_message(parts)).await {
            Ok(part) => part,
            Err(_) => Err(Trouble::TimedOut(limit)),
        };
        part.map_err(|trouble| trouble.into_error(node.address(), false))
    }

    /// Finds a node that serves the stream.
    async fn first_part(&mut self) -> Result<Option<SqlQueryStreamResponse>, ClientError> {
        let mut retry = self.client.retry(false, true);
        let route = user(self.request.database.as_ref());
        let mut node = self.client.router().choose(route, None);
        loop {
            let limit = retry.deadline.saturating_duration_since(Instant::now());
            let opened = match timeout_at(retry.deadline.into(), open(&node, &self.request, limit)).await {
                Ok(opened) => opened,
                Err(_) => Err(Trouble::TimedOut(limit)),
            };
            match opened {
                Ok((parts, first)) => {
                    self.open = Some((node, parts));
                    return Ok(first);
                }
                Err(trouble) => node = self.client.recover(&mut retry, route, &node, trouble).await?,
            }
        }
    }
}

async fn open(
    node: &Node,
    request: &SqlQueryStreamRequest,
    limit: Duration,
) -> Result<(Parts, Option<SqlQueryStreamResponse>), Trouble> {
    let mut parts: Parts = open_stream(node, limit, QUERY_STREAM, Request::new(request.clone())).await?;
    let first = next_message(&mut parts).await?;
    Ok((parts, first))
}
