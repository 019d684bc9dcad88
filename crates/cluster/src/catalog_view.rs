//! This node's replica of the catalog, as the shards' executors read it.

use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use cirrus_proto::{Failure, Reason};
use cirrus_replication::Replication;
use cirrus_storage::ShardState;

use crate::CATALOG_SHARD;

/// Reaches the catalog's replica, once the node belongs to a cluster.
#[derive(Default)]
pub(crate) struct CatalogHandle {
    replication: OnceLock<(Weak<Replication>, u32)>,
}

impl CatalogHandle {
    /// Called once, when the node knows its cluster.
    pub(crate) fn set(&self, replication: &Arc<Replication>, shard_count: u32) {
        // A second call would say the same: neither changes while the node runs.
        let _ = self.replication.set((Arc::downgrade(replication), shard_count));
    }

    /// The catalog's state and the shard count, once this node has applied the catalog up to `index`.
    /// Blocks for at most `wait`: an executor may not evaluate a call against an older catalog than one
    /// that an upload was acknowledged with.
    pub(crate) fn at_least(&self, index: u64, wait: Duration) -> Result<(Arc<ShardState>, u32), Failure> {
        let deadline = Instant::now() + wait;
        loop {
            let replica = self.replication.get().and_then(|(replication, shard_count)| {
                Some((replication.upgrade()?.shard(CATALOG_SHARD)?, *shard_count))
            });
            match replica {
                Some((shard, shard_count)) if index == 0 || shard.applied_next() > index => {
                    return Ok((shard.state().clone(), shard_count));
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
