//! One database, open in SQLite.

use std::ffi::c_int;

use cirrus_proto::limits::SqlLimits;
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags, Result, ffi};

use crate::budget::OPERATIONS_BETWEEN_CHECKS;
use crate::functions;
use crate::running::ask;
use crate::vfs;

/// Pages that a connection keeps, KiB. The rest is read again, which is a read of the shard's state.
const CACHE_KIB: usize = 512;

/// Compiled statements that a connection keeps.
const STATEMENTS_KEPT: usize = 16;

/// SQLite's limits, where they are not to be set. Each bounds time or memory in which SQLite asks nobody whether to go on:
/// the stack that a nested expression takes, the comparisons of a pattern with each position of a text.
const LIMITS: &[(Limit, i32)] = &[
    (Limit::SQLITE_LIMIT_COLUMN, 1000),
    (Limit::SQLITE_LIMIT_EXPR_DEPTH, 1000),
    (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 500),
    (Limit::SQLITE_LIMIT_VDBE_OP, 1_000_000),
    (Limit::SQLITE_LIMIT_FUNCTION_ARG, 127),
    (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 256),
    (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 32_766),
    (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 100),
    (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    (Limit::SQLITE_LIMIT_SCHEMA, 10_000),
];

/// What the file is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A database that requests use.
    Requests,
    /// A file that is checked and converted: what converts it is a statement that attaches a second database.
    Import,
}

/// Opens the running request's file. Its pages have `page_bytes`, where it has none yet.
pub(crate) fn open(page_bytes: usize, purpose: Purpose, limits: &SqlLimits) -> Result<Connection> {
    // One thread at a time has a connection, so it needs no lock of its own.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags_and_vfs("database", flags, vfs::NAME)?;
    configure(connection, page_bytes, purpose, limits)
}

/// An empty database in memory, held to the same rules.
pub(crate) fn open_empty(limits: &SqlLimits) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    configure(Connection::open_in_memory_with_flags(flags)?, limits.page_bytes, Purpose::Requests, limits)
}

fn configure(
    mut connection: Connection,
    page_bytes: usize,
    purpose: Purpose,
    limits: &SqlLimits,
) -> Result<Connection> {
    let pages_max = (limits.database_bytes / page_bytes).max(1);
    // The journal in memory lets SQLite undo a statement; what a request wrote is undone by forgetting it.
    // One connection at a time uses the file, so that it need not look whether another has changed it, nor count changes in
    // the file's first page. Without foreign keys, as is SQLite's default: this build's is another.
    connection.execute_batch(&format!(
        "PRAGMA page_size = {page_bytes};
         PRAGMA locking_mode = EXCLUSIVE;
         PRAGMA journal_mode = MEMORY;
         PRAGMA synchronous = OFF;
         PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -{CACHE_KIB};
         PRAGMA secure_delete = FAST;
         PRAGMA cell_size_check = ON;
         PRAGMA max_page_count = {pages_max};"
    ))?;
    for (setting, value) in [
        (DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
    ] {
        connection.set_db_config(setting, value)?;
    }
    for (limit, value) in LIMITS {
        connection.set_limit(*limit, *value)?;
    }
    let attached = i32::from(purpose == Purpose::Import);
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, attached)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, as_limit(limits.value_bytes))?;
    connection.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, as_limit(limits.sql_bytes))?;
    functions::define(&connection, limits.value_bytes)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    connection.progress_handler(OPERATIONS_BETWEEN_CHECKS, Some(must_stop))?;
    connection.authorizer(Some(decide))?;
    Ok(connection)
}

fn as_limit(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}

fn must_stop() -> bool {
    ask(|running| running.budget.is_exhausted()).unwrap_or(false)
}

fn decide(asked: AuthContext<'_>) -> Authorization {
    ask(|running| running.gate.decide(&asked)).unwrap_or(Authorization::Deny)
}

/// Undoes what requests do to a connection for longer than their transaction.
#[allow(unsafe_code)]
pub(crate) fn forget_request(connection: &Connection, foreign_keys_switched: bool) -> Result<()> {
    // SAFETY: the handle is that of an open connection, which nobody else uses.
    unsafe { ffi::sqlite3_set_last_insert_rowid(connection.handle(), 0) };
    if foreign_keys_switched {
        connection.execute_batch("PRAGMA foreign_keys = OFF")?;
    }
    Ok(())
}

const _: () = assert!(size_of::<c_int>() == size_of::<i32>(), "limits are C's integers");
