//! What went wrong in SQLite, as a failure with a reason.

use cirrus_proto::limits::SqlLimits;
use cirrus_proto::{Failure, Reason};
use rusqlite::{Error, ffi};

use crate::budget::Stop;
use crate::running::Running;

/// Metadata of a failure: SQLite's primary result code.
pub(crate) const SQLITE_CODE: &str = "sqlite_code";
/// Metadata of a failure: SQLite's own message.
pub(crate) const SQLITE_MESSAGE: &str = "sqlite_message";

/// The failure of a request in which SQLite answered this error.
pub(crate) fn failure(error: &Error, running: &Running<'_>, limits: &SqlLimits) -> Failure {
    if let Some(fault) = running.file.borrow_mut().take_fault() {
        return fault;
    }
    let (code, extended_code) = codes(error);
    let message = message(error);
    let refused = running.gate.take_refused();
    let mut failure = match running.budget.stopped() {
        Some(Stop::Time) => {
            let limit_ms = running.budget.limit().as_millis();
            Failure::new(Reason::SqlTimeout, format!("the statements used more than {limit_ms} ms of CPU time"))
                .with("limit", limit_ms)
        }
        Some(Stop::Killed) => Failure::new(Reason::SqlKilled, "the request was killed"),
        None => match (code, refused) {
            (_, Some(refused)) => Failure::new(Reason::SqlNotAllowed, refused),
            (ffi::SQLITE_AUTH, None) => Failure::new(Reason::SqlNotAllowed, message.clone()),
            (ffi::SQLITE_CONSTRAINT, None) => Failure::new(Reason::SqlConstraint, message.clone()),
            (ffi::SQLITE_NOMEM, None) => Failure::new(
                Reason::SqlMemory,
                format!("the statements used more than {} bytes of memory", limits.memory_bytes),
            )
            .with("limit", limits.memory_bytes),
            (ffi::SQLITE_TOOBIG, None) => {
                Failure::new(Reason::SqlTooLarge, format!("{message}: above the limit of {} bytes", limits.value_bytes))
                    .with("limit", limits.value_bytes)
            }
            (ffi::SQLITE_FULL, None) => Failure::new(
                Reason::DatabaseTooLarge,
                format!("the database would be larger than the limit of {} bytes", limits.database_bytes),
            )
            .with("limit", limits.database_bytes),
            (ffi::SQLITE_CORRUPT | ffi::SQLITE_NOTADB, None) => Failure::new(Reason::DatabaseDamaged, message.clone()),
            (ffi::SQLITE_IOERR | ffi::SQLITE_CANTOPEN | ffi::SQLITE_INTERNAL | ffi::SQLITE_MISUSE, None) => {
                Failure::internal(format!("SQLite failed: {message} ({extended_code})"))
            }
            (_, None) => Failure::new(Reason::SqlInvalid, message.clone()),
        },
    };
    if let Error::SqlInputError { offset, .. } = error
        && *offset >= 0
    {
        failure = failure.with("offset", offset);
    }
    failure.with(SQLITE_CODE, code).with("sqlite_extended_code", extended_code).with(SQLITE_MESSAGE, message)
}

/// Whether a connection on which this happened may be in a state that the next request should not meet.
pub(crate) fn spoils_connection(failure: &Failure) -> bool {
    matches!(failure.reason, Reason::Internal | Reason::DatabaseDamaged | Reason::SqlMemory)
}

fn codes(error: &Error) -> (i32, i32) {
    let extended = match error {
        Error::SqliteFailure(error, _) | Error::SqlInputError { error, .. } => error.extended_code,
        _ => ffi::SQLITE_ERROR,
    };
    (extended & 0xff, extended)
}

fn message(error: &Error) -> String {
    match error {
        Error::SqliteFailure(_, Some(message)) | Error::SqlInputError { msg: message, .. } => message.clone(),
        Error::SqliteFailure(error, None) => ffi::code_to_str(error.extended_code).to_owned(),
        other => other.to_string(),
    }
}
