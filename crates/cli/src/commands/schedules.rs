//! `cirrus proc schedule|schedules|unschedule`

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use cirrus_client::v1::lua_value::Kind;
use cirrus_client::v1::{
    Failure, LuaValue, MissedTicks, Schedule, ScheduleProcedureRequest, ScheduleProgress, ScheduleRun, ScheduleStatus,
};
use humantime::format_duration;
use serde_json::{Map, Value, json};

use super::Outcome;
use super::call::typed;
use crate::arguments::{Format, Global, ScheduleArguments};
use crate::failure::CommandError;
use crate::lua_json;
use crate::output::{self, argument_bytes, cell, insert_bytes};

pub(super) async fn create(global: &Global, arguments: ScheduleArguments) -> Outcome {
    let ScheduleArguments { procedure, every, keys, json, name, missed, author, args } = arguments;
    let mut keys = keys.into_iter().map(argument_bytes);
    let mut request = ScheduleProcedureRequest {
        name: name.unwrap_or_default(),
        procedure,
        key: keys.next().unwrap_or_default(),
        more_keys: keys.collect(),
        every_ms: every.as_millis() as u64,
        missed_ticks: MissedTicks::from(missed).into(),
        created_by: author.name(),
        ..Default::default()
    };
    let args = args.into_iter().map(argument_bytes);
    match json {
        true => request.values = typed(args)?,
        false => request.args = args.collect(),
    }
    let answer = global.client().await?.schedule_procedure(request).await?;
    let schedule = answer.schedule.unwrap_or_default();
    match global.output {
        Format::Json => {
            let mut object = schedule_object(&schedule);
            object.insert("created".to_owned(), Value::from(answer.created));
            output::json(&Value::from(object))?;
        }
        Format::Table => {
            let Schedule { name, procedure, .. } = &schedule;
            let what = format!("{name} runs {procedure} on {} every {}", cell(&schedule.key), interval(&schedule));
            let first = output::time(schedule.created_at_ms.saturating_add(schedule.every_ms));
            output::line(match answer.created {
                true => format!("{what}, first at {first}"),
                false => format!("{what}, as before"),
            })?;
            output::line(format!("to end it: cirrus proc unschedule {name}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn list(global: &Global) -> Outcome {
    let answer = global.client().await?.list_schedules().await?;
    match global.output {
        Format::Json => {
            let schedules: Vec<Value> = answer.schedules.iter().map(status_object).collect();
            output::json(&json!({
                "schedules": schedules,
                "unreachable_shard_ids": answer.unreachable_shard_ids,
            }))?;
        }
        Format::Table => {
            let header = ["NAME", "PROCEDURE", "KEY", "EVERY", "MISSED", "NEXT", "RUNS", "FAILED", "SKIPPED", "LAST"];
            let mut table = output::table(header);
            for status in answer.schedules {
                table.add_row(row(&status));
            }
            output::print_table(&table)?;
            for shard_id in answer.unreachable_shard_ids {
                output::explain(format!("shard {shard_id} does not answer"));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Exit status 1 where there was none.
pub(super) async fn delete(global: &Global, name: String) -> Outcome {
    let answer = global.client().await?.delete_schedule(&name).await?;
    match global.output {
        Format::Json => {
            let progress = answer.progress.as_ref().map(progress_object);
            output::json(&json!({ "deleted": answer.deleted, "progress": progress }))?;
        }
        Format::Table if !answer.deleted => {
            return Err(CommandError::local(format!("there is no schedule {name}")).into_answer());
        }
        Format::Table => output::line(match answer.progress {
            Some(ScheduleProgress { runs, failures, skipped, .. }) => {
                format!("{name} ended after {runs} runs, {failures} of them failed, {skipped} ticks were skipped")
            }
            None => format!("{name} ended"),
        })?,
    }
    Ok(if answer.deleted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn row(status: &ScheduleStatus) -> [String; 10] {
    let schedule = status.schedule.clone().unwrap_or_default();
    let every = interval(&schedule);
    let missed = missed(&schedule).to_owned();
    let key = cell(&schedule.key);
    let Some(progress) = &status.progress else {
        let unknown = || "?".to_owned();
        let (name, procedure) = (schedule.name, schedule.procedure);
        return [name, procedure, key, every, missed, unknown(), unknown(), unknown(), unknown(), unknown()];
    };
    let last = match &progress.last_run {
        None => String::new(),
        Some(ScheduleRun { failure: None, result, .. }) => {
            match result.as_ref().and_then(|result| result.kind.as_ref()) {
                None | Some(Kind::Nil(_)) => "ok".to_owned(),
                Some(Kind::Bytes(text)) => format!("ok: {}", cell(text)),
                Some(kind) => format!("ok: {}", cell(lua_json::to_json(&kind.clone().into()).to_string().as_bytes())),
            }
        }
        Some(ScheduleRun { failure: Some(Failure { reason, message, .. }), .. }) => {
            format!("{reason}: {}", cell(message.as_bytes()))
        }
    };
    [
        schedule.name,
        schedule.procedure,
        key,
        every,
        missed,
        output::time(status.next_due_at_ms),
        progress.runs.to_string(),
        progress.failures.to_string(),
        progress.skipped.to_string(),
        last,
    ]
}

fn interval(schedule: &Schedule) -> String {
    format_duration(Duration::from_millis(schedule.every_ms)).to_string()
}

fn missed(schedule: &Schedule) -> &'static str {
    match schedule.missed_ticks() {
        MissedTicks::CatchUp => "catch-up",
        MissedTicks::Skip | MissedTicks::Unspecified => "skip",
    }
}

fn schedule_object(schedule: &Schedule) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("name".to_owned(), Value::from(schedule.name.as_str()));
    object.insert("id".to_owned(), Value::from(schedule.id));
    object.insert("procedure".to_owned(), Value::from(schedule.procedure.as_str()));
    insert_bytes(&mut object, "key", &schedule.key);
    let bytes = |bytes: &Bytes| lua_json::to_json(&LuaValue::from(bytes.clone()));
    object.insert("more_keys".to_owned(), schedule.more_keys.iter().map(bytes).collect());
    let args = schedule.args.iter().map(bytes).chain(schedule.values.iter().map(lua_json::to_json));
    object.insert("args".to_owned(), args.collect());
    object.insert("every_ms".to_owned(), Value::from(schedule.every_ms));
    object.insert("missed".to_owned(), Value::from(missed(schedule)));
    object.insert("created_at_ms".to_owned(), Value::from(schedule.created_at_ms));
    object.insert("created_by".to_owned(), Value::from(schedule.created_by.as_str()));
    object
}

fn status_object(status: &ScheduleStatus) -> Value {
    let mut object = schedule_object(&status.schedule.clone().unwrap_or_default());
    object.insert("shard_id".to_owned(), Value::from(status.shard_id));
    object.insert("progress".to_owned(), status.progress.as_ref().map(progress_object).into());
    let known = status.progress.is_some();
    object.insert("next_tick".to_owned(), known.then_some(status.next_tick).into());
    object.insert("next_due_at_ms".to_owned(), known.then_some(status.next_due_at_ms).into());
    Value::from(object)
}

fn progress_object(progress: &ScheduleProgress) -> Value {
    json!({
        "runs": progress.runs,
        "failures": progress.failures,
        "skipped": progress.skipped,
        "last_run": progress.last_run.as_ref().map(run_object),
    })
}

fn run_object(run: &ScheduleRun) -> Value {
    let mut object = Map::new();
    object.insert("tick".to_owned(), Value::from(run.tick));
    object.insert("due_at_ms".to_owned(), Value::from(run.due_at_ms));
    object.insert("ran_at_ms".to_owned(), Value::from(run.ran_at_ms));
    object.insert("library_version".to_owned(), Value::from(run.library_version));
    match &run.failure {
        None => {
            object.insert("result".to_owned(), run.result.as_ref().map(lua_json::to_json).into());
        }
        Some(Failure { reason, message, .. }) => {
            object.insert("error".to_owned(), json!({ "reason": reason, "message": message }));
        }
    }
    Value::from(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(progress: Option<ScheduleProgress>) -> ScheduleStatus {
        let schedule = Schedule {
            name: "flush".to_owned(),
            procedure: "counters.flush".to_owned(),
            key: "hits".into(),
            args: vec!["x".into()],
            every_ms: 5_400_000,
            missed_ticks: MissedTicks::CatchUp.into(),
            ..Default::default()
        };
        ScheduleStatus { schedule: Some(schedule), shard_id: 3, progress, next_tick: 8, next_due_at_ms: 1_000 }
    }

    #[test]
    fn a_row_says_how_it_went() {
        let run = |failure| Some(ScheduleRun { tick: 7, failure, ..Default::default() });
        let progress = |last_run| Some(ScheduleProgress { runs: 7, failures: 1, skipped: 2, last_run });
        let row_of = |progress| row(&status(progress)).join("|");
        let beginning = "flush|counters.flush|hits|1h 30m|catch-up|";
        assert_eq!(row_of(progress(run(None))), format!("{beginning}1970-01-01T00:00:01Z|7|1|2|ok"));
        let failure =
            Failure { reason: "CALL_TIMEOUT".to_owned(), message: "too\nlong".to_owned(), ..Default::default() };
        assert!(row_of(progress(run(Some(failure)))).ends_with(r"|7|1|2|CALL_TIMEOUT: too\nlong"));
        assert!(row_of(Some(ScheduleProgress::default())).ends_with("|0|0|0|"));
        for (result, expected) in [
            (LuaValue::nil(), "ok"),
            (LuaValue::from("text"), "ok: text"),
            (LuaValue::from(7), "ok: 7"),
            (LuaValue::from(false), "ok: false"),
            ([LuaValue::from("a")].into_iter().collect(), "ok: [\"a\"]"),
        ] {
            let run = Some(ScheduleRun { result: Some(result), ..Default::default() });
            assert!(row_of(progress(run)).ends_with(&format!("|{expected}")));
        }
        assert_eq!(row_of(None), format!("{beginning}?|?|?|?|?"), "its shard does not answer");
    }

    #[test]
    fn what_is_not_known_is_null_for_programs() {
        let object = status_object(&status(None));
        assert_eq!((&object["progress"], &object["next_tick"]), (&Value::Null, &Value::Null));
        assert_eq!(object["args"], json!(["x"]));
        let object = status_object(&status(Some(ScheduleProgress::default())));
        assert_eq!((&object["progress"]["runs"], &object["next_tick"]), (&json!(0), &json!(8)));
    }
}
