//! What a shard's executor runs: key-value commands, procedure calls and turns of schedules, SQL, and on shard 0 the
//! catalog's commands, all under request ids.

mod scheduled;

use std::sync::Arc;

use cirrus_engine::sessions::{self, Admission};
use cirrus_engine::{Transaction, evaluate, has_sql};
use cirrus_procedures::CallControl;
use cirrus_proto::internal::v1::command::Kind;
use cirrus_proto::internal::v1::{self as pb, Command, Reply, reply};
use cirrus_proto::limits::SqlLimits;
use cirrus_proto::{Failure, Reason};
use cirrus_replication::{Evaluated, Evaluator, Place, Stopped};

use crate::caller::{Caller, Calling};
use crate::catalog;
use crate::catalog_view::CatalogHandle;
use crate::sql::{Owner, SqlCommands, schemas};
use crate::{library_catalog, schedule_catalog};

/// The catalog's shard.
pub const CATALOG_SHARD: u32 = 0;

/// One shard's evaluator. It owns the shard's Luau VMs and open SQLite databases.
pub(crate) struct ShardEvaluator {
    shard_id: u32,
    calls: Caller,
    sql: SqlCommands,
    catalog: Arc<CatalogHandle>,
}

impl ShardEvaluator {
    pub(crate) fn new(shard_id: u32, calling: &Calling, sql: SqlLimits) -> Self {
        let catalog = calling.catalog.clone();
        let sql = SqlCommands::new(Owner::Shard(shard_id), sql, Some(catalog.clone()));
        ShardEvaluator { shard_id, calls: Caller::new(shard_id, calling), sql, catalog }
    }

    /// Watches the call that it runs.
    pub(crate) fn control(&self) -> Arc<CallControl> {
        self.calls.control()
    }

    fn run(
        &mut self,
        command: &Command,
        transaction: &mut Transaction<'_>,
        place: Place,
    ) -> Result<Evaluated, Stopped> {
        match (&command.kind, self.shard_id) {
            (Some(Kind::RequireCatalog(request)), _) => {
                transaction.require_catalog(request.catalog_index);
                Ok(evaluated(reply::Kind::Done(pb::Done {})))
            }
            (Some(kind), CATALOG_SHARD) => self.change_catalog(kind, command, transaction),
            (Some(kind), _) => self.run_on_data(kind, command, transaction, place),
            (None, _) => Ok(Evaluated { reply: evaluate(command, transaction)?, procedure: None }),
        }
    }

    fn change_catalog(
        &self,
        kind: &Kind,
        command: &Command,
        transaction: &mut Transaction<'_>,
    ) -> Result<Evaluated, Stopped> {
        Ok(evaluated(match kind {
            Kind::CreateCluster(request) => catalog::create_cluster(request, transaction)?,
            Kind::RegisterNode(request) => catalog::register_node(request, transaction)?,
            Kind::UploadLibrary(request) => library_catalog::upload(request, transaction)?,
            Kind::DeleteLibrary(request) => library_catalog::delete(request, transaction)?,
            Kind::ActivateLibrary(request) => library_catalog::activate(request, transaction)?,
            Kind::RollbackLibrary(request) => library_catalog::rollback(request, transaction)?,
            Kind::SetLibraryLimits(request) => library_catalog::set_limits(request, transaction)?,
            Kind::ScheduleProcedure(request) => schedule_catalog::create(request, transaction)?,
            Kind::DeleteSchedule(request) => schedule_catalog::delete(request, transaction)?,
            Kind::SqlPutSchema(request) => schemas::put(request, transaction, self.sql.limits())?,
            Kind::SqlPutSphivedbSettings(request) => schemas::put_sphivedb_settings(request, transaction)?,
            _ => return Ok(Evaluated { reply: evaluate(command, transaction)?, procedure: None }),
        }))
    }

    fn run_on_data(
        &mut self,
        kind: &Kind,
        command: &Command,
        transaction: &mut Transaction<'_>,
        place: Place,
    ) -> Result<Evaluated, Stopped> {
        Ok(evaluated(match kind {
            Kind::Call(request) => {
                let (response, version) = self.calls.call(request, transaction, place, &mut self.sql)?;
                let procedure = Some((request.procedure.clone(), version));
                return Ok(Evaluated { procedure, ..evaluated(reply::Kind::Call(response)) });
            }
            Kind::RunSchedule(request) => return self.run_schedule(request, transaction, place),
            Kind::Batch(request) if has_sql(request) => self.sql.batch(request, transaction)?,
            Kind::SqlExecute(command) => self.sql.execute(command, transaction)?,
            Kind::SqlRemove(command) => self.sql.remove(command, transaction)?,
            Kind::SqlImport(command) => self.sql.import(command, transaction)?,
            Kind::SqlUpgrade(command) => self.sql.upgrade(command, transaction)?,
            _ => return Ok(Evaluated { reply: evaluate(command, transaction)?, procedure: None }),
        }))
    }

    fn admit_and_run(
        &mut self,
        command: &Command,
        transaction: &mut Transaction<'_>,
        place: Place,
    ) -> Result<Evaluated, Stopped> {
        if let Admission::Repeat(reply) = sessions::admit(transaction, command)? {
            return Ok(Evaluated { reply: *reply, procedure: None });
        }
        let before = transaction.savepoint();
        let evaluated = match self.run(command, transaction, place) {
            Ok(evaluated) => evaluated,
            // What a procedure answered, an error as well, is the answer to its request id.
            Err(Stopped::Failed(failure))
                if is_procedures_answer(&failure) && sessions::request_id(command).is_some() =>
            {
                transaction.rollback_to(before);
                Evaluated { reply: failure_reply(failure), procedure: None }
            }
            // The note is all that remains. The request failed, so that its id may be used again once the schema is mended.
            Err(Stopped::Failed(failure)) if failure.reason == Reason::SchemaUpgradeFailed => {
                transaction.rollback_to(before);
                self.sql.record_upgrade_failure(transaction, &failure)?;
                return Ok(Evaluated { reply: failure_reply(failure), procedure: None });
            }
            Err(stopped) => return Err(stopped),
        };
        sessions::remember(transaction, command, &evaluated.reply)?;
        Ok(evaluated)
    }
}

impl Evaluator for ShardEvaluator {
    fn evaluate(
        &mut self,
        command: &Command,
        transaction: &mut Transaction<'_>,
        place: Place,
    ) -> Result<Evaluated, Stopped> {
        match &command.kind {
            Some(Kind::Call(request)) if request.dry_run && self.shard_id != CATALOG_SHARD => {
                Ok(evaluated(reply::Kind::Call(self.calls.dry_run(request, transaction, place, &mut self.sql)?)))
            }
            _ => self.admit_and_run(command, transaction, place),
        }
    }

    fn may_run_long(&self, command: &Command) -> bool {
        match &command.kind {
            Some(Kind::Call(request)) => !self.calls.is_quick(request),
            Some(Kind::Batch(request)) => has_sql(request),
            Some(
                Kind::RunSchedule(_)
                | Kind::SqlExecute(_)
                | Kind::SqlRemove(_)
                | Kind::SqlImport(_)
                | Kind::SqlUpgrade(_)
                | Kind::SqlPutSchema(_),
            ) => true,
            _ => false,
        }
    }
}

fn evaluated(kind: reply::Kind) -> Evaluated {
    Evaluated { reply: Reply { kind: Some(kind) }, procedure: None }
}

fn is_procedures_answer(failure: &Failure) -> bool {
    matches!(failure.reason, Reason::ProcedureFailed | Reason::ProcedureReturnedNothing)
}

fn failure_reply(failure: Failure) -> Reply {
    Reply {
        kind: Some(reply::Kind::Failure(pb::CommandFailure {
            reason: failure.reason.as_str().to_owned(),
            message: failure.message,
            metadata: failure.metadata.into_iter().collect(),
        })),
    }
}
