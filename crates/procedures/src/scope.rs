//! Which keys a call may touch.

use cirrus_proto::routing::{key_of_user, routing_key, shard_of_key};
use cirrus_proto::{Failure, Reason};

/// Decides which keys a call may touch: those of its own shard.
pub trait KeyScope {
    /// Fails, with [`Reason::CrossShard`], for a key that lies elsewhere.
    fn check(&self, key: &[u8]) -> Result<(), Failure>;

    /// Fails so for a user whose databases lie elsewhere.
    fn check_user(&self, user: &[u8]) -> Result<(), Failure> {
        self.check(&key_of_user(user)).map_err(|failure| {
            let user = String::from_utf8_lossy(user);
            let message = format!("the databases of user {user:?} are those of another shard: {}", failure.message);
            Failure { message, ..failure }.with("user", user)
        })
    }
}

impl<F: Fn(&[u8]) -> Result<(), Failure>> KeyScope for F {
    fn check(&self, key: &[u8]) -> Result<(), Failure> {
        self(key)
    }
}

/// The keys of one shard of a cluster.
#[derive(Clone, Copy, Debug)]
pub struct ShardScope<'a> {
    shard_id: u32,
    shard_count: u32,
    /// The call's own, where its key is in the shard: most keys that a call touches are routed by the same.
    routing_key: Option<&'a [u8]>,
}

impl<'a> ShardScope<'a> {
    /// Of the shard `shard_id`, from 1, in a cluster of `shard_count` data shards, for a call with that key.
    pub fn new(shard_id: u32, shard_count: u32, key: &'a [u8]) -> Self {
        let is_home = shard_of_key(key, shard_count) == shard_id;
        ShardScope { shard_id, shard_count, routing_key: is_home.then(|| routing_key(key)) }
    }
}

impl KeyScope for ShardScope<'_> {
    fn check(&self, key: &[u8]) -> Result<(), Failure> {
        if self.routing_key == Some(routing_key(key)) {
            return Ok(());
        }
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
