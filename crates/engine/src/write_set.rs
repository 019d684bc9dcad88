//! One transaction's own writes.
//!
//! Most commands write one to five keys, so the set is a list in write order, searched from its end; past
//! [`LINEAR_WRITES`] it keeps a map from each key to its newest write as well. Writing a key again replaces
//! its write in place, unless a savepoint may want the older one back: then the new one is appended and
//! names what it supersedes. So rolling back is cutting off the list's end.

use std::cell::Cell;
use std::collections::BTreeMap;

use bytes::Bytes;
use cirrus_proto::internal::v1::{Effect, Table};

use crate::merge::scan_merged;
use crate::tables::{PerTable, is_empty_range, range};
use crate::{View, ViewError, Visit, effect};

/// Up to this many writes are searched one by one; a map would cost more to fill than it saves.
const LINEAR_WRITES: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct WriteSet {
    writes: Vec<Write>,
    /// The position of each key's newest write; filled while there are more than [`LINEAR_WRITES`].
    newest: PerTable<BTreeMap<Bytes, usize>>,
    bytes: usize,
    /// Writes before this position belong to the latest savepoint and stay as they are.
    protected: Cell<usize>,
}

#[derive(Debug)]
struct Write {
    table: Table,
    key: Bytes,
    /// `None`: removed.
    value: Option<Bytes>,
    /// The position of the older write of this key.
    supersedes: Option<usize>,
    superseded: bool,
}

impl Write {
    fn bytes(&self) -> usize {
        self.key.len() + value_bytes(&self.value)
    }
}

fn value_bytes(value: &Option<Bytes>) -> usize {
    value.as_ref().map_or(0, Bytes::len)
}

impl WriteSet {
    /// The key's newest write, if there is one; inside it `None` where the key was removed.
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Option<Option<&Bytes>> {
        self.find(table, key).map(|position| self.writes[position].value.as_ref())
    }

    /// Bytes of keys and values held, superseded ones included.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes, if the set then holds at most `limit` bytes; else changes nothing and returns how many it would hold.
    pub(crate) fn write(&mut self, table: Table, key: Bytes, value: Option<Bytes>, limit: usize) -> Result<(), usize> {
        let older = self.find(table, &key);
        match older {
            Some(position) if position >= self.protected.get() => {
                let write = &mut self.writes[position];
                let bytes = self.bytes - value_bytes(&write.value) + value_bytes(&value);
                if bytes > limit {
                    return Err(bytes);
                }
                write.value = value;
                self.bytes = bytes;
            }
            _ => {
                let bytes = self.bytes + key.len() + value_bytes(&value);
                if bytes > limit {
                    return Err(bytes);
                }
                if let Some(position) = older {
                    self.writes[position].superseded = true;
                }
                self.bytes = bytes;
                self.writes.push(Write { table, key, value, supersedes: older, superseded: false });
                self.index_last();
            }
        }
        Ok(())
    }

    /// The writes after a savepoint, each key's newest only, in the order of first writing.
    pub(crate) fn after(&self, savepoint: usize) -> impl Iterator<Item = (Table, &Bytes, Option<&Bytes>)> {
        let writes = self.writes.iter().skip(savepoint).filter(|write| !write.superseded);
        writes.map(|write| (write.table, &write.key, write.value.as_ref()))
    }

    /// Marks what is written so far, to be returned to with [`WriteSet::truncate`].
    pub(crate) fn savepoint(&self) -> usize {
        self.protected.set(self.writes.len());
        self.writes.len()
    }

    /// Forgets the writes after a savepoint.
    pub(crate) fn truncate(&mut self, savepoint: usize) {
        let indexed = self.is_indexed();
        while self.writes.len() > savepoint {
            let Some(write) = self.writes.pop() else { break };
            self.bytes -= write.bytes();
            if let Some(position) = write.supersedes {
                self.writes[position].superseded = false;
            }
            if indexed {
                match write.supersedes {
                    Some(position) => self.newest[write.table].insert(write.key, position),
                    None => self.newest[write.table].remove(&write.key),
                };
            }
        }
        if indexed && !self.is_indexed() {
            self.newest.iter_mut().for_each(BTreeMap::clear);
        }
        self.protected.set(self.writes.len());
    }

    /// Scans `base` with the writes laid over it.
    pub(crate) fn scan_over(
        &self,
        base: &dyn View,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        visit: Visit<'_>,
    ) -> Result<(), ViewError> {
        if is_empty_range(start, end) {
            return Ok(());
        }
        if self.is_indexed() {
            let changes = range(&self.newest[table], start, end)
                .map(|(key, &position)| (&key[..], self.writes[position].value.as_deref()));
            return scan_merged(base, table, start, end, changes, visit);
        }
        let mut changes: Vec<_> = self
            .writes
            .iter()
            .filter(|write| !write.superseded && write.table == table)
            .map(|write| (&write.key[..], write.value.as_deref()))
            .filter(|(key, _)| *key >= start && end.is_none_or(|end| *key < end))
            .collect();
        changes.sort_unstable_by_key(|(key, _)| *key);
        scan_merged(base, table, start, end, changes.into_iter(), visit)
    }

    /// The newest write of each key, in the order in which the keys were written.
    pub(crate) fn into_effects(self) -> Vec<Effect> {
        let newest = self.writes.into_iter().filter(|write| !write.superseded);
        newest
            .map(|write| match write.value {
                Some(value) => effect::put(write.table, write.key, value),
                None => effect::delete(write.table, write.key),
            })
            .collect()
    }

    fn is_indexed(&self) -> bool {
        self.writes.len() > LINEAR_WRITES
    }

    fn find(&self, table: Table, key: &[u8]) -> Option<usize> {
        if self.is_indexed() {
            return self.newest[table].get(key).copied();
        }
        self.writes.iter().rposition(|write| write.table == table && write.key == key)
    }

    /// Keeps the map true after an append; the append that makes the list long fills it.
    fn index_last(&mut self) {
        if !self.is_indexed() {
            return;
        }
        let first = if self.writes.len() == LINEAR_WRITES + 1 { 0 } else { self.writes.len() - 1 };
        for (position, write) in self.writes.iter().enumerate().skip(first) {
            self.newest[write.table].insert(write.key.clone(), position);
        }
    }
}
