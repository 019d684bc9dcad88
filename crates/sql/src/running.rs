//! The request that runs on this thread, as SQLite's callbacks see it.
//!
//! SQLite calls back for pages, for leave to go on, for leave to do a thing, and for the time. What it is given
//! differs with each request, while a connection outlives many: so the callbacks hold nothing, and find the request
//! here, lent for exactly as long as it runs.

use std::cell::{Cell, RefCell};

use bytes::Bytes;
use cirrus_engine::{Transaction, View, Visit};
use cirrus_proto::Failure;
use cirrus_proto::internal::v1::Table;

use crate::budget::Budget;
use crate::file::File;
use crate::gate::Gate;
use crate::spent::Spent;

/// Where databases are read from.
pub(crate) trait Reads {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Failure>;

    /// Visits pairs with `start <= key < end` in byte order until `visit` breaks.
    fn scan(&self, start: &[u8], end: &[u8], visit: Visit<'_>) -> Result<(), Failure>;
}

impl Reads for Transaction<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Failure> {
        self.read(Table::Sql, key)
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: Visit<'_>) -> Result<(), Failure> {
        self.scan_table(Table::Sql, start, Some(end), visit)
    }
}

/// What is applied or committed, with no transaction over it.
pub(crate) struct Committed<'a>(pub(crate) &'a dyn View);

impl Reads for Committed<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Failure> {
        Ok(self.0.get(Table::Sql, key)?)
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: Visit<'_>) -> Result<(), Failure> {
        Ok(self.0.scan(Table::Sql, start, Some(end), visit)?)
    }
}

/// Everything that SQLite may ask for during a request.
pub(crate) struct Running<'a> {
    pub(crate) reads: &'a dyn Reads,
    pub(crate) file: RefCell<File>,
    pub(crate) budget: Budget<'a>,
    pub(crate) gate: Gate,
    /// What `datetime('now')` says, Unix milliseconds.
    pub(crate) now_ms: u64,
    /// What was used up so far, whatever comes of the request.
    pub(crate) spent: Cell<Spent>,
}

impl<'a> Running<'a> {
    /// Work on a file that is no shard's.
    pub(crate) fn without_shard(image: Vec<u8>, budget: Budget<'a>) -> Running<'a> {
        Running {
            reads: &Nothing,
            file: File::Image(image).into(),
            budget,
            gate: Gate::new(),
            now_ms: 0,
            spent: Cell::default(),
        }
    }
}

/// Holds no databases.
struct Nothing;

impl Reads for Nothing {
    fn get(&self, _: &[u8]) -> Result<Option<Bytes>, Failure> {
        Ok(None)
    }

    fn scan(&self, _: &[u8], _: &[u8], _: Visit<'_>) -> Result<(), Failure> {
        Ok(())
    }
}

scoped_tls_hkt::scoped_thread_local!(static RUNNING: for<'a> &'a Running<'a>);

/// Runs `work` with the request lent to SQLite's callbacks.
pub(crate) fn run<R>(running: &Running<'_>, work: impl FnOnce() -> R) -> R {
    RUNNING.set(running, work)
}

/// What the request that runs on this thread answers; `None` where none runs, such as when a connection is closed.
pub(crate) fn ask<R>(question: impl FnOnce(&Running<'_>) -> R) -> Option<R> {
    RUNNING.is_set().then(|| RUNNING.with(|running| question(running)))
}
