//! `cirrus proc limit`

use std::process::ExitCode;

use cirrus_client::v1::{LibraryLimits, SetLibraryLimitsRequest};
use serde_json::{Value, json};

use super::Outcome;
use crate::arguments::{Author, Format, Global};
use crate::output;

/// Changes the limits that are given; shows them where none is.
pub(super) async fn run(
    global: &Global,
    name: String,
    concurrency: Option<u32>,
    cpu_percent: Option<u32>,
    author: Author,
) -> Outcome {
    let client = global.client().await?;
    let limits = if concurrency.is_none() && cpu_percent.is_none() {
        client.list_library_versions(&name).await?.limits.unwrap_or_default()
    } else {
        let request = SetLibraryLimitsRequest {
            name: name.clone(),
            concurrency,
            cpu_percent,
            set_by: author.name(),
            request_id: None,
        };
        client.set_library_limits(request).await?
    };
    match global.output {
        Format::Json => output::json(&object(&limits))?,
        Format::Table => output::line(format!("{name}: {}", sentence(&limits)))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// For people.
pub(super) fn sentence(limits: &LibraryLimits) -> String {
    let calls =
        |count| if count == 1 { "at most 1 call at once".to_owned() } else { format!("at most {count} calls at once") };
    match (limits.concurrency, limits.cpu_percent) {
        (0, 0) => "no limits".to_owned(),
        (count, 0) => format!("{}, on each node", calls(count)),
        (0, percent) => format!("{percent} % of one core, on each node"),
        (count, percent) => format!("{}, and {percent} % of one core, on each node", calls(count)),
    }
}

/// For programs.
pub(super) fn object(limits: &LibraryLimits) -> Value {
    json!({
        "concurrency": limits.concurrency,
        "cpu_percent": limits.cpu_percent,
        "set_at_ms": limits.set_at_ms,
        "set_by": limits.set_by,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_read_as_a_sentence() {
        for (concurrency, cpu_percent, expected) in [
            (0, 0, "no limits"),
            (1, 0, "at most 1 call at once, on each node"),
            (0, 250, "250 % of one core, on each node"),
            (2, 25, "at most 2 calls at once, and 25 % of one core, on each node"),
        ] {
            let limits = LibraryLimits { concurrency, cpu_percent, ..Default::default() };
            assert_eq!(sentence(&limits), expected);
        }
    }
}
