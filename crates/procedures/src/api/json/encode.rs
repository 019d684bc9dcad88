//! A Lua value as JSON text.

use std::collections::BTreeSet;
use std::io::Write as _;

use mlua::{Lua, Table, Value};

use super::DEPTH_MAX;
use crate::api::pure::{Context, Returned};
use crate::api::{Raised, string};
use crate::path::{Step, shortened};
use crate::text::type_name;
use crate::walk::{Shape, Walk};

/// A string is escaped in pieces of this size; between them, time and memory are looked at.
const PIECE_BYTES: usize = 64 * 1024;

pub(super) fn encode(context: &Context, lua: &Lua, arguments: &[Value]) -> Result<Returned, Raised> {
    let mut encoder = Encoder { walk: Walk::new(context, DEPTH_MAX), output: Vec::new() };
    encoder.value(&arguments[0])?;
    Ok(Returned::Value(string(lua, &encoder.output)?))
}

struct Encoder<'a> {
    walk: Walk<'a>,
    output: Vec<u8>,
}

impl Encoder<'_> {
    fn value(&mut self, value: &Value) -> Result<(), Raised> {
        self.walk.tick()?;
        self.walk.context.check_memory(self.output.len())?;
        match value {
            Value::Nil => self.output.extend(b"null"),
            value if value.is_null() => self.output.extend(b"null"),
            Value::Boolean(true) => self.output.extend(b"true"),
            Value::Boolean(false) => self.output.extend(b"false"),
            Value::Integer(integer) => write!(self.output, "{integer}").map_err(mlua::Error::external)?,
            // Zero below zero is a double's own idea, here as in stored values.
            Value::Number(0.0) => self.output.push(b'0'),
            Value::Number(number) if number.is_finite() => {
                serde_json::to_writer(&mut self.output, number).map_err(mlua::Error::external)?;
            }
            Value::Number(number) => return Err(self.refused(format!("{number} has no JSON form"))),
            Value::String(text) => self.string(&text.as_bytes())?,
            Value::Table(table) => self.table(table)?,
            other => return Err(self.refused(format!("a {} has no JSON form", type_name(other)))),
        }
        Ok(())
    }

    fn table(&mut self, table: &Table) -> Result<(), Raised> {
        match self.walk.enter(table).map_err(|problem| self.refused(problem))? {
            Shape::Map => self.object(table)?,
            Shape::List(length) => self.array(table, length)?,
        }
        self.walk.leave();
        Ok(())
    }

    fn array(&mut self, table: &Table, length: usize) -> Result<(), Raised> {
        let mut count = 0;
        for pair in table.pairs::<Value, Value>() {
            self.walk.tick()?;
            let (key, _) = pair?;
            if !matches!(key, Value::Integer(key) if (1..=length as i64).contains(&key)) {
                return Err(self.stray(&key, "an array"));
            }
            count += 1;
        }
        if count != length {
            return Err(self.refused("the array has a hole: json.null can fill it"));
        }
        self.output.push(b'[');
        for place in 1..=length {
            if place > 1 {
                self.output.push(b',');
            }
            self.walk.path.push(Step::Element(place));
            self.value(&table.raw_get(place)?)?;
            self.walk.path.pop();
        }
        self.output.push(b']');
        Ok(())
    }

    fn object(&mut self, table: &Table) -> Result<(), Raised> {
        let mut names = BTreeSet::new();
        for pair in table.pairs::<Value, Value>() {
            self.walk.tick()?;
            match pair?.0 {
                Value::String(name) => names.insert(name.as_bytes().to_vec()),
                key => return Err(self.stray(&key, "an object")),
            };
        }
        self.output.push(b'{');
        for (index, name) in names.into_iter().enumerate() {
            if index > 0 {
                self.output.push(b',');
            }
            let value: Value = table.raw_get(mlua::BString::from(&*name))?;
            self.walk.path.push(Step::Field(name.clone()));
            self.string(&name)?;
            self.output.push(b':');
            self.value(&value)?;
            self.walk.path.pop();
        }
        self.output.push(b'}');
        Ok(())
    }

    fn string(&mut self, bytes: &[u8]) -> Result<(), Raised> {
        if let Err(error) = std::str::from_utf8(bytes) {
            return Err(self.refused(format!("the string is not UTF-8 at byte {}", error.valid_up_to() + 1)));
        }
        self.output.push(b'"');
        for piece in bytes.chunks(PIECE_BYTES) {
            self.walk.context.check_budget()?;
            self.walk.context.check_memory(self.output.len() + piece.len())?;
            escape(piece, &mut self.output);
        }
        self.output.push(b'"');
        Ok(())
    }

    /// A key that does not fit with what the table is.
    fn stray(&self, key: &Value, kind: &str) -> Raised {
        let key = match key {
            Value::String(name) => format!("the key {:?}", shortened(&name.as_bytes())),
            Value::Integer(number) => format!("the key {number}"),
            Value::Number(number) => format!("the key {number}"),
            other => format!("a key that is a {}", type_name(other)),
        };
        self.refused(format!("the table would be {kind}, but has {key}"))
    }

    fn refused(&self, problem: impl std::fmt::Display) -> Raised {
        Raised::Misuse(format!("{}: {problem}", self.walk.path))
    }
}

/// Appends a string's bytes with what JSON wants escaped. Pieces may end within a character.
fn escape(piece: &[u8], output: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut plain_from = 0;
    for (index, &byte) in piece.iter().enumerate() {
        let letter = match byte {
            b'"' | b'\\' => byte,
            0x08 => b'b',
            0x0c => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0..0x20 => b'u',
            _ => continue,
        };
        output.extend_from_slice(&piece[plain_from..index]);
        plain_from = index + 1;
        output.extend([b'\\', letter]);
        if letter == b'u' {
            output.extend([b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
    output.extend_from_slice(&piece[plain_from..]);
}
