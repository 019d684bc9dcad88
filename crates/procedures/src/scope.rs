//! Which keys a call may touch.

use cirrus_proto::routing::{routing_key, shard_of_key};
use cirrus_proto::{Failure, Reason};

/// Decides which keys a call may touch: those of its own shard.
pub trait KeyScope {
    /// Fails, with [`Reason::CrossShard`], for a key that lies elsewhere.
    fn check(&self, key: &[u8]) -> Result<(), Failure>;
}

impl<F: Fn(&[u8]) -> Result<(), Failure>> KeyScope for F {
    fn check(&self, key: &[u8]) -> Result<(), Failure> {
        self(key)
    }
}

/// The keys of one shard of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct ShardScope {
    /// From 1.
    pub shard_id: u32,
    /// The cluster's data shards.
    pub shard_count: u32,
}

impl KeyScope for ShardScope {
    fn check(&self, key: &[u8]) -> Result<(), Failure> {
        let shard = shard_of_key(key, self.shard_count);
        if shard == self.shard_id {
            return Ok(());
        }
        let (key, tag) = (String::from_utf8_lossy(key), String::from_utf8_lossy(routing_key(key)));
        Err(Failure::new(
            Reason::CrossShard,
            format!(
                "key {key:?} is in shard {shard} (by {tag:?}), the call runs in shard {}; give keys that belong \
                 together one {{tag}}",
                self.shard_id
            ),
        )
        .with("key", key)
        .with("shard", shard))
    }
}
