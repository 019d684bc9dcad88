//! Plain SQLite, in memory.

use std::collections::BTreeSet;

use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Batch, Connection, Error};
use sqllogictest::DefaultColumnType;

use super::words::first_word;
use super::{Answer, Rows};

pub(super) struct Plain {
    connection: Connection,
}

impl Plain {
    pub(super) fn new() -> rusqlite::Result<Plain> {
        let connection = Connection::open_in_memory()?;
        // SQLite's own default, which the bundled build changes.
        connection.execute_batch("PRAGMA foreign_keys = OFF")?;
        Ok(Plain { connection })
    }

    /// The first statement of a text, and the rest; none where there is no statement. A text that cannot be compiled is one.
    pub(super) fn split<'t>(&self, text: &'t str) -> Option<(&'t str, &'t str)> {
        match Batch::new(&self.connection, text).next() {
            Ok(None) => None,
            Ok(Some(statement)) => {
                let first = statement.expanded_sql().unwrap_or_default();
                Some(text.find(&first).map_or((text, ""), |start| text.split_at(start + first.len())))
            }
            Err(_) => Some((text, "")),
        }
    }

    /// Runs a statement. One that writes is a transaction, as a request is: where it fails it leaves nothing, OR FAIL or not.
    pub(super) fn run(&self, sql: &str) -> Answer {
        if !matches!(&*first_word(sql), "INSERT" | "REPLACE" | "UPDATE" | "DELETE" | "WITH") {
            return self.rows(sql).map_err(message);
        }
        let control = |sql: &str| self.connection.execute_batch(sql);
        control("BEGIN").map_err(message)?;
        let answer = self.rows(sql).and_then(|rows| control("COMMIT").map(|()| rows));
        // OR ROLLBACK has done it already.
        if answer.is_err() && !self.connection.is_autocommit() {
            control("ROLLBACK").map_err(message)?;
        }
        answer.map_err(message)
    }

    fn rows(&self, sql: &str) -> rusqlite::Result<Rows> {
        let mut statement = self.connection.prepare(sql)?;
        let columns = statement.column_count();
        let mut found = statement.raw_query();
        let mut rows = Vec::new();
        while let Some(row) = found.next()? {
            let cells = (0..columns).map(|index| row.get_ref(index).map(value));
            rows.push(cells.collect::<rusqlite::Result<_>>()?);
        }
        Ok(Rows { columns, rows })
    }

    /// The names of all temporary things, in capitals.
    pub(super) fn temporary_names(&self) -> rusqlite::Result<BTreeSet<String>> {
        let mut names = self.connection.prepare_cached("SELECT upper(name) FROM sqlite_temp_schema")?;
        names.query_map([], |row| row.get(0))?.collect()
    }

    /// A value as SQL logic tests write it.
    pub(super) fn written(&self, value: &Value, column: &DefaultColumnType) -> rusqlite::Result<String> {
        let ask = |sql: &str| self.connection.prepare_cached(sql)?.query_row([value], |row| row.get::<_, String>(0));
        match (value, column) {
            (Value::Null, _) => Ok("NULL".to_owned()),
            (Value::Integer(integer), DefaultColumnType::Integer) => Ok(integer.to_string()),
            (_, DefaultColumnType::Integer) => ask("SELECT CAST(CAST(?1 AS INTEGER) AS TEXT)"),
            (_, DefaultColumnType::FloatingPoint) => ask("SELECT printf('%.3f', CAST(?1 AS REAL))"),
            (Value::Text(text), _) if text.is_empty() => Ok("(empty)".to_owned()),
            _ => {
                let printable = |letter| if matches!(letter, ' '..='~') { letter } else { '@' };
                Ok(ask("SELECT CAST(?1 AS TEXT)")?.chars().map(printable).collect())
            }
        }
    }
}

fn value(value: ValueRef<'_>) -> Value {
    match value {
        // As over gRPC: U+FFFD stands for what is no UTF-8.
        ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => Value::Integer(integer),
        ValueRef::Real(real) => Value::Real(real),
        ValueRef::Blob(blob) => Value::Blob(blob.to_vec()),
    }
}

fn message(error: Error) -> String {
    match error {
        Error::SqlInputError { msg, .. } => msg,
        Error::SqliteFailure(_, Some(message)) => message,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn texts_are_split_where_statements_end() {
        let plain = Plain::new().unwrap();
        assert_eq!(plain.split("SELECT 1; SELECT 2;"), Some(("SELECT 1;", " SELECT 2;")));
        assert_eq!(plain.split(" SELECT 2"), Some((" SELECT 2", "")));
        assert_eq!(plain.split(" ; -- nothing"), None);
        assert_eq!(plain.split("SELECT x; SELECT 2"), Some(("SELECT x; SELECT 2", "")));
        plain.run("CREATE TABLE t (x UNIQUE)").unwrap();
        let trigger = "CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM t; SELECT 1; END";
        assert_eq!(plain.split(trigger), Some((trigger, "")));
    }

    #[test]
    fn a_statement_that_fails_leaves_nothing() {
        let plain = Plain::new().unwrap();
        plain.run("CREATE TABLE t (x UNIQUE)").unwrap();
        for or in ["FAIL", "ROLLBACK", "ABORT"] {
            let failed = plain.run(&format!("INSERT OR {or} INTO t VALUES (1), (2), (1)"));
            assert_eq!(failed, Err("UNIQUE constraint failed: t.x".to_owned()));
            let count = plain.run("SELECT count(*) FROM t").unwrap();
            assert_eq!(count, Rows { columns: 1, rows: vec![vec![Value::Integer(0)]] }, "{or}");
        }
    }
}
