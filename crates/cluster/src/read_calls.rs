//! Calls of procedures that are declared read-only: reads, which any replica serves, with a runtime of a bounded pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Instant;

use cirrus_engine::Transaction;
use cirrus_proto::Failure;
use cirrus_proto::limits::SqlLimits;
use cirrus_proto::v1::{CallRequest, CallResponse};
use cirrus_replication::{Shard, SnapshotView, Stopped, head_now};

use crate::caller::{Caller, Calling};
use crate::read_pool::ReadPool;
use crate::running_calls::{CallControls, RuntimeId};
use crate::sql::{Owner, SqlCommands};

/// This node's read-only calls.
pub(crate) struct ReadCalls {
    calling: Calling,
    controls: Arc<CallControls>,
    sql: SqlLimits,
    pool: ReadPool<Reader>,
    /// How many runtimes were made.
    made: AtomicU32,
}

/// A runtime, and the databases that its calls have open. These are known by the generation of their pages, as those of
/// queries are (`sql/reads.rs`).
struct Reader {
    caller: Caller,
    sql: SqlCommands,
}

impl ReadCalls {
    pub(crate) fn new(calling: Calling, controls: Arc<CallControls>, sql: SqlLimits) -> Self {
        ReadCalls { calling, controls, sql, pool: ReadPool::new("call"), made: AtomicU32::new(0) }
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
        let (shard_id, limits) = (shard.id(), self.calling.limits);
        let read = move |Reader { caller, sql }: &mut Reader, view: &SnapshotView<'_>| {
            caller.serve(shard_id);
            let head = head_now(view)?;
            match caller.read(&request, &mut Transaction::new(view, head, &limits), sql) {
                Ok(response) => Ok(response),
                Err(Stopped::Failed(failure)) => Err(failure),
                Err(Stopped::TooLong) => Err(Failure::internal("a read-only call gave up its own thread")),
            }
        };
        self.pool.run(shard, deadline, || Ok(self.reader()), read).await
    }

    fn reader(&self) -> Reader {
        let caller = Caller::new(0, &self.calling);
        self.controls.register(RuntimeId::Reader(self.made.fetch_add(1, Relaxed)), caller.control());
        Reader { caller, sql: SqlCommands::new(Owner::Queries, self.sql, Some(self.calling.catalog.clone())) }
    }
}
