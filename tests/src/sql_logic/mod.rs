//! SQL logic tests, run on Cirrus over gRPC and on plain SQLite side by side: no record may differ.
//!
//! A file's records are run one after the other, each by [`cirrus`] and by [`plain`], and [`comparison`] tells what differs.
//! Whether both also say what the file expects is told apart ([`expected`]): an old file may expect what no SQLite of today
//! answers. Nothing here may link `cirrus-sql`: it sets SQLite up for the whole process, and plain SQLite is to be plain.
//!
//! The format is described at <https://www.sqlite.org/sqllogictest>; the crate `sqllogictest` parses it.

mod cirrus;
mod comparison;
mod expected;
mod file;
mod plain;
mod temporary;
mod words;

pub use cirrus::CirrusDatabase;
pub use comparison::{Note, Notes, Report, run_file};
pub use file::find_files;

use rusqlite::types::Value;

/// What a statement answered: its rows, or SQLite's message.
type Answer = Result<Rows, String>;

#[derive(Clone, Debug, Default, PartialEq)]
struct Rows {
    columns: usize,
    rows: Vec<Vec<Value>>,
}
