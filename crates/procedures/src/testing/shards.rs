//! The shards of a test, in memory: one state for all of them, of which each call sees its shard's part.

use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use cirrus_engine::{MemoryView, Moment, ShardHead, Transaction, View, ViewError, Visit};
use cirrus_proto::Failure;
use cirrus_proto::internal::v1::command::Kind;
use cirrus_proto::internal::v1::{Command, Table};
use cirrus_proto::name::{ProcedureName, is_name};
use cirrus_proto::routing::shard_of_key;
use cirrus_proto::v1::CallRequest;
use mlua::{Lua, MultiValue, Table as LuaTable, Value};

use super::TestSettings;
use super::report::TestWrite;
use crate::api::Access;
use crate::api::sql::Sql;
use crate::api::tyrant::iteration::Cursor;
use crate::api::tyrant::stash::Stash;
use crate::call_log::CallLog;
use crate::databases::SqlDatabases;
use crate::machine::Machine;
use crate::runtime::{Arguments, CallResult, Invocation, Runtime};
use crate::scope::{KeyScope as _, ShardScope};
use crate::sources::{Linked, Linker};
use crate::surroundings::Surroundings;
use crate::trace::{Step, Trace};

/// Where a test's clock begins: 2026-01-01T00:00:00Z, Unix milliseconds.
pub(super) const CLOCK_BEGINS_MS: u64 = 1_767_225_600_000;

/// Lines that are kept of a test.
const OUTPUT_LINES_MAX: usize = 1000;

/// The shards, with the runtimes of their executors.
pub(super) struct Shards<'a> {
    linker: &'a Linker<'a>,
    settings: &'a TestSettings,
    surroundings: Surroundings,
    state: MemoryView,
    /// One for all shards: versions differ between all keys, not only between those of a shard.
    head: ShardHead,
    runtimes: BTreeMap<u32, Runtime>,
    /// Those of all shards.
    databases: Option<Box<dyn SqlDatabases>>,
    own: Own,
    /// What was logged and printed.
    pub(super) output: Vec<String>,
}

/// What became of a call.
pub(super) struct Called {
    pub(super) outcome: Result<CallResult, Failure>,
    pub(super) steps: Vec<Step>,
    pub(super) writes: Vec<TestWrite>,
}

/// What the test's own use of Tokyo Tyrant's functions leaves for the next.
#[derive(Default)]
struct Own {
    stash: Stash,
    iterator: Cursor,
    generation: u64,
}

impl<'a> Shards<'a> {
    pub(super) fn new(linker: &'a Linker<'a>, settings: &'a TestSettings, surroundings: Surroundings) -> Self {
        let mut head = ShardHead::default();
        head.advance_to(Moment { now_ms: CLOCK_BEGINS_MS });
        Shards {
            linker,
            settings,
            surroundings,
            state: MemoryView::new(),
            head,
            runtimes: BTreeMap::new(),
            databases: settings.databases.map(|make| make()),
            own: Own::default(),
            output: Vec::new(),
        }
    }

    /// Moves the clock, and tells the time.
    pub(super) fn advance(&mut self, by_ms: u64) -> u64 {
        self.head.advance_to(Moment { now_ms: self.head.clock_ms.saturating_add(by_ms) });
        self.surroundings.set_now_ms(self.head.clock_ms);
        self.head.clock_ms
    }

    /// One operation of the test itself, on whichever shard. As [`Access::enter`], and committed at once.
    pub(super) fn operate(
        &mut self,
        lua: &Lua,
        arguments: MultiValue,
        machine: &Machine,
        (file, environment): (&str, &LuaTable),
    ) -> mlua::Result<(Value, Value, Value)> {
        let trace = Trace::begin();
        let mut transaction = Transaction::new(&self.state, self.head, &self.settings.limits);
        let everywhere = |_: &[u8]| Ok(());
        let stash = &mut self.own.stash;
        let log = CallLog::new((file, 0), "test", None, false);
        let mut access = Access::new(&mut transaction, &everywhere, machine.budget(), log, Some(&trace), stash);
        access.surroundings = self.surroundings.clone();
        access.environment = Some(environment.clone());
        if let Some(databases) = self.databases.as_deref_mut() {
            access.sql = Some(Sql { databases, context: machine.context(), key: None, others_wait: false });
        }
        access.iterator = std::mem::take(&mut self.own.iterator);
        access.generation = self.own.generation;
        let answer = access.enter(lua, arguments);
        (self.own.iterator, self.own.generation) = (std::mem::take(&mut access.iterator), access.generation);
        if matches!(&answer, Ok((Value::Nil, ..))) {
            let (effects, head) = transaction.finish();
            self.state.apply(&effects);
            self.head = head;
            self.own.stash.keep();
            self.keep_lines("", &trace.into_steps());
        } else {
            self.own.stash.undo();
        }
        answer
    }

    /// A call, as a server makes it.
    pub(super) fn call(&mut self, request: &CallRequest) -> Called {
        let shard_id = shard_of_key(&request.key, self.settings.shard_count);
        let (surroundings, limits) = (&self.surroundings, self.settings.limits);
        let runtime = self.runtimes.entry(shard_id).or_insert_with(|| Runtime::within(surroundings.clone(), limits, 0));
        let ready = runtime.warm_up().and_then(|()| self.chosen(request));
        // What a server has done before a call comes is no part of it.
        let trace = Trace::begin();
        let outcome = ready.and_then(|(linked, function)| self.run(request, &linked, function, shard_id, &trace));
        let steps = trace.into_steps();
        self.keep_lines(&format!("{}: ", request.procedure), &steps);
        match outcome {
            Ok((result, writes)) => Called { outcome: Ok(result), steps, writes },
            Err(failure) => Called { outcome: Err(failure), steps, writes: Vec::new() },
        }
    }

    /// What the call runs.
    fn chosen<'r>(&self, request: &'r CallRequest) -> Result<(Rc<Linked>, &'r str), Failure> {
        cirrus_engine::validate(&Command { kind: Some(Kind::Call(request.clone())) }, &self.settings.limits)?;
        let ProcedureName { library, version, function } = ProcedureName::parse(&request.procedure)?;
        // Libraries are files: what is no name must not become a path.
        if !is_name(library) {
            return Err(ProcedureName::malformed(&request.procedure));
        }
        Ok((self.linker.find(library, version)?, function))
    }

    fn run(
        &mut self,
        request: &CallRequest,
        linked: &Linked,
        function: &str,
        shard_id: u32,
        trace: &Trace,
    ) -> Result<(CallResult, Vec<TestWrite>), Failure> {
        let TestSettings { limits, shard_count, .. } = *self.settings;
        let scope = ShardScope::new(shard_id, shard_count, &request.key);
        request.more_keys.iter().try_for_each(|key| scope.check(key))?;
        let view = ShardView { state: &self.state, shard_id, shard_count };
        let mut transaction = Transaction::new(&view, self.head, &limits);
        let before = transaction.savepoint();
        let Some(runtime) = self.runtimes.get_mut(&shard_id) else {
            return Err(Failure::internal(format!("shard {shard_id} has no runtime")));
        };
        let invocation = Invocation {
            library: &linked.source,
            required: &linked.required,
            function,
            declaration: linked.inspected.declarations.iter().find(|declaration| declaration.name == function),
            key: &request.key,
            more_keys: &request.more_keys,
            arguments: match request.typed_result {
                true => Arguments::Values(&request.values),
                false => Arguments::Strings(&request.args),
            },
            typed_result: request.typed_result,
            trace: Some(trace),
            dry_run: false,
            patience: None,
        };
        let databases = self.databases.as_mut().map(|databases| &mut **databases as &mut dyn SqlDatabases);
        let outcome = runtime.call(invocation, &mut transaction, &scope, databases)?;
        let writes = transaction.values_written_after(before)?.into_iter().map(|(key, value)| TestWrite {
            key,
            expires_at_ms: value.as_ref().map_or(0, |value| value.expires_at_ms),
            value: value.map(|value| value.value),
        });
        let writes = writes.collect();
        let (effects, head) = transaction.finish();
        self.state.apply(&effects);
        self.head = head;
        Ok((outcome.result, writes))
    }

    /// Keeps what the steps logged.
    fn keep_lines(&mut self, who: &str, steps: &[Step]) {
        let is_log =
            |step: &&Step| matches!(&*step.operation, "print" | "log" | "_log") || step.operation.starts_with("log.");
        for step in steps.iter().filter(is_log) {
            match self.output.len() {
                ..OUTPUT_LINES_MAX => self.output.push(format!("{who}{}", step.text)),
                OUTPUT_LINES_MAX => self.output.push("further lines dropped".to_owned()),
                _ => return,
            }
        }
    }
}

/// What a shard's executor sees of the state.
struct ShardView<'a> {
    state: &'a MemoryView,
    shard_id: u32,
    shard_count: u32,
}

impl View for ShardView<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        self.state.get(table, key)
    }

    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), ViewError> {
        self.state.scan(table, start, end, &mut |key, value| {
            if table == Table::Data && shard_of_key(key, self.shard_count) != self.shard_id {
                return std::ops::ControlFlow::Continue(());
            }
            visit(key, value)
        })
    }
}
