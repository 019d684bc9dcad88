//! What the client must know of each unary request: its method, its shard, and whether it changes anything.

use bytes::Bytes;
use cirrus_proto::v1::{
    ActivateLibraryRequest, ActivateLibraryResponse, BatchRequest, BatchResponse, CallRequest, CallResponse,
    DeleteLibraryRequest, DeleteLibraryResponse, DeleteRequest, DeleteResponse, DeleteScheduleRequest,
    DeleteScheduleResponse, GetLibraryRequest, GetLibraryResponse, GetRequest, GetResponse, IncrementRequest,
    IncrementResponse, KillCallRequest, KillCallResponse, ListLibrariesRequest, ListLibrariesResponse,
    ListLibraryVersionsRequest, ListLibraryVersionsResponse, ListRunningCallsRequest, ListRunningCallsResponse,
    ListSchedulesRequest, ListSchedulesResponse, PutRequest, PutResponse, RequestId, RollbackLibraryRequest,
    RollbackLibraryResponse, ScheduleProcedureRequest, ScheduleProcedureResponse, SetLibraryLimitsRequest,
    SetLibraryLimitsResponse, SqlDatabase, SqlDescribeRequest, SqlDescribeResponse, SqlExecuteRequest,
    SqlExecuteResponse, SqlGetSchemaRequest, SqlGetSchemaResponse, SqlListRequest, SqlListResponse,
    SqlListSchemasRequest, SqlListSchemasResponse, SqlPutSchemaRequest, SqlPutSchemaResponse,
    SqlPutSphivedbSettingsRequest, SqlPutSphivedbSettingsResponse, SqlQueryRequest, SqlQueryResponse, SqlRemoveRequest,
    SqlRemoveResponse, SqlSchemaStatusRequest, SqlSchemaStatusResponse, StatusRequest, StatusResponse, TransactRequest,
    TransactResponse, UploadLibraryRequest, UploadLibraryResponse,
};
use cirrus_proto::v1::{transact_operation, write_operation};

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// To the leader of the key's shard.
    Key(&'a [u8]),
    /// To the leader of the shard that holds the user's databases.
    User(&'a [u8]),
    /// To the leader of the catalog shard.
    Catalog,
    /// To any node.
    Any,
}

/// A request with one answer.
pub(crate) trait UnaryRequest: prost::Message + Clone + 'static {
    type Response: prost::Message + Default + 'static;
    /// The gRPC method.
    const PATH: &'static str;
    fn route(&self) -> Route<'_>;
    /// The place of the request id. `None` for reads.
    fn request_id(&mut self) -> Option<&mut Option<RequestId>>;
}

macro_rules! unary {
    (read $request:ty => $response:ty, $path:literal, $route:expr) => {
        impl UnaryRequest for $request {
            type Response = $response;
            const PATH: &'static str = $path;
            fn route(&self) -> Route<'_> {
                let route: fn(&$request) -> Route<'_> = $route;
                route(self)
            }
            fn request_id(&mut self) -> Option<&mut Option<RequestId>> {
                None
            }
        }
    };
    (write $request:ty => $response:ty, $path:literal, $route:expr) => {
        impl UnaryRequest for $request {
            type Response = $response;
            const PATH: &'static str = $path;
            fn route(&self) -> Route<'_> {
                let route: fn(&$request) -> Route<'_> = $route;
                route(self)
            }
            fn request_id(&mut self) -> Option<&mut Option<RequestId>> {
                Some(&mut self.request_id)
            }
        }
    };
}

unary!(read GetRequest => GetResponse, "/cirrus.v1.KeyValue/Get", |request| Route::Key(&request.key));
unary!(write PutRequest => PutResponse, "/cirrus.v1.KeyValue/Put", |request| Route::Key(&request.key));
unary!(write DeleteRequest => DeleteResponse, "/cirrus.v1.KeyValue/Delete", |request| Route::Key(&request.key));
unary!(write IncrementRequest => IncrementResponse, "/cirrus.v1.KeyValue/Increment", |request| Route::Key(&request.key));
unary!(write BatchRequest => BatchResponse, "/cirrus.v1.KeyValue/Batch", batch_route);
unary!(write TransactRequest => TransactResponse, "/cirrus.v1.KeyValue/Transact", |request| {
    first_key(transact_key(request))
});
unary!(write CallRequest => CallResponse, "/cirrus.v1.Procedures/Call", |request| Route::Key(&request.key));
unary!(write UploadLibraryRequest => UploadLibraryResponse, "/cirrus.v1.Procedures/UploadLibrary", |_| Route::Catalog);
unary!(write DeleteLibraryRequest => DeleteLibraryResponse, "/cirrus.v1.Procedures/DeleteLibrary", |_| Route::Catalog);
unary!(write ActivateLibraryRequest => ActivateLibraryResponse, "/cirrus.v1.Procedures/ActivateLibrary", |_| {
    Route::Catalog
});
unary!(write RollbackLibraryRequest => RollbackLibraryResponse, "/cirrus.v1.Procedures/RollbackLibrary", |_| {
    Route::Catalog
});
unary!(write SetLibraryLimitsRequest => SetLibraryLimitsResponse, "/cirrus.v1.Procedures/SetLibraryLimits", |_| {
    Route::Catalog
});
unary!(read ListLibraryVersionsRequest => ListLibraryVersionsResponse, "/cirrus.v1.Procedures/ListLibraryVersions", |_| {
    Route::Catalog
});
unary!(read ListRunningCallsRequest => ListRunningCallsResponse, "/cirrus.v1.Procedures/ListRunningCalls", |_| Route::Any);
// Changes nothing that a second attempt would change again: an id names one call.
unary!(read KillCallRequest => KillCallResponse, "/cirrus.v1.Procedures/KillCall", |_| Route::Any);
unary!(write ScheduleProcedureRequest => ScheduleProcedureResponse, "/cirrus.v1.Procedures/ScheduleProcedure", |_| {
    Route::Catalog
});
unary!(write DeleteScheduleRequest => DeleteScheduleResponse, "/cirrus.v1.Procedures/DeleteSchedule", |_| Route::Catalog);
unary!(read ListSchedulesRequest => ListSchedulesResponse, "/cirrus.v1.Procedures/ListSchedules", |_| Route::Catalog);
unary!(read ListLibrariesRequest => ListLibrariesResponse, "/cirrus.v1.Procedures/ListLibraries", |_| Route::Catalog);
unary!(read GetLibraryRequest => GetLibraryResponse, "/cirrus.v1.Procedures/GetLibrary", |_| Route::Catalog);
unary!(read StatusRequest => StatusResponse, "/cirrus.v1.Cluster/Status", |_| Route::Any);
unary!(write SqlExecuteRequest => SqlExecuteResponse, "/cirrus.v1.Sql/Execute", |request| user(request.database.as_ref()));
unary!(read SqlQueryRequest => SqlQueryResponse, "/cirrus.v1.Sql/Query", |request| user(request.database.as_ref()));
unary!(write SqlRemoveRequest => SqlRemoveResponse, "/cirrus.v1.Sql/Remove", |request| user(request.database.as_ref()));
unary!(read SqlDescribeRequest => SqlDescribeResponse, "/cirrus.v1.Sql/Describe", |request| user(request.database.as_ref()));
unary!(write SqlPutSchemaRequest => SqlPutSchemaResponse, "/cirrus.v1.Sql/PutSchema", |_| Route::Catalog);
unary!(read SqlGetSchemaRequest => SqlGetSchemaResponse, "/cirrus.v1.Sql/GetSchema", |_| Route::Catalog);
unary!(read SqlListSchemasRequest => SqlListSchemasResponse, "/cirrus.v1.Sql/ListSchemas", |_| Route::Catalog);
unary!(read SqlSchemaStatusRequest => SqlSchemaStatusResponse, "/cirrus.v1.Sql/SchemaStatus", |_| Route::Any);
unary!(write SqlPutSphivedbSettingsRequest => SqlPutSphivedbSettingsResponse, "/cirrus.v1.Sql/PutSphivedbSettings", |_| {
    Route::Catalog
});
unary!(read SqlListRequest => SqlListResponse, "/cirrus.v1.Sql/List", |_| Route::Any);

/// A database lies where its user's keys lie.
pub(crate) fn user(database: Option<&SqlDatabase>) -> Route<'_> {
    database.map_or(Route::Any, |database| Route::User(&database.user))
}

/// All keys of one request share a shard, or the node refuses it; so the first one routes it.
fn first_key(key: Option<&Bytes>) -> Route<'_> {
    key.map_or(Route::Any, |key| Route::Key(key))
}

fn batch_route(request: &BatchRequest) -> Route<'_> {
    use write_operation::Operation;
    match request.operations.first().and_then(|first| first.operation.as_ref()) {
        Some(Operation::Put(put)) => Route::Key(&put.key),
        Some(Operation::Delete(delete)) => Route::Key(&delete.key),
        Some(Operation::Increment(increment)) => Route::Key(&increment.key),
        Some(Operation::Sql(sql)) => user(sql.database.as_ref()),
        None => Route::Any,
    }
}

fn transact_key(request: &TransactRequest) -> Option<&Bytes> {
    use transact_operation::Operation;
    if let Some(compare) = request.compare.first() {
        return Some(&compare.key);
    }
    let first = request.success.first().or(request.failure.first())?;
    first.operation.as_ref().map(|operation| match operation {
        Operation::Get(get) => &get.key,
        Operation::Put(put) => &put.key,
        Operation::Delete(delete) => &delete.key,
        Operation::Increment(increment) => &increment.key,
    })
}
