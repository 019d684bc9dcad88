//! SQLite databases.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use cirrus_proto::v1::{
    SqlDatabase, SqlDescribeRequest, SqlDescribeResponse, SqlExecuteRequest, SqlExecuteResponse, SqlExportRequest,
    SqlExportResponse, SqlGetSchemaRequest, SqlImportRequest, SqlImportResponse, SqlListRequest, SqlListResponse,
    SqlListSchemasRequest, SqlMigrateDatabasesRequest, SqlMigrateDatabasesResponse, SqlPutSchemaRequest,
    SqlPutSchemaResponse, SqlPutSphivedbSettingsRequest, SqlQueryRequest, SqlQueryResponse, SqlRemoveRequest,
    SqlSchema, SqlSchemaStatusRequest, SqlSchemaStatusResponse, SqlStatement,
};
use http::uri::PathAndQuery;
use tokio::time::timeout_at;
use tonic::{Code, Request, Streaming};
use tonic_prost::ProstCodec;

use crate::attempt::{grpc, next_message, open_stream};
use crate::node::Node;
use crate::policy::Trouble;
use crate::request::{Route, user};
use crate::{Client, ClientError};

const EXPORT: &str = "/cirrus.v1.Sql/Export";
const IMPORT: &str = "/cirrus.v1.Sql/Import";
const MIGRATE: &str = "/cirrus.v1.Sql/MigrateDatabases";

/// Bytes of a file in one message.
const CHUNK_BYTES: usize = 256 * 1024;

impl Client {
    /// Runs statements on a database as one transaction.
    pub async fn execute_sql(
        &self,
        database: SqlDatabase,
        statements: Vec<SqlStatement>,
    ) -> Result<SqlExecuteResponse, ClientError> {
        self.execute_sql_with(SqlExecuteRequest { database: Some(database), statements, request_id: None }).await
    }

    /// Runs statements, with the request's own request id if it has one.
    pub async fn execute_sql_with(&self, request: SqlExecuteRequest) -> Result<SqlExecuteResponse, ClientError> {
        self.execute(request).await
    }

    /// Runs statements that only read, as fresh as the request asks.
    pub async fn query_sql(&self, request: SqlQueryRequest) -> Result<SqlQueryResponse, ClientError> {
        self.execute(request).await
    }

    /// Removes a database.
    pub async fn remove_database(&self, database: SqlDatabase) -> Result<(), ClientError> {
        self.execute(SqlRemoveRequest { database: Some(database), request_id: None }).await.map(drop)
    }

    /// What a database consists of.
    pub async fn describe_database(&self, database: SqlDatabase) -> Result<SqlDescribeResponse, ClientError> {
        self.execute(SqlDescribeRequest { database: Some(database), ..Default::default() }).await
    }

    /// A page of the databases that the request asks for.
    pub async fn list_databases(&self, request: SqlListRequest) -> Result<SqlListResponse, ClientError> {
        self.execute(request).await
    }

    /// Stores the next version of a dbname's schema.
    pub async fn put_schema(&self, request: SqlPutSchemaRequest) -> Result<SqlPutSchemaResponse, ClientError> {
        self.execute(request).await
    }

    /// The schema of a dbname.
    pub async fn get_schema(&self, dbname: impl Into<String>) -> Result<SqlSchema, ClientError> {
        let answer = self.execute(SqlGetSchemaRequest { dbname: dbname.into() }).await?;
        answer.schema.ok_or_else(|| ClientError::new(Code::Internal, "the answer has no schema"))
    }

    /// The schemas of all dbnames, without their texts.
    pub async fn list_schemas(&self) -> Result<Vec<SqlSchema>, ClientError> {
        Ok(self.execute(SqlListSchemasRequest {}).await?.schemas)
    }

    /// How many databases of a dbname stand at which version.
    pub async fn schema_status(&self, dbname: impl Into<String>) -> Result<SqlSchemaStatusResponse, ClientError> {
        self.execute(SqlSchemaStatusRequest { dbname: dbname.into() }).await
    }

    /// Says which dbfiles POST /sphivedb offers.
    pub async fn put_sphivedb_settings(&self, first_dbfile: u32, last_dbfile: u32) -> Result<(), ClientError> {
        let request = SqlPutSphivedbSettingsRequest { first_dbfile, last_dbfile, request_id: None };
        self.execute(request).await.map(drop)
    }

    /// Brings the databases of a dbname to its schema's version; tells how far it has come, again and again. Begun anew, it
    /// goes on with those that are still behind. The client's timeout bounds the wait for its begin, not the walk.
    pub async fn migrate_databases(
        &self,
        request: SqlMigrateDatabasesRequest,
        mut progress: impl FnMut(&SqlMigrateDatabasesResponse),
    ) -> Result<SqlMigrateDatabasesResponse, ClientError> {
        let node = self.router().choose(Route::Any, None);
        let broken = |trouble: Trouble| trouble.into_error(node.address(), false);
        let opened = open_stream(&node, self.timeout(), MIGRATE, Request::new(request)).await;
        let mut messages: Streaming<SqlMigrateDatabasesResponse> = opened.map_err(broken)?;
        while let Some(message) = next_message(&mut messages).await.map_err(broken)? {
            progress(&message);
            if message.done {
                return Ok(message);
            }
        }
        Err(ClientError::new(Code::Unavailable, "the walk ended before it was done"))
    }

    /// A database as a file that SQLite's own tools open. Begun anew where its node is lost.
    pub async fn export_database(&self, request: SqlExportRequest) -> Result<Bytes, ClientError> {
        let mut retry = self.retry(false, true);
        let route = user(request.database.as_ref());
        let mut node = self.router().choose(route, None);
        loop {
            let limit = retry.deadline.saturating_duration_since(Instant::now());
            let exported = match timeout_at(retry.deadline.into(), export(&node, &request, limit)).await {
                Ok(exported) => exported,
                Err(_) => Err(Trouble::TimedOut(limit)),
            };
            match exported {
                Ok(file) => return Ok(file),
                Err(trouble) => node = self.recover(&mut retry, route, &node, trouble).await?,
            }
        }
    }

    /// Stores a file of SQLite as a database that is not there yet. One attempt: where its outcome is unknown,
    /// [`Client::describe_database`] tells.
    pub async fn import_database(&self, database: SqlDatabase, file: Bytes) -> Result<SqlImportResponse, ClientError> {
        let limit = self.timeout();
        let deadline = Instant::now() + limit;
        let node = self.router().choose(user(Some(&database)), None);
        let imported = match timeout_at(deadline.into(), import(&node, database, file, limit)).await {
            Ok(imported) => imported,
            Err(_) => Err(Trouble::TimedOut(limit)),
        };
        imported.map_err(|trouble| {
            let unknown = trouble.outcome_unknown();
            trouble.into_error(node.address(), unknown)
        })
    }
}

async fn export(node: &Arc<Node>, request: &SqlExportRequest, limit: std::time::Duration) -> Result<Bytes, Trouble> {
    let mut message = Request::new(request.clone());
    message.set_timeout(limit);
    let mut chunks: Streaming<SqlExportResponse> = open_stream(node, limit, EXPORT, message).await?;
    let mut file = BytesMut::new();
    while let Some(next) = next_message(&mut chunks).await? {
        file.extend_from_slice(&next.chunk);
    }
    Ok(file.freeze())
}

async fn import(
    node: &Arc<Node>,
    database: SqlDatabase,
    file: Bytes,
    limit: std::time::Duration,
) -> Result<SqlImportResponse, Trouble> {
    let connection = node.connection(limit).await.map_err(Trouble::NotSent)?;
    let mut messages = vec![SqlImportRequest { database: Some(database), chunk: Bytes::new() }];
    let chunk = |start: usize| SqlImportRequest {
        database: None,
        chunk: file.slice(start..file.len().min(start + CHUNK_BYTES)),
    };
    messages.extend((0..file.len()).step_by(CHUNK_BYTES).map(chunk));
    let mut message = Request::new(futures::stream::iter(messages));
    message.set_timeout(limit);
    let method = PathAndQuery::from_static(IMPORT);
    let answer = grpc(connection).client_streaming(message, method, ProstCodec::default()).await;
    Ok(answer.map_err(|status| Trouble::from_status(&status))?.into_inner())
}
