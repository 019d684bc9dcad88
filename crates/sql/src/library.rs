//! SQLite itself, set up once in a process.

use std::sync::OnceLock;

use cirrus_proto::Failure;
use rusqlite::ffi;

use crate::{memory, vfs};

/// Sets SQLite up. Must come before anything else in the process uses SQLite; more than once does nothing.
///
/// Fails with `INTERNAL` where something else has used it before.
pub fn initialize() -> Result<(), Failure> {
    static OUTCOME: OnceLock<Result<(), Failure>> = OnceLock::new();
    let set_up = || {
        memory::install().map_err(|code| failed("bounding SQLite's memory", code))?;
        vfs::register().map_err(|code| failed("registering the file system of databases", code))
    };
    OUTCOME.get_or_init(set_up).clone()
}

fn failed(what: &str, code: i32) -> Failure {
    Failure::internal(format!("{what} failed: {} ({code})", ffi::code_to_str(code)))
}
