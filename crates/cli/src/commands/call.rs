//! `cirrus proc call`

use std::process::ExitCode;

use bytes::Bytes;
use cirrus_client::v1::{
    CallEffect, CallRequest, CallResponse, CallStep, DatabaseEffect, DryRun, LuaValue, ReadConsistency, SqlDatabase,
};
use cirrus_client::{ClientError, Failure, Reason};
use comfy_table::Table;
use serde_json::{Map, Value, json};

use super::Outcome;
use crate::arguments::{CallArguments, Format, Global};
use crate::failure::CommandError;
use crate::lua_json;
use crate::output::{self, argument_bytes, cell, insert_bytes};

/// The result goes to standard output as it is; what a dry run or a trace found, to standard error.
pub(super) async fn run(global: &Global, arguments: CallArguments) -> Outcome {
    let (dry_run, traced) = (arguments.dry_run, arguments.trace);
    let answer = global.client().await?.call_with(request(arguments)?).await?;
    let failure = answer.dry_run.as_ref().and_then(|dry_run| dry_run.failure.as_ref()).map(|failure| {
        let reason = Reason::parse(&failure.reason).unwrap_or(Reason::Internal);
        ClientError::from(Failure::new(reason, &failure.message))
    });
    match global.output {
        Format::Json => output::json(&object(&answer, dry_run, traced))?,
        Format::Table => {
            if failure.is_none() {
                match &answer.value {
                    Some(value) => output::json(&lua_json::to_json(value))?,
                    None => output::bytes(&answer.result, true)?,
                }
            }
            if dry_run || traced {
                explain(&answer);
            }
        }
    }
    match failure {
        None => Ok(ExitCode::SUCCESS),
        // The object says it already.
        Some(_) if global.output == Format::Json => Ok(ExitCode::FAILURE),
        Some(failure) => Err(CommandError::from(failure)),
    }
}

fn request(arguments: CallArguments) -> Result<CallRequest, CommandError> {
    let CallArguments { procedure, keys, json, consistency, dry_run, trace, args } = arguments;
    let mut keys = keys.into_iter().map(argument_bytes);
    let key = keys.next().unwrap_or_default();
    let args = args.into_iter().map(argument_bytes);
    let mut request = CallRequest {
        procedure,
        key,
        more_keys: keys.collect(),
        typed_result: json,
        consistency: consistency.map_or(ReadConsistency::Unspecified, ReadConsistency::from).into(),
        dry_run,
        trace,
        ..Default::default()
    };
    match json {
        true => request.values = typed(args)?,
        false => request.args = args.collect(),
    }
    Ok(request)
}

/// Arguments that are JSON.
pub(super) fn typed(args: impl Iterator<Item = Bytes>) -> Result<Vec<LuaValue>, CommandError> {
    let typed = args.enumerate().map(|(index, text)| {
        let value = serde_json::from_slice(&text).map_err(|error| error.to_string());
        let value = value.and_then(|value| lua_json::from_json(&value));
        value.map_err(|problem| CommandError::local(format!("argument {}: {problem}", index + 1)))
    });
    typed.collect()
}

fn explain(answer: &CallResponse) {
    if !answer.steps.is_empty() {
        output::explain(output::table_text(&steps(&answer.steps)));
    }
    match &answer.dry_run {
        Some(DryRun { effects, databases, failure: None }) if effects.is_empty() && databases.is_empty() => {
            output::explain("it would write nothing");
        }
        Some(dry_run) if dry_run.failure.is_none() => output::explain(output::table_text(&effects(dry_run))),
        _ => {}
    }
    let (version, cpu_us, memory_bytes) = (answer.library_version, answer.cpu_us, answer.memory_bytes);
    output::explain(format!("version {version}, {cpu_us} us of CPU time, {memory_bytes} bytes of memory"));
}

fn steps(steps: &[CallStep]) -> Table {
    let mut table = output::table(["AT US", "TOOK US", "OPERATION", "KEY", "TEXT"]);
    for CallStep { operation, key, at_us, took_us, text } in steps {
        let (at, took) = (at_us.to_string(), took_us.to_string());
        table.add_row([at, took, operation.clone(), cell(key), cell(text.as_bytes())]);
    }
    table
}

fn effects(dry_run: &DryRun) -> Table {
    let mut table = output::table(["WOULD", "KEY", "VALUE", "EXPIRES"]);
    for CallEffect { key, deleted, value, expires_at_ms } in &dry_run.effects {
        let verb = if *deleted { "delete" } else { "put" };
        let expires = if *expires_at_ms == 0 { String::new() } else { output::time(*expires_at_ms) };
        table.add_row([verb.to_owned(), cell(key), cell(value), expires]);
    }
    for DatabaseEffect { database, pages, bytes } in &dry_run.databases {
        let SqlDatabase { dbfile, user, dbname } = database.clone().unwrap_or_default();
        let dbfile = if dbfile == 0 { String::new() } else { format!(" in dbfile {dbfile}") };
        let named = format!("{}/{dbname}{dbfile}", cell(&user));
        let changes = format!("{pages} page{}, {bytes} bytes", if *pages == 1 { "" } else { "s" });
        table.add_row(["change database".to_owned(), named, changes, String::new()]);
    }
    table
}

fn object(answer: &CallResponse, dry_run: bool, traced: bool) -> Value {
    let mut object = Map::new();
    match &answer.value {
        Some(value) => {
            object.insert("value".to_owned(), lua_json::to_json(value));
        }
        None => insert_bytes(&mut object, "result", &answer.result),
    }
    object.insert("library_version".to_owned(), Value::from(answer.library_version));
    object.insert("cpu_us".to_owned(), Value::from(answer.cpu_us));
    object.insert("memory_bytes".to_owned(), Value::from(answer.memory_bytes));
    if dry_run || traced {
        let steps = answer.steps.iter().map(|step| {
            let mut object = Map::new();
            object.insert("operation".to_owned(), Value::from(step.operation.as_str()));
            insert_bytes(&mut object, "key", &step.key);
            object.insert("at_us".to_owned(), Value::from(step.at_us));
            object.insert("took_us".to_owned(), Value::from(step.took_us));
            object.insert("text".to_owned(), Value::from(step.text.as_str()));
            Value::from(object)
        });
        object.insert("steps".to_owned(), steps.collect());
    }
    if let Some(dry_run) = &answer.dry_run {
        let effects = dry_run.effects.iter().map(|effect| {
            let mut object = Map::new();
            insert_bytes(&mut object, "key", &effect.key);
            object.insert("deleted".to_owned(), Value::from(effect.deleted));
            insert_bytes(&mut object, "value", &effect.value);
            object.insert("expires_at_ms".to_owned(), Value::from(effect.expires_at_ms));
            Value::from(object)
        });
        object.insert("effects".to_owned(), effects.collect());
        let databases = dry_run.databases.iter().map(|DatabaseEffect { database, pages, bytes }| {
            let SqlDatabase { dbfile, user, dbname } = database.clone().unwrap_or_default();
            let mut object = Map::new();
            object.insert("dbfile".to_owned(), Value::from(dbfile));
            insert_bytes(&mut object, "user", &user);
            object.insert("dbname".to_owned(), Value::from(dbname));
            object.insert("pages".to_owned(), Value::from(*pages));
            object.insert("bytes".to_owned(), Value::from(*bytes));
            Value::from(object)
        });
        object.insert("databases".to_owned(), databases.collect());
        if let Some(failure) = &dry_run.failure {
            object.insert("error".to_owned(), json!({ "reason": failure.reason, "message": failure.message }));
        }
    }
    Value::from(object)
}
