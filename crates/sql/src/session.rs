//! A request's statements, on an open connection.

use std::cell::{Cell as StdCell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Instant;

use cirrus_proto::limits::SqlLimits;
use cirrus_proto::{Failure, Reason};
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::{Batch, Connection, Error, Params, Row};

use crate::databases::Request;
use crate::gate::Mode;
use crate::running::Running;
use crate::schema::{first_word, type_as_written};
use crate::statement::{Cell, Column, Parameters, Part, ResultSet, Statement, TakeParts};
use crate::trouble;

/// The types that SQLite keeps as a number, and tells in capitals.
const STANDARD_TYPES: &[&str] = &["ANY", "BLOB", "INT", "INTEGER", "REAL", "TEXT"];

pub(crate) struct Session<'s> {
    connection: &'s Connection,
    running: &'s Running<'s>,
    limits: &'s SqlLimits,
    /// Rows and bytes of results before this request that count towards the limits.
    reply_before: (usize, usize),
    /// Rows and bytes of the results so far.
    reply: StdCell<(usize, usize)>,
    foreign_keys_switched: StdCell<bool>,
    /// Declared types are told as their table's text writes them.
    types_as_written: bool,
    /// Takes results as they are found, which then are not collected.
    parts: Option<RefCell<&'s mut TakeParts<'s>>>,
    /// A statement with two columns of one name is refused.
    distinct_columns: bool,
}

impl<'s> Session<'s> {
    pub(crate) fn new(connection: &'s Connection, running: &'s Running<'s>, limits: &'s SqlLimits) -> Self {
        let (reply, foreign_keys_switched) = (StdCell::default(), StdCell::default());
        Session {
            connection,
            running,
            limits,
            reply_before: (0, 0),
            reply,
            foreign_keys_switched,
            types_as_written: false,
            distinct_columns: false,
            parts: None,
        }
    }

    /// The session of a client's request.
    pub(crate) fn of(self, request: &Request<'_>) -> Self {
        let Request { types_as_written, distinct_columns, spent, .. } = *request;
        Session { types_as_written, distinct_columns, reply_before: (spent.rows, spent.bytes), ..self }
    }

    /// Rows and bytes of the results so far.
    pub(crate) fn reply(&self) -> (usize, usize) {
        self.reply.get()
    }

    pub(crate) fn with_parts(self, parts: Option<&'s mut TakeParts<'s>>) -> Self {
        Session { parts: parts.map(RefCell::new), ..self }
    }

    pub(crate) fn foreign_keys_switched(&self) -> bool {
        self.foreign_keys_switched.get()
    }

    /// Runs a client's statements as one transaction, after `prepare`. `PRAGMA foreign_keys` before the first other
    /// statement comes before the transaction, where alone it means something.
    pub(crate) fn run(
        &self,
        statements: &[Statement],
        read_only: bool,
        prepare: impl FnOnce(&Self) -> Result<(), Failure>,
    ) -> Result<Vec<ResultSet>, Failure> {
        let mode = Mode::Client { read_only };
        let mut results = Vec::with_capacity(statements.len());
        for statement in statements {
            if !begins_with_pragma(&statement.sql) || !self.switch_foreign_keys(statement, mode)? {
                break;
            }
            self.pass(|| Part::Columns(Vec::new()))?;
            self.pass(|| Part::End)?;
            results.push(ResultSet::default());
        }
        prepare(self)?;
        self.transaction(|| {
            for (index, statement) in statements.iter().enumerate().skip(results.len()) {
                self.running.gate.enter(mode);
                let result = if statement.script {
                    self.script(&statement.sql, read_only)
                } else {
                    self.one(statement, read_only)
                };
                results.push(result.map_err(|failure| at_statement(index, statements.len(), failure))?);
            }
            Ok(results)
        })
    }

    /// Runs `work` as a transaction, undone where it fails.
    pub(crate) fn transaction<R>(&self, work: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
        self.internal("BEGIN")?;
        self.running.gate.transaction_began();
        let outcome = work().and_then(|result| self.internal("COMMIT").map(|()| result));
        if outcome.is_err() && !self.connection.is_autocommit() {
            self.internal("ROLLBACK")?;
        }
        outcome
    }

    /// Runs any number of statements and drops their rows.
    pub(crate) fn batch(&self, sql: &str, mode: Mode) -> Result<(), Failure> {
        self.running.gate.enter(mode);
        self.each(sql, |statement| {
            if mode == Mode::Ddl {
                check_creates(&statement.expanded_sql().unwrap_or_default())?;
            }
            let mut rows = statement.raw_query();
            while rows.next().map_err(|error| self.failure(&error))?.is_some() {}
            Ok(())
        })
    }

    /// Runs this crate's own statements.
    pub(crate) fn internal(&self, sql: &str) -> Result<(), Failure> {
        self.running.gate.enter(Mode::Internal);
        self.connection.execute_batch(sql).map_err(|error| self.failure(&error))
    }

    /// The rows of a statement of this crate's own.
    pub(crate) fn rows<R>(
        &self,
        sql: &str,
        parameters: impl Params,
        row: impl FnMut(&Row<'_>) -> rusqlite::Result<R>,
    ) -> Result<Vec<R>, Failure> {
        self.running.gate.enter(Mode::Internal);
        let rows = || self.connection.prepare(sql)?.query_map(parameters, row)?.collect::<rusqlite::Result<Vec<R>>>();
        rows().map_err(|error| self.failure(&error))
    }

    pub(crate) fn failure(&self, error: &Error) -> Failure {
        trouble::failure(error, self.running, self.limits)
    }

    /// Whether the statement switches foreign keys, which compiling it does.
    fn switch_foreign_keys(&self, statement: &Statement, mode: Mode) -> Result<bool, Failure> {
        self.running.gate.enter(mode);
        self.running.gate.next_statement();
        let compiled = self.connection.prepare(&statement.sql);
        let switched = self.running.gate.noticed().switches_foreign_keys;
        if switched {
            self.foreign_keys_switched.set(true);
            compiled.map_err(|error| match error {
                Error::MultipleStatement => {
                    Failure::new(Reason::SqlInvalid, "PRAGMA foreign_keys stands alone in its text")
                }
                error => self.failure(&error),
            })?;
        }
        Ok(switched)
    }

    fn one(&self, statement: &Statement, read_only: bool) -> Result<ResultSet, Failure> {
        self.running.gate.next_statement();
        let compiled = self.connection.prepare_cached(&statement.sql);
        let mut compiled = compiled.map_err(|error| match error {
            Error::MultipleStatement => {
                Failure::new(Reason::SqlInvalid, "one statement is expected, and there are several")
            }
            Error::Empty => Failure::new(Reason::SqlInvalid, "there is no statement"),
            error => self.failure(&error),
        })?;
        let outcome =
            self.bind(&mut compiled, &statement.parameters).and_then(|()| self.step(&mut compiled, read_only));
        // What a pragma does, it may do while it is compiled.
        if self.running.gate.noticed().pragma || outcome.is_err() {
            compiled.discard();
        }
        outcome
    }

    fn script(&self, sql: &str, read_only: bool) -> Result<ResultSet, Failure> {
        let mut result: Option<ResultSet> = None;
        self.each(sql, |statement| {
            let answered = self.step(statement, read_only)?;
            match &mut result {
                Some(first) if !first.columns.is_empty() => {}
                Some(last) => {
                    (last.affected_rows, last.last_insert_rowid) = (answered.affected_rows, answered.last_insert_rowid)
                }
                none => *none = Some(answered),
            }
            Ok(())
        })?;
        Ok(result.unwrap_or_default())
    }

    /// Compiles the text's statements one after the other, each once the one before it was run by `act`.
    fn each(
        &self,
        sql: &str,
        mut act: impl FnMut(&mut rusqlite::Statement<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut batch = Batch::new(self.connection, sql);
        loop {
            self.running.gate.next_statement();
            let Some(mut statement) = batch.next().map_err(|error| self.failure(&error))? else { return Ok(()) };
            act(&mut statement)?;
        }
    }

    fn bind(&self, statement: &mut rusqlite::Statement<'_>, parameters: &Parameters) -> Result<(), Failure> {
        let expected = statement.parameter_count();
        let wrong = |problem: String| Failure::new(Reason::SqlInvalid, problem);
        match parameters {
            Parameters::Positional(cells) => {
                if cells.len() != expected {
                    return Err(wrong(format!(
                        "the statement has {expected} parameters, and {} cells are given",
                        cells.len()
                    )));
                }
                for (index, cell) in cells.iter().enumerate() {
                    statement.raw_bind_parameter(index + 1, cell).map_err(|error| self.failure(&error))?;
                }
            }
            Parameters::Named(cells) => {
                let mut bound = vec![false; expected];
                for (name, cell) in cells {
                    let index = statement.parameter_index(name).map_err(|error| self.failure(&error))?;
                    let index = index.ok_or_else(|| wrong(format!("the statement has no parameter {name:?}")))?;
                    statement.raw_bind_parameter(index, cell).map_err(|error| self.failure(&error))?;
                    bound[index - 1] = true;
                }
                if let Some(unbound) = bound.iter().position(|bound| !bound) {
                    let name = statement.parameter_name(unbound + 1).unwrap_or("?").to_owned();
                    return Err(wrong(format!("no cell is given for parameter {} ({name})", unbound + 1)));
                }
            }
        }
        Ok(())
    }

    /// Runs one compiled statement to its end.
    fn step(&self, statement: &mut rusqlite::Statement<'_>, read_only: bool) -> Result<ResultSet, Failure> {
        if read_only && !statement.readonly() {
            return Err(Failure::new(Reason::SqlReadOnly, "a query only reads, and the statement writes"));
        }
        let changes_before = self.connection.total_changes();
        let mut result = ResultSet::default();
        // A change of the schema has SQLite compile a kept statement again at its first step: columns are read after it.
        {
            let mut rows = statement.raw_query();
            while let Some(row) = rows.next().map_err(|error| self.failure(&error))? {
                if result.columns.is_empty() {
                    result.columns = self.columns(row.as_ref())?;
                    self.pass(|| Part::Columns(result.columns.clone()))?;
                }
                let cells = self.cells(row, result.columns.len())?;
                match self.parts {
                    Some(_) => self.pass(|| Part::Row(cells))?,
                    None => result.rows.push(cells),
                }
            }
        }
        if result.columns.is_empty() {
            result.columns = self.columns(statement)?;
            self.pass(|| Part::Columns(result.columns.clone()))?;
        }
        self.pass(|| Part::End)?;
        if self.connection.total_changes() != changes_before {
            result.affected_rows = self.connection.changes();
        }
        result.last_insert_rowid = self.connection.last_insert_rowid();
        Ok(result)
    }

    /// Hands a part of the results to whoever takes them as they are found. It may have to wait, which is not the request's
    /// time.
    fn pass(&self, part: impl FnOnce() -> Part) -> Result<(), Failure> {
        let Some(parts) = &self.parts else { return Ok(()) };
        let began = Instant::now();
        let taken = (*parts.borrow_mut())(part());
        self.running.budget.excuse(began.elapsed());
        if taken.is_break() {
            return Err(Failure::new(Reason::DeadlineExceeded, "nobody takes the rows any more"));
        }
        Ok(())
    }

    fn columns(&self, statement: &rusqlite::Statement<'_>) -> Result<Vec<Column>, Failure> {
        if self.distinct_columns {
            check_distinct(statement)?;
        }
        let columns = statement.columns().map(|column| Column {
            name: column.name().to_owned(),
            declared_type: column.decl_type().map(str::to_owned),
        });
        let mut columns: Vec<Column> = columns.collect();
        if !self.types_as_written {
            return Ok(columns);
        }
        let mode = self.running.gate.mode();
        let sql = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
        let mut texts: HashMap<String, Vec<String>> = HashMap::new();
        for (column, origin) in columns.iter_mut().zip(statement.columns_with_metadata()) {
            let standard = column.declared_type.as_deref().filter(|declared| STANDARD_TYPES.contains(declared));
            let (Some(standard), Some(table), Some(name)) = (standard, origin.table_name(), origin.origin_name())
            else {
                continue;
            };
            let texts = match texts.entry(table.to_owned()) {
                Entry::Occupied(read) => read.into_mut(),
                Entry::Vacant(unread) => unread.insert(self.rows(sql, [table], |row| row.get(0))?),
            };
            if let Some(written) = texts.first().and_then(|text| type_as_written(text, name, standard)) {
                column.declared_type = Some(written);
            }
        }
        self.running.gate.enter(mode);
        Ok(columns)
    }

    fn cells(&self, row: &Row<'_>, count: usize) -> Result<Vec<Cell>, Failure> {
        let (mut rows, mut bytes) = self.reply.get();
        let collected = self.parts.is_none();
        let (rows_before, bytes_before) = self.reply_before;
        rows += 1;
        if collected && rows_before + rows > self.limits.reply_rows {
            let limit = self.limits.reply_rows;
            let failure = Failure::new(Reason::SqlReplyTooLarge, format!("the results have more than {limit} rows"));
            return Err(failure.with("field", "rows").with("limit", limit));
        }
        let mut cells = Vec::with_capacity(count);
        for index in 0..count {
            let value = row.get_ref(index).map_err(|error| self.failure(&error))?;
            bytes += Cell::reply_bytes(value);
            if collected && bytes_before + bytes > self.limits.reply_bytes {
                let limit = self.limits.reply_bytes;
                let failure =
                    Failure::new(Reason::SqlReplyTooLarge, format!("the results have more than {limit} bytes"));
                return Err(failure.with("field", "bytes").with("limit", limit));
            }
            cells.push(Cell::read(value));
        }
        self.reply.set((rows, bytes));
        Ok(cells)
    }
}

/// Whoever tells columns by their names would lose one of two that share theirs.
fn check_distinct(statement: &rusqlite::Statement<'_>) -> Result<(), Failure> {
    let mut names: Vec<&str> = statement.column_names().collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => {
            let problem = format!("two columns are named {:?}: give them different names with AS", pair[0]);
            Err(Failure::new(Reason::SqlInvalid, problem))
        }
    }
}

/// The failure of one of several statements says of which.
fn at_statement(index: usize, count: usize, failure: Failure) -> Failure {
    let message = if count > 1 { format!("statements[{index}]: {}", failure.message) } else { failure.message };
    Failure { message, ..failure }.with("statement", index)
}

/// DDL creates, and does nothing else.
fn check_creates(sql: &str) -> Result<(), Failure> {
    let word = first_word(sql).to_ascii_uppercase();
    if word == "CREATE" {
        return Ok(());
    }
    let problem = format!("{word} is refused in a schema's DDL, which creates tables, indexes, views and triggers");
    Err(Failure::new(Reason::SqlNotAllowed, problem))
}

/// Whether the text's first word is PRAGMA.
fn begins_with_pragma(sql: &str) -> bool {
    first_word(sql).eq_ignore_ascii_case("pragma")
}
