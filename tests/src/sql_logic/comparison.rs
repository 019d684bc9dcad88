//! A file's records, one after the other, on both sides.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use rusqlite::types::Value;
use sqllogictest::{DefaultColumnType, QueryExpect, Record, SortMode};

use super::cirrus::{Asked, CirrusDatabase};
use super::expected::{Labels, statement_is_as_expected};
use super::plain::Plain;
use super::temporary::Temporary;
use super::words::first_word;
use super::{Answer, Rows, file};

/// Notes of one kind that are kept; the rest is counted.
const NOTES_KEPT: usize = 20;
/// Letters of a statement or an answer that are shown.
const SHOWN: usize = 600;

/// What a file's records came to.
#[derive(Debug, Default)]
pub struct Report {
    /// Statements and queries for SQLite.
    pub records: u64,
    /// Those that are not run, and why.
    pub not_compared: Notes,
    /// Those that Cirrus and SQLite answered differently.
    pub different: Notes,
    /// Those that both answered alike, and not as the file says.
    pub unexpected: Notes,
}

/// The first notes of a kind, and how many there are.
#[derive(Debug, Default)]
pub struct Notes {
    /// All.
    pub count: u64,
    /// The first of them.
    pub first: Vec<Note>,
}

/// What is to be said about a record.
#[derive(Clone, Debug)]
pub struct Note {
    /// File and line.
    pub location: String,
    /// The statement.
    pub sql: String,
    /// The answers, or the reason.
    pub text: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n{}", self.location, cut(&self.sql), self.text)
    }
}

impl Notes {
    fn add(&mut self, location: &str, sql: &str, text: impl Into<String>) {
        self.count += 1;
        if self.first.len() < NOTES_KEPT {
            self.first.push(Note { location: location.to_owned(), sql: sql.trim().to_owned(), text: text.into() });
        }
    }
}

/// Runs a file, whose `name` its notes bear, until its end or until `stop`. `records` counts along. Afterwards the database is
/// removed unless `keep`.
///
/// # Errors
/// Where the file cannot be read, or the cluster no longer answers.
pub fn run_file(
    path: &Path,
    name: &str,
    database: CirrusDatabase,
    keep: bool,
    records: &AtomicU64,
    stop: &AtomicBool,
) -> Result<Report> {
    let (labels, temporary) = (Labels::default(), Temporary::default());
    let mut both = Both { database, plain: Plain::new()?, temporary, labels, report: Report::default() };
    for record in file::read(path, name)? {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let before = both.report.records;
        both.record(&record)?;
        records.fetch_add(both.report.records - before, Ordering::Relaxed);
    }
    both.check_integrity(name)?;
    if !keep {
        both.database.remove().context("removing the database")?;
    }
    Ok(both.report)
}

struct Both {
    database: CirrusDatabase,
    plain: Plain,
    temporary: Temporary,
    labels: Labels,
    report: Report,
}

/// What became of one statement of a record.
enum Ran {
    Alike(Answer),
    /// Noted.
    Otherwise,
}

impl Both {
    fn record(&mut self, record: &Record<DefaultColumnType>) -> Result<()> {
        let (conditions, loc, sql, is_query) = match record {
            Record::Statement { conditions, loc, sql, .. } => (conditions, loc, sql, false),
            Record::Query { conditions, loc, sql, .. } => (conditions, loc, sql, true),
            // The SQLite project's tests have none of these; other projects' do.
            Record::Include { loc, .. } | Record::System { loc, .. } | Record::Let { loc, .. } => {
                self.report.not_compared.add(&loc.to_string(), "", "no record of SQLite's SQL logic tests");
                return Ok(());
            }
            _ => return Ok(()),
        };
        if !file::is_ours(conditions) {
            return Ok(());
        }
        self.report.records += 1;
        let location = loc.to_string();
        let sort = match record {
            Record::Query { expected: QueryExpect::Results { sort_mode, .. }, .. } => *sort_mode,
            _ => None,
        };
        // A query is the first statement of its text, a statement all of them.
        let mut answer: Answer = Ok(Rows::default());
        let (mut next, mut rest) = self.first(sql);
        while let Some(one) = next {
            match self.statement(&location, one, is_query, sort).with_context(|| location.clone())? {
                Ran::Alike(alike) => answer = alike,
                Ran::Otherwise => return Ok(()),
            }
            if is_query || answer.is_err() {
                break;
            }
            (next, rest) = self.plain.split(rest).map_or((None, ""), |(one, rest)| (Some(one), rest));
        }
        let as_expected = match record {
            Record::Statement { expected, .. } => statement_is_as_expected(&answer, expected),
            Record::Query { expected, .. } => self.labels.query_is_as_expected(&self.plain, &answer, expected)?,
            _ => true,
        };
        if !as_expected {
            self.report.unexpected.add(&location, sql, format!("  both: {}", told(&answer, None)));
        }
        Ok(())
    }

    /// The first statement of a record's text. Nearly all have one, which need not be compiled to be seen.
    fn first<'t>(&self, sql: &'t str) -> (Option<&'t str>, &'t str) {
        if !sql.trim_end_matches(|letter: char| letter == ';' || letter.is_whitespace()).contains(';') {
            return (Some(sql), "");
        }
        self.plain.split(sql).map_or((None, ""), |(one, rest)| (Some(one), rest))
    }

    fn statement(&mut self, location: &str, sql: &str, is_query: bool, sort: Option<SortMode>) -> Result<Ran> {
        let word = first_word(sql);
        if let Some(reason) = not_comparable(&word).or_else(|| self.temporary.is_not_repeatable(sql)) {
            self.report.not_compared.add(location, sql, reason);
            return Ok(Ran::Otherwise);
        }
        let cirrus = match self.database.run(&self.temporary.statements(), sql, is_query)? {
            Asked::Answered(answer) => answer,
            Asked::NotAllowed(message) if word == "PRAGMA" => {
                self.report.not_compared.add(location, sql, message);
                return Ok(Ran::Otherwise);
            }
            Asked::NotAllowed(message) => Err(message),
        };
        let plain = self.plain.run(sql);
        if plain.is_ok() && !matches!(&*word, "SELECT" | "VALUES") {
            self.temporary.ran(sql, self.plain.temporary_names()?);
        }
        if cirrus == plain || are_equal_sorted(&cirrus, &plain, sort) {
            return Ok(Ran::Alike(cirrus));
        }
        let text = format!("  cirrus: {}\n  sqlite: {}", told(&cirrus, Some(&plain)), told(&plain, Some(&cirrus)));
        self.report.different.add(location, sql, text);
        Ok(Ran::Otherwise)
    }

    fn check_integrity(&mut self, name: &str) -> Result<()> {
        let sql = "PRAGMA integrity_check";
        let found = match self.database.run(&[], sql, false)? {
            Asked::Answered(answer) => answer,
            Asked::NotAllowed(message) => Err(message),
        };
        if found != Ok(Rows { columns: 1, rows: vec![vec![Value::Text("ok".to_owned())]] }) {
            self.report.different.add(name, sql, format!("  cirrus: {}", told(&found, None)));
        }
        Ok(())
    }
}

/// What no request can do, by docs/sql.md.
fn not_comparable(word: &str) -> Option<&'static str> {
    match word {
        "BEGIN" | "COMMIT" | "END" | "ROLLBACK" | "SAVEPOINT" | "RELEASE" => Some("a request is a transaction"),
        "ATTACH" | "DETACH" => Some("a request has one database"),
        "VACUUM" => Some("a request is a transaction, in which VACUUM fails"),
        _ => None,
    }
}

/// Where a record leaves the order open, another one is no difference.
fn are_equal_sorted(one: &Answer, other: &Answer, sort: Option<SortMode>) -> bool {
    let (Ok(one), Ok(other)) = (one, other) else { return false };
    let sorted = |rows: &Rows| {
        let row = |row: &Vec<Value>| row.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>();
        let mut rows: Vec<Vec<String>> = rows.rows.iter().map(row).collect();
        if sort == Some(SortMode::ValueSort) {
            rows = rows.into_iter().flatten().map(|value| vec![value]).collect();
        }
        rows.sort_unstable();
        rows
    };
    matches!(sort, Some(SortMode::RowSort | SortMode::ValueSort))
        && one.columns == other.columns
        && sorted(one) == sorted(other)
}

/// An answer for people: of many rows, from the first that the other has not.
fn told(answer: &Answer, other: Option<&Answer>) -> String {
    let rows = match answer {
        Ok(rows) => rows,
        Err(message) => return cut(&format!("error: {message}")),
    };
    let same = match other {
        Some(Ok(other)) => rows.rows.iter().zip(&other.rows).take_while(|(one, other)| one == other).count(),
        _ => 0,
    };
    let shown: Vec<String> = rows.rows.iter().skip(same).take(5).map(|row| format!("{row:?}")).collect();
    let from = if same > 0 { format!(" from row {}", same + 1) } else { String::new() };
    cut(&format!("{} rows, {} columns{from}: {}", rows.rows.len(), rows.columns, shown.join(", ")))
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_open_order_may_differ() {
        let rows = |values: &[i64]| {
            Ok(Rows {
                columns: 2,
                rows: values.chunks(2).map(|row| row.iter().map(|&one| one.into()).collect()).collect(),
            })
        };
        let (one, turned, mixed) = (rows(&[1, 2, 3, 4]), rows(&[3, 4, 1, 2]), rows(&[1, 3, 2, 4]));
        assert!(are_equal_sorted(&one, &turned, Some(SortMode::RowSort)));
        assert!(!are_equal_sorted(&one, &mixed, Some(SortMode::RowSort)));
        assert!(are_equal_sorted(&one, &mixed, Some(SortMode::ValueSort)));
        assert!(!are_equal_sorted(&one, &turned, Some(SortMode::NoSort)) && !are_equal_sorted(&one, &turned, None));
        assert!(!are_equal_sorted(&one, &Err("no".to_owned()), Some(SortMode::RowSort)));
        assert_eq!(told(&one, Some(&rows(&[1, 2, 5, 6]))), "2 rows, 2 columns from row 2: [Integer(3), Integer(4)]");
    }
}
