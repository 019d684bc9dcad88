//! `cirrus proc lint|types`: what needs no server.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cirrus_procedures::{LibrarySource, TYPES, Warning, inspect, testing};
use cirrus_proto::limits::Limits;
use cirrus_proto::{Failure, Reason};
use serde_json::{Value, json};

use super::Outcome;
use crate::arguments::Format;
use crate::failure::CommandError;
use crate::library_directory::is_test;
use crate::output;

/// A library's name, which is its file's, and its source.
pub(super) fn read(file: &Path) -> Result<(String, Vec<u8>), CommandError> {
    let name = file
        .file_stem()
        .and_then(|stem| stem.to_str())
        .ok_or_else(|| CommandError::local(format!("{}: a library is named by its file", file.display())))?;
    let source = std::fs::read(file).map_err(|error| CommandError::local(format!("{}: {error}", file.display())))?;
    Ok((name.to_owned(), source))
}

/// Exit status 1 where there is something to warn of.
pub(super) fn run(format: Format, files: &[PathBuf]) -> Outcome {
    let mut linted = Vec::new();
    for file in files {
        let (name, source) = read(file)?;
        linted.push((file.display().to_string(), warnings(&name, &source)));
    }
    match format {
        Format::Table => {
            for (file, warnings) in &linted {
                for Warning { line, column, code, message } in warnings {
                    let place = place(file, *line, column.unwrap_or(0));
                    output::line(format!("{place}: {code}: {message}"))?;
                }
            }
        }
        Format::Json => {
            let files = linted.iter().map(|(file, warnings)| {
                let warnings = warnings.iter();
                let warnings = warnings
                    .map(|found| object(found.line, found.column.unwrap_or(0), found.code, &found.message))
                    .collect::<Vec<_>>();
                json!({ "file": file, "warnings": warnings })
            });
            output::json(&json!({ "files": files.collect::<Vec<_>>() }))?;
        }
    }
    let clean = linted.iter().all(|(_, warnings)| warnings.is_empty());
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What lint finds and, where the source compiles, what else an upload would be refused for.
fn warnings(name: &str, source: &[u8]) -> Vec<Warning> {
    if is_test(name) {
        return cirrus_procedures::lint_test(source);
    }
    let mut warnings = cirrus_procedures::lint(source);
    if warnings.iter().any(|warning| warning.code == "syntax-error") {
        return warnings;
    }
    // Which other libraries there are, only a server knows.
    let resolve = |name: &str, _: Option<u64>| -> Result<Vec<LibrarySource>, Failure> {
        Err(Failure::new(Reason::LibraryNotFound, format!("{name} is looked for at the upload")))
    };
    if let Err(failure) = inspect(name, source, &Limits::DEFAULT, &resolve)
        && !failure.metadata.contains_key("required")
    {
        let line = failure.metadata.get("line").and_then(|line| line.parse().ok());
        let message = match line {
            Some(line) => failure.message.trim_start_matches(&format!("{name}:{line}: ")).to_owned(),
            None => failure.message,
        };
        let refused = Warning { line: line.unwrap_or(1), column: None, code: "refused", message };
        warnings.insert(0, refused);
    }
    warnings
}

/// Where something was found, as compilers write it.
pub(super) fn place(name: &str, line: u32, column: u32) -> String {
    match column {
        0 => format!("{name}:{line}"),
        column => format!("{name}:{line}:{column}"),
    }
}

pub(super) fn object(line: u32, column: u32, code: &str, message: &str) -> Value {
    let column = if column == 0 { Value::Null } else { Value::from(column) };
    json!({ "line": line, "column": column, "code": code, "message": message })
}

/// The definitions as they are, in every format: they are a file.
pub(super) fn types() -> Outcome {
    output::bytes([TYPES, testing::TYPES].concat().as_bytes(), false)?;
    Ok(ExitCode::SUCCESS)
}
