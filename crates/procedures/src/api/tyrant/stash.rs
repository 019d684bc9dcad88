//! The stash: a map in the memory of the shard's leader, shared by all calls there and lost with it. A node that leads
//! again finds what it left.
//!
//! It is bounded in entries and bytes, and what a failed call did to it is undone: for each key that a call
//! touches, the value from before the call is kept until the call ends.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use cirrus_proto::{Failure, Reason};
use mlua::{Lua, Value};

use super::iteration::{PAGE_BYTES, PAGE_PAIRS};
use crate::api::{Access, Answer, Operation, expect_text, one, string};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::global("_stashput", 2..=2, put),
    Operation::global("_stashputkeep", 2..=2, put_keep),
    Operation::global("_stashputcat", 2..=2, put_concatenated),
    Operation::global("_stashout", 1..=1, out),
    Operation::global("_stashget", 1..=1, get),
    Operation::global("_stashvanish", 0..=0, vanish),
    Operation::internal("stash_page", 0..=1, 1, page),
];

/// Most entries in a stash.
const ENTRIES_MAX: usize = 65_536;

/// Most bytes of a stash's keys and values, [`ENTRY_BYTES`] for each entry included. What a call keeps to undo
/// its changes is held to the same.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// What an entry costs beside its key and value.
const ENTRY_BYTES: usize = 64;

/// The map, and what undoes the running call's changes to it.
#[derive(Default)]
pub(crate) struct Stash {
    entries: BTreeMap<Bytes, Vec<u8>>,
    bytes: usize,
    before: BTreeMap<Bytes, Option<Vec<u8>>>,
    before_bytes: usize,
}

impl Stash {
    /// The call succeeded: its changes stay.
    pub(crate) fn keep(&mut self) {
        self.before.clear();
        self.before_bytes = 0;
    }

    /// The call failed: its changes go.
    pub(crate) fn undo(&mut self) {
        for (key, value) in std::mem::take(&mut self.before) {
            self.bytes -= self.entries.remove(&key).map_or(0, |old| cost(&key, &old));
            if let Some(value) = value {
                self.bytes += cost(&key, &value);
                self.entries.insert(key, value);
            }
        }
        self.before_bytes = 0;
    }

    /// Stores a value, behind the old one where `append` says so. A failure changes nothing.
    fn put(&mut self, key: Bytes, value: &[u8], append: bool) -> Result<(), Failure> {
        let old = self.entries.get(&key);
        let (entries, bytes) = match old {
            None => (self.entries.len() + 1, self.bytes + cost(&key, value)),
            Some(_) if append => (self.entries.len(), self.bytes + value.len()),
            Some(old) => (self.entries.len(), self.bytes - old.len() + value.len()),
        };
        if entries > ENTRIES_MAX {
            return Err(too_large("entries", entries, ENTRIES_MAX));
        }
        if bytes > BYTES_MAX {
            return Err(too_large("bytes", bytes, BYTES_MAX));
        }
        self.remember(&key)?;
        self.bytes = bytes;
        let entry = self.entries.entry(key).or_default();
        if !append {
            entry.clear();
        }
        entry.extend_from_slice(value);
        Ok(())
    }

    fn remove(&mut self, key: &Bytes) -> Result<bool, Failure> {
        if !self.entries.contains_key(key) {
            return Ok(false);
        }
        self.remember(key)?;
        self.bytes -= self.entries.remove(key).map_or(0, |old| cost(key, &old));
        Ok(true)
    }

    /// Keeps what the key held before the call, unless that is known.
    fn remember(&mut self, key: &Bytes) -> Result<(), Failure> {
        if self.before.contains_key(key) {
            return Ok(());
        }
        let old = self.entries.get(key);
        let bytes = self.before_bytes + cost(key, old.map_or(&[], Vec::as_slice));
        if bytes > BYTES_MAX {
            return Err(too_large("bytes changed by one call", bytes, BYTES_MAX));
        }
        self.before_bytes = bytes;
        self.before.insert(key.clone(), old.cloned());
        Ok(())
    }
}

fn cost(key: &[u8], value: &[u8]) -> usize {
    key.len() + value.len() + ENTRY_BYTES
}

fn too_large(what: &str, actual: usize, limit: usize) -> Failure {
    let message = format!("the stash would hold {actual} {what}, more than {limit}");
    Failure::new(Reason::WriteSetTooLarge, message).with("field", "stash").with("actual", actual).with("limit", limit)
}

/// `_stashput(k, v)`: true.
fn put(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    store(access, lua, arguments, false)
}

/// `_stashputcat(k, v)`: appends; true.
fn put_concatenated(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    store(access, lua, arguments, true)
}

fn store(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value], append: bool) -> Answer {
    let key = expect_text(lua, "key", &arguments[0])?;
    let value = expect_text(lua, "value", &arguments[1])?;
    access.wrote();
    access.stash()?.put(key, &value, append)?;
    one(Value::Boolean(true))
}

/// `_stashputkeep(k, v)`: true; false where there was a value, which stays. (Tokyo Tyrant says true then, too.)
fn put_keep(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let key = expect_text(lua, "key", &arguments[0])?;
    if access.stash()?.entries.contains_key(&key) {
        expect_text(lua, "value", &arguments[1])?;
        return one(Value::Boolean(false));
    }
    store(access, lua, arguments, false)
}

/// `_stashout(k)`: true; false where there was nothing.
fn out(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let key = expect_text(lua, "key", &arguments[0])?;
    access.wrote();
    one(Value::Boolean(access.stash()?.remove(&key)?))
}

/// `_stashget(k)`: the value, or nil.
fn get(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let key = expect_text(lua, "key", &arguments[0])?;
    match access.stash()?.entries.get(&key) {
        Some(value) => one(string(lua, value)?),
        None => one(None),
    }
}

/// `_stashvanish()`: removes all; true. (Tokyo Tyrant answers nothing.)
fn vanish(access: &mut Access<'_, '_>, _lua: &Lua, _arguments: &[Value]) -> Answer {
    access.wrote();
    let keys: Vec<Bytes> = access.stash()?.entries.keys().cloned().collect();
    for key in keys {
        access.stash()?.remove(&key)?;
    }
    one(Value::Boolean(true))
}

/// `stash_page([after])`: an array of keys and values by turns, of the keys after `after`; empty at the end.
fn page(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let start = match arguments.first() {
        None | Some(Value::Nil) => Bound::Unbounded,
        Some(after) => Bound::Excluded(expect_text(lua, "after", after)?),
    };
    let pairs = lua.create_table()?;
    let mut bytes = 0;
    for (key, value) in access.stash()?.entries.range((start, Bound::Unbounded)).take(PAGE_PAIRS) {
        pairs.raw_push(lua.create_string(key)?)?;
        pairs.raw_push(lua.create_string(value)?)?;
        bytes += key.len() + value.len();
        if bytes >= PAGE_BYTES {
            break;
        }
    }
    one(Value::Table(pairs))
}
