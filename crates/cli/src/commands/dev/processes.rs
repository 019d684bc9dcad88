//! The processes of a local cluster.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

use super::layout::NodePlan;
use crate::failure::CommandError;

/// How long a node may take to hand over and flush before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// A node that was started.
pub(crate) struct Process {
    pub(crate) plan: NodePlan,
    pub(crate) pid: u32,
    child: Child,
    /// Never written to. It closes when this process ends, in whatever way, and the node then stops.
    lifeline: Option<ChildStdin>,
}

impl Process {
    /// Starts a node, with its output appended to its log.
    pub(crate) fn start(plan: NodePlan) -> Result<Process, CommandError> {
        Process::try_start(&plan)
            .map_err(|error| CommandError::local(format!("node {} did not start: {error}", plan.node_id)))
    }

    fn try_start(plan: &NodePlan) -> io::Result<Process> {
        if let Some(directory) = plan.log.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let log = OpenOptions::new().create(true).append(true).open(&plan.log)?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(plan.command_line())
            // These would give every node the same address.
            .env_remove("CIRRUS_ADVERTISE")
            .env_remove("CIRRUS_JOIN")
            .env_remove("CIRRUS_HTTP_ADVERTISE")
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C reaches this process only, which passes it on.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other("it ended at once"))?;
        Ok(Process { plan: plan.clone(), pid, lifeline: child.stdin.take(), child })
    }
}

/// A node's end.
pub(crate) struct Exit {
    pub(crate) plan: NodePlan,
    pub(crate) pid: u32,
    status: io::Result<ExitStatus>,
}

impl Exit {
    /// How it ended, for people.
    pub(crate) fn description(&self) -> String {
        match &self.status {
            Err(error) => format!("cannot be waited for: {error}"),
            Ok(status) => match status.signal().map(Signal::try_from) {
                Some(Ok(signal)) => format!("was ended by {signal}"),
                Some(Err(_)) => format!("was ended by {status}"),
                None => format!("ended with {status}"),
            },
        }
    }
}

/// All nodes that run.
pub(crate) struct Processes {
    pids: Vec<u32>,
    exits: mpsc::UnboundedReceiver<Exit>,
}

impl Processes {
    /// Watches over processes.
    pub(crate) fn watch(processes: Vec<Process>) -> Processes {
        let pids = processes.iter().map(|process| process.pid).collect();
        let (ended, exits) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut waits: FuturesUnordered<_> = processes
                .into_iter()
                .map(|process| async move {
                    let Process { plan, pid, mut child, lifeline } = process;
                    let status = child.wait().await;
                    drop(lifeline);
                    Exit { plan, pid, status }
                })
                .collect();
            while let Some(exit) = waits.next().await {
                if ended.send(exit).is_err() {
                    break;
                }
            }
        });
        Processes { pids, exits }
    }

    /// The next node that ends; `None` when none is left.
    pub(crate) async fn next_exit(&mut self) -> Option<Exit> {
        let exit = self.exits.recv().await?;
        self.pids.retain(|pid| *pid != exit.pid);
        Some(exit)
    }

    /// Asks all nodes to stop and waits for them, for a time. Those that take longer, or all of them once
    /// `hurry` is ready, are killed.
    pub(crate) async fn stop(mut self, hurry: impl Future<Output = ()>) {
        self.signal(Signal::SIGTERM);
        let graceful = tokio::time::timeout(STOP_TIMEOUT, async { while self.next_exit().await.is_some() {} });
        let ended = tokio::select! {
            ended = graceful => ended.is_ok(),
            () = hurry => false,
        };
        if !ended {
            self.signal(Signal::SIGKILL);
            while self.next_exit().await.is_some() {}
        }
    }

    fn signal(&self, signal: Signal) {
        for pid in &self.pids {
            // It may have ended just now, which is what is asked for.
            let _ = kill(Pid::from_raw(*pid as i32), signal);
        }
    }
}
