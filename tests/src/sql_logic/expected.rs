//! What a file says that a record answers.

use std::collections::HashMap;

use md5::{Digest as _, Md5};
use sqllogictest::{DefaultColumnType, QueryExpect, SortMode, StatementExpect};

use super::plain::Plain;
use super::{Answer, Rows};

/// What records with the same label answered: it must be the same.
#[derive(Default)]
pub(super) struct Labels(HashMap<String, String>);

/// Whether a statement ended as the file says.
pub(super) fn statement_is_as_expected(answer: &Answer, expected: &StatementExpect) -> bool {
    match expected {
        StatementExpect::Error(_) => answer.is_err(),
        StatementExpect::Ok | StatementExpect::Count(_) => answer.is_ok(),
    }
}

impl Labels {
    /// Whether a query answered what the file says.
    pub(super) fn query_is_as_expected(
        &mut self,
        plain: &Plain,
        answer: &Answer,
        expected: &QueryExpect<DefaultColumnType>,
    ) -> rusqlite::Result<bool> {
        let (types, sort, label, lines) = match expected {
            QueryExpect::Error(_) => return Ok(answer.is_err()),
            QueryExpect::Results { types, sort_mode, label, results, .. } => (types, *sort_mode, label, results),
        };
        let rows = match answer {
            Ok(rows) => rows,
            // A query that fails is told as one without rows.
            Err(_) => return Ok(lines.is_empty()),
        };
        if rows.columns != types.len() {
            return Ok(false);
        }
        let values = values(plain, rows, types, sort)?;
        let hash = hash(&values);
        let same = match label {
            Some(label) => *self.0.entry(label.clone()).or_insert_with(|| hash.clone()) == hash,
            None => true,
        };
        Ok(same && says(lines, &values, &hash))
    }
}

fn values(
    plain: &Plain,
    rows: &Rows,
    types: &[DefaultColumnType],
    sort: Option<SortMode>,
) -> rusqlite::Result<Vec<String>> {
    let row = |row: &Vec<_>| row.iter().zip(types).map(|(value, column)| plain.written(value, column)).collect();
    let mut rows = rows.rows.iter().map(row).collect::<rusqlite::Result<Vec<Vec<String>>>>()?;
    if sort == Some(SortMode::RowSort) {
        rows.sort_unstable();
    }
    let mut values: Vec<String> = rows.into_iter().flatten().collect();
    if sort == Some(SortMode::ValueSort) {
        values.sort_unstable();
    }
    Ok(values)
}

/// As a file writes it in place of more values than its `hash-threshold`.
fn hash(values: &[String]) -> String {
    let mut digest = Md5::new();
    values.iter().for_each(|value| digest.update(format!("{value}\n")));
    let digest: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} values hashing to {digest}", values.len())
}

fn says(lines: &[String], values: &[String], hash: &str) -> bool {
    match lines {
        [line] if line.contains(" values hashing to ") => line == hash,
        // One value a line, or a row's values in one.
        _ if lines.len() == values.len() => lines.iter().zip(values).all(|(line, value)| line == value.trim_end()),
        _ => lines.iter().flat_map(|line| line.split_whitespace()).eq(values.iter().map(String::as_str)),
    }
}
