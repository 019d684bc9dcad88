//! `KeyValue.Scan`: pages of all shards' keys, in key order.
//!
//! A task reads ahead of the client by at most [`PAGES_AHEAD`] pages; a client that reads slowly slows the
//! scan down, and one that goes away ends it.

mod merge;
mod range;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cirrus_proto::internal::v1::{ShardScan, ShardScanResult, query, query_result};
use cirrus_proto::v1::{ScanRequest, ScanResponse};
use cirrus_proto::{Failure, Reason};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};
use tracing::Instrument as _;

use self::merge::{Merge, PageSize, PageSource};
use self::range::KeyRange;
use crate::admission::{Admission, Admitted};
use crate::edge::{Arrival, Edge, check_consistency, code_of, is_forwarded, mismatched_reply};
use crate::observation::Rpc;

/// Pages made before the client takes them.
const PAGES_AHEAD: usize = 2;

/// Starts scans.
pub(crate) struct Scans {
    edge: Arc<Edge>,
    admission: Admission,
    rpc: Arc<Rpc>,
}

/// What the pages of one scan are read with.
struct ShardPages {
    edge: Arc<Edge>,
    end: Bytes,
    keys_only: bool,
    consistency: i32,
    /// Of the whole scan, where the client states one. A page has the default deadline besides.
    deadline: Option<Instant>,
    forwarded: bool,
}

impl Scans {
    pub(crate) fn new(edge: Arc<Edge>, scans_max: usize) -> Scans {
        Scans { edge, admission: Admission::new("scans", scans_max), rpc: Arc::new(Rpc::new("KeyValue/Scan")) }
    }

    /// Scans under way.
    pub(crate) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Starts a scan; what is wrong with the request itself is answered at once.
    pub(crate) fn start(
        &self,
        request: Request<ScanRequest>,
    ) -> Result<ReceiverStream<Result<ScanResponse, Status>>, Failure> {
        let prepared = self.prepare(request);
        if prepared.is_err() {
            self.rpc.begin().answer(code_of(&prepared));
        }
        let (merge, admitted) = prepared?;
        let (pages, stream) = mpsc::channel(PAGES_AHEAD);
        let rpc = Arc::clone(&self.rpc);
        let span = tracing::debug_span!("request", rpc = rpc.name());
        tokio::spawn(send_pages(merge, pages, rpc, admitted).instrument(span));
        Ok(ReceiverStream::new(stream))
    }

    fn prepare(&self, request: Request<ScanRequest>) -> Result<(Merge<ShardPages>, Admitted), Failure> {
        let admitted = self.admission.admit()?;
        let deadline = self.edge.deadlines.stated(Instant::now(), request.metadata())?;
        let forwarded = is_forwarded(request.metadata());
        let request = request.into_inner();
        check_consistency(request.consistency)?;
        let limits = &self.edge.limits;
        let range = KeyRange::of(&request, limits)?;
        let shard_ids = if range.is_empty() { Vec::new() } else { self.edge.node.shard_ids()? };
        let page = PageSize { pairs: limits.scan_page_pairs, bytes: limits.scan_page_bytes };
        let source = ShardPages {
            edge: Arc::clone(&self.edge),
            end: range.end,
            keys_only: request.keys_only,
            consistency: request.consistency,
            deadline,
            forwarded,
        };
        Ok((Merge::new(source, &shard_ids, &range.start, request.limit, page), admitted))
    }
}

async fn send_pages(
    mut merge: Merge<ShardPages>,
    pages: mpsc::Sender<Result<ScanResponse, Status>>,
    rpc: Arc<Rpc>,
    _admitted: Admitted,
) {
    let observation = rpc.begin();
    loop {
        let page = merge.next_page().await;
        let code = code_of(&page);
        let sent = match page {
            Ok(None) => return observation.answer(code),
            Ok(Some(page)) => pages.send(Ok(page)).await,
            Err(failure) => {
                observation.answer(code);
                // A client that went away needs no answer.
                let _ = pages.send(Err(failure.into())).await;
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

impl PageSource for ShardPages {
    async fn page(
        &self,
        shard_id: u32,
        start: Bytes,
        pairs_max: usize,
        bytes_max: usize,
    ) -> Result<ShardScanResult, Failure> {
        let now = Instant::now();
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Failure::new(Reason::DeadlineExceeded, "the scan did not end before its deadline"));
        }
        let page_deadline = now + self.edge.deadlines.default;
        let deadline = self.deadline.map_or(page_deadline, |deadline| deadline.min(page_deadline));
        let scan = ShardScan {
            start,
            end: self.end.clone(),
            max_pairs: u32::try_from(pairs_max).unwrap_or(u32::MAX),
            max_bytes: u32::try_from(bytes_max).unwrap_or(u32::MAX),
            keys_only: self.keys_only,
        };
        let arrival = Arrival { deadline, forwarded: self.forwarded };
        match self.edge.query(shard_id, query::Kind::Scan(scan), self.consistency, arrival).await?.value {
            query_result::Kind::Scan(result) => Ok(result),
            _ => Err(mismatched_reply()),
        }
    }
}
