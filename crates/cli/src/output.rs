//! What goes to standard output: bare bytes, tables, JSON.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write as _};
use std::os::unix::ffi::OsStringExt as _;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Map, Value};

/// Longest text of a cell that may hold anything, characters.
const CELL_CHARACTERS: usize = 64;

/// An argument's bytes, as the shell gave them.
pub(crate) fn argument_bytes(argument: OsString) -> Bytes {
    argument.into_vec().into()
}

/// Where a file is, for a message.
pub(crate) fn at(path: &std::path::Path, problem: impl std::fmt::Display) -> String {
    format!("{}: {problem}", path.display())
}

/// A line of text.
pub(crate) fn line(text: impl AsRef<str>) -> io::Result<()> {
    bytes(text.as_ref().as_bytes(), true)
}

/// Bytes as they are.
pub(crate) fn bytes(bytes: &[u8], newline: bool) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    if newline {
        stdout.write_all(b"\n")?;
    }
    stdout.flush()
}

/// One JSON value.
pub(crate) fn json(value: &Value) -> io::Result<()> {
    line(value.to_string())
}

/// An empty table, in columns without lines, so that `awk` and `cut` can read it too.
pub(crate) fn table(header: impl IntoIterator<Item = &'static str>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let header: Vec<_> = header.into_iter().collect();
    if !header.is_empty() {
        table.set_header(header);
    }
    table
}

/// Prints a table.
pub(crate) fn print_table(table: &Table) -> io::Result<()> {
    line(table_text(table))
}

/// A table as lines, without the blanks that fill its last column.
pub(crate) fn table_text(table: &Table) -> String {
    let lines: Vec<String> =
        table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()).collect();
    lines.join("\n")
}

/// What explains a result, beside it: standard output has the result alone.
pub(crate) fn explain(text: impl AsRef<str>) {
    eprintln!("{}", text.as_ref());
}

/// Whether escape sequences for colours make sense there: people see it, and did not refuse colours.
pub(crate) fn is_coloured(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

/// Bytes in an object: text under `name` where they are UTF-8, else base64 under `name_base64`.
pub(crate) fn insert_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), Value::from(text)),
        Err(_) => object.insert(format!("{name}_base64"), Value::from(BASE64_STANDARD.encode(bytes))),
    };
}

/// Text without line breaks, and without what a terminal would obey.
pub(crate) fn on_one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() { line.extend(letter.escape_default()) } else { line.push(letter) }
    }
    line
}

/// Bytes for a cell: on one line, and not too long.
pub(crate) fn cell(bytes: &[u8]) -> String {
    let text = match std::str::from_utf8(bytes) {
        Ok(valid) => on_one_line(valid),
        Err(_) => bytes.escape_ascii().map(char::from).collect(),
    };
    match text.char_indices().nth(CELL_CHARACTERS) {
        None => text,
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], bytes.len()),
    }
}

/// A moment for people, in UTC.
pub(crate) fn time(unix_ms: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(unix_ms)).to_string()
}

/// A moment for people, in UTC, with milliseconds.
pub(crate) fn time_with_ms(unix_ms: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(unix_ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_in_json_are_text_where_they_are_text() {
        let mut object = Map::new();
        insert_bytes(&mut object, "key", "grüß".as_bytes());
        insert_bytes(&mut object, "value", &[0xff, 0x00]);
        assert_eq!(Value::from(object).to_string(), r#"{"key":"grüß","value_base64":"/wA="}"#);
    }

    #[test]
    fn cells_stay_on_one_line_and_short() {
        assert_eq!(cell(b"plain"), "plain");
        assert_eq!(cell(b"two\nlines"), "two\\nlines");
        assert_eq!(cell(&[0xff, b'a']), "\\xffa");
        let long = cell(&[b'x'; 1000]);
        assert!(long.starts_with("xxxx") && long.ends_with("x… (1000 bytes)"), "{long}");
        assert!(long.chars().count() < 90);
    }

    #[test]
    fn tables_have_columns_and_no_trailing_blanks() {
        let mut table = table(["NODE", "ADDRESS"]);
        table.add_row(["1", "127.0.0.1:7101"]);
        assert_eq!(table_text(&table), "NODE  ADDRESS\n1     127.0.0.1:7101");
    }
}
