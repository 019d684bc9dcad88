//! A Lua value from JSON text, built as the text is read.

use std::fmt;

use mlua::{Lua, LuaString, Value};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::DEPTH_MAX;
use crate::api::Raised;
use crate::api::pure::{Context, Returned};
use crate::text::{EXACT_INTEGER_MAX, type_name};
use crate::walk::Ticks;

/// Longest text: one string in it is read without a look at the CPU time, in a few hundredths of a second.
const TEXT_BYTES_MAX: usize = 16 << 20;

pub(super) fn decode(context: &Context, lua: &Lua, arguments: &[Value]) -> Result<Returned, Raised> {
    let Value::String(text) = &arguments[0] else {
        return Err(Raised::Misuse(format!("expected a string, got {}", type_name(&arguments[0]))));
    };
    let bytes = text.as_bytes();
    if bytes.len() > TEXT_BYTES_MAX {
        let problem = format!("the text is {} bytes, above the limit of {TEXT_BYTES_MAX}", bytes.len());
        return Err(Raised::Misuse(problem));
    }
    let mut builder = Builder { context, lua, ticks: Ticks::default(), stopped: None };
    let mut reader = serde_json::Deserializer::from_slice(&bytes);
    let built = Node { builder: &mut builder, depth: 0 }.deserialize(&mut reader);
    let read = built.and_then(|built| reader.end().map(|()| built));
    match (builder.stopped, read) {
        (Some(error), _) => Err(Raised::Lua(error)),
        (None, Err(problem)) => Err(Raised::Misuse(problem.to_string())),
        (None, Ok(built)) => Ok(built),
    }
}

struct Builder<'a> {
    context: &'a Context,
    lua: &'a Lua,
    ticks: Ticks,
    /// Why reading ended early: out of memory or time.
    stopped: Option<mlua::Error>,
}

impl Builder<'_> {
    /// Takes an error of Luau's along, past the reader.
    fn stop_at<T, E: serde::de::Error>(&mut self, result: mlua::Result<T>) -> Result<T, E> {
        result.map_err(|error| {
            self.stopped = Some(error);
            E::custom("stopped")
        })
    }
}

/// The next value, at that depth.
struct Node<'b, 'a> {
    builder: &'b mut Builder<'a>,
    depth: usize,
}

impl Node<'_, '_> {
    fn check_depth<E: serde::de::Error>(&self) -> Result<(), E> {
        if self.depth == DEPTH_MAX {
            return Err(E::custom(format!("nested deeper than {DEPTH_MAX}")));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_, '_> {
    type Value = Returned;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Returned, D::Error> {
        let looked = self.builder.ticks.tick(self.builder.context);
        self.builder.stop_at(looked)?;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_, '_> {
    type Value = Returned;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Returned, E> {
        Ok(Returned::Value(Value::NULL))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Returned, E> {
        Ok(Returned::Value(Value::Boolean(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Returned, E> {
        let exact = (-EXACT_INTEGER_MAX..=EXACT_INTEGER_MAX).contains(&value);
        Ok(if exact { Returned::Value(Value::Integer(value)) } else { Returned::Integer(value) })
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Returned, E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => Err(E::custom(format!("the number {value} does not fit in signed 64 bits"))),
        }
    }

    fn visit_f64<E>(self, value: f64) -> Result<Returned, E> {
        Ok(Returned::Value(Value::Number(value)))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Returned, E> {
        let string = self.builder.lua.create_string(value);
        Ok(Returned::Value(Value::String(self.builder.stop_at(string)?)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Returned, A::Error> {
        self.check_depth()?;
        let table = self.builder.lua.create_table();
        let table = self.builder.stop_at(table)?;
        let mut length = 0;
        while let Some(element) = elements.next_element_seed(Node { builder: self.builder, depth: self.depth + 1 })? {
            length += 1;
            let set = self.builder.context.set(&table, length, element);
            self.builder.stop_at(set)?;
        }
        let marked = table.set_metatable(Some(self.builder.context.array.clone()));
        self.builder.stop_at(marked)?;
        Ok(Returned::Value(Value::Table(table)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Returned, A::Error> {
        self.check_depth()?;
        let table = self.builder.lua.create_table();
        let table = self.builder.stop_at(table)?;
        while let Some(name) = fields.next_key_seed(Name(self.builder))? {
            let value = fields.next_value_seed(Node { builder: self.builder, depth: self.depth + 1 })?;
            let set = self.builder.context.set(&table, name, value);
            self.builder.stop_at(set)?;
        }
        Ok(Returned::Value(Value::Table(table)))
    }
}

/// The name of an object's next field.
struct Name<'b, 'a>(&'b mut Builder<'a>);

impl<'de> DeserializeSeed<'de> for Name<'_, '_> {
    type Value = LuaString;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<LuaString, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_, '_> {
    type Value = LuaString;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a field's name")
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<LuaString, E> {
        let string = self.0.lua.create_string(value);
        self.0.stop_at(string)
    }
}
