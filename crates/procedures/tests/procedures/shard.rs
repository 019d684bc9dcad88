//! One shard in memory, with the runtime of its executor.

use std::time::Duration;

use bytes::Bytes;
use cirrus_engine::{MemoryView, Moment, ShardHead, Transaction, Value};
use cirrus_procedures::{
    Arguments, CallResult, Invocation, LibrarySource, LogSink, Runtime, SqlDatabases, Trace, inspect,
};
use cirrus_proto::limits::Limits;
use cirrus_proto::v1::{LuaValue, ProcedureDeclaration};
use cirrus_proto::{Failure, Reason};

pub(crate) struct Shard {
    view: MemoryView,
    head: ShardHead,
    limits: Limits,
    runtime: Runtime,
    versions: Vec<Bytes>,
    /// How many effects the last successful call had.
    pub(crate) effects: usize,
    /// Whether the next calls are dry runs. (Their writes are applied all the same: the caller would discard them.)
    pub(crate) dry_run: bool,
    /// Of the next calls.
    pub(crate) key: Bytes,
    /// Given to the next calls behind the key.
    pub(crate) more_keys: Vec<Bytes>,
    /// Of the next calls; for a thread that others wait for.
    pub(crate) patience: Option<Duration>,
    /// Lent to the next calls.
    pub(crate) databases: Option<Box<dyn SqlDatabases>>,
    /// What keys of another shard begin with.
    pub(crate) keys_elsewhere: Vec<u8>,
    /// Takes down what the next calls do.
    pub(crate) trace: Option<Trace>,
}

/// Keys that begin so lie in another shard.
pub(crate) const ELSEWHERE: &[u8] = b"elsewhere";

impl Shard {
    pub(crate) fn new() -> Self {
        Self::with_limits(Limits::DEFAULT)
    }

    pub(crate) fn with_limits(limits: Limits) -> Self {
        let mut head = ShardHead::default();
        head.advance_to(Moment { now_ms: 1_000_000 });
        let view = MemoryView::new();
        Shard {
            view,
            head,
            limits,
            runtime: Runtime::new(limits, 0),
            versions: Vec::new(),
            effects: 0,
            dry_run: false,
            key: Bytes::from_static(b"k"),
            more_keys: Vec::new(),
            patience: None,
            databases: None,
            keys_elsewhere: ELSEWHERE.to_vec(),
            trace: None,
        }
    }

    /// Somebody gets what calls log.
    pub(crate) fn with_log(self, log: std::sync::Arc<dyn LogSink>) -> Self {
        Shard { runtime: self.runtime.with_log(log), ..self }
    }

    /// Calls `main` of the source, which may be Lua text with `main` as its only function.
    pub(crate) fn main(&mut self, source: &str, args: &[&[u8]]) -> Result<String, Failure> {
        self.call(source, "main", args).map(|result| String::from_utf8_lossy(&result).into_owned())
    }

    /// Runs `body` as a function of `key` and further arguments.
    pub(crate) fn run(&mut self, body: &str) -> Result<String, Failure> {
        self.main(&format!("function main(key, ...)\n{body}\nend"), &[])
    }

    /// Every source is a version of the library `lib`. What the call writes is applied if it succeeds.
    pub(crate) fn call(&mut self, source: &str, function: &str, args: &[&[u8]]) -> Result<Bytes, Failure> {
        let library = self.library(source);
        self.invoke_strings(&library, &[], function, args)
    }

    /// Calls a function of a library that requires others, without arguments.
    pub(crate) fn call_required(
        &mut self,
        library: &LibrarySource,
        required: &[LibrarySource],
        function: &str,
    ) -> Result<Bytes, Failure> {
        self.invoke_strings(library, required, function, &[])
    }

    /// As [`call`](Self::call), with types both ways, held to what the source declares.
    pub(crate) fn call_typed(
        &mut self,
        source: &str,
        function: &str,
        arguments: Arguments<'_>,
    ) -> Result<LuaValue, Failure> {
        let library = self.library(source);
        let resolve = |_: &str, _| Err(Failure::internal("nothing is required here"));
        let declarations = inspect("lib", &library.source, &self.limits, &resolve)?.declarations;
        let declaration = declarations.iter().find(|declaration| declaration.name == function);
        match self.invoke(&library, &[], function, declaration, arguments, true)? {
            CallResult::Value(value) => Ok(value),
            CallResult::Bytes(bytes) => panic!("{bytes:?} where a value was asked for"),
        }
    }

    fn library(&mut self, source: &str) -> LibrarySource {
        let source = Bytes::copy_from_slice(source.as_bytes());
        let version = self.versions.iter().position(|known| *known == source).unwrap_or_else(|| {
            self.versions.push(source.clone());
            self.versions.len() - 1
        });
        LibrarySource { name: "lib".to_owned(), version: version as u64 + 1, source, requires: Vec::new() }
    }

    fn invoke_strings(
        &mut self,
        library: &LibrarySource,
        required: &[LibrarySource],
        function: &str,
        args: &[&[u8]],
    ) -> Result<Bytes, Failure> {
        let args: Vec<Bytes> = args.iter().map(|&arg| Bytes::copy_from_slice(arg)).collect();
        match self.invoke(library, required, function, None, Arguments::Strings(&args), false)? {
            CallResult::Bytes(bytes) => Ok(bytes),
            CallResult::Value(value) => panic!("{value:?} was not asked for"),
        }
    }

    fn invoke(
        &mut self,
        library: &LibrarySource,
        required: &[LibrarySource],
        function: &str,
        declaration: Option<&ProcedureDeclaration>,
        arguments: Arguments<'_>,
        typed_result: bool,
    ) -> Result<CallResult, Failure> {
        let elsewhere = &self.keys_elsewhere[..];
        let scope = |key: &[u8]| match key.starts_with(elsewhere) {
            true => Err(Failure::new(Reason::CrossShard, "the key lies in another shard")),
            false => Ok(()),
        };
        let mut transaction = Transaction::new(&self.view, self.head, &self.limits);
        let invocation = Invocation {
            library,
            required,
            function,
            declaration,
            key: &self.key,
            more_keys: &self.more_keys,
            arguments,
            typed_result,
            trace: self.trace.as_ref(),
            dry_run: self.dry_run,
            patience: self.patience,
        };
        let databases = self.databases.as_mut().map(|databases| &mut **databases as &mut dyn SqlDatabases);
        let outcome = self.runtime.call(invocation, &mut transaction, &scope, databases)?;
        let (effects, head) = transaction.finish();
        self.effects = effects.len();
        self.view.apply(&effects);
        self.head = head;
        Ok(outcome.result)
    }

    pub(crate) fn value(&self, key: &[u8]) -> Option<Value> {
        Transaction::new(&self.view, self.head, &self.limits).get(key).unwrap()
    }

    pub(crate) fn text(&self, key: &[u8]) -> Option<String> {
        self.value(key).map(|value| String::from_utf8_lossy(&value.value).into_owned())
    }

    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) {
        let mut transaction = Transaction::new(&self.view, self.head, &self.limits);
        transaction.put(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value), 0, 0).unwrap();
        let (effects, head) = transaction.finish();
        self.view.apply(&effects);
        self.head = head;
    }

    pub(crate) fn advance_clock(&mut self, by_ms: u64) {
        self.head.advance_to(Moment { now_ms: self.head.clock_ms + by_ms });
    }
}

/// The reason and message of a call that must fail.
pub(crate) fn failed(outcome: Result<String, Failure>) -> (Reason, String) {
    let failure = outcome.unwrap_err();
    (failure.reason, failure.message)
}

/// Runs each body in one shard, one after the other, and compares what they return.
pub(crate) fn answers(cases: &[(&str, &str)]) {
    let mut shard = Shard::new();
    for (body, expected) in cases {
        assert_eq!(shard.run(body).as_deref(), Ok(*expected), "{body}");
    }
}

/// Each body is one call of a function that it raises this error for.
pub(crate) fn misuses(cases: &[(&str, &str)]) {
    let mut shard = Shard::new();
    for (body, expected) in cases {
        assert_eq!(failed(shard.run(body)), (Reason::ProcedureFailed, format!("lib:2: {expected}")), "{body}");
    }
}
