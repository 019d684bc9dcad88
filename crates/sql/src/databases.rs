//! Requests to databases.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use cirrus_engine::{Transaction, View};
use cirrus_proto::internal::v1::{StoredDatabase, StoredSchemaFailure, Table};
use cirrus_proto::limits::SqlLimits;
use cirrus_proto::{Failure, Reason};
use prost::Message as _;
use rusqlite::Connection;

use crate::budget::Budget;
use crate::cache::{Open, OpenDatabases};
use crate::connection::{self, Purpose, forget_request};
use crate::file::{File, Written};
use crate::gate::{Gate, Mode};
use crate::keys::{entry_key, page_prefix};
use crate::memory::Allowance;
use crate::running::{Committed, Reads, Running, run};
use crate::schema::Schema;
use crate::session::Session;
use crate::spent::Spent;
use crate::statement::{Parameters, ResultSet, Statement, TakeParts};
use crate::statistics::Statistics;
use crate::stored::{Stored, live_entry, not_found, store};
use crate::{DatabaseId, trouble};

/// How much of a failed upgrade's message its database's entry keeps.
const FAILURE_MESSAGE_CHARACTERS: usize = 300;

/// Statements for one database.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The database.
    pub database: &'a DatabaseId,
    /// Run in order, as one transaction.
    pub statements: &'a [Statement],
    /// What the database is to have before the statements run.
    pub schema: Option<&'a Schema>,
    /// Tells declared types as their tables' texts write them. SQLite tells the types `int`, `integer`, `text`, `blob`, `real`
    /// and `any` in capitals; SPHiveDB's clients know them as they were written.
    pub types_as_written: bool,
    /// CPU time that the statements may use, where that is less than the limit: what is left to a procedure that sends them.
    pub cpu: Option<Duration>,
    /// What the larger request that this one is a part of has used up: it counts towards the limits.
    pub spent: Spent,
    /// Refuses a statement with two columns of one name, for those who tell columns by their names.
    pub distinct_columns: bool,
    /// Set from another thread, it ends the request.
    pub killed: &'a AtomicBool,
}

impl<'a> Request<'a> {
    /// A request that has the limits' time, and that nobody kills.
    pub fn new(database: &'a DatabaseId, statements: &'a [Statement]) -> Request<'a> {
        static NOBODY: AtomicBool = AtomicBool::new(false);
        Request {
            database,
            statements,
            schema: None,
            types_as_written: false,
            cpu: None,
            spent: Spent::default(),
            distinct_columns: false,
            killed: &NOBODY,
        }
    }
}

/// What an execution gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Executed {
    /// One for each statement.
    pub results: Vec<ResultSet>,
    /// What it changed.
    pub stored: Stored,
    /// The database was brought to its schema's version.
    pub upgraded: bool,
}

/// One shard's databases, of which it keeps some open. For one thread at a time.
pub struct Databases {
    limits: SqlLimits,
    open: OpenDatabases,
    spent: Spent,
    /// What is counted; what is open is told when somebody asks.
    counted: Statistics,
}

/// An executor's thread takes its databases along.
const _: () = {
    const fn can_be_sent<T: Send>() {}
    can_be_sent::<Databases>();
};

/// What a request may do.
enum Access<'a, 'p> {
    Execute,
    /// Only read; whoever takes the results as they are found.
    Query(Option<&'a mut TakeParts<'p>>),
}

/// A request that was evaluated.
struct Evaluated {
    results: Vec<ResultSet>,
    /// As the entry is to be, but for what [`store`] brings up to date.
    entry: StoredDatabase,
    written: Written,
    /// The connection, unless it has what only this request may see.
    open: Option<Open>,
    upgraded: bool,
}

impl Databases {
    /// No database is open yet. Fails with `INTERNAL` where SQLite was used in the process before [`crate::initialize`].
    pub fn new(limits: SqlLimits) -> Result<Databases, Failure> {
        crate::initialize()?;
        if !limits.page_bytes.is_power_of_two() || !(512..=65_536).contains(&limits.page_bytes) {
            let problem = format!("must be a power of two from 512 to 65536, not {}", limits.page_bytes);
            return Err(Failure::invalid_field("page_bytes", problem));
        }
        let open = OpenDatabases::new(limits.open_databases, limits.open_bytes);
        Ok(Databases { limits, open, spent: Spent::default(), counted: Statistics::default() })
    }

    /// The limits.
    pub fn limits(&self) -> &SqlLimits {
        &self.limits
    }

    /// What the last request used, also where it failed.
    pub fn spent(&self) -> Spent {
        self.spent
    }

    /// What they hold, and what they did.
    pub fn statistics(&self) -> Statistics {
        Statistics { open: self.open.count(), open_bytes: self.open.held_bytes(), ..self.counted }
    }

    /// Closes a database: what is stored is about to be another.
    pub(crate) fn close(&mut self, id: &DatabaseId) {
        self.open.close(id);
    }

    /// Closes all databases: what is open costs memory only.
    pub fn close_all(&mut self) {
        self.open.clear();
    }

    /// Runs the statements as one transaction. What they change goes to `transaction`: the pages that differ, and the
    /// database's entry. A database that is not there is empty, and is created by what is first written to it, as by its
    /// schema.
    ///
    /// Where this fails, nothing was written. The reasons are those of `SQL_*` and `DATABASE_*`, `INVALID_FIELD`,
    /// `WRITE_SET_TOO_LARGE`, and `SCHEMA_UPGRADE_FAILED`; see [`Databases::record_upgrade_failure`] for the last.
    pub fn execute(&mut self, transaction: &mut Transaction<'_>, request: Request<'_>) -> Result<Executed, Failure> {
        self.spent = Spent::default();
        self.check(&request)?;
        let id = request.database;
        let before = live_entry(transaction, id)?;
        let evaluated = self.evaluate(transaction, before.as_ref(), request, Access::Execute, transaction.now_ms())?;
        let (generation, stored) = store(transaction, id, before.as_ref(), evaluated.entry, &evaluated.written)?;
        self.count(stored, evaluated.upgraded);
        if let Some(open) = evaluated.open {
            self.open.put(id, Open { generation, ..open });
        }
        Ok(Executed { results: evaluated.results, stored, upgraded: evaluated.upgraded })
    }

    /// Runs statements that only read, on what is committed. `now_ms` is what `datetime('now')` says. They see the
    /// database as its schema has it; where that takes an upgrade, it is made for this query and forgotten.
    ///
    /// Fails as [`Databases::execute`] does, with `DATABASE_NOT_FOUND`, and with `SQL_READ_ONLY` for a statement that writes.
    pub fn query(&mut self, view: &dyn View, now_ms: u64, request: Request<'_>) -> Result<Vec<ResultSet>, Failure> {
        self.query_over(&Committed(view), now_ms, request, None)
    }

    /// As [`Databases::query`], with results of any size: `parts` takes them as they are found. While it does, the request's
    /// time stands still.
    ///
    /// Fails as [`Databases::query`] does, but for what bounds collected results, with parts taken before.
    pub fn stream(
        &mut self,
        view: &dyn View,
        now_ms: u64,
        request: Request<'_>,
        parts: &mut TakeParts<'_>,
    ) -> Result<(), Failure> {
        self.query_over(&Committed(view), now_ms, request, Some(parts)).map(drop)
    }

    /// As [`Databases::query`], of what a transaction sees, its own writes included.
    pub fn query_within(
        &mut self,
        transaction: &Transaction<'_>,
        request: Request<'_>,
    ) -> Result<Vec<ResultSet>, Failure> {
        self.query_over(transaction, transaction.now_ms(), request, None)
    }

    fn query_over(
        &mut self,
        reads: &dyn Reads,
        now_ms: u64,
        request: Request<'_>,
        parts: Option<&mut TakeParts<'_>>,
    ) -> Result<Vec<ResultSet>, Failure> {
        self.spent = Spent::default();
        self.check(&request)?;
        let before = live_entry(reads, request.database)?;
        if before.is_none() && request.schema.is_none() {
            return Err(not_found(request.database));
        }
        let evaluated = self.evaluate(reads, before.as_ref(), request, Access::Query(parts), now_ms)?;
        if let Some(open) = evaluated.open.filter(|_| !evaluated.upgraded) {
            self.open.put(request.database, open);
        }
        Ok(evaluated.results)
    }

    /// Brings a database to its schema's version, where it is behind; false where it was not. For databases that nobody uses:
    /// a request brings its own.
    ///
    /// Fails as [`Databases::execute`] does, and with `DATABASE_NOT_FOUND`.
    pub fn upgrade(
        &mut self,
        transaction: &mut Transaction<'_>,
        id: &DatabaseId,
        schema: &Schema,
    ) -> Result<bool, Failure> {
        let Some(before) = live_entry(transaction, id)? else { return Err(not_found(id)) };
        if before.schema_version >= schema.version() {
            return Ok(false);
        }
        let request = Request { schema: Some(schema), ..Request::new(id, &[]) };
        let evaluated = self.evaluate(transaction, Some(&before), request, Access::Execute, transaction.now_ms())?;
        let (generation, stored) = store(transaction, id, Some(&before), evaluated.entry, &evaluated.written)?;
        self.count(stored, evaluated.upgraded);
        if let Some(open) = evaluated.open {
            self.open.put(id, Open { generation, ..open });
        }
        Ok(true)
    }

    /// Notes in the database's entry that an upgrade failed, so that whoever lists databases sees it. The request itself
    /// left nothing. Does nothing for a failure of another kind, and for a database that is not there.
    pub fn record_upgrade_failure(
        &self,
        transaction: &mut Transaction<'_>,
        id: &DatabaseId,
        failure: &Failure,
    ) -> Result<(), Failure> {
        if failure.reason != Reason::SchemaUpgradeFailed {
            return Ok(());
        }
        let Some(mut entry) = live_entry(transaction, id)? else { return Ok(()) };
        let metadata = |name: &str| failure.metadata.get(name).cloned().unwrap_or_default();
        entry.schema_failure = Some(StoredSchemaFailure {
            schema_version: metadata("schema_version").parse().unwrap_or(0),
            step: metadata("step"),
            message: failure.message.chars().take(FAILURE_MESSAGE_CHARACTERS).collect(),
            failed_at_ms: transaction.now_ms(),
        });
        transaction.write(Table::Sql, entry_key(id).into(), entry.encode_to_vec().into())
    }

    fn count(&mut self, stored: Stored, upgraded: bool) {
        self.counted.pages_written += stored.pages as u64;
        self.counted.upgrades += u64::from(upgraded);
    }

    fn evaluate(
        &mut self,
        reads: &dyn Reads,
        before: Option<&StoredDatabase>,
        request: Request<'_>,
        access: Access<'_, '_>,
        now_ms: u64,
    ) -> Result<Evaluated, Failure> {
        let id = request.database;
        let mut entry = before.cloned().unwrap_or_else(|| new_entry(&self.limits));
        let limit = Duration::from_millis(self.limits.cpu_ms).saturating_sub(request.spent.cpu);
        let running = Running {
            reads,
            file: File::pages(page_prefix(id), entry.page_bytes as usize, entry.page_count).into(),
            budget: Budget::new(request.cpu.map_or(limit, |cpu| cpu.min(limit)), request.killed),
            gate: Gate::new(),
            now_ms,
            spent: Cell::default(),
        };
        let schema = request.schema.filter(|schema| schema.version() > entry.schema_version);
        let (kept, held_before) = match self.open.take(id, entry.generation) {
            Some(Open { connection, held_bytes, .. }) => (Some(connection), held_bytes),
            None => (None, 0),
        };
        match &kept {
            Some(_) => self.counted.found_open += 1,
            None => self.counted.opened += 1,
        }
        let allowance = Allowance::begin(self.limits.memory_bytes);
        // What clients and imported files say is hostile input to much code: a fault in it costs the request, not the shard.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            run(&running, || run_statements(kept, &running, request, access, schema, &entry, &self.limits))
        }));
        let (results, connection) = outcome.unwrap_or_else(|_| {
            tracing::error!(dbname = id.dbname, "a SQL request panicked");
            (Err(Failure::internal("the request hit a fault in the SQL runtime")), None)
        });
        self.spent = running.spent.get();
        let held_bytes = held_before + allowance.held();
        let open = connection.map(|connection| Open { connection, generation: entry.generation, held_bytes });
        let results = match results {
            Ok(results) => results,
            // SQLite has undone in memory what the request did: the connection is as it was.
            Err(failure) => {
                if let Some(open) = open {
                    self.open.put(id, open);
                }
                self.counted.failed_upgrades += u64::from(failure.reason == Reason::SchemaUpgradeFailed);
                return Err(failure);
            }
        };
        if let Some(schema) = schema {
            entry.schema_version = schema.version();
            entry.migration = entry.migration.max(schema.last_migration());
            entry.schema_failure = None;
        }
        let File::Pages(pages) = running.file.into_inner() else {
            return Err(Failure::internal("a request's file became an image"));
        };
        Ok(Evaluated { results, entry, written: pages.into_written(), open, upgraded: schema.is_some() })
    }

    fn check(&self, request: &Request<'_>) -> Result<(), Failure> {
        request.database.check(&self.limits)?;
        let (count, limit) = (request.statements.len(), self.limits.statements);
        if count == 0 {
            return Err(Failure::invalid_field("statements", "a request needs at least one"));
        }
        if count > limit {
            let failure =
                Failure::new(Reason::TooManyOperations, format!("{count} statements, above the limit of {limit}"));
            return Err(failure.with("field", "statements").with("actual", count).with("limit", limit));
        }
        for (index, statement) in request.statements.iter().enumerate() {
            check_statement(index, statement, &self.limits)?;
        }
        Ok(())
    }
}

/// Runs the statements, after the upgrade to `schema` where there is one. Returns the connection as well, where the next
/// request may use it.
fn run_statements(
    kept: Option<Connection>,
    running: &Running<'_>,
    request: Request<'_>,
    access: Access<'_, '_>,
    schema: Option<&Schema>,
    entry: &StoredDatabase,
    limits: &SqlLimits,
) -> (Result<Vec<ResultSet>, Failure>, Option<Connection>) {
    let opened = match kept {
        Some(connection) => Ok(connection),
        None => connection::open(entry.page_bytes as usize, Purpose::Requests, limits),
    };
    let connection = match opened {
        Ok(connection) => connection,
        Err(error) => return (Err(trouble::failure(&error, running, limits)), None),
    };
    let (read_only, parts) = match access {
        Access::Execute => (false, None),
        Access::Query(parts) => (true, parts),
    };
    let session = Session::new(&connection, running, limits).of(&request);
    let session = session.with_parts(parts.map(|parts| parts as &mut TakeParts<'_>));
    let results = session.run(request.statements, read_only, |session| {
        let Some(schema) = schema else { return Ok(()) };
        let statements_limit = running.budget.limit();
        running.budget.restart(Duration::from_millis(limits.upgrade_cpu_ms).saturating_sub(request.spent.upgrade));
        let upgraded = session.upgrade(schema, entry.migration);
        running.spent.set(Spent { upgrade: running.budget.used(), ..running.spent.get() });
        running.budget.restart(statements_limit);
        upgraded
    });
    let (rows, bytes) = session.reply();
    running.spent.set(Spent { cpu: running.budget.used(), rows, bytes, ..running.spent.get() });
    running.gate.enter(Mode::Internal);
    let forgotten = forget_request(&connection, session.foreign_keys_switched());
    // Where the upgrade is committed in SQLite and a statement fails after it, the connection has what was never stored.
    let spoiled = match &results {
        Ok(_) => false,
        Err(failure) => schema.is_some() || trouble::spoils_connection(failure),
    };
    let clean = forgotten.is_ok() && connection.is_autocommit() && !running.gate.noticed().temporary;
    (results, (clean && !spoiled).then_some(connection))
}

/// The entry of a database that is not there.
pub(crate) fn new_entry(limits: &SqlLimits) -> StoredDatabase {
    StoredDatabase { page_bytes: limits.page_bytes as u32, ..StoredDatabase::default() }
}

fn check_statement(index: usize, statement: &Statement, limits: &SqlLimits) -> Result<(), Failure> {
    let (actual, limit) = (statement.sql.len(), limits.sql_bytes);
    if actual > limit {
        return Err(Failure::too_large(Reason::SqlTooLarge, &format!("statements[{index}].sql"), actual, limit));
    }
    let given = match &statement.parameters {
        Parameters::Positional(cells) => cells.len(),
        Parameters::Named(cells) => cells.len(),
    };
    if statement.script && given > 0 {
        let field = format!("statements[{index}].parameters");
        return Err(Failure::invalid_field(&field, "several statements in one text take none"));
    }
    Ok(())
}
