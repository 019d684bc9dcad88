//! What a script asks of a database.
//!
//! | Lua | parameter |
//! | --- | --- |
//! | nil, `json.null` | NULL |
//! | boolean | 0 or 1 |
//! | whole number, `integer` | a 64-bit integer |
//! | other number | a double |
//! | string | text; it must be UTF-8 |
//! | buffer, as `sql.blob` makes it | a blob |
//!
//! One table in place of all parameters names them: `{name = value}` is bound to `:name`.

use bytes::Bytes;
use cirrus_proto::Failure;
use cirrus_proto::limits::Limits;
use cirrus_proto::routing::routing_key;
use cirrus_proto::v1::{SqlCell, SqlDatabase, SqlNamedParameter, SqlNull, SqlStatement, sql_cell};
use mlua::{Lua, Table, Value};

use super::super::kv::{options, unknown_option, whole};
use super::super::pure::Context;
use super::super::{Raised, expect_text};
use crate::text::type_name;
use crate::walk::Ticks;

/// What each statement and each parameter counts beside its bytes.
const VALUE_BYTES: usize = 16;

/// Longest text of a statement in a description, characters.
const TEXT_CHARS: usize = 200;

/// Most parameters in a description.
const PARAMETERS_TOLD: usize = 16;

pub(super) struct Asked {
    pub(super) database: SqlDatabase,
    pub(super) statements: Vec<SqlStatement>,
    /// The statements were given as a list, and so are their results.
    pub(super) is_list: bool,
}

impl Asked {
    /// Reads an operation's arguments, in a call of that key.
    pub(super) fn read(
        lua: &Lua,
        context: &Context,
        limits: &Limits,
        key: Option<&Bytes>,
        arguments: &[Value],
    ) -> Result<Asked, Raised> {
        let database = database(lua, key, &arguments[0])?;
        let mut reader = Reader { context, bytes: 0, bytes_max: limits.write_set_bytes, ticks: Ticks::default() };
        let (statements, is_list) = match &arguments[1] {
            Value::Table(list) if arguments.len() == 2 => (reader.list(list)?, true),
            Value::Table(_) => {
                return Err(Raised::Misuse("a list of statements has the parameters with each statement".to_owned()));
            }
            text => (vec![reader.statement(text, &arguments[2..])?], false),
        };
        Ok(Asked { database, statements, is_list })
    }
}

fn database(lua: &Lua, key: Option<&Bytes>, given: &Value) -> Result<SqlDatabase, Raised> {
    let (mut dbname, mut dbfile, mut user) = (None, 0, key.map(|key| key.slice_ref(routing_key(key))));
    match given {
        Value::Table(_) => {
            for (name, value) in options(Some(given))? {
                match &*name {
                    "dbname" => dbname = Some(expect_text(lua, &name, &value)?),
                    "dbfile" => dbfile = whole(&name, &value, 0..=i64::from(u32::MAX))? as u32,
                    "user" => user = Some(expect_text(lua, &name, &value)?),
                    _ => return Err(unknown_option(&name)),
                }
            }
        }
        _ => dbname = Some(expect_text(lua, "dbname", given)?),
    }
    let missing = |what: &str| Raised::Misuse(format!("a database needs a {what}"));
    let user = user.ok_or_else(|| missing("user: there is no call whose key tells it"))?;
    let dbname = String::from_utf8(dbname.ok_or_else(|| missing("dbname"))?.into());
    let dbname = dbname.map_err(|_| Raised::Misuse("dbname must be UTF-8".to_owned()))?;
    Ok(SqlDatabase { dbfile, user, dbname })
}

struct Reader<'a> {
    context: &'a Context,
    /// Of what was copied out of Lua's memory.
    bytes: usize,
    bytes_max: usize,
    ticks: Ticks,
}

impl Reader<'_> {
    /// `{text, {text, parameter, …}, …}`
    fn list(&mut self, list: &Table) -> Result<Vec<SqlStatement>, Raised> {
        let mut statements = Vec::new();
        for element in self.elements(list, "the list of statements")? {
            statements.push(match &element {
                Value::Table(statement) => {
                    let parts = self.elements(statement, "a statement with its parameters")?;
                    let Some((text, parameters)) = parts.split_first() else {
                        return Err(Raised::Misuse("a statement with its parameters is empty".to_owned()));
                    };
                    self.statement(text, parameters)?
                }
                text => self.statement(text, &[])?,
            });
        }
        Ok(statements)
    }

    /// A table's elements, if it has nothing else. A nil among them would be a hole, and everything behind it lost.
    fn elements(&mut self, table: &Table, what: &str) -> Result<Vec<Value>, Raised> {
        let length = table.raw_len();
        let mut count = 0;
        for pair in table.pairs::<Value, Value>() {
            self.count(0)?;
            match pair?.0 {
                Value::Integer(place) if (1..=length as i64).contains(&place) => count += 1,
                _ => return Err(Raised::Misuse(format!("{what} is no list, or has a hole: json.null can fill it"))),
            }
        }
        if count != length {
            return Err(Raised::Misuse(format!("{what} has a hole: json.null can fill it")));
        }
        Ok((1..=length).map(|place| table.raw_get(place)).collect::<mlua::Result<_>>()?)
    }

    fn statement(&mut self, text: &Value, given: &[Value]) -> Result<SqlStatement, Raised> {
        let Value::String(text) = text else {
            return Err(Raised::Misuse(format!("a statement must be a string, got {}", type_name(text))));
        };
        let sql = self.text(&text.as_bytes(), "a statement")?;
        let mut statement = SqlStatement { sql, ..SqlStatement::default() };
        match given {
            [Value::Table(named)] => {
                for pair in named.pairs::<Value, Value>() {
                    let (name, value) = pair?;
                    let Value::String(name) = name else {
                        return Err(Raised::Misuse(format!("a parameter's name is a {}", type_name(&name))));
                    };
                    let name = self.text(&name.as_bytes(), "a parameter's name")?;
                    let cell = self.cell(&value, || format!("parameter {name}"))?;
                    let name = if name.starts_with([':', '@', '$']) { name } else { format!(":{name}") };
                    statement.named_parameters.push(SqlNamedParameter { name, value: Some(cell) });
                }
            }
            _ => {
                for (number, value) in (1..).zip(given) {
                    statement.parameters.push(self.cell(value, || format!("parameter {number}"))?);
                }
            }
        }
        Ok(statement)
    }

    fn cell(&mut self, value: &Value, what: impl Fn() -> String) -> Result<SqlCell, Raised> {
        let kind = match value {
            Value::Nil => sql_cell::Kind::Null(SqlNull {}),
            value if value.is_null() => sql_cell::Kind::Null(SqlNull {}),
            Value::Boolean(boolean) => sql_cell::Kind::Int64(i64::from(*boolean)),
            Value::Integer(integer) => sql_cell::Kind::Int64(*integer),
            Value::Number(number) => sql_cell::Kind::Double(*number),
            Value::String(string) => {
                let bytes = string.as_bytes();
                let text = std::str::from_utf8(&bytes)
                    .map_err(|_| Raised::Misuse(format!("{} is no UTF-8: sql.blob makes bytes a blob", what())))?;
                self.count(text.len())?;
                sql_cell::Kind::Text(text.to_owned())
            }
            Value::Buffer(buffer) => {
                self.count(buffer.len())?;
                sql_cell::Kind::Blob(buffer.to_vec().into())
            }
            other => return Err(Raised::Misuse(format!("{} is a {}", what(), type_name(other)))),
        };
        self.count(0)?;
        Ok(SqlCell { kind: Some(kind) })
    }

    fn text(&mut self, bytes: &[u8], what: &str) -> Result<String, Raised> {
        self.count(bytes.len())?;
        let text = std::str::from_utf8(bytes).map_err(|_| Raised::Misuse(format!("{what} must be UTF-8")))?;
        Ok(text.to_owned())
    }

    /// Before anything is copied: one long string may be given many times.
    fn count(&mut self, bytes: usize) -> Result<(), Raised> {
        self.ticks.tick(self.context)?;
        self.bytes = self.bytes.saturating_add(VALUE_BYTES + bytes);
        if self.bytes > self.bytes_max {
            let (actual, limit) = (self.bytes, self.bytes_max);
            let problem = format!("{actual} bytes or more in all, above the limit of {limit}");
            let failure = Failure::invalid_field("statements", problem).with("actual", actual).with("limit", limit);
            return Err(failure.into());
        }
        Ok(())
    }
}

/// The database, and what is asked of it, for people: the sizes of parameters, and not what they hold.
pub(super) fn description(database: &SqlDatabase, statements: &[SqlStatement]) -> (Bytes, String) {
    let mut named = [&database.user[..], b"/", database.dbname.as_bytes()].concat();
    if database.dbfile != 0 {
        named.extend(format!(" in dbfile {}", database.dbfile).bytes());
    }
    let mut text = statements.first().map(one_statement).unwrap_or_default();
    if statements.len() > 1 {
        text.push_str(&format!(" and {} more", statements.len() - 1));
    }
    (named.into(), text)
}

fn one_statement(statement: &SqlStatement) -> String {
    // No more of the text is looked at than can be shown.
    let head = &statement.sql[..statement.sql.floor_char_boundary(TEXT_CHARS * 8)];
    let words = head.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut text: String = words.chars().take(TEXT_CHARS).collect();
    if text.len() < words.len() || head.len() < statement.sql.len() {
        text.push('…');
    }
    let named = statement.named_parameters.iter().filter_map(|parameter| parameter.value.as_ref());
    let mut sizes: Vec<String> = statement.parameters.iter().chain(named).take(PARAMETERS_TOLD).map(size).collect();
    if statement.parameters.len().max(statement.named_parameters.len()) > PARAMETERS_TOLD {
        sizes.push("…".to_owned());
    }
    if !sizes.is_empty() {
        text.push_str(&format!(" [{}]", sizes.join(", ")));
    }
    text
}

fn size(cell: &SqlCell) -> String {
    match &cell.kind {
        None | Some(sql_cell::Kind::Null(_)) => "null".to_owned(),
        Some(sql_cell::Kind::Int64(_)) => "integer".to_owned(),
        Some(sql_cell::Kind::Double(_)) => "double".to_owned(),
        Some(sql_cell::Kind::Text(text)) => format!("text of {} bytes", text.len()),
        Some(sql_cell::Kind::Blob(blob)) => format!("blob of {} bytes", blob.len()),
    }
}
