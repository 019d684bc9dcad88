//! Arguments and results with types: the API's [`LuaValue`] to a value of Lua's, and back.
//!
//! | `LuaValue` | Lua |
//! | --- | --- |
//! | nil | nil; `json.null` in a list or a map |
//! | boolean, bytes | boolean, string |
//! | int64 | number up to 2^53, beyond that Luau's `integer` |
//! | double | number |
//! | list | table with the keys 1 to n, marked as `json.array` does it |
//! | map | table whose keys are strings |
//!
//! Back, a whole number is an int64, and a table is what `json.encode` would make of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use cirrus_proto::v1::lua_value::Kind;
use cirrus_proto::v1::{LuaList, LuaMap, LuaMapEntry, LuaNil, LuaValue};
use cirrus_proto::value::VALUE_DEPTH_MAX;
use cirrus_proto::{Failure, Reason};
use mlua::{Lua, Table, Value};

use crate::api::pure::{Context, Returned};
use crate::path::{Step, shortened};
use crate::text::{EXACT_INTEGER_MAX, type_name};
use crate::trouble::Trouble;
use crate::walk::{Shape, Walk};

/// What a result's bound counts for each value beside its bytes.
const VALUE_BYTES: usize = 8;

/// What an argument is in Lua.
pub(crate) fn to_lua(context: &Context, lua: &Lua, value: &LuaValue) -> mlua::Result<Returned> {
    Ok(Returned::Value(match &value.kind {
        None | Some(Kind::Nil(_)) => Value::Nil,
        Some(Kind::Boolean(boolean)) => Value::Boolean(*boolean),
        Some(Kind::Int64(integer)) if (-EXACT_INTEGER_MAX..=EXACT_INTEGER_MAX).contains(integer) => {
            Value::Integer(*integer)
        }
        Some(Kind::Int64(integer)) => return Ok(Returned::Integer(*integer)),
        Some(Kind::Double(number)) => Value::Number(*number),
        Some(Kind::Bytes(bytes)) => Value::String(lua.create_string(bytes)?),
        Some(Kind::List(list)) => {
            let table = lua.create_table_with_capacity(list.values.len(), 0)?;
            for (index, value) in list.values.iter().enumerate() {
                context.set(&table, index + 1, within(context, lua, Some(value))?)?;
            }
            table.set_metatable(Some(context.array.clone()))?;
            Value::Table(table)
        }
        Some(Kind::Map(map)) => {
            let table = lua.create_table_with_capacity(0, map.entries.len())?;
            for entry in &map.entries {
                let key = lua.create_string(&entry.key)?;
                context.set(&table, key, within(context, lua, entry.value.as_ref())?)?;
            }
            Value::Table(table)
        }
    }))
}

/// A nil would be no element.
fn within(context: &Context, lua: &Lua, value: Option<&LuaValue>) -> mlua::Result<Returned> {
    let value = value.map_or(Ok(Returned::Value(Value::Nil)), |value| to_lua(context, lua, value))?;
    Ok(match value {
        Returned::Value(Value::Nil) => Returned::Value(Value::NULL),
        other => other,
    })
}

/// A result, if it has at most that many bytes: those of its strings, and 8 for each value.
///
/// Fails with [`Reason::ResultTooLarge`], and with [`Reason::ProcedureFailed`] for what has no form, such as a function.
pub(crate) fn from_lua(context: &Context, value: &Value, bytes_max: usize) -> Result<LuaValue, Trouble> {
    Reader { walk: Walk::new(context, VALUE_DEPTH_MAX), bytes: 0, bytes_max }.value(value)
}

struct Reader<'a> {
    walk: Walk<'a>,
    bytes: usize,
    bytes_max: usize,
}

impl Reader<'_> {
    fn value(&mut self, value: &Value) -> Result<LuaValue, Trouble> {
        self.count(VALUE_BYTES)?;
        let kind = match value {
            Value::Nil => Kind::Nil(LuaNil {}),
            value if value.is_null() => Kind::Nil(LuaNil {}),
            Value::Boolean(boolean) => Kind::Boolean(*boolean),
            Value::Integer(integer) => Kind::Int64(*integer),
            Value::Number(number) => Kind::Double(*number),
            Value::String(string) => Kind::Bytes(self.bytes(&string.as_bytes())?),
            Value::Table(table) => self.table(table)?,
            other => return Err(self.refused(format!("a {} is no result", type_name(other)))),
        };
        Ok(LuaValue { kind: Some(kind) })
    }

    fn table(&mut self, table: &Table) -> Result<Kind, Trouble> {
        let kind = match self.walk.enter(table).map_err(|problem| self.refused(problem))? {
            Shape::Map => self.map(table)?,
            Shape::List(length) => self.list(table, length)?,
        };
        self.walk.leave();
        Ok(kind)
    }

    fn list(&mut self, table: &Table, length: usize) -> Result<Kind, Trouble> {
        let mut count = 0;
        for pair in table.pairs::<Value, Value>() {
            self.walk.tick()?;
            match pair?.0 {
                Value::Integer(key) if (1..=length as i64).contains(&key) => count += 1,
                key => return Err(self.stray(&key, "a list")),
            }
        }
        if count != length {
            return Err(self.refused("the list has a hole: json.null can fill it"));
        }
        self.count(length.saturating_mul(VALUE_BYTES))?;
        let mut values = Vec::with_capacity(length);
        for place in 1..=length {
            self.walk.path.push(Step::Element(place));
            values.push(self.value(&table.raw_get(place)?)?);
            self.walk.path.pop();
        }
        Ok(Kind::List(LuaList { values }))
    }

    fn map(&mut self, table: &Table) -> Result<Kind, Trouble> {
        let mut sorted = BTreeMap::new();
        for pair in table.pairs::<Value, Value>() {
            self.walk.tick()?;
            let (key, value) = pair?;
            let Value::String(key) = key else { return Err(self.stray(&key, "a map")) };
            sorted.insert(self.bytes(&key.as_bytes())?, value);
        }
        let mut entries = Vec::with_capacity(sorted.len());
        for (key, value) in sorted {
            self.walk.path.push(Step::Field(key.to_vec()));
            entries.push(LuaMapEntry { key, value: Some(self.value(&value)?) });
            self.walk.path.pop();
        }
        Ok(Kind::Map(LuaMap { entries }))
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<Bytes, Trouble> {
        self.count(bytes.len())?;
        Ok(Bytes::copy_from_slice(bytes))
    }

    fn count(&mut self, bytes: usize) -> Result<(), Trouble> {
        self.walk.tick()?;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.bytes_max {
            let too_large = Failure::too_large(Reason::ResultTooLarge, "result", self.bytes, self.bytes_max);
            return Err(too_large.into());
        }
        Ok(())
    }

    fn stray(&self, key: &Value, kind: &str) -> Trouble {
        let key = match key {
            Value::String(name) => format!("the key {:?}", shortened(&name.as_bytes())),
            Value::Integer(number) => format!("the key {number}"),
            other => format!("a key that is a {}", type_name(other)),
        };
        self.refused(format!("the table would be {kind}, but has {key}"))
    }

    fn refused(&self, problem: impl std::fmt::Display) -> Trouble {
        let message = format!("the procedure's result has no form: {}: {problem}", self.walk.path);
        Failure::new(Reason::ProcedureFailed, message).into()
    }
}
