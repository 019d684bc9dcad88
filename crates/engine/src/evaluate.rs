//! From a command to its reply.

use cirrus_proto::Failure;
use cirrus_proto::internal::v1::command::Kind;
use cirrus_proto::internal::v1::{Command, Reply, reply};
use cirrus_proto::v1::{SqlExecuteRequest, SqlExecuteResponse};

use crate::batch::evaluate_batch;
use crate::{Transaction, commands, sweep, transact};

/// Runs a key-value command or a sweep: its writes are in the transaction afterwards, its answer is
/// returned. A failure leaves the transaction as it was. Calls, SQL, batches with SQL and the catalog's commands are
/// evaluated elsewhere; handing one in is the caller's mistake and fails with `INTERNAL`.
///
/// The command must have passed [`crate::validate`].
pub fn evaluate(command: &Command, tx: &mut Transaction<'_>) -> Result<Reply, Failure> {
    let savepoint = tx.savepoint();
    let outcome = run(command, tx);
    if outcome.is_err() {
        tx.rollback_to(savepoint);
    }
    Ok(Reply { kind: Some(outcome?) })
}

fn no_sql(_: &SqlExecuteRequest, _: &mut Transaction<'_>) -> Result<SqlExecuteResponse, Failure> {
    Err(Failure::internal("SQL is not the engine's to evaluate"))
}

fn run(command: &Command, tx: &mut Transaction<'_>) -> Result<reply::Kind, Failure> {
    Ok(match &command.kind {
        Some(Kind::Put(request)) => reply::Kind::Put(commands::put(request, tx)?),
        Some(Kind::Delete(request)) => reply::Kind::Delete(commands::delete(request, tx)?.0),
        Some(Kind::Increment(request)) => reply::Kind::Increment(commands::increment(request, tx)?),
        Some(Kind::Batch(request)) => reply::Kind::Batch(evaluate_batch(request, tx, &mut no_sql)?),
        Some(Kind::Transact(request)) => reply::Kind::Transact(transact::transact(request, tx)?),
        Some(Kind::SweepExpired(request)) => reply::Kind::Sweep(sweep::sweep(request, tx)?),
        Some(
            Kind::Call(_)
            | Kind::UploadLibrary(_)
            | Kind::DeleteLibrary(_)
            | Kind::ActivateLibrary(_)
            | Kind::RollbackLibrary(_)
            | Kind::ScheduleProcedure(_)
            | Kind::DeleteSchedule(_)
            | Kind::RunSchedule(_)
            | Kind::SetLibraryLimits(_)
            | Kind::SqlExecute(_)
            | Kind::SqlRemove(_)
            | Kind::SqlImport(_)
            | Kind::SqlPutSchema(_)
            | Kind::SqlPutSphivedbSettings(_)
            | Kind::SqlUpgrade(_)
            | Kind::RegisterNode(_)
            | Kind::CreateCluster(_)
            | Kind::RequireCatalog(_),
        ) => return Err(Failure::internal("the command is not the engine's to evaluate")),
        None => return Err(Failure::invalid_field("kind", "no command is set")),
    })
}
