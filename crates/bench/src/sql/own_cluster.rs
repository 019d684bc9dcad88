//! A cluster of the bench's own: `cirrus dev`, by the program that runs.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::Rng as _;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

const NODES: u16 = 3;
/// How long the nodes may take to write everything to disk and end.
const STOP_BOUND: Duration = Duration::from_secs(60);

/// Three nodes on loopback, which end when this is dropped.
pub(crate) struct OwnCluster {
    directory: PathBuf,
    base_port: u16,
    process: Child,
    /// Kept open for what the cluster still says.
    _says: Lines<BufReader<ChildStdout>>,
}

impl OwnCluster {
    /// Starts a cluster, or the one that is in `directory` already.
    pub(crate) async fn start(directory: &Path) -> anyhow::Result<OwnCluster> {
        launch(directory, free_base_port()?).await
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        (1..=NODES).map(|node| format!("127.0.0.1:{}", self.base_port + node)).collect()
    }

    /// Stops the nodes in order, so that all of their state is on disk, and starts them again: nothing is in memory then.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        self.stop().await?;
        *self = launch(&self.directory, self.base_port).await?;
        Ok(())
    }

    /// Ends the nodes in order.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(id) = self.process.id() {
            let id = i32::try_from(id).context("a process id is an int")?;
            kill(Pid::from_raw(id), Signal::SIGTERM).context("stopping the cluster")?;
        }
        let ended = tokio::time::timeout(STOP_BOUND, self.process.wait()).await;
        let status = ended.with_context(|| format!("the cluster did not end within {STOP_BOUND:?}"))??;
        anyhow::ensure!(status.success(), "the cluster ended with {status}");
        Ok(())
    }
}

/// Returns once every shard has its leader and its replicas.
async fn launch(directory: &Path, base_port: u16) -> anyhow::Result<OwnCluster> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut process = Command::new(program)
        .args(["dev", "--nodes", &NODES.to_string(), "--base-port", &base_port.to_string(), "--data-dir"])
        .arg(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .context("starting cirrus dev")?;
    let output = process.stdout.take().context("cirrus dev has no standard output")?;
    let mut says = BufReader::new(output).lines();
    // It says where its nodes are once they are ready, and ends where they do not become so.
    let first = says.next_line().await.context("waiting for cirrus dev")?;
    anyhow::ensure!(first.is_some(), "the cluster did not become ready");
    Ok(OwnCluster { directory: directory.to_owned(), base_port, process, _says: says })
}

/// Ports as `cirrus dev` deals them out, on none of which anybody listens.
fn free_base_port() -> anyhow::Result<u16> {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    for _ in 0..100 {
        let base = rand::rng().random_range(20_000..30_000);
        if (1..=NODES).all(|node| is_free(base + node) && is_free(base + 80 + node)) {
            return Ok(base);
        }
    }
    anyhow::bail!("found no free ports for a cluster")
}
