//! A turn of a schedule: the tick that is due, if one is, as one transaction with the record that it ran.

use cirrus_engine::Transaction;
use cirrus_engine::schedules::{self, Next, Tick};
use cirrus_proto::Reason;
use cirrus_proto::internal::v1::{RunSchedule, ScheduleTurn, reply};
use cirrus_proto::v1::{Schedule, ScheduleRun};
use cirrus_replication::{Evaluated, Place, Stopped};

use super::{ShardEvaluator, evaluated};
use crate::catalog_view::CATALOG_WAIT;

impl ShardEvaluator {
    /// Runs what is due of a schedule; where it is gone and that is asked for, forgets how far it got.
    ///
    /// The catalog says which schedules there are, and this node's replica of it may lag. So a shard that records a
    /// run, or forgets a schedule, requires of every later leader a catalog at least as new: none takes a schedule
    /// that ran for one that was deleted, and none runs again what was deleted.
    pub(super) fn run_schedule(
        &mut self,
        request: &RunSchedule,
        transaction: &mut Transaction<'_>,
        place: Place,
    ) -> Result<Evaluated, Stopped> {
        if place == Place::Shared {
            return Err(Stopped::TooLong);
        }
        transaction.require_catalog(request.catalog_index);
        let required = transaction.head().catalog_index;
        let (schedule, catalog_index) = self.catalog.schedule(&request.name, self.shard_id, required, CATALOG_WAIT)?;
        let Some(schedule) = schedule else {
            // A tick that becomes due while the schedule is being deleted must leave its record to whoever deletes it.
            if !request.forget {
                return Ok(turn(ScheduleTurn::default(), None));
            }
            let forgotten = schedules::forget(transaction, &request.name)?;
            if forgotten.is_some() {
                transaction.require_catalog(catalog_index);
            }
            return Ok(turn(ScheduleTurn { forgotten, ..Default::default() }, None));
        };
        let progress = schedules::progress_in(transaction, &schedule)?;
        let Next::Run(tick) = schedules::next(&schedule, progress.as_ref(), transaction.now_ms()) else {
            return Ok(turn(ScheduleTurn::default(), None));
        };
        if progress.is_none() {
            transaction.require_catalog(catalog_index);
        }
        let run = self.run_tick(&schedule, tick, transaction)?;
        let procedure = run.failure.is_none().then(|| (schedule.procedure.clone(), run.library_version));
        let run = schedules::record(transaction, &schedule, progress, tick, run);
        Ok(turn(ScheduleTurn { run: Some(run), skipped: tick.skipped, ..Default::default() }, procedure))
    }

    /// Calls the procedure. What fails here, and so is tried again, is what this node cannot do now; what the
    /// procedure, or the catalog, makes of the call is how the tick ended.
    fn run_tick(
        &mut self,
        schedule: &Schedule,
        tick: Tick,
        transaction: &mut Transaction<'_>,
    ) -> Result<ScheduleRun, Stopped> {
        let before = transaction.savepoint();
        let (library_version, outcome) =
            match self.calls.tick(&schedules::call_at(schedule, tick), transaction, &mut self.sql) {
                Ok(ended) => ended,
                Err(Stopped::Failed(failure)) if !matches!(failure.reason, Reason::NotReady | Reason::Internal) => {
                    (0, Err(failure))
                }
                Err(stopped) => return Err(stopped),
            };
        let run = ScheduleRun {
            tick: tick.number,
            due_at_ms: tick.due_at_ms,
            ran_at_ms: transaction.now_ms(),
            library_version,
            ..Default::default()
        };
        Ok(match outcome {
            Ok(response) => ScheduleRun { result: response.value, ..run },
            Err(failure) => {
                transaction.rollback_to(before);
                ScheduleRun { failure: Some(failure.into()), ..run }
            }
        })
    }
}

fn turn(turn: ScheduleTurn, procedure: Option<(String, u64)>) -> Evaluated {
    Evaluated { procedure, ..evaluated(reply::Kind::ScheduleTurn(turn)) }
}
