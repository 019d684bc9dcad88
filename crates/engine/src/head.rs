//! What a shard remembers about itself from one command to the next.

use bytes::Bytes;
use cirrus_proto::Failure;
use cirrus_proto::internal::v1::{Effect, StoredHead, Table};
use prost::Message;

use crate::{View, effect};

/// What evaluation takes from outside: time comes in as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Unix milliseconds by the leader's clock.
    pub now_ms: u64,
}

/// A shard's clock, revision and catalog requirement. Kept in `TABLE_META` under [`ShardHead::KEY`]; a
/// leader loads it when it takes over, carries it from command to command, and adds [`ShardHead::effect`]
/// to each proposal, so that the next leader starts where this one's applied proposals ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardHead {
    /// The latest time that evaluation saw, Unix milliseconds.
    pub clock_ms: u64,
    /// The last version given to a value. Grows by one with each written value.
    pub revision: u64,
    /// Calls need the catalog applied to at least this log index of shard 0.
    pub catalog_index: u64,
    /// How many stored values have an expiry, expired ones included.
    pub expiring_values: u64,
}

impl ShardHead {
    /// The head's key in `TABLE_META`.
    pub const KEY: &'static [u8] = b"head";

    /// The head that a state holds; all zero for a new shard.
    pub fn load(view: &dyn View) -> Result<ShardHead, Failure> {
        let Some(stored) = view.get(Table::Meta, Self::KEY)? else { return Ok(ShardHead::default()) };
        let StoredHead { clock_ms, revision, catalog_index, expiring_values } =
            StoredHead::decode(stored).map_err(|error| Failure::internal(format!("the stored head: {error}")))?;
        Ok(ShardHead { clock_ms, revision, catalog_index, expiring_values })
    }

    /// Stores the head.
    pub fn effect(&self) -> Effect {
        let ShardHead { clock_ms, revision, catalog_index, expiring_values } = *self;
        let stored = StoredHead { clock_ms, revision, catalog_index, expiring_values };
        effect::put(Table::Meta, Bytes::from_static(Self::KEY), stored.encode_to_vec().into())
    }

    /// Moves the shard's clock forward; a moment in its past leaves it where it is.
    pub fn advance_to(&mut self, moment: Moment) {
        self.clock_ms = self.clock_ms.max(moment.now_ms);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::MemoryView;

    #[test]
    fn a_stored_head_loads_as_it_was_and_a_new_shard_starts_at_zero() {
        let mut view = MemoryView::new();
        assert_eq!(ShardHead::load(&view).unwrap(), ShardHead::default());
        let head = ShardHead { clock_ms: 5, revision: 6, catalog_index: 7, expiring_values: 8 };
        view.apply(&[head.effect()]);
        assert_eq!(ShardHead::load(&view).unwrap(), head);
    }

    #[test]
    fn the_clock_never_goes_backwards() {
        let mut head = ShardHead::default();
        head.advance_to(Moment { now_ms: 10 });
        head.advance_to(Moment { now_ms: 9 });
        assert_eq!(head.clock_ms, 10);
    }
}
