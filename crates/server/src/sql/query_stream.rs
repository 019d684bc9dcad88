//! `Sql.QueryStream`: results of any size. What SQLite says of the statements is told by the stream.

use cirrus_proto::Failure;
use cirrus_proto::v1::sql_client::SqlClient;
use cirrus_proto::v1::{SqlDatabase, SqlQueryStreamRequest, SqlQueryStreamResponse};
use cirrus_replication::Shard;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::outflow::{Outflow, Streamed};
use crate::edge::Edge;

impl Streamed for SqlQueryStreamRequest {
    type Message = SqlQueryStreamResponse;

    const WHAT: &'static str = "query";

    fn database(&self) -> Option<&SqlDatabase> {
        self.database.as_ref()
    }

    fn consistency(&self) -> i32 {
        self.consistency
    }

    fn check(&self, edge: &Edge) -> Result<(), Failure> {
        cirrus_engine::statements(&self.statements, &edge.limits).map(drop)
    }

    fn make(self, edge: &Edge, shard: &Shard, mut outflow: Outflow<SqlQueryStreamResponse>) {
        let outcome = edge.node.stream_query(shard, &self, &mut |message| outflow.send(message));
        outflow.end(outcome);
    }

    async fn ask(
        mut leader: SqlClient<Channel>,
        request: Request<Self>,
    ) -> Result<Response<Streaming<SqlQueryStreamResponse>>, Status> {
        leader.query_stream(request).await
    }
}
