//! What requests say and what they are answered.

use std::ops::ControlFlow;

use bytes::Bytes;
use rusqlite::types::{ToSql, ToSqlOutput, Value, ValueRef};

/// One value of a row, or one bound to a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// No value.
    Null,
    /// A signed 64-bit integer.
    Integer(i64),
    /// A double.
    Real(f64),
    /// Text. Text in a database that is no UTF-8 is read with U+FFFD in place of what is none.
    Text(String),
    /// Bytes.
    Blob(Bytes),
}

impl Cell {
    pub(crate) fn read(value: ValueRef<'_>) -> Cell {
        match value {
            ValueRef::Null => Cell::Null,
            ValueRef::Integer(integer) => Cell::Integer(integer),
            ValueRef::Real(real) => Cell::Real(real),
            ValueRef::Text(text) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
            ValueRef::Blob(blob) => Cell::Blob(Bytes::copy_from_slice(blob)),
        }
    }

    /// What the cell counts towards the limit of a reply: its contents, and eight bytes.
    pub(crate) fn reply_bytes(value: ValueRef<'_>) -> usize {
        8 + match value {
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
            ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => 0,
        }
    }
}

impl ToSql for Cell {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Cell::Null => ToSqlOutput::Owned(Value::Null),
            Cell::Integer(integer) => ToSqlOutput::Owned(Value::Integer(*integer)),
            Cell::Real(real) => ToSqlOutput::Owned(Value::Real(*real)),
            Cell::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Cell::Blob(blob) => ToSqlOutput::Borrowed(ValueRef::Blob(blob)),
        })
    }
}

/// What the parameters of a statement stand for.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameters {
    /// `?`, `?1`: one cell for each, in order.
    Positional(Vec<Cell>),
    /// `:name`, `@name`, `$name`: a cell for each name, written with its first character.
    Named(Vec<(String, Cell)>),
}

/// One statement of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// The text.
    pub sql: String,
    /// One for each of the text's parameters.
    pub parameters: Parameters,
    /// The text may hold several statements, without parameters. Its result is that of the first where that has
    /// columns, and else says what the last one changed.
    pub script: bool,
}

impl Statement {
    /// A statement without parameters.
    pub fn new(sql: impl Into<String>) -> Statement {
        Statement { sql: sql.into(), parameters: Parameters::Positional(Vec::new()), script: false }
    }

    /// A statement with cells for `?`, in order.
    pub fn with_parameters(sql: impl Into<String>, cells: impl IntoIterator<Item = Cell>) -> Statement {
        Statement { parameters: Parameters::Positional(cells.into_iter().collect()), ..Statement::new(sql) }
    }

    /// Any number of statements.
    pub fn script(sql: impl Into<String>) -> Statement {
        Statement { script: true, ..Statement::new(sql) }
    }
}

/// A column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name: that of `AS`, or what SQLite calls it.
    pub name: String,
    /// The type with which the table's column was declared; `None` for an expression and for a column without one.
    pub declared_type: Option<String>,
}

/// A part of what a query answers: of each statement its columns, its rows one by one, and its end.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// None where the statement gives no rows.
    Columns(Vec<Column>),
    /// With a cell for each column.
    Row(Vec<Cell>),
    /// The statement's last part.
    End,
}

/// Takes the parts of an answer. A break ends the query, which then fails with `DEADLINE_EXCEEDED`.
pub type TakeParts<'call> = dyn FnMut(Part) -> ControlFlow<()> + 'call;

/// What one statement answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResultSet {
    /// None where the statement gives no rows, such as an INSERT without RETURNING.
    pub columns: Vec<Column>,
    /// Each with a cell for each column.
    pub rows: Vec<Vec<Cell>>,
    /// Rows that an INSERT, UPDATE or DELETE changed itself, without those that triggers and foreign keys did. 0 for other
    /// statements.
    pub affected_rows: u64,
    /// The row id that the last INSERT of the request gave; 0 before the first.
    pub last_insert_rowid: i64,
}
