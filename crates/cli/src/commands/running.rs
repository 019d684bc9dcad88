//! `cirrus proc running` and `cirrus proc kill`

use std::process::ExitCode;

use cirrus_client::v1::{RunningCall, SuspendedProcedure};
use comfy_table::Table;
use serde_json::{Map, Value, json};

use super::Outcome;
use crate::arguments::{Format, Global};
use crate::output::{self, cell, insert_bytes};

pub(super) async fn list(global: &Global) -> Outcome {
    let answer = global.client().await?.list_running_calls().await?;
    match global.output {
        Format::Json => {
            let calls: Vec<Value> = answer.calls.iter().map(object).collect();
            let suspended: Vec<Value> = answer.suspended.iter().map(suspended_object).collect();
            output::json(&json!({
                "calls": calls,
                "suspended": suspended,
                "unreachable_node_ids": answer.unreachable_node_ids,
            }))?;
        }
        Format::Table => {
            let mut table = output::table(["CALL", "NODE", "SHARD", "PROCEDURE", "VERSION", "MS", "KEY"]);
            for call in answer.calls {
                table.add_row([
                    call.call_id,
                    call.node_id.to_string(),
                    call.shard_id.to_string(),
                    call.procedure,
                    call.library_version.to_string(),
                    (call.running_us / 1000).to_string(),
                    cell(&call.key),
                ]);
            }
            output::print_table(&table)?;
            if !answer.suspended.is_empty() {
                output::line("")?;
                output::print_table(&suspended_table(answer.suspended))?;
            }
            for node_id in answer.unreachable_node_ids {
                output::explain(format!("node {node_id} does not answer"));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn object(call: &RunningCall) -> Value {
    let mut object = Map::new();
    object.insert("call_id".to_owned(), Value::from(call.call_id.as_str()));
    object.insert("node_id".to_owned(), Value::from(call.node_id));
    object.insert("shard_id".to_owned(), Value::from(call.shard_id));
    object.insert("procedure".to_owned(), Value::from(call.procedure.as_str()));
    object.insert("library_version".to_owned(), Value::from(call.library_version));
    object.insert("running_us".to_owned(), Value::from(call.running_us));
    insert_bytes(&mut object, "key", &call.key);
    Value::from(object)
}

fn suspended_table(suspended: Vec<SuspendedProcedure>) -> Table {
    let mut table = output::table(["SUSPENDED", "VERSION", "NODE", "KILLS", "TRIED AGAIN IN MS"]);
    for procedure in suspended {
        table.add_row([
            procedure.procedure,
            procedure.library_version.to_string(),
            procedure.node_id.to_string(),
            procedure.kills.to_string(),
            procedure.remaining_ms.to_string(),
        ]);
    }
    table
}

fn suspended_object(procedure: &SuspendedProcedure) -> Value {
    json!({
        "procedure": procedure.procedure,
        "library_version": procedure.library_version,
        "node_id": procedure.node_id,
        "kills": procedure.kills,
        "remaining_ms": procedure.remaining_ms,
    })
}

/// Exit status 1 where the call had ended.
pub(super) async fn kill(global: &Global, call_id: String) -> Outcome {
    let killed = global.client().await?.kill_call(&call_id).await?;
    match global.output {
        Format::Json => output::json(&json!({ "killed": killed }))?,
        Format::Table if killed => output::line(format!("killed {call_id}"))?,
        Format::Table => output::line(format!("{call_id} had ended"))?,
    }
    Ok(if killed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
