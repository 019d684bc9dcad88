//! How the log's keys are laid out.
//!
//! | column family | key | value |
//! | --- | --- | --- |
//! | `entries` | shard (4 bytes, big-endian), index (8 bytes, big-endian) | encoded `internal.v1.Entry` |
//! | `meta` | shard (4 bytes, big-endian), kind (1 byte) | encoded `Vote` or `LogId` |
//!
//! Big-endian makes byte order the order of (shard, index), so one shard's entries are one range.

pub(super) const ENTRIES: &str = "entries";
pub(super) const META: &str = "meta";

/// What a key in `meta` holds. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MetaKind {
    Vote = 1,
    Committed = 2,
    Purged = 3,
}

pub(super) type EntryKey = [u8; 12];

pub(super) fn entry_key(shard_id: u32, index: u64) -> EntryKey {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&shard_id.to_be_bytes());
    key[4..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The least key above that of `index`: the exclusive end of a range through it, valid for `u64::MAX` too.
pub(super) fn entry_key_after(shard_id: u32, index: u64) -> [u8; 13] {
    let mut key = [0; 13];
    key[..12].copy_from_slice(&entry_key(shard_id, index));
    key
}

pub(super) fn parse_entry_key(key: &[u8]) -> Option<(u32, u64)> {
    let key: &EntryKey = key.try_into().ok()?;
    let (shard_id, index) = key.split_at(4);
    Some((u32::from_be_bytes(shard_id.try_into().ok()?), u64::from_be_bytes(index.try_into().ok()?)))
}

pub(super) fn meta_key(shard_id: u32, kind: MetaKind) -> [u8; 5] {
    let mut key = [kind as u8; 5];
    key[..4].copy_from_slice(&shard_id.to_be_bytes());
    key
}

pub(super) fn parse_meta_key(key: &[u8]) -> Option<(u32, MetaKind)> {
    let key: &[u8; 5] = key.try_into().ok()?;
    let kind = match key[4] {
        1 => MetaKind::Vote,
        2 => MetaKind::Committed,
        3 => MetaKind::Purged,
        _ => return None,
    };
    Some((u32::from_be_bytes([key[0], key[1], key[2], key[3]]), kind))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn entry_keys_read_back_and_sort_by_shard_then_index(a: (u32, u64), b: (u32, u64)) {
            let (key_a, key_b) = (entry_key(a.0, a.1), entry_key(b.0, b.1));
            prop_assert_eq!(parse_entry_key(&key_a), Some(a));
            prop_assert_eq!(key_a.cmp(&key_b), a.cmp(&b));
        }

        #[test]
        fn the_key_after_an_index_separates_it_from_every_later_one(shard_id: u32, index: u64, later: (u32, u64)) {
            let end = entry_key_after(shard_id, index);
            prop_assert!(entry_key(shard_id, index).as_slice() < end.as_slice());
            if later > (shard_id, index) {
                prop_assert!(entry_key(later.0, later.1).as_slice() > end.as_slice());
            }
        }

        #[test]
        fn meta_keys_read_back(shard_id: u32) {
            for kind in [MetaKind::Vote, MetaKind::Committed, MetaKind::Purged] {
                prop_assert_eq!(parse_meta_key(&meta_key(shard_id, kind)), Some((shard_id, kind)));
            }
        }

        #[test]
        fn keys_of_another_shape_are_not_read(key in proptest::collection::vec(any::<u8>(), 0..20)) {
            prop_assert_eq!(parse_entry_key(&key).is_some(), key.len() == 12);
            if let Some((shard_id, kind)) = parse_meta_key(&key) {
                prop_assert_eq!(meta_key(shard_id, kind).to_vec(), key);
            }
        }
    }
}
