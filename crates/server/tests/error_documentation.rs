//! `docs/errors.md` lists every reason, and says of each what the code says.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use cirrus_proto::{Advice, Reason};

/// The rows of the page's table of reasons: reason, then code and advice.
fn documented() -> BTreeMap<String, (String, String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/errors.md");
    let text = std::fs::read_to_string(page).unwrap();
    let (_, reasons) = text.split_once("## Reasons").unwrap();
    let (reasons, _) = reasons.split_once("\n## ").unwrap();
    let row = |line: &str| {
        let cells: Vec<String> = line
            .split('|')
            .map(|cell| cell.trim().trim_matches('`').to_owned())
            .filter(|cell| !cell.is_empty())
            .collect();
        let [reason, code, advice, meaning] = cells.try_into().ok()?;
        Some((reason, (code, advice, meaning)))
    };
    reasons.lines().filter(|line| line.starts_with("| `")).map(|line| row(line).unwrap()).collect()
}

/// `InvalidArgument` as `INVALID_ARGUMENT`.
fn code_name(reason: Reason) -> String {
    let mut name = String::new();
    for character in format!("{:?}", reason.code()).chars() {
        if character.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(character.to_ascii_uppercase());
    }
    name
}

fn advice_name(reason: Reason) -> &'static str {
    match reason.advice() {
        Advice::FixRequest => "fix the request",
        Advice::Retry => "retry",
        Advice::RetryElsewhere => "retry elsewhere",
        Advice::OutcomeUnknown => "outcome unknown",
        Advice::Report => "report",
    }
}

#[test]
fn the_page_lists_every_reason_and_no_other() {
    let mut expected: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    expected.sort_unstable();
    assert_eq!(documented().keys().map(String::as_str).collect::<Vec<_>>(), expected);
}

#[test]
fn the_page_states_each_reasons_code_and_advice() {
    let documented = documented();
    for reason in Reason::ALL {
        let (code, advice, meaning) = &documented[reason.as_str()];
        assert_eq!(*code, code_name(*reason), "{}", reason.as_str());
        assert_eq!(advice, advice_name(*reason), "{}", reason.as_str());
        assert!(meaning.len() > 20, "{} is explained", reason.as_str());
    }
}
