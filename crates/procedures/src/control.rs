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
    sequence: u64,
    running: Option<RunningCall>,
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
        CallControl { state: Mutex::new(State { sequence, running: None }), killed: Arc::default() }
    }

    /// The call that runs now.
    pub fn running(&self) -> Option<RunningCall> {
        self.state.lock().running.clone()
    }

    /// Ends the call of that number at its next interrupt. False where it has ended already.
    pub fn kill(&self, sequence: u64) -> bool {
        let state = self.state.lock();
        let runs = state.running.as_ref().is_some_and(|call| call.sequence == sequence);
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
        state.sequence = state.sequence.wrapping_add(1);
        state.running = Some(RunningCall {
            sequence: state.sequence,
            library: invocation.library.name.clone(),
            version: invocation.library.version,
            function: invocation.function.to_owned(),
            key: invocation.key.clone(),
            began: Instant::now(),
        });
        self.killed.store(false, Relaxed);
    }

    /// Whether the call was killed: nobody can kill it from now on.
    pub(crate) fn end(&self) -> bool {
        let mut state = self.state.lock();
        state.running = None;
        self.killed.swap(false, Relaxed)
    }
}
