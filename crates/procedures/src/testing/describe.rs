//! Lua values as text for people, and where two of them differ.

use std::cmp::Ordering;
use std::fmt::Write as _;

use mlua::{Table, Value};

/// Tables within tables are shown to this depth.
const DEPTH_MAX: usize = 8;

/// Elements of a table that are shown.
const ELEMENTS_MAX: usize = 100;

/// Bytes of a string that are shown.
const STRING_BYTES_MAX: usize = 4096;

/// A table that takes more characters has a line for each element.
const LINE_CHARACTERS: usize = 80;

/// Tables within tables are compared to this depth.
const COMPARED_DEPTH_MAX: usize = 64;

/// The value as Lua would write it; much of it is cut.
pub(super) fn describe(value: &Value) -> mlua::Result<String> {
    described(value, 0)
}

fn described(value: &Value, depth: usize) -> mlua::Result<String> {
    Ok(match value {
        Value::Nil => "nil".to_owned(),
        Value::Boolean(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Number(value) if value.is_nan() => "nan".to_owned(),
        Value::Number(value) => value.to_string(),
        Value::String(value) => quoted(&value.as_bytes()),
        Value::Table(table) => described_table(table, depth)?,
        value if *value == Value::NULL => "json.null".to_owned(),
        Value::Error(error) => error.to_string(),
        other => format!("a {}", other.type_name()),
    })
}

/// In quotes, with what is not text as decimal escapes.
pub(super) fn quoted(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(STRING_BYTES_MAX)];
    let mut text = String::with_capacity(shown.len() + 2);
    text.push('"');
    for chunk in shown.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter {
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '"' | '\\' => text.extend(['\\', letter]),
                control if control.is_ascii_control() => escape(&mut text, control as u8),
                letter => text.push(letter),
            }
        }
        chunk.invalid().iter().for_each(|&byte| escape(&mut text, byte));
    }
    text.push('"');
    if shown.len() < bytes.len() {
        let _ = write!(text, "… ({} bytes)", bytes.len());
    }
    text
}

/// Three digits, whatever follows.
fn escape(text: &mut String, byte: u8) {
    // Writing to a string succeeds.
    let _ = write!(text, "\\{byte:03}");
}

fn described_table(table: &Table, depth: usize) -> mlua::Result<String> {
    if depth == DEPTH_MAX {
        return Ok("{…}".to_owned());
    }
    let length = table.raw_len();
    let mut parts = Vec::new();
    for index in 1..=length.min(ELEMENTS_MAX) {
        parts.push(described(&table.raw_get(index)?, depth + 1)?);
    }
    let mut fields = Vec::new();
    let mut left_out = length.saturating_sub(ELEMENTS_MAX);
    for pair in table.pairs::<Value, Value>() {
        let (key, value) = pair?;
        if matches!(&key, Value::Integer(index) if (1..=length as i64).contains(index)) {
            continue;
        }
        fields.push((key, value));
    }
    fields.sort_by(|(a, _), (b, _)| by_kind_and_value(a, b));
    left_out += fields.len().saturating_sub(ELEMENTS_MAX);
    for (key, value) in fields.iter().take(ELEMENTS_MAX) {
        let value = described(value, depth + 1)?;
        parts.push(match name(key) {
            Some(name) => format!("{name} = {value}"),
            None => format!("[{}] = {value}", described(key, depth + 1)?),
        });
    }
    if left_out > 0 {
        parts.push(format!("… ({left_out} more)"));
    }
    let inline = parts.join(", ");
    if inline.chars().count() <= LINE_CHARACTERS && !inline.contains('\n') {
        return Ok(format!("{{{inline}}}"));
    }
    let lines = parts.join(",\n").replace('\n', "\n  ");
    Ok(format!("{{\n  {lines}\n}}"))
}

/// A key that needs no brackets.
fn name(key: &Value) -> Option<String> {
    let Value::String(name) = key else { return None };
    let name = name.to_str().ok()?;
    let starts = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    let goes_on = name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    (starts && goes_on).then(|| name.to_owned())
}

/// Numbers, then strings, then all others: an order for people.
fn by_kind_and_value(a: &Value, b: &Value) -> Ordering {
    let number = |value: &Value| match value {
        Value::Integer(value) => Some(*value as f64),
        Value::Number(value) => Some(*value),
        _ => None,
    };
    match (number(a), number(b)) {
        (Some(a), Some(b)) => return a.total_cmp(&b),
        (Some(_), None) => return Ordering::Less,
        (None, Some(_)) => return Ordering::Greater,
        (None, None) => {}
    }
    match (a, b) {
        (Value::String(a), Value::String(b)) => a.as_bytes().cmp(&b.as_bytes()),
        (Value::String(_), _) => Ordering::Less,
        (_, Value::String(_)) => Ordering::Greater,
        _ => a.type_name().cmp(b.type_name()),
    }
}

/// Where two values differ, as a path such as `.items[2].price`, empty for the values themselves; `None` where they
/// are equal. Numbers are equal by value, NaN to itself; tables by what they hold, without their metatables.
pub(super) fn difference(a: &Value, b: &Value) -> mlua::Result<Option<String>> {
    differ(a, b, 0)
}

fn differ(a: &Value, b: &Value, depth: usize) -> mlua::Result<Option<String>> {
    let equal = match (a, b) {
        (Value::Table(a), Value::Table(b)) if a.to_pointer() != b.to_pointer() => return tables_differ(a, b, depth),
        (Value::Integer(a), Value::Number(b)) | (Value::Number(b), Value::Integer(a)) => *a as f64 == *b,
        (Value::Number(a), Value::Number(b)) => a == b || (a.is_nan() && b.is_nan()),
        _ => a == b,
    };
    Ok(if equal { None } else { Some(String::new()) })
}

fn tables_differ(a: &Table, b: &Table, depth: usize) -> mlua::Result<Option<String>> {
    if depth == COMPARED_DEPTH_MAX {
        let problem = format!("tables nested deeper than {COMPARED_DEPTH_MAX} levels are not compared");
        return Err(mlua::Error::runtime(problem));
    }
    let mut differing: Option<(Value, String)> = None;
    let mut note = |key: Value, path: String| {
        if differing.as_ref().is_none_or(|(first, _)| by_kind_and_value(&key, first) == Ordering::Less) {
            differing = Some((key, path));
        }
    };
    for pair in a.pairs::<Value, Value>() {
        let (key, value) = pair?;
        if let Some(path) = differ(&value, &b.raw_get(key.clone())?, depth + 1)? {
            note(key, path);
        }
    }
    for pair in b.pairs::<Value, Value>() {
        let (key, _) = pair?;
        if a.raw_get::<Value>(key.clone())?.is_nil() {
            note(key, String::new());
        }
    }
    differing
        .map(|(key, path)| {
            Ok(match name(&key) {
                Some(name) => format!(".{name}{path}"),
                None => format!("[{}]{path}", describe(&key)?),
            })
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use mlua::Lua;

    #[test]
    fn values_are_written_as_lua_would() {
        let lua = Lua::new();
        for (source, expected) in [
            ("nil", "nil"),
            ("1", "1"),
            ("-0.5", "-0.5"),
            ("0/0", "nan"),
            ("2^53", "9007199254740992"),
            ("'a\"b\\\\\\n\\0\\255é'", "\"a\\\"b\\\\\\n\\000\\255é\""),
            ("{}", "{}"),
            ("{1, 'x', {true}}", "{1, \"x\", {true}}"),
            (
                "{b = 1, a = 2, ['a b'] = 3, [true] = 4, [10] = 5, 6}",
                "{6, [10] = 5, a = 2, [\"a b\"] = 3, b = 1, [true] = 4}",
            ),
            ("print", "a function"),
        ] {
            let value: Value = lua.load(format!("return {source}")).eval().unwrap();
            assert_eq!(describe(&value).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn much_is_cut_and_long_tables_have_lines() {
        let lua = Lua::new();
        let eval = |source: &str| describe(&lua.load(source).eval().unwrap()).unwrap();
        assert!(eval("('x'):rep(5000)").ends_with("x\"… (5000 bytes)"));
        assert!(eval("local t = {} for i = 1, 300 do t[i] = i end return t").contains("… (200 more)"));
        assert!(eval("local t = {} t.t = t return t").contains("{…}"));
        let lines = eval("{name = ('x'):rep(60), inner = {('y'):rep(60), ('z'):rep(60)}}");
        let expected = format!(
            "{{\n  inner = {{\n    \"{}\",\n    \"{}\"\n  }},\n  name = \"{}\"\n}}",
            "y".repeat(60),
            "z".repeat(60),
            "x".repeat(60)
        );
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_difference_is_found_and_named() {
        let lua = Lua::new();
        for (a, b, expected) in [
            ("1", "1", None),
            ("0", "-0", None),
            ("0/0", "0/0", None),
            ("1", "'1'", Some("")),
            ("nil", "false", Some("")),
            ("{1, 2}", "{1, 2}", None),
            ("{1, 2}", "{1, 2, 3}", Some("[3]")),
            ("{1, 2, 3}", "{1, 2}", Some("[3]")),
            ("{items = {{price = 1}, {price = 2}}}", "{items = {{price = 1}, {price = 3}}}", Some(".items[2].price")),
            ("{z = 1, ['a b'] = 1}", "{z = 2, ['a b'] = 2}", Some("[\"a b\"]")),
            ("setmetatable({}, {})", "{}", None),
        ] {
            let (a, b): (Value, Value) = lua.load(format!("return {a}, {b}")).eval().unwrap();
            assert_eq!(difference(&a, &b).unwrap().as_deref(), expected, "{a:?} {b:?}");
        }
        let (a, b): (Value, Value) = lua.load("local a, b = {}, {} a.a = a b.a = b return a, b").eval().unwrap();
        assert!(difference(&a, &b).is_err(), "endless tables are refused");
    }
}
