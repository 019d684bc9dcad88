//! One machine in which a test file runs once: to see which tests it has, or to run one of them.

mod natives;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cirrus_proto::limits::Limits;
use mlua::{Function, Lua, LuaString, MultiValue, Table, Value};

use super::describe::describe;
use super::report::{Frame, TestCall, TestFailure, TestReport};
use super::shards::{CLOCK_BEGINS_MS, Shards};
use super::{TestFile, TestSettings};
use crate::machine::{Machine, run_prelude};
use crate::modules::Modules;
use crate::sources::Linker;
use crate::surroundings::Surroundings;
use crate::text::type_name;
use crate::trouble::{Meaning, PRELUDE, meaning};
use natives::difference_for_lua;

/// Places that are kept of what led to a failure.
const FRAMES_MAX: usize = 20;

/// How deep the stack is looked through for them.
const LEVELS_MAX: usize = 1000;

pub(super) struct Rig<'a> {
    file: TestFile<'a>,
    bytecode: &'a [u8],
    linker: &'a Linker<'a>,
    settings: &'a TestSettings,
    machine: Machine,
    /// The file's global variables.
    environment: Table,
    /// Metatables of what is raised by calls that failed, and by expectations that are not met.
    failure: Table,
    expectation: Table,
    shards: RefCell<Shards<'a>>,
    last_call: RefCell<Option<TestCall>>,
    modules: RefCell<Modules>,
    /// The last error that ended a function, while the stack still stood.
    noted: RefCell<Option<Noted>>,
}

struct Noted {
    problem: Value,
    stack: Vec<Frame>,
}

impl<'a> Rig<'a> {
    pub(super) fn new(
        file: TestFile<'a>,
        bytecode: &'a [u8],
        linker: &'a Linker<'a>,
        settings: &'a TestSettings,
    ) -> Result<Self, Box<TestFailure>> {
        let surroundings = Surroundings::staged(CLOCK_BEGINS_MS, settings.seed);
        let made = || {
            let machine = Machine::new(Arc::default(), surroundings.clone())?;
            let (environment, lua) = (machine.environment()?, machine.lua());
            let (failure, expectation) = (lua.create_table()?, lua.create_table()?);
            Ok(Rig {
                file,
                bytecode,
                linker,
                settings,
                environment,
                failure,
                expectation,
                shards: RefCell::new(Shards::new(linker, settings, surroundings.clone())),
                last_call: RefCell::default(),
                modules: RefCell::default(),
                noted: RefCell::default(),
                machine,
            })
        };
        made().map_err(|error| TestFailure::internal(&error))
    }

    /// The names of the file's tests, in the order of the source.
    pub(super) fn list(&self) -> Result<Vec<String>, Box<TestFailure>> {
        self.in_file(|tests, _| Ok(tests.iter().map(|test| test.name.clone()).collect()))
    }

    /// Runs one of them.
    pub(super) fn run(&self, name: &str) -> Result<(), Box<TestFailure>> {
        self.in_file(|tests, note| match tests.iter().find(|test| test.name == name) {
            Some(test) => self.attempt(&test.function, note).map(drop),
            None => {
                let message = format!("{name} is not there when the file runs again");
                Err(Box::new(TestFailure { message, ..TestFailure::default() }))
            }
        })
    }

    pub(super) fn report(self, name: &str, took: Duration, failure: Option<Box<TestFailure>>) -> TestReport {
        let (output, last_call) = (self.shards.into_inner().output, self.last_call.into_inner());
        TestReport { name: name.to_owned(), took, failure, output, last_call }
    }

    /// Runs the file, and hands what tests it has to `work`, with the function that notes errors.
    fn in_file<R>(
        &self,
        work: impl FnOnce(&[Test], &Function) -> Result<R, Box<TestFailure>>,
    ) -> Result<R, Box<TestFailure>> {
        let lua = self.machine.lua();
        let limits = Limits {
            call_cpu_ms: self.settings.test_cpu_ms,
            call_memory_bytes: self.settings.test_memory_bytes,
            ..self.settings.limits
        };
        let mut outcome = None;
        let ran = self.machine.begin(&limits, None).and_then(|()| {
            lua.scope(|scope| {
                let native = lua.create_table()?;
                native.raw_set("call", scope.create_function(|lua, given| self.call(lua, given, true))?)?;
                native.raw_set("call_text", scope.create_function(|lua, given| self.call(lua, given, false))?)?;
                native.raw_set("require", scope.create_function(|lua, given| self.require(lua, given))?)?;
                native.raw_set("advance", scope.create_function(|lua, given| self.advance(lua, given))?)?;
                native.raw_set("line", scope.create_function(|lua, ()| Ok(self.line(&stack(lua))))?)?;
                native.raw_set("describe", lua.create_function(|_, value: Value| describe(&value))?)?;
                native.raw_set("difference", lua.create_function(difference_for_lua)?)?;
                let given = (&self.environment, &self.failure, &self.expectation, native);
                run_prelude::<()>(lua, include_str!("expect.luau"), given)?;
                let enter = scope.create_function(|lua, arguments: MultiValue| {
                    let whose = (self.file.name, &self.environment);
                    self.shards()?.operate(lua, arguments, &self.machine, whose)
                })?;
                self.machine.open_gate(enter)?;
                let note = scope.create_function(|lua, problem: Value| {
                    *self.noted.borrow_mut() = Some(Noted { problem, stack: stack(lua) });
                    Ok(())
                })?;
                let main = self.machine.load(self.file.name, self.bytecode)?;
                main.set_environment(self.environment.clone())?;
                outcome = Some(self.attempt(&main, &note).and_then(|returned| work(&self.tests(&returned)?, &note)));
                self.machine.close_gate()
            })
        });
        match (ran, outcome) {
            (Ok(()), Some(outcome)) => outcome,
            (Err(error), _) => Err(TestFailure::internal(&error)),
            (Ok(()), None) => Err(TestFailure::internal(&mlua::Error::runtime("the file was not run"))),
        }
    }

    /// Calls a function that takes nothing, and says why it failed.
    fn attempt(&self, function: &Function, note: &Function) -> Result<Value, Box<TestFailure>> {
        self.noted.take();
        let xpcall = self.machine.lua().globals().get::<Function>("xpcall");
        let ended = xpcall.and_then(|xpcall| xpcall.call::<(bool, Value)>((function, note)));
        let noted = self.noted.take();
        if self.machine.budget().is_exhausted() {
            let message = format!("it used more than {} ms of CPU time and was killed", self.settings.test_cpu_ms);
            let stack = noted.map(|noted| noted.stack).unwrap_or_default();
            return Err(Box::new(self.placed(TestFailure { message, ..TestFailure::default() }, stack)));
        }
        match (ended, noted) {
            (Ok((true, returned)), _) => Ok(returned),
            (Ok((false, _)), Some(noted)) => Err(Box::new(self.placed(self.meaning_of(noted.problem), noted.stack))),
            (Ok((false, problem)), None) => Err(Box::new(self.meaning_of(problem))),
            (Err(error), noted) => {
                let stack = noted.map(|noted| noted.stack).unwrap_or_default();
                Err(Box::new(self.placed(self.raised(&error), stack)))
            }
        }
    }

    /// What an error says, without its place in the file.
    fn meaning_of(&self, problem: Value) -> TestFailure {
        let field = |table: &Table, name: &str| {
            table.raw_get::<Option<LuaString>>(name).ok().flatten().map(|text| text.to_string_lossy())
        };
        match &problem {
            Value::Table(table) if table.metatable().as_ref() == Some(&self.expectation) => TestFailure {
                message: field(table, "message").unwrap_or_default(),
                expected: field(table, "expected"),
                actual: field(table, "actual"),
                // Where it was not met: it may have been raised again elsewhere.
                line: table.raw_get("line").ok(),
                ..TestFailure::default()
            },
            Value::Table(table) if table.metatable().as_ref() == Some(&self.failure) => {
                let (reason, message) = (field(table, "reason"), field(table, "message").unwrap_or_default());
                let message = format!("{}: {message}", reason.as_deref().unwrap_or_default());
                TestFailure { message, reason, ..TestFailure::default() }
            }
            Value::String(text) => self.raised(&mlua::Error::RuntimeError(text.to_string_lossy())),
            Value::Error(error) => self.raised(error),
            other => {
                let described = describe(other).unwrap_or_else(|error| error.to_string());
                let message = format!("the error {described} was raised");
                TestFailure { message, ..TestFailure::default() }
            }
        }
    }

    fn raised(&self, error: &mlua::Error) -> TestFailure {
        match meaning(error, self.file.name) {
            Meaning::OutOfMemory => {
                let message = format!("it used more than {} bytes of memory", self.settings.test_memory_bytes);
                TestFailure { message, ..TestFailure::default() }
            }
            Meaning::Raised { message, line } => {
                let place = line.map(|line| format!("{}:{line}: ", self.file.name)).unwrap_or_default();
                let message = message.strip_prefix(&place).unwrap_or(&message).to_owned();
                TestFailure { message, line, ..TestFailure::default() }
            }
        }
    }

    /// Adds where it happened.
    fn placed(&self, failure: TestFailure, stack: Vec<Frame>) -> TestFailure {
        TestFailure { line: failure.line.or_else(|| self.line(&stack)), stack, ..failure }
    }

    /// The innermost place in the file.
    fn line(&self, stack: &[Frame]) -> Option<u32> {
        stack.iter().find(|frame| frame.source == self.file.name).map(|frame| frame.line)
    }

    fn shards(&self) -> mlua::Result<std::cell::RefMut<'_, Shards<'a>>> {
        self.shards.try_borrow_mut().map_err(|_| mlua::Error::runtime("an operation ran within another"))
    }

    /// The file's tests: those of the table that it returned, and its global ones.
    fn tests(&self, returned: &Value) -> Result<Vec<Test>, Box<TestFailure>> {
        let exported = match returned {
            Value::Nil => None,
            Value::Table(table) => Some(table),
            other => {
                let kind = type_name(other);
                let message = format!("it returns a {kind}; a test file returns a table of functions, or nothing");
                return Err(Box::new(TestFailure { message, ..TestFailure::default() }));
            }
        };
        let mut tests = BTreeMap::new();
        for table in [Some(&self.environment), exported].into_iter().flatten() {
            for pair in table.pairs::<Value, Value>() {
                let (Value::String(name), Value::Function(function)) =
                    pair.map_err(|error| TestFailure::internal(&error))?
                else {
                    continue;
                };
                let name = name.to_string_lossy();
                if name.starts_with("test") {
                    let line = function.info().line_defined.unwrap_or(usize::MAX);
                    tests.insert(name.clone(), Test { name, line, function });
                }
            }
        }
        let mut tests: Vec<Test> = tests.into_values().collect();
        tests.sort_by_key(|test| test.line);
        Ok(tests)
    }
}

/// A test of a file.
struct Test {
    name: String,
    line: usize,
    function: Function,
}

/// Where the running function was called from, the innermost first.
fn stack(lua: &Lua) -> Vec<Frame> {
    let mut frames = Vec::new();
    for level in 0..LEVELS_MAX {
        let frame = lua.inspect_stack(level, |debug| {
            let (source, line) = (debug.source().short_src.map(|source| source.into_owned()), debug.current_line());
            let function = debug.names().name.map(|name| name.into_owned());
            (source, line, function)
        });
        let Some((source, line, function)) = frame else { break };
        if let (Some(source), Some(line)) = (source, line)
            && source != PRELUDE
            && source != "[C]"
        {
            frames.push(Frame { source, line: line as u32, function });
        }
        if frames.len() == FRAMES_MAX {
            break;
        }
    }
    frames
}
