//! A database on a cluster.

use cirrus_client::{Client, ClientError};
use cirrus_proto::Reason;
use cirrus_proto::v1::{SqlCell, SqlDatabase, SqlQueryRequest, SqlResult, SqlStatement, sql_cell};
use rusqlite::types::Value;
use tokio::runtime::Handle;

use super::{Answer, Rows};

/// A database that a file's records are run on.
pub struct CirrusDatabase {
    runtime: Handle,
    client: Client,
    database: SqlDatabase,
}

/// What Cirrus made of a statement.
pub(super) enum Asked {
    /// SQLite answered, or another limit than SQLite's own was met: then the message begins with its reason.
    Answered(Answer),
    /// With `SQL_NOT_ALLOWED`; the message.
    NotAllowed(String),
}

impl CirrusDatabase {
    /// Nothing is asked yet. Must not be used on a thread of the runtime.
    pub fn new(runtime: Handle, client: Client, database: SqlDatabase) -> CirrusDatabase {
        CirrusDatabase { runtime, client, database }
    }

    /// Runs a statement behind others, whose results are dropped. `reads`: by Query where nothing stands before it, on
    /// whatever replica answers, and by Execute only where it must be.
    ///
    /// # Errors
    /// Where the cluster does not answer, and nobody knows what happened.
    pub(super) fn run(&self, before: &[String], sql: &str, reads: bool) -> Result<Asked, ClientError> {
        if reads && before.is_empty() {
            match self.query(sql) {
                Err(error) if must_execute(&error) => {}
                answered => return asked(answered),
            }
        }
        let statements = before.iter().map(String::as_str).chain([sql]).map(statement).collect();
        let answered = self.runtime.block_on(self.client.execute_sql(self.database.clone(), statements));
        asked(answered.map(|answer| answer.results))
    }

    fn query(&self, sql: &str) -> Result<Vec<SqlResult>, ClientError> {
        let database = Some(self.database.clone());
        let request = SqlQueryRequest { database, statements: vec![statement(sql)], ..Default::default() };
        Ok(self.runtime.block_on(self.client.query_sql(request))?.results)
    }

    /// Removes the database, if it is there.
    pub(super) fn remove(&self) -> Result<(), ClientError> {
        match self.runtime.block_on(self.client.remove_database(self.database.clone())) {
            Err(error) if error.reason() == Some(Reason::DatabaseNotFound) => Ok(()),
            removed => removed,
        }
    }
}

fn statement(sql: &str) -> SqlStatement {
    SqlStatement { sql: sql.to_owned(), ..Default::default() }
}

/// A database that is not there is empty for Execute, and a query that writes is still a record's.
fn must_execute(error: &ClientError) -> bool {
    matches!(error.reason(), Some(Reason::DatabaseNotFound | Reason::SqlReadOnly))
}

fn asked(answered: Result<Vec<SqlResult>, ClientError>) -> Result<Asked, ClientError> {
    let error = match answered {
        Ok(results) => return Ok(Asked::Answered(Ok(results.last().map(rows).unwrap_or_default()))),
        Err(error) => error,
    };
    let sqlite_message = error.failure.as_ref().and_then(|failure| failure.metadata.get("sqlite_message").cloned());
    match (error.reason(), sqlite_message) {
        (Some(Reason::SqlInvalid | Reason::SqlConstraint), Some(message)) => Ok(Asked::Answered(Err(message))),
        (Some(Reason::SqlNotAllowed), _) => Ok(Asked::NotAllowed(error.to_string())),
        // It has run, and this is its outcome.
        (Some(_), _) if !error.outcome_unknown && error.code != tonic::Code::Unavailable => {
            Ok(Asked::Answered(Err(error.to_string())))
        }
        _ => Err(error),
    }
}

fn rows(result: &SqlResult) -> Rows {
    let rows = result.rows.iter().map(|row| row.cells.iter().map(value).collect()).collect();
    Rows { columns: result.columns.len(), rows }
}

fn value(cell: &SqlCell) -> Value {
    match &cell.kind {
        None | Some(sql_cell::Kind::Null(_)) => Value::Null,
        Some(sql_cell::Kind::Int64(integer)) => Value::Integer(*integer),
        Some(sql_cell::Kind::Double(real)) => Value::Real(*real),
        Some(sql_cell::Kind::Text(text)) => Value::Text(text.clone()),
        Some(sql_cell::Kind::Blob(blob)) => Value::Blob(blob.to_vec()),
    }
}
