//! What databases there are, and what they consist of.

use std::ops::ControlFlow;

use bytes::Bytes;
use cirrus_engine::View;
use cirrus_proto::Failure;
use cirrus_proto::internal::v1::{DatabaseStage, StoredDatabase};
use cirrus_proto::limits::SqlLimits;

use crate::keys::{database_of_entry, entries_prefix, entry_key, past};
use crate::running::{Committed, Reads as _};
use crate::statement::Cell;
use crate::stored::{decode_entry, live_entry, not_found};
use crate::{DatabaseId, Databases, Request, Statement};

/// Most entries that one page of a list looks at, whether they are of the databases asked for or not.
const ENTRIES_EXAMINED_MAX: usize = 20_000;

/// What a database's entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseInfo {
    /// The database.
    pub id: DatabaseId,
    /// Size as SQLite counts it, bytes: what an export has.
    pub bytes: u64,
    /// What its pages take in the shard's state before compression, bytes.
    pub stored_bytes: u64,
    /// When it was created, Unix milliseconds.
    pub created_at_ms: u64,
    /// When it changed last, Unix milliseconds.
    pub changed_at_ms: u64,
    /// The version of its dbname's schema that it has; 0: none.
    pub schema_version: u64,
    /// The upgrade that failed last, until one succeeds.
    pub upgrade_failure: Option<UpgradeFailure>,
    /// It is being imported or removed.
    pub busy: bool,
}

/// Why a database is not at its schema's version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpgradeFailure {
    /// The version that it did not reach.
    pub schema_version: u64,
    /// What failed, such as "migration 3" or "column addrbook.phone".
    pub step: String,
    /// What SQLite said.
    pub message: String,
    /// When, Unix milliseconds.
    pub failed_at_ms: u64,
}

/// What a database consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its entry.
    pub info: DatabaseInfo,
    /// Its tables, indexes, views and triggers, in the order of their creation.
    pub objects: Vec<SchemaObject>,
}

/// One thing of a database's schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaObject {
    /// "table", "index", "view" or "trigger".
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The table or view that it belongs to.
    pub table: String,
    /// The statement that creates it; empty for an index that a constraint implies.
    pub sql: String,
}

/// Which databases to list.
#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    /// Of this dbfile.
    pub dbfile: Option<u32>,
    /// Whose user begins so.
    pub user_prefix: Bytes,
    /// Of this dbname.
    pub dbname: Option<String>,
}

/// A page of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// In the order of dbfile, user and dbname. There may be none although there is a next page.
    pub databases: Vec<DatabaseInfo>,
    /// Where the next page begins: after this database. `None`: this page is the last.
    pub next: Option<DatabaseId>,
}

impl ListFilter {
    fn matches(&self, id: &DatabaseId) -> bool {
        self.dbfile.is_none_or(|dbfile| id.dbfile == dbfile)
            && id.user.starts_with(&self.user_prefix)
            && self.dbname.as_ref().is_none_or(|dbname| id.dbname == *dbname)
    }
}

/// Lists a shard's databases after `after`, at most `count_max` and the limit's number of them.
pub fn list(
    view: &dyn View,
    filter: &ListFilter,
    after: Option<&DatabaseId>,
    count_max: usize,
    limits: &SqlLimits,
) -> Result<ListPage, Failure> {
    let prefix = entries_prefix(filter.dbfile, &filter.user_prefix);
    // The first key past that of `after`.
    let start = after.map(|id| [&entry_key(id)[..], &[0]].concat()).filter(|start| *start > prefix);
    let count_max = count_max.min(limits.list_databases).max(1);
    let mut page = ListPage::default();
    let mut examined = 0;
    let mut failed = None;
    Committed(view).scan(start.as_ref().unwrap_or(&prefix), &past(&prefix), &mut |key, stored| {
        let Some(id) = database_of_entry(key) else {
            failed = Some(Failure::internal("the key of a database's entry names no database"));
            return ControlFlow::Break(());
        };
        if filter.matches(&id) {
            match decode_entry(stored) {
                Ok(entry) => page.databases.push(info(id.clone(), &entry)),
                Err(failure) => {
                    failed = Some(failure);
                    return ControlFlow::Break(());
                }
            }
        }
        examined += 1;
        if page.databases.len() == count_max || examined == ENTRIES_EXAMINED_MAX {
            page.next = Some(id);
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    failed.map_or(Ok(page), Err)
}

fn info(id: DatabaseId, entry: &StoredDatabase) -> DatabaseInfo {
    DatabaseInfo {
        id,
        bytes: u64::from(entry.page_count) * u64::from(entry.page_bytes),
        stored_bytes: entry.stored_bytes,
        created_at_ms: entry.created_at_ms,
        changed_at_ms: entry.changed_at_ms,
        schema_version: entry.schema_version,
        upgrade_failure: entry.schema_failure.as_ref().map(|failure| UpgradeFailure {
            schema_version: failure.schema_version,
            step: failure.step.clone(),
            message: failure.message.clone(),
            failed_at_ms: failure.failed_at_ms,
        }),
        busy: matches!(entry.stage(), DatabaseStage::Importing | DatabaseStage::Removing),
    }
}

impl Databases {
    /// What a database consists of. Fails with `DATABASE_NOT_FOUND`.
    pub fn describe(&mut self, view: &dyn View, id: &DatabaseId) -> Result<Description, Failure> {
        id.check(self.limits())?;
        let entry = live_entry(&Committed(view), id)?.ok_or_else(|| not_found(id))?;
        let statements =
            [Statement::new("SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema ORDER BY rowid")];
        let mut results = self.query(view, entry.changed_at_ms, Request::new(id, &statements))?;
        let text = |cell: Cell| match cell {
            Cell::Text(text) => text,
            _ => String::new(),
        };
        let object = |row: Vec<Cell>| -> Option<SchemaObject> {
            let [kind, name, table, sql] = row.try_into().ok()?;
            Some(SchemaObject { kind: text(kind), name: text(name), table: text(table), sql: text(sql) })
        };
        let objects = results.swap_remove(0).rows.into_iter().filter_map(object).collect();
        Ok(Description { info: info(id.clone(), &entry), objects })
    }
}
