//! Tokyo Tyrant's functions, so that scripts written for it, and LightCloud's, run unchanged.
//!
//! Source: the manual of Tokyo Tyrant 1.1.41, "Lua Extension", and, where the manual is silent, what its
//! server does. What differs everywhere: a key or value that breaks a limit, and a key of another shard,
//! raises an error, since false would not say why; "the database" is the shard of the call; and strings are
//! bytes throughout, where Tokyo Tyrant stops at a NUL now and then.
//!
//! Functions that call back into Lua (`_foreach`, `_mapreduce`, `_stashforeach`, `_eval`) and those that are
//! all tables (`_isect`, `_union`) are written in `tyrant.luau`, over operations that only they can reach.

mod codec;
mod hash;
pub(crate) mod iteration;
mod misc;
mod output;
mod pack;
mod records;
pub(crate) mod regex;
mod server;
pub(crate) mod stash;
mod tcbs;
mod text;

use std::ops::RangeInclusive;

use mlua::{Lua, Table, Value};

use super::{Operation, Raised};
use crate::text::{integer, type_name};

pub(super) const GROUPS: [&[Operation]; 10] = [
    records::OPERATIONS,
    iteration::OPERATIONS,
    misc::OPERATIONS,
    stash::OPERATIONS,
    server::OPERATIONS,
    pack::OPERATIONS,
    codec::OPERATIONS,
    hash::OPERATIONS,
    text::OPERATIONS,
    regex::OPERATIONS,
];

/// The functions that `tyrant.luau` defines, with the numbers of arguments that it checks.
pub(crate) const SCRIPTED: &[(&str, RangeInclusive<usize>)] =
    &[("_foreach", 1..=1), ("_stashforeach", 1..=1), ("_mapreduce", 2..=3), ("_eval", 1..=1)];

/// The version of Tokyo Tyrant whose functions these are.
const VERSION: &str = "1.1.41";

/// Defines Tokyo Tyrant's global variables. A call is alone in its shard, so there is one thread.
pub(crate) fn define_variables(lua: &Lua, globals: &Table) -> mlua::Result<()> {
    globals.raw_set("_version", lua.create_string(VERSION)?)?;
    globals.raw_set("_pid", std::process::id())?;
    for name in ["_sid", "_thnum", "_thid"] {
        globals.raw_set(name, 1)?;
    }
    Ok(())
}

/// The number that a Lua value stands for, as `tonumber` has it.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => Some(*number),
        Value::String(string) => std::str::from_utf8(&string.as_bytes()).ok()?.trim().parse().ok(),
        value => integer(value).map(|number| number as f64),
    }
}

fn expect_number(value: &Value) -> Result<f64, Raised> {
    number(value).ok_or_else(|| Raised::Misuse(format!("expected a number, got {}", type_name(value))))
}
