//! Plain SQLite: one file for each user, on this machine's disk, in this process.
//!
//! SQLite is as its makers set it up: its own file system, memory and defaults. `cirrus-sql` changes those for its whole process,
//! but only where a node runs, and the bench runs none in its own process.
//!
//! What a program with such files would do at best is done for it: connections are kept open, as many as a cluster keeps, with
//! their compiled statements; and clients that want one file wait for each other, rather than run into SQLite's locks.

use std::collections::VecDeque;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, params};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::address_book::{DDL, FILL, INSERT, SELECT, UPDATE, Write, contacts, user};
use super::databases::Databases;
use crate::recorder::OperationError;

/// How SQLite makes a transaction atomic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Journal {
    /// A rollback journal, deleted after each transaction: SQLite's default.
    Delete,
    /// A write-ahead log.
    Wal,
}

impl Journal {
    /// Descriptors that a connection holds.
    fn files(self) -> usize {
        match self {
            Journal::Delete => 1,
            Journal::Wal => 3,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Journal::Delete => "DELETE",
            Journal::Wal => "WAL",
        }
    }
}

/// Directories over which the files are spread, so that none is large.
const DIRECTORIES: u32 = 1024;
/// Descriptors for everything but kept connections: journals, directories, the program's own.
const OTHER_FILES: usize = 1000;

/// Clones use the same files.
#[derive(Clone)]
pub(crate) struct PlainFiles(Arc<Files>);

struct Files {
    root: PathBuf,
    rows: u32,
    journal: Journal,
    /// By database: its connection, where it is open. Locked by whoever uses the database.
    places: Vec<Mutex<Option<Connection>>>,
    /// Databases that are open, the longest first. With uniform use, that is as good as the least lately used.
    open: Mutex<VecDeque<u32>>,
    /// 0: each use opens the file, and closes it.
    connections_max: usize,
}

impl PlainFiles {
    /// Files for `count` databases below `root`. At most `connections_max` stay open, and no more than the system lets this
    /// process have.
    pub(crate) fn new(
        root: &Path,
        count: u32,
        rows: u32,
        connections_max: usize,
        journal: Journal,
    ) -> anyhow::Result<Self> {
        let possible = files_max().saturating_sub(OTHER_FILES) / journal.files();
        for directory in 0..DIRECTORIES.min(count) {
            let directory = root.join(directory.to_string());
            fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
        }
        Ok(PlainFiles(Arc::new(Files {
            root: root.to_owned(),
            rows,
            journal,
            places: (0..count).map(|_| Mutex::default()).collect(),
            open: Mutex::default(),
            connections_max: connections_max.min(possible),
        })))
    }

    /// Connections that are kept open, at most.
    pub(crate) fn connections_max(&self) -> usize {
        self.0.connections_max
    }
}

/// Descriptors that this process may have, once its limit is raised as far as the system lets it.
fn files_max() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    let files = if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    usize::try_from(files).unwrap_or(usize::MAX)
}

/// Writes what fills left in the system's memory to the disk.
pub(crate) fn sync() {
    nix::unistd::sync();
}

impl Files {
    fn path(&self, database: u32) -> PathBuf {
        self.root.join((database % DIRECTORIES).to_string()).join(format!("{}.sqlite", user(database)))
    }

    fn open_file(&self, database: u32, create: OpenFlags) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | create;
        Connection::open_with_flags(self.path(database), flags)
    }

    /// Creates a database, or puts one that is there into another journal mode. Not durable before [`sync`].
    fn fill(&self, database: u32) -> rusqlite::Result<bool> {
        let mut connection = self.open_file(database, OpenFlags::SQLITE_OPEN_CREATE)?;
        connection
            .execute_batch(&format!("PRAGMA synchronous = OFF; PRAGMA journal_mode = {};", self.journal.name()))?;
        let transaction = connection.transaction()?;
        let objects: u32 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if objects > 0 {
            return Ok(false);
        }
        transaction.execute_batch(DDL)?;
        {
            let mut insert = transaction.prepare(FILL)?;
            for (id, contact) in (1..).zip(contacts(database, self.rows)) {
                let _: usize = insert.execute(params![id, contact.name, contact.email, contact.phone])?;
            }
        }
        transaction.commit()?;
        Ok(true)
    }

    fn with<R>(&self, database: u32, work: impl FnOnce(&Connection) -> rusqlite::Result<R>) -> rusqlite::Result<R> {
        let mut place = self.places[database as usize].lock();
        if let Some(connection) = &*place {
            return work(connection);
        }
        let connection = self.open_file(database, OpenFlags::empty())?;
        connection.execute_batch("PRAGMA synchronous = FULL")?;
        let outcome = work(&connection);
        if self.connections_max > 0 {
            *place = Some(connection);
            drop(place);
            self.close_one_too_many(database);
        }
        outcome
    }

    fn close_one_too_many(&self, opened: u32) {
        let mut open = self.open.lock();
        open.push_back(opened);
        if open.len() <= self.connections_max {
            return;
        }
        let Some(longest) = open.pop_front() else { return };
        match self.places[longest as usize].try_lock() {
            Some(mut place) => {
                drop(open);
                drop(place.take());
            }
            // It is in use: another turn.
            None => open.push_back(longest),
        }
    }
}

impl Databases for PlainFiles {
    /// SQLite works where it is called, and waits for the disk.
    fn spawn(&self, client: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || runtime.block_on(client))
    }

    async fn fill(&self, database: u32) -> Result<bool, OperationError> {
        Ok(self.0.fill(database)?)
    }

    async fn read(&self, database: u32, id: u32) -> Result<(), OperationError> {
        let read = |connection: &Connection| {
            connection.prepare_cached(SELECT)?.query_row([id], |row| {
                let cells: (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
                Ok(cells)
            })
        };
        self.0.with(database, read).map(drop).map_err(Into::into)
    }

    async fn write(&self, database: u32, write: Write) -> Result<(), OperationError> {
        let write = |connection: &Connection| match &write {
            Write::Insert(contact) => {
                connection.prepare_cached(INSERT)?.execute([&contact.name, &contact.email, &contact.phone])
            }
            Write::Update { id, phone } => connection.prepare_cached(UPDATE)?.execute(params![id, phone]),
        };
        match self.0.with(database, write)? {
            1 => Ok(()),
            rows => Err(OperationError::new("WRONG_RESULT", format!("a write changed {rows} rows, not 1"))),
        }
    }
}

impl From<rusqlite::Error> for OperationError {
    fn from(error: rusqlite::Error) -> Self {
        let kind = error.sqlite_error_code().map_or_else(|| "SQLITE".to_owned(), |code| format!("SQLITE_{code:?}"));
        OperationError::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn files_are_created_once_written_to_and_no_more_of_them_open_than_allowed() {
        let root = tempfile::tempdir().unwrap();
        let files = PlainFiles::new(root.path(), 20, 10, 3, Journal::Delete).unwrap();
        for database in 0..20 {
            assert!(files.fill(database).await.unwrap() && !files.fill(database).await.unwrap());
        }
        assert_eq!(fs::metadata(files.0.path(7)).unwrap().len(), 3 * 4096, "schema, table, index");
        for database in 0..20 {
            files.read(database, 10).await.unwrap();
            files.write(database, Write::Update { id: 1, phone: "1".to_owned() }).await.unwrap();
        }
        let open = files.0.places.iter().filter(|place| place.lock().is_some()).count();
        assert_eq!((open, files.0.open.lock().len()), (3, 3));
        assert_eq!(files.read(0, 11).await.unwrap_err().kind, "SQLITE", "there is no such row");
        let level: i64 = files.0.with(0, |open| open.query_row("PRAGMA synchronous", [], |row| row.get(0))).unwrap();
        assert_eq!(level, 2, "FULL");
    }

    #[tokio::test]
    async fn filling_again_changes_the_journal_mode_and_keeps_the_rows() {
        let root = tempfile::tempdir().unwrap();
        let files = PlainFiles::new(root.path(), 1, 10, 0, Journal::Delete).unwrap();
        files.fill(0).await.unwrap();
        let files = PlainFiles::new(root.path(), 1, 10, 0, Journal::Wal).unwrap();
        assert!(!files.fill(0).await.unwrap());
        let mode: String = files.0.with(0, |open| open.query_row("PRAGMA journal_mode", [], |row| row.get(0))).unwrap();
        assert_eq!(mode, "wal");
        files.read(0, 10).await.unwrap();
        assert!(files.0.places[0].lock().is_none(), "nothing is kept open");
    }
}
