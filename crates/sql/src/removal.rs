//! Removing a database.

use cirrus_engine::Transaction;
use cirrus_proto::Failure;
use cirrus_proto::internal::v1::{DatabaseStage, Table};
use prost::Message;

use crate::keys::{entry_key, page_key, page_prefix};
use crate::stored::{Changes, entry, not_found};
use crate::{DatabaseId, Databases};

/// How far a removal went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The database is gone.
    Done,
    /// It is too large for one write set. Requests to it are refused; the same removal, in further transactions, ends it.
    More,
}

impl Databases {
    /// Goes on with a removal that was begun, or undoes an import that was not ended. A database that can be used is left
    /// alone, and so is one that is not there.
    pub fn remove_unfinished(
        &mut self,
        transaction: &mut Transaction<'_>,
        id: &DatabaseId,
    ) -> Result<Removal, Failure> {
        id.check(self.limits())?;
        match entry(transaction, id)?.map(|entry| entry.stage()) {
            Some(DatabaseStage::Importing | DatabaseStage::Removing) => self.remove(transaction, id),
            _ => Ok(Removal::Done),
        }
    }

    /// Removes a database, whatever stage it is in.
    ///
    /// Fails with `DATABASE_NOT_FOUND`.
    pub fn remove(&mut self, transaction: &mut Transaction<'_>, id: &DatabaseId) -> Result<Removal, Failure> {
        id.check(self.limits())?;
        let Some(mut entry) = entry(transaction, id)? else { return Err(not_found(id)) };
        self.close(id);
        let prefix = page_prefix(id);
        let page_key_bytes = prefix.len() + size_of::<u32>();
        // A page costs its key. The entry's own write, and whatever else the command writes, find room in what is left out.
        let room = transaction.limits().write_set_bytes.saturating_sub(transaction.write_set_bytes());
        let pages_max = (room * 9 / 10 / page_key_bytes).max(1);
        let first = entry.page_count.saturating_sub(u32::try_from(pages_max).unwrap_or(u32::MAX));
        let mut changes = Changes::default();
        for number in first + 1..=entry.page_count {
            let key = page_key(&prefix, number);
            let old = transaction.read(Table::Sql, &key)?;
            changes.add(key, old.as_ref(), None);
        }
        if first == 0 {
            changes.add(entry_key(id).into(), None, None);
            changes.write(transaction)?;
            return Ok(Removal::Done);
        }
        entry.set_stage(DatabaseStage::Removing);
        entry.page_count = first;
        entry.stored_bytes = entry.stored_bytes.saturating_add_signed(changes.stored_bytes());
        entry.changed_at_ms = transaction.now_ms();
        changes.add(entry_key(id).into(), None, Some(entry.encode_to_vec().into()));
        changes.write(transaction)?;
        Ok(Removal::More)
    }
}
