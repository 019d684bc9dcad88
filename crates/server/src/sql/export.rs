//! `Sql.Export`: one moment of a database as a file, from the replica that may be read, here or on the shard's leader.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use cirrus_cluster::sql::{Readable, export_database};
use cirrus_proto::v1::sql_client::SqlClient;
use cirrus_proto::v1::{SqlExportRequest, SqlExportResponse};
use cirrus_proto::{FORWARDED_METADATA, Failure, Reason};
use cirrus_replication::Shard;
use tokio::sync::mpsc;
use tokio::time::timeout_at;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};

use crate::admission::{Admission, Admitted};
use crate::edge::{Arrival, Edge, check_consistency, code_of, is_forwarded};
use crate::observation::Rpc;
use crate::peers::Peers;

/// Bytes of one message.
const CHUNK_BYTES: usize = 256 * 1024;
/// Messages made before the client takes them.
const CHUNKS_AHEAD: usize = 2;

type Chunks = mpsc::Sender<Result<SqlExportResponse, Status>>;

/// Starts exports.
pub(super) struct Exports {
    edge: Arc<Edge>,
    peers: Peers,
    admission: Admission,
    rpc: Arc<Rpc>,
}

impl Exports {
    pub(super) fn new(edge: Arc<Edge>, peers: Peers, exports_max: usize) -> Exports {
        let admission = Admission::new("exports", exports_max);
        Exports { edge, peers, admission, rpc: Arc::new(Rpc::new("Sql/Export")) }
    }

    /// Exports under way.
    pub(super) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Starts an export; what is wrong before its first page is answered at once.
    pub(super) async fn start(
        &self,
        request: Request<SqlExportRequest>,
    ) -> Result<ReceiverStream<Result<SqlExportResponse, Status>>, Status> {
        let (chunks, stream) = mpsc::channel(CHUNKS_AHEAD);
        let observation = self.rpc.begin();
        let started = self.prepare(request, chunks, observation.started()).await;
        observation.answer(code_of(&started));
        started?;
        Ok(ReceiverStream::new(stream))
    }

    async fn prepare(&self, request: Request<SqlExportRequest>, chunks: Chunks, now: Instant) -> Result<(), Failure> {
        let admitted = self.admission.admit()?;
        let edge = &self.edge;
        // A reader that stands still would hold the state's snapshot: where nothing is stated, the longest deadline ends it.
        let stated = edge.deadlines.stated(now, request.metadata())?;
        let deadline = stated.unwrap_or(now + edge.deadlines.longest);
        let arrival = Arrival { deadline, forwarded: is_forwarded(request.metadata()) };
        let request = request.into_inner();
        check_consistency(request.consistency)?;
        let user = &cirrus_engine::named_database(request.database.as_ref())?.user;
        let shard_id = edge.node.shard_of_user(user)?;
        let readable = edge.node.readable(shard_id, request.consistency(), deadline, !arrival.forwarded).await?;
        match readable {
            Readable::Here(shard) => {
                let edge = Arc::clone(edge);
                tokio::task::spawn_blocking(move || send_pages(&edge, &shard, &request, &chunks, deadline, admitted));
            }
            Readable::At(address) => {
                let channel = self.peers.channel(&address)?;
                let mut forwarded = Request::new(request);
                forwarded.metadata_mut().insert(FORWARDED_METADATA, MetadataValue::from_static("1"));
                forwarded.set_timeout(deadline.saturating_duration_since(Instant::now()));
                let relayed = SqlClient::new(channel).export(forwarded).await.map_err(|status| broken(&status))?;
                tokio::spawn(relay(relayed.into_inner(), chunks, deadline, admitted));
            }
        }
        Ok(())
    }
}

/// Reads the database, no faster than the client takes it.
fn send_pages(
    edge: &Edge,
    shard: &Shard,
    request: &SqlExportRequest,
    chunks: &Chunks,
    deadline: Instant,
    _admitted: Admitted,
) {
    let runtime = tokio::runtime::Handle::current();
    let send = |message| runtime.block_on(timeout_at(deadline.into(), chunks.send(message)));
    let late = || Failure::new(Reason::DeadlineExceeded, "the export did not end before its deadline");
    let mut chunk = BytesMut::new();
    let mut ended = Ok(());
    let mut send_chunk = |chunk: Bytes| match send(Ok(SqlExportResponse { chunk })) {
        Ok(Ok(())) => ControlFlow::Continue(()),
        // The client went away.
        Ok(Err(_)) => ControlFlow::Break(()),
        Err(_) => {
            ended = Err(late());
            ControlFlow::Break(())
        }
    };
    let outcome = match &request.database {
        None => Err(Failure::invalid_field("database", "must be set")),
        Some(database) => export_database(shard, database, edge.node.sql_limits(), &mut |page| {
            chunk.extend_from_slice(page);
            if chunk.len() < CHUNK_BYTES {
                return ControlFlow::Continue(());
            }
            send_chunk(chunk.split().freeze())
        }),
    };
    if outcome.is_ok() && !chunk.is_empty() {
        // Whether it was taken shows in `ended`.
        let _ = send_chunk(chunk.freeze());
    }
    if let Err(failure) = outcome.and(ended) {
        // A stream without an error is complete, so this one must not end in silence. Where the client stands still, what
        // waits for it is not the state's snapshot any more, and ends with its connection.
        let chunks = chunks.clone();
        runtime.spawn(async move { chunks.send(Err(failure.into())).await });
    }
}

/// Passes on what the leader sends.
async fn relay(mut pages: Streaming<SqlExportResponse>, chunks: Chunks, deadline: Instant, _admitted: Admitted) {
    loop {
        let message = match timeout_at(deadline.into(), pages.message()).await {
            Ok(Ok(Some(page))) => Ok(page),
            Ok(Ok(None)) => return,
            Ok(Err(status)) => Err(broken(&status).into()),
            Err(_) => Err(Failure::new(Reason::DeadlineExceeded, "the export did not end before its deadline").into()),
        };
        let ends = message.is_err();
        if chunks.send(message).await.is_err() || ends {
            return;
        }
    }
}

/// A read changes nothing: where the leader is lost, the export can be begun anew.
fn broken(status: &Status) -> Failure {
    Failure::from_status(status).unwrap_or_else(|| {
        Failure::new(Reason::NoLeader, format!("the connection to the shard's leader broke: {}", status.message()))
    })
}
