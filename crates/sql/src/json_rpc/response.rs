//! From what calls gave to a body.

use cirrus_proto::{Failure, Reason};
use serde::Serialize;
use serde_json::Value;

use super::INTERNAL_ERROR;
use super::request::{Call, Identified, Incoming};
use crate::functions::real_as_text;
use crate::statement::{Cell, ResultSet};
use crate::trouble::{SQLITE_CODE, SQLITE_MESSAGE};

/// What a call gave.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The results of [`Call::Execute`], one for each statement.
    Executed(Vec<ResultSet>),
    /// [`Call::Remove`] removed the database.
    Removed,
}

#[derive(Serialize)]
struct Response<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    jsonrpc: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<RpcError>,
    id: &'a Value,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Outcome {
    Results(Vec<Table>),
    Removed(u8),
}

/// A result as SPHiveDB writes it.
#[derive(Serialize)]
struct Table {
    name: Vec<String>,
    r#type: Vec<String>,
    row: Vec<Vec<Value>>,
}

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct RpcError {
    code: i64,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<ErrorData>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct ErrorData {
    /// SQLite's, or -1.
    code: i64,
    message: String,
}

impl RpcError {
    pub(super) fn new(code: i64, message: impl Into<String>) -> RpcError {
        RpcError { code, message: message.into(), data: None }
    }
}

impl From<Failure> for RpcError {
    fn from(failure: Failure) -> RpcError {
        let code = failure.metadata.get(SQLITE_CODE).and_then(|code| code.parse().ok());
        // What is refused here has a better message than SQLite's "not authorized" or "interrupted".
        let from_sqlite = matches!(failure.reason, Reason::SqlInvalid | Reason::SqlConstraint);
        let message = match failure.metadata.get(SQLITE_MESSAGE) {
            Some(message) if from_sqlite => message.clone(),
            _ => without_position(&failure.message).to_owned(),
        };
        let code = code.unwrap_or(if failure.reason == Reason::SqlInvalid { 1 } else { -1 });
        let data = Some(ErrorData { code, message });
        RpcError { code: INTERNAL_ERROR, message: "Internal error.".to_owned(), data }
    }
}

impl Incoming {
    /// The body that answers, given what each of [`Incoming::calls`] gave, in order. A call without an outcome is answered
    /// as one that failed.
    pub fn answer(&self, outcomes: impl IntoIterator<Item = Result<Answer, Failure>>) -> Vec<u8> {
        let mut outcomes = outcomes.into_iter();
        let mut respond = |Identified { id, version_2, call }: &Identified| -> Vec<u8> {
            let outcome = match call {
                Ok(call) => match outcomes.next() {
                    Some(outcome) => outcome.and_then(|answer| written(call, answer)).map_err(RpcError::from),
                    None => Err(RpcError::from(Failure::internal("the call was not made"))),
                },
                Err(refused) => Err(refused.clone()),
            };
            let jsonrpc = version_2.then_some("2.0");
            let (result, error) = match outcome {
                Ok(result) => (Some(result), None),
                Err(error) => (None, Some(error)),
            };
            let response = Response { jsonrpc, result, error, id };
            serde_json::to_vec(&response).expect("strings, numbers and lists of them can be written")
        };
        let mut bodies = self.calls.iter().map(&mut respond);
        if !self.is_batch {
            return bodies.next().unwrap_or_default();
        }
        [&b"["[..], &bodies.collect::<Vec<_>>().join(&b","[..]), b"]"].concat()
    }
}

fn written(call: &Call, answer: Answer) -> Result<Outcome, Failure> {
    match (call, answer) {
        (Call::Execute { .. }, Answer::Executed(results)) => {
            Ok(Outcome::Results(results.into_iter().map(table).collect::<Result<_, _>>()?))
        }
        (Call::Remove { .. }, Answer::Removed) => Ok(Outcome::Removed(0)),
        _ => Err(Failure::internal("the call was answered as another")),
    }
}

fn table(result: ResultSet) -> Result<Table, Failure> {
    if result.columns.is_empty() {
        let strings = |strings: [&str; 2]| strings.map(str::to_owned).to_vec();
        return Ok(Table {
            name: strings(["affected", "last_insert_rowid"]),
            r#type: strings(["int", "int"]),
            row: vec![vec![result.affected_rows.into(), result.last_insert_rowid.into()]],
        });
    }
    let (name, r#type) = result
        .columns
        .into_iter()
        .map(|column| (column.name, column.declared_type.unwrap_or_else(|| "null".to_owned())))
        .unzip();
    let row = |row: Vec<Cell>| row.into_iter().map(value).collect::<Result<_, _>>();
    Ok(Table { name, r#type, row: result.rows.into_iter().map(row).collect::<Result<_, _>>()? })
}

/// The cell as SQLite writes it as text.
fn value(cell: Cell) -> Result<Value, Failure> {
    Ok(match cell {
        Cell::Null => Value::Null,
        Cell::Integer(integer) => integer.to_string().into(),
        Cell::Real(real) => real_as_text(real).map_err(Failure::internal)?.into(),
        Cell::Text(text) => text.into(),
        Cell::Blob(blob) => String::from_utf8_lossy(&blob).into(),
    })
}

/// The message without "statements[2]: ".
fn without_position(message: &str) -> &str {
    let rest = message.strip_prefix("statements[").and_then(|rest| rest.split_once("]: "));
    match rest {
        Some((position, rest)) if position.bytes().all(|byte| byte.is_ascii_digit()) => rest,
        _ => message,
    }
}
