//! A hash of everything that a state's log made of it, by which replicas are compared.

use std::ops::ControlFlow;

use rocksdb::ReadOptions;
use sha2::{Digest as _, Sha256};

use super::read::scan;
use super::tables::TABLES;
use super::{Applied, StateSnapshot};
use crate::StorageError;

/// How many bytes of keys and values are hashed between two looks at whether to go on.
const STEP_BYTES: u64 = 256 * 1024;

/// What replicas that have applied the same entries have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct StateHash {
    /// Where the state stood.
    pub applied: Applied,
    /// SHA-256 over all tables in the order of their numbers, and their keys in byte order: for each, the table's number, and
    /// the lengths of key and value (all three in 4 bytes, the lowest first), the key, the value.
    pub hash: [u8; 32],
    /// Keys in all tables.
    pub keys: u64,
    /// Bytes of these keys and their values.
    pub bytes: u64,
}

impl StateSnapshot<'_> {
    /// Hashes the state, reading all of it, past the block cache. The applied id and the membership are no part of the hash, and
    /// neither is how the tables lie on disk. `go_on` is asked now and then, given the bytes hashed so far; it may sleep, to
    /// bound the rate. None where it breaks.
    ///
    /// # Errors
    /// `Damaged`, `Failed`.
    pub fn hash(&self, go_on: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<Option<StateHash>, StorageError> {
        let mut hasher = Sha256::new();
        let (mut keys, mut bytes, mut step) = (0, 0, 0);
        for table in TABLES {
            let mut broken = false;
            let mut add = |key: &[u8], value: &[u8]| {
                hasher.update((table as u32).to_le_bytes());
                hasher.update((key.len() as u32).to_le_bytes());
                hasher.update((value.len() as u32).to_le_bytes());
                hasher.update(key);
                hasher.update(value);
                keys += 1;
                bytes += (key.len() + value.len()) as u64;
                if bytes / STEP_BYTES > step {
                    step = bytes / STEP_BYTES;
                    broken = go_on(bytes).is_break();
                }
                if broken { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            scan(self.db, table, &[], None, &mut add, self.past_the_cache())?;
            if broken {
                return Ok(None);
            }
        }
        Ok(Some(StateHash { applied: self.applied()?, hash: hasher.finalize().into(), keys, bytes }))
    }

    /// What is read once only must not push out what others read.
    fn past_the_cache(&self) -> ReadOptions {
        let mut options = self.options();
        options.fill_cache(false);
        options
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use cirrus_proto::internal::v1::{Effect, LogId, Table, effect};
    use proptest::prelude::*;

    use super::*;
    use crate::{ApplyBatch, ShardState, SharedResources, StorageConfig};

    /// A key of a table, and its new value.
    type Change = (Table, Vec<u8>, Option<Vec<u8>>);

    fn effect((table, key, value): &Change) -> Effect {
        let change = match value {
            Some(value) => effect::Change::Put(value.clone().into()),
            None => effect::Change::Delete(true),
        };
        Effect { table: (*table).into(), key: key.clone().into(), change: Some(change) }
    }

    fn put(table: Table, key: &str, value: &str) -> Change {
        (table, key.as_bytes().to_vec(), Some(value.as_bytes().to_vec()))
    }

    struct Replica {
        state: ShardState,
        _directory: tempfile::TempDir,
    }

    impl Replica {
        fn new() -> Replica {
            let directory = tempfile::tempdir().unwrap();
            let resources = SharedResources::new(StorageConfig::default()).unwrap();
            Replica { state: ShardState::open(directory.path(), &resources).unwrap(), _directory: directory }
        }

        fn of(changes: &[Change]) -> Replica {
            let replica = Replica::new();
            replica.apply(1, changes);
            replica
        }

        fn apply(&self, index: u64, changes: &[Change]) {
            let effects = changes.iter().map(effect).collect();
            self.state.apply(&ApplyBatch { effects, applied: LogId { term: 1, index }, membership: None }).unwrap();
        }

        fn hash(&self) -> StateHash {
            let pinned = self.state.pin();
            pinned.snapshot().unwrap().hash(&mut |_| ControlFlow::Continue(())).unwrap().unwrap()
        }
    }

    #[test]
    fn any_difference_of_table_key_or_value_is_one_of_the_hash() {
        let same = [put(Table::Data, "ab", "cd"), put(Table::Sql, "page", "1")];
        let hash = Replica::of(&same).hash();
        assert_eq!(Replica::of(&same).hash(), hash);
        assert_eq!((hash.keys, hash.bytes, hash.applied.log_id), (2, 9, Some(LogId { term: 1, index: 1 })));
        let others = [
            vec![put(Table::Data, "ab", "cd"), put(Table::Sql, "page", "2")],
            vec![put(Table::Data, "ab", "cd"), put(Table::Sql, "pagf", "1")],
            vec![put(Table::Data, "abc", "d"), put(Table::Sql, "page", "1")],
            vec![put(Table::Sql, "ab", "cd"), put(Table::Sql, "page", "1")],
            vec![put(Table::Data, "ab", "cd"), put(Table::Meta, "page", "1")],
            vec![put(Table::Data, "ab", "cd")],
            [&same[..], &[put(Table::Expiry, "", "")]].concat(),
            vec![],
        ];
        let mut seen = vec![hash.hash];
        for other in others {
            let found = Replica::of(&other).hash().hash;
            assert!(!seen.contains(&found), "{other:?}");
            seen.push(found);
        }
    }

    #[test]
    fn where_a_state_stands_and_how_it_lies_on_disk_are_no_part_of_it() {
        let one = Replica::of(&[put(Table::Data, "a", "1")]);
        let before = one.hash();
        one.apply(2, &[put(Table::Data, "b", "2")]);
        one.state.flush().unwrap();
        one.apply(3, &[(Table::Data, b"b".to_vec(), None)]);
        let after = one.hash();
        assert_eq!((after.hash, after.keys), (before.hash, 1));
        assert_eq!(after.applied.log_id.unwrap().index, 3);
    }

    #[test]
    fn it_is_given_up_when_it_is_told_to() {
        let large = "x".repeat(STEP_BYTES as usize);
        let replica = Replica::of(&[put(Table::Data, "a", &large), put(Table::Sql, "b", &large)]);
        let pinned = replica.state.pin();
        let mut asked = Vec::new();
        let hash = pinned.snapshot().unwrap().hash(&mut |bytes| {
            asked.push(bytes);
            ControlFlow::Break(())
        });
        assert_eq!((hash.unwrap(), asked), (None, vec![STEP_BYTES + 1]));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        /// Whatever the way to it, the same content has the same hash, and another content another one.
        #[test]
        fn it_tells_contents_apart_and_ways_to_them_not(
            changes in prop::collection::vec(
                (prop::sample::select(TABLES.to_vec()), "[ab]{0,2}", prop::option::of("[xy]{0,2}")), 0..24),
            cut in 0..24usize,
        ) {
            let changes: Vec<Change> = changes
                .into_iter()
                .map(|(table, key, value)| (table, key.into_bytes(), value.map(String::into_bytes)))
                .collect();
            let cut = cut.min(changes.len());
            let at_once = Replica::of(&changes);
            let in_steps = Replica::of(&changes[..cut]);
            let half_way = in_steps.hash();
            in_steps.state.flush().unwrap();
            in_steps.apply(2, &changes[cut..]);
            prop_assert_eq!(at_once.hash().hash, in_steps.hash().hash);

            let content = |changes: &[Change]| {
                let mut content = std::collections::BTreeMap::new();
                for (table, key, value) in changes {
                    match value {
                        Some(value) => content.insert((*table as i32, key.clone()), value.clone()),
                        None => content.remove(&(*table as i32, key.clone())),
                    };
                }
                content
            };
            let same = content(&changes[..cut]) == content(&changes);
            prop_assert_eq!(half_way.hash == at_once.hash().hash, same);
        }
    }
}
