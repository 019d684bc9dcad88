//! Test reports for programs.

use cirrus_procedures::testing::{TestCall, TestFailure, TestReport};
use serde_json::{Map, Value, json};

use super::text::source_line;
use super::{FileReport, TestRun};
use crate::output::insert_bytes;

pub(super) fn run(run: &TestRun) -> Value {
    let files: Vec<Value> = run.files.iter().map(file).collect();
    json!({
        "passed": run.passed(),
        "failed": run.failed(),
        "took_us": run.took.as_micros() as u64,
        "seed": run.seed,
        "files": files,
    })
}

fn file(file: &FileReport) -> Value {
    let tests: Vec<Value> = file.tests.iter().map(|report| test(file, report)).collect();
    json!({
        "file": file.path.display().to_string(),
        "took_us": file.took.as_micros() as u64,
        "failure": file.failure.as_ref().map(|found| failure(file, found)),
        "tests": tests,
    })
}

fn test(file: &FileReport, test: &TestReport) -> Value {
    json!({
        "name": test.name,
        "passed": test.failure.is_none(),
        "took_us": test.took.as_micros() as u64,
        "failure": test.failure.as_ref().map(|found| failure(file, found)),
        "output": test.output,
        "last_call": test.last_call.as_ref().map(call),
    })
}

fn failure(file: &FileReport, failure: &TestFailure) -> Value {
    let stack: Vec<Value> = failure
        .stack
        .iter()
        .map(|frame| json!({ "source": frame.source, "line": frame.line, "function": frame.function }))
        .collect();
    json!({
        "message": failure.message,
        "line": failure.line,
        "source_line": source_line(file, failure),
        "reason": failure.reason,
        "expected": failure.expected,
        "actual": failure.actual,
        "stack": stack,
    })
}

fn call(call: &TestCall) -> Value {
    let error = call.outcome.as_ref().err().map(|failure| {
        json!({ "reason": failure.reason.as_str(), "message": failure.message, "metadata": failure.metadata })
    });
    let steps = call.steps.iter().map(|step| {
        let mut object = Map::new();
        object.insert("operation".to_owned(), Value::from(step.operation.as_str()));
        insert_bytes(&mut object, "key", &step.key);
        object.insert("at_us".to_owned(), Value::from(step.at.as_micros() as u64));
        object.insert("took_us".to_owned(), Value::from(step.took.as_micros() as u64));
        object.insert("text".to_owned(), Value::from(step.text.as_str()));
        Value::from(object)
    });
    let steps: Vec<Value> = steps.collect();
    let effects = call.writes.iter().map(|write| {
        let mut object = Map::new();
        insert_bytes(&mut object, "key", &write.key);
        object.insert("deleted".to_owned(), Value::from(write.value.is_none()));
        insert_bytes(&mut object, "value", write.value.as_deref().unwrap_or_default());
        object.insert("expires_at_ms".to_owned(), Value::from(write.expires_at_ms));
        Value::from(object)
    });
    let effects: Vec<Value> = effects.collect();
    json!({
        "procedure": call.procedure,
        "arguments": call.arguments,
        "result": call.outcome.as_ref().ok(),
        "error": error,
        "steps": steps,
        "effects": effects,
    })
}
