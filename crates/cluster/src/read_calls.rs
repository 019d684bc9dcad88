//! Calls of procedures that are declared read-only: reads, which any replica serves, beside the shard's executor.
//!
//! Each sees one moment of its shard's state, and runs on a thread for what blocks, with a runtime of a bounded pool.

use std::sync::Arc;
use std::time::Instant;

use cirrus_engine::{ShardHead, Transaction};
use cirrus_proto::v1::{CallRequest, CallResponse};
use cirrus_proto::{Failure, Reason};
use cirrus_replication::{Shard, SnapshotView, Stopped, wall_clock};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::caller::{Caller, Calling};
use crate::running_calls::{CallControls, RuntimeId};

/// Read-only calls that run at once for each of the machine's cores. Two, so that one that waits for the disk leaves
/// its core to another.
const CALLS_PER_CORE: usize = 2;

/// This node's read-only calls.
pub(crate) struct ReadCalls {
    calling: Calling,
    controls: Arc<CallControls>,
    places: Arc<Semaphore>,
    /// Runtimes that run nothing now, and how many were made.
    idle: Arc<Mutex<(Vec<Caller>, u32)>>,
}

impl ReadCalls {
    pub(crate) fn new(calling: Calling, controls: Arc<CallControls>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let places = Arc::new(Semaphore::new(cores * CALLS_PER_CORE));
        ReadCalls { calling, controls, places, idle: Arc::default() }
    }

    /// Runs the call on the newest state of this node's replica. Waits for its turn until the deadline.
    ///
    /// # Errors
    /// NOT_READ_ONLY where the version that is to run does not declare the function so; PROCEDURE_SUSPENDED,
    /// LIBRARY_BUSY, LIBRARY_BUDGET_EXCEEDED; DEADLINE_EXCEEDED; the call's own.
    pub(crate) async fn run(
        &self,
        shard: &Shard,
        request: CallRequest,
        deadline: Instant,
    ) -> Result<CallResponse, Failure> {
        self.calling.governor.admit_arriving(&self.calling.catalog, shard, &request)?;
        let late = || Failure::new(Reason::DeadlineExceeded, "the deadline passed while the call waited for its turn");
        let waiting = tokio::time::timeout_at(deadline.into(), self.places.clone().acquire_owned());
        let place = waiting.await.map_err(|_| late())?.map_err(Failure::internal)?;
        let mut caller = self.caller();
        let (shard_id, state, limits, idle) =
            (shard.id(), shard.state().clone(), self.calling.limits, self.idle.clone());
        let called = tokio::task::spawn_blocking(move || {
            let _place = place;
            caller.serve(shard_id);
            let pinned = state.pin();
            let outcome = pinned.snapshot().map_err(Failure::internal).and_then(|snapshot| {
                let view = SnapshotView(snapshot);
                let mut head = ShardHead::load(&view)?;
                head.advance_to(wall_clock());
                match caller.read(&request, &mut Transaction::new(&view, head, &limits)) {
                    Ok(response) => Ok(response),
                    Err(Stopped::Failed(failure)) => Err(failure),
                    Err(Stopped::TooLong) => Err(Failure::internal("a read-only call gave up its own thread")),
                }
            });
            idle.lock().0.push(caller);
            outcome
        });
        called.await.map_err(|error| Failure::internal(format!("a read-only call: {error}")))?
    }

    /// One that is idle, or a new one: as many as there are places.
    fn caller(&self) -> Caller {
        let mut idle = self.idle.lock();
        if let Some(caller) = idle.0.pop() {
            return caller;
        }
        let number = idle.1;
        idle.1 += 1;
        let caller = Caller::new(0, &self.calling);
        self.controls.register(RuntimeId::Reader(number), caller.control());
        caller
    }
}
