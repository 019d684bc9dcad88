//! What a shard's executor runs on its databases.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use cirrus_engine::{Transaction, evaluate_batch, named_database};
use cirrus_proto::internal::v1::{self as pb, reply};
use cirrus_proto::limits::SqlLimits;
use cirrus_proto::v1::{BatchRequest, SqlDatabase, SqlExecuteResponse, SqlResult, SqlStatement};
use cirrus_proto::{Failure, Reason};
use cirrus_sql::{DatabaseId, Databases, Removal, Request, Schema, Spent};

use super::messages::{self, database_id, import_part, results};
use super::metrics::{Owner, RequestKind, Sizes, SqlMeters};
use crate::catalog_view::{CATALOG_WAIT, CatalogHandle};

/// One shard's databases; none is open on a replica that has never led.
pub(crate) struct SqlCommands {
    limits: SqlLimits,
    /// Has the schemas; `None`: there are none.
    catalog: Option<Arc<CatalogHandle>>,
    databases: Option<Databases>,
    /// The database whose upgrade failed last, until it was noted in its entry.
    failed_upgrade: Option<DatabaseId>,
    /// What the last run of statements used.
    spent: Spent,
    meters: SqlMeters,
}

impl SqlCommands {
    pub(crate) fn new(owner: Owner, limits: SqlLimits, catalog: Option<Arc<CatalogHandle>>) -> Self {
        let meters = SqlMeters::new(owner);
        SqlCommands { limits, catalog, databases: None, failed_upgrade: None, spent: Spent::default(), meters }
    }

    /// Evaluates a request, and tells the metrics what it cost.
    fn measured<T>(
        &mut self,
        kind: RequestKind,
        sizes: Sizes<'_>,
        transaction: &mut Transaction<'_>,
        evaluate: impl FnOnce(&mut Self, &mut Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let (began, written_before) = (Instant::now(), transaction.write_set_bytes());
        let outcome = evaluate(self, transaction);
        let write_bytes = transaction.write_set_bytes().saturating_sub(written_before);
        self.meters.record(kind, began.elapsed(), &outcome, write_bytes, sizes);
        if let Some(databases) = &self.databases {
            self.meters.follow(databases);
        }
        outcome
    }

    pub(crate) fn limits(&self) -> &SqlLimits {
        &self.limits
    }

    /// What the databases of a dbname are to have, by a catalog that is as new as the shard demands.
    fn schema(&self, dbname: &str, transaction: &Transaction<'_>) -> Result<Option<Arc<Schema>>, Failure> {
        match &self.catalog {
            Some(catalog) => catalog.schema(dbname, transaction.head().catalog_index, CATALOG_WAIT, &self.limits),
            None => Ok(None),
        }
    }

    fn databases(&mut self) -> Result<&mut Databases, Failure> {
        match &mut self.databases {
            Some(databases) => Ok(databases),
            none => Ok(none.insert(Databases::new(self.limits)?)),
        }
    }

    pub(crate) fn execute(
        &mut self,
        command: &pb::SqlExecute,
        transaction: &mut Transaction<'_>,
    ) -> Result<reply::Kind, Failure> {
        let request = required(command.request.as_ref())?;
        let asked = Asked { scripts: command.scripts, types_as_written: command.types_as_written, ..Asked::default() };
        let results = self.run(request.database.as_ref(), &request.statements, asked, transaction)?;
        Ok(reply::Kind::SqlExecute(SqlExecuteResponse { results }))
    }

    /// A batch of writes to keys and databases. What one Execute may use, all of its SQL together may use.
    pub(crate) fn batch(
        &mut self,
        request: &BatchRequest,
        transaction: &mut Transaction<'_>,
    ) -> Result<reply::Kind, Failure> {
        let mut spent = Spent::default();
        let response = evaluate_batch(request, transaction, &mut |execute, transaction| {
            let asked = Asked { kind: RequestKind::Batch, spent, ..Asked::default() };
            let results = self.run(execute.database.as_ref(), &execute.statements, asked, transaction);
            spent += self.spent();
            Ok(SqlExecuteResponse { results: results? })
        })?;
        Ok(reply::Kind::Batch(response))
    }

    /// Runs statements on one database, once it was brought to its dbname's schema.
    pub(super) fn run(
        &mut self,
        database: Option<&SqlDatabase>,
        statements: &[SqlStatement],
        asked: Asked<'_>,
        transaction: &mut Transaction<'_>,
    ) -> Result<Vec<SqlResult>, Failure> {
        self.measured(asked.kind, Sizes::of(database, statements), transaction, |this, transaction| {
            this.run_within(database, statements, asked, transaction)
        })
    }

    fn run_within(
        &mut self,
        database: Option<&SqlDatabase>,
        statements: &[SqlStatement],
        asked: Asked<'_>,
        transaction: &mut Transaction<'_>,
    ) -> Result<Vec<SqlResult>, Failure> {
        self.spent = Spent::default();
        let id = database_id(named_database(database)?);
        let statements = messages::statements(statements, asked.scripts)?;
        let schema = self.schema(&id.dbname, transaction)?;
        let request = Request::new(&id, &statements);
        let request = Request {
            schema: schema.as_deref(),
            types_as_written: asked.types_as_written,
            cpu: asked.cpu,
            spent: asked.spent,
            distinct_columns: asked.distinct_columns,
            killed: asked.killed.unwrap_or(request.killed),
            ..request
        };
        let databases = self.databases()?;
        let outcome = match asked.read_only {
            true => databases.query_within(transaction, request),
            false => databases.execute(transaction, request).map(|executed| executed.results),
        };
        self.spent = databases.spent();
        match outcome {
            Ok(found) => Ok(results(found)),
            Err(failure) => {
                if failure.reason == Reason::SchemaUpgradeFailed {
                    self.failed_upgrade = Some(id);
                }
                Err(failure)
            }
        }
    }

    /// What the last [`run`](Self::run) used.
    pub(super) fn spent(&self) -> Spent {
        self.spent
    }

    pub(crate) fn remove(
        &mut self,
        command: &pb::SqlRemove,
        transaction: &mut Transaction<'_>,
    ) -> Result<reply::Kind, Failure> {
        let request = required(command.request.as_ref())?;
        let id = database_id(named_database(request.database.as_ref())?);
        let sizes = Sizes { dbname: &id.dbname, ..Sizes::default() };
        self.measured(RequestKind::Remove, sizes, transaction, |this, transaction| {
            let databases = this.databases()?;
            let removal = match command.unfinished_only {
                true => databases.remove_unfinished(transaction, &id)?,
                false => databases.remove(transaction, &id)?,
            };
            Ok(reply::Kind::SqlRemove(pb::SqlRemoved { more: removal == Removal::More }))
        })
    }

    pub(crate) fn import(
        &mut self,
        command: &pb::SqlImport,
        transaction: &mut Transaction<'_>,
    ) -> Result<reply::Kind, Failure> {
        let id = database_id(named_database(command.database.as_ref())?);
        let sizes = Sizes { dbname: &id.dbname, bytes: command.pages.len(), ..Sizes::default() };
        self.measured(RequestKind::Import, sizes, transaction, |this, transaction| {
            this.databases()?.import(transaction, &id, &import_part(command))?;
            Ok(reply::Kind::Done(pb::Done {}))
        })
    }

    pub(crate) fn upgrade(
        &mut self,
        command: &pb::SqlUpgrade,
        transaction: &mut Transaction<'_>,
    ) -> Result<reply::Kind, Failure> {
        let id = database_id(named_database(command.database.as_ref())?);
        let sizes = Sizes { dbname: &id.dbname, ..Sizes::default() };
        let upgraded = self.measured(RequestKind::Upgrade, sizes, transaction, |this, transaction| {
            match this.schema(&id.dbname, transaction)? {
                Some(schema) => this.databases()?.upgrade(transaction, &id, &schema),
                None => Ok(false),
            }
        });
        let upgraded = upgraded.inspect_err(|_| self.failed_upgrade = Some(id))?;
        Ok(reply::Kind::SqlUpgrade(pb::SqlUpgraded { upgraded }))
    }

    /// Notes the failed upgrade with which a command ended in the database's entry; see
    /// [`Databases::record_upgrade_failure`].
    pub(crate) fn record_upgrade_failure(
        &mut self,
        transaction: &mut Transaction<'_>,
        failure: &Failure,
    ) -> Result<(), Failure> {
        let Some(id) = self.failed_upgrade.take() else { return Ok(()) };
        self.databases()?.record_upgrade_failure(transaction, &id, failure)
    }
}

/// How statements are to be run.
#[derive(Clone, Copy, Default)]
pub(super) struct Asked<'a> {
    /// What they are counted as.
    pub(super) kind: RequestKind,
    /// Each text may hold several statements.
    pub(super) scripts: bool,
    /// See [`Request::types_as_written`].
    pub(super) types_as_written: bool,
    /// See [`Request::distinct_columns`].
    pub(super) distinct_columns: bool,
    /// Refuse what writes.
    pub(super) read_only: bool,
    /// See [`Request::cpu`].
    pub(super) cpu: Option<Duration>,
    /// See [`Request::spent`].
    pub(super) spent: Spent,
    /// See [`Request::killed`]; `None`: nobody kills them.
    pub(super) killed: Option<&'a AtomicBool>,
}

fn required<T>(request: Option<&T>) -> Result<&T, Failure> {
    request.ok_or_else(|| Failure::invalid_field("request", "must be set"))
}
