//! Hashing a replica's state as it is at one log index, while entries go on being applied, so that replicas can be compared.
//!
//! Whoever wants a hash at an index says so before apply gets there ([`ApplyStops`]). Apply then writes what it has up to
//! that entry, and waits until a snapshot of the state is taken: milliseconds. Hashing goes on beside it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cirrus_proto::{Failure, Reason};
use cirrus_storage::{ShardState, StateHash, StorageError};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::shard::Shard;

/// The longest that apply waits for a snapshot. One that is taken later stands at another index, and says so.
const STOP_BOUND: Duration = Duration::from_secs(1);

/// Nobody waits for any index.
const NONE: u64 = u64::MAX;

/// The indexes at which apply is to stop for a moment.
pub(crate) struct ApplyStops {
    /// The lowest of them, for apply to look at after each entry.
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, Vec<oneshot::Sender<Stopped>>>>,
}

/// Apply stands at the index until this is dropped.
struct Stopped {
    _go_on: oneshot::Sender<()>,
}

impl Default for ApplyStops {
    fn default() -> Self {
        ApplyStops { next: AtomicU64::new(NONE), waiting: Mutex::default() }
    }
}

impl ApplyStops {
    fn ask(&self, index: u64) -> oneshot::Receiver<Stopped> {
        let (sender, stopped) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        waiting.entry(index).or_default().push(sender);
        self.update(&waiting);
        stopped
    }

    /// Forgets those who gave up.
    fn tidy_up(&self) {
        let mut waiting = self.waiting.lock();
        waiting.retain(|_, senders| {
            senders.retain(|sender| !sender.is_closed());
            !senders.is_empty()
        });
        self.update(&waiting);
    }

    fn update(&self, waiting: &BTreeMap<u64, Vec<oneshot::Sender<Stopped>>>) {
        self.next.store(waiting.keys().next().copied().unwrap_or(NONE), Ordering::Release);
    }

    /// Whether apply is to stop after this entry.
    pub(crate) fn are_at(&self, index: u64) -> bool {
        index >= self.next.load(Ordering::Acquire)
    }

    /// Stops until those who asked for this index have their snapshots, or a bound has passed. Whoever asked for an earlier one
    /// has missed it.
    pub(crate) async fn stop_at(&self, index: u64) {
        let reached = {
            let mut waiting = self.waiting.lock();
            let later = waiting.split_off(&(index + 1));
            let reached = std::mem::replace(&mut *waiting, later).remove(&index);
            self.update(&waiting);
            reached.unwrap_or_default()
        };
        let stopped = reached.into_iter().filter_map(|sender| {
            let (go_on, told) = oneshot::channel();
            sender.send(Stopped { _go_on: go_on }).ok().map(|()| told)
        });
        // An error is what a dropped sender gives.
        let all = futures::future::join_all(stopped.collect::<Vec<_>>());
        if tokio::time::timeout(STOP_BOUND, all).await.is_err() {
            tracing::warn!(index, "a snapshot for a hash was not taken in time; apply goes on");
        }
    }
}

impl Shard {
    /// The hash of this replica's state once it has applied the entry at `index`. It reads all of it, on a thread that may
    /// block, at most `bytes_per_second` of keys and values; given up when the future is dropped. Where the replica is past
    /// `index` already, or a snapshot installs a later state, the hash is that of a later entry, as it says.
    ///
    /// # Errors
    /// DEADLINE_EXCEEDED where the entry is not applied within `wait`; INTERNAL where the state is unreadable.
    pub async fn hash_state(&self, index: u64, wait: Duration, bytes_per_second: u64) -> Result<StateHash, Failure> {
        let stopped = self.stop_apply(index, wait).await?;
        let state = self.state().clone();
        let given_up = GivenUp::default();
        let watched = given_up.0.clone();
        let hashed = tokio::task::spawn_blocking(move || hash(&state, stopped, bytes_per_second, &watched));
        let hashed = hashed.await.map_err(|error| Failure::internal(format!("hashing a state: {error}")))?;
        hashed.map_err(Failure::internal)?.ok_or_else(|| Failure::internal("hashing a state was given up"))
    }

    /// Returns once the entry is applied; with apply held up, where it was waited for.
    async fn stop_apply(&self, index: u64, wait: Duration) -> Result<Option<Stopped>, Failure> {
        let stops = self.apply_stops();
        let stopped = stops.ask(index);
        // Only now: what was applied before could not stop for this.
        if self.applied_next() > index {
            drop(stopped);
            stops.tidy_up();
            return Ok(None);
        }
        let applied = self.wait_applied(index, Instant::now() + wait);
        let outcome = tokio::select! {
            biased;
            stopped = stopped => Ok(stopped.ok()),
            // By an installed snapshot, which goes past all entries at once.
            applied = applied => applied.map(|()| None),
        };
        stops.tidy_up();
        match outcome {
            Err(failure) if self.applied_next() <= index => {
                Err(Failure { reason: Reason::DeadlineExceeded, ..failure })
            }
            Err(_) => Ok(None),
            stopped => stopped,
        }
    }
}

/// Set when it is dropped.
#[derive(Default)]
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn hash(
    state: &ShardState,
    stopped: Option<Stopped>,
    bytes_per_second: u64,
    given_up: &AtomicBool,
) -> Result<Option<StateHash>, StorageError> {
    let pinned = state.pin();
    let snapshot = pinned.snapshot()?;
    drop(stopped);
    let started = Instant::now();
    snapshot.hash(&mut |bytes| {
        let due = Duration::from_secs_f64(bytes as f64 / bytes_per_second.max(1) as f64);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
        if given_up.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn apply_stops_at_the_index_until_the_snapshot_is_taken() {
        let stops = Arc::new(ApplyStops::default());
        assert!(!stops.are_at(u64::MAX - 1), "nobody waits");
        let (missed, mut stopped, later) = (stops.ask(4), stops.ask(5), stops.ask(7));
        assert!(!stops.are_at(3) && stops.are_at(5));

        let applying = tokio::spawn({
            let stops = stops.clone();
            async move { stops.stop_at(5).await }
        });
        let held = (&mut stopped).await.unwrap();
        assert!(!applying.is_finished());
        drop(held);
        applying.await.unwrap();
        assert!(missed.await.is_err(), "entry 4 was passed");
        assert!(!stops.are_at(6) && stops.are_at(7));
        drop(later);
        stops.tidy_up();
        assert!(!stops.are_at(7), "nobody waits any more");
    }

    #[tokio::test(start_paused = true)]
    async fn apply_does_not_wait_for_those_who_went_away_or_sleep() {
        let stops = ApplyStops::default();
        drop(stops.ask(1));
        stops.stop_at(1).await;
        let asleep = stops.ask(2);
        let started = tokio::time::Instant::now();
        stops.stop_at(2).await;
        assert_eq!(started.elapsed().as_secs(), STOP_BOUND.as_secs());
        drop(asleep);
    }
}
