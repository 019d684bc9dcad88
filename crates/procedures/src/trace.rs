//! What one call did, step by step, for whoever asked for it.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mlua::{Lua, Value};

use crate::text::text;

/// Most steps that are kept of one call.
const STEPS_MAX: usize = 1000;

/// Longest key that a step shows, bytes.
const KEY_BYTES_MAX: usize = 1024;

/// One use of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Such as `kv.put`, `_get` or `log`.
    pub operation: String,
    /// The first argument where it is a string or a number, up to 1 KiB: most operations take a key. Of SQL the
    /// database, as "user/dbname".
    pub key: Bytes,
    /// Since the call began.
    pub at: Duration,
    /// How long it took.
    pub took: Duration,
    /// A line that was logged, the statement with the sizes of its parameters, or the error that was raised; else empty.
    pub text: String,
}

/// Takes a call's steps down.
#[derive(Debug)]
pub struct Trace {
    began: Instant,
    steps: RefCell<Vec<Step>>,
}

impl Trace {
    /// A call begins.
    pub fn begin() -> Self {
        Trace { began: Instant::now(), steps: RefCell::new(Vec::new()) }
    }

    /// The first 1,000 steps.
    pub fn into_steps(self) -> Vec<Step> {
        self.steps.into_inner()
    }

    /// Further steps would not be kept.
    pub(crate) fn is_full(&self) -> bool {
        self.steps.borrow().len() >= STEPS_MAX
    }

    pub(crate) fn step(&self, operation: String, key: Bytes, began: Instant, text: String) {
        if self.is_full() {
            return;
        }
        let key = key.slice(..key.len().min(KEY_BYTES_MAX));
        let at = began.duration_since(self.began);
        self.steps.borrow_mut().push(Step { operation, key, at, took: began.elapsed(), text });
    }
}

/// The first of an operation's arguments, if it is a string or a number.
pub(crate) fn key(lua: &Lua, arguments: &[Value]) -> Bytes {
    arguments.first().and_then(|argument| text(lua, argument).ok().flatten()).unwrap_or_default()
}
