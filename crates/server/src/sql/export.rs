//! `Sql.Export`: one moment of a database as a file.

use std::ops::ControlFlow;

use bytes::BytesMut;
use cirrus_cluster::sql::export_database;
use cirrus_proto::Failure;
use cirrus_proto::v1::sql_client::SqlClient;
use cirrus_proto::v1::{SqlDatabase, SqlExportRequest, SqlExportResponse};
use cirrus_replication::Shard;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::outflow::{Outflow, Streamed};
use crate::edge::Edge;

/// Bytes of one message.
const CHUNK_BYTES: usize = 256 * 1024;

impl Streamed for SqlExportRequest {
    type Message = SqlExportResponse;

    const WHAT: &'static str = "export";

    fn database(&self) -> Option<&SqlDatabase> {
        self.database.as_ref()
    }

    fn consistency(&self) -> i32 {
        self.consistency
    }

    fn check(&self, _: &Edge) -> Result<(), Failure> {
        Ok(())
    }

    fn make(self, edge: &Edge, shard: &Shard, outflow: Outflow<SqlExportResponse>) {
        send_pages(edge, shard, &self, outflow);
    }

    async fn ask(
        mut leader: SqlClient<Channel>,
        request: Request<Self>,
    ) -> Result<Response<Streaming<SqlExportResponse>>, Status> {
        leader.export(request).await
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
