//! The SQLite databases of a call's shard, as this crate knows them: a port for whoever has them.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use cirrus_engine::Transaction;
use cirrus_proto::Failure;
use cirrus_proto::v1::{SqlDatabase, SqlResult, SqlStatement};

/// Runs statements on databases within the transaction of a call.
pub trait SqlDatabases {
    /// Runs the statements in order, as one: what they change goes to `transaction`, after the call's earlier writes, and
    /// where one fails nothing of any is there. No result has two columns of one name.
    ///
    /// Fails with [`Reason::CallTimeout`](cirrus_proto::Reason::CallTimeout) where the request's `cpu` was used up, with
    /// [`Reason::SqlKilled`](cirrus_proto::Reason::SqlKilled) where it was killed, and with the statements' own reasons.
    fn run(&mut self, transaction: &mut Transaction<'_>, request: SqlRequest<'_>) -> SqlOutcome;
}

/// Statements for one database.
#[derive(Clone, Copy, Debug)]
pub struct SqlRequest<'a> {
    /// One of the shard's.
    pub database: &'a SqlDatabase,
    /// At least one.
    pub statements: &'a [SqlStatement],
    /// Refuse statements that write.
    pub read_only: bool,
    /// CPU time that is left to the call.
    pub cpu: Duration,
    /// Set from another thread, it ends the statements.
    pub killed: &'a AtomicBool,
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct SqlOutcome {
    /// One for each statement.
    pub results: Result<Vec<SqlResult>, Failure>,
    /// CPU time that the database's upgrade to its schema's version took, which the call is not charged with.
    pub upgrade: Duration,
}
