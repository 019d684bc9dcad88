//! The schedules, as shard 0 keeps them in TABLE_CATALOG.
//!
//! | key | value |
//! | --- | --- |
//! | `schedule/` + name | `Schedule` |
//! | `last-schedule` | the id of the schedule that was created last, big-endian |
//!
//! How far a schedule has got is not here, but in its key's shard (`cirrus_engine::schedules`).
//!
//! Invariant: a schedule's library has the version that it pins or, where it pins none, is there.

use bytes::Bytes;
use cirrus_engine::{Transaction, schedules};
use cirrus_procedures::{Arguments, check_arguments};
use cirrus_proto::internal::v1::{Table, reply};
use cirrus_proto::name::ProcedureName;
use cirrus_proto::v1::{
    DeleteScheduleRequest, DeleteScheduleResponse, MissedTicks, Schedule, ScheduleProcedureRequest,
    ScheduleProcedureResponse,
};
use cirrus_proto::{Failure, Reason};
use prost::Message;
use sha2::{Digest as _, Sha256};

use crate::catalog::{Reads, decode};
use crate::library_catalog;

/// Most schedules of a cluster: a list of all, each with what it may hold, still fits in one message.
const SCHEDULES_MAX: usize = 1000;

/// Longest name, bytes.
const NAME_BYTES_MAX: usize = 64;

const PREFIX: &[u8] = b"schedule/";
const LAST_ID_KEY: &[u8] = b"last-schedule";

fn schedule_key(name: &str) -> Bytes {
    [PREFIX, name.as_bytes()].concat().into()
}

/// The schedule of that name.
///
/// # Errors
/// INTERNAL where the state is unreadable.
pub(crate) fn find(reads: &dyn Reads, name: &str) -> Result<Option<Schedule>, Failure> {
    reads.get(&schedule_key(name))?.map(|stored| decode("schedule", stored)).transpose()
}

/// All schedules, by name.
///
/// # Errors
/// INTERNAL where the state is unreadable.
pub(crate) fn all(reads: &dyn Reads) -> Result<Vec<Schedule>, Failure> {
    reads.entries(PREFIX)?.into_iter().map(|(_, stored)| decode("schedule", stored)).collect()
}

/// Creates a schedule, unless the same one is there already.
pub(crate) fn create(
    request: &ScheduleProcedureRequest,
    transaction: &mut Transaction<'_>,
) -> Result<reply::Kind, Failure> {
    let procedure = ProcedureName::parse(&request.procedure)?;
    let mut schedule = Schedule {
        name: request.name.clone(),
        id: 0,
        procedure: request.procedure.clone(),
        key: request.key.clone(),
        more_keys: request.more_keys.clone(),
        args: request.args.clone(),
        values: request.values.clone(),
        every_ms: request.every_ms,
        missed_ticks: match request.missed_ticks() {
            MissedTicks::CatchUp => MissedTicks::CatchUp,
            MissedTicks::Unspecified | MissedTicks::Skip => MissedTicks::Skip,
        }
        .into(),
        created_at_ms: transaction.now_ms(),
        created_by: request.created_by.clone(),
    };
    check_callable(&procedure, &schedule, transaction)?;
    if schedule.name.is_empty() {
        schedule.name = name_of(&procedure, &schedule.key);
    }
    let answer = |schedule, created| {
        Ok(reply::Kind::ScheduleProcedure(ScheduleProcedureResponse { schedule: Some(schedule), created }))
    };
    if let Some(existing) = find(transaction, &schedule.name)? {
        let Schedule { id, created_at_ms, created_by, .. } = existing.clone();
        return match (Schedule { id, created_at_ms, created_by, ..schedule }) == existing {
            true => answer(existing, false),
            false => Err(exists(&existing)),
        };
    }
    let count = transaction.entries(PREFIX)?.len();
    if count >= SCHEDULES_MAX {
        let problem = format!("the cluster has {count} schedules, its limit; delete some");
        let failure = Failure::new(Reason::SchedulesFull, problem);
        return Err(failure.with("actual", count).with("limit", SCHEDULES_MAX));
    }
    schedule.id = last_id(transaction)? + 1;
    transaction.write(
        Table::Catalog,
        Bytes::from_static(LAST_ID_KEY),
        Bytes::copy_from_slice(&schedule.id.to_be_bytes()),
    )?;
    transaction.write(Table::Catalog, schedule_key(&schedule.name), schedule.encode_to_vec().into())?;
    answer(schedule, true)
}

/// Deletes a schedule. Its id stays used.
pub(crate) fn delete(
    request: &DeleteScheduleRequest,
    transaction: &mut Transaction<'_>,
) -> Result<reply::Kind, Failure> {
    let schedule = find(transaction, &request.name)?;
    if schedule.is_some() {
        transaction.remove(Table::Catalog, schedule_key(&request.name))?;
    }
    let response = DeleteScheduleResponse { deleted: schedule.is_some(), schedule, progress: None };
    Ok(reply::Kind::DeleteSchedule(response))
}

/// The schedule that calls the library; with a version, one that pins it.
///
/// # Errors
/// INTERNAL where the state is unreadable.
pub(crate) fn schedule_of(reads: &dyn Reads, library: &str, version: Option<u64>) -> Result<Option<Schedule>, Failure> {
    let calls = |schedule: &Schedule| {
        ProcedureName::parse(&schedule.procedure)
            .is_ok_and(|procedure| procedure.library == library && (version.is_none() || procedure.version == version))
    };
    Ok(all(reads)?.into_iter().find(calls))
}

fn exists(existing: &Schedule) -> Failure {
    let Schedule { name, procedure, every_ms, .. } = existing;
    let problem = format!(
        "schedule {name} is there already, with other settings: {procedure} on key \"{}\" every {every_ms} ms; give \
         this one another name, or delete that one",
        existing.key.escape_ascii()
    );
    Failure::new(Reason::ScheduleExists, problem).with("schedule", name)
}

/// Fails where a call would find no such function now, or the function declares that it takes other arguments.
fn check_callable(procedure: &ProcedureName<'_>, schedule: &Schedule, reads: &dyn Reads) -> Result<(), Failure> {
    let name = procedure.library;
    let version = match procedure.version {
        Some(version) => version,
        None => library_catalog::version_for(name, &library_catalog::active(reads, name)?.activation, &schedule.key),
    };
    let header = library_catalog::version(reads, name, version)?.header;
    if !header.functions.iter().any(|function| function == procedure.function) {
        let function: String = procedure.function.chars().take(64).collect();
        let problem = format!("library {name} version {version} exports no function {function:?}");
        return Err(Failure::new(Reason::FunctionNotFound, problem).with("library", name).with("function", function));
    }
    let Some(declaration) = header.declarations.iter().find(|declared| declared.name == procedure.function) else {
        return Ok(());
    };
    let first = schedules::next(schedule, None, 0).tick();
    let call = schedules::call_at(schedule, first);
    let arguments = match call.values.is_empty() {
        true => Arguments::Strings(&call.args),
        false => Arguments::Values(&call.values),
    };
    check_arguments(declaration, 1 + call.more_keys.len(), arguments).map_err(|failure| {
        let hint = "a schedule calls it with the tick's number and its time, two integers, behind the arguments";
        Failure { message: format!("{} ({hint})", failure.message), ..failure }
    })
}

fn last_id(reads: &dyn Reads) -> Result<u64, Failure> {
    match reads.get(LAST_ID_KEY)? {
        None => Ok(0),
        Some(bytes) => {
            let bytes = bytes.as_ref().try_into();
            Ok(u64::from_be_bytes(bytes.map_err(|_| Failure::internal("the catalog has a malformed schedule id"))?))
        }
    }
}

/// A name for a schedule that was given none: of procedure and key, so that the same request finds it again. Where a
/// name cannot hold the key, a digest stands for it. The library and the function were found, so their names are plain.
fn name_of(procedure: &ProcedureName<'_>, key: &[u8]) -> String {
    let ProcedureName { library, version, function } = procedure;
    let procedure = match version {
        None => format!("{library}-{function}"),
        Some(version) => format!("{library}-{version}-{function}"),
    };
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let plain = key.iter().map(|byte| if allowed(byte) { char::from(*byte) } else { '-' });
    let name: String = procedure.chars().chain(['-']).chain(plain).collect();
    if name.len() <= NAME_BYTES_MAX && key.iter().all(allowed) {
        return name;
    }
    let digest = Sha256::digest([procedure.as_bytes(), b"\0", key].concat());
    let digest: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let beginning: String = name.chars().take(NAME_BYTES_MAX - 1 - digest.len()).collect();
    format!("{beginning}-{digest}")
}

#[cfg(test)]
mod tests;
