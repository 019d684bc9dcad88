//! Which tick of a schedule runs next, and what its shard remembers of those that ran.
//!
//! Tick n of a schedule, from 1, is due n intervals after the schedule was created, by the shard's clock. The shard
//! keeps one record for each schedule of its keys, in `TABLE_META`:
//!
//! | key | value |
//! | --- | --- |
//! | `schedule/` + name | `StoredScheduleProgress` |
//!
//! The life of a tick, in one transaction:
//! 1. [`next`] finds it due: its number is above that of the last one that ran.
//! 2. The procedure is called.
//! 3. [`record`] stores how that ended. A call that failed was undone before, so that the record is all it leaves.
//!
//! Since what the call wrote and the record are effects of one proposal, a tick runs once: who finds its record
//! finds its writes, and who finds neither runs it. Whoever leads the shard may try to run a schedule at any moment,
//! and as often as they like.
//!
//! A record names its schedule's id. That of an earlier schedule of the same name is none.

use std::ops::ControlFlow;

use bytes::Bytes;
use cirrus_proto::Failure;
use cirrus_proto::internal::v1::{StoredScheduleProgress, Table};
use cirrus_proto::v1::{
    CallRequest, LuaValue, MissedTicks, Schedule, ScheduleProcedureRequest, ScheduleProgress, ScheduleRun,
};
use prost::Message;

use crate::{Transaction, View};

const PREFIX: &[u8] = b"schedule/";
/// The first key behind all that begin with [`PREFIX`].
const PREFIX_END: &[u8] = b"schedule0";

/// Most missed ticks that a schedule catches up with; older ones are skipped.
pub const BACKLOG_MAX: u64 = 10_000;

/// Largest result that a record keeps, bytes.
const RESULT_BYTES_MAX: usize = 1024;
/// What a record keeps of a failure's message, bytes.
const MESSAGE_BYTES_MAX: usize = 1024;

/// A tick that is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// From 1.
    pub number: u64,
    /// Unix milliseconds.
    pub due_at_ms: u64,
    /// How many before it did not run, and will not.
    pub skipped: u64,
}

/// What a schedule does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The tick is due.
    Run(Tick),
    /// None is.
    Wait(Tick),
}

impl Next {
    /// The tick, due or not.
    pub fn tick(&self) -> Tick {
        match self {
            Next::Run(tick) | Next::Wait(tick) => *tick,
        }
    }
}

/// What the schedule does next at this moment, given how far it got.
pub fn next(schedule: &Schedule, progress: Option<&ScheduleProgress>, now_ms: u64) -> Next {
    let last = progress.and_then(|progress| progress.last_run.as_ref()).map_or(0, |run| run.tick);
    // No schedule is accepted without an interval.
    let every_ms = schedule.every_ms.max(1);
    let newest = now_ms.saturating_sub(schedule.created_at_ms) / every_ms;
    let following = last.saturating_add(1);
    let tick = |number: u64| Tick {
        number,
        due_at_ms: schedule.created_at_ms.saturating_add(number.saturating_mul(every_ms)),
        skipped: number - following,
    };
    if newest <= last {
        return Next::Wait(tick(following));
    }
    Next::Run(tick(match schedule.missed_ticks() {
        MissedTicks::CatchUp => following.max(newest.saturating_sub(BACKLOG_MAX - 1)),
        MissedTicks::Unspecified | MissedTicks::Skip => newest,
    }))
}

/// What a request would have called, but for what [`call_at`] adds at each tick.
pub fn call(request: &ScheduleProcedureRequest) -> CallRequest {
    CallRequest {
        procedure: request.procedure.clone(),
        key: request.key.clone(),
        more_keys: request.more_keys.clone(),
        args: request.args.clone(),
        values: request.values.clone(),
        ..Default::default()
    }
}

/// The call of a tick. Behind the arguments go the tick's number and when it was due. Nobody waits for its result, so
/// any will do: only as strings, nil and false stand for failure.
pub fn call_at(schedule: &Schedule, tick: Tick) -> CallRequest {
    let (mut args, mut values) = (schedule.args.clone(), schedule.values.clone());
    let numbers = [tick.number, tick.due_at_ms];
    match values.is_empty() {
        true => args.extend(numbers.map(|number| Bytes::from(number.to_string()))),
        // Neither comes near the end of 63 bits.
        false => values.extend(numbers.map(|number| LuaValue::from(number as i64))),
    }
    CallRequest {
        procedure: schedule.procedure.clone(),
        key: schedule.key.clone(),
        more_keys: schedule.more_keys.clone(),
        args,
        values,
        typed_result: true,
        ..Default::default()
    }
}

/// How far a schedule of that name got in this shard.
///
/// # Errors
/// INTERNAL where the state is unreadable.
pub fn load(view: &dyn View, name: &str) -> Result<Option<StoredScheduleProgress>, Failure> {
    view.get(Table::Meta, &key(name))?.map(decode).transpose()
}

/// How far this very schedule got in this shard; `None` where it never ran.
///
/// # Errors
/// INTERNAL where the state is unreadable.
pub fn progress(view: &dyn View, schedule: &Schedule) -> Result<Option<ScheduleProgress>, Failure> {
    Ok(of_schedule(load(view, &schedule.name)?, schedule))
}

/// As [`progress`], with what is in flight.
///
/// # Errors
/// INTERNAL where the state is unreadable.
pub fn progress_in(tx: &Transaction<'_>, schedule: &Schedule) -> Result<Option<ScheduleProgress>, Failure> {
    let stored = tx.read(Table::Meta, &key(&schedule.name))?.map(decode).transpose()?;
    Ok(of_schedule(stored, schedule))
}

/// The progress in a record, if it is that of this schedule, and not of an earlier one of its name.
pub fn of_schedule(stored: Option<StoredScheduleProgress>, schedule: &Schedule) -> Option<ScheduleProgress> {
    stored.filter(|stored| stored.schedule_id == schedule.id)?.progress
}

/// The names and ids of the schedules that ran in this shard and were not forgotten.
///
/// # Errors
/// INTERNAL where the state is unreadable.
pub fn recorded(view: &dyn View) -> Result<Vec<(String, u64)>, Failure> {
    let mut found = Vec::new();
    let mut failed = None;
    view.scan(Table::Meta, PREFIX, Some(PREFIX_END), &mut |key, stored| {
        let name = String::from_utf8_lossy(&key[PREFIX.len()..]).into_owned();
        match decode(Bytes::copy_from_slice(stored)) {
            Ok(stored) => {
                found.push((name, stored.schedule_id));
                ControlFlow::Continue(())
            }
            Err(failure) => {
                failed = Some(failure);
                ControlFlow::Break(())
            }
        }
    })?;
    failed.map_or(Ok(found), Err)
}

/// Stores how a tick ended. Not held to the write-set limit, so that what a call may write is the same with and
/// without a schedule.
pub fn record(
    tx: &mut Transaction<'_>,
    schedule: &Schedule,
    before: Option<ScheduleProgress>,
    tick: Tick,
    run: ScheduleRun,
) -> ScheduleRun {
    let run = shortened(run);
    let before = before.unwrap_or_default();
    let progress = ScheduleProgress {
        runs: before.runs + 1,
        failures: before.failures + u64::from(run.failure.is_some()),
        skipped: before.skipped + tick.skipped,
        last_run: Some(run.clone()),
    };
    let stored = StoredScheduleProgress { schedule_id: schedule.id, progress: Some(progress) };
    tx.write_unlimited(Table::Meta, key(&schedule.name), Some(stored.encode_to_vec().into()));
    run
}

/// Removes the record of that name, and returns it.
///
/// # Errors
/// INTERNAL where the state is unreadable.
pub fn forget(tx: &mut Transaction<'_>, name: &str) -> Result<Option<StoredScheduleProgress>, Failure> {
    let key = key(name);
    let stored = tx.read(Table::Meta, &key)?.map(decode).transpose()?;
    if stored.is_some() {
        tx.write_unlimited(Table::Meta, key, None);
    }
    Ok(stored)
}

fn key(name: &str) -> Bytes {
    [PREFIX, name.as_bytes()].concat().into()
}

fn decode(stored: Bytes) -> Result<StoredScheduleProgress, Failure> {
    StoredScheduleProgress::decode(stored)
        .map_err(|error| Failure::internal(format!("a schedule's stored progress: {error}")))
}

/// A run as a record keeps it.
fn shortened(mut run: ScheduleRun) -> ScheduleRun {
    run.result = run.result.filter(|result| result.encoded_len() <= RESULT_BYTES_MAX);
    if let Some(failure) = &mut run.failure {
        failure.message.truncate(failure.message.floor_char_boundary(MESSAGE_BYTES_MAX));
    }
    run
}
