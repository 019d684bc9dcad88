//! `cirrus delete`

use std::process::ExitCode;

use cirrus_client::v1::{DeleteRequest, WriteCondition, write_condition};
use serde_json::json;

use super::Outcome;
use super::put::condition_failed;
use crate::arguments::{DeleteArgs, Format, Global};
use crate::output::{self, argument_bytes};

/// Without a condition, a key without a value is success: it is as gone as was asked for.
pub(crate) async fn run(global: &Global, args: DeleteArgs) -> Outcome {
    let condition =
        args.if_version.map(|version| WriteCondition { kind: Some(write_condition::Kind::IfVersion(version)) });
    let conditional = condition.is_some();
    let request = DeleteRequest { key: argument_bytes(args.key), condition, request_id: None };
    let answer = global.client().await?.delete_with(request).await?;
    let refused = conditional && !answer.deleted;
    match global.output {
        Format::Json => output::json(&json!({ "deleted": answer.deleted, "version": answer.version }))?,
        Format::Table if refused => return Err(condition_failed(answer.version)),
        Format::Table if answer.deleted => output::line(format!("deleted version {}", answer.version))?,
        Format::Table => output::line("no value to delete")?,
    }
    Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
