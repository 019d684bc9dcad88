//! Files of SQL logic tests.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use sqllogictest::{Condition, DefaultColumnType, Record, parse_with_name};

/// What a file is for: `skipif` and `onlyif` name engines.
const ENGINE: &str = "sqlite";

/// The files named `*.test` below folders, and files as they are named, in order.
///
/// # Errors
/// Where a path is not there, or cannot be read.
pub fn find_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        let in_path = || path.display().to_string();
        if std::fs::metadata(path).with_context(in_path)?.is_dir() {
            below(path, &mut found).with_context(in_path)?;
        } else {
            found.push(path.clone());
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn below(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            below(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "test") {
            found.push(path);
        }
    }
    Ok(())
}

/// The records of a file.
pub(super) fn read(path: &Path, name: &str) -> Result<Vec<Record<DefaultColumnType>>> {
    // Some files have bytes that are no UTF-8; both sides get the same in their place.
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    Ok(parse_with_name(&as_the_parser_wants_it(&String::from_utf8_lossy(&bytes)), name)?)
}

/// The parser knows no white space at the end of a line, no comment behind a condition, and no condition before `halt`. Line
/// numbers stay.
fn as_the_parser_wants_it(text: &str) -> String {
    let mut lines: Vec<&str> = Vec::new();
    let mut is_ours = true;
    for line in text.lines() {
        let line = match line.split_whitespace().next() {
            Some("onlyif" | "skipif") => line.split('#').next().unwrap_or_default().trim(),
            _ => line.trim_end(),
        };
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("onlyif"), engine) => is_ours &= engine == Some(ENGINE),
            (Some("skipif"), engine) => is_ours &= engine != Some(ENGINE),
            (Some("halt"), None) if is_ours => break,
            (Some("halt"), None) => {
                let conditions = lines.iter_mut().rev().take_while(|line| is_condition(line));
                conditions.for_each(|line| *line = "");
                lines.push("");
                is_ours = true;
                continue;
            }
            _ => is_ours = true,
        }
        lines.push(line);
    }
    lines.join("\n")
}

fn is_condition(line: &str) -> bool {
    line.starts_with("onlyif ") || line.starts_with("skipif ")
}

/// Whether a record is for SQLite.
pub(super) fn is_ours(conditions: &[Condition]) -> bool {
    conditions.iter().all(|condition| match condition {
        Condition::OnlyIf { label } => label == ENGINE,
        Condition::SkipIf { label } => label != ENGINE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_and_halts_are_understood() {
        let text = "hash-threshold 8 \r\n\r\nonlyif mysql # not here\r\nhalt\r\n\r\nskipif mysql # but here\r\n\
                    query I nosort\r\nSELECT 1\r\n----\r\n1\r\n\r\nonlyif sqlite\r\nhalt\r\n\r\nno record\r\n";
        let expected = "hash-threshold 8\n\n\n\n\nskipif mysql\nquery I nosort\nSELECT 1\n----\n1\n\nonlyif sqlite";
        assert_eq!(as_the_parser_wants_it(text), expected);
        let skipped = Condition::SkipIf { label: "sqlite".to_owned() };
        let only = Condition::OnlyIf { label: "sqlite".to_owned() };
        assert!(is_ours(&[]) && is_ours(std::slice::from_ref(&only)) && !is_ours(&[only, skipped]));
    }
}
