//! `cirrus proc versions|activate|rollback|diff`

use std::process::ExitCode;

use cirrus_client::v1::{ActivateLibraryRequest, LibraryActivation, RollbackLibraryRequest};
use serde_json::{Value, json};
use similar::TextDiff;

use super::procedures::object;
use super::{Outcome, limits};
use crate::arguments::{Author, Format, Global, LibraryName};
use crate::output;

pub(super) async fn list(global: &Global, name: String) -> Outcome {
    let answer = global.client().await?.list_library_versions(name).await?;
    let activation = answer.activation.unwrap_or_default();
    match global.output {
        Format::Json => {
            let versions: Vec<_> = answer.versions.iter().map(|library| Value::from(object(library))).collect();
            let previous: Vec<_> = answer.previous.iter().map(activation_object).collect();
            output::json(&json!({
                "versions": versions,
                "activation": activation_object(&activation),
                "previous": previous,
                "limits": answer.limits.as_ref().map(limits::object),
            }))?;
        }
        Format::Table => {
            let mut table = output::table(["VERSION", "CALLS", "UPLOADED", "BY", "BYTES", "SHA-256", "REQUIRES"]);
            for library in answer.versions {
                let requires = library.requires.iter().map(|pin| format!("{}@{}", pin.name, pin.version));
                table.add_row([
                    library.version.to_string(),
                    role(library.version, &activation),
                    output::time(library.uploaded_at_ms),
                    library.uploaded_by,
                    library.source_bytes.to_string(),
                    library.sha256.chars().take(12).collect(),
                    requires.collect::<Vec<_>>().join(" "),
                ]);
            }
            output::print_table(&table)?;
            if let Some(limits) = answer.limits.filter(|limits| limits.concurrency > 0 || limits.cpu_percent > 0) {
                output::line(format!("\nlimits: {}", limits::sentence(&limits)))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What share of the calls a version gets.
fn role(version: u64, activation: &LibraryActivation) -> String {
    if version == activation.canary_version {
        format!("canary, {} %", activation.canary_percent)
    } else if version == activation.active_version {
        "active".to_owned()
    } else {
        String::new()
    }
}

pub(super) async fn activate(global: &Global, library: LibraryName, canary: Option<u32>, author: Author) -> Outcome {
    let request = ActivateLibraryRequest {
        name: library.name.clone(),
        version: library.version,
        canary_percent: canary.unwrap_or(0),
        activated_by: author.name(),
        request_id: None,
    };
    let answer = global.client().await?.activate_library(request).await?;
    let activation = answer.activation.unwrap_or_default();
    match global.output {
        Format::Json => output::json(&activation_object(&activation))?,
        Format::Table => {
            output::line(now_runs(&library.name, &activation))?;
            output::line(format!("to undo: cirrus proc rollback {}", library.name))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn rollback(global: &Global, name: String, author: Author) -> Outcome {
    let request = RollbackLibraryRequest { name: name.clone(), activated_by: author.name(), request_id: None };
    let answer = global.client().await?.rollback_library(request).await?;
    let (activation, undone) = (answer.activation.unwrap_or_default(), answer.undone.unwrap_or_default());
    match global.output {
        Format::Json => {
            output::json(
                &json!({ "activation": activation_object(&activation), "undone": activation_object(&undone) }),
            )?;
        }
        Format::Table => output::line(now_runs(&name, &activation))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn now_runs(name: &str, activation: &LibraryActivation) -> String {
    let active = format!("{name} runs version {}", activation.active_version);
    match activation.canary_version {
        0 => active,
        canary => format!("{active}, and version {canary} for {} % of the keys", activation.canary_percent),
    }
}

/// Exit status 1 where the versions differ, as `diff` has it.
pub(super) async fn diff(global: &Global, name: String, from: Option<u64>, to: Option<u64>) -> Outcome {
    let client = global.client().await?;
    let (from, to) = match (from, to) {
        (Some(from), Some(to)) => (from, to),
        (from, _) => {
            let answer = client.list_library_versions(&name).await?;
            let active = answer.activation.unwrap_or_default().active_version;
            (from.unwrap_or(active), answer.versions.last().map_or(active, |library| library.version))
        }
    };
    let old = client.get_library(&name, from).await?.source;
    let new = client.get_library(&name, to).await?.source;
    let (old, new) = (String::from_utf8_lossy(&old), String::from_utf8_lossy(&new));
    let diff = TextDiff::from_lines(&*old, &*new);
    let text = diff.unified_diff().header(&format!("{name}@{from}"), &format!("{name}@{to}")).to_string();
    match global.output {
        Format::Json => output::json(&json!({ "from": from, "to": to, "diff": text }))?,
        Format::Table => output::bytes(text.as_bytes(), false)?,
    }
    Ok(if old == new { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn activation_object(activation: &LibraryActivation) -> Value {
    json!({
        "active_version": activation.active_version,
        "canary_version": activation.canary_version,
        "canary_percent": activation.canary_percent,
        "activated_at_ms": activation.activated_at_ms,
        "activated_by": activation.activated_by,
    })
}
