//! A shard in memory, whose executor these tests are.

use cirrus_engine::{MemoryView, Moment, ShardHead, Transaction};
use cirrus_proto::Failure;
use cirrus_proto::internal::v1::{Effect, Table};
use cirrus_proto::limits::{Limits, SqlLimits};
use cirrus_sql::{Cell, DatabaseId, Databases, Executed, Request, ResultSet, Statement};

pub(crate) struct Shard {
    pub(crate) state: MemoryView,
    pub(crate) head: ShardHead,
    pub(crate) databases: Databases,
    /// What the last execution changed.
    pub(crate) effects: Vec<Effect>,
}

impl Shard {
    pub(crate) fn new() -> Shard {
        Shard::with_limits(SqlLimits::DEFAULT)
    }

    pub(crate) fn with_limits(limits: SqlLimits) -> Shard {
        Shard {
            state: MemoryView::new(),
            head: ShardHead::default(),
            databases: Databases::new(limits).unwrap(),
            effects: Vec::new(),
        }
    }

    /// Evaluates, proposes and applies.
    pub(crate) fn commit<R>(
        &mut self,
        work: impl FnOnce(&mut Databases, &mut Transaction<'_>) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let mut transaction = Transaction::new(&self.state, self.head, &Limits::DEFAULT);
        let result = work(&mut self.databases, &mut transaction)?;
        let (effects, head) = transaction.finish();
        self.state.apply(&effects);
        self.head = head;
        self.effects = effects;
        Ok(result)
    }

    pub(crate) fn execute(&mut self, id: &DatabaseId, statements: &[Statement]) -> Result<Executed, Failure> {
        self.commit(|databases, transaction| databases.execute(transaction, Request::new(id, statements)))
    }

    /// One statement without parameters.
    pub(crate) fn sql(&mut self, id: &DatabaseId, sql: &str) -> Result<ResultSet, Failure> {
        Ok(self.execute(id, &[Statement::new(sql)])?.results.remove(0))
    }

    pub(crate) fn query(&mut self, id: &DatabaseId, sql: &str) -> Result<ResultSet, Failure> {
        let statements = [Statement::new(sql)];
        Ok(self.databases.query(&self.state, self.head.clock_ms, Request::new(id, &statements))?.remove(0))
    }

    pub(crate) fn advance_to(&mut self, now_ms: u64) {
        self.head.advance_to(Moment { now_ms });
    }

    pub(crate) fn stored_keys(&self) -> usize {
        self.state.count(Table::Sql)
    }
}

pub(crate) fn book() -> DatabaseId {
    DatabaseId::new(0, "foobar", "addrbook")
}

pub(crate) fn text(text: &str) -> Cell {
    Cell::Text(text.to_owned())
}
