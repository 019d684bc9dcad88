//! A database as it is stored: its entry, and its pages.

use bytes::Bytes;
use cirrus_engine::Transaction;
use cirrus_proto::internal::v1::{DatabaseStage, StoredDatabase, Table};
use cirrus_proto::{Failure, Reason};
use prost::Message;

use crate::DatabaseId;
use crate::file::Written;
use crate::keys::{entry_key, page_key, page_prefix};
use crate::page;
use crate::running::Reads;

/// What a request did to what is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The database was not there before.
    pub created: bool,
    /// Pages that were written or removed.
    pub pages: usize,
    /// Bytes of keys and values that were written, the entry's included.
    pub bytes: usize,
}

/// The entry as it is, in whatever stage.
pub(crate) fn entry(reads: &dyn Reads, id: &DatabaseId) -> Result<Option<StoredDatabase>, Failure> {
    reads.get(&entry_key(id))?.map(|stored| decode_entry(&stored)).transpose()
}

pub(crate) fn decode_entry(stored: &[u8]) -> Result<StoredDatabase, Failure> {
    StoredDatabase::decode(stored)
        .map_err(|error| Failure::internal(format!("the entry of a database cannot be decoded: {error}")))
}

/// The entry of a database that can be used; `None` where there is no such database.
pub(crate) fn live_entry(reads: &dyn Reads, id: &DatabaseId) -> Result<Option<StoredDatabase>, Failure> {
    let Some(entry) = entry(reads, id)? else { return Ok(None) };
    let doing = match entry.stage() {
        DatabaseStage::Unspecified | DatabaseStage::Live => return Ok(Some(entry)),
        DatabaseStage::Importing => "imported",
        DatabaseStage::Removing => "removed",
    };
    Err(Failure::new(Reason::DatabaseBusy, format!("the database is being {doing}")))
}

pub(crate) fn not_found(id: &DatabaseId) -> Failure {
    let user = String::from_utf8_lossy(&id.user);
    Failure::new(
        Reason::DatabaseNotFound,
        format!("there is no database {:?} of user {user:?} in dbfile {}", id.dbname, id.dbfile),
    )
}

/// A number that no state of any database had before.
pub(crate) fn new_generation() -> u64 {
    rand::random::<u64>().max(1)
}

/// Stores what a request left: the pages that differ from those stored, and `entry`, whose sizes and times are brought up to
/// date. Nothing where neither differs. Returns the generation as well.
///
/// Fails with `WRITE_SET_TOO_LARGE`, and has then written nothing.
pub(crate) fn store(
    transaction: &mut Transaction<'_>,
    id: &DatabaseId,
    before: Option<&StoredDatabase>,
    mut entry: StoredDatabase,
    written: &Written,
) -> Result<(u64, Stored), Failure> {
    let stored_count = before.map_or(0, |before| before.page_count);
    let prefix = page_prefix(id);
    let mut changes = Changes::default();
    for (&number, page) in &written.pages {
        let key = page_key(&prefix, number);
        let old = match written.stored.get(&number) {
            Some(stored) => Some(stored.clone()),
            None if number <= stored_count => transaction.read(Table::Sql, &key)?,
            None => None,
        };
        let new = page::encode(page);
        if old.as_ref() != Some(&new) {
            changes.add(key, old.as_ref(), Some(new));
        }
    }
    for number in written.page_count + 1..=stored_count {
        let key = page_key(&prefix, number);
        let old = transaction.read(Table::Sql, &key)?;
        changes.add(key, old.as_ref(), None);
    }
    entry.page_count = written.page_count;
    let pages = changes.writes.len();
    let same_entry = match before {
        Some(before) => *before == entry,
        None => entry == StoredDatabase { page_bytes: entry.page_bytes, ..StoredDatabase::default() },
    };
    if pages == 0 && same_entry {
        return Ok((entry.generation, Stored::default()));
    }
    if pages > 0 || before.is_none() {
        entry.generation = new_generation();
    }
    entry.stored_bytes = entry.stored_bytes.saturating_add_signed(changes.stored_bytes);
    entry.changed_at_ms = transaction.now_ms();
    if before.is_none() {
        entry.created_at_ms = transaction.now_ms();
        entry.set_stage(DatabaseStage::Live);
    }
    let generation = entry.generation;
    changes.add(entry_key(id).into(), None, Some(entry.encode_to_vec().into()));
    let bytes = changes.bytes;
    changes.write(transaction)?;
    Ok((generation, Stored { created: before.is_none(), pages, bytes }))
}

/// Writes that are made together or not at all.
#[derive(Default)]
pub(crate) struct Changes {
    writes: Vec<(Bytes, Option<Bytes>)>,
    /// Bytes of keys and values.
    bytes: usize,
    stored_bytes: i64,
}

impl Changes {
    pub(crate) fn add(&mut self, key: Bytes, old: Option<&Bytes>, new: Option<Bytes>) {
        let (old_bytes, new_bytes) = (old.map_or(0, Bytes::len), new.as_ref().map_or(0, Bytes::len));
        self.bytes += key.len() + new_bytes;
        self.stored_bytes += new_bytes as i64 - old_bytes as i64;
        self.writes.push((key, new));
    }

    /// What they add to the values that are stored, bytes; negative where they remove more.
    pub(crate) fn stored_bytes(&self) -> i64 {
        self.stored_bytes
    }

    pub(crate) fn write(self, transaction: &mut Transaction<'_>) -> Result<(), Failure> {
        // A savepoint keeps older writes of the same keys, so it is worth having only where something may fail.
        let fits = transaction.write_set_bytes() + self.bytes <= transaction.limits().write_set_bytes;
        let savepoint = (!fits).then(|| transaction.savepoint());
        for (key, value) in self.writes {
            let outcome = match value {
                Some(value) => transaction.write(Table::Sql, key, value),
                None => transaction.remove(Table::Sql, key),
            };
            if let Err(failure) = outcome {
                if let Some(savepoint) = savepoint {
                    transaction.rollback_to(savepoint);
                }
                return Err(failure);
            }
        }
        Ok(())
    }
}
