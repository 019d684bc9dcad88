//! `_split`, `_strstr`, `_ucs`, `_dist`: text.

use bytes::Bytes;
use memchr::memmem;
use mlua::{Lua, Value};

use super::number;
use super::output::Output;
use crate::api::{Access, Answer, Operation, Raised, check_budget, expect_text, one, string};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::global("_split", 1..=2, split),
    Operation::global("_strstr", 2..=3, find),
    Operation::global("_ucs", 1..=1, code_units),
    Operation::global("_dist", 2..=3, distance),
];

/// Longest text that `_dist` compares, bytes. Its time is the product of both lengths.
const DISTANCE_BYTES_MAX: usize = 64 * 1024;

/// Elements between two looks at the clock.
const CHECK_ELEMENTS: usize = 4096;

/// `_split(text[, delimiters])`: an array of the parts between any of the delimiters' bytes, by default NUL. There is
/// one part more than there are delimiters.
fn split(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let text = expect_text(lua, "text", &arguments[0])?;
    let mut is_delimiter = [false; 256];
    match arguments.get(1) {
        None | Some(Value::Nil) => is_delimiter[0] = true,
        Some(delimiters) => {
            for byte in expect_text(lua, "delimiters", delimiters)? {
                is_delimiter[usize::from(byte)] = true;
            }
        }
    }
    let parts = lua.create_table()?;
    for (index, part) in text.split(|&byte| is_delimiter[usize::from(byte)]).enumerate() {
        if index % CHECK_ELEMENTS == 0 {
            check_budget(access.budget)?;
        }
        parts.raw_push(lua.create_string(part)?)?;
    }
    one(Value::Table(parts))
}

/// `_strstr(text, pattern)`: where the pattern stands first, counted from 1; 0 where it does not.
/// `_strstr(text, pattern, replacement)`: the text with each occurrence replaced.
fn find(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let text = expect_text(lua, "text", &arguments[0])?;
    let pattern = expect_text(lua, "pattern", &arguments[1])?;
    let Some(replacement) = arguments.get(2).filter(|value| !value.is_nil()) else {
        let place = memmem::find(&text, &pattern).map_or(0, |offset| offset + 1);
        return one(Value::Number(place as f64));
    };
    let replacement = expect_text(lua, "replacement", replacement)?;
    let mut out = Output::new(access);
    let mut from = 0;
    if !pattern.is_empty() {
        for (index, offset) in memmem::find_iter(&text, &*pattern).enumerate() {
            if index % CHECK_ELEMENTS == 0 {
                check_budget(access.budget)?;
            }
            out.extend(&text[from..offset])?;
            out.extend(&replacement)?;
            from = offset + pattern.len();
        }
    }
    out.extend(&text[from..])?;
    one(string(lua, out.bytes())?)
}

/// `_ucs(text)`: an array of the UTF-16 code units of UTF-8 text. `_ucs(array)`: and back. What is damaged becomes
/// U+FFFD. Up to U+FFFF this is Tokyo Tyrant's UCS-2; it knows no characters beyond.
fn code_units(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    if let Value::Table(array) = &arguments[0] {
        let mut units = Vec::new();
        for index in 1..=array.raw_len() {
            if index % CHECK_ELEMENTS == 0 {
                check_budget(access.budget)?;
            }
            units.push(number(&array.raw_get::<Value>(index)?).unwrap_or(0.0) as i64 as u16);
        }
        return one(string(lua, String::from_utf16_lossy(&units).as_bytes())?);
    }
    let text = expect_text(lua, "text", &arguments[0])?;
    let units = lua.create_table()?;
    for (index, unit) in String::from_utf8_lossy(&text).encode_utf16().enumerate() {
        if index % CHECK_ELEMENTS == 0 {
            check_budget(access.budget)?;
        }
        units.raw_push(unit)?;
    }
    one(Value::Table(units))
}

/// `_dist(a, b[, utf])`: how many bytes or, with `utf`, UTF-8 characters must be inserted, removed or replaced to make
/// one text of the other. (Tokyo Cabinet compares the first 4,096 only.)
fn distance(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let texts = [text_to_compare(lua, "a", &arguments[0])?, text_to_compare(lua, "b", &arguments[1])?];
    let is_utf = !matches!(arguments.get(2), None | Some(Value::Nil | Value::Boolean(false)));
    let [a, b] = texts.map(|text| match is_utf {
        true => String::from_utf8_lossy(&text).chars().map(u32::from).collect::<Vec<_>>(),
        false => text.iter().map(|&byte| u32::from(byte)).collect(),
    });
    // Distances between the first elements of `a`, one more each turn, and all beginnings of `b`.
    let mut row: Vec<u32> = (0..=b.len() as u32).collect();
    for (index, first) in a.iter().enumerate() {
        check_budget(access.budget)?;
        let mut diagonal = row[0];
        row[0] = index as u32 + 1;
        for (place, second) in b.iter().enumerate() {
            let replaced = diagonal + u32::from(first != second);
            diagonal = row[place + 1];
            row[place + 1] = replaced.min(diagonal + 1).min(row[place] + 1);
        }
    }
    one(Value::Number(f64::from(row[b.len()])))
}

fn text_to_compare(lua: &Lua, name: &str, value: &Value) -> Result<Bytes, Raised> {
    let text = expect_text(lua, name, value)?;
    if text.len() > DISTANCE_BYTES_MAX {
        let problem = format!("{name} has {} bytes, more than {DISTANCE_BYTES_MAX}", text.len());
        return Err(Raised::Misuse(problem));
    }
    Ok(text)
}
