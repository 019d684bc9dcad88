//! The call that a runtime runs, as others see it, and how they end it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::runtime::Invocation;

/// Shared by one runtime and whoever watches it.
///
/// A kill that was accepted is kept: whatever the call has done by then, its outcome is that it was killed.
#[derive(Debug)]
pub struct CallControl {
    state: Mutex<State>,
    /// The running call is to end. Read at every interrupt.
    killed: Arc<AtomicBool>,
}

#[derive(Debug)]
struct State {
    runs: bool,
    /// The call that runs, else the last one, whose text the next one uses again.
    call: RunningCall,
}

/// A call that has not ended.
#[derive(Clone, Debug)]
pub struct RunningCall {
    /// Names the call within its runtime.
    pub sequence: u64,
    /// The library that exports the function.
    pub library: String,
    /// The library's version.
    pub version: u64,
    /// The function.
    pub function: String,
    /// The routing key.
    pub key: Bytes,
    /// When it began.
    pub began: Instant,
}

impl CallControl {
    /// The first call is numbered after `sequence`.
    pub(crate) fn new(sequence: u64) -> Self {
        let call = RunningCall {
            sequence,
            library: String::new(),
            version: 0,
            function: String::new(),
            key: Bytes::new(),
            began: Instant::now(),
        };
        CallControl { state: Mutex::new(State { runs: false, call }), killed: Arc::default() }
    }

    /// The call that runs now.
    pub fn running(&self) -> Option<RunningCall> {
        let state = self.state.lock();
        state.runs.then(|| state.call.clone())
    }

    /// Ends the call of that number at its next interrupt. False where it has ended already.
    pub fn kill(&self, sequence: u64) -> bool {
        let state = self.state.lock();
        let runs = state.runs && state.call.sequence == sequence;
        if runs {
            self.killed.store(true, Relaxed);
        }
        runs
    }

    pub(crate) fn killed(&self) -> Arc<AtomicBool> {
        self.killed.clone()
    }

    pub(crate) fn begin(&self, invocation: &Invocation<'_>) {
        let mut state = self.state.lock();
        state.runs = true;
        let call = &mut state.call;
        call.sequence = call.sequence.wrapping_add(1);
        call.library.clone_from(&invocation.library.name);
        call.version = invocation.library.version;
        call.function.clear();
        call.function.push_str(invocation.function);
        call.key = invocation.key.clone();
        call.began = Instant::now();
        self.killed.store(false, Relaxed);
    }

    /// Whether the call was killed: nobody can kill it from now on.
    pub(crate) fn end(&self) -> bool {
        let mut state = self.state.lock();
        state.runs = false;
        self.killed.swap(false, Relaxed)
    }
}
