//! Reads that take the processor for long, or block: beside the shards' executors, on threads for what blocks, each on
//! one moment of its shard's state.

use std::sync::Arc;
use std::time::Instant;

use cirrus_proto::{Failure, Reason};
use cirrus_replication::{Shard, SnapshotView};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// Reads that run at once for each of the machine's cores. Two, so that one that waits for the disk leaves its core to
/// another.
const READS_PER_CORE: usize = 2;

/// Bounds reads of one kind, and keeps what they are made with.
pub(crate) struct ReadPool<T> {
    /// For messages, such as "call".
    what: &'static str,
    places: Arc<Semaphore>,
    /// Tools that are not in use: never more than there are places.
    idle: Arc<Mutex<Vec<T>>>,
}

impl<T: Send + 'static> ReadPool<T> {
    pub(crate) fn new(what: &'static str) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        ReadPool { what, places: Arc::new(Semaphore::new(cores * READS_PER_CORE)), idle: Arc::default() }
    }

    /// Reads the newest state of this node's replica, with a tool that is idle or, where none is, with a new one. Waits
    /// for its turn until the deadline.
    ///
    /// # Errors
    /// DEADLINE_EXCEEDED; those of `make` and `read`.
    pub(crate) async fn run<R: Send + 'static>(
        &self,
        shard: &Shard,
        deadline: Instant,
        make: impl FnOnce() -> Result<T, Failure>,
        read: impl FnOnce(&mut T, &SnapshotView<'_>) -> Result<R, Failure> + Send + 'static,
    ) -> Result<R, Failure> {
        let what = self.what;
        let late = || {
            let problem = format!("the deadline passed while the {what} waited for its turn");
            Failure::new(Reason::DeadlineExceeded, problem)
        };
        let waiting = tokio::time::timeout_at(deadline.into(), self.places.clone().acquire_owned());
        let place = waiting.await.map_err(|_| late())?.map_err(Failure::internal)?;
        let kept = self.idle.lock().pop();
        let mut tool = kept.map_or_else(make, Ok)?;
        let (state, idle) = (shard.state().clone(), self.idle.clone());
        let answered = tokio::task::spawn_blocking(move || {
            let _place = place;
            let pinned = state.pin();
            let snapshot = pinned.snapshot().map_err(Failure::internal);
            let outcome = snapshot.and_then(|snapshot| read(&mut tool, &SnapshotView(snapshot)));
            idle.lock().push(tool);
            outcome
        });
        answered.await.map_err(|error| Failure::internal(format!("a {what}: {error}")))?
    }
}
