//! SQL logic tests, run on a database here and on a plain SQLite database side by side: no record may differ, and each must
//! give what its file says.
//!
//! One file comes along; `CIRRUS_SQLLOGICTEST` names a folder with more, such as the SQLite project's own corpus.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use cirrus_engine::{MemoryView, ShardHead, Transaction};
use cirrus_proto::limits::{Limits, SqlLimits};
use cirrus_sql::{Cell, DatabaseId, Databases, Request, Statement};
use md5::{Digest, Md5};
use rusqlite::Batch;
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::types::ValueRef;
use sqllogictest::{Condition, DefaultColumnType, QueryExpect, Record, SortMode, StatementExpect, parse_with_name};

type Rows = Result<Vec<Vec<Cell>>, String>;

/// The same database twice.
struct SideBySide {
    state: MemoryView,
    databases: Databases,
    id: DatabaseId,
    plain: rusqlite::Connection,
    /// Temporary views and triggers live as long as a request. A client that wants them for longer sends them again: what
    /// made them, and what dropped them.
    temporary: Vec<Statement>,
}

impl SideBySide {
    fn new() -> SideBySide {
        let limits =
            SqlLimits { cpu_ms: 600_000, reply_rows: usize::MAX, reply_bytes: usize::MAX, ..SqlLimits::DEFAULT };
        let databases = Databases::new(limits).unwrap();
        let plain = rusqlite::Connection::open_in_memory().unwrap();
        plain.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        SideBySide {
            state: MemoryView::new(),
            databases,
            id: DatabaseId::new(0, "slt", "slt"),
            plain,
            temporary: Vec::new(),
        }
    }

    fn here(&mut self, statement: Statement) -> Rows {
        let is_of_temporary = is_of_temporary(&statement.sql, &self.temporary);
        let mut statements = self.temporary.clone();
        statements.push(statement);
        let limits = Limits { write_set_bytes: usize::MAX, ..Limits::DEFAULT };
        let mut transaction = Transaction::new(&self.state, ShardHead::default(), &limits);
        let executed = self
            .databases
            .execute(&mut transaction, Request::new(&self.id, &statements))
            .map_err(|failure| failure.metadata.get("sqlite_message").cloned().unwrap_or(failure.message))?;
        let (effects, _) = transaction.finish();
        self.state.apply(&effects);
        if is_of_temporary {
            self.temporary = statements;
        }
        Ok(executed.results.into_iter().next_back().unwrap().rows)
    }

    fn plain_script(&self, sql: &str) -> Rows {
        let mut batch = Batch::new(&self.plain, sql);
        while let Some(mut statement) = batch.next().map_err(message)? {
            let mut rows = statement.raw_query();
            while rows.next().map_err(message)?.is_some() {}
        }
        Ok(vec![])
    }

    fn plain_query(&self, sql: &str) -> Rows {
        let mut statement = self.plain.prepare(sql).map_err(message)?;
        let count = statement.column_count();
        let mut rows = statement.raw_query();
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(message)? {
            found.push((0..count).map(|index| cell(row.get_ref(index).unwrap())).collect());
        }
        Ok(found)
    }

    /// A value as the SQL logic tests write it.
    fn written(&self, cell: &Cell, column: &DefaultColumnType) -> String {
        let ask = |sql: &str| {
            self.plain.prepare_cached(sql).unwrap().query_row([cell], |row| row.get::<_, String>(0)).unwrap()
        };
        match (cell, column) {
            (Cell::Null, _) => "NULL".to_owned(),
            (_, DefaultColumnType::Integer) => ask("SELECT CAST(CAST(?1 AS INTEGER) AS TEXT)"),
            (_, DefaultColumnType::FloatingPoint) => ask("SELECT printf('%.3f', CAST(?1 AS REAL))"),
            (Cell::Text(text), _) if text.is_empty() => "(empty)".to_owned(),
            _ => ask("SELECT CAST(?1 AS TEXT)")
                .chars()
                .map(|character| if matches!(character, ' '..='~') { character } else { '@' })
                .collect(),
        }
    }

    fn as_expected(
        &self,
        rows: &[Vec<Cell>],
        types: &[DefaultColumnType],
        sort: Option<SortMode>,
        expected: &[String],
    ) -> bool {
        let mut rows: Vec<Vec<String>> = rows
            .iter()
            .map(|row| row.iter().zip(types).map(|(cell, column)| self.written(cell, column)).collect())
            .collect();
        if sort == Some(SortMode::RowSort) {
            rows.sort_unstable();
        }
        let mut values: Vec<String> = rows.into_iter().flatten().collect();
        if sort == Some(SortMode::ValueSort) {
            values.sort_unstable();
        }
        match expected {
            [hash] if hash.contains(" values hashing to ") => {
                let mut digest = Md5::new();
                values.iter().for_each(|value| digest.update(format!("{value}\n")));
                let digest: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
                *hash == format!("{} values hashing to {digest}", values.len())
            }
            // One value a line, or a row's values in one.
            _ => {
                let lines = expected.iter().flat_map(|line| {
                    if values.len() == expected.len() { vec![&line[..]] } else { line.split_whitespace().collect() }
                });
                lines.eq(values.iter().map(|value| &value[..]))
            }
        }
    }
}

/// Whether a statement makes something temporary, or drops what `made` made.
fn is_of_temporary(sql: &str, made: &[Statement]) -> bool {
    let words: Vec<&str> = sql.split_whitespace().collect();
    match words[..] {
        ["CREATE", "TEMP" | "TEMPORARY", ..] => true,
        ["DROP", _, name, ..] => made.iter().any(|made| made.sql.split_whitespace().any(|word| word == name)),
        _ => false,
    }
}

fn message(error: rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqlInputError { msg, .. } => msg,
        rusqlite::Error::SqliteFailure(_, Some(message)) => message,
        other => other.to_string(),
    }
}

fn cell(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(integer) => Cell::Integer(integer),
        ValueRef::Real(real) => Cell::Real(real),
        ValueRef::Text(text) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(blob) => Cell::Blob(blob.to_vec().into()),
    }
}

#[derive(Debug, Default, PartialEq)]
struct Outcome {
    records: usize,
    /// Records with other rows or another error here than there.
    different: Vec<String>,
    /// Records with something else than the file says.
    unexpected: Vec<String>,
}

fn is_for_sqlite(conditions: &[Condition]) -> bool {
    conditions.iter().all(|condition| match condition {
        Condition::OnlyIf { label } => label == "sqlite",
        Condition::SkipIf { label } => label != "sqlite",
    })
}

fn run(file: &Path) -> Outcome {
    // Before plain SQLite is used in the process.
    cirrus_sql::initialize().unwrap();
    let mut both = SideBySide::new();
    let mut outcome = Outcome::default();
    for record in records(file) {
        let (conditions, loc, sql) = match &record {
            Record::Statement { conditions, loc, sql, .. } | Record::Query { conditions, loc, sql, .. } => {
                (conditions, loc, sql)
            }
            _ => continue,
        };
        if !is_for_sqlite(conditions) {
            continue;
        }
        outcome.records += 1;
        let (here, plain) = if matches!(record, Record::Query { .. }) {
            (both.here(Statement::new(sql)), both.plain_query(sql))
        } else {
            (both.here(Statement::script(sql)), both.plain_script(sql))
        };
        if here != plain {
            outcome.different.push(format!("{loc}: {sql}\n  here: {here:?}\n plain: {plain:?}"));
        }
        // A query that fails is told as one without rows.
        let nothing = |results: &[String]| results.is_empty() && here.is_err() && here == plain;
        let expected = match &record {
            Record::Statement { expected: StatementExpect::Error(_), .. }
            | Record::Query { expected: QueryExpect::Error(_), .. } => here.is_err(),
            Record::Query { expected: QueryExpect::Results { types, sort_mode, results, .. }, .. } => {
                nothing(results) || here.as_ref().is_ok_and(|rows| both.as_expected(rows, types, *sort_mode, results))
            }
            _ => here.is_ok(),
        };
        if !expected {
            outcome.unexpected.push(format!("{loc}: {sql}\n  here: {here:?}"));
        }
    }
    assert_eq!(both.here(Statement::new("PRAGMA integrity_check")), Ok(vec![vec![Cell::Text("ok".to_owned())]]));
    outcome
}

/// The records of a file. The parser knows no comment behind a condition, and no condition before `halt`.
fn records(file: &Path) -> Vec<Record<DefaultColumnType>> {
    let text = std::fs::read_to_string(file).unwrap();
    let mut lines: Vec<&str> = Vec::new();
    let mut for_sqlite = true;
    for line in text.lines() {
        let line = match line.split_once(' ') {
            Some(("onlyif" | "skipif", _)) => line.split('#').next().unwrap().trim(),
            _ => line,
        };
        match line.split_once(' ') {
            Some(("onlyif", engine)) => for_sqlite &= engine == "sqlite",
            Some(("skipif", engine)) => for_sqlite &= engine != "sqlite",
            _ if line == "halt" => {
                if for_sqlite {
                    break;
                }
                while lines.pop_if(|line| line.starts_with("onlyif ") || line.starts_with("skipif ")).is_some() {}
                for_sqlite = true;
                continue;
            }
            _ => for_sqlite = true,
        }
        lines.push(line);
    }
    let parsed = parse_with_name(&lines.join("\n"), file.display().to_string());
    parsed.unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn tests_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(tests_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "test") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn the_file_that_comes_along_gives_what_it_says() {
    let outcome = run(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/logic/slt_lang_update.test"));
    assert_eq!((outcome.different, outcome.unexpected), (vec![], vec![]));
    assert!(outcome.records > 20, "{}", outcome.records);
}

#[test]
fn a_folder_of_files_gives_what_they_say() {
    let Ok(folder) = std::env::var("CIRRUS_SQLLOGICTEST") else {
        eprintln!("skipped: CIRRUS_SQLLOGICTEST names no folder of SQL logic tests");
        return;
    };
    let (mut records, mut different, mut unexpected) = (0, 0, 0);
    let files = tests_below(Path::new(&folder));
    for file in &files {
        let outcome = run(file);
        eprintln!("{}: {} records, {} different", file.display(), outcome.records, outcome.different.len());
        for one in outcome.different.iter().chain(&outcome.unexpected).take(5) {
            eprintln!("  {}", one.chars().take(600).collect::<String>());
        }
        records += outcome.records;
        different += outcome.different.len();
        unexpected += outcome.unexpected.len();
    }
    eprintln!("{} files, {records} records, {different} different, {unexpected} unexpected", files.len());
    assert!(records > 0, "no record in {folder}");
    assert_eq!((different, unexpected), (0, 0));
}
