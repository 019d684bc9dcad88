//! Functions of SQLite's that take far longer than linear time, with the same answers in bounded time.
//!
//! SQLite asks whether to go on between operations of its virtual machine, not within a function. Its own `instr` of a
//! megabyte in a megabyte would take half a minute, and nobody could stop it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;

use memchr::memmem;
use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::{ToSql, ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, Error, Result, ffi};

/// Longest arguments of a function that takes quadratic time, bytes in all. Half a second at worst.
const QUADRATIC_BYTES_MAX: usize = 64 * 1024;

/// Longest character of UTF-8, bytes.
const CHARACTER_BYTES_MAX: usize = 4;

/// How SQLite marks text that is JSON.
const JSON_SUBTYPE: u32 = b'J' as u32;

/// Defines them on a connection whose values have at most `value_bytes`.
pub(crate) fn define(connection: &Connection, value_bytes: usize) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_scalar_function(c"instr", 2, flags, instr)?;
    connection
        .create_scalar_function(c"replace", 3, flags, move |context: &mut Context<'_>| replace(context, value_bytes))?;
    for (name, start, end) in [(c"trim", true, true), (c"ltrim", true, false), (c"rtrim", false, true)] {
        for arguments in [1, 2] {
            connection.create_scalar_function(name, arguments, flags, move |context: &mut Context<'_>| {
                trim(context, start, end)
            })?;
        }
    }
    let flags = flags | FunctionFlags::SQLITE_RESULT_SUBTYPE;
    connection.create_scalar_function(c"json_patch", 2, flags, |context: &mut Context<'_>| {
        bounded(context, "SELECT json_patch(?1, ?2)").map(|patched| (patched, Some(JSON_SUBTYPE)))
    })?;
    connection.create_scalar_function(c"jsonb_patch", 2, flags, |context: &mut Context<'_>| {
        bounded(context, "SELECT jsonb_patch(?1, ?2)")
    })
}

/// Text as SQLite has it: it need not be UTF-8.
struct Text(Vec<u8>);

impl ToSql for Text {
    fn to_sql(&self) -> Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(&self.0)))
    }
}

/// Where `needle` stands in `haystack`, counted from 1 in bytes of blobs and in characters of text.
fn instr(context: &mut Context<'_>) -> Result<Option<i64>> {
    let (haystack, needle) = (context.get_raw(0), context.get_raw(1));
    if let (ValueRef::Blob(haystack), ValueRef::Blob(needle)) = (haystack, needle) {
        return Ok(Some(memmem::find(haystack, needle).map_or(0, |offset| offset as i64 + 1)));
    }
    let (Some(haystack), Some(needle)) = (text(haystack)?, text(needle)?) else { return Ok(None) };
    // SQLite looks where a character begins, and at the start.
    let found = match needle.first() {
        Some(first) if continues(*first) => haystack.starts_with(&needle).then_some(0),
        _ => memmem::find(&haystack, &needle),
    };
    Ok(Some(match found {
        None => 0,
        Some(0) => 1,
        Some(offset) => 2 + haystack[1..offset].iter().filter(|byte| !continues(**byte)).count() as i64,
    }))
}

fn replace(context: &mut Context<'_>, value_bytes: usize) -> Result<Option<Text>> {
    let Some(subject) = text(context.get_raw(0))? else { return Ok(None) };
    let Some(pattern) = text(context.get_raw(1))? else { return Ok(None) };
    if matches!(pattern.first(), None | Some(0)) {
        return Ok(Some(Text(subject.into_owned())));
    }
    let Some(replacement) = text(context.get_raw(2))? else { return Ok(None) };
    let mut replaced = Vec::with_capacity(subject.len());
    let mut rest = &subject[..];
    while let Some(offset) = memmem::find(rest, &pattern) {
        replaced.extend_from_slice(&rest[..offset]);
        replaced.extend_from_slice(&replacement);
        rest = &rest[offset + pattern.len()..];
        if replaced.len() + rest.len() > value_bytes {
            return Err(too_big());
        }
    }
    replaced.extend_from_slice(rest);
    Ok(Some(Text(replaced)))
}

fn trim(context: &mut Context<'_>, start: bool, end: bool) -> Result<Option<Text>> {
    let Some(subject) = text(context.get_raw(0))? else { return Ok(None) };
    let set = match context.len() {
        1 => Cow::Borrowed(&b" "[..]),
        _ => match text(context.get_raw(1))? {
            Some(set) => set,
            None => return Ok(None),
        },
    };
    let set = set.split(|byte| *byte == 0).next().unwrap_or_default();
    let set: HashSet<&[u8]> =
        split_characters(set).filter(|character| character.len() <= CHARACTER_BYTES_MAX).collect();
    let mut rest = &subject[..];
    let lengths = |rest: &[u8]| 1..=CHARACTER_BYTES_MAX.min(rest.len());
    if start {
        while let Some(length) = lengths(rest).find(|length| set.contains(&rest[..*length])) {
            rest = &rest[length..];
        }
    }
    if end {
        while let Some(length) = lengths(rest).find(|length| set.contains(&rest[rest.len() - length..])) {
            rest = &rest[..rest.len() - length];
        }
    }
    Ok(Some(Text(rest.to_vec())))
}

/// Calls a function of SQLite's own where its arguments are short enough.
fn bounded(context: &mut Context<'_>, sql: &str) -> Result<Value> {
    let values = [context.get_raw(0), context.get_raw(1)];
    let bytes: usize = values.iter().map(|value| value.as_bytes_or_null().ok().flatten().map_or(0, <[u8]>::len)).sum();
    if bytes > QUADRATIC_BYTES_MAX {
        let problem = format!("JSON to patch of {bytes} bytes, above the limit of {QUADRATIC_BYTES_MAX}");
        return Err(Error::UserFunctionError(problem.into()));
    }
    plain(|connection| connection.prepare_cached(sql)?.query_row(values.map(ToSqlOutput::Borrowed), |row| row.get(0)))
}

/// The value as text, as SQLite converts it.
fn text(value: ValueRef<'_>) -> Result<Option<Cow<'_, [u8]>>> {
    Ok(match value {
        ValueRef::Null => None,
        ValueRef::Text(text) | ValueRef::Blob(text) => Some(Cow::Borrowed(text)),
        ValueRef::Integer(integer) => Some(integer.to_string().into_bytes().into()),
        ValueRef::Real(real) => Some(real_as_text(real)?.into_bytes().into()),
    })
}

/// A number as SQLite writes it.
pub(crate) fn real_as_text(real: f64) -> Result<String> {
    plain(|connection| connection.prepare_cached("SELECT CAST(?1 AS TEXT)")?.query_row([real], |row| row.get(0)))
}

/// Works with this thread's connection to an empty database, whose functions are SQLite's own.
fn plain<R>(work: impl FnOnce(&Connection) -> Result<R>) -> Result<R> {
    thread_local!(static PLAIN: RefCell<Option<Connection>> = const { RefCell::new(None) });
    PLAIN.with_borrow_mut(|plain| match plain {
        Some(connection) => work(connection),
        none => work(none.insert(Connection::open_in_memory()?)),
    })
}

fn too_big() -> Error {
    // With a message of its own it would lose its code on the way.
    Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_TOOBIG), None)
}

/// Whether a byte of UTF-8 continues a character.
fn continues(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// As SQLite splits text: a byte, with those that continue it where it begins a character of several.
fn split_characters(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (first, more) = rest.split_first()?;
        let continued = if *first < 0xc0 { 0 } else { more.iter().take_while(|byte| continues(**byte)).count() };
        let (character, left) = rest.split_at(1 + continued);
        rest = left;
        Some(character)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_argument() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            (-20i64..200).prop_map(Value::Integer),
            (-3.0f64..3.0).prop_map(Value::Real),
            "[ab é€😀]{0,8}".prop_map(Value::Text),
            proptest::collection::vec(prop_oneof![Just(b'a'), Just(0), Just(0xc3), Just(0xa9)], 0..6)
                .prop_map(Value::Blob),
        ]
    }

    proptest! {
        #[test]
        fn they_answer_as_sqlites_own(arguments in proptest::array::uniform3(any_argument())) {
            crate::initialize().unwrap();
            let (bounded, plain) = (Connection::open_in_memory().unwrap(), Connection::open_in_memory().unwrap());
            define(&bounded, 1_000_000).unwrap();
            for call in ["instr(?1, ?2)", "replace(?1, ?2, ?3)", "trim(?1)", "trim(?1, ?2)", "ltrim(?1, ?2)", "rtrim(?1, ?2)"] {
                let count = call.matches('?').count();
                let sql = format!("SELECT typeof({call}), CAST({call} AS BLOB)");
                let ask = |connection: &Connection| -> Result<(String, Value)> {
                    let arguments = rusqlite::params_from_iter(&arguments[..count]);
                    connection.query_row(&sql, arguments, |row| Ok((row.get(0)?, row.get(1)?)))
                };
                prop_assert_eq!(ask(&bounded).unwrap(), ask(&plain).unwrap(), "{} of {:?}", call, arguments);
            }
        }
    }

    #[test]
    fn patched_json_is_json() {
        crate::initialize().unwrap();
        let connection = Connection::open_in_memory().unwrap();
        define(&connection, 1_000_000).unwrap();
        let ask = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, String>(0));
        assert_eq!(
            ask(r#"SELECT json_array(json_patch('{"a":1,"b":2}', '{"a":null,"c":3.0}'))"#).unwrap(),
            r#"[{"b":2,"c":3.0}]"#
        );
        assert_eq!(ask(r#"SELECT json(jsonb_patch('{"a":1}', '{"b":2}'))"#).unwrap(), r#"{"a":1,"b":2}"#);
        assert!(ask("SELECT json_patch('{', '{}')").unwrap_err().to_string().contains("malformed JSON"));
        let long = ask("SELECT json_patch('[]', json_quote(hex(zeroblob(40000))))").unwrap_err().to_string();
        assert!(long.contains("above the limit of 65536"), "{long}");
    }

    #[test]
    fn none_takes_quadratic_time() {
        crate::initialize().unwrap();
        let connection = Connection::open_in_memory().unwrap();
        define(&connection, 1_000_000).unwrap();
        // Each would take SQLite's own tens of seconds to hours.
        for sql in [
            "SELECT instr(hex(zeroblob(500000)), hex(zeroblob(250000)) || '1')",
            "SELECT instr(zeroblob(1000000), CAST(zeroblob(499999) || x'01' AS BLOB))",
            "SELECT length(replace(hex(zeroblob(500000)), hex(zeroblob(250000)) || '1', ''))",
            "SELECT length(trim(hex(zeroblob(500000)), hex(zeroblob(500000))))",
            "SELECT length(rtrim(hex(zeroblob(500000)), replace(hex(zeroblob(200000)), '00', 'é')))",
        ] {
            connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        }
        let grown =
            connection.query_row("SELECT replace(hex(zeroblob(500000)), '0', hex(zeroblob(500000)))", [], |_| Ok(()));
        assert!(grown.unwrap_err().to_string().contains("too big"));
    }
}
