//! A shard's state in memory, for tests of everything that evaluates and for trying procedures out.

use std::collections::BTreeMap;

use bytes::Bytes;
use cirrus_proto::internal::v1::{Effect, Table};

use crate::tables::{PerTable, is_empty_range, range};
use crate::{View, ViewError, Visit, effect};

/// A [`View`] over maps, changed by applying effects as a replica would.
#[derive(Clone, Debug, Default)]
pub struct MemoryView {
    tables: PerTable<BTreeMap<Bytes, Bytes>>,
}

impl MemoryView {
    /// An empty shard.
    pub fn new() -> Self {
        Self::default()
    }

    /// Writes the effects, in order.
    pub fn apply(&mut self, effects: &[Effect]) {
        for applied in effects {
            let table = &mut self.tables[applied.table()];
            match effect::value_after(applied) {
                Some(value) => table.insert(applied.key.clone(), value.clone()),
                None => table.remove(&applied.key),
            };
        }
    }

    /// How many keys a table holds.
    pub fn count(&self, table: Table) -> usize {
        self.tables[table].len()
    }
}

impl View for MemoryView {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        Ok(self.tables[table].get(key).cloned())
    }

    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), ViewError> {
        if is_empty_range(start, end) {
            return Ok(());
        }
        for (key, value) in range(&self.tables[table], start, end) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}
