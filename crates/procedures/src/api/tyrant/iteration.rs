//! Going over the shard's keys, in byte order.
//!
//! The cursor of `_iterinit` and `_iternext` is the call's own and keeps only the last key, so that it sees what
//! the call writes ahead of it. `_foreach` and `_mapreduce` (`tyrant.luau`) read pages, and read anew once a
//! write may have made one stale.

use std::ops::ControlFlow;

use bytes::Bytes;
use mlua::{Lua, Value};

use crate::api::{Access, Answer, Operation, Raised, check_budget, expect_text, one, string};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::global("_iterinit", 0..=0, iterator_init),
    Operation::global("_iternext", 0..=0, iterator_next),
    Operation::internal("page", 0..=1, 1, page),
    Operation::internal("generation", 0..=0, 1, generation),
    Operation::internal("text", 1..=1, 1, text),
];

/// Most pairs in a page that `_foreach` or `_stashforeach` reads at once.
pub(super) const PAGE_PAIRS: usize = 128;

/// A page ends after the pair that makes it this large, bytes.
pub(super) const PAGE_BYTES: usize = 128 * 1024;

/// Where an iteration over the shard's keys stands.
#[derive(Default)]
pub(crate) enum Cursor {
    /// Not begun: there is no next key.
    #[default]
    Idle,
    /// The next key is the first one that is not before this.
    At(Bytes),
}

/// `_iterinit()`: begins with the first key; true.
fn iterator_init(access: &mut Access<'_, '_>, _lua: &Lua, _arguments: &[Value]) -> Answer {
    access.iterator = Cursor::At(Bytes::new());
    one(Value::Boolean(true))
}

/// `_iternext()`: the next key; nil after the last, and without `_iterinit`.
fn iterator_next(access: &mut Access<'_, '_>, lua: &Lua, _arguments: &[Value]) -> Answer {
    match advance(access)? {
        Some((key, _)) => one(string(lua, &key)?),
        None => one(None),
    }
}

/// Begins the iteration at a key.
pub(super) fn jump(access: &mut Access<'_, '_>, key: Bytes) {
    access.iterator = Cursor::At(key);
}

/// The iteration's next pair.
pub(super) fn advance(access: &mut Access<'_, '_>) -> Result<Option<(Bytes, Bytes)>, Raised> {
    let Cursor::At(start) = &access.iterator else { return Ok(None) };
    let mut found = None;
    access.transaction.scan(start, None, &mut |key, value| {
        found = Some((Bytes::copy_from_slice(key), value.value));
        ControlFlow::Break(())
    })?;
    access.iterator = match &found {
        Some((key, _)) => Cursor::At(successor(key)),
        None => Cursor::Idle,
    };
    Ok(found)
}

/// The first key after this one.
fn successor(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    Bytes::from(next)
}

/// `page([after])`: an array of keys and values by turns, of the keys after `after`; empty at the end.
fn page(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let start = match arguments.first() {
        None | Some(Value::Nil) => Bytes::new(),
        Some(after) => successor(&expect_text(lua, "after", after)?),
    };
    let pairs = lua.create_table()?;
    let (mut count, mut bytes) = (0, 0);
    let mut problem = Ok(());
    let budget = access.budget;
    access.transaction.scan(&start, None, &mut |key, value| {
        problem = check_budget(budget)
            .and_then(|()| pairs.raw_push(lua.create_string(key)?))
            .and_then(|()| pairs.raw_push(lua.create_string(&value.value)?));
        count += 1;
        bytes += key.len() + value.value.len();
        let is_full = count == PAGE_PAIRS || bytes >= PAGE_BYTES;
        if is_full || problem.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    problem?;
    one(Value::Table(pairs))
}

/// `generation()`: changes with every write of the call.
fn generation(access: &mut Access<'_, '_>, _lua: &Lua, _arguments: &[Value]) -> Answer {
    one(Value::Number(access.generation as f64))
}

/// `text(value)`: a string or a number as the string that would be stored; nil for another value.
fn text(_access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    match crate::text::text(lua, &arguments[0])? {
        Some(text) => one(string(lua, &text)?),
        None => one(None),
    }
}
