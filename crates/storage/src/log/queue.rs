//! The bounded queue between everyone who changes a log and the one thread that writes.
//!
//! Urgent operations (appends, votes) have someone waiting for their fsync: one wakes the writer at once, with no
//! timer and no lingering; a writer that has just written has not gone to sleep yet. Lazy ones (committed, truncate, purge) wait for an urgent one to ride with, for at most
//! a bounded time. Both keep the one order in which they came.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cirrus_proto::internal::v1::{LogId, Vote};
use parking_lot::{Condvar, Mutex};

use super::entry::EncodedEntry;
use crate::StorageError;

/// Told once, from the writer thread, after the fsync or its failure. It must not block, and must not wait for
/// anything that the log does.
pub type Done = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

/// How long the writer looks for urgent operations before it sleeps. To wake it costs whoever pushes a system call
/// and, where its processor sleeps too, the operation tens of microseconds.
const AWAKE_MAX: Duration = Duration::from_micros(30);

/// What an operation counts in the queue beyond its entries' bytes.
const OPERATION_BYTES: usize = 64;

/// One change of one shard's log.
pub(super) struct Operation {
    pub(super) shard_id: u32,
    pub(super) change: Change,
}

pub(super) enum Change {
    Append { entries: Vec<Arc<EncodedEntry>>, done: Done },
    Vote { vote: Vote, done: Done },
    Committed { log_id: Option<LogId> },
    Truncate { removed: RangeInclusive<u64> },
    Purge { log_id: LogId },
}

impl Operation {
    fn is_urgent(&self) -> bool {
        matches!(self.change, Change::Append { .. } | Change::Vote { .. })
    }

    pub(super) fn bytes(&self) -> usize {
        match &self.change {
            Change::Append { entries, .. } => append_bytes(entries),
            _ => OPERATION_BYTES,
        }
    }

    /// Tells whoever waits.
    pub(super) fn complete(self, outcome: Result<(), StorageError>) {
        match self.change {
            Change::Append { done, .. } | Change::Vote { done, .. } => done(outcome),
            Change::Committed { .. } | Change::Truncate { .. } | Change::Purge { .. } => {}
        }
    }
}

fn append_bytes(entries: &[Arc<EncodedEntry>]) -> usize {
    OPERATION_BYTES + entries.iter().map(|entry| entry.memory_bytes()).sum::<usize>()
}

/// Room in the queue for an operation that is about to be pushed.
#[must_use]
pub(super) struct Reservation(usize);

impl Reservation {
    pub(super) fn for_append(entries: &[Arc<EncodedEntry>]) -> Self {
        Self(append_bytes(entries))
    }

    pub(super) fn small() -> Self {
        Self(OPERATION_BYTES)
    }
}

pub(super) struct Queue {
    state: Mutex<QueueState>,
    /// Urgent operations in the queue. Changed with the state locked, looked at without.
    urgent: AtomicUsize,
    wake: Condvar,
    room: Condvar,
    queue_bytes_max: usize,
    batch_bytes_max: usize,
    lazy_delay_max: Duration,
}

#[derive(Default)]
struct QueueState {
    operations: VecDeque<Operation>,
    /// Bytes reserved, queued, or being written.
    bytes: usize,
    pushed: u64,
    taken: u64,
    waiting_for_room: usize,
    sleep: Sleep,
    refusal: Option<StorageError>,
}

/// What the writer waits for, so that a push wakes it only when it must.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Sleep {
    #[default]
    Awake,
    /// Wakes by itself within the lazy delay.
    Timed,
    /// Wakes for any operation.
    Untimed,
}

impl Queue {
    pub(super) fn new(queue_bytes_max: usize, batch_bytes_max: usize, lazy_delay_max: Duration) -> Self {
        Self {
            state: Mutex::default(),
            urgent: AtomicUsize::new(0),
            wake: Condvar::new(),
            room: Condvar::new(),
            queue_bytes_max,
            batch_bytes_max,
            lazy_delay_max,
        }
    }

    /// Waits for room. Separate from [`Self::push`], so that no lock is held while waiting.
    pub(super) fn reserve(&self, wanted: Reservation) -> Result<Reservation, StorageError> {
        let mut state = self.state.lock();
        loop {
            if let Some(refusal) = &state.refusal {
                return Err(refusal.clone());
            }
            // Alone, an operation larger than the whole queue may pass: it must, some time.
            if state.bytes == 0 || state.bytes + wanted.0 <= self.queue_bytes_max {
                state.bytes += wanted.0;
                return Ok(wanted);
            }
            state.waiting_for_room += 1;
            self.room.wait(&mut state);
            state.waiting_for_room -= 1;
        }
    }

    /// Gives back room that was not used.
    pub(super) fn cancel(&self, reservation: Reservation) {
        self.release(reservation.0);
    }

    /// Adds an operation for which room was reserved. Returns its place in the one order of the node's log.
    pub(super) fn push(&self, operation: Operation, reservation: Reservation) -> Result<u64, StorageError> {
        debug_assert_eq!(operation.bytes(), reservation.0);
        let mut state = self.state.lock();
        if let Some(refusal) = &state.refusal {
            return Err(refusal.clone());
        }
        let urgent = operation.is_urgent();
        state.operations.push_back(operation);
        self.urgent.fetch_add(usize::from(urgent), Ordering::Relaxed);
        state.pushed += 1;
        let sequence = state.pushed;
        let wake = match state.sleep {
            Sleep::Awake => false,
            Sleep::Timed => urgent,
            Sleep::Untimed => true,
        };
        if wake {
            // Whoever pushes next need not wake it again.
            state.sleep = Sleep::Awake;
            drop(state);
            self.wake.notify_one();
        }
        Ok(sequence)
    }

    /// Waits for work and moves one batch of it to `batch`. Returns the sequence of its last operation, or none
    /// once the queue is closed and empty.
    pub(super) fn take(&self, batch: &mut Vec<Operation>) -> Option<u64> {
        self.stay_awake();
        let mut state = self.state.lock();
        let mut idle = false;
        while !self.has_urgent() && state.refusal.is_none() {
            if state.operations.is_empty() && idle {
                state.sleep = Sleep::Untimed;
                self.wake.wait(&mut state);
                idle = false;
            } else {
                state.sleep = Sleep::Timed;
                let timed_out = self.wake.wait_for(&mut state, self.lazy_delay_max).timed_out();
                if timed_out && !state.operations.is_empty() {
                    break;
                }
                idle = timed_out;
            }
        }
        state.sleep = Sleep::Awake;
        let mut bytes = 0;
        while bytes <= self.batch_bytes_max
            && let Some(operation) = state.operations.pop_front()
        {
            bytes += operation.bytes();
            self.urgent.fetch_sub(usize::from(operation.is_urgent()), Ordering::Relaxed);
            state.taken += 1;
            batch.push(operation);
        }
        (!batch.is_empty()).then_some(state.taken)
    }

    /// Returns once there is an urgent operation, or after [`AWAKE_MAX`]; whoever else wants the processor has it.
    fn stay_awake(&self) {
        let sleeps_at = Instant::now() + AWAKE_MAX;
        while !self.has_urgent() && Instant::now() < sleeps_at {
            std::thread::yield_now();
        }
    }

    fn has_urgent(&self) -> bool {
        self.urgent.load(Ordering::Relaxed) > 0
    }

    /// Gives back the room of operations that are done.
    pub(super) fn release(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.bytes -= bytes;
        if state.waiting_for_room > 0 {
            drop(state);
            self.room.notify_all();
        }
    }

    /// Refuses everything from now on; what is queued is still taken. The first reason stays.
    pub(super) fn close(&self, reason: StorageError) {
        self.state.lock().refusal.get_or_insert(reason);
        self.wake.notify_one();
        self.room.notify_all();
    }

    /// Refuses everything from now on because writing failed, and hands back what will never be written.
    pub(super) fn fail(&self, error: StorageError) -> VecDeque<Operation> {
        let abandoned = {
            let mut state = self.state.lock();
            state.refusal = Some(error);
            self.urgent.store(0, Ordering::Relaxed);
            std::mem::take(&mut state.operations)
        };
        self.room.notify_all();
        abandoned
    }

    pub(super) fn refusal(&self) -> Option<StorageError> {
        self.state.lock().refusal.clone()
    }
}
