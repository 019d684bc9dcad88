//! `cirrus proc logs`

use std::collections::BTreeSet;
use std::process::ExitCode;

use cirrus_client::LogEvent;
use cirrus_client::v1::{FollowLogsRequest, FollowedNode, LogLevel, LogLine};
use futures::StreamExt as _;
use serde_json::{Value, json};

use super::Outcome;
use crate::arguments::{Format, Global, LogsArgs};
use crate::output;

pub(super) async fn run(global: &Global, args: LogsArgs) -> Outcome {
    let request = FollowLogsRequest {
        library: args.library.unwrap_or_default(),
        level: args.level.map_or(LogLevel::Unspecified, LogLevel::from).into(),
        follow: args.follow,
        last: args.last,
    };
    let mut events = global.client().await?.follow_logs(request);
    let mut lost = BTreeSet::new();
    while let Some(event) = events.next().await {
        let event = event?;
        match global.output {
            Format::Json => output::json(&object(&event))?,
            Format::Table => print(event, &mut lost)?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Lines go to standard output, and how many are missing; what explains that, beside it.
fn print(event: LogEvent, lost: &mut BTreeSet<u64>) -> std::io::Result<()> {
    match event {
        LogEvent::Line(line) => output::line(text(&line))?,
        LogEvent::Dropped(dropped) => {
            output::line(format!("... {} lines of node {} were dropped", dropped.lines, dropped.node_id))?;
        }
        LogEvent::Node(FollowedNode { node_id, followed: true, .. }) if lost.remove(&node_id) => {
            output::explain(format!("node {node_id} answers again"));
        }
        LogEvent::Node(FollowedNode { followed: true, .. }) => {}
        LogEvent::Node(FollowedNode { node_id, problem, .. }) => {
            lost.insert(node_id);
            output::explain(format!("node {node_id} does not answer, and its lines are missing: {problem}"));
        }
        LogEvent::Interrupted(problem) => output::explain(format!("interrupted, lines are missing: {problem}")),
    }
    Ok(())
}

fn text(line: &LogLine) -> String {
    let LogLine { node_id, shard_id, library, library_version, function, .. } = line;
    let (time, level) = (output::time_with_ms(line.time_ms), level_name(line).to_uppercase());
    let text = output::on_one_line(&line.text);
    format!("{time} {level:5} {node_id}/{shard_id} {library}@{library_version}.{function}: {text}")
}

fn level_name(line: &LogLine) -> &'static str {
    match line.level() {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug | LogLevel::Unspecified => "debug",
    }
}

fn object(event: &LogEvent) -> Value {
    match event {
        LogEvent::Line(line) => json!({
            "time_ms": line.time_ms,
            "level": level_name(line),
            "node_id": line.node_id,
            "shard_id": line.shard_id,
            "library": line.library,
            "library_version": line.library_version,
            "function": line.function,
            "text": line.text,
        }),
        LogEvent::Dropped(dropped) => json!({ "node_id": dropped.node_id, "dropped": dropped.lines }),
        LogEvent::Node(FollowedNode { node_id, followed: true, .. }) => json!({ "node_id": node_id, "followed": true }),
        LogEvent::Node(FollowedNode { node_id, problem, .. }) => {
            json!({ "node_id": node_id, "followed": false, "problem": problem })
        }
        LogEvent::Interrupted(problem) => json!({ "interrupted": problem }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_on_one_line_and_says_where_it_is_from() {
        let line = LogLine {
            node_id: 2,
            shard_id: 5,
            library: "stock".to_owned(),
            library_version: 3,
            function: "reserve".to_owned(),
            level: LogLevel::Warn.into(),
            time_ms: 1_700_000_000_123,
            text: "two\nlines and \u{1b}[2J".to_owned(),
        };
        let expected = "2023-11-14T22:13:20.123Z WARN  2/5 stock@3.reserve: two\\nlines and \\u{1b}[2J";
        assert_eq!(text(&line), expected);
    }
}
