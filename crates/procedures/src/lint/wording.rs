//! What was found, for people.

use std::collections::HashSet;

use super::sandbox::{Sandbox, full_name};
use super::scan::{Finding, What};
use super::{WARNINGS_MAX, Warning};
use crate::api::argument_count;

/// Longest part of a name that a message shows, characters.
const NAME_CHARACTERS: usize = 64;

/// Words the first findings, by line.
pub(super) fn words(mut found: Vec<Finding<'_>>, source: &[u8], sandbox: &Sandbox) -> Vec<Warning> {
    let mut known = HashSet::new();
    found.retain(|finding| known.insert(*finding));
    found.sort_by_key(|finding| finding.line);
    let omitted = found.split_off(found.len().min(WARNINGS_MAX));
    let source = String::from_utf8_lossy(source);
    let lines: Vec<&str> = source.split('\n').collect();
    let mut warnings: Vec<Warning> = found.iter().map(|finding| warning(finding, &lines, sandbox)).collect();
    warnings.sort_by_key(|warning| (warning.line, warning.column));
    if let Some(first) = omitted.first() {
        let message = format!("{} more warnings are not shown", omitted.len());
        warnings.push(Warning { line: first.line, column: None, code: "more", message });
    }
    warnings
}

fn warning(finding: &Finding<'_>, lines: &[&str], sandbox: &Sandbox) -> Warning {
    let mut line = finding.line;
    let (code, place, message) = match finding.what {
        What::UnknownGlobal { name } => {
            let place = text(name);
            let guess = guess(name, &sandbox.names(None));
            ("unknown-global", place.clone(), format!("there is no global variable {}{guess}", short(&place)))
        }
        What::UnknownField { table, name } => {
            let guess = guess(name, &sandbox.names(Some(table)));
            let (table, name) = (text(table), text(name));
            ("unknown-field", name.clone(), format!("{} has no {}{guess}", short(&table), short(&name)))
        }
        What::MethodCall { table, name } => {
            let (table, name) = (text(table), text(name));
            let message = format!("{table}:{name}(…) passes {table} as the first argument; write {table}.{name}(…)");
            ("method-call", name, message)
        }
        What::UnusedResult { path } => {
            let name = full_name(path);
            ("unused-result", name.clone(), format!("the result of {name} is not used"))
        }
        What::ArgumentCount { path, count } => {
            let name = full_name(path);
            let expected = sandbox.arguments(path).map(argument_count).unwrap_or_default();
            ("argument-count", name.clone(), format!("{name} takes {expected}, not {count}"))
        }
        What::UnusedLocal { name } => {
            let name = text(name);
            line = declared(&name, line, lines);
            let message =
                format!("local {} is never read; where that is meant, let its name begin with _", short(&name));
            ("unused-local", name, message)
        }
    };
    let column = lines.get(line.saturating_sub(1) as usize).and_then(|line| only_column(line, &place));
    Warning { line, column, code, message }
}

/// The line of a local variable's declaration: what it is made of may end some lines below.
fn declared(name: &str, line: u32, lines: &[&str]) -> u32 {
    let above = &lines[..lines.len().min(line as usize)];
    let declares = |text: &&str| text.contains("local") && places(text, name).next().is_some();
    above.iter().rposition(declares).map_or(line, |index| index as u32 + 1)
}

/// The column of a name that a line has once.
fn only_column(line: &str, name: &str) -> Option<u32> {
    let mut places = places(line, name);
    let place = places.next()?;
    match places.next() {
        None => Some(line[..place].chars().count() as u32 + 1),
        Some(_) => None,
    }
}

/// Where a name stands in a line as a word of its own.
fn places<'t>(line: &'t str, name: &'t str) -> impl Iterator<Item = usize> + 't {
    let is_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    line.match_indices(name).map(|(place, _)| place).filter(move |&place| {
        let (before, behind) = (&line.as_bytes()[..place], &line.as_bytes()[place + name.len()..]);
        !is_word(before.last()) && !is_word(behind.first())
    })
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

fn short(name: &str) -> &str {
    name.char_indices().nth(NAME_CHARACTERS).map_or(name, |(end, _)| &name[..end])
}

/// What may have been meant.
fn guess(name: &[u8], names: &[&[u8]]) -> String {
    let Ok(name) = std::str::from_utf8(name) else { return String::new() };
    // A mistyped letter, or two in a longer name.
    let most = if name.len() < 6 { 1 } else { 2 };
    if name.len() > NAME_CHARACTERS {
        return String::new();
    }
    let known = names.iter().filter_map(|known| std::str::from_utf8(known).ok());
    let nearest =
        known.map(|known| (strsim::osa_distance(name, known), known)).filter(|(distance, _)| *distance <= most);
    nearest.min().map(|(_, known)| format!("; did you mean {known}?")).unwrap_or_default()
}
