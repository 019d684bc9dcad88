//! Test reports for people.

use std::fmt::Write as _;
use std::time::Duration;

use cirrus_procedures::testing::{TestCall, TestFailure, TestReport};

use super::{FileReport, Progress, TestOptions, TestRun};
use crate::output::{self, cell};

/// Steps of a call that are shown.
const STEPS_SHOWN: usize = 30;

const GREEN: &str = "32";
const RED: &str = "1;31";
const FAINT: &str = "2";

fn painted(text: &str, colour: &str, coloured: bool) -> String {
    if coloured { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
}

/// What is said of a test as it ends.
pub(super) fn progress(file: &FileReport, test: &TestReport, options: TestOptions<'_>) -> Option<String> {
    let TestOptions { progress, coloured, show_output, .. } = options;
    if progress == Progress::None || (progress == Progress::FailuresOnly && test.failure.is_none()) {
        return None;
    }
    let took = painted(&milliseconds(test.took), FAINT, coloured);
    Some(match &test.failure {
        None => {
            let ok = painted("ok", GREEN, coloured);
            let mut text = format!("  {ok}    {}  {took}", test.name);
            if show_output {
                push_output(&mut text, test);
            }
            text
        }
        Some(failure) => {
            let failed = painted("FAIL", RED, coloured);
            let mut text = format!("  {failed}  {}  {took}", test.name);
            push_failure(&mut text, file, failure);
            if let Some(call) = &test.last_call {
                push_call(&mut text, call);
            }
            push_output(&mut text, test);
            text
        }
    })
}

pub(super) fn file_failure(file: &FileReport, failure: &TestFailure, coloured: bool) -> String {
    let failed = painted("FAIL", RED, coloured);
    let mut text = format!("{}\n  {failed}  the file cannot be run", file.path.display());
    push_failure(&mut text, file, failure);
    text
}

/// A line, indented as what belongs to a test is. Writing to a string succeeds.
macro_rules! push {
    ($text:expr, $($line:tt)*) => {{
        let _ = write!($text, "\n        {}", format!($($line)*).replace('\n', "\n        "));
    }};
}

fn push_failure(text: &mut String, file: &FileReport, failure: &TestFailure) {
    let path = file.path.display();
    match failure.line {
        Some(line) => push!(text, "{path}:{line}: {}", failure.message),
        None => push!(text, "{path}: {}", failure.message),
    }
    if let Some(line) = source_line(file, failure) {
        push!(text, "    {line}");
    }
    if let (Some(expected), Some(actual)) = (&failure.expected, &failure.actual) {
        push!(text, "  expected  {}", expected.replace('\n', "\n            "));
        push!(text, "  actual    {}", actual.replace('\n', "\n            "));
    }
    let name = file.path.file_name().unwrap_or_default().to_string_lossy();
    let is_shown = |line: Option<u32>, source: &str| line == failure.line && source == name;
    for frame in failure.stack.iter().filter(|frame| !is_shown(Some(frame.line), &frame.source)) {
        match &frame.function {
            Some(function) => push!(text, "  at {}:{} in {function}", frame.source, frame.line),
            None => push!(text, "  at {}:{}", frame.source, frame.line),
        }
    }
}

/// The line of the source at which it failed.
pub(super) fn source_line<'f>(file: &'f FileReport, failure: &TestFailure) -> Option<&'f str> {
    let line = file.source.lines().nth(failure.line?.checked_sub(1)? as usize)?.trim();
    Some(line).filter(|line| !line.is_empty())
}

fn push_call(text: &mut String, call: &TestCall) {
    let arguments = call.arguments.join(", ");
    let name = format!("{}({arguments})", call.procedure);
    match &call.outcome {
        Ok(result) => push!(text, "the last call, {name}, returned {result}"),
        Err(failure) => push!(text, "the last call, {name}, failed: {failure}"),
    }
    if !call.steps.is_empty() {
        let mut table = output::table(["  AT US", "TOOK US", "OPERATION", "KEY", "TEXT"]);
        for step in call.steps.iter().take(STEPS_SHOWN) {
            let at = format!("  {}", step.at.as_micros());
            let took = step.took.as_micros().to_string();
            table.add_row([at, took, step.operation.clone(), cell(&step.key), cell(step.text.as_bytes())]);
        }
        push!(text, "{}", output::table_text(&table));
        if call.steps.len() > STEPS_SHOWN {
            push!(text, "  … and {} more", call.steps.len() - STEPS_SHOWN);
        }
    }
    for write in &call.writes {
        let key = cell(&write.key);
        match &write.value {
            None => push!(text, "  removed {key}"),
            Some(value) if write.expires_at_ms == 0 => push!(text, "  wrote {key} = {}", cell(value)),
            Some(value) => {
                push!(text, "  wrote {key} = {}, expires {}", cell(value), output::time(write.expires_at_ms));
            }
        }
    }
}

fn push_output(text: &mut String, test: &TestReport) {
    if test.output.is_empty() {
        return;
    }
    push!(text, "output:");
    for line in &test.output {
        push!(text, "  {line}");
    }
}

pub(super) fn summary(run: &TestRun, coloured: bool) -> String {
    let mut table = output::table(["FILE", "PASSED", "FAILED", "MS"]);
    for file in run.files.iter().filter(|file| !file.tests.is_empty() || file.failure.is_some()) {
        let failed = file.tests.iter().filter(|test| test.failure.is_some()).count();
        let passed = file.tests.len() - failed;
        let failed = if file.failure.is_some() { "cannot run".to_owned() } else { failed.to_string() };
        table.add_row([file.path.display().to_string(), passed.to_string(), failed, file.took.as_millis().to_string()]);
    }
    let colour = if run.failed() == 0 { GREEN } else { RED };
    format!("\n{}\n{}", output::table_text(&table), painted(&run.total(), colour, coloured))
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}
