//! Functions that touch no keys: those of [`json`](super::json) and [`crypto`](super::crypto). They are there while a library loads, too.
//!
//! Each checks its number of arguments, and what it does with much input looks at the call's CPU time and
//! memory limit as it goes.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use mlua::{Function, IntoLua, Lua, MultiValue, Table, Value};

use super::{Raised, check_argument_count, check_budget, crypto, define, json, sql};
use crate::budget::CpuBudget;
use crate::surroundings::Surroundings;

/// What the running call may use: its CPU time, as much memory again as its heap for what is made outside of
/// that, and the machine's randomness.
pub(crate) struct Bounds {
    pub(crate) budget: Arc<CpuBudget>,
    pub(crate) memory_bytes: AtomicUsize,
    pub(crate) surroundings: Surroundings,
}

/// What the functions of one machine share.
pub(crate) struct Context {
    bounds: Arc<Bounds>,
    /// The metatable that marks a table as an array of JSON.
    pub(crate) array: Table,
    /// `place(table, key, digits)`: stores a 64-bit integer, which mlua would pass on as a double.
    place: Function,
}

impl Context {
    pub(super) fn budget(&self) -> &CpuBudget {
        &self.bounds.budget
    }

    pub(super) fn surroundings(&self) -> &Surroundings {
        &self.bounds.surroundings
    }

    pub(crate) fn check_budget(&self) -> mlua::Result<()> {
        check_budget(self.budget())
    }

    /// Fails, as an allocation of Luau's does, where a call's memory could not hold that many bytes.
    pub(super) fn check_memory(&self, bytes: usize) -> mlua::Result<()> {
        if bytes > self.bounds.memory_bytes.load(Relaxed) {
            return Err(mlua::Error::MemoryError(OUT_OF_MEMORY.to_owned()));
        }
        Ok(())
    }

    /// Stores a value in a table.
    pub(crate) fn set<K: IntoLua>(&self, table: &Table, key: K, value: Returned) -> mlua::Result<()> {
        match value {
            Returned::Value(value) => table.raw_set(key, value),
            Returned::Integer(integer) => self.place.call((table, key, integer.to_string())),
        }
    }

    /// Runs a function for the script: the error to raise or nil, the value, and in place of the value an
    /// integer's digits.
    fn enter(
        &self,
        function: &PureFunction,
        lua: &Lua,
        mut arguments: MultiValue,
    ) -> mlua::Result<(Value, Value, Value)> {
        let answer = check_argument_count(&function.arguments, arguments.len())
            .and_then(|()| (function.run)(self, lua, arguments.make_contiguous()));
        let text = match answer {
            Ok(Returned::Value(value)) => return Ok((Value::Nil, value, Value::Nil)),
            Ok(Returned::Integer(integer)) => {
                return Ok((Value::Nil, Value::Nil, Value::String(lua.create_string(integer.to_string())?)));
            }
            Err(Raised::Lua(mlua::Error::MemoryError(_))) => OUT_OF_MEMORY.to_owned(),
            Err(Raised::Lua(error)) => return Err(error),
            Err(Raised::Misuse(problem)) => format!("{}: {problem}", function.name),
            Err(Raised::Failure(failure) | Raised::Status { failure, .. }) => failure.to_string(),
        };
        Ok((Value::String(lua.create_string(text)?), Value::Nil, Value::Nil))
    }
}

/// Luau's own words, by which a call is known to have run out of memory.
const OUT_OF_MEMORY: &str = "not enough memory";

/// One function.
pub(super) struct PureFunction {
    /// The global table that holds it; `None`: it is a global function.
    pub(super) table: Option<&'static str>,
    pub(super) name: &'static str,
    pub(super) arguments: RangeInclusive<usize>,
    pub(super) run: fn(&Context, &Lua, &[Value]) -> Result<Returned, Raised>,
}

/// All functions.
pub(super) fn functions() -> impl Iterator<Item = &'static PureFunction> {
    json::FUNCTIONS.iter().chain(crypto::FUNCTIONS).chain(sql::FUNCTIONS)
}

/// A value for the script.
pub(crate) enum Returned {
    Value(Value),
    /// Beyond what a double holds exactly: Luau's type `integer`.
    Integer(i64),
}

/// Defines all functions. `wrap` makes a function of the script's out of one that answers as
/// [`Context::enter`] does.
pub(crate) fn install(
    lua: &Lua,
    globals: &Table,
    wrap: &Function,
    place: &Function,
    bounds: &Arc<Bounds>,
) -> mlua::Result<Arc<Context>> {
    let array = lua.create_table()?;
    array.set_readonly(true);
    let context = Arc::new(Context { bounds: Arc::clone(bounds), array, place: place.clone() });
    for function in functions() {
        let context = Arc::clone(&context);
        let run = lua.create_function(move |lua, arguments: MultiValue| context.enter(function, lua, arguments))?;
        let wrapped: Function = wrap.call(run)?;
        define(lua, globals, function.table, function.name, wrapped)?;
    }
    globals.raw_get::<Table>("json")?.raw_set("null", Value::NULL)?;
    Ok(context)
}
