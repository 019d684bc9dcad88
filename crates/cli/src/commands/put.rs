//! `cirrus put`

use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::ExitCode;

use bytes::Bytes;
use cirrus_client::v1::{PutRequest, WriteCondition, write_condition};
use cirrus_client::{ClientError, Failure, Reason};
use serde_json::json;

use super::Outcome;
use crate::arguments::{Format, Global, PutArgs};
use crate::failure::CommandError;
use crate::output::{self, argument_bytes};

pub(crate) async fn run(global: &Global, args: PutArgs) -> Outcome {
    let condition = match (args.if_absent, args.if_version) {
        (true, _) => Some(write_condition::Kind::IfAbsent(true)),
        (false, Some(version)) => Some(write_condition::Kind::IfVersion(version)),
        (false, None) => None,
    };
    let request = PutRequest {
        key: argument_bytes(args.key),
        value: value(argument_bytes(args.value))?,
        ttl_ms: args.ttl_ms,
        flags: args.flags,
        condition: condition.map(|kind| WriteCondition { kind: Some(kind) }),
        request_id: None,
    };
    let answer = global.client().await?.put_with(request).await?;
    match global.output {
        Format::Json => output::json(&json!({ "applied": answer.applied, "version": answer.version }))?,
        Format::Table if answer.applied => output::line(format!("version {}", answer.version))?,
        Format::Table => return Err(condition_failed(answer.version)),
    }
    Ok(if answer.applied { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The error of a write whose condition did not hold.
pub(super) fn condition_failed(found_version: u64) -> CommandError {
    let message = match found_version {
        0 => "the key has no value; nothing was written".to_owned(),
        version => format!("the key has a value of version {version}; nothing was written"),
    };
    CommandError::from(ClientError::from(Failure::new(Reason::ConditionFailed, message))).into_answer()
}

/// The value that an argument stands for.
fn value(argument: Bytes) -> Result<Bytes, CommandError> {
    if argument == "-" {
        let mut value = Vec::new();
        std::io::stdin().lock().read_to_end(&mut value)?;
        return Ok(value.into());
    }
    match argument.strip_prefix(b"@") {
        None => Ok(argument),
        Some(path) => {
            let path = Path::new(OsStr::from_bytes(path));
            let read = std::fs::read(path);
            read.map(Bytes::from).map_err(|error| CommandError::local(format!("{}: {error}", path.display())))
        }
    }
}
