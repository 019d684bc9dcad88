//! Tokyo Tyrant's functions on strings and numbers, which touch no records.

use bytes::Bytes;
use md5::{Digest as _, Md5};
use mlua::{Lua, Value};

use super::super::crypto::in_pieces;
use super::super::pure::{Context, PureFunction, Returned};
use super::super::{Raised, expect_text};
use crate::text::{integer, type_name};

pub(in super::super) const FUNCTIONS: &[PureFunction] = &[
    PureFunction { table: None, name: "_split", arguments: 1..=2, run: split },
    PureFunction { table: None, name: "_hash", arguments: 2..=2, run: hash },
    PureFunction { table: None, name: "_bit", arguments: 2..=3, run: bit },
    PureFunction { table: None, name: "_strstr", arguments: 2..=3, run: search },
    PureFunction { table: None, name: "_ucs", arguments: 1..=1, run: code_points },
    PureFunction { table: None, name: "_dist", arguments: 2..=3, run: distance },
];

fn bytes(lua: &Lua, bytes: &[u8]) -> Result<Returned, Raised> {
    Ok(Returned::Value(Value::String(lua.create_string(bytes)?)))
}

/// `_split(s[, delimiters])`: an array of the parts between any two of the delimiters, by default NUL.
fn split(context: &Context, lua: &Lua, arguments: &[Value]) -> Result<Returned, Raised> {
    let text = expect_text(lua, "the string", &arguments[0])?;
    let delimiters = match arguments.get(1) {
        None | Some(Value::Nil) => Bytes::from_static(b"\0"),
        Some(value) => expect_text(lua, "delimiters", value)?,
    };
    let mut is_delimiter = [false; 256];
    delimiters.iter().for_each(|&byte| is_delimiter[usize::from(byte)] = true);
    let parts = lua.create_table()?;
    for (index, part) in text.split(|&byte| is_delimiter[usize::from(byte)]).enumerate() {
        parts.raw_push(lua.create_string(part)?)?;
        if index % 1024 == 0 {
            context.check_budget()?;
        }
    }
    Ok(Returned::Value(Value::Table(parts)))
}

/// `_hash(mode, s)`: "md5" in hex, "md5raw" in 16 bytes, "crc32" as a number.
fn hash(context: &Context, lua: &Lua, arguments: &[Value]) -> Result<Returned, Raised> {
    let mode = expect_text(lua, "mode", &arguments[0])?;
    let text = expect_text(lua, "the string", &arguments[1])?;
    match &*mode {
        b"md5" | b"md5raw" => {
            let mut digest = Md5::new();
            in_pieces(context, &text, |piece| digest.update(piece))?;
            let digest = digest.finalize();
            if &*mode == b"md5raw" {
                return bytes(lua, &digest);
            }
            let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            bytes(lua, hex.as_bytes())
        }
        b"crc32" => {
            let mut hasher = crc32fast::Hasher::new();
            in_pieces(context, &text, |piece| hasher.update(piece))?;
            Ok(Returned::Value(Value::Number(f64::from(hasher.finalize()))))
        }
        _ => Err(unknown_mode(&mode, "md5, md5raw or crc32")),
    }
}

fn unknown_mode(mode: &[u8], expected: &str) -> Raised {
    let mode: String = String::from_utf8_lossy(mode).chars().take(32).collect();
    Raised::Misuse(format!("mode must be {expected}, got {mode:?}"))
}

/// `_bit(mode, n[, aux])`: on unsigned numbers of 32 bits.
fn bit(_: &Context, lua: &Lua, arguments: &[Value]) -> Result<Returned, Raised> {
    let mode = expect_text(lua, "mode", &arguments[0])?;
    let number = unsigned(&arguments[1])?;
    let auxiliary = match (&*mode, arguments.get(2)) {
        (b"not", _) => 0,
        (_, Some(value)) => unsigned(value)?,
        (_, None) => return Err(Raised::Misuse("expected 3 arguments, got 2".to_owned())),
    };
    let result = match &*mode {
        b"and" => number & auxiliary,
        b"or" => number | auxiliary,
        b"xor" => number ^ auxiliary,
        b"not" => !number,
        b"left" => number.checked_shl(auxiliary).unwrap_or(0),
        b"right" => number.checked_shr(auxiliary).unwrap_or(0),
        _ => return Err(unknown_mode(&mode, "and, or, xor, not, left or right")),
    };
    Ok(Returned::Value(Value::Number(f64::from(result))))
}

/// The low 32 bits of a number, as C converts it.
fn unsigned(value: &Value) -> Result<u32, Raised> {
    match value {
        Value::Number(number) => Ok(*number as i64 as u32),
        value => integer(value)
            .map(|number| number as u32)
            .ok_or_else(|| Raised::Misuse(format!("expected a number, got {}", type_name(value)))),
    }
}

/// `_strstr(s, pattern)`: where the pattern begins, or 0. `_strstr(s, pattern, alternative)`: the string with
/// every occurrence replaced.
fn search(context: &Context, lua: &Lua, arguments: &[Value]) -> Result<Returned, Raised> {
    let text = expect_text(lua, "the string", &arguments[0])?;
    let pattern = expect_text(lua, "pattern", &arguments[1])?;
    let alternative = match arguments.get(2) {
        None | Some(Value::Nil) => {
            let place = memchr::memmem::find(&text, &pattern).map_or(0, |offset| offset + 1);
            return Ok(Returned::Value(Value::Number(place as f64)));
        }
        Some(value) => expect_text(lua, "alternative", value)?,
    };
    if pattern.is_empty() {
        return bytes(lua, &text);
    }
    let (mut replaced, mut from) = (Vec::new(), 0);
    for offset in memchr::memmem::find_iter(&text, &pattern) {
        replaced.extend_from_slice(&text[from..offset]);
        replaced.extend_from_slice(&alternative);
        from = offset + pattern.len();
        context.check_memory(replaced.len())?;
    }
    replaced.extend_from_slice(&text[from..]);
    context.check_budget()?;
    bytes(lua, &replaced)
}

/// `_ucs(s)`: an array of the code points of UTF-8 text; `_ucs(array)`: the text of code points. What is no code
/// point becomes U+FFFD.
fn code_points(context: &Context, lua: &Lua, arguments: &[Value]) -> Result<Returned, Raised> {
    if let Value::Table(points) = &arguments[0] {
        let mut text = String::new();
        for (index, point) in points.sequence_values::<f64>().enumerate() {
            text.push(char::from_u32(point? as u32).unwrap_or(char::REPLACEMENT_CHARACTER));
            if index % 1024 == 0 {
                context.check_memory(text.len())?;
                context.check_budget()?;
            }
        }
        return bytes(lua, text.as_bytes());
    }
    let text = expect_text(lua, "the text", &arguments[0])?;
    context.check_memory(text.len())?;
    let points = lua.create_table()?;
    for (index, letter) in String::from_utf8_lossy(&text).chars().enumerate() {
        points.raw_push(f64::from(u32::from(letter)))?;
        if index % 1024 == 0 {
            context.check_budget()?;
        }
    }
    Ok(Returned::Value(Value::Table(points)))
}

/// `_dist(a, b[, utf])`: the edit distance, in bytes or, where `utf` is true, in characters.
fn distance(context: &Context, lua: &Lua, arguments: &[Value]) -> Result<Returned, Raised> {
    let a = expect_text(lua, "a", &arguments[0])?;
    let b = expect_text(lua, "b", &arguments[1])?;
    context.check_memory((a.len() + b.len()).saturating_mul(8))?;
    let distance = match arguments.get(2) {
        None | Some(Value::Nil | Value::Boolean(false)) => edit_distance(context, &a, &b)?,
        Some(_) => {
            let letters = |text: &[u8]| String::from_utf8_lossy(text).chars().collect::<Vec<_>>();
            edit_distance(context, &letters(&a), &letters(&b))?
        }
    };
    Ok(Returned::Value(Value::Number(distance as f64)))
}

/// Levenshtein's, with one row of the matrix in memory (Wagner and Fischer, 1974).
fn edit_distance<T: PartialEq>(context: &Context, a: &[T], b: &[T]) -> mlua::Result<usize> {
    /// Cells between two looks at the clock.
    const CELLS: usize = 1 << 16;
    let mut row: Vec<usize> = (0..=b.len()).collect();
    let mut cells = 0;
    for (i, left) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, right) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
            cells += 1;
            if cells == CELLS {
                cells = 0;
                context.check_budget()?;
            }
        }
    }
    Ok(row[b.len()])
}
