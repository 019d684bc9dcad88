//! From a body to calls.

use std::ops::RangeInclusive;

use cirrus_proto::{Failure, Reason};
use serde_json::Value;

use super::response::RpcError;
use super::{BATCH_CALLS_MAX, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND};
use crate::{DatabaseId, Statement};

/// What a client asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// Run statements, all or none.
    Execute {
        /// Where.
        database: DatabaseId,
        /// Each may be several statements in one text, of which the first's rows are answered, or the last's changes.
        statements: Vec<Statement>,
    },
    /// Remove the database.
    Remove {
        /// Which.
        database: DatabaseId,
    },
}

impl Call {
    /// The database that it is about.
    pub fn database(&self) -> &DatabaseId {
        match self {
            Call::Execute { database, .. } | Call::Remove { database } => database,
        }
    }
}

/// One body's calls, in order; some may be refused already.
#[derive(Clone, Debug, PartialEq)]
pub struct Incoming {
    pub(super) calls: Vec<Identified>,
    /// The body is an array, and so is its answer.
    pub(super) is_batch: bool,
}

/// A call with what its answer repeats.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Identified {
    pub(super) id: Value,
    /// The client speaks version 2.0 of JSON-RPC, in which answers say so.
    pub(super) version_2: bool,
    pub(super) call: Result<Call, RpcError>,
}

impl Incoming {
    /// Reads a body. Whatever it is, it has an answer.
    pub fn parse(body: &[u8]) -> Incoming {
        let single = |one: Identified| Incoming { calls: vec![one], is_batch: false };
        let refused = |message: String| Identified {
            id: Value::Null,
            version_2: false,
            call: Err(RpcError::new(INVALID_REQUEST, message)),
        };
        match serde_json::from_slice(body) {
            Err(error) => single(refused(format!("invalid json stream, {error}"))),
            Ok(Value::Array(calls)) if calls.is_empty() => {
                single(refused("invalid json stream, an empty batch".to_owned()))
            }
            Ok(Value::Array(calls)) if calls.len() > BATCH_CALLS_MAX => single(refused(format!(
                "invalid json stream, a batch of {} calls, above the limit of {BATCH_CALLS_MAX}",
                calls.len()
            ))),
            Ok(Value::Array(calls)) => Incoming { calls: calls.into_iter().map(identified).collect(), is_batch: true },
            Ok(call) => single(identified(call)),
        }
    }

    /// The calls to make, in order: those that are not refused.
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter_map(|identified| identified.call.as_ref().ok())
    }
}

/// Refuses a call for a dbfile or a dbname that is not offered, as SPHiveDB does; `is_offered` gets the dbname in lower case,
/// as SPHiveDB compares it.
pub fn check_offered(
    call: &Call,
    dbfiles: &RangeInclusive<u32>,
    is_offered: impl FnOnce(&str) -> bool,
) -> Result<(), Failure> {
    let DatabaseId { dbfile, dbname, .. } = call.database();
    if !dbfiles.contains(dbfile) {
        return Err(invalid("dbfile"));
    }
    if !is_offered(&dbname.to_ascii_lowercase()) {
        return Err(invalid("dbname"));
    }
    Ok(())
}

fn invalid(field: &str) -> Failure {
    Failure::new(Reason::InvalidField, format!("invalid {field}")).with("field", field)
}

fn identified(request: Value) -> Identified {
    Identified {
        id: request.get("id").cloned().unwrap_or(Value::Null),
        version_2: request.get("jsonrpc").is_some_and(|version| version == "2.0"),
        call: call(&request),
    }
}

fn call(request: &Value) -> Result<Call, RpcError> {
    let invalid_request =
        |field: &str| RpcError::new(INVALID_REQUEST, format!("invalid json stream, not {field} property"));
    let invalid_params = |field: &str| RpcError::new(INVALID_PARAMS, format!("invalid params, not {field} property"));

    let method = request.get("method").and_then(Value::as_str).ok_or_else(|| invalid_request("method"))?;
    let params = request.get("params").and_then(Value::as_array).ok_or_else(|| invalid_request("params"))?;
    let executes = method.eq_ignore_ascii_case("execute");
    if !executes && !method.eq_ignore_ascii_case("remove") {
        return Err(RpcError::new(METHOD_NOT_FOUND, "Method not found."));
    }
    let params = params.first().unwrap_or(&Value::Null);
    let text = |field: &str| params.get(field).and_then(Value::as_str).ok_or_else(|| invalid_params(field));
    let dbfile = params.get("dbfile").and_then(Value::as_u64).ok_or_else(|| invalid_params("dbfile"))?;
    let (user, dbname) = (text("user")?, text("dbname")?);
    let dbfile = u32::try_from(dbfile).map_err(|_| RpcError::from(invalid("dbfile")))?;
    let database = DatabaseId::new(dbfile, user.to_owned(), dbname);
    if !executes {
        return Ok(Call::Remove { database });
    }
    let sql = params.get("sql").and_then(Value::as_array).filter(|sql| !sql.is_empty());
    let sql = sql.ok_or_else(|| invalid_params("sql"))?;
    let statement = |sql: &Value| sql.as_str().map(Statement::script).ok_or_else(|| invalid_params("sql"));
    let statements = sql.iter().map(statement).collect::<Result<_, _>>()?;
    Ok(Call::Execute { database, statements })
}
