//! Effects that are applied and not yet in RocksDB: a buffer by key, written back in large sorted batches.
//!
//! ```text
//!   apply ─► filling ──(full)──► leaving ──(one write batch, keys in order)──► RocksDB
//!   get   ◄─ filling, then leaving, then RocksDB
//!   scan, snapshot, flush, checkpoint: everything is written back first
//! ```
//!
//! Putting an effect here costs a tenth of an insertion into a memtable, and a key that is written again before the
//! buffer is full reaches RocksDB once. What is lost with the process was in memory only either way, and is replayed
//! from the log.
//!
//! Invariants:
//! - What leaves is everything up to one applied id, and reaches RocksDB in one write batch with that id: RocksDB holds
//!   the state at exactly one applied id at every moment, and so does each of its flushes.
//! - What leaves stays readable here until RocksDB has it.
//! - One batch leaves at a time, in the order in which it was applied.

use std::sync::Arc;

use cirrus_proto::internal::v1::{LogId, StoredMembership, Table};
use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};

use super::tables::TABLES;
use crate::StorageError;

/// What a key costs beyond its bytes and its value's: a slot of the map and two allocations.
const ENTRY_BYTES: usize = 96;
/// One for each variant of [`Table`], the unspecified one included.
const PLACES: usize = TABLES.len() + 1;

/// A key's newest value; none: it was deleted.
type Change = Option<Vec<u8>>;

/// Effects up to one applied id, the newest of each key.
#[derive(Default)]
pub(super) struct Buffer {
    changes: [HashMap<Box<[u8]>, Change>; PLACES],
    /// What it takes in memory.
    pub(super) bytes: usize,
    /// The last entry whose effects are here; none: nothing is here.
    pub(super) applied: Option<LogId>,
    /// The last membership in them.
    pub(super) membership: Option<StoredMembership>,
}

impl Buffer {
    pub(super) fn put(&mut self, table: Table, key: &[u8], value: &[u8]) {
        let changes = &mut self.changes[table as usize];
        match changes.get_mut(key) {
            Some(change) => {
                let held = change.get_or_insert_default();
                let before = held.capacity();
                held.clear();
                held.extend_from_slice(value);
                self.bytes = self.bytes + held.capacity() - before;
            }
            None => {
                changes.insert(key.into(), Some(value.to_vec()));
                self.bytes += ENTRY_BYTES + key.len() + value.len();
            }
        }
    }

    pub(super) fn delete(&mut self, table: Table, key: &[u8]) {
        let changes = &mut self.changes[table as usize];
        match changes.get_mut(key) {
            Some(change) => self.bytes -= change.take().map_or(0, |held| held.capacity()),
            None => {
                changes.insert(key.into(), None);
                self.bytes += ENTRY_BYTES + key.len();
            }
        }
    }

    /// Keys of a table with a change here.
    fn keys(&self, table: Table) -> usize {
        self.changes[table as usize].len()
    }

    /// Every change of a table, in the order of the keys.
    pub(super) fn sorted(&self, table: Table) -> Vec<(&[u8], Option<&[u8]>)> {
        let changes = &self.changes[table as usize];
        let mut sorted: Vec<_> = changes.iter().map(|(key, change)| (key.as_ref(), change.as_deref())).collect();
        sorted.sort_unstable_by_key(|(key, _)| *key);
        sorted
    }
}

#[derive(Default)]
struct Buffers {
    filling: Buffer,
    /// On its way into RocksDB, and still read.
    leaving: Option<Arc<Buffer>>,
}

impl Buffers {
    fn newest_first(&self) -> impl Iterator<Item = &Buffer> {
        std::iter::once(&self.filling).chain(self.leaving.as_deref())
    }
}

/// The buffer of one state.
#[derive(Default)]
pub(super) struct Recent {
    buffers: RwLock<Buffers>,
    /// Held by whoever writes back.
    writing: Mutex<()>,
}

impl Recent {
    /// Adds the effects of entries up to `applied`, all of them at one moment for readers.
    pub(super) fn add(&self, applied: LogId, membership: Option<&StoredMembership>, change: impl FnOnce(&mut Buffer)) {
        let filling = &mut self.buffers.write().filling;
        change(filling);
        filling.applied = Some(applied);
        if membership.is_some() {
            filling.membership = membership.cloned();
        }
    }

    /// Passes a key's newest change to `read`; none where it has none here, and RocksDB knows.
    pub(super) fn get<R>(&self, table: Table, key: &[u8], read: impl FnOnce(Option<&[u8]>) -> R) -> Option<R> {
        let buffers = self.buffers.read();
        let change = buffers.newest_first().find_map(|buffer| buffer.changes[table as usize].get(key))?;
        Some(read(change.as_deref()))
    }

    /// Whether a table has a change here.
    pub(super) fn touches(&self, table: Table) -> bool {
        self.keys(table) > 0
    }

    /// Keys of a table with a change here; one that is written again while it leaves counts twice.
    pub(super) fn keys(&self, table: Table) -> usize {
        self.buffers.read().newest_first().map(|buffer| buffer.keys(table)).sum()
    }

    /// Memory that is held.
    pub(super) fn bytes(&self) -> usize {
        self.buffers.read().newest_first().map(|buffer| buffer.bytes).sum()
    }

    /// Bytes that gather, and whether nothing is on its way.
    pub(super) fn filling(&self) -> (usize, bool) {
        let buffers = self.buffers.read();
        (buffers.filling.bytes, buffers.leaving.is_none())
    }

    /// Passes everything that is here now to `write`, in the order in which it was applied.
    ///
    /// # Errors
    /// That of `write`; what it did not take stays.
    pub(super) fn write_back(
        &self,
        mut write: impl FnMut(&Buffer) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let _one = self.writing.lock();
        // Left behind by a write that failed.
        if let Some(leaving) = self.leaving() {
            self.write_out(&leaving, &mut write)?;
        }
        let leaving = {
            let mut buffers = self.buffers.write();
            if buffers.filling.applied.is_none() {
                return Ok(());
            }
            let leaving = Arc::new(std::mem::take(&mut buffers.filling));
            buffers.leaving = Some(leaving.clone());
            leaving
        };
        self.write_out(&leaving, &mut write)
    }

    fn leaving(&self) -> Option<Arc<Buffer>> {
        self.buffers.read().leaving.clone()
    }

    fn write_out(
        &self,
        leaving: &Arc<Buffer>,
        write: &mut impl FnMut(&Buffer) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        write(leaving)?;
        self.buffers.write().leaving = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn add(recent: &Recent, index: u64, change: impl FnOnce(&mut Buffer)) {
        recent.add(LogId { term: 1, index }, None, change);
    }

    fn get(recent: &Recent, key: &[u8]) -> Option<Option<Vec<u8>>> {
        recent.get(Table::Data, key, |value| value.map(<[u8]>::to_vec))
    }

    #[test]
    fn the_newest_change_of_a_key_counts_and_leaves_in_key_order() {
        let recent = Recent::default();
        add(&recent, 1, |buffer| {
            buffer.put(Table::Data, b"b", b"1");
            buffer.put(Table::Data, b"a", b"1");
            buffer.put(Table::Expiry, b"a", b"");
            buffer.put(Table::Data, b"b", b"22");
            buffer.delete(Table::Data, b"a");
            buffer.delete(Table::Data, b"c");
            buffer.put(Table::Data, b"d", b"4");
        });
        assert_eq!(get(&recent, b"b"), Some(Some(b"22".to_vec())));
        assert_eq!(get(&recent, b"a"), Some(None));
        assert_eq!(get(&recent, b"x"), None);
        let mut left = Vec::new();
        recent
            .write_back(|buffer| {
                assert_eq!(buffer.applied, Some(LogId { term: 1, index: 1 }));
                let owned = |(key, value): (&[u8], Option<&[u8]>)| (key.to_vec(), value.map(<[u8]>::to_vec));
                left.extend(buffer.sorted(Table::Data).into_iter().map(owned));
                Ok(())
            })
            .unwrap();
        let expected: [(&[u8], Option<&[u8]>); 4] =
            [(b"a", None), (b"b", Some(b"22")), (b"c", None), (b"d", Some(b"4"))];
        assert_eq!(left, expected.map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec))));
        assert_eq!((get(&recent, b"b"), recent.bytes()), (None, 0));
    }

    #[test]
    fn what_leaves_is_read_until_it_has_left_and_what_comes_meanwhile_stays() {
        let recent = Recent::default();
        add(&recent, 1, |buffer| buffer.put(Table::Data, b"a", b"old"));
        recent
            .write_back(|buffer| {
                assert_eq!(get(&recent, b"a"), Some(Some(b"old".to_vec())));
                if buffer.applied.unwrap().index == 1 {
                    add(&recent, 2, |buffer| buffer.put(Table::Data, b"a", b"new"));
                    assert_eq!(get(&recent, b"a"), Some(Some(b"new".to_vec())));
                }
                Ok(())
            })
            .unwrap();
        assert_eq!(get(&recent, b"a"), Some(Some(b"new".to_vec())));
    }

    #[test]
    fn what_could_not_be_written_stays_and_leaves_first_the_next_time() {
        let recent = Recent::default();
        add(&recent, 1, |buffer| buffer.put(Table::Data, b"a", b"1"));
        let failed = recent.write_back(|_| Err(StorageError::Failed("disk".to_owned())));
        assert!(matches!(failed, Err(StorageError::Failed(_))));
        assert_eq!(get(&recent, b"a"), Some(Some(b"1".to_vec())));
        add(&recent, 2, |buffer| buffer.put(Table::Data, b"b", b"2"));
        let mut order = Vec::new();
        recent
            .write_back(|buffer| {
                order.push(buffer.applied.unwrap().index);
                Ok(())
            })
            .unwrap();
        assert_eq!(order, [1, 2]);
        recent.write_back(|_| unreachable!("nothing is left")).unwrap();
    }

    #[test]
    fn bytes_follow_what_is_held() {
        let mut buffer = Buffer::default();
        buffer.put(Table::Data, b"key", &[0; 100]);
        let one = buffer.bytes;
        assert!(one >= 103);
        buffer.put(Table::Data, b"key", &[0; 50]);
        assert_eq!(buffer.bytes, one, "the allocation is kept");
        buffer.delete(Table::Data, b"key");
        assert_eq!(buffer.bytes, one - 100);
        buffer.put(Table::Data, b"key", &[0; 1000]);
        assert!(buffer.bytes >= one + 900);
    }
}
