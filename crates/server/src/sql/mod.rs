//! The service `Sql`.

mod export;
mod import;
mod migrate;
mod outflow;
mod query_stream;

use std::sync::Arc;
use std::time::Duration;

use cirrus_cluster::Routed;
use cirrus_proto::Failure;
use cirrus_proto::internal::v1::{SqlExecute, command, query, query_result, reply};
use cirrus_proto::v1::sql_server::Sql;
use cirrus_proto::v1::{
    SqlDatabase, SqlDescribeRequest, SqlDescribeResponse, SqlExecuteRequest, SqlExecuteResponse, SqlExportRequest,
    SqlExportResponse, SqlGetSchemaRequest, SqlGetSchemaResponse, SqlImportRequest, SqlImportResponse, SqlListRequest,
    SqlListResponse, SqlListSchemasRequest, SqlListSchemasResponse, SqlMigrateDatabasesRequest,
    SqlMigrateDatabasesResponse, SqlPutSchemaRequest, SqlPutSchemaResponse, SqlPutSphivedbSettingsRequest,
    SqlPutSphivedbSettingsResponse, SqlQueryRequest, SqlQueryResponse, SqlQueryStreamRequest, SqlQueryStreamResponse,
    SqlRemoveRequest, SqlRemoveResponse, SqlSchemaStatusRequest, SqlSchemaStatusResponse,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

use self::outflow::{Outflows, Stream};
use crate::admission::Admission;
use crate::config::SqlSection;
use crate::edge::{Arrival, Edge, check_consistency, code_of, mismatched_reply, read_span, respond};
use crate::observation::Rpc;
use crate::peers::Peers;

/// Walks of MigrateDatabases under way on the node.
const MIGRATIONS_MAX: usize = 8;

/// Serves SQLite databases.
pub(crate) struct SqlService {
    edge: Arc<Edge>,
    exports: Outflows,
    query_streams: Outflows,
    imports: Admission,
    migrations: Admission,
    execute: Rpc,
    query: Rpc,
    remove: Rpc,
    describe: Rpc,
    list: Rpc,
    import: Rpc,
    put_schema: Rpc,
    get_schema: Rpc,
    list_schemas: Rpc,
    schema_status: Rpc,
    migrate_databases: Arc<Rpc>,
    put_sphivedb_settings: Rpc,
}

impl SqlService {
    pub(crate) fn new(edge: Arc<Edge>, config: &SqlSection) -> Self {
        let idle = Duration::from_millis(config.stream_idle_ms);
        let peers = Peers::for_slow_streams(config.exports.saturating_add(config.query_streams));
        let outflows = |names, most| Outflows::new(Arc::clone(&edge), peers.clone(), names, most, idle);
        SqlService {
            exports: outflows(("Sql/Export", "exports"), config.exports),
            query_streams: outflows(("Sql/QueryStream", "query streams"), config.query_streams),
            imports: Admission::new("imports", config.imports),
            migrations: Admission::new("migrations", MIGRATIONS_MAX),
            edge,
            execute: Rpc::new("Sql/Execute"),
            query: Rpc::new("Sql/Query"),
            remove: Rpc::new("Sql/Remove"),
            describe: Rpc::new("Sql/Describe"),
            list: Rpc::new("Sql/List"),
            import: Rpc::new("Sql/Import"),
            put_schema: Rpc::new("Sql/PutSchema"),
            get_schema: Rpc::new("Sql/GetSchema"),
            list_schemas: Rpc::new("Sql/ListSchemas"),
            schema_status: Rpc::new("Sql/SchemaStatus"),
            migrate_databases: Arc::new(Rpc::new("Sql/MigrateDatabases")),
            put_sphivedb_settings: Rpc::new("Sql/PutSphivedbSettings"),
        }
    }

    /// Exports, query streams and imports under way.
    pub(crate) fn admissions(&self) -> [Admission; 3] {
        [self.exports.admission().clone(), self.query_streams.admission().clone(), self.imports.clone()]
    }

    /// Asks the shard of a user's databases.
    async fn ask(
        &self,
        rpc: &Rpc,
        database: Option<&SqlDatabase>,
        kind: query::Kind,
        consistency: i32,
        arrival: Arrival,
    ) -> Result<Routed<query_result::Kind>, Failure> {
        check_consistency(consistency)?;
        let user = &cirrus_engine::named_database(database)?.user;
        let shard_id = self.edge.node.shard_of_user(user)?;
        let span = read_span(rpc.name(), shard_id);
        self.edge.query(shard_id, kind, consistency, arrival).instrument(span).await
    }
}

/// An answer that names no leader to go to: schemas are cluster-wide.
fn anywhere<T>(value: T) -> Routed<T> {
    Routed { value, leader_address: None }
}

#[tonic::async_trait]
impl Sql for SqlService {
    type ExportStream = Stream<SqlExportResponse>;
    type QueryStreamStream = Stream<SqlQueryStreamResponse>;
    type MigrateDatabasesStream = ReceiverStream<Result<SqlMigrateDatabasesResponse, Status>>;

    async fn execute(&self, request: Request<SqlExecuteRequest>) -> Result<Response<SqlExecuteResponse>, Status> {
        let wrap = |request| {
            command::Kind::SqlExecute(SqlExecute { request: Some(request), scripts: false, types_as_written: false })
        };
        let unwrap = |reply| if let reply::Kind::SqlExecute(response) = reply { Some(response) } else { None };
        self.edge.command(&self.execute, request, wrap, unwrap).await
    }

    async fn query(&self, request: Request<SqlQueryRequest>) -> Result<Response<SqlQueryResponse>, Status> {
        let handle = |arrival, request: SqlQueryRequest| async move {
            cirrus_engine::statements(&request.statements, &self.edge.limits)?;
            let (kind, consistency) = (query::Kind::SqlQuery(request.clone()), request.consistency);
            let routed = self.ask(&self.query, request.database.as_ref(), kind, consistency, arrival).await?;
            match routed.value {
                query_result::Kind::SqlQuery(value) => Ok(Routed { value, leader_address: routed.leader_address }),
                _ => Err(mismatched_reply()),
            }
        };
        self.edge.unary(&self.query, request, handle).await
    }

    async fn query_stream(
        &self,
        request: Request<SqlQueryStreamRequest>,
    ) -> Result<Response<Self::QueryStreamStream>, Status> {
        Ok(Response::new(self.query_streams.start(request).await?))
    }

    async fn remove(&self, request: Request<SqlRemoveRequest>) -> Result<Response<SqlRemoveResponse>, Status> {
        let handle = |arrival: Arrival, request: SqlRemoveRequest| async move {
            if let Some(id) = &request.request_id {
                cirrus_engine::sessions::check_request_id(id)?;
            }
            let removed = self.edge.node.remove_database(request, arrival.deadline, !arrival.forwarded).await?;
            Ok(Routed { value: SqlRemoveResponse {}, leader_address: removed.leader_address })
        };
        self.edge.unary(&self.remove, request, handle).await
    }

    async fn describe(&self, request: Request<SqlDescribeRequest>) -> Result<Response<SqlDescribeResponse>, Status> {
        let handle = |arrival, request: SqlDescribeRequest| async move {
            let (kind, consistency) = (query::Kind::SqlDescribe(request.clone()), request.consistency);
            let routed = self.ask(&self.describe, request.database.as_ref(), kind, consistency, arrival).await?;
            match routed.value {
                query_result::Kind::SqlDescribe(value) => Ok(Routed { value, leader_address: routed.leader_address }),
                _ => Err(mismatched_reply()),
            }
        };
        self.edge.unary(&self.describe, request, handle).await
    }

    async fn list(&self, request: Request<SqlListRequest>) -> Result<Response<SqlListResponse>, Status> {
        let handle = |arrival: Arrival, request: SqlListRequest| async move {
            check_consistency(request.consistency)?;
            let value = self.edge.node.list_databases(request, arrival.deadline).await?;
            Ok(Routed { value, leader_address: None })
        };
        self.edge.unary(&self.list, request, handle).await
    }

    async fn export(&self, request: Request<SqlExportRequest>) -> Result<Response<Self::ExportStream>, Status> {
        Ok(Response::new(self.exports.start(request).await?))
    }

    async fn put_schema(
        &self,
        request: Request<SqlPutSchemaRequest>,
    ) -> Result<Response<SqlPutSchemaResponse>, Status> {
        let handle = |arrival: Arrival, request| async move {
            self.edge.node.put_schema(request, arrival.deadline).await.map(anywhere)
        };
        self.edge.unary(&self.put_schema, request, handle).await
    }

    async fn get_schema(
        &self,
        request: Request<SqlGetSchemaRequest>,
    ) -> Result<Response<SqlGetSchemaResponse>, Status> {
        let handle = |arrival: Arrival, request| async move {
            self.edge.node.get_schema(request, arrival.deadline).await.map(anywhere)
        };
        self.edge.unary(&self.get_schema, request, handle).await
    }

    async fn list_schemas(
        &self,
        request: Request<SqlListSchemasRequest>,
    ) -> Result<Response<SqlListSchemasResponse>, Status> {
        let handle =
            |arrival: Arrival, _| async move { self.edge.node.list_schemas(arrival.deadline).await.map(anywhere) };
        self.edge.unary(&self.list_schemas, request, handle).await
    }

    async fn schema_status(
        &self,
        request: Request<SqlSchemaStatusRequest>,
    ) -> Result<Response<SqlSchemaStatusResponse>, Status> {
        let handle = |arrival: Arrival, request: SqlSchemaStatusRequest| async move {
            self.edge.node.schema_status(&request.dbname, arrival.deadline).await.map(anywhere)
        };
        self.edge.unary(&self.schema_status, request, handle).await
    }

    async fn migrate_databases(
        &self,
        request: Request<SqlMigrateDatabasesRequest>,
    ) -> Result<Response<Self::MigrateDatabasesStream>, Status> {
        let rpc = Arc::clone(&self.migrate_databases);
        Ok(Response::new(migrate::start(&self.edge, &self.migrations, rpc, request)?))
    }

    async fn put_sphivedb_settings(
        &self,
        request: Request<SqlPutSphivedbSettingsRequest>,
    ) -> Result<Response<SqlPutSphivedbSettingsResponse>, Status> {
        let handle = |arrival: Arrival, request| async move {
            self.edge.node.put_sphivedb_settings(request, arrival.deadline).await.map(anywhere)
        };
        self.edge.unary(&self.put_sphivedb_settings, request, handle).await
    }

    async fn import(
        &self,
        request: Request<Streaming<SqlImportRequest>>,
    ) -> Result<Response<SqlImportResponse>, Status> {
        let observation = self.import.begin();
        let outcome = import::run(&self.edge, &self.imports, request, observation.started()).await;
        observation.answer(code_of(&outcome));
        respond(Routed { value: outcome?, leader_address: None })
    }
}
