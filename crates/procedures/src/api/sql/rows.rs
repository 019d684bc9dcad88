//! What statements answered, as a script sees it.
//!
//! | cell | Lua |
//! | --- | --- |
//! | NULL | no field: nil |
//! | integer | a number up to 2^53, beyond that Luau's `integer` |
//! | double | number |
//! | text, blob | string |
//!
//! Lists are marked as `json.array` does it, so that an empty one stays one.

use cirrus_proto::v1::{SqlCell, SqlResult, sql_cell};
use mlua::{Lua, LuaString, Table, Value};

use super::super::pure::{Context, Returned};
use crate::text::EXACT_INTEGER_MAX;
use crate::walk::Ticks;

pub(super) struct Tables<'a> {
    lua: &'a Lua,
    context: &'a Context,
    ticks: Ticks,
}

impl<'a> Tables<'a> {
    pub(super) fn new(lua: &'a Lua, context: &'a Context) -> Self {
        Tables { lua, context, ticks: Ticks::default() }
    }

    /// What the operation returns: of one statement, or of a list. `rows_only`: of queries.
    pub(super) fn answer(&mut self, results: Vec<SqlResult>, is_list: bool, rows_only: bool) -> mlua::Result<Value> {
        let answers = if is_list { Some(self.list(results.len())?) } else { None };
        for (result, place) in results.into_iter().zip(1..) {
            let answer = if rows_only { self.rows(result)? } else { self.changes(result)? };
            match &answers {
                Some(answers) => answers.raw_set(place, answer)?,
                None => return Ok(Value::Table(answer)),
            }
        }
        Ok(answers.map_or(Value::Nil, Value::Table))
    }

    fn changes(&mut self, result: SqlResult) -> mlua::Result<Table> {
        let table = self.lua.create_table_with_capacity(0, 3)?;
        let affected = i64::try_from(result.affected_rows).unwrap_or(i64::MAX);
        self.context.set(&table, "affected_rows", integer(affected))?;
        self.context.set(&table, "last_insert_rowid", integer(result.last_insert_rowid))?;
        table.raw_set("rows", self.rows(result)?)?;
        Ok(table)
    }

    fn rows(&mut self, result: SqlResult) -> mlua::Result<Table> {
        let names = result.columns.iter().map(|column| self.lua.create_string(&column.name));
        let names: Vec<LuaString> = names.collect::<mlua::Result<_>>()?;
        let rows = self.list(result.rows.len())?;
        for (row, place) in result.rows.into_iter().zip(1..) {
            let table = self.lua.create_table_with_capacity(0, names.len())?;
            for (name, cell) in names.iter().zip(row.cells) {
                self.ticks.tick(self.context)?;
                if let Some(value) = self.cell(cell)? {
                    self.context.set(&table, name, value)?;
                }
            }
            rows.raw_set(place, table)?;
        }
        Ok(rows)
    }

    fn cell(&self, cell: SqlCell) -> mlua::Result<Option<Returned>> {
        Ok(match cell.kind {
            None | Some(sql_cell::Kind::Null(_)) => None,
            Some(sql_cell::Kind::Int64(number)) => Some(integer(number)),
            Some(sql_cell::Kind::Double(number)) => Some(Returned::Value(Value::Number(number))),
            Some(sql_cell::Kind::Text(text)) => Some(Returned::Value(Value::String(self.lua.create_string(text)?))),
            Some(sql_cell::Kind::Blob(blob)) => Some(Returned::Value(Value::String(self.lua.create_string(blob)?))),
        })
    }

    fn list(&self, length: usize) -> mlua::Result<Table> {
        let table = self.lua.create_table_with_capacity(length, 0)?;
        table.set_metatable(Some(self.context.array.clone()))?;
        Ok(table)
    }
}

fn integer(integer: i64) -> Returned {
    match (-EXACT_INTEGER_MAX..=EXACT_INTEGER_MAX).contains(&integer) {
        true => Returned::Value(Value::Integer(integer)),
        false => Returned::Integer(integer),
    }
}
