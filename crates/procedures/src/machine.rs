//! One sandboxed Luau virtual machine, kept for many calls.
//!
//! What libraries share is read-only: Luau's own tables, the string metatable, the API's functions. A
//! library's main function is loaded once; for each call it runs again with a new environment, which
//! makes its functions and variables anew, so nothing that one call assigns is there in the next.
//!
//! Not in the sandbox: `getfenv` and `setfenv`, which reach around the environment; `loadstring`, whose
//! compiler knows no limits. Luau itself has no `io`, `load`, `dofile` or `string.dump`. `require` finds
//! libraries that were pinned at the upload.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use cirrus_proto::limits::Limits;
use cirrus_proto::v1::LuaValue;
use cirrus_proto::{Failure, Reason};
use mlua::chunk::{ChunkMode, Compiler};
use mlua::state::{GcIncParams, GcMode};
use mlua::{BorrowedBytes, FromLuaMulti, Function, IntoLuaMulti, Lua, LuaString, MultiValue, Table, Value, VmState};

use crate::api::pure::{Bounds, Context, Returned};
use crate::api::{Access, INTERNAL, define, operations, pure, tyrant};
use crate::budget::CpuBudget;
use crate::library::{LibrarySource, Requirement};
use crate::modules::Modules;
use crate::runtime::{Arguments, CallResult};
use crate::surroundings::Surroundings;
use crate::text::{text, type_name};
use crate::trouble::{PRELUDE, Trouble, library_invalid};
use crate::unprotected::unprotected;
use crate::values;

/// Once it runs, the collector starts a cycle where the heap has grown to this share of what the last one left,
/// percent. Luau's own 200 would let garbage alone reach the memory limit of a call that holds half of it.
const GC_GOAL_PERCENT: i32 = 150;

/// The collector sleeps until a call has allocated so much, or a quarter of its limit where that is less: most calls
/// leave some kilobytes, and each cycle looks at all that the machine holds besides.
const GC_SLEEP_BYTES: usize = 1024 * 1024;

/// A result may be a table in a table …, to this depth.
const RESULT_DEPTH_MAX: usize = 16;

/// `_G` and `require` come back in each environment. Shared ones would be resolved as a library is loaded, and
/// kept.
const REMOVED_GLOBALS: [&str; 5] = ["getfenv", "setfenv", "loadstring", "require", "_G"];

/// A library as one call has it.
pub(crate) struct Defined {
    /// The table that holds its functions.
    pub(crate) exports: Table,
    /// Its global variables; often the same table.
    pub(crate) environment: Table,
}

pub(crate) struct Machine {
    lua: Lua,
    /// Its field `enter` leads from the API's functions to the running call's [`Access`].
    gate: Table,
    /// What `gate.enter` is between calls.
    unavailable: Function,
    /// Of every call's environment: reads of globals go on to the shared ones.
    environment_metatable: Table,
    /// Luau's `math.randomseed`.
    seed: Function,
    /// Makes a library's `require` of what it pinned.
    require_from: Function,
    /// The `require` of libraries that have pinned nothing.
    requires_nothing: Function,
    /// A call chose the random generator's seed.
    seeded: Arc<AtomicBool>,
    names: Names,
    /// The size of the heap at which the collector wakes up, bytes.
    collect_at: Arc<AtomicUsize>,
    budget: Arc<CpuBudget>,
    bounds: Arc<Bounds>,
    context: Arc<Context>,
    /// `apply(function, arguments, count)`: calls with arguments that mlua would not pass on as they are.
    apply: Function,
}

/// Names that every call looks up, kept as the machine's own strings.
struct Names {
    enter: LuaString,
    global: LuaString,
    require: LuaString,
    begin: LuaString,
    end: LuaString,
}

impl Names {
    fn new(lua: &Lua) -> mlua::Result<Self> {
        let name = |name: &str| lua.create_string(name);
        Ok(Names {
            enter: name("enter")?,
            global: name("_G")?,
            require: name("require")?,
            begin: name("_begin")?,
            end: name("_end")?,
        })
    }
}

/// What a procedure is called with.
#[derive(Clone, Copy)]
pub(crate) struct Parameters<'a> {
    pub(crate) key: &'a Bytes,
    pub(crate) more_keys: &'a [Bytes],
    pub(crate) arguments: Arguments<'a>,
}

impl Machine {
    /// `killed` ends what runs.
    pub(crate) fn new(killed: Arc<AtomicBool>, surroundings: Surroundings) -> mlua::Result<Self> {
        let lua = Lua::new();
        lua.gc_set_mode(GcMode::Incremental(GcIncParams::default().goal(GC_GOAL_PERCENT)));
        let globals = lua.globals();
        for name in REMOVED_GLOBALS {
            globals.raw_set(name, Value::Nil)?;
        }

        let seeded = Arc::new(AtomicBool::new(false));
        let mark_seeded = lua.create_function({
            let seeded = Arc::clone(&seeded);
            move |_, ()| {
                seeded.store(true, Relaxed);
                Ok(())
            }
        })?;
        let gate = lua.create_table()?;
        let given = (&gate, &globals, lua.create_function(search)?, mark_seeded);
        let prelude: Table = run_prelude(&lua, include_str!("prelude.luau"), given)?;
        let function = |name: &str| prelude.raw_get::<Function>(name);
        let (bind, require_from) = (function("bind")?, function("require_from")?);
        let internal = lua.create_table()?;
        for (index, operation) in operations().enumerate() {
            let function: Function = bind.call((index, operation.returns))?;
            match operation.table {
                Some(INTERNAL) => internal.raw_set(operation.name, function)?,
                table => define(&lua, &globals, table, operation.name, function)?,
            }
        }
        let requires_nothing = require_from.call((lua.create_table()?, lua.create_table_from([("missing", true)])?))?;
        let budget = Arc::new(CpuBudget::new(killed));
        let bounds = Arc::new(Bounds {
            budget: Arc::clone(&budget),
            memory_bytes: AtomicUsize::new(0),
            surroundings: surroundings.clone(),
        });
        let context = pure::install(&lua, &globals, &function("wrap")?, &function("place")?, &bounds)?;
        function("finish")?.call::<()>(&internal)?;
        tyrant::define_variables(&lua, &globals)?;
        run_prelude::<()>(&lua, include_str!("tyrant.luau"), (&globals, internal))?;
        if surroundings.are_staged() {
            let now = lua.create_function({
                let surroundings = surroundings.clone();
                move |_, ()| Ok(surroundings.now().as_secs())
            })?;
            run_prelude::<()>(&lua, include_str!("testing/clock.luau"), (&globals, now))?;
        }
        lua.sandbox(true)?;

        let environment_metatable = lua.create_table_from([("__index", globals)])?;
        environment_metatable.raw_set("__metatable", "locked")?;
        environment_metatable.set_readonly(true);
        let collect_at = Arc::new(AtomicUsize::new(usize::MAX));
        lua.set_interrupt({
            let (budget, collect_at) = (Arc::clone(&budget), Arc::clone(&collect_at));
            move |lua| match budget.is_exhausted() {
                false => {
                    if lua.used_memory() > collect_at.load(Relaxed) {
                        collect_at.store(usize::MAX, Relaxed);
                        lua.gc_restart();
                    }
                    Ok(VmState::Continue)
                }
                true => Err(mlua::Error::runtime("out of CPU time")),
            }
        });
        let seed = function("seed")?;
        if surroundings.are_staged() {
            seed.call::<()>(surroundings.random() as i32)?;
        }
        lua.gc_collect()?;
        lua.gc_stop();
        Ok(Machine {
            names: Names::new(&lua)?,
            collect_at,
            gate,
            unavailable: function("unavailable")?,
            environment_metatable,
            seed,
            require_from,
            requires_nothing,
            seeded,
            budget,
            bounds,
            context,
            apply: function("apply")?,
            lua,
        })
    }

    pub(crate) fn budget(&self) -> &CpuBudget {
        &self.budget
    }

    pub(crate) fn lua(&self) -> &Lua {
        &self.lua
    }

    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    /// Leads the API's functions to what runs, until [`close_gate`](Self::close_gate).
    pub(crate) fn open_gate(&self, enter: Function) -> mlua::Result<()> {
        self.gate.raw_set(&self.names.enter, enter)
    }

    /// The API's functions lead nowhere.
    pub(crate) fn close_gate(&self) -> mlua::Result<()> {
        self.gate.raw_set(&self.names.enter, &self.unavailable)
    }

    /// Heap in use, bytes, garbage included.
    pub(crate) fn used_bytes(&self) -> usize {
        self.lua.used_memory()
    }

    /// Whether a call woke the collector up.
    pub(crate) fn is_collecting(&self) -> bool {
        self.lua.gc_is_running()
    }

    /// Collects all garbage, and lets the collector sleep again.
    pub(crate) fn collect_garbage(&self) -> mlua::Result<()> {
        let collected = self.lua.gc_collect();
        self.lua.gc_stop();
        collected
    }

    /// Gives what runs from now on the limits of one call; `patience`, where given, bounds the elapsed time more
    /// narrowly.
    pub(crate) fn begin(&self, limits: &Limits, patience: Option<Duration>) -> mlua::Result<()> {
        self.budget.start(Duration::from_millis(limits.call_cpu_ms), patience);
        self.bounds.memory_bytes.store(limits.call_memory_bytes, Relaxed);
        let used = self.lua.used_memory();
        self.collect_at.store(used + GC_SLEEP_BYTES.min(limits.call_memory_bytes / 4), Relaxed);
        self.lua.set_memory_limit(used + limits.call_memory_bytes)?;
        if self.seeded.swap(false, Relaxed) {
            self.seed.call::<()>(self.bounds.surroundings.random() as i32)?;
        }
        Ok(())
    }

    /// Loads what [`compile`](crate::library::compile) made. The function belongs to this machine.
    pub(crate) fn load(&self, library: &str, bytecode: &[u8]) -> mlua::Result<Function> {
        self.lua
            .load(bytecode)
            .set_mode(ChunkMode::Binary)
            .set_name(format!("={library}"))
            .set_environment(self.environment_without_itself()?)
            .into_function()
    }

    /// A `require` that finds these, and notes the first one that it does not.
    pub(crate) fn require(&self, requires: &[Requirement], modules: &Modules) -> mlua::Result<Require> {
        let pinned = self.lua.create_table_with_capacity(0, requires.len())?;
        for pin in requires {
            if let Some(exports) = modules.get(&pin.name, pin.version) {
                pinned.raw_set(pin.written.as_str(), exports)?;
            }
        }
        let note = self.lua.create_table()?;
        Ok(Require { function: self.require_from.call((pinned, &note))?, note })
    }

    /// As [`define`](Self::define), where everything that the library requires is in `modules`.
    pub(crate) fn define_pinned(
        &self,
        library: &LibrarySource,
        main: &Function,
        modules: &Modules,
    ) -> Result<Defined, Trouble> {
        match library.requires.is_empty() {
            true => self.define(&library.name, main, None),
            false => {
                let require = self.require(&library.requires, modules)?;
                self.define(&library.name, main, Some(&require))
            }
        }
    }

    /// Runs a library's main function in a new environment.
    pub(crate) fn define(&self, library: &str, main: &Function, require: Option<&Require>) -> Result<Defined, Trouble> {
        let environment = unprotected(&self.lua, 0, || {
            let environment = self.environment()?;
            let require = require.map_or(&self.requires_nothing, |require| &require.function);
            environment.raw_set(&self.names.require, require)?;
            main.set_environment(environment.clone())?;
            Ok(environment)
        })?;
        match main.call::<Value>(())? {
            Value::Nil => Ok(Defined { exports: environment.clone(), environment }),
            Value::Table(exports) => Ok(Defined { exports, environment }),
            other => {
                let message = format!(
                    "{library} returns a {}; a library returns a table of functions, or nothing",
                    type_name(&other)
                );
                Err(library_invalid(library, message, None).into())
            }
        }
    }

    /// Calls a function with the keys and the arguments, and answers what it returns, as a value with a type or else as
    /// bytes. Tokyo Tyrant's hooks run around it: `_begin` before and, unless it fails, `_end` after.
    pub(crate) fn call(
        &self,
        function: &Function,
        environment: &Table,
        parameters: Parameters<'_>,
        access: &mut Access<'_, '_>,
        typed_result: bool,
        result_bytes_max: usize,
    ) -> Result<CallResult, Trouble> {
        let (values, exact) = match parameters.arguments {
            Arguments::Strings(strings) => {
                let texts = std::iter::once(parameters.key).chain(parameters.more_keys).chain(strings);
                unprotected(&self.lua, texts.map(Bytes::len).sum(), || self.parameters(parameters))?
            }
            Arguments::Values(_) => self.parameters(parameters)?,
        };
        let hook = |name: &LuaString| match environment.raw_get::<Value>(name)? {
            Value::Function(hook) => hook.call::<()>(()),
            _ => Ok(()),
        };
        access.environment = Some(environment.clone());
        let result = self.lua.scope(|scope| {
            unprotected(&self.lua, 0, || {
                let enter = scope.create_function_mut(|lua, arguments: MultiValue| access.enter(lua, arguments))?;
                self.open_gate(enter)
            })?;
            hook(&self.names.begin)?;
            let result = match exact {
                None => function.call::<Value>(values)?,
                Some(table) => self.apply.call::<Value>((function, table, values.len()))?,
            };
            hook(&self.names.end)?;
            Ok(result)
        });
        self.close_gate()?;
        match typed_result {
            true => Ok(CallResult::Value(values::from_lua(&self.context, &result?, result_bytes_max)?)),
            false => Ok(CallResult::Bytes(self.result_bytes(result?, result_bytes_max)?)),
        }
    }

    /// What the function is called with; and, where there is an integer that mlua would pass on as a double, a table
    /// of the same.
    fn parameters(&self, parameters: Parameters<'_>) -> mlua::Result<(MultiValue, Option<Table>)> {
        let Parameters { key, more_keys, arguments } = parameters;
        let (strings, typed): (&[Bytes], &[LuaValue]) = match arguments {
            Arguments::Strings(strings) => (strings, &[]),
            Arguments::Values(values) => (&[], values),
        };
        let mut values = MultiValue::with_capacity(1 + more_keys.len() + strings.len() + typed.len());
        for bytes in std::iter::once(key).chain(more_keys).chain(strings) {
            values.push_back(Value::String(self.lua.create_string(bytes)?));
        }
        let mut integers = Vec::new();
        for value in typed {
            match values::to_lua(&self.context, &self.lua, value)? {
                Returned::Value(value) => values.push_back(value),
                Returned::Integer(integer) => {
                    values.push_back(Value::Nil);
                    integers.push((values.len(), integer));
                }
            }
        }
        if integers.is_empty() {
            return Ok((values, None));
        }
        let table = self.lua.create_table_with_capacity(values.len(), 0)?;
        for (index, value) in values.iter().enumerate() {
            table.raw_set(index + 1, value)?;
        }
        for (place, integer) in integers {
            self.context.set(&table, place, Returned::Integer(integer))?;
        }
        Ok((values, Some(table)))
    }

    /// Tokyo Tyrant's rule: a number and a string as they are, true as "true", a table as its first
    /// element; nil and false are no result.
    fn result_bytes(&self, mut value: Value, bytes_max: usize) -> Result<Bytes, Trouble> {
        for _ in 0..RESULT_DEPTH_MAX {
            value = match value {
                Value::Table(table) => table.raw_get(1)?,
                Value::Nil | Value::Boolean(false) => {
                    return Err(Failure::new(
                        Reason::ProcedureReturnedNothing,
                        format!("the procedure returned {}", if value.is_nil() { "nil" } else { "false" }),
                    )
                    .into());
                }
                Value::Boolean(true) => return Ok(Bytes::from_static(b"true")),
                Value::String(string) if string.as_bytes().len() > bytes_max => {
                    let actual = string.as_bytes().len();
                    return Err(Failure::too_large(Reason::ResultTooLarge, "result", actual, bytes_max).into());
                }
                other => {
                    return text(&self.lua, &other)?.ok_or_else(|| {
                        let message = format!("the procedure returned a {}", type_name(&other));
                        Failure::new(Reason::ProcedureFailed, message).into()
                    });
                }
            };
        }
        let message = format!("the procedure returned tables nested deeper than {RESULT_DEPTH_MAX}");
        Err(Failure::new(Reason::ProcedureFailed, message).into())
    }

    /// What every environment finds besides its own variables.
    pub(crate) fn shared_globals(&self) -> mlua::Result<Table> {
        self.environment_metatable.raw_get("__index")
    }

    /// A call's globals: its own assignments, above the shared, read-only ones.
    pub(crate) fn environment(&self) -> mlua::Result<Table> {
        let environment = self.environment_without_itself()?;
        environment.raw_set(&self.names.global, &environment)?;
        Ok(environment)
    }

    fn environment_without_itself(&self) -> mlua::Result<Table> {
        let environment = self.lua.create_table_with_capacity(0, 8)?;
        environment.set_metatable(Some(self.environment_metatable.clone()))?;
        // Lets Luau resolve names such as `string.format` once, as it loads the library.
        environment.set_safeenv(true);
        Ok(environment)
    }
}

/// One library's `require`.
pub(crate) struct Require {
    function: Function,
    /// Its field `missing`: what the library required and has not pinned.
    note: Table,
}

impl Require {
    pub(crate) fn missing(&self) -> mlua::Result<Option<String>> {
        self.note.raw_get("missing")
    }
}

/// Runs a source of this crate, whose lines no message should name.
pub(crate) fn run_prelude<R: FromLuaMulti>(lua: &Lua, source: &str, given: impl IntoLuaMulti) -> mlua::Result<R> {
    let bytecode = Compiler::new().set_optimization_level(2).set_debug_level(0).compile(source)?;
    lua.load(bytecode).set_mode(ChunkMode::Binary).set_name(format!("={PRELUDE}")).call(given)
}

/// `search(subject, needle, init)`: where `needle` stands in `subject` at or after `init`, first and last
/// position, or nothing; what `string.find` answers for a plain search, in linear time.
fn search(
    _: &Lua,
    (subject, needle, init): (LuaString, LuaString, Option<f64>),
) -> mlua::Result<(Option<usize>, Option<usize>)> {
    let (subject, needle): (BorrowedBytes, BorrowedBytes) = (subject.as_bytes(), needle.as_bytes());
    let length = subject.len();
    // Lua counts from 1; below zero from the end. A fraction or an excess saturates in the cast.
    let from = match init.unwrap_or(1.0) as i64 {
        init if init > 0 => init as usize - 1,
        0 => 0,
        init => length.saturating_sub(init.unsigned_abs() as usize),
    };
    let found = subject.get(from..).and_then(|rest| memchr::memmem::find(rest, &needle));
    Ok(match found {
        Some(offset) => (Some(from + offset + 1), Some(from + offset + needle.len())),
        None => (None, None),
    })
}
