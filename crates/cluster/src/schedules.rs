//! Schedules, as clients create, list and end them.
//!
//! A schedule commits in the catalog; the leader of its key's shard runs it (`schedule_runner.rs`). One that is
//! deleted runs no more once that is acknowledged: the shard is told in its own log which catalog it needs, as it is
//! of uploads, and forgets the schedule there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cirrus_engine::schedules;
use cirrus_proto::internal::v1::command::Kind;
use cirrus_proto::internal::v1::{
    Command, Query, RequireCatalog, RunSchedule, ScheduleProgressQuery, ScheduleProgressResult, StoredScheduleProgress,
    query, query_result, reply,
};
use cirrus_proto::v1::{
    DeleteScheduleRequest, DeleteScheduleResponse, ListSchedulesRequest, ListSchedulesResponse, ReadConsistency,
    Schedule, ScheduleProcedureRequest, ScheduleProcedureResponse, ScheduleStatus,
};
use cirrus_proto::{Failure, Reason};
use cirrus_replication::wall_clock;

use crate::libraries::unexpected;
use crate::node::ClusterNode;

/// How long a list of schedules waits for each shard.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long to let a leader's catalog catch up.
const CATALOG_POLL: Duration = Duration::from_millis(100);

impl ClusterNode {
    /// Creates a schedule, or finds the same one.
    ///
    /// # Errors
    /// INVALID_FIELD, LIBRARY_NOT_FOUND, FUNCTION_NOT_FOUND, SCHEDULE_EXISTS, SCHEDULES_FULL, and those of
    /// [`ClusterNode::command`].
    pub async fn schedule_procedure(
        &self,
        request: ScheduleProcedureRequest,
        deadline: Instant,
    ) -> Result<ScheduleProcedureResponse, Failure> {
        match self.change_catalog(Kind::ScheduleProcedure(request), deadline).await?.reply.kind {
            Some(reply::Kind::ScheduleProcedure(response)) => Ok(response),
            other => Err(unexpected(other)),
        }
    }

    /// Deletes a schedule, and returns once it runs no more.
    ///
    /// # Errors
    /// INVALID_FIELD, and those of [`ClusterNode::command`].
    pub async fn delete_schedule(
        &self,
        request: DeleteScheduleRequest,
        deadline: Instant,
    ) -> Result<DeleteScheduleResponse, Failure> {
        let name = request.name.clone();
        let executed = self.change_catalog(Kind::DeleteSchedule(request), deadline).await?;
        let Some(reply::Kind::DeleteSchedule(response)) = executed.reply.kind else {
            return Err(unexpected(executed.reply.kind));
        };
        let forgotten = self.end_schedule(name, response.schedule.as_ref(), executed.applied_index, deadline).await;
        let forgotten = forgotten.map_err(|failure| {
            let text = format!("the catalog has no such schedule any more, but its shard was not told: {failure}");
            Failure { reason: Reason::OutcomeUnknown, message: text, ..failure }
        })?;
        let progress = response.schedule.as_ref().and_then(|schedule| schedules::of_schedule(forgotten, schedule));
        Ok(DeleteScheduleResponse { progress, ..response })
    }

    /// Has the schedule's shard forget it, so that it runs no more. Where it is not known which shard that is, since
    /// the schedule was deleted before, all shards are told that it was.
    async fn end_schedule(
        &self,
        name: String,
        deleted: Option<&Schedule>,
        catalog_index: u64,
        deadline: Instant,
    ) -> Result<Option<StoredScheduleProgress>, Failure> {
        let Some(schedule) = deleted else {
            let required = Command { kind: Some(Kind::RequireCatalog(RequireCatalog { catalog_index })) };
            let shards = self.shard_ids()?.into_iter();
            let told = shards.map(|shard_id| self.command(shard_id, required.clone(), deadline, true));
            return futures::future::try_join_all(told).await.map(|_| None);
        };
        let shard_id = self.shard_of(&schedule.key)?;
        let command = Command { kind: Some(Kind::RunSchedule(RunSchedule { name, catalog_index, forget: true })) };
        loop {
            match self.command(shard_id, command.clone(), deadline, true).await {
                Ok(routed) => match routed.value.kind {
                    Some(reply::Kind::ScheduleTurn(turn)) => return Ok(turn.forgotten),
                    other => return Err(Failure::internal(format!("a turn of a schedule answered with {other:?}"))),
                },
                // The leader's catalog lags behind the one that has the change.
                Err(failure) if failure.reason == Reason::NotReady && Instant::now() + CATALOG_POLL < deadline => {
                    tokio::time::sleep(CATALOG_POLL).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Every schedule, with how far it got where its shard says so within the deadline.
    ///
    /// # Errors
    /// Those of [`ClusterNode::query`], of the catalog.
    pub async fn list_schedules(&self, deadline: Instant) -> Result<ListSchedulesResponse, Failure> {
        let schedules = match self.ask_catalog(query::Kind::ListSchedules(ListSchedulesRequest {}), deadline).await? {
            Some(query_result::Kind::ListSchedules(list)) => list.schedules,
            other => return Err(unexpected(other)),
        };
        let mut names: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for schedule in &schedules {
            names.entry(self.shard_of(&schedule.key)?).or_default().push(schedule.name.clone());
        }
        let asked = names.into_iter().map(async |(shard_id, names)| {
            // A shard without a leader must not use up the time of the answer.
            let patience = deadline.saturating_duration_since(Instant::now()) / 2;
            let answered = self.schedule_progress(shard_id, names, Instant::now() + patience.min(PATIENCE)).await;
            (shard_id, answered)
        });
        let mut response = ListSchedulesResponse::default();
        let mut progress: BTreeMap<u32, ScheduleProgressResult> = BTreeMap::new();
        for (shard_id, answered) in futures::future::join_all(asked).await {
            match answered {
                Ok(result) => {
                    progress.insert(shard_id, result);
                }
                Err(failure) => {
                    tracing::debug!(shard = shard_id, %failure, "does not say how far its schedules got");
                    response.unreachable_shard_ids.push(shard_id);
                }
            }
        }
        for schedule in schedules {
            let shard_id = self.shard_of(&schedule.key)?;
            let of_shard = progress.get_mut(&shard_id);
            response.schedules.push(match of_shard {
                Some(result) => {
                    let stored = result.progress.remove(&schedule.name);
                    let progress = schedules::of_schedule(stored, &schedule);
                    let next = schedules::next(&schedule, progress.as_ref(), wall_clock().now_ms).tick();
                    ScheduleStatus {
                        schedule: Some(schedule),
                        shard_id,
                        progress: Some(progress.unwrap_or_default()),
                        next_tick: next.number,
                        next_due_at_ms: next.due_at_ms,
                    }
                }
                None => ScheduleStatus { schedule: Some(schedule), shard_id, ..Default::default() },
            });
        }
        Ok(response)
    }

    async fn schedule_progress(
        &self,
        shard_id: u32,
        names: Vec<String>,
        deadline: Instant,
    ) -> Result<ScheduleProgressResult, Failure> {
        let query = Query {
            kind: Some(query::Kind::ScheduleProgress(ScheduleProgressQuery { names })),
            consistency: ReadConsistency::Linearizable.into(),
        };
        match self.query(shard_id, query, deadline, true).await?.value.kind {
            Some(query_result::Kind::ScheduleProgress(result)) => Ok(result),
            other => Err(Failure::internal(format!("shard {shard_id} answered with {other:?}"))),
        }
    }
}
