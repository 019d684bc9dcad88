//! The databases that procedures reach.

use std::time::Duration;

use cirrus_engine::Transaction;
use cirrus_procedures::{SqlDatabases, SqlOutcome, SqlRequest};
use cirrus_proto::limits::SqlLimits;
use cirrus_proto::{Failure, Reason};
use cirrus_sql::Spent;

use super::SqlCommands;
use super::commands::Asked;
use super::metrics::{Owner, RequestKind};

/// Lends a shard's databases to one call.
pub(crate) struct CallDatabases<'a> {
    sql: &'a mut SqlCommands,
    /// What the call's requests used of the limits that they share: the time of upgrades. It is not the call's own, and
    /// is bounded all the same.
    spent: Spent,
    was_used: bool,
}

impl<'a> CallDatabases<'a> {
    pub(crate) fn new(sql: &'a mut SqlCommands) -> Self {
        CallDatabases { sql, spent: Spent::default(), was_used: false }
    }

    /// Whether the call asked any database.
    pub(crate) fn was_used(&self) -> bool {
        self.was_used
    }
}

impl SqlDatabases for CallDatabases<'_> {
    fn run(&mut self, transaction: &mut Transaction<'_>, request: SqlRequest<'_>) -> SqlOutcome {
        self.was_used = true;
        let asked = Asked {
            kind: RequestKind::Call,
            distinct_columns: true,
            read_only: request.read_only,
            cpu: Some(request.cpu),
            spent: self.spent,
            killed: Some(request.killed),
            ..Asked::default()
        };
        let results = self.sql.run(Some(request.database), request.statements, asked, transaction);
        let upgrade = self.sql.spent().upgrade;
        self.spent.upgrade += upgrade;
        let calls_time = request.cpu < Duration::from_millis(self.sql.limits().cpu_ms);
        let results = results.map_err(|failure| match failure.reason {
            Reason::SqlTimeout if calls_time => Failure { reason: Reason::CallTimeout, ..failure },
            _ => failure,
        });
        SqlOutcome { results, upgrade }
    }
}

/// Databases without a cluster, and without schemas: for tests of procedures on shards in memory.
pub fn databases_in_memory() -> Box<dyn SqlDatabases> {
    struct InMemory(SqlCommands);

    impl SqlDatabases for InMemory {
        fn run(&mut self, transaction: &mut Transaction<'_>, request: SqlRequest<'_>) -> SqlOutcome {
            CallDatabases::new(&mut self.0).run(transaction, request)
        }
    }
    Box::new(InMemory(SqlCommands::new(Owner::Queries, SqlLimits::DEFAULT, None)))
}

#[cfg(test)]
mod tests;
