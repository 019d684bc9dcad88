//! `Sql.QueryStream`: results of any size, from the replica that may be read, here or on the shard's leader.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cirrus_cluster::sql::Readable;
use cirrus_proto::Failure;
use cirrus_proto::v1::sql_client::SqlClient;
use cirrus_proto::v1::{SqlQueryStreamRequest, SqlQueryStreamResponse};
use tonic::{Request, Status};

use super::outflow::{Outflow, Stream, broken, deadline, forwarded, locate};
use crate::admission::Admission;
use crate::edge::{Edge, check_consistency, code_of};
use crate::observation::Rpc;
use crate::peers::Peers;

/// Starts queries whose results stream.
pub(super) struct QueryStreams {
    edge: Arc<Edge>,
    peers: Peers,
    admission: Admission,
    idle: Duration,
    rpc: Rpc,
}

impl QueryStreams {
    pub(super) fn new(edge: Arc<Edge>, peers: Peers, streams_max: usize, idle: Duration) -> QueryStreams {
        let admission = Admission::new("query streams", streams_max);
        QueryStreams { edge, peers, admission, idle, rpc: Rpc::new("Sql/QueryStream") }
    }

    /// Streams under way.
    pub(super) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Starts a query; what is wrong with the request is answered at once, and what SQLite says of it by the stream.
    pub(super) async fn start(
        &self,
        request: Request<SqlQueryStreamRequest>,
    ) -> Result<Stream<SqlQueryStreamResponse>, Status> {
        let observation = self.rpc.begin();
        let started = self.prepare(request, observation.started()).await;
        observation.answer(code_of(&started));
        Ok(started?)
    }

    async fn prepare(
        &self,
        request: Request<SqlQueryStreamRequest>,
        now: Instant,
    ) -> Result<Stream<SqlQueryStreamResponse>, Failure> {
        let admitted = self.admission.admit()?;
        let edge = &self.edge;
        let (metadata, _, request) = request.into_parts();
        let deadline = deadline(edge, &metadata, now)?;
        check_consistency(request.consistency)?;
        cirrus_engine::statements(&request.statements, &edge.limits)?;
        let consistency = request.consistency();
        let readable = locate(edge, &metadata, request.database.as_ref(), consistency, deadline).await?;
        let (mut outflow, stream) = Outflow::new("query", deadline, self.idle, admitted);
        match readable {
            Readable::Here(shard) => {
                let edge = Arc::clone(edge);
                tokio::task::spawn_blocking(move || {
                    let outcome = edge.node.stream_query(&shard, &request, &mut |message| outflow.send(message));
                    outflow.end(outcome);
                });
            }
            Readable::At(address) => {
                let mut leader = SqlClient::new(self.peers.channel(&address)?);
                let relayed = leader.query_stream(forwarded(request, deadline)).await;
                tokio::spawn(outflow.relay(relayed.map_err(|status| broken("query", &status))?.into_inner()));
            }
        }
        Ok(stream)
    }
}
