//! The server as a script sees it: its clock, its log, its locks, its compiler, and its files, which it may not.

use std::time::{Duration, Instant};

use mlua::chunk::{ChunkMode, Compiler};
use mlua::{Lua, Value};

use super::expect_number;
use crate::api::{Access, Answer, Operation, Raised, check_budget, expect_text, log, one, string};
use crate::text::type_name;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::global("_time", 0..=0, time),
    Operation::global("_sleep", 1..=1, sleep),
    Operation::global("_log", 1..=2, write_log),
    Operation::global("_lock", 1..=1, lock),
    Operation::global("_unlock", 1..=1, lock),
    Operation::global("_stat", 1..=1, refuse),
    Operation::global("_glob", 1..=1, refuse),
    Operation::global("_remove", 1..=1, refuse),
    Operation::global("_mkdir", 1..=1, refuse),
    Operation::internal("_eval", 1..=1, 2, load),
];

/// How long `_sleep` may go without a look at the call's limits.
const SLEEP_SLICE: Duration = Duration::from_millis(5);

/// `_time()`: seconds since 1970 by the node's clock, with a fraction. It goes on while a call runs, unlike `now()`.
fn time(access: &mut Access<'_, '_>, _lua: &Lua, _arguments: &[Value]) -> Answer {
    one(Value::Number(access.surroundings.now().as_secs_f64()))
}

/// `_sleep(seconds)`: true; false for less than nothing. It holds the shard, and counts toward the call's limit of
/// elapsed time: a call that sleeps beyond it is killed.
fn sleep(access: &mut Access<'_, '_>, _lua: &Lua, arguments: &[Value]) -> Answer {
    let seconds = expect_number(&arguments[0])?;
    if seconds.is_nan() || seconds < 0.0 {
        return one(Value::Boolean(false));
    }
    let length = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    let start = Instant::now();
    loop {
        check_budget(access.budget)?;
        let left = length.saturating_sub(start.elapsed());
        if left.is_zero() {
            return one(Value::Boolean(true));
        }
        std::thread::sleep(left.min(SLEEP_SLICE));
    }
}

/// `_log(message[, level])`: nothing; a line in the node's log. Levels: 0 debug, 1 information (the default),
/// 2 error, 3 system, which is written as information.
fn write_log(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    expect_text(lua, "message", &arguments[0])?;
    let level = match arguments.get(1) {
        None | Some(Value::Nil) => 1,
        Some(level) => expect_number(level)? as i64,
    };
    match level {
        0 => log::debug(access, lua, &arguments[..1]),
        2 => log::error(access, lua, &arguments[..1]),
        _ => log::info(access, lua, &arguments[..1]),
    }
}

/// `_lock(k)`, `_unlock(k)`: true. A call is alone in its shard from its beginning to its end, so that it holds
/// every lock there is, and none outlives it.
fn lock(_access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    expect_text(lua, "key", &arguments[0])?;
    one(Value::Boolean(true))
}

fn refuse(_access: &mut Access<'_, '_>, _lua: &Lua, _arguments: &[Value]) -> Answer {
    Err(Raised::Misuse("refused: a procedure cannot touch the server's files".to_owned()))
}

/// What `_eval` begins with: the source as a function in the call's environment; or nil and what is wrong with it. A
/// source is as long as a library may be.
fn load(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    check_budget(access.budget)?;
    let source = match &arguments[0] {
        Value::String(source) => source.as_bytes(),
        other => return Err(Raised::Misuse(format!("the chunk must be a string, got {}", type_name(other)))),
    };
    let limit = access.transaction.limits().library_bytes;
    if source.len() > limit {
        return Err(Raised::Misuse(format!("the chunk has {} bytes, more than {limit}", source.len())));
    }
    let Some(environment) = access.environment.clone() else {
        return Err(Raised::Misuse("there is no environment yet".to_owned()));
    };
    // Level 0 looks names up when it runs, not when it is loaded: the chunk's functions see later assignments.
    let compiled = Compiler::new().set_optimization_level(0).set_debug_level(1).set_type_info_level(0).compile(source);
    let bytecode = match compiled {
        Ok(bytecode) => bytecode,
        Err(mlua::Error::SyntaxError { message, .. }) => {
            return Ok((Value::Nil, string(lua, format!("eval:{message}").as_bytes())?));
        }
        Err(other) => return Err(other.into()),
    };
    let chunk = lua.load(bytecode).set_mode(ChunkMode::Binary).set_name("=eval").set_environment(environment);
    Ok((Value::Function(chunk.into_function()?), Value::Nil))
}
