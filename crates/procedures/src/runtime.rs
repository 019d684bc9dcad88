//! Calls: from a library's source, a function's name and arguments to a result or a failure.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use cirrus_engine::Transaction;
use cirrus_proto::limits::Limits;
use cirrus_proto::v1::{LuaValue, ProcedureDeclaration};
use cirrus_proto::{Failure, Reason};
use mlua::{Function, Value};

use crate::api::Access;
use crate::api::sql::Sql;
use crate::api::tyrant::stash::Stash;
use crate::call_log::{CallLog, LogSink};
use crate::control::CallControl;
use crate::databases::SqlDatabases;
use crate::library::{LibrarySource, compile, is_export_name};
use crate::machine::{Machine, Parameters};
use crate::modules::Modules;
use crate::parameters::{Checked, check};
use crate::scope::KeyScope;
use crate::surroundings::Surroundings;
use crate::trace::Trace;
use crate::trouble::{Meaning, Trouble, call_killed, call_memory, call_timeout, meaning};

/// Most libraries that a runtime keeps compiled.
const LIBRARIES_KEPT: usize = 64;

/// Garbage of past calls that a machine keeps, bytes.
const GARBAGE_BYTES: usize = 512 * 1024;

/// Most bytecode that a runtime keeps, bytes.
const BYTECODE_BYTES_KEPT: usize = 32 * 1024 * 1024;

/// What a call runs, and on what.
#[derive(Clone, Copy, Debug)]
pub struct Invocation<'a> {
    /// Exports the function.
    pub library: &'a LibrarySource,
    /// What the library requires, each behind what it requires itself.
    pub required: &'a [LibrarySource],
    /// The function's name.
    pub function: &'a str,
    /// What the library declares of it.
    pub declaration: Option<&'a ProcedureDeclaration>,
    /// Its first argument.
    pub key: &'a Bytes,
    /// Its next arguments.
    pub more_keys: &'a [Bytes],
    /// Its further arguments.
    pub arguments: Arguments<'a>,
    /// Answer [`CallResult::Value`], where nil and false are results like any other.
    pub typed_result: bool,
    /// Takes down what the call does.
    pub trace: Option<&'a Trace>,
    /// Its writes will be discarded: Tokyo Tyrant's stash stays as it was.
    pub dry_run: bool,
    /// Elapsed time after which it fails with [`Reason::CallTimeout`], whatever CPU time it has left: for a thread that
    /// others wait for.
    pub patience: Option<Duration>,
}

/// What a function is called with, behind its keys.
#[derive(Clone, Copy, Debug)]
pub enum Arguments<'a> {
    /// Lua strings.
    Strings(&'a [Bytes]),
    /// Values with types, nested at most [`VALUE_DEPTH_MAX`](cirrus_proto::value::VALUE_DEPTH_MAX) deep.
    Values(&'a [LuaValue]),
}

/// What a function returned.
#[derive(Clone, Debug, PartialEq)]
pub enum CallResult {
    /// By Tokyo Tyrant's rule: a number and a string as they are, true as "true", a table as its first element.
    Bytes(Bytes),
    /// Exactly.
    Value(LuaValue),
}

/// What a successful call gives.
#[derive(Clone, Debug, PartialEq)]
pub struct CallOutcome {
    /// The answer.
    pub result: CallResult,
    /// CPU time that the call used, the loading of its library included. A call that took less than a tenth
    /// of its limit is given by the time that passed: the CPU clock would cost more than most calls do.
    pub cpu: Duration,
    /// What the heap grew by, garbage that was not collected yet included, bytes.
    pub memory_bytes: usize,
}

/// One shard executor's runtime. It owns a Luau machine, made on the first call and made anew after a
/// call that was killed, and the libraries compiled lately.
pub struct Runtime {
    limits: Limits,
    control: Arc<CallControl>,
    surroundings: Surroundings,
    log: Option<Arc<dyn LogSink>>,
    machine: Option<Machine>,
    /// CPU time of the last call, however it ended.
    cpu: Duration,
    /// Heap of the machine after it last collected its garbage, bytes.
    idle_bytes: usize,
    /// The latest used first.
    libraries: Vec<Compiled>,
    /// What Tokyo Tyrant's scripts share between calls.
    stash: Stash,
}

/// An executor's thread takes its runtime along.
const _: () = {
    const fn can_be_sent<T: Send>() {}
    can_be_sent::<Runtime>();
};

struct Compiled {
    name: String,
    version: u64,
    bytecode: Vec<u8>,
    /// Loaded into the present machine.
    main: Option<Function>,
}

impl Runtime {
    /// A runtime without libraries. It makes its machine when it is first called.
    ///
    /// Its calls are numbered after `sequence`.
    pub fn new(limits: Limits, sequence: u64) -> Self {
        Runtime::within(Surroundings::default(), limits, sequence)
    }

    /// A runtime whose time and randomness are these.
    pub(crate) fn within(surroundings: Surroundings, limits: Limits, sequence: u64) -> Self {
        Runtime {
            limits,
            control: Arc::new(CallControl::new(sequence)),
            surroundings,
            log: None,
            machine: None,
            cpu: Duration::ZERO,
            idle_bytes: 0,
            libraries: Vec::new(),
            stash: Stash::default(),
        }
    }

    /// Makes its machine, so that the first call takes no longer than others.
    pub(crate) fn warm_up(&mut self) -> Result<(), Failure> {
        if self.machine.is_none() {
            let machine = Machine::new(self.control.killed(), self.surroundings.clone());
            let machine = self.machine.insert(machine.map_err(Failure::internal)?);
            self.idle_bytes = machine.used_bytes();
        }
        Ok(())
    }

    /// The same runtime, with somebody who takes the lines that its calls log. They go to the node's log in any case.
    #[must_use]
    pub fn with_log(self, log: Arc<dyn LogSink>) -> Self {
        Runtime { log: Some(log), ..self }
    }

    /// Watches the running call, and kills it.
    pub fn control(&self) -> Arc<CallControl> {
        self.control.clone()
    }

    /// CPU time that the last call used, also where it failed, as [`CallOutcome::cpu`] is measured.
    pub fn cpu_of_last_call(&self) -> Duration {
        self.cpu
    }

    /// Calls the function with the keys and the arguments in a new environment, held to what it declares. What it writes
    /// goes to `transaction`, by itself and through `databases`; where it is declared read-only, it cannot.
    ///
    /// Where this fails, `transaction` may hold some of the call's writes: discard it, and the call
    /// leaves no effect.
    ///
    /// Fails with [`Reason::InvalidField`] for what the declaration does not allow; [`Reason::FunctionNotFound`], [`Reason::ProcedureFailed`] (the message begins with
    /// `library:line:`), [`Reason::ProcedureReturnedNothing`], [`Reason::CallTimeout`], [`Reason::CallKilled`],
    /// [`Reason::CallMemory`], [`Reason::ResultTooLarge`], [`Reason::ReadOnly`]; with the reason of an operation on a key that
    /// failed where the script let its error pass; and with [`Reason::LibraryInvalid`] for a source that
    /// [`inspect`](crate::inspect) would refuse.
    pub fn call(
        &mut self,
        invocation: Invocation<'_>,
        transaction: &mut Transaction<'_>,
        scope: &dyn KeyScope,
        databases: Option<&mut dyn SqlDatabases>,
    ) -> Result<CallOutcome, Failure> {
        let Invocation { library, function, declaration, .. } = invocation;
        let checked = declaration
            .map(|declaration| check(declaration, 1 + invocation.more_keys.len(), invocation.arguments))
            .transpose()?;
        let arguments = checked.as_ref().map_or(invocation.arguments, Checked::arguments);
        let invocation = Invocation { arguments, ..invocation };
        transaction.set_read_only(declaration.is_some_and(|declaration| declaration.read_only));
        // Scripts are hostile input to a large virtual machine: a fault in it costs the call, not the shard.
        self.control.begin(&invocation);
        self.cpu = Duration::ZERO;
        let called = catch_unwind(AssertUnwindSafe(|| self.attempt(invocation, transaction, scope, databases)));
        transaction.set_read_only(false);
        let outcome = called.unwrap_or_else(|_| {
            tracing::error!(library = library.name, function, "a call panicked");
            Err(Failure::internal(format!("{}.{function} hit a fault in the Lua runtime", library.name)))
        });
        let outcome = match self.control.end() {
            true => Err(call_killed(&library.name, function)),
            false => outcome,
        };
        match &outcome {
            Ok(_) if !invocation.dry_run => self.stash.keep(),
            _ => self.stash.undo(),
        }
        match &outcome {
            Err(failure) if is_kill(failure.reason) => self.discard_machine(),
            _ => self.tidy(),
        }
        outcome
    }

    fn attempt(
        &mut self,
        invocation: Invocation<'_>,
        transaction: &mut Transaction<'_>,
        scope: &dyn KeyScope,
        databases: Option<&mut dyn SqlDatabases>,
    ) -> Result<CallOutcome, Failure> {
        let Invocation { library, required, function, declaration, trace, .. } = invocation;
        let limits = declaration.map_or(self.limits, |declaration| lowered(self.limits, declaration));
        for library in required.iter().chain([library]) {
            self.compiled_first(library)?;
        }
        self.warm_up()?;
        let Some(machine) = &self.machine else { return Err(Failure::internal("the runtime has no machine")) };
        let libraries = &mut self.libraries;
        let budget = machine.budget();
        let sink = self.log.as_deref();
        let log = CallLog::new((&library.name, library.version), function, sink, invocation.patience.is_some());
        let mut access = Access::new(transaction, scope, budget, log, trace, &mut self.stash);
        access.surroundings = self.surroundings.clone();
        if let Some(databases) = databases {
            let others_wait = invocation.patience.is_some();
            access.sql = Some(Sql { databases, context: machine.context(), key: Some(invocation.key), others_wait });
        }
        let heap_bytes = machine.used_bytes();
        machine.begin(&limits, invocation.patience).map_err(Failure::internal)?;
        let result = (|| {
            let mut modules = Modules::default();
            for library in required {
                let defined = machine.define_pinned(library, loaded(libraries, library, machine)?, &modules)?;
                modules.insert(library, defined.exports);
            }
            let defined = machine.define_pinned(library, loaded(libraries, library, machine)?, &modules)?;
            let Some(function) = exported(&defined.exports, function)? else {
                return Err(function_not_found(&library.name, function).into());
            };
            let Invocation { key, more_keys, arguments, typed_result, .. } = invocation;
            let parameters = Parameters { key, more_keys, arguments };
            let result_bytes_max = limits.call_reply_bytes;
            machine.call(&function, &defined.environment, parameters, &mut access, typed_result, result_bytes_max)
        })();
        let cpu = budget.used();
        self.cpu = cpu;
        let was_killed = self.control.killed().load(Ordering::Relaxed);
        // One that was given up runs again, and logs the same.
        if invocation.patience.is_none() || was_killed || !budget.is_exhausted() {
            access.log.release();
        }
        if budget.is_exhausted() {
            return Err(call_timeout(&library.name, function, Duration::from_millis(limits.call_cpu_ms)));
        }
        if let Some(fault) = access.fault {
            return Err(fault);
        }
        match result {
            Ok(result) => {
                let memory_bytes = machine.used_bytes().saturating_sub(heap_bytes);
                Ok(CallOutcome { result, cpu, memory_bytes })
            }
            Err(Trouble::Failure(failure)) => Err(failure.with("library", &library.name).with("function", function)),
            Err(Trouble::Lua(error)) => match meaning(&error, &library.name) {
                Meaning::OutOfMemory => Err(call_memory(&library.name, function, limits.call_memory_bytes)),
                Meaning::Raised { message, line } => {
                    let failure = call_failed(message, line, access.raised);
                    Err(failure.with("library", &library.name).with("function", function))
                }
            },
        }
    }

    /// Makes `libraries[0]` the library, compiled.
    fn compiled_first(&mut self, library: &LibrarySource) -> Result<(), Failure> {
        let is_it = |kept: &Compiled| kept.version == library.version && kept.name == library.name;
        if let Some(place) = self.libraries.iter().position(is_it) {
            self.libraries[..=place].rotate_right(1);
            return Ok(());
        }
        let bytecode = compile(&library.name, &library.source)?;
        let compiled = Compiled { name: library.name.clone(), version: library.version, bytecode, main: None };
        self.libraries.insert(0, compiled);
        self.libraries.truncate(LIBRARIES_KEPT);
        let mut bytes = 0;
        let kept = self.libraries.iter().take_while(|kept| {
            bytes += kept.bytecode.len();
            bytes <= BYTECODE_BYTES_KEPT
        });
        let kept = kept.count().max(1);
        self.libraries.truncate(kept);
        Ok(())
    }

    /// Collects the garbage of past calls once it is much: Luau's own collector wakes up only in calls that allocate
    /// much by themselves.
    fn tidy(&mut self) {
        let Some(machine) = &self.machine else { return };
        let limit = self.limits.call_memory_bytes;
        if !machine.is_collecting() && machine.used_bytes() <= self.idle_bytes + GARBAGE_BYTES.min(limit / 4) {
            return;
        }
        let collected = machine.collect_garbage();
        self.idle_bytes = machine.used_bytes();
        if collected.is_err() || self.idle_bytes > limit {
            self.discard_machine();
        }
    }

    fn discard_machine(&mut self) {
        for library in &mut self.libraries {
            library.main = None;
        }
        self.machine = None;
    }
}

/// The limits of a function that declares lower ones.
fn lowered(limits: Limits, declaration: &ProcedureDeclaration) -> Limits {
    let lower = |limit: usize, declared: u64| match usize::try_from(declared) {
        Ok(declared) if declared != 0 => limit.min(declared),
        _ => limit,
    };
    Limits {
        call_cpu_ms: if declaration.cpu_ms == 0 {
            limits.call_cpu_ms
        } else {
            limits.call_cpu_ms.min(declaration.cpu_ms)
        },
        call_memory_bytes: lower(limits.call_memory_bytes, declaration.memory_bytes),
        call_reply_bytes: lower(limits.call_reply_bytes, declaration.result_bytes),
        ..limits
    }
}

/// A library's main function, in the present machine.
fn loaded<'a>(
    libraries: &'a mut [Compiled],
    library: &LibrarySource,
    machine: &Machine,
) -> Result<&'a Function, Trouble> {
    let is_it = |kept: &&mut Compiled| kept.version == library.version && kept.name == library.name;
    let Some(compiled) = libraries.iter_mut().find(is_it) else {
        let problem = format!("{} and what it requires are too large to be kept compiled", library.name);
        return Err(Failure::internal(problem).into());
    };
    match &mut compiled.main {
        Some(main) => Ok(main),
        none => Ok(none.insert(machine.load(&library.name, &compiled.bytecode)?)),
    }
}

/// Whether a call that ended so may leave its machine in a state that the next call should not meet: a
/// full heap, an error that struck anywhere.
fn is_kill(reason: Reason) -> bool {
    matches!(reason, Reason::CallTimeout | Reason::CallKilled | Reason::CallMemory | Reason::Internal)
}

/// An error that the script raised or let pass. Where it is the error of an operation on a key, the call
/// fails for that operation's reason.
fn call_failed(message: String, line: Option<u32>, raised: Option<(String, Failure)>) -> Failure {
    let failure = match raised {
        Some((text, failure)) if message.ends_with(&text) => failure,
        _ => Failure::new(Reason::ProcedureFailed, message),
    };
    match line {
        Some(line) => failure.with("line", line),
        None => failure,
    }
}

/// The function of that name, if calls may name it. Inherited fields are none of the library's exports.
fn exported(exports: &mlua::Table, function: &str) -> mlua::Result<Option<Function>> {
    if !is_export_name(function) {
        return Ok(None);
    }
    match exports.raw_get::<Value>(function)? {
        Value::Function(function) => Ok(Some(function)),
        _ => Ok(None),
    }
}

fn function_not_found(library: &str, function: &str) -> Failure {
    let name: String = function.chars().take(64).collect();
    Failure::new(Reason::FunctionNotFound, format!("library {library} exports no function {name:?}"))
}
