//! `POST /sphivedb`: SPHiveDB's JSON-RPC, so that its clients work unchanged.
//!
//! SPHiveDB looked at no path. So any other path that nothing else serves is taken as well; only for POST, so that a
//! mistyped probe is still told that it is one.
//!
//! The status is 200 for every body that is read to its end. Calls of a batch run one after another, each a
//! transaction of its own. A dbname is taken in lower case, as SPHiveDB compares it.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use cirrus_cluster::sql::result_sets;
use cirrus_proto::Failure;
use cirrus_proto::internal::v1::{Command, SqlExecute, command, reply};
use cirrus_proto::v1::{SqlDatabase, SqlExecuteRequest, SqlRemoveRequest, SqlStatement};
use cirrus_sql::json_rpc::{Answer, Call, Incoming, check_offered};
use tonic::Code;

use crate::edge::{Edge, code_of, mismatched_reply, reply_kind};
use crate::observation::Rpc;

/// The node behind the listener, once it has started.
pub(crate) type LateEdge = Arc<OnceLock<Arc<Edge>>>;

struct Endpoint {
    edge: LateEdge,
    rpc: Rpc,
}

/// The route. `body_bytes_max` bounds a request's body; a longer one is answered with 413.
pub(crate) fn router(edge: LateEdge, body_bytes_max: usize) -> Router {
    let endpoint = Endpoint { edge, rpc: Rpc::new("sphivedb") };
    Router::new()
        .route("/sphivedb", post(serve))
        .fallback(serve_any_path)
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .with_state(Arc::new(endpoint))
}

async fn serve_any_path(method: Method, endpoint: State<Arc<Endpoint>>, body: Bytes) -> Response {
    match method {
        Method::POST => serve(endpoint, body).await,
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn serve(State(endpoint): State<Arc<Endpoint>>, body: Bytes) -> Response {
    let observation = endpoint.rpc.begin();
    let Some(edge) = endpoint.edge.get() else {
        observation.answer(Code::Unavailable);
        return (StatusCode::SERVICE_UNAVAILABLE, "the node is starting\n").into_response();
    };
    let _admitted = match edge.requests.admit() {
        Ok(admitted) => admitted,
        Err(failure) => {
            observation.answer(failure.code());
            return (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", failure.message)).into_response();
        }
    };
    let incoming = Incoming::parse(&body);
    let mut outcomes = Vec::new();
    let mut code = Code::Ok;
    for call in incoming.calls() {
        let outcome = run(edge, call, Instant::now() + edge.deadlines.default).await;
        if outcome.is_err() {
            code = code_of(&outcome);
        }
        outcomes.push(outcome);
    }
    observation.answer(code);
    ([(CONTENT_TYPE, "application/json")], incoming.answer(outcomes)).into_response()
}

async fn run(edge: &Edge, call: &Call, deadline: Instant) -> Result<Answer, Failure> {
    let id = call.database();
    let dbname = id.dbname.to_ascii_lowercase();
    let (dbfile_offered, dbname_offered) = edge.node.sphivedb_offers(id.dbfile, &dbname, deadline).await?;
    // A range with this dbfile alone, or without it.
    let offered = if dbfile_offered { id.dbfile } else { !id.dbfile };
    let dbfiles = offered..=offered;
    check_offered(call, &dbfiles, |_| dbname_offered)?;
    let database = SqlDatabase { dbfile: id.dbfile, user: id.user.clone(), dbname };
    match call {
        Call::Execute { statements, .. } => {
            let statement = |one: &cirrus_sql::Statement| SqlStatement { sql: one.sql.clone(), ..Default::default() };
            let request = SqlExecuteRequest {
                database: Some(database),
                statements: statements.iter().map(statement).collect(),
                request_id: None,
            };
            let execute = SqlExecute { request: Some(request), scripts: true, types_as_written: true };
            let command = Command { kind: Some(command::Kind::SqlExecute(execute)) };
            let shard_id = edge.route(&command)?;
            let routed = edge.node.command(shard_id, command, deadline, true).await?;
            match reply_kind(routed.value)? {
                reply::Kind::SqlExecute(response) => Ok(Answer::Executed(result_sets(response.results)?)),
                _ => Err(mismatched_reply()),
            }
        }
        Call::Remove { .. } => {
            let request = SqlRemoveRequest { database: Some(database), request_id: None };
            edge.node.remove_database(request, deadline, true).await?;
            Ok(Answer::Removed)
        }
    }
}
