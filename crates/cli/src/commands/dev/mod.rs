//! `cirrus dev`: a local cluster, each node a process of its own.
//!
//! The nodes are children that run `serve`. They end with this process: by SIGTERM where it stops in order,
//! and by the end of their standard input where it dies. A node that ends by itself is reported and stays
//! down, so that its loss can be watched.

mod layout;
mod processes;
mod readiness;

use std::io::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use self::layout::NodePlan;
use self::processes::{Exit, Process, Processes};
use super::Outcome;
use super::signals::StopSignals;
use crate::arguments::{DevArgs, Format};
use crate::failure::CommandError;
use crate::output;
use crate::scheduling::processors;

/// Lines of its log that a failed node's report shows.
const LOG_LINES: usize = 10;

pub(crate) async fn run(args: DevArgs, format: Format) -> Outcome {
    let plans = NodePlan::all(&args, processors());
    check_ports(&plans)?;
    let mut signals = StopSignals::listen()?;
    let started: Vec<Process> = plans.iter().cloned().map(Process::start).collect::<Result<_, _>>()?;
    let pids: Vec<u32> = started.iter().map(|process| process.pid).collect();
    let mut processes = Processes::watch(started);

    let limit = Duration::from_millis(args.ready_timeout_ms);
    let unready = tokio::select! {
        ready = tokio::time::timeout(limit, readiness::wait(&plans)) => match ready {
            Ok(shards) => {
                announce(&plans, &pids, shards, format)?;
                None
            }
            Err(_) => Some(CommandError::local(format!(
                "the cluster is not ready after {} ms; the nodes' logs are in {}",
                limit.as_millis(),
                args.data_dir.display()
            ))),
        },
        Some(exit) = processes.next_exit() => Some(CommandError::local(format!(
            "{}; its log ends with\n{}",
            describe(&exit),
            log_end(&exit.plan.log)
        ))),
        () = signals.next() => {
            processes.stop(signals.next()).await;
            return Ok(ExitCode::SUCCESS);
        }
    };
    if let Some(error) = unready {
        processes.stop(signals.next()).await;
        return Err(error);
    }

    loop {
        tokio::select! {
            () = signals.next() => {
                processes.stop(signals.next()).await;
                return Ok(ExitCode::SUCCESS);
            }
            exit = processes.next_exit() => match exit {
                Some(exit) => report(&describe(&exit)),
                None => return Err(CommandError::local("no node is left")),
            },
        }
    }
}

/// A port in use is better told before the nodes start than found in a log.
fn check_ports(plans: &[NodePlan]) -> Result<(), CommandError> {
    for plan in plans {
        for address in [&plan.address, &plan.http_address] {
            TcpListener::bind(address).map_err(|error| {
                CommandError::local(format!("node {} cannot listen on {address}: {error}", plan.node_id))
            })?;
        }
    }
    Ok(())
}

fn announce(plans: &[NodePlan], pids: &[u32], shards: u32, format: Format) -> std::io::Result<()> {
    let endpoints: Vec<&str> = plans.iter().map(|plan| plan.address.as_str()).collect();
    match format {
        Format::Json => {
            let nodes = plans.iter().zip(pids).map(|(plan, pid)| {
                json!({
                    "node_id": plan.node_id,
                    "address": plan.address,
                    "http_address": plan.http_address,
                    "pid": pid,
                    "log": plan.log,
                })
            });
            let nodes: Vec<_> = nodes.collect();
            output::json(&json!({ "ready": true, "shards": shards, "endpoints": endpoints, "nodes": nodes }))
        }
        Format::Table => {
            let mut table = output::table(["NODE", "ADDRESS", "HTTP", "PID", "LOG"]);
            for (plan, pid) in plans.iter().zip(pids) {
                let (node_id, log) = (plan.node_id.to_string(), plan.log.display().to_string());
                table.add_row([&node_id, &plan.address, &plan.http_address, &pid.to_string(), &log]);
            }
            output::print_table(&table)?;
            output::line(format!("\nexport CIRRUS_ENDPOINTS={}\n", endpoints.join(",")))?;
            output::line(format!("ready: {} nodes, {shards} shards; Ctrl-C stops them", plans.len()))
        }
    }
}

fn describe(exit: &Exit) -> String {
    format!("node {} (pid {}) {}", exit.plan.node_id, exit.pid, exit.description())
}

fn report(text: &str) {
    // Without a standard error there is nobody to tell, and the other nodes run on.
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn log_end(log: &Path) -> String {
    let text = std::fs::read(log).map_or_else(
        |error| format!("{}: {error}", log.display()),
        |bytes| String::from_utf8_lossy(&bytes).into_owned(),
    );
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
