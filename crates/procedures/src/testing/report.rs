//! What became of a test.

use std::time::Duration;

use bytes::Bytes;
use cirrus_proto::Failure;

use crate::trace::Step;

/// One test that ran.
#[derive(Clone, Debug)]
pub struct TestReport {
    /// The function's name.
    pub name: String,
    /// How long it took.
    pub took: Duration,
    /// Why it failed; `None`: it passed.
    pub failure: Option<Box<TestFailure>>,
    /// What it and its calls logged and printed, up to 1,000 lines.
    pub output: Vec<String>,
    /// The call that it made last.
    pub last_call: Option<TestCall>,
}

/// Why a test failed, or its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestFailure {
    /// Without the place.
    pub message: String,
    /// The test file's line, where one is known.
    pub line: Option<u32>,
    /// Where two values were compared: the one that should have been, as Lua would write it.
    pub expected: Option<String>,
    /// The one that was.
    pub actual: Option<String>,
    /// The reason, where a call failed.
    pub reason: Option<String>,
    /// What led there, the innermost first: the places in the test file and in libraries that it runs itself.
    pub stack: Vec<Frame>,
}

/// A place in a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The test file's name, or a library's.
    pub source: String,
    /// From 1.
    pub line: u32,
    /// The function, where it has a name.
    pub function: Option<String>,
}

/// A call that a test made.
#[derive(Clone, Debug)]
pub struct TestCall {
    /// "library.function".
    pub procedure: String,
    /// The key and the arguments, as Lua would write them.
    pub arguments: Vec<String>,
    /// The result, as Lua would write it, or the failure.
    pub outcome: Result<String, Failure>,
    /// What it did, up to 1,000 steps.
    pub steps: Vec<Step>,
    /// What it wrote, one for each key; nothing where it failed.
    pub writes: Vec<TestWrite>,
}

/// What a call left of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestWrite {
    /// The key.
    pub key: Bytes,
    /// Its value; `None`: removed.
    pub value: Option<Bytes>,
    /// Absolute expiry, Unix milliseconds. 0: never.
    pub expires_at_ms: u64,
}

impl TestFailure {
    /// The file cannot be compiled.
    pub(super) fn of_file(file: &str, failure: &Failure) -> Box<Self> {
        let line: Option<u32> = failure.metadata.get("line").and_then(|line| line.parse().ok());
        let place = line.map(|line| format!("{file}:{line}: ")).unwrap_or_default();
        let message = failure.message.strip_prefix(&place).unwrap_or(&failure.message).to_owned();
        Box::new(TestFailure { message, line, ..TestFailure::default() })
    }

    /// Something is wrong with the machine and not with the test.
    pub(super) fn internal(error: &mlua::Error) -> Box<Self> {
        Box::new(TestFailure { message: error.to_string(), ..TestFailure::default() })
    }
}
