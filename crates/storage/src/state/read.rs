//! Reading a state.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use cirrus_proto::internal::v1::{LogId, StoredMembership, Table};
use prost::Message;
use rocksdb::{DB, DBRawIterator, ReadOptions, Snapshot};

use super::tables::{APPLIED, APPLIED_LOG_ID, APPLIED_MEMBERSHIP, column_family, table_name};
use super::{Applied, Live, ShardState};
use crate::StorageError;

/// Called with each key and value of a scan, until it breaks.
pub type Visit<'call> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'call;

impl ShardState {
    /// The value under a key.
    ///
    /// # Errors
    /// `Damaged`, `Failed`; `Refused` for no table.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        let live = self.live();
        table_name(table)?;
        // The buffer first: what leaves it in between is in RocksDB by then.
        match live.recent.get(table, key, |value| value.map(Bytes::copy_from_slice)) {
            Some(value) => Ok(value),
            None => get(&live.db, table, key, &ReadOptions::default()),
        }
    }

    /// Visits the pairs with `start` <= key < `end` (none: to the last) in byte order until `visit` breaks. The scan
    /// sees one moment of the state. Effects on the table that are still in the buffer are written back first.
    ///
    /// # Errors
    /// `Damaged`, `Failed`; `Refused` for no table.
    pub fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), StorageError> {
        let live = self.live();
        if live.recent.touches(table) {
            live.write_back()?;
        }
        scan(&live.db, table, start, end, visit, ReadOptions::default())
    }

    /// Holds on to the state as it is installed now; take consistent [`PinnedState::snapshot`]s from it. Two steps,
    /// since a snapshot borrows from the instance that an install may replace.
    pub fn pin(&self) -> PinnedState {
        PinnedState { live: self.live() }
    }
}

/// A state that stays open, even if another is installed in its place. Do not keep it for long: a replaced state's
/// files are removed only when the last pin is dropped.
#[derive(Clone)]
pub struct PinnedState {
    live: Arc<Live>,
}

impl PinnedState {
    /// The state at this moment.
    ///
    /// # Errors
    /// `Failed`.
    pub fn snapshot(&self) -> Result<StateSnapshot<'_>, StorageError> {
        self.live.write_back()?;
        Ok(StateSnapshot { db: &self.live.db, snapshot: self.live.db.snapshot() })
    }
}

/// One moment of a state. Reads from any thread; later effects do not show.
pub struct StateSnapshot<'pin> {
    pub(super) db: &'pin DB,
    snapshot: Snapshot<'pin>,
}

impl StateSnapshot<'_> {
    /// The value under a key.
    ///
    /// # Errors
    /// As for [`ShardState::get`].
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        get(self.db, table, key, &self.options())
    }

    /// As [`ShardState::scan`].
    ///
    /// # Errors
    /// As for [`ShardState::scan`].
    pub fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), StorageError> {
        scan(self.db, table, start, end, visit, self.options())
    }

    /// The applied id and membership of exactly this moment.
    ///
    /// # Errors
    /// `Damaged`, `Failed`.
    pub fn applied(&self) -> Result<Applied, StorageError> {
        applied(self.db, &self.options())
    }

    pub(super) fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        options
    }
}

fn get(db: &DB, table: Table, key: &[u8], options: &ReadOptions) -> Result<Option<Bytes>, StorageError> {
    let column_family = column_family(db, table_name(table)?)?;
    // Pinned: one copy, from the block or memtable to the answer.
    let value = db.get_pinned_cf_opt(column_family, key, options).map_err(StorageError::rocksdb("read the state"))?;
    Ok(value.map(|value| Bytes::copy_from_slice(&value)))
}

pub(super) fn scan(
    db: &DB,
    table: Table,
    start: &[u8],
    end: Option<&[u8]>,
    visit: &mut Visit<'_>,
    mut options: ReadOptions,
) -> Result<(), StorageError> {
    let column_family = column_family(db, table_name(table)?)?;
    if end.is_some_and(|end| end <= start) {
        return Ok(());
    }
    if let Some(end) = end {
        // A bound, not a check in the loop: RocksDB then does not step over the tombstones beyond it.
        options.set_iterate_upper_bound(end);
    }
    let mut iterator: DBRawIterator<'_> = db.raw_iterator_cf_opt(column_family, options);
    iterator.seek(start);
    while let Some((key, value)) = iterator.item() {
        if visit(key, value).is_break() {
            return Ok(());
        }
        iterator.next();
    }
    iterator.status().map_err(StorageError::rocksdb("scan the state"))
}

/// Reads where a state stands. Not consistent between its two keys unless `options` name a snapshot or nobody writes.
pub(super) fn applied(db: &DB, options: &ReadOptions) -> Result<Applied, StorageError> {
    let log_id: Option<LogId> = stored(db, APPLIED_LOG_ID, options)?;
    let membership: Option<StoredMembership> = stored(db, APPLIED_MEMBERSHIP, options)?;
    Ok(Applied { log_id, membership: membership.unwrap_or_default() })
}

fn stored<M: Message + Default>(db: &DB, key: &[u8], options: &ReadOptions) -> Result<Option<M>, StorageError> {
    let value = db
        .get_pinned_cf_opt(column_family(db, APPLIED)?, key, options)
        .map_err(StorageError::rocksdb("read the applied id"))?;
    value
        .map(|value| {
            M::decode(&*value).map_err(|error| {
                StorageError::Damaged(format!("the state's {}: {error}", String::from_utf8_lossy(key)))
            })
        })
        .transpose()
}
