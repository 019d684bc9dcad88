//! Databases as files: exports, which SQLite's own tools open, and imports.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use cirrus_engine::{Transaction, View};
use cirrus_proto::internal::v1::{DatabaseStage, StoredDatabase};
use cirrus_proto::limits::SqlLimits;
use cirrus_proto::{Failure, Reason};
use prost::Message;

use crate::budget::Budget;
use crate::connection::{Purpose, open};
use crate::file::File;
use crate::keys::{entry_key, page_key, page_prefix};
use crate::memory::Allowance;
use crate::running::{Committed, Reads, Running, run};
use crate::schema::quoted;
use crate::session::Session;
use crate::stored::{Changes, entry, live_entry, new_generation, not_found};
use crate::{DatabaseId, Databases, page, trouble};

/// With what SQLite's files begin.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// The header of a file, in its first page: where what stands. See <https://www.sqlite.org/fileformat.html>.
const HEADER_BYTES: usize = 100;
const PAGE_BYTES_AT: usize = 16;
const WRITE_VERSION_AT: usize = 18;
const READ_VERSION_AT: usize = 19;
const CHANGE_COUNTER_AT: usize = 24;
const PAGE_COUNT_AT: usize = 28;
const VERSION_VALID_FOR_AT: usize = 92;

/// Read and write versions: of a file with a rollback journal.
const ROLLBACK_JOURNAL: u8 = 1;

/// Visits the pages of a database in order, which together are a file that SQLite's own tools open, until `visit` breaks.
///
/// Fails with `DATABASE_NOT_FOUND`.
pub fn export(
    view: &dyn View,
    id: &DatabaseId,
    limits: &SqlLimits,
    visit: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<(), Failure> {
    id.check(limits)?;
    let reads = Committed(view);
    let entry = live_entry(&reads, id)?.ok_or_else(|| not_found(id))?;
    let prefix = page_prefix(id);
    let mut page = vec![0; entry.page_bytes as usize];
    for number in 1..=entry.page_count {
        let stored = reads.get(&page_key(&prefix, number))?;
        if !stored.is_some_and(|stored| page::decode(&stored, &mut page)) {
            return Err(Failure::internal(format!("page {number} of a database is not stored as a page")));
        }
        if number == 1 {
            // Other programs take the size from here where the counters agree.
            page.copy_within(CHANGE_COUNTER_AT..CHANGE_COUNTER_AT + 4, VERSION_VALID_FOR_AT);
            page[PAGE_COUNT_AT..PAGE_COUNT_AT + 4].copy_from_slice(&entry.page_count.to_be_bytes());
        }
        if visit(&page).is_break() {
            break;
        }
    }
    Ok(())
}

/// A file that was checked, with pages of this cluster's size.
#[derive(Clone, PartialEq, Eq)]
pub struct Import {
    image: Bytes,
    page_bytes: usize,
    token: u64,
}

/// Some pages of an import, in the order in which they are to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportPart {
    /// Tells this import from others to the same database.
    pub token: u64,
    /// Bytes of a page.
    pub page_bytes: u32,
    /// Pages of the whole database.
    pub page_count: u32,
    /// The number of the first page here, from 1.
    pub first_page: u32,
    /// Whole pages.
    pub pages: Bytes,
    /// The schema's version that the database has; 0: none, so that the next request makes it what the schema says.
    pub schema_version: u64,
    /// The schema's last migration that it needs no more.
    pub migration: u64,
}

impl fmt::Debug for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Import { image, page_bytes, token } = self;
        f.debug_struct("Import")
            .field("bytes", &image.len())
            .field("page_bytes", page_bytes)
            .field("token", token)
            .finish()
    }
}

impl Import {
    /// Checks a file with SQLite's own integrity check, and rewrites it as VACUUM does: with pages of `limits.page_bytes`, and
    /// without what was deleted from it. Takes up to `limits.import_cpu_ms`, so it belongs on no executor's thread.
    ///
    /// A file in write-ahead mode is taken as it is; what is still in its log is not in it.
    ///
    /// Fails with `DATABASE_INVALID`, `DATABASE_TOO_LARGE`, and for exceeded limits with reasons `SQL_*`.
    pub fn prepare(file: &[u8], limits: &SqlLimits) -> Result<Import, Failure> {
        crate::initialize()?;
        let (actual, limit) = (file.len(), limits.database_bytes);
        if actual > limit {
            return Err(Failure::too_large(Reason::DatabaseTooLarge, "file", actual, limit));
        }
        check_header(file)?;
        let mut image = file.to_vec();
        image[WRITE_VERSION_AT] = ROLLBACK_JOURNAL;
        image[READ_VERSION_AT] = ROLLBACK_JOURNAL;
        let killed = AtomicBool::new(false);
        let running = Running::without_shard(image, Budget::new(Duration::from_millis(limits.import_cpu_ms), &killed));
        // What VACUUM holds: the new database, the old one's pages for its journal, and what it changed.
        let _allowance = Allowance::begin(limits.memory_bytes + 4 * limits.database_bytes);
        run(&running, || {
            let connection = open(limits.page_bytes, Purpose::Import, limits)
                .map_err(|error| trouble::failure(&error, &running, limits))?;
            let session = Session::new(&connection, &running, limits);
            let found = session.rows("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0))?;
            if found != ["ok"] {
                return Err(Failure::new(Reason::DatabaseInvalid, found.join("; ")));
            }
            check_values(&session, limits)?;
            session.internal(&format!("PRAGMA auto_vacuum = NONE; PRAGMA page_size = {}; VACUUM", limits.page_bytes))
        })
        .map_err(as_invalid)?;
        let File::Image(image) = running.file.into_inner() else {
            return Err(Failure::internal("an import's image became pages"));
        };
        check_header(&image).map_err(Failure::internal)?;
        if page_bytes(&image) != Some(limits.page_bytes) {
            return Err(Failure::internal("an import was not brought to pages of this cluster's size"));
        }
        Ok(Import { image: image.into(), page_bytes: limits.page_bytes, token: new_generation() })
    }

    /// The database's size, bytes.
    pub fn bytes(&self) -> usize {
        self.image.len()
    }

    /// The import in parts of at most `part_bytes`, or of one page.
    pub fn parts(&self, part_bytes: usize) -> impl Iterator<Item = ImportPart> {
        let pages = (part_bytes / self.page_bytes).max(1);
        let page_count = self.image.len() / self.page_bytes;
        (0..page_count).step_by(pages).map(move |first| {
            let end = (first + pages).min(page_count);
            ImportPart {
                token: self.token,
                page_bytes: self.page_bytes as u32,
                page_count: page_count as u32,
                first_page: first as u32 + 1,
                pages: self.image.slice(first * self.page_bytes..end * self.page_bytes),
                schema_version: 0,
                migration: 0,
            }
        })
    }
}

impl Databases {
    /// Stores a part of an import, in the order of [`Import::parts`]. Until the last part is stored, requests to the database
    /// are refused with `DATABASE_BUSY`; an import that was begun and is not continued is undone by [`Databases::remove`].
    ///
    /// Fails with `DATABASE_EXISTS`, with `DATABASE_BUSY` where another import is under way, with `INVALID_FIELD` for a part
    /// that does not follow the one before, and with `WRITE_SET_TOO_LARGE`.
    pub fn import(
        &mut self,
        transaction: &mut Transaction<'_>,
        id: &DatabaseId,
        part: &ImportPart,
    ) -> Result<(), Failure> {
        id.check(self.limits())?;
        check_part(part, self.limits())?;
        let mut entry = match entry(transaction, id)? {
            None => StoredDatabase {
                generation: part.token,
                page_bytes: part.page_bytes,
                created_at_ms: transaction.now_ms(),
                ..StoredDatabase::default()
            },
            Some(entry) if entry.stage() == DatabaseStage::Importing && entry.generation == part.token => entry,
            Some(entry) if matches!(entry.stage(), DatabaseStage::Importing | DatabaseStage::Removing) => {
                return Err(Failure::new(Reason::DatabaseBusy, "the database is being imported or removed already"));
            }
            Some(_) => return Err(Failure::new(Reason::DatabaseExists, "the database is there; remove it first")),
        };
        if part.first_page != entry.page_count + 1 {
            let problem = format!(
                "must be {}, the page after those that are stored, not {}",
                entry.page_count + 1,
                part.first_page
            );
            return Err(Failure::invalid_field("first_page", problem));
        }
        let prefix = page_prefix(id);
        let mut changes = Changes::default();
        for (number, page) in (part.first_page..).zip(part.pages.chunks_exact(part.page_bytes as usize)) {
            changes.add(page_key(&prefix, number), None, Some(page::encode(page)));
            entry.page_count = number;
        }
        entry.stored_bytes = entry.stored_bytes.saturating_add_signed(changes.stored_bytes());
        entry.changed_at_ms = transaction.now_ms();
        if entry.page_count == part.page_count {
            entry.set_stage(DatabaseStage::Live);
            entry.generation = new_generation();
            (entry.schema_version, entry.migration) = (part.schema_version, part.migration);
        } else {
            entry.set_stage(DatabaseStage::Importing);
        }
        changes.add(entry_key(id).into(), None, Some(entry.encode_to_vec().into()));
        changes.write(transaction)
    }
}

/// Refuses a file with a value that no statement could read here.
fn check_values(session: &Session<'_>, limits: &SqlLimits) -> Result<(), Failure> {
    let tables = "SELECT t.name, c.name FROM pragma_table_list t JOIN pragma_table_xinfo(t.name) c \
                  WHERE t.schema = 'main' AND t.type IN ('table', 'shadow') AND c.hidden = 0 AND t.name <> 'sqlite_schema'";
    let columns = session.rows(tables, [], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    for (table, column) in columns {
        let sql = format!("SELECT coalesce(max(octet_length({})), 0) FROM {}", quoted(&column), quoted(&table));
        let longest = session.rows(&sql, [], |row| row.get::<_, u32>(0))?.into_iter().max().unwrap_or(0) as usize;
        if longest > limits.value_bytes {
            let field = format!("a value of column {column} of table {table}");
            return Err(Failure::too_large(Reason::SqlTooLarge, &field, longest, limits.value_bytes));
        }
    }
    Ok(())
}

fn check_part(part: &ImportPart, limits: &SqlLimits) -> Result<(), Failure> {
    let page_bytes = part.page_bytes as usize;
    if !page_bytes.is_power_of_two() || !(512..=65_536).contains(&page_bytes) {
        return Err(Failure::invalid_field("page_bytes", format!("{page_bytes} is no size of a page")));
    }
    let bytes = page_bytes * part.page_count as usize;
    if bytes > limits.database_bytes {
        return Err(Failure::too_large(Reason::DatabaseTooLarge, "database", bytes, limits.database_bytes));
    }
    if part.pages.is_empty() || !part.pages.len().is_multiple_of(page_bytes) {
        return Err(Failure::invalid_field("pages", "must be one or more whole pages"));
    }
    let after = part.first_page as usize + part.pages.len() / page_bytes;
    if after > part.page_count as usize + 1 {
        return Err(Failure::invalid_field(
            "pages",
            format!("there are more than the {} of the database", part.page_count),
        ));
    }
    Ok(())
}

/// Refuses what SQLite would take for an empty file, or for one without its end.
fn check_header(file: &[u8]) -> Result<(), Failure> {
    let invalid = |problem: String| Failure::new(Reason::DatabaseInvalid, problem);
    if file.len() < HEADER_BYTES || !file.starts_with(MAGIC) {
        return Err(invalid("the file does not begin as a SQLite database does".to_owned()));
    }
    let Some(page_bytes) = page_bytes(file) else {
        return Err(invalid("the file's header gives an impossible size of pages".to_owned()));
    };
    if !file.len().is_multiple_of(page_bytes) {
        return Err(invalid(format!("the file has {} bytes, which are not whole pages of {page_bytes}", file.len())));
    }
    Ok(())
}

fn page_bytes(file: &[u8]) -> Option<usize> {
    let stored = u16::from_be_bytes([*file.get(PAGE_BYTES_AT)?, *file.get(PAGE_BYTES_AT + 1)?]);
    match stored {
        1 => Some(65_536),
        512.. if stored.is_power_of_two() => Some(usize::from(stored)),
        _ => None,
    }
}

/// What SQLite finds wrong with a file that was sent is not the node's fault.
fn as_invalid(failure: Failure) -> Failure {
    match failure.reason {
        Reason::SqlTimeout | Reason::SqlMemory | Reason::SqlTooLarge | Reason::DatabaseTooLarge => failure,
        _ => Failure { reason: Reason::DatabaseInvalid, ..failure },
    }
}
