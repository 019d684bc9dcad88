//! A cluster of real processes.
//!
//! Every cluster has a temporary directory and ports of its own, so tests may run at the same time. Its nodes
//! die with it. When a test panics, the directory stays, and the end of every node's log is printed. With
//! `CIRRUS_TEST_KEEP` set, it stays in any case.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use cirrus_client::{Client, ClientConfig};
use cirrus_proto::v1::StatusResponse;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::Rng as _;
use tempfile::TempDir;

use crate::http::{HttpAnswer, curl, http_get, http_post, metric_sum};
use crate::network::Network;
use crate::node_client::NodeClient;
use crate::shards::{shard_of, shard_status};
use crate::wait::eventually;

/// How long a cluster may take until it is ready, on a machine that is busy with other tests.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a node that was told to stop may take.
const STOPPED_WITHIN: Duration = Duration::from_secs(20);
/// Bounds a request of [`TestCluster::node`]'s clients.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Below the range from which Linux takes the ports of outgoing connections.
const PORTS: std::ops::Range<u16> = 15_000..32_000;

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Nodes, with ids from 1.
    pub nodes: u64,
    /// Data shards. Fewer than the default of 8 start faster; tests that need many say so.
    pub shards: u32,
    /// Puts a [`Network`] between the nodes.
    pub network: bool,
    /// TOML for every node's `--config`.
    pub config: String,
    /// Threads of every node's runtime. By default nodes differ, since one that has a single thread runs otherwise than
    /// one with several: those with odd ids have one, the others two.
    pub worker_threads: Option<usize>,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        ClusterOptions { nodes: 3, shards: 4, network: false, config: String::new(), worker_threads: None }
    }
}

/// Running nodes.
pub struct TestCluster {
    nodes: BTreeMap<u64, Node>,
    options: ClusterOptions,
    network: Option<Network>,
    directory: Option<TempDir>,
    binary: PathBuf,
}

struct Node {
    listen: SocketAddr,
    http: SocketAddr,
    directory: PathBuf,
    log: PathBuf,
    process: Option<Child>,
    paused: bool,
}

/// The `cirrus` binary: `CIRRUS_BIN`, or the one that was built into the target directory of this test.
///
/// # Errors
/// Where there is none, with what to do about it.
pub fn cirrus_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CIRRUS_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "CIRRUS_BIN names {}, which is not a file", path.display());
        return Ok(path);
    }
    // A test runs from <target>/<profile>/deps, a program from <target>/<profile>.
    let own = std::env::current_exe().context("the test's own path")?;
    let folder = own.parent().context("a program is in a folder")?;
    let profile = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let path = profile.join("cirrus");
    ensure!(
        path.is_file(),
        "{} does not exist: build it first (cargo build --release -p cirrus-cli), or name another in CIRRUS_BIN",
        path.display()
    );
    Ok(path)
}

impl TestCluster {
    /// A cluster that is ready: every node is, every shard has a leader, and every node votes in every shard.
    pub async fn start(options: ClusterOptions) -> Result<TestCluster> {
        let mut attempt = 1;
        loop {
            let mut cluster = TestCluster::create(options.clone())?;
            match cluster.start_all().await {
                Ok(()) => return Ok(cluster),
                // Another process may have taken a port since it was found free.
                Err(error) if attempt < 3 && cluster.logs_say("in use") => {
                    eprintln!("attempt {attempt}: {error:#}; trying other ports");
                    attempt += 1;
                }
                Err(error) => {
                    cluster.keep_logs();
                    return Err(error);
                }
            }
        }
    }

    /// Three nodes and nothing special.
    pub async fn three_nodes() -> Result<TestCluster> {
        TestCluster::start(ClusterOptions::default()).await
    }

    fn create(options: ClusterOptions) -> Result<TestCluster> {
        let binary = cirrus_binary()?;
        let directory = tempfile::Builder::new().prefix("cirrus-test-").tempdir()?;
        let mut ports = free_ports(2 * options.nodes as usize)?.into_iter();
        let mut next = || ports.next().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))).context("a port");
        let mut nodes = BTreeMap::new();
        for node_id in 1..=options.nodes {
            let directory = directory.path().join(format!("node-{node_id}"));
            let log = directory.with_extension("log");
            nodes
                .insert(node_id, Node { listen: next()?, http: next()?, directory, log, process: None, paused: false });
        }
        let network = match options.network {
            true => Some(Network::start(&nodes.iter().map(|(&id, node)| (id, node.listen)).collect())?),
            false => None,
        };
        std::fs::write(directory.path().join("cirrus.toml"), &options.config)?;
        Ok(TestCluster { nodes, options, network, directory: Some(directory), binary })
    }

    async fn start_all(&mut self) -> Result<()> {
        for node_id in 1..=self.options.nodes {
            self.spawn(node_id)?;
        }
        self.wait_ready().await
    }

    fn spawn(&mut self, node_id: u64) -> Result<()> {
        let creator = self.advertised(1)?;
        let advertised = self.advertised(node_id)?;
        let node = self.nodes.get_mut(&node_id).with_context(|| format!("there is no node {node_id}"))?;
        ensure!(node.process.is_none(), "node {node_id} runs already");
        let log = OpenOptions::new().create(true).append(true).open(&node.log)?;
        let worker_threads = self.options.worker_threads.unwrap_or(if node_id % 2 == 1 { 1 } else { 2 });
        let mut command = Command::new(&self.binary);
        command
            .arg("serve")
            .args(["--node-id", &node_id.to_string()])
            .args(["--listen", &node.listen.to_string()])
            .args(["--http-listen", &node.http.to_string()])
            .args(["--worker-threads", &worker_threads.to_string()])
            .arg("--data-dir")
            .arg(&node.directory)
            // A node must not outlive a test that is itself killed.
            .arg("--exit-with-parent")
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log);
        if node_id == 1 {
            command.args(["--shards", &self.options.shards.to_string()]);
        } else {
            command.args(["--join", &creator]);
        }
        if self.network.is_some() {
            command.args(["--advertise", &advertised]);
        }
        if let Some(directory) = self.directory.as_ref().filter(|_| !self.options.config.is_empty()) {
            command.arg("--config").arg(directory.path().join("cirrus.toml"));
        }
        let process = command.spawn().with_context(|| format!("starting {}", self.binary.display()))?;
        if let Some(network) = &self.network {
            network.set_process(node_id, process.id());
        }
        node.process = Some(process);
        node.paused = false;
        Ok(())
    }

    /// The address by which other nodes, and clients that learn it from them, reach a node.
    fn advertised(&self, node_id: u64) -> Result<String> {
        let relay = self.network.as_ref().and_then(|network| network.address(node_id));
        Ok(relay.unwrap_or(self.of(node_id)?.listen).to_string())
    }

    fn of(&self, node_id: u64) -> Result<&Node> {
        self.nodes.get(&node_id).with_context(|| format!("there is no node {node_id}"))
    }

    /// The ids of all nodes.
    pub fn node_ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// The ids of the nodes that run and are not paused.
    pub fn awake(&self) -> Vec<u64> {
        self.nodes.iter().filter(|(_, node)| node.process.is_some() && !node.paused).map(|(&id, _)| id).collect()
    }

    /// A node's own gRPC address, host:port; never that of a relay.
    pub fn endpoint(&self, node_id: u64) -> Result<String> {
        Ok(self.of(node_id)?.listen.to_string())
    }

    /// All nodes' gRPC addresses.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.values().map(|node| node.listen.to_string()).collect()
    }

    /// The wires between the nodes.
    pub fn network(&self) -> Result<&Network> {
        self.network.as_ref().context("the cluster was started without `network`")
    }

    /// Where the cluster keeps its files.
    pub fn directory(&self) -> Result<&Path> {
        Ok(self.directory.as_ref().context("the directory is there until the cluster is dropped")?.path())
    }

    /// Speaks to one node.
    pub fn node(&self, node_id: u64) -> Result<NodeClient> {
        NodeClient::new(&self.endpoint(node_id)?, REQUEST_TIMEOUT)
    }

    /// Speaks to each node.
    pub fn all_nodes(&self) -> Result<Vec<NodeClient>> {
        self.node_ids().into_iter().map(|node_id| self.node(node_id)).collect()
    }

    /// The Rust client, with all endpoints.
    pub async fn client(&self, request_ids: bool) -> Result<Client> {
        let config =
            ClientConfig { request_ids, timeout: Duration::from_secs(30), ..ClientConfig::new(self.endpoints()) };
        Ok(Client::connect(config).await?)
    }

    fn signal(&self, node_id: u64, signal: Signal) -> Result<()> {
        let process = self.of(node_id)?.process.as_ref().with_context(|| format!("node {node_id} does not run"))?;
        kill(Pid::from_raw(process.id().try_into()?), signal).with_context(|| format!("{signal} to node {node_id}"))
    }

    /// `kill -9`.
    pub async fn kill9(&mut self, node_id: u64) -> Result<()> {
        self.signal(node_id, Signal::SIGKILL)?;
        self.wait_gone(node_id).await.map(drop)
    }

    /// `kill -9` of all nodes, as nearly at once as one process can.
    pub async fn kill9_all(&mut self) -> Result<()> {
        let running: Vec<u64> =
            self.nodes.iter().filter(|(_, node)| node.process.is_some()).map(|(&id, _)| id).collect();
        for &node_id in &running {
            self.signal(node_id, Signal::SIGKILL)?;
        }
        for node_id in running {
            self.wait_gone(node_id).await?;
        }
        Ok(())
    }

    /// Tells a node to stop (SIGTERM), and waits until it has; how it ended.
    pub async fn stop(&mut self, node_id: u64) -> Result<ExitStatus> {
        self.signal(node_id, Signal::SIGTERM)?;
        self.wait_gone(node_id).await
    }

    async fn wait_gone(&mut self, node_id: u64) -> Result<ExitStatus> {
        let node = self.nodes.get_mut(&node_id).with_context(|| format!("there is no node {node_id}"))?;
        let process = node.process.as_mut().with_context(|| format!("node {node_id} does not run"))?;
        let deadline = Instant::now() + STOPPED_WITHIN;
        loop {
            if let Some(status) = process.try_wait()? {
                node.process = None;
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "node {node_id} still runs after {STOPPED_WITHIN:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Starts a node again on its data; does not wait until it is ready.
    pub fn start_again(&mut self, node_id: u64) -> Result<()> {
        self.spawn(node_id)
    }

    /// Starts a node again on its data and waits until it is ready.
    pub async fn restart(&mut self, node_id: u64) -> Result<()> {
        self.spawn(node_id)?;
        self.wait_node_ready(node_id).await
    }

    /// SIGSTOP: the process stands still, its connections stay open.
    pub fn pause(&mut self, node_id: u64) -> Result<()> {
        self.signal(node_id, Signal::SIGSTOP)?;
        self.nodes.entry(node_id).and_modify(|node| node.paused = true);
        Ok(())
    }

    /// SIGCONT.
    pub fn resume(&mut self, node_id: u64) -> Result<()> {
        self.signal(node_id, Signal::SIGCONT)?;
        self.nodes.entry(node_id).and_modify(|node| node.paused = false);
        Ok(())
    }

    /// Whether the node's process is there.
    pub fn is_running(&mut self, node_id: u64) -> Result<bool> {
        let node = self.nodes.get_mut(&node_id).with_context(|| format!("there is no node {node_id}"))?;
        match &mut node.process {
            Some(process) => Ok(process.try_wait()?.is_none()),
            None => Ok(false),
        }
    }

    /// The node's resident memory, bytes.
    pub fn resident_bytes(&self, node_id: u64) -> Result<u64> {
        let process = self.of(node_id)?.process.as_ref().with_context(|| format!("node {node_id} does not run"))?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kibibytes * 1024)
    }

    /// Status code and body of a path on the node's HTTP address.
    pub async fn http_get(&self, node_id: u64, path: &str) -> Result<(u16, String)> {
        http_get(self.of(node_id)?.http, path).await
    }

    /// Status code and body of what the node answers to a POST on its HTTP address.
    pub async fn http_post(&self, node_id: u64, path: &str, body: &str) -> Result<(u16, String)> {
        http_post(self.of(node_id)?.http, path, body).await
    }

    /// What the node answers to `curl` on its HTTP address.
    pub async fn curl(&self, node_id: u64, method: &str, path: &str, body: Option<&[u8]>) -> Result<HttpAnswer> {
        curl(self.of(node_id)?.http, method, path, body).await
    }

    /// The sum of a metric over its labels, as the node reports it; 0 where it reports none.
    pub async fn metric(&self, node_id: u64, name: &str) -> Result<f64> {
        let (code, text) = self.http_get(node_id, "/metrics").await?;
        ensure!(code == 200, "/metrics of node {node_id} answers {code}");
        Ok(metric_sum(&text, name))
    }

    /// Waits until all nodes that should run are ready, agree on every shard's leader and vote in every shard.
    pub async fn wait_ready(&mut self) -> Result<()> {
        for node_id in self.awake() {
            self.wait_node_ready(node_id).await?;
        }
        let everyone = self.node_ids();
        let awake = self.awake();
        let cluster = &*self;
        let awake = &awake;
        eventually("every shard has one leader and all nodes as voters", READY_WITHIN, async || {
            let mut leaders: Option<Vec<u64>> = None;
            for &node_id in awake {
                let status = cluster.node(node_id)?.status().await?;
                ensure!(!status.shards.is_empty(), "node {node_id} knows no shards");
                for shard in &status.shards {
                    let mut voters = shard.voters.clone();
                    voters.sort_unstable();
                    ensure!(voters == everyone, "node {node_id}: shard {} has voters {voters:?}", shard.shard_id);
                    ensure!(
                        awake.contains(&shard.leader_node_id),
                        "node {node_id}: shard {} has no leader",
                        shard.shard_id
                    );
                }
                let mine: Vec<u64> = status.shards.iter().map(|shard| shard.leader_node_id).collect();
                ensure!(leaders.get_or_insert(mine.clone()) == &mine, "the nodes disagree on leaders");
            }
            Ok(())
        })
        .await
    }

    async fn wait_node_ready(&mut self, node_id: u64) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            let answer = self.http_get(node_id, "/readyz").await;
            if matches!(answer, Ok((200, _))) {
                return Ok(());
            }
            ensure!(self.is_running(node_id)?, "node {node_id} ended instead of becoming ready");
            if Instant::now() > deadline {
                let answer = answer.unwrap_or_else(|error| (0, format!("{error:#}")));
                bail!("node {node_id} is not ready after {READY_WITHIN:?}; /readyz: {answer:?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The cluster's status, from any node that answers.
    pub async fn status(&self) -> Result<StatusResponse> {
        let mut last = anyhow!("no node is awake");
        for node_id in self.awake() {
            match self.node(node_id)?.status().await {
                Ok(status) => return Ok(status),
                Err(error) => last = anyhow!(error).context(format!("status of node {node_id}")),
            }
        }
        Err(last)
    }

    /// The shard that holds a key.
    pub async fn shard_of(&self, key: &str) -> Result<u32> {
        shard_of(&self.status().await?, key)
    }

    /// The leader of a key's shard: the node that, by its own account, leads it.
    pub async fn leader_of(&self, key: &str) -> Result<u64> {
        self.leader_of_shard(self.shard_of(key).await?).await
    }

    /// The node that, by its own account, leads a shard. Where two say so, the one of the later term.
    pub async fn leader_of_shard(&self, shard_id: u32) -> Result<u64> {
        eventually(&format!("shard {shard_id} has a leader"), Duration::from_secs(15), async || {
            let mut leader = None;
            for node_id in self.awake() {
                let Ok(status) = self.node(node_id)?.status().await else { continue };
                let shard = shard_status(&status, shard_id)?;
                if shard.role == "leader" {
                    leader = leader.max(Some((shard.term, node_id)));
                }
            }
            leader.map(|(_, node_id)| node_id).context("no node says that it leads")
        })
        .await
    }

    /// Waits until another node than `old` leads a shard.
    pub async fn next_leader_of_shard(&self, shard_id: u32, old: u64) -> Result<u64> {
        eventually(
            &format!("shard {shard_id} has another leader than node {old}"),
            Duration::from_secs(15),
            async || {
                let leader = self.leader_of_shard(shard_id).await?;
                ensure!(leader != old, "node {old} leads it still");
                Ok(leader)
            },
        )
        .await
    }

    /// Waits until each data shard is led by the node that is to lead it: from then on leaders stay where they are, as
    /// long as their nodes do.
    pub async fn wait_spread(&self) -> Result<()> {
        let nodes = self.node_ids();
        for shard_id in 1..=self.options.shards {
            let preferred = nodes[shard_id as usize % nodes.len()];
            eventually(&format!("node {preferred} leads shard {shard_id}"), READY_WITHIN, async || {
                let leader = self.leader_of_shard(shard_id).await?;
                ensure!(leader == preferred, "node {leader} leads it");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    fn logs_say(&self, text: &str) -> bool {
        self.nodes.values().any(|node| std::fs::read_to_string(&node.log).is_ok_and(|log| log.contains(text)))
    }

    /// Leaves the directory on disk and prints where it is.
    fn keep_logs(&mut self) {
        let Some(directory) = self.directory.take() else { return };
        eprintln!("the nodes' files are kept in {}", directory.keep().display());
        for (node_id, node) in &self.nodes {
            eprintln!("--- end of node {node_id}'s log, {}", node.log.display());
            eprintln!("{}", end_of(&node.log, 4000).unwrap_or_else(|error| format!("unreadable: {error}")));
        }
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        for node in self.nodes.values_mut() {
            if let Some(mut process) = node.process.take() {
                // Both fail only where the process is gone already.
                let _ = process.kill();
                let _ = process.wait();
            }
        }
        if std::thread::panicking() || std::env::var_os("CIRRUS_TEST_KEEP").is_some() {
            self.keep_logs();
        }
    }
}

/// Ports that nobody listens on. They are all held until all are found, so they differ.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let mut held = Vec::new();
    for _ in 0..10_000 {
        if held.len() == count {
            break;
        }
        let port = rand::rng().random_range(PORTS);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push((port, listener));
        }
    }
    ensure!(held.len() == count, "found {} of {count} free ports in {PORTS:?}", held.len());
    Ok(held.into_iter().map(|(port, _)| port).collect())
}

fn end_of(path: &Path, bytes: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
