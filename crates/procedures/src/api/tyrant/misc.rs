//! `_misc`: Tokyo Cabinet's calls by name, those of its hash and tree databases.
//!
//! | name | arguments | result |
//! | --- | --- | --- |
//! | `put`, `putkeep`, `putcat` | key, value | an empty array |
//! | `out` | key | an empty array |
//! | `get` | key | the value |
//! | `putlist` | keys and values by turns | an empty array |
//! | `outlist` | keys | an empty array |
//! | `getlist` | keys | keys and values by turns, of those that there are |
//! | `getpart` | key, offset, length | a part of the value |
//! | `iterinit` | perhaps a key | an empty array; the iteration begins at the key |
//! | `iternext` | | the next key and its value |
//! | `regex` | pattern, perhaps a maximum | keys and values by turns, of the keys that match |
//! | `range` | first key, maximum, end key; all may be left out | keys and values by turns, of the keys before the end |
//! | `vanish` | | an empty array |
//! | `sync`, `optimize`, `defrag`, `cacheclear` | | an empty array; there is nothing to do |
//! | `error` | | what Tokyo Cabinet says when all is well |
//!
//! Arguments may be given in arrays. Nil: there is no such record, a record that must not be there is, an argument is
//! missing, or the name is another one, such as those of table databases.

use std::ops::ControlFlow;

use bytes::Bytes;
use cirrus_engine::parse_integer;
use mlua::{Lua, Table, Value};

use super::iteration::{advance, jump};
use super::{records, regex};
use crate::api::{Access, Answer, MANY, Operation, Raised, check_budget, expect_text, one};
use crate::text::text;

pub(super) const OPERATIONS: &[Operation] = &[Operation::global("_misc", 1..=MANY, misc)];

/// Arguments between two looks at the clock.
const CHECK_ARGUMENTS: usize = 1024;

/// `_misc(name, …)`: an array, or nil. A `$` before the name, which kept the call out of Tokyo Tyrant's update log, is
/// passed over: what changes is always replicated.
fn misc(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let name = expect_text(lua, "name", &arguments[0])?;
    let given = flattened(access, lua, &arguments[1..])?;
    let list = lua.create_table()?;
    let first = given.first();
    let done = match (name.strip_prefix(b"$").unwrap_or(&name), &*given) {
        (b"put", [key, value, ..]) => is_true(records::put(access, lua, &[key.clone(), value.clone()])?),
        (b"putkeep", [key, value, ..]) => is_true(records::put_keep(access, lua, &[key.clone(), value.clone()])?),
        (b"putcat", [key, value, ..]) => {
            is_true(records::put_concatenated(access, lua, &[key.clone(), value.clone()])?)
        }
        (b"out", [key, ..]) => is_true(records::out(access, lua, std::slice::from_ref(key))?),
        (b"get", [key, ..]) => push_value(access, lua, &list, key)?,
        (b"getpart", [key, ..]) => push_part(access, lua, &list, key, given.get(1), given.get(2))?,
        (b"putlist", _) => {
            for pair in given.chunks_exact(2) {
                check_budget(access.budget)?;
                records::put(access, lua, pair)?;
            }
            true
        }
        (b"outlist", _) => {
            for key in &given {
                check_budget(access.budget)?;
                records::out(access, lua, std::slice::from_ref(key))?;
            }
            true
        }
        (b"getlist", _) => {
            for key in &given {
                check_budget(access.budget)?;
                let length = list.raw_len();
                list.raw_push(key)?;
                if !push_value(access, lua, &list, key)? {
                    list.raw_set(length + 1, Value::Nil)?;
                }
            }
            true
        }
        (b"iterinit", _) => {
            match first {
                Some(key) => jump(access, expect_text(lua, "key", key)?),
                None => jump(access, Bytes::new()),
            }
            true
        }
        (b"iternext", _) => match advance(access)? {
            Some((key, value)) => {
                push(lua, &list, &key)?;
                push(lua, &list, &value)?;
                true
            }
            None => false,
        },
        (b"regex", [pattern, ..]) => {
            push_matching(access, lua, &list, pattern, given.get(1))?;
            true
        }
        (b"range", _) => {
            push_range(access, lua, &list, &given)?;
            true
        }
        (b"vanish", _) => is_true(records::vanish(access, lua, &[])?),
        (b"sync" | b"optimize" | b"defrag" | b"cacheclear", _) => true,
        (b"error", _) => {
            push(lua, &list, b"0: success")?;
            true
        }
        _ => false,
    };
    if done { one(Value::Table(list)) } else { one(None) }
}

/// The strings and numbers among the arguments and in the arrays among them, as strings.
fn flattened(access: &Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Result<Vec<Value>, Raised> {
    let mut given = Vec::new();
    let mut take = |value: &Value| -> Result<(), Raised> {
        match value {
            Value::String(string) => given.push(Value::String(string.clone())),
            other => {
                if let Some(text) = text(lua, other)? {
                    given.push(Value::String(lua.create_string(text)?));
                }
            }
        }
        Ok(())
    };
    for argument in arguments {
        match argument {
            Value::Table(array) => {
                for index in 1..=array.raw_len() {
                    if index % CHECK_ARGUMENTS == 0 {
                        check_budget(access.budget)?;
                    }
                    take(&array.raw_get::<Value>(index)?)?;
                }
            }
            other => take(other)?,
        }
    }
    Ok(given)
}

fn is_true((value, _): (Value, Value)) -> bool {
    matches!(value, Value::Boolean(true))
}

fn push(lua: &Lua, list: &Table, bytes: &[u8]) -> mlua::Result<()> {
    list.raw_push(lua.create_string(bytes)?)
}

/// False: there is no value.
fn push_value(access: &Access<'_, '_>, lua: &Lua, list: &Table, key: &Value) -> Result<bool, Raised> {
    let key = access.key(lua, key)?;
    let Some(found) = access.transaction.get(&key)? else { return Ok(false) };
    push(lua, list, &found.value)?;
    Ok(true)
}

/// A part of the value, by default all of it; false where there is none.
fn push_part(
    access: &Access<'_, '_>,
    lua: &Lua,
    list: &Table,
    key: &Value,
    offset: Option<&Value>,
    length: Option<&Value>,
) -> Result<bool, Raised> {
    let key = access.key(lua, key)?;
    let Some(found) = access.transaction.get(&key)? else { return Ok(false) };
    let offset = offset.map_or(0, whole).max(0) as usize;
    let length = usize::try_from(length.map_or(-1, whole)).unwrap_or(usize::MAX);
    match found.value.get(offset..) {
        None | Some([]) => Ok(false),
        Some(part) => {
            push(lua, list, &part[..length.min(part.len())])?;
            Ok(true)
        }
    }
}

/// The whole number in a text; 0 where there is none.
fn whole(value: &Value) -> i64 {
    match value {
        Value::String(text) => parse_integer(&text.as_bytes()).unwrap_or(0),
        _ => 0,
    }
}

/// A maximum; none where it is 0 or less.
fn maximum(value: Option<&Value>) -> usize {
    value.map(whole).filter(|&most| most > 0).map_or(usize::MAX, |most| most as usize)
}

fn push_matching(
    access: &mut Access<'_, '_>,
    lua: &Lua,
    list: &Table,
    pattern: &Value,
    most: Option<&Value>,
) -> Result<(), Raised> {
    let pattern = expect_text(lua, "pattern", pattern)?;
    let longest_key = access.transaction.limits().key_bytes;
    let regex = regex::compiled(access, &pattern, longest_key)?;
    push_pairs(access, lua, list, &[], None, maximum(most), &|key| regex.is_match(key))
}

fn push_range(access: &Access<'_, '_>, lua: &Lua, list: &Table, given: &[Value]) -> Result<(), Raised> {
    let key = |index: usize| given.get(index).map(|key| expect_text(lua, "key", key)).transpose();
    let (start, end): (Bytes, Option<Bytes>) = (key(0)?.unwrap_or_default(), key(2)?);
    if end.as_ref().is_some_and(|end| *end <= start) {
        return Ok(());
    }
    push_pairs(access, lua, list, &start, end.as_deref(), maximum(given.get(1)), &|_| true)
}

fn push_pairs(
    access: &Access<'_, '_>,
    lua: &Lua,
    list: &Table,
    start: &[u8],
    end: Option<&[u8]>,
    most: usize,
    is_wanted: &dyn Fn(&[u8]) -> bool,
) -> Result<(), Raised> {
    let mut count = 0;
    let mut problem = Ok(());
    access.transaction.scan(start, end, &mut |key, value| {
        problem = check_budget(access.budget);
        if problem.is_ok() && is_wanted(key) {
            count += 1;
            problem = push(lua, list, key).and_then(|()| push(lua, list, &value.value));
        }
        if problem.is_err() || count == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(problem?)
}
