//! `Sql.Import`: gathers the file, within its limit, then stores it.

use std::time::Instant;

use cirrus_proto::v1::{SqlImportRequest, SqlImportResponse};
use cirrus_proto::{Failure, Reason};
use tonic::{Request, Streaming};

use crate::admission::Admission;
use crate::edge::Edge;

pub(super) async fn run(
    edge: &Edge,
    imports: &Admission,
    request: Request<Streaming<SqlImportRequest>>,
    now: Instant,
) -> Result<SqlImportResponse, Failure> {
    let _admitted = imports.admit()?;
    // A file takes longer than a request: where nothing is stated, it has the longest deadline.
    let stated = edge.deadlines.stated(now, request.metadata())?;
    let deadline = stated.unwrap_or(now + edge.deadlines.longest);
    let mut messages = request.into_inner();
    let gathered = tokio::time::timeout_at(deadline.into(), gather(edge, &mut messages)).await;
    let late = || Failure::new(Reason::DeadlineExceeded, "the file did not arrive before the deadline");
    let (database, file) = gathered.map_err(|_| late())??;
    let size_bytes = edge.node.import_database(database, file, deadline).await?;
    Ok(SqlImportResponse { size_bytes })
}

async fn gather(
    edge: &Edge,
    messages: &mut Streaming<SqlImportRequest>,
) -> Result<(cirrus_proto::v1::SqlDatabase, Vec<u8>), Failure> {
    let limit = edge.node.sql_limits().database_bytes;
    let mut database = None;
    let mut file = Vec::new();
    let broken = |status: tonic::Status| {
        Failure::from_status(&status)
            .unwrap_or_else(|| Failure::invalid_field("chunk", format!("the stream broke: {}", status.message())))
    };
    while let Some(message) = messages.message().await.map_err(broken)? {
        if let Some(named) = message.database {
            cirrus_engine::named_database(Some(&named))?;
            if database.replace(named).is_some() {
                return Err(Failure::invalid_field("database", "belongs in the first message only"));
            }
        } else if database.is_none() {
            return Err(Failure::invalid_field("database", "must be set in the first message"));
        }
        let bytes = file.len() + message.chunk.len();
        if bytes > limit {
            return Err(Failure::too_large(Reason::DatabaseTooLarge, "file", bytes, limit));
        }
        file.extend_from_slice(&message.chunk);
    }
    let database = database.ok_or_else(|| Failure::invalid_field("database", "must be set in the first message"))?;
    Ok((database, file))
}
