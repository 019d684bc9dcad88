//! Records: reading and writing single keys, and what concerns all keys of the shard.

use std::ops::ControlFlow;

use bytes::Bytes;
use mlua::{Lua, Value};

use super::expect_number;
use crate::api::{Access, Answer, Operation, Raised, check_budget, expect_text, kv, one, prefix_end};
use crate::text::{integer, type_name};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::global("_get", 1..=1, kv::get),
    Operation::global("_put", 2..=2, put),
    Operation::global("_putkeep", 2..=2, put_keep),
    Operation::global("_putcat", 2..=2, put_concatenated),
    Operation::global("_out", 1..=1, out),
    Operation::global("_vsiz", 1..=1, value_size),
    Operation::global("_addint", 2..=2, add_integer),
    Operation::global("_adddouble", 2..=2, add_double),
    Operation::global("_fwmkeys", 1..=2, forward_matching_keys),
    Operation::global("_vanish", 0..=0, vanish),
    Operation::global("_rnum", 0..=0, record_count),
    Operation::global("_size", 0..=0, size),
];

/// Keys that `_vanish` removes between two scans.
const VANISH_PAGE_KEYS: usize = 1024;

/// `_put(k, v)`: stores, whether or not there was a value; true.
pub(super) fn put(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let key = access.key(lua, &arguments[0])?;
    let value = expect_text(lua, "value", &arguments[1])?;
    access.put(key, value, 0, 0)?;
    one(Value::Boolean(true))
}

/// `_putkeep(k, v)`: stores where there is no value; else leaves it and answers false.
pub(super) fn put_keep(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let key = access.key(lua, &arguments[0])?;
    let value = expect_text(lua, "value", &arguments[1])?;
    let absent = access.transaction.get(&key)?.is_none();
    if absent {
        access.put(key, value, 0, 0)?;
    }
    one(Value::Boolean(absent))
}

/// `_putcat(k, v)`: appends, keeping expiry and flags; true.
pub(super) fn put_concatenated(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let key = access.key(lua, &arguments[0])?;
    let tail = expect_text(lua, "value", &arguments[1])?;
    access.append(key, tail)?;
    one(Value::Boolean(true))
}

/// `_out(k)`: removes; false where there was nothing.
pub(super) fn out(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let key = access.key(lua, &arguments[0])?;
    one(Value::Boolean(access.delete(&key)?.is_some()))
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
    access.put(key, Bytes::copy_from_slice(&sum.to_le_bytes()), expires_at_ms, flags)?;
    one(Value::Integer(i64::from(sum)))
}

/// Tokyo Tyrant drops a fraction; it converts what does not fit in 32 bits to nothing in particular,
/// which is refused here.
fn addend(value: &Value) -> Result<i32, Raised> {
    let number = expect_number(value)?.trunc();
    if !(f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&number) {
        return Err(Raised::Misuse(format!("the number {number} does not fit in 32 bits")));
    }
    Ok(number as i32)
}

/// `_adddouble(k, n)`: adds to a value that is a little-endian 64-bit double and answers the sum; nil, and
/// nothing is stored, where the value has another size or the sum is not a number. A key without a value is 0.
fn add_double(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let key = access.key(lua, &arguments[0])?;
    let addend = expect_number(&arguments[1])?;
    let found = access.transaction.get(&key)?;
    let (old, expires_at_ms, flags) = match &found {
        None => (0.0, 0, 0),
        Some(found) => match <[u8; 8]>::try_from(&*found.value) {
            Ok(bytes) => (f64::from_le_bytes(bytes), found.expires_at_ms, found.flags),
            Err(_) => return one(None),
        },
    };
    let sum = old + addend;
    if sum.is_nan() {
        return one(None);
    }
    access.put(key, Bytes::copy_from_slice(&sum.to_le_bytes()), expires_at_ms, flags)?;
    one(Value::Number(sum))
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

/// `_vanish()`: removes all keys of the shard; true. A shard that holds more keys than one call may write
/// raises `WRITE_SET_TOO_LARGE` and keeps them all.
pub(super) fn vanish(access: &mut Access<'_, '_>, _lua: &Lua, _arguments: &[Value]) -> Answer {
    let savepoint = access.transaction.savepoint();
    let removed = remove_all(access);
    if removed.is_err() {
        access.transaction.rollback_to(savepoint);
    }
    removed?;
    one(Value::Boolean(true))
}

fn remove_all(access: &mut Access<'_, '_>) -> Result<(), Raised> {
    let mut start = Vec::new();
    loop {
        let mut keys = Vec::new();
        access.transaction.scan(&start, None, &mut |key, _value| {
            keys.push(key.to_vec());
            if keys.len() == VANISH_PAGE_KEYS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let Some(last) = keys.last() else { return Ok(()) };
        start.clone_from(last);
        for key in &keys {
            check_budget(access.budget)?;
            access.delete(key)?;
        }
    }
}

/// `_rnum()`: how many keys the shard has. Counted, which takes time where there are many.
fn record_count(access: &mut Access<'_, '_>, _lua: &Lua, _arguments: &[Value]) -> Answer {
    let (count, _) = measure(access)?;
    one(Value::Number(count as f64))
}

/// `_size()`: bytes of the shard's keys and values. Counted, too.
fn size(access: &mut Access<'_, '_>, _lua: &Lua, _arguments: &[Value]) -> Answer {
    let (_, bytes) = measure(access)?;
    one(Value::Number(bytes as f64))
}

/// Keys, and bytes of keys and values.
fn measure(access: &Access<'_, '_>) -> Result<(usize, usize), Raised> {
    let (mut count, mut bytes) = (0, 0);
    let mut problem = Ok(());
    access.transaction.scan(&[], None, &mut |key, value| {
        count += 1;
        bytes += key.len() + value.value.len();
        problem = check_budget(access.budget);
        if problem.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    problem?;
    Ok((count, bytes))
}
