//! One command's reads and writes.

use std::ops::ControlFlow;

use bytes::Bytes;
use cirrus_proto::internal::v1::{Effect, Table};
use cirrus_proto::limits::Limits;
use cirrus_proto::{Failure, Reason};

use crate::bounds::{check_key, check_value};
use crate::encoding::{decode_header, decode_value, encode_value, expiry_key, is_expired};
use crate::sessions::Admitted;
use crate::write_set::WriteSet;
use crate::{ShardHead, View, Visit};

/// A value with what is stored beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The bytes that the client stored.
    pub value: Bytes,
    /// The revision that wrote it; never 0.
    pub version: u64,
    /// Absolute expiry, Unix milliseconds. 0: never.
    pub expires_at_ms: u64,
    /// Opaque to the shard.
    pub flags: u32,
}

/// State ⊕ overlay ⊕ the command's own writes.
///
/// Two levels: raw tables ([`read`](Self::read), [`write`](Self::write), [`remove`](Self::remove),
/// [`scan_table`](Self::scan_table)), and values ([`get`](Self::get), [`put`](Self::put),
/// [`delete`](Self::delete), [`scan`](Self::scan)), which hide what is expired, give versions and keep the
/// expiry index. `TABLE_DATA` and `TABLE_EXPIRY` are to be written through values only.
///
/// A write that would exceed a limit fails and changes nothing; the transaction goes on.
///
/// Nothing happens to the shard until somebody proposes what [`finish`](Self::finish) returns, so dropping
/// a transaction undoes it.
pub struct Transaction<'v> {
    view: &'v dyn View,
    head: ShardHead,
    limits: Limits,
    writes: WriteSet,
    read_only: bool,
    /// The request that [`crate::sessions::admit`] let in, for [`crate::sessions::remember`].
    admitted: Option<Admitted>,
}

/// A point to return to. Rolling back to it makes all later savepoints void.
#[derive(Clone, Copy, Debug)]
pub struct Savepoint {
    writes: usize,
    head: ShardHead,
}

impl<'v> Transaction<'v> {
    /// A transaction without writes. `head.clock_ms` is its "now": advance the head first.
    pub fn new(view: &'v dyn View, head: ShardHead, limits: &Limits) -> Self {
        Transaction { view, head, limits: *limits, writes: WriteSet::default(), read_only: false, admitted: None }
    }

    /// Whether every write fails from now on, with `READ_ONLY`.
    pub fn set_read_only(&mut self, read_only: bool) {
        self.read_only = read_only;
    }

    /// Whether every write fails.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The time at which the command is evaluated, Unix milliseconds; the same during the whole transaction.
    pub fn now_ms(&self) -> u64 {
        self.head.clock_ms
    }

    /// The limits that writes are held to.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The head as it is after the writes so far.
    pub fn head(&self) -> &ShardHead {
        &self.head
    }

    /// Bytes of keys and values that the transaction holds to write.
    pub fn write_set_bytes(&self) -> usize {
        self.writes.bytes()
    }

    /// Calls evaluated from now on need the catalog applied to at least this index.
    pub fn require_catalog(&mut self, catalog_index: u64) {
        self.head.catalog_index = self.head.catalog_index.max(catalog_index);
    }

    /// What a table holds under a key, exactly as written.
    pub fn read(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Failure> {
        match self.writes.get(table, key) {
            Some(own) => Ok(own.cloned()),
            None => Ok(self.view.get(table, key)?),
        }
    }

    /// Stores bytes in a table. Fails with `WRITE_SET_TOO_LARGE`.
    pub fn write(&mut self, table: Table, key: Bytes, value: Bytes) -> Result<(), Failure> {
        self.write_within_limit(table, key, Some(value))
    }

    /// Removes a key from a table. Fails with `WRITE_SET_TOO_LARGE`.
    pub fn remove(&mut self, table: Table, key: Bytes) -> Result<(), Failure> {
        self.write_within_limit(table, key, None)
    }

    /// Visits a table's pairs with `start <= key < end` (`None`: to the last) in byte order until `visit` breaks.
    pub fn scan_table(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), Failure> {
        Ok(self.writes.scan_over(self.view, table, start, end, visit)?)
    }

    /// The key's value, unless it has none or it expired.
    pub fn get(&self, key: &[u8]) -> Result<Option<Value>, Failure> {
        Ok(self.stored(key)?.filter(|value| self.is_live(value)))
    }

    /// Stores a value and returns its version. `expires_at_ms` 0: never. Fails with `KEY_EMPTY`,
    /// `KEY_TOO_LARGE`, `VALUE_TOO_LARGE` or `WRITE_SET_TOO_LARGE`.
    pub fn put(&mut self, key: Bytes, value: Bytes, expires_at_ms: u64, flags: u32) -> Result<u64, Failure> {
        // Only an expiry index entry makes the old value worth a read.
        let replaced = if self.head.expiring_values == 0 { None } else { self.stored(&key)? };
        self.put_over(replaced.as_ref(), key, value, expires_at_ms, flags)
    }

    /// Removes a key and returns the value that it had, unless it had none or it expired.
    pub fn delete(&mut self, key: &[u8]) -> Result<Option<Value>, Failure> {
        let previous = self.get(key)?;
        if let Some(previous) = &previous {
            self.remove_value(Bytes::copy_from_slice(key), previous)?;
        }
        Ok(previous)
    }

    /// Visits the live pairs with `start <= key < end` (`None`: to the last) in byte order until `visit` breaks.
    pub fn scan(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Value) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        let mut failed = None;
        self.scan_table(Table::Data, start, end, &mut |key, stored| {
            let live = decode_header(stored).map(|header| !is_expired(header.expires_at_ms, self.now_ms()));
            match live.and_then(|live| live.then(|| decode_value(stored)).transpose()) {
                Ok(Some(value)) => visit(key, value),
                Ok(None) => ControlFlow::Continue(()),
                Err(failure) => {
                    failed = Some(failure);
                    ControlFlow::Break(())
                }
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// A point to return to.
    pub fn savepoint(&self) -> Savepoint {
        Savepoint { writes: self.writes.savepoint(), head: self.head }
    }

    /// The keys that were written after the savepoint, each with the value that it has now; `None`: removed.
    pub fn values_written_after(&self, savepoint: Savepoint) -> Result<Vec<(Bytes, Option<Value>)>, Failure> {
        let data = self.written_after(savepoint, Table::Data);
        data.map(|(key, stored)| Ok((key.clone(), stored.cloned().map(decode_value).transpose()?))).collect()
    }

    /// What was written to a table after the savepoint, by key, exactly as it is now; `None`: removed.
    pub fn written_after(&self, savepoint: Savepoint, table: Table) -> impl Iterator<Item = (&Bytes, Option<&Bytes>)> {
        let writes = self.writes.after(savepoint.writes).filter(move |(written, ..)| *written == table);
        writes.map(|(_, key, stored)| (key, stored))
    }

    /// Undoes all writes after the savepoint.
    pub fn rollback_to(&mut self, savepoint: Savepoint) {
        self.writes.truncate(savepoint.writes);
        self.head = savepoint.head;
    }

    /// The effects, one for each key that was written, in the order of first writing; and the head after.
    /// The effects do not store the head: see [`ShardHead::effect`].
    pub fn finish(self) -> (Vec<Effect>, ShardHead) {
        (self.writes.into_effects(), self.head)
    }

    /// When something written now with this time to live expires. 0: never. A sum past the end of time
    /// is the end of time, which is as good as never.
    pub(crate) fn expiry_after(&self, ttl_ms: u64) -> u64 {
        if ttl_ms == 0 { 0 } else { self.head.clock_ms.saturating_add(ttl_ms) }
    }

    /// The key's value, expired or not.
    pub(crate) fn stored(&self, key: &[u8]) -> Result<Option<Value>, Failure> {
        self.read(Table::Data, key)?.map(decode_value).transpose()
    }

    pub(crate) fn is_live(&self, value: &Value) -> bool {
        !is_expired(value.expires_at_ms, self.head.clock_ms)
    }

    /// Stores a value where the caller knows what it replaces, expired or not.
    pub(crate) fn put_over(
        &mut self,
        replaced: Option<&Value>,
        key: Bytes,
        value: Bytes,
        expires_at_ms: u64,
        flags: u32,
    ) -> Result<u64, Failure> {
        check_key(&key, &self.limits)?;
        check_value(&value, &self.limits)?;
        let version = self.head.revision + 1;
        let encoded = encode_value(Value { value, version, expires_at_ms, flags });
        self.write(Table::Data, key.clone(), encoded)?;
        self.head.revision = version;
        self.move_expiry(&key, replaced.map_or(0, |value| value.expires_at_ms), expires_at_ms);
        Ok(version)
    }

    /// Removes a value that the caller has read.
    pub(crate) fn remove_value(&mut self, key: Bytes, stored: &Value) -> Result<(), Failure> {
        self.remove(Table::Data, key.clone())?;
        self.move_expiry(&key, stored.expires_at_ms, 0);
        Ok(())
    }

    /// Removes an expired value, unlimited: a sweep ends itself before its write set grows too large.
    pub(crate) fn sweep_value(&mut self, key: Bytes, expired: &Value) {
        self.write_unlimited(Table::Data, key.clone(), None);
        self.move_expiry(&key, expired.expires_at_ms, 0);
    }

    /// Writes what is not the command's own doing, such as session records: counted, never refused.
    pub(crate) fn write_unlimited(&mut self, table: Table, key: Bytes, value: Option<Bytes>) {
        let written = self.writes.write(table, key, value, usize::MAX);
        debug_assert!(written.is_ok(), "no write set holds more than usize::MAX bytes");
    }

    pub(crate) fn set_admitted(&mut self, admitted: Admitted) {
        self.admitted = Some(admitted);
    }

    pub(crate) fn take_admitted(&mut self) -> Option<Admitted> {
        self.admitted.take()
    }

    /// The index follows the value that was just written. Unlimited, so that it can never fail after it.
    fn move_expiry(&mut self, key: &Bytes, from_ms: u64, to_ms: u64) {
        if from_ms == to_ms {
            return;
        }
        if from_ms != 0 {
            self.write_unlimited(Table::Expiry, expiry_key(from_ms, key), None);
            self.head.expiring_values = self.head.expiring_values.saturating_sub(1);
        }
        if to_ms != 0 {
            self.write_unlimited(Table::Expiry, expiry_key(to_ms, key), Some(Bytes::new()));
            self.head.expiring_values += 1;
        }
    }

    fn write_within_limit(&mut self, table: Table, key: Bytes, value: Option<Bytes>) -> Result<(), Failure> {
        if self.read_only {
            return Err(Failure::new(Reason::ReadOnly, "a read-only procedure cannot write"));
        }
        let limit = self.limits.write_set_bytes;
        self.writes
            .write(table, key, value, limit)
            .map_err(|bytes| Failure::too_large(Reason::WriteSetTooLarge, "write set", bytes, limit))
    }
}
