//! `cirrus incr`

use std::process::ExitCode;

use cirrus_client::v1::IncrementRequest;
use serde_json::json;

use super::Outcome;
use crate::arguments::{Format, Global, IncrementArgs};
use crate::output::{self, argument_bytes};

pub(crate) async fn run(global: &Global, args: IncrementArgs) -> Outcome {
    let request =
        IncrementRequest { key: argument_bytes(args.key), delta: args.delta, ttl_ms: args.ttl_ms, request_id: None };
    let answer = global.client().await?.increment_with(request).await?;
    match global.output {
        Format::Table => output::line(answer.value.to_string())?,
        Format::Json => output::json(&json!({ "value": answer.value, "version": answer.version }))?,
    }
    Ok(ExitCode::SUCCESS)
}
