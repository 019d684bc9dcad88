//! Tokyo Tyrant's functions over all records: of the call's shard, in byte order, the call's own writes included.
//!
//! `_foreach` and `_mapreduce` call back into Lua; the prelude makes them of `kv.scan`.

use std::ops::ControlFlow;

use bytes::Bytes;
use mlua::{Lua, Value};

use super::super::{Access, Answer, Operation, Raised, check_budget, one, string};

pub(in super::super) const OPERATIONS: &[Operation] = &[
    Operation { table: None, name: "_iterinit", arguments: 0..=0, returns: 1, run: begin },
    Operation { table: None, name: "_iternext", arguments: 0..=0, returns: 1, run: next },
    Operation { table: None, name: "_rnum", arguments: 0..=0, returns: 1, run: count },
    Operation { table: None, name: "_size", arguments: 0..=0, returns: 1, run: size },
    Operation { table: None, name: "_vanish", arguments: 0..=0, returns: 1, run: vanish },
];

/// `_iterinit()`: the next `_iternext` answers the first key; true. Each call has an iterator of its own.
fn begin(access: &mut Access<'_, '_>, _lua: &Lua, _arguments: &[Value]) -> Answer {
    access.cursor = Bytes::new();
    one(Value::Boolean(true))
}

/// `_iternext()`: the next key, or nil behind the last one.
fn next(access: &mut Access<'_, '_>, lua: &Lua, _arguments: &[Value]) -> Answer {
    let mut found = None;
    access.transaction.scan(&access.cursor, None, &mut |key, _value| {
        found = Some(Bytes::copy_from_slice(key));
        ControlFlow::Break(())
    })?;
    let Some(key) = found else { return one(None) };
    // The least key that is greater.
    access.cursor = [&key[..], &[0]].concat().into();
    one(string(lua, &key)?)
}

/// `_rnum()`: how many records there are.
fn count(access: &mut Access<'_, '_>, _lua: &Lua, _arguments: &[Value]) -> Answer {
    one(Value::Number(measure(access)?.0 as f64))
}

/// `_size()`: the bytes of all keys and values.
fn size(access: &mut Access<'_, '_>, _lua: &Lua, _arguments: &[Value]) -> Answer {
    one(Value::Number(measure(access)?.1 as f64))
}

/// Records, and bytes of keys and values. It reads them all, within the call's CPU time.
fn measure(access: &mut Access<'_, '_>) -> Result<(u64, u64), Raised> {
    let (mut records, mut bytes, mut problem) = (0, 0, Ok(()));
    let budget = access.budget;
    access.transaction.scan(&[], None, &mut |key, value| {
        records += 1;
        bytes += (key.len() + value.value.len()) as u64;
        problem = check_budget(budget);
        if problem.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    problem?;
    Ok((records, bytes))
}

/// `_vanish()`: removes all records; true. Fails where that is more than one call may write.
fn vanish(access: &mut Access<'_, '_>, _lua: &Lua, _arguments: &[Value]) -> Answer {
    let limit = access.transaction.limits().write_set_bytes;
    let (mut keys, mut bytes, mut problem) = (Vec::new(), 0, Ok(()));
    let budget = access.budget;
    access.transaction.scan(&[], None, &mut |key, _value| {
        bytes += key.len();
        keys.push(Bytes::copy_from_slice(key));
        problem = check_budget(budget);
        if problem.is_err() || bytes > limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    problem?;
    for key in keys {
        check_budget(access.budget)?;
        access.transaction.delete(&key)?;
    }
    one(Value::Boolean(true))
}
