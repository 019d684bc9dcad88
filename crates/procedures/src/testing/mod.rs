//! Tests of libraries, before any server has them: a test file runs against shards in memory, through the runtime
//! that a shard's executor has.
//!
//! The functions of a test file whose names begin with `test`, global or in the table that it returns, are its tests.
//! They run one after another in the order of the source. For each, everything is new: the machine, in which the
//! file runs from its top; the shards; the clock, which stands at the beginning of 2026 until the test moves it; and the
//! random numbers, which follow from a seed.
//!
//! A test finds all that a procedure finds, and
//!
//! | call | result |
//! | --- | --- |
//! | `call("library.function", key, …)` | the result of a call, made as a server makes it: in an environment of its own, within its limits, its declaration and its shard; what it wrote is there if it succeeded. Arguments and result have types. In place of the key may stand a table of several. A failure is raised as a table with `reason`, `message`, `line`, `code`, `procedure_reason`, `metadata` |
//! | `call_text("library.function", key, …)` | the same for a caller without types: arguments are texts, and so is the result |
//! | `expect.equal(actual, expected[, message])` | nothing; fails the test where they differ. Tables are compared by what they hold |
//! | `expect.error(reason, function, …)` | the error that the function raised; fails the test where it raised none, or one with another reason, procedure's reason or code |
//! | `expect.match(text, pattern[, message])` | nothing; fails the test where the text does not match Lua's pattern |
//! | `advance(ms)` | the new time; moves the clock |
//!
//! `kv.*`, Tokyo Tyrant's functions, and `sql.*` with a user that is named, work on all shards, without a call around them: each is
//! committed at once. `require` finds what `call` does. What the test prints is kept for its report.
//!
//! A test ends: after its CPU time, 10 s unless set, it is killed, and reported as failed.

mod describe;
mod report;
mod rig;
mod shards;

use std::time::Instant;

use cirrus_proto::limits::Limits;

pub use report::{Frame, TestCall, TestFailure, TestReport, TestWrite};

use crate::databases::SqlDatabases;
use crate::sources::Linker;
use rig::Rig;

/// The functions that tests find beside those of procedures.
pub(crate) const FUNCTIONS: [&str; 3] = ["advance", "call", "call_text"];

/// The functions of their table `expect`.
pub(crate) const EXPECTATIONS: [&str; 3] = ["equal", "error", "match"];

/// What editors should know of these, as definitions for luau-lsp: a part of a `.d.luau` file.
pub const TYPES: &str = include_str!("types.d.luau");

/// A test file.
#[derive(Clone, Copy, Debug)]
pub struct TestFile<'a> {
    /// As messages have it, such as `stock_test.lua`.
    pub name: &'a str,
    /// Luau or Lua 5.1, UTF-8.
    pub source: &'a [u8],
}

/// What tests run with.
#[derive(Clone, Debug)]
pub struct TestSettings {
    /// Of the node that calls would run on.
    pub limits: Limits,
    /// Data shards, from 1: the hash tags of keys decide as in a cluster of so many.
    pub shard_count: u32,
    /// What is random in tests and calls follows from it: a test repeats, also alone.
    pub seed: u64,
    /// CPU time of one test, milliseconds.
    pub test_cpu_ms: u64,
    /// Memory of one test, without that of the calls, bytes.
    pub test_memory_bytes: usize,
    /// Makes what runs SQL in a test; `None`: nothing does.
    pub databases: Option<fn() -> Box<dyn SqlDatabases>>,
}

impl Default for TestSettings {
    fn default() -> Self {
        TestSettings {
            limits: Limits::DEFAULT,
            shard_count: 8,
            seed: 1,
            test_cpu_ms: 10_000,
            test_memory_bytes: 256 * 1024 * 1024,
            databases: None,
        }
    }
}

/// Runs the tests of a file that `wanted` is true for, and hands each one's report to `finished` as it ends. Their
/// number.
///
/// Fails where the file itself does: it does not compile, or raises an error at its top level.
pub fn run_tests(
    file: TestFile<'_>,
    linker: &Linker<'_>,
    settings: &TestSettings,
    wanted: &dyn Fn(&str) -> bool,
    finished: &mut dyn FnMut(TestReport),
) -> Result<usize, Box<TestFailure>> {
    let compiled = crate::library::compile(file.name, file.source);
    let bytecode = compiled.map_err(|failure| TestFailure::of_file(file.name, &failure))?;
    let rig = || Rig::new(file, &bytecode, linker, settings);
    let tests: Vec<String> = rig()?.list()?.into_iter().filter(|name| wanted(name)).collect();
    for name in &tests {
        let rig = rig()?;
        let began = Instant::now();
        let failure = rig.run(name).err();
        finished(rig.report(name, began.elapsed(), failure));
    }
    Ok(tests.len())
}
