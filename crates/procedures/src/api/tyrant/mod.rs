//! Tokyo Tyrant's functions, so that scripts written for it, and LightCloud's, run unchanged.
//!
//! Here are those on one record; beside them, by topic, the others. `_foreach`, `_mapreduce`, `_isect` and `_union` are
//! in the prelude.
//!
//! Source: the manual of Tokyo Tyrant 1.1.41, "Lua Extension". What differs is that a key or value
//! that breaks a limit, and a key of another shard, raises an error: false would not say why.

mod binary;
mod iteration;
mod server;
mod strings;

use std::ops::ControlFlow;

use bytes::{Bytes, BytesMut};
use mlua::{Lua, Value};

use super::pure::PureFunction;
use super::{Access, Answer, Operation, Raised, check_budget, expect_text, kv, one, prefix_end};
use crate::text::{integer, type_name};

const OPERATIONS: &[Operation] = &[
    Operation { table: None, name: "_get", arguments: 1..=1, returns: 1, run: kv::get },
    Operation { table: None, name: "_put", arguments: 2..=2, returns: 1, run: put },
    Operation { table: None, name: "_putkeep", arguments: 2..=2, returns: 1, run: put_keep },
    Operation { table: None, name: "_putcat", arguments: 2..=2, returns: 1, run: put_concatenated },
    Operation { table: None, name: "_out", arguments: 1..=1, returns: 1, run: out },
    Operation { table: None, name: "_vsiz", arguments: 1..=1, returns: 1, run: value_size },
    Operation { table: None, name: "_addint", arguments: 2..=2, returns: 1, run: add_integer },
    Operation { table: None, name: "_adddouble", arguments: 2..=2, returns: 1, run: add_double },
    Operation { table: None, name: "_fwmkeys", arguments: 1..=2, returns: 1, run: forward_matching_keys },
];

/// Those that touch the shard.
pub(super) fn operations() -> impl Iterator<Item = &'static Operation> {
    OPERATIONS.iter().chain(iteration::OPERATIONS).chain(server::OPERATIONS)
}

/// Those that do not.
pub(super) fn functions() -> impl Iterator<Item = &'static PureFunction> {
    binary::FUNCTIONS.iter().chain(strings::FUNCTIONS)
}

/// `_put(k, v)`: stores, whether or not there was a value; true.
fn put(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let key = access.key(lua, &arguments[0])?;
    let value = expect_text(lua, "value", &arguments[1])?;
    access.transaction.put(key, value, 0, 0)?;
    one(Value::Boolean(true))
}

/// `_putkeep(k, v)`: stores where there is no value; else leaves it and answers false.
fn put_keep(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let key = access.key(lua, &arguments[0])?;
    let value = expect_text(lua, "value", &arguments[1])?;
    let absent = access.transaction.get(&key)?.is_none();
    if absent {
        access.transaction.put(key, value, 0, 0)?;
    }
    one(Value::Boolean(absent))
}

/// `_putcat(k, v)`: appends, keeping expiry and flags; true.
fn put_concatenated(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let key = access.key(lua, &arguments[0])?;
    let tail = expect_text(lua, "value", &arguments[1])?;
    match access.transaction.get(&key)? {
        Some(found) => {
            let mut value = BytesMut::with_capacity(found.value.len() + tail.len());
            value.extend_from_slice(&found.value);
            value.extend_from_slice(&tail);
            access.transaction.put(key, value.freeze(), found.expires_at_ms, found.flags)?;
        }
        None => {
            access.transaction.put(key, tail, 0, 0)?;
        }
    }
    one(Value::Boolean(true))
}

/// `_out(k)`: removes; false where there was nothing.
fn out(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let key = access.key(lua, &arguments[0])?;
    one(Value::Boolean(access.transaction.delete(&key)?.is_some()))
}

/// `_vsiz(k)`: the value's size in bytes, or -1.
fn value_size(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let key = access.key(lua, &arguments[0])?;
    let size = access.transaction.get(&key)?.map_or(-1, |found| found.value.len() as i64);
    one(Value::Integer(size))
}

/// `_addint(k, n)`: adds to a value that is a little-endian 32-bit integer and answers the sum, which
/// wraps as it does in Tokyo Cabinet; nil where the value has another size. A key without a value is 0.
fn add_integer(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let key = access.key(lua, &arguments[0])?;
    let addend = addend(&arguments[1])?;
    let found = access.transaction.get(&key)?;
    let (old, expires_at_ms, flags) = match &found {
        None => (0, 0, 0),
        Some(found) => match <[u8; 4]>::try_from(&*found.value) {
            Ok(bytes) => (i32::from_le_bytes(bytes), found.expires_at_ms, found.flags),
            Err(_) => return one(None),
        },
    };
    let sum = old.wrapping_add(addend);
    access.transaction.put(key, Bytes::copy_from_slice(&sum.to_le_bytes()), expires_at_ms, flags)?;
    one(Value::Integer(i64::from(sum)))
}

/// `_adddouble(k, n)`: adds to a value that is a little-endian 64-bit float and answers the sum; nil where the
/// value has another size. A key without a value is 0.
fn add_double(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let key = access.key(lua, &arguments[0])?;
    let Some(addend) = number(&arguments[1]) else {
        return Err(Raised::Misuse(format!("expected a number, got {}", type_name(&arguments[1]))));
    };
    let (old, expires_at_ms, flags) = match access.transaction.get(&key)? {
        None => (0.0, 0, 0),
        Some(found) => match <[u8; 8]>::try_from(&*found.value) {
            Ok(bytes) => (f64::from_le_bytes(bytes), found.expires_at_ms, found.flags),
            Err(_) => return one(None),
        },
    };
    let sum = old + addend;
    access.transaction.put(key, Bytes::copy_from_slice(&sum.to_le_bytes()), expires_at_ms, flags)?;
    one(Value::Number(sum))
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => Some(*number),
        Value::String(string) => std::str::from_utf8(&string.as_bytes()).ok().and_then(|text| text.trim().parse().ok()),
        value => integer(value).map(|number| number as f64),
    }
}

/// Tokyo Tyrant drops a fraction; it converts what does not fit in 32 bits to nothing in particular,
/// which is refused here.
fn addend(value: &Value) -> Result<i32, Raised> {
    match number(value).map(f64::trunc) {
        Some(number) if (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&number) => Ok(number as i32),
        Some(number) => Err(Raised::Misuse(format!("the number {number} does not fit in 32 bits"))),
        None => Err(Raised::Misuse(format!("expected a number, got {}", type_name(value)))),
    }
}

/// `_fwmkeys(prefix[, max])`: the shard's keys that begin with `prefix`, in byte order, at most `max`; a
/// negative `max`, the default, is no limit.
fn forward_matching_keys(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let prefix = expect_text(lua, "prefix", &arguments[0])?;
    let most = match arguments.get(1) {
        None | Some(Value::Nil) => None,
        Some(value) => {
            let most = integer(value)
                .ok_or_else(|| Raised::Misuse(format!("max must be a whole number, got {}", type_name(value))))?;
            usize::try_from(most).ok()
        }
    };
    let keys = lua.create_table()?;
    let mut count = 0;
    let mut problem = Ok(());
    if most != Some(0) {
        let budget = access.budget;
        access.transaction.scan(&prefix, prefix_end(&prefix).as_deref(), &mut |key, _value| {
            problem = check_budget(budget).and_then(|()| lua.create_string(key)).and_then(|key| keys.raw_push(key));
            count += 1;
            if problem.is_err() || most == Some(count) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
    }
    problem?;
    one(Value::Table(keys))
}
