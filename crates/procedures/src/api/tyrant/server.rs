//! Tokyo Tyrant's functions that speak of the server: its clock, its log, and its files, which are refused.

use mlua::{Lua, Value};

use super::super::{Access, Answer, Operation, Raised, log, one};
use crate::text::integer;

pub(in super::super) const OPERATIONS: &[Operation] = &[
    Operation { table: None, name: "_time", arguments: 0..=0, returns: 1, run: time },
    Operation { table: None, name: "_log", arguments: 1..=2, returns: 1, run: write_log },
    Operation { table: None, name: "_lock", arguments: 1..=1, returns: 1, run: lock },
    Operation { table: None, name: "_unlock", arguments: 1..=1, returns: 1, run: lock },
    Operation { table: None, name: "_stat", arguments: 0..=usize::MAX, returns: 1, run: no_files },
    Operation { table: None, name: "_glob", arguments: 0..=usize::MAX, returns: 1, run: no_files },
    Operation { table: None, name: "_remove", arguments: 0..=usize::MAX, returns: 1, run: no_files },
    Operation { table: None, name: "_mkdir", arguments: 0..=usize::MAX, returns: 1, run: no_files },
];

/// `_time()`: the shard's time, seconds since 1970 with a fraction.
fn time(access: &mut Access<'_, '_>, _lua: &Lua, _arguments: &[Value]) -> Answer {
    one(Value::Number(access.transaction.now_ms() as f64 / 1000.0))
}

/// `_log(message[, level])`: a line in the node's log; level 0 is for debugging, 1, the default, informs, 2 is an
/// error. Nothing is returned.
fn write_log(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let level = match arguments.get(1) {
        None | Some(Value::Nil) => 1,
        Some(level) => integer(level).unwrap_or(-1),
    };
    match level {
        0 => log::debug(access, lua, &arguments[..1]),
        1 => log::info(access, lua, &arguments[..1]),
        2 => log::error(access, lua, &arguments[..1]),
        _ => Err(Raised::Misuse("level must be 0, 1 or 2".to_owned())),
    }
}

/// `_lock(k)` and `_unlock(k)`: true. A call is alone in its shard from its beginning to its end.
fn lock(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    access.key(lua, &arguments[0])?;
    one(Value::Boolean(true))
}

fn no_files(_: &mut Access<'_, '_>, _lua: &Lua, _arguments: &[Value]) -> Answer {
    Err(Raised::Misuse("procedures have no access to the server's files".to_owned()))
}
