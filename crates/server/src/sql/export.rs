//! `Sql.Export`: one moment of a database as a file, from the replica that may be read, here or on the shard's leader.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use cirrus_cluster::sql::{Readable, export_database};
use cirrus_proto::Failure;
use cirrus_proto::v1::sql_client::SqlClient;
use cirrus_proto::v1::{SqlExportRequest, SqlExportResponse};
use cirrus_replication::Shard;
use tonic::{Request, Status};

use super::outflow::{Outflow, Stream, broken, deadline, forwarded, locate};
use crate::admission::Admission;
use crate::edge::{Edge, check_consistency, code_of};
use crate::observation::Rpc;
use crate::peers::Peers;

/// Bytes of one message.
const CHUNK_BYTES: usize = 256 * 1024;

/// Starts exports.
pub(super) struct Exports {
    edge: Arc<Edge>,
    peers: Peers,
    admission: Admission,
    idle: Duration,
    rpc: Rpc,
}

impl Exports {
    pub(super) fn new(edge: Arc<Edge>, peers: Peers, exports_max: usize, idle: Duration) -> Exports {
        let admission = Admission::new("exports", exports_max);
        Exports { edge, peers, admission, idle, rpc: Rpc::new("Sql/Export") }
    }

    /// Exports under way.
    pub(super) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Starts an export; what is wrong before its first page is answered at once.
    pub(super) async fn start(&self, request: Request<SqlExportRequest>) -> Result<Stream<SqlExportResponse>, Status> {
        let observation = self.rpc.begin();
        let started = self.prepare(request, observation.started()).await;
        observation.answer(code_of(&started));
        Ok(started?)
    }

    async fn prepare(
        &self,
        request: Request<SqlExportRequest>,
        now: Instant,
    ) -> Result<Stream<SqlExportResponse>, Failure> {
        let admitted = self.admission.admit()?;
        let edge = &self.edge;
        let (metadata, _, request) = request.into_parts();
        let deadline = deadline(edge, &metadata, now)?;
        check_consistency(request.consistency)?;
        let consistency = request.consistency();
        let readable = locate(edge, &metadata, request.database.as_ref(), consistency, deadline).await?;
        let (outflow, stream) = Outflow::new("export", deadline, self.idle, admitted);
        match readable {
            Readable::Here(shard) => {
                let edge = Arc::clone(edge);
                tokio::task::spawn_blocking(move || send_pages(&edge, &shard, &request, outflow));
            }
            Readable::At(address) => {
                let mut leader = SqlClient::new(self.peers.channel(&address)?);
                let relayed = leader.export(forwarded(request, deadline)).await;
                tokio::spawn(outflow.relay(relayed.map_err(|status| broken("export", &status))?.into_inner()));
            }
        }
        Ok(stream)
    }
}

/// Reads the database, no faster than the client takes it.
fn send_pages(edge: &Edge, shard: &Shard, request: &SqlExportRequest, mut outflow: Outflow<SqlExportResponse>) {
    let mut chunk = BytesMut::new();
    let outcome = match &request.database {
        None => Err(Failure::invalid_field("database", "must be set")),
        Some(database) => export_database(shard, database, edge.node.sql_limits(), &mut |page| {
            chunk.extend_from_slice(page);
            if chunk.len() < CHUNK_BYTES {
                return ControlFlow::Continue(());
            }
            outflow.send(SqlExportResponse { chunk: chunk.split().freeze() })
        }),
    };
    if outcome.is_ok() && !chunk.is_empty() {
        // Whether it was taken is told as the stream ends.
        let _ = outflow.send(SqlExportResponse { chunk: chunk.freeze() });
    }
    outflow.end(outcome);
}
