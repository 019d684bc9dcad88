//! One thing for each table of a shard's state, without hashing or comparing table names.

use std::collections::BTreeMap;
use std::ops::{Bound, Index, IndexMut};

use bytes::Bytes;
use cirrus_proto::internal::v1::Table;

/// `Table` counts from 0 (unspecified) to its last variant.
const TABLE_COUNT: usize = Table::Sql as usize + 1;

#[derive(Clone, Debug, Default)]
pub(crate) struct PerTable<T>([T; TABLE_COUNT]);

impl<T> PerTable<T> {
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut()
    }
}

impl<T> Index<Table> for PerTable<T> {
    type Output = T;

    fn index(&self, table: Table) -> &T {
        &self.0[table as usize]
    }
}

impl<T> IndexMut<Table> for PerTable<T> {
    fn index_mut(&mut self, table: Table) -> &mut T {
        &mut self.0[table as usize]
    }
}

/// Whether no key lies in `[start, end)`.
pub(crate) fn is_empty_range(start: &[u8], end: Option<&[u8]>) -> bool {
    end.is_some_and(|end| end <= start)
}

/// The entries with `start <= key < end`. The range must not be empty: `BTreeMap` panics on a reversed one.
pub(crate) fn range<'m, T>(
    map: &'m BTreeMap<Bytes, T>,
    start: &[u8],
    end: Option<&[u8]>,
) -> impl Iterator<Item = (&'m Bytes, &'m T)> {
    let end = end.map_or(Bound::Unbounded, Bound::Excluded);
    map.range::<[u8], _>((Bound::Included(start), end))
}
