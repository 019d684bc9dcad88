//! The file system that SQLite sees: one file, the running request's database.
//!
//! There is no other: journals and temporary tables stay in memory, and whatever else SQLite would open is refused.

use std::ffi::{CStr, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::ffi;
use sqlite_plugin::flags::{AccessFlags, LockLevel, OpenKind, OpenOpts};
use sqlite_plugin::vars;
use sqlite_plugin::vfs::{RegisterOpts, Vfs, VfsHandle, VfsResult, register_static};

use crate::running::{Running, ask};

/// The file system's name, and that of its file.
pub(crate) const NAME: &CStr = c"cirrus";

/// From SQLite's day 0, noon of 24 November 4714 BC, to Unix's, milliseconds.
const UNIX_EPOCH_JULIAN_MS: u64 = 210_866_760_000_000;

struct RequestVfs;

/// The running request's file.
struct Database;

impl VfsHandle for Database {
    fn readonly(&self) -> bool {
        false
    }

    fn in_memory(&self) -> bool {
        false
    }
}

impl Vfs for RequestVfs {
    type Handle = Database;

    fn open(&self, _: Option<&str>, options: OpenOpts) -> VfsResult<Database> {
        if options.kind() == OpenKind::MainDb { Ok(Database) } else { Err(vars::SQLITE_CANTOPEN) }
    }

    fn delete(&self, _: &str) -> VfsResult<()> {
        Err(vars::SQLITE_IOERR_DELETE)
    }

    fn access(&self, _: &str, _: AccessFlags) -> VfsResult<bool> {
        Ok(false)
    }

    fn file_size(&self, _: &mut Database) -> VfsResult<usize> {
        answer(vars::SQLITE_IOERR_FSTAT, |running| Ok(running.file.borrow().bytes()))
    }

    fn truncate(&self, _: &mut Database, bytes: usize) -> VfsResult<()> {
        const FAILED: c_int = vars::SQLITE_IOERR_TRUNCATE;
        answer(FAILED, |running| running.file.borrow_mut().truncate(bytes).map_err(|_| FAILED))
    }

    fn write(&self, _: &mut Database, offset: usize, data: &[u8]) -> VfsResult<usize> {
        const FAILED: c_int = vars::SQLITE_IOERR_WRITE;
        answer(FAILED, |running| running.file.borrow_mut().write(offset, data).map_err(|_| FAILED))?;
        Ok(data.len())
    }

    fn read(&self, _: &mut Database, offset: usize, buffer: &mut [u8]) -> VfsResult<usize> {
        const FAILED: c_int = vars::SQLITE_IOERR_READ;
        answer(FAILED, |running| running.file.borrow_mut().read(running.reads, offset, buffer).map_err(|_| FAILED))
    }

    // One request at a time has the file.
    fn lock(&self, _: &mut Database, _: LockLevel) -> VfsResult<()> {
        Ok(())
    }

    fn unlock(&self, _: &mut Database, _: LockLevel) -> VfsResult<()> {
        Ok(())
    }

    fn check_reserved_lock(&self, _: &mut Database) -> VfsResult<bool> {
        Ok(false)
    }

    fn close(&self, _: Database) -> VfsResult<()> {
        Ok(())
    }
}

/// No panic may reach SQLite, whose frames lie in between.
fn answer<R>(failed: c_int, question: impl FnOnce(&Running<'_>) -> VfsResult<R>) -> VfsResult<R> {
    catch_unwind(AssertUnwindSafe(|| ask(question))).unwrap_or_default().unwrap_or(Err(failed))
}

/// Makes the file system known to SQLite, once in a process.
#[allow(unsafe_code)]
pub(crate) fn register() -> Result<(), c_int> {
    register_static(NAME.to_owned(), RequestVfs, RegisterOpts { make_default: false })?;
    // SAFETY: the name is a C string, and SQLite may be asked for a file system at any time.
    let registered = unsafe { ffi::sqlite3_vfs_find(NAME.as_ptr()) };
    // SAFETY: what is found is the structure that was just registered, which lives as long as the process, and which no
    // connection uses before this function has returned.
    let Some(vfs) = (unsafe { registered.as_mut() }) else { return Err(vars::SQLITE_NOTFOUND) };
    // `sqlite-plugin` would ask the machine.
    vfs.xCurrentTime = None;
    vfs.xCurrentTimeInt64 = Some(current_time);
    Ok(())
}

/// The time of the running request, as SQLite counts it.
#[allow(unsafe_code)]
unsafe extern "C" fn current_time(_: *mut ffi::sqlite3_vfs, time: *mut ffi::sqlite3_int64) -> c_int {
    let Some(now_ms) = ask(|running| running.now_ms) else { return vars::SQLITE_ERROR };
    let Ok(julian_ms) = i64::try_from(now_ms.saturating_add(UNIX_EPOCH_JULIAN_MS)) else { return vars::SQLITE_ERROR };
    // SAFETY: SQLite passes a pointer to where it wants the time.
    unsafe { *time = julian_ms };
    vars::SQLITE_OK
}
