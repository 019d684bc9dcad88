//! Lines in the node's log, and for who follows it.
//!
//! `log.debug(…)`, `log.info(…)`, `log.warn(…)` and `log.error(…)` write one line each; `log(…)` and `print(…)`
//! write one at the level info. A line holds the arguments with a space between two, up to 1 KiB; a call
//! writes up to 100 lines.

use mlua::{Lua, Value};

use super::{Access, Answer, Operation, one};
use crate::call_log::LogLevel;
use crate::text::{text, type_name};

/// Longest line, bytes.
const LINE_BYTES: usize = 1024;

const ARGUMENTS_MAX: usize = 64;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation { table: Some("log"), name: "debug", arguments: 0..=ARGUMENTS_MAX, returns: 1, run: debug },
    Operation { table: Some("log"), name: "info", arguments: 0..=ARGUMENTS_MAX, returns: 1, run: info },
    Operation { table: Some("log"), name: "warn", arguments: 0..=ARGUMENTS_MAX, returns: 1, run: warn },
    Operation { table: Some("log"), name: "error", arguments: 0..=ARGUMENTS_MAX, returns: 1, run: error },
    Operation { table: None, name: "print", arguments: 0..=ARGUMENTS_MAX, returns: 1, run: info },
    // What the prelude makes `log(…)` of.
    Operation::internal("log", 0..=ARGUMENTS_MAX, 0, info),
];

pub(super) fn debug(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    write(access, lua, LogLevel::Debug, arguments)
}

pub(super) fn info(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    write(access, lua, LogLevel::Info, arguments)
}

fn warn(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    write(access, lua, LogLevel::Warn, arguments)
}

pub(super) fn error(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    write(access, lua, LogLevel::Error, arguments)
}

fn write(access: &mut Access<'_, '_>, lua: &Lua, level: LogLevel, arguments: &[Value]) -> Answer {
    if !access.log.has_room() {
        return one(None);
    }
    let line = line(lua, arguments)?;
    let line = String::from_utf8_lossy(&line);
    if access.trace.is_some() {
        access.logged = line.to_string();
    }
    access.log.write(level, &line);
    one(None)
}

/// Strings, numbers, booleans and nil as they are; of other values their type. It calls no `__tostring`: a
/// line in the log is not worth running a script from here.
fn line(lua: &Lua, arguments: &[Value]) -> mlua::Result<Vec<u8>> {
    let mut line = Vec::new();
    for (index, argument) in arguments.iter().enumerate() {
        if index > 0 {
            line.push(b' ');
        }
        match argument {
            Value::Nil => line.extend(b"nil"),
            Value::Boolean(value) => line.extend(value.to_string().bytes()),
            // Cut before it is copied.
            Value::String(value) => line.extend(value.as_bytes().iter().take(LINE_BYTES)),
            value => match text(lua, value)? {
                Some(text) => line.extend(text),
                None => line.extend(type_name(value).bytes()),
            },
        }
        if line.len() > LINE_BYTES {
            line.truncate(LINE_BYTES);
            break;
        }
    }
    Ok(line)
}
