//! The modern API: `kv.*` and `now`.
//!
//! | call | result |
//! | --- | --- |
//! | `kv.get(key)` | the value, a string; nil where there is none |
//! | `kv.put(key, value[, {ttl_ms=, flags=, if_version=, if_absent=}])` | whether it was stored: false where a condition does not hold |
//! | `kv.cas(key, expected, value[, {ttl_ms=, flags=}])` | whether it was stored: the value was `expected`, or, where that is nil, there was none |
//! | `kv.append(key, tail)` | the value's new size, bytes; expiry and flags stay |
//! | `kv.version(key)` | the revision that wrote the value; 0 where there is none |
//! | `kv.ttl(key)` | milliseconds left; -1 for a value that stays, nil where there is none |
//! | `kv.delete(key)` | whether there was a value |
//! | `kv.incr(key[, delta])` | the sum |
//! | `kv.scan(prefix[, {from=, limit=}])` | pairs `{key=, value=}` of the keys that begin with `prefix`, in byte order |
//! | `kv.scan(start, {stop=[, from=, limit=]})` | the same for `start <= key < stop` |
//! | `now()` | the shard's time, milliseconds since 1970; it never goes backwards |
//!
//! Keys and values may be given as strings or numbers. What fails raises an error whose text begins
//! with the reason, as in `KEY_TOO_LARGE: …`; `pcall` catches it.
//!
//! `kv.incr` adds in signed 64 bits, as `KeyValue.Increment` does. A Lua number is a double and exact only
//! up to 2^53, so a sum beyond that is returned as decimal text; a delta may be given as text, too. Versions
//! likewise.
//!
//! A stored value without `ttl_ms` stays, also where the one before would have expired; only `kv.append` and
//! `kv.incr` keep what the value had. `if_version` 0 holds where there is no value, as `kv.version` has it.
//!
//! `kv.scan` sees the keys of the call's shard and no others. It returns at most `limit` pairs (by
//! default, and at most, the node's scan page) and at most a page of bytes; where pairs are left, its
//! second result is the key to give as `from` to read on, else nil.

use std::ops::ControlFlow;

use bytes::Bytes;
use cirrus_proto::internal::v1::{Command, command, reply};
use cirrus_proto::v1::IncrementRequest;
use cirrus_proto::{Failure, Reason};
use mlua::{Lua, Table, Value};

use super::{Access, Answer, Operation, Raised, check_budget, expect_text, one, prefix_end, string};
use crate::text::{exact_integer, integer, type_name};

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation { table: Some("kv"), name: "get", arguments: 1..=1, returns: 1, run: get },
    Operation { table: Some("kv"), name: "put", arguments: 2..=3, returns: 1, run: put },
    Operation { table: Some("kv"), name: "cas", arguments: 3..=4, returns: 1, run: compare_and_set },
    Operation { table: Some("kv"), name: "append", arguments: 2..=2, returns: 1, run: append },
    Operation { table: Some("kv"), name: "version", arguments: 1..=1, returns: 1, run: version },
    Operation { table: Some("kv"), name: "ttl", arguments: 1..=1, returns: 1, run: ttl },
    Operation { table: Some("kv"), name: "delete", arguments: 1..=1, returns: 1, run: delete },
    Operation { table: Some("kv"), name: "incr", arguments: 1..=2, returns: 1, run: increment },
    Operation { table: Some("kv"), name: "scan", arguments: 1..=2, returns: 2, run: scan },
    Operation { table: None, name: "now", arguments: 0..=0, returns: 1, run: now },
];

pub(super) fn get(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let key = access.key(lua, &arguments[0])?;
    match access.transaction.get(&key)? {
        Some(value) => one(string(lua, &value.value)?),
        None => one(None),
    }
}

fn put(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let key = access.key(lua, &arguments[0])?;
    let value = expect_text(lua, "value", &arguments[1])?;
    let (mut stored_as, mut if_version, mut if_absent) = (StoredAs::default(), None, false);
    for (name, option) in options(arguments.get(2))? {
        match (&*name, &option) {
            ("if_version", _) => if_version = Some(whole(&name, &option, 0..=i64::MAX)? as u64),
            ("if_absent", Value::Boolean(wanted)) => if_absent = *wanted,
            ("if_absent", other) => {
                return Err(Raised::Misuse(format!("if_absent must be a boolean, got {}", type_name(other))));
            }
            _ => stored_as.read(access, &name, &option)?,
        }
    }
    if if_absent || if_version.is_some() {
        let found = access.transaction.get(&key)?.map_or(0, |found| found.version);
        if (if_absent && found != 0) || if_version.is_some_and(|wanted| wanted != found) {
            return one(Value::Boolean(false));
        }
    }
    access.put(key, value, stored_as.expires_at_ms, stored_as.flags)?;
    one(Value::Boolean(true))
}

fn compare_and_set(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let key = access.key(lua, &arguments[0])?;
    let expected = match &arguments[1] {
        Value::Nil => None,
        value => Some(expect_text(lua, "expected", value)?),
    };
    let value = expect_text(lua, "value", &arguments[2])?;
    let mut stored_as = StoredAs::default();
    for (name, option) in options(arguments.get(3))? {
        stored_as.read(access, &name, &option)?;
    }
    let holds = access.transaction.get(&key)?.map(|found| found.value) == expected;
    if holds {
        access.put(key, value, stored_as.expires_at_ms, stored_as.flags)?;
    }
    one(Value::Boolean(holds))
}

fn append(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let key = access.key(lua, &arguments[0])?;
    let tail = expect_text(lua, "tail", &arguments[1])?;
    one(Value::Integer(access.append(key, tail)? as i64))
}

fn version(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let key = access.key(lua, &arguments[0])?;
    let version = access.transaction.get(&key)?.map_or(0, |found| found.version);
    one(exact_integer(lua, i64::try_from(version).unwrap_or(i64::MAX))?)
}

fn ttl(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let key = access.key(lua, &arguments[0])?;
    let left = match access.transaction.get(&key)? {
        None => return one(None),
        Some(found) if found.expires_at_ms == 0 => -1,
        Some(found) => {
            let left = found.expires_at_ms.saturating_sub(access.transaction.now_ms());
            i64::try_from(left).unwrap_or(i64::MAX)
        }
    };
    one(exact_integer(lua, left)?)
}

fn delete(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let key = access.key(lua, &arguments[0])?;
    one(Value::Boolean(access.delete(&key)?.is_some()))
}

fn increment(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let key = access.key(lua, &arguments[0])?;
    let delta = match arguments.get(1) {
        None | Some(Value::Nil) => 1,
        Some(value) => integer(value).ok_or_else(|| {
            Raised::Misuse(format!("delta must be a whole number of 64 bits, got {}", type_name(value)))
        })?,
    };
    let request = IncrementRequest { key, delta, ttl_ms: 0, request_id: None };
    let command = Command { kind: Some(command::Kind::Increment(request)) };
    access.wrote();
    match cirrus_engine::evaluate(&command, access.transaction)?.kind {
        Some(reply::Kind::Increment(response)) => one(exact_integer(lua, response.value)?),
        _ => Err(Failure::internal("an increment was not answered as one").into()),
    }
}

fn scan(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let mut start = expect_text(lua, "start", &arguments[0])?;
    let limits = access.transaction.limits();
    let (pairs_max, bytes_max) = (limits.scan_page_pairs, limits.scan_page_bytes);
    let mut limit = pairs_max;
    let (mut stop, mut from) = (None, None);
    for (name, option) in options(arguments.get(1))? {
        match &*name {
            "stop" => stop = Some(expect_text(lua, &name, &option)?),
            "from" => from = Some(expect_text(lua, &name, &option)?),
            "limit" => limit = whole(&name, &option, 1..=pairs_max as i64)? as usize,
            _ => return Err(unknown_option(&name)),
        }
    }
    let end = stop.or_else(|| prefix_end(&start).map(Bytes::from));
    if let Some(from) = from.filter(|from| *from > start) {
        start = from;
    }

    let pairs = lua.create_table()?;
    let (mut count, mut bytes) = (0, 0);
    let mut next: Option<Bytes> = None;
    let mut problem = Ok(());
    if end.as_ref().is_none_or(|end| start < *end) {
        let budget = access.budget;
        access.transaction.scan(&start, end.as_deref(), &mut |key, value| {
            bytes += key.len() + value.value.len();
            if count == limit || (count > 0 && bytes > bytes_max) {
                next = Some(Bytes::copy_from_slice(key));
                return ControlFlow::Break(());
            }
            count += 1;
            problem = check_budget(budget).and_then(|()| push_pair(lua, &pairs, key, &value.value));
            if problem.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
    }
    problem?;
    let next = next.map(|key| string(lua, &key)).transpose()?.unwrap_or(Value::Nil);
    Ok((Value::Table(pairs), next))
}

fn push_pair(lua: &Lua, pairs: &Table, key: &[u8], value: &[u8]) -> mlua::Result<()> {
    let pair = lua.create_table_with_capacity(0, 2)?;
    pair.raw_set("key", lua.create_string(key)?)?;
    pair.raw_set("value", lua.create_string(value)?)?;
    pairs.raw_push(pair)
}

fn now(access: &mut Access<'_, '_>, _lua: &Lua, _arguments: &[Value]) -> Answer {
    one(Value::Number(access.transaction.now_ms() as f64))
}

/// What is stored beside a value.
#[derive(Default)]
struct StoredAs {
    /// 0: never.
    expires_at_ms: u64,
    flags: u32,
}

impl StoredAs {
    /// Takes in one option of a call.
    fn read(&mut self, access: &Access<'_, '_>, name: &str, option: &Value) -> Result<(), Raised> {
        match name {
            "ttl_ms" => {
                let ttl_ms = whole(name, option, 1..=i64::MAX)?;
                self.expires_at_ms = access.transaction.now_ms().saturating_add(ttl_ms as u64);
            }
            "flags" => self.flags = whole(name, option, 0..=i64::from(u32::MAX))? as u32,
            _ => return Err(unknown_option(name)),
        }
        Ok(())
    }
}

/// The named options of a call. A name that nothing knows is refused by the caller: a misspelt `ttl_ms`
/// would keep a value for ever.
pub(super) fn options(table: Option<&Value>) -> Result<Vec<(String, Value)>, Raised> {
    /// More options than any operation has.
    const OPTIONS_MAX: usize = 8;
    match table {
        None | Some(Value::Nil) => Ok(Vec::new()),
        Some(Value::Table(table)) => {
            let mut options = Vec::new();
            for option in table.pairs::<Value, Value>().take(OPTIONS_MAX) {
                let (name, value) = option?;
                let name = match &name {
                    Value::String(name) => name.to_string_lossy().chars().take(64).collect(),
                    other => return Err(Raised::Misuse(format!("an option's name is a {}", type_name(other)))),
                };
                options.push((name, value));
            }
            Ok(options)
        }
        Some(other) => Err(Raised::Misuse(format!("options must be a table, got {}", type_name(other)))),
    }
}

pub(super) fn whole(name: &str, value: &Value, range: std::ops::RangeInclusive<i64>) -> Result<i64, Raised> {
    match integer(value) {
        Some(number) if range.contains(&number) => Ok(number),
        Some(number) => Err(Failure::new(
            Reason::InvalidField,
            format!("{name} is {number}, outside {} to {}", range.start(), range.end()),
        )
        .with("field", name)
        .with("actual", number)
        .with("limit", range.end())
        .into()),
        None => Err(Raised::Misuse(format!("{name} must be a whole number, got {}", type_name(value)))),
    }
}

pub(super) fn unknown_option(name: &str) -> Raised {
    Raised::Misuse(format!("there is no option {name}"))
}
