//! This node's replica of the catalog, as the shards' executors read it.

use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use cirrus_proto::limits::SqlLimits;
use cirrus_proto::name::ProcedureName;
use cirrus_proto::routing::shard_of_key;
use cirrus_proto::v1::Schedule;
use cirrus_proto::{Failure, Reason};
use cirrus_replication::{Replication, StateView};
use cirrus_sql::Schema;
use cirrus_storage::ShardState;

use crate::CATALOG_SHARD;
use crate::catalog::{Committed, Reads};
use crate::governor::{Called, Terms};
use crate::library_cache::{LibraryCache, Runnable};
use crate::schedule_catalog;
use crate::sql::SchemaCache;

/// How long a call or a request waits for this node's catalog to catch up. The shard evaluates nothing meanwhile.
pub(crate) const CATALOG_WAIT: Duration = Duration::from_millis(500);

/// Reaches the catalog's replica, once the node belongs to a cluster.
#[derive(Default)]
pub(crate) struct CatalogHandle {
    replication: OnceLock<(Weak<Replication>, u32)>,
    libraries: LibraryCache,
    schemas: SchemaCache,
}

/// What a call runs, by this node's catalog.
pub(crate) struct Found {
    pub(crate) runnable: Arc<Runnable>,
    terms: Terms,
    pub(crate) shard_count: u32,
}

impl Found {
    /// As the governor knows it. Functions that the upload did not list count as one: clients choose what they ask for.
    pub(crate) fn called<'a>(&'a self, function: &'a str) -> Called<'a> {
        let source = &self.runnable.source;
        let function = if self.runnable.exports(function) { function } else { "other" };
        Called { library: &source.name, version: source.version, function, terms: self.terms }
    }
}

impl CatalogHandle {
    /// Called once, when the node knows its cluster.
    pub(crate) fn set(&self, replication: &Arc<Replication>, shard_count: u32) {
        // A second call would say the same: neither changes while the node runs.
        let _ = self.replication.set((Arc::downgrade(replication), shard_count));
    }

    /// What a call of the procedure for that key runs, once this node has applied the catalog up
    /// to `index`. Blocks for at most `wait`: no call may be evaluated against an older catalog than one that an
    /// upload was acknowledged with.
    pub(crate) fn runnable(
        &self,
        procedure: &ProcedureName<'_>,
        key: &[u8],
        index: u64,
        wait: Duration,
    ) -> Result<Found, Failure> {
        let (applied_next, state, shard_count) = self.at_least(index, wait)?;
        let view = StateView(&state);
        let (runnable, terms) = self.libraries.runnable(&Committed(&view), applied_next, procedure, key)?;
        Ok(Found { runnable, terms, shard_count })
    }

    /// The schedule of that name, if its key is in the shard, once this node has applied the catalog up to `index`; and
    /// an index at which the catalog has what was read. Blocks for at most `wait`.
    pub(crate) fn schedule(
        &self,
        name: &str,
        shard_id: u32,
        index: u64,
        wait: Duration,
    ) -> Result<(Option<Schedule>, u64), Failure> {
        let (_, state, shard_count) = self.at_least(index, wait)?;
        let schedule = schedule_catalog::find(&Committed(&StateView(&state)), name)?;
        // Asked after the read, so that what was read is counted.
        let catalog_index = state.applied().log_id.map_or(0, |applied| applied.index);
        Ok((schedule.filter(|schedule| shard_of_key(&schedule.key, shard_count) == shard_id), catalog_index))
    }

    /// Whether the procedure is declared read-only, as far as is known here now.
    pub(crate) fn is_read_only(&self, procedure: &str, key: &[u8]) -> bool {
        let Ok(procedure) = ProcedureName::parse(procedure) else { return false };
        self.runnable(&procedure, key, 0, Duration::ZERO).is_ok_and(|found| {
            found.runnable.declaration(procedure.function).is_some_and(|declaration| declaration.read_only)
        })
    }

    /// The schema of a dbname, where it has one, once this node has applied the catalog up to `index`. Blocks for at most
    /// `wait`, and for as long as it takes to run a schema's DDL that is new to this node.
    pub(crate) fn schema(
        &self,
        dbname: &str,
        index: u64,
        wait: Duration,
        limits: &SqlLimits,
    ) -> Result<Option<Arc<Schema>>, Failure> {
        let (applied_next, state, _) = self.at_least(index, wait)?;
        self.schemas.schema(&Committed(&StateView(&state)), applied_next, dbname, limits)
    }

    /// What `read` finds in this node's replica of the catalog, as it is now.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&dyn Reads) -> Result<T, Failure>) -> Result<T, Failure> {
        let (_, state, _) = self.at_least(0, Duration::ZERO)?;
        read(&Committed(&StateView(&state)))
    }

    /// The catalog's applied index plus one, its state, which is at least as new, and the shard count.
    fn at_least(&self, index: u64, wait: Duration) -> Result<(u64, Arc<ShardState>, u32), Failure> {
        let deadline = Instant::now() + wait;
        loop {
            let replica = self.replication.get().and_then(|(replication, shard_count)| {
                Some((replication.upgrade()?.shard(CATALOG_SHARD)?, *shard_count))
            });
            let replica = replica.map(|(shard, shard_count)| (shard.applied_next(), shard, shard_count));
            match replica {
                Some((applied_next, shard, shard_count)) if index == 0 || applied_next > index => {
                    return Ok((applied_next, shard.state().clone(), shard_count));
                }
                _ if Instant::now() >= deadline => {
                    let problem =
                        format!("this node's catalog has not reached entry {index} in {} ms", wait.as_millis());
                    return Err(Failure::new(Reason::NotReady, problem).retry_after(Duration::from_millis(100)));
                }
                _ => std::thread::sleep(Duration::from_micros(200)),
            }
        }
    }
}
