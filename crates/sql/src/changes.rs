//! Which databases a transaction changed, for whoever tells people what it would do.

use std::collections::BTreeMap;

use cirrus_engine::{Savepoint, Transaction};
use cirrus_proto::internal::v1::Table;

use crate::DatabaseId;
use crate::keys::{database_of_entry, database_of_page};

/// What a transaction does to one database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Pages that are written or removed.
    pub pages: usize,
    /// Bytes of keys and values that are written, the entry's included.
    pub bytes: usize,
}

/// The databases that were changed after the savepoint.
pub fn changed_databases(transaction: &Transaction<'_>, savepoint: Savepoint) -> BTreeMap<DatabaseId, Change> {
    let mut changes: BTreeMap<DatabaseId, Change> = BTreeMap::new();
    for (key, value) in transaction.written_after(savepoint, Table::Sql) {
        let page = database_of_page(key);
        let pages = usize::from(page.is_some());
        if let Some(id) = page.or_else(|| database_of_entry(key)) {
            let change = changes.entry(id).or_default();
            change.pages += pages;
            change.bytes += key.len() + value.map_or(0, |value| value.len());
        }
    }
    changes
}
