//! A scan as a stream of pairs that survives the loss of the node that serves it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{BufMut as _, BytesMut};
use cirrus_proto::v1::{KeyValuePair, ScanRequest, ScanResponse};
use futures::Stream;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::time::timeout_at;
use tonic::{Request, Streaming};

use crate::attempt::{next_message, open_stream};
use crate::client::Retry;
use crate::node::Node;
use crate::policy::Trouble;
use crate::request::Route;
use crate::{Client, ClientError};

const SCAN: &str = "/cirrus.v1.KeyValue/Scan";

/// Pairs in key order. Ends after an error.
pub struct Scan {
    pages: BoxStream<'static, Result<Vec<KeyValuePair>, ClientError>>,
    page: std::vec::IntoIter<KeyValuePair>,
}

impl Scan {
    pub(crate) fn new(client: Client, request: ScanRequest) -> Self {
        let progress = Progress { limited: request.limit > 0, client, request, open: None, ended: false };
        Scan { pages: stream::unfold(progress, next_page).boxed(), page: Vec::new().into_iter() }
    }

    /// All pairs.
    pub async fn collect(mut self) -> Result<Vec<KeyValuePair>, ClientError> {
        let mut pairs: Vec<KeyValuePair> = self.page.collect();
        while let Some(page) = self.pages.next().await {
            pairs.extend(page?);
        }
        Ok(pairs)
    }
}

impl Stream for Scan {
    type Item = Result<KeyValuePair, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pair) = self.page.next() {
                return Poll::Ready(Some(Ok(pair)));
            }
            match ready!(self.pages.poll_next_unpin(cx)) {
                Some(Ok(page)) => self.page = page.into_iter(),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// How far a scan has come. `request` always asks for what is missing.
struct Progress {
    client: Client,
    request: ScanRequest,
    limited: bool,
    open: Option<(Arc<Node>, Streaming<ScanResponse>)>,
    ended: bool,
}

async fn next_page(mut progress: Progress) -> Option<(Result<Vec<KeyValuePair>, ClientError>, Progress)> {
    if progress.ended {
        return None;
    }
    match progress.read_page().await {
        Ok(Some(page)) => {
            progress.advance(&page);
            Some((Ok(page), progress))
        }
        Ok(None) => None,
        Err(error) => {
            progress.ended = true;
            Some((Err(error), progress))
        }
    }
}

impl Progress {
    async fn read_page(&mut self) -> Result<Option<Vec<KeyValuePair>>, ClientError> {
        let mut retry = self.client.retry(false, true);
        let mut node = match &self.open {
            Some((node, _)) => Arc::clone(node),
            None => self.client.router().choose(Route::Any, None),
        };
        loop {
            match self.try_page(&node, &retry).await {
                Ok(page) => return Ok(page.map(|page| page.pairs)),
                Err(trouble) => {
                    self.open = None;
                    node = self.client.recover(&mut retry, Route::Any, &node, trouble).await?;
                }
            }
        }
    }

    /// The next page from that node, on the open stream or a new one.
    async fn try_page(&mut self, node: &Arc<Node>, retry: &Retry) -> Result<Option<ScanResponse>, Trouble> {
        let started = Instant::now();
        let limit = retry.deadline.saturating_duration_since(started);
        let next = async {
            if self.open.is_none() {
                let pages = open_stream(node, limit, SCAN, Request::new(self.request.clone())).await?;
                self.open = Some((Arc::clone(node), pages));
            }
            match &mut self.open {
                Some((_, pages)) => next_message(pages).await,
                None => Ok(None),
            }
        };
        match timeout_at(retry.deadline.into(), next).await {
            Ok(page) => page,
            Err(_) => Err(Trouble::TimedOut(limit)),
        }
    }

    fn advance(&mut self, page: &[KeyValuePair]) {
        let Some(last) = page.last() else { return };
        // The first key behind it.
        let mut start = BytesMut::with_capacity(last.key.len() + 1);
        start.put_slice(&last.key);
        start.put_u8(0);
        self.request.start = start.freeze();
        if self.limited {
            self.request.limit = self.request.limit.saturating_sub(page.len() as u64);
            self.ended = self.request.limit == 0;
        }
    }
}
