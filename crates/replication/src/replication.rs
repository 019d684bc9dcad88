//! The node's groups: starting them, serving their peers, restarting one that failed, stopping all.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cirrus_proto::Failure;
use cirrus_proto::internal::v1 as pb;
use cirrus_proto::limits::Limits;
use cirrus_storage::{Checkpoint, NodeLog, ShardState, SharedResources, StorageConfig};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use openraft::storage::Snapshot;
use parking_lot::{Mutex, RwLock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::completions::Completions;
use crate::convert::{log_id_to_pb, vote_to_pb};
use crate::evaluation::Evaluator;
use crate::links::Links;
use crate::read_index::{LedShard, ReadIndex};
use crate::serve::serve;
use crate::shard::{Shard, ShardContext};
use crate::snapshot_transfer::receive;
use crate::timing::Timing;
use crate::types::Group;

/// Restarts of one group within [`RESTART_WINDOW`], past which the node gives up.
const RESTARTS_MAX: usize = 5;
const RESTART_WINDOW: Duration = Duration::from_secs(60);
const RESTART_PAUSE: Duration = Duration::from_millis(300);
const TRANSFER_BOUND: Duration = Duration::from_secs(2);

/// What a node's replication is made of.
#[derive(Clone)]
pub struct ReplicationConfig {
    /// Never reused.
    pub node_id: u64,
    /// Holds `log/`, `shards/N/` and `snapshots/N/`.
    pub data_dir: PathBuf,
    /// Heartbeats, elections, snapshots.
    pub timing: Timing,
    /// Mailbox bounds, and what evaluation enforces.
    pub limits: Limits,
    /// Caches and buffers that all shards of the node share.
    pub storage: StorageConfig,
}

/// Makes a shard's evaluator, each time that its executor starts.
pub type MakeEvaluator = Arc<dyn Fn(u32) -> Box<dyn Evaluator> + Send + Sync>;

/// All replicas that this node holds.
pub struct Replication {
    config: ReplicationConfig,
    context: ShardContext,
    resources: SharedResources,
    groups: Arc<Groups>,
    make_evaluator: MakeEvaluator,
    failed: Mutex<Option<String>>,
    /// When each group was restarted, within [`RESTART_WINDOW`].
    restarts: Mutex<HashMap<u32, Vec<Instant>>>,
}

/// The running groups by shard.
#[derive(Default)]
pub(crate) struct Groups {
    shards: RwLock<HashMap<u32, Arc<Shard>>>,
    /// Until when this node grants no votes; see [`Groups::may_vote`].
    silent_until: Option<Instant>,
    /// Told of shards that a peer asks for and that have no replica here.
    wanted: Option<mpsc::Sender<u32>>,
}

impl Groups {
    pub(crate) fn get(&self, shard_id: u32) -> Option<Group> {
        let group = self.shards.read().get(&shard_id).map(|shard| shard.group().clone());
        if let (None, Some(wanted)) = (&group, &self.wanted) {
            // A full channel already says so; the peer asks again.
            let _ = wanted.try_send(shard_id);
        }
        group
    }

    pub(crate) fn led(&self, shard_id: u32) -> Option<LedShard> {
        self.shards.read().get(&shard_id)?.led()
    }

    /// Of the leaderships that `node_id` claims, the shards whose replica here holds to it.
    pub(crate) fn held_by(&self, node_id: u64, claimed: &pb::ConfirmLeader) -> Vec<u32> {
        let shards = self.shards.read();
        let holds = |claim: &&pb::Leadership| {
            shards.get(&claim.shard_id).is_some_and(|shard| shard.holds_to(node_id, claim.term))
        };
        claimed.leaderships.iter().filter(holds).map(|claim| claim.shard_id).collect()
    }

    /// A restarted replica forgets the lease that it granted, so it sits out one election timeout before it
    /// votes: lease reads of a living leader stay right.
    pub(crate) fn may_vote(&self) -> bool {
        self.silent_until.is_none_or(|until| Instant::now() >= until)
    }
}

impl Replication {
    /// Opens the node's log. Shards are started one by one with [`Replication::start_shard`]. The receiver
    /// names shards that a peer sent entries for and that have no replica here: it is for the owner to decide
    /// whether to start one.
    ///
    /// # Errors
    /// INTERNAL where the data directory cannot be used.
    pub fn open(
        config: ReplicationConfig,
        make_evaluator: MakeEvaluator,
    ) -> Result<(Arc<Replication>, mpsc::Receiver<u32>), Failure> {
        let problem = |error| Failure::internal(format!("{}: {error}", config.data_dir.display()));
        let resources = SharedResources::new(config.storage.clone()).map_err(|error| problem(error.to_string()))?;
        let log_dir = config.data_dir.join("log");
        let restarted = log_dir.exists();
        let log = NodeLog::open(&log_dir, &resources, config.storage.log.clone())
            .map_err(|error| problem(error.to_string()))?;
        // Snapshots under way when the node stopped are worthless.
        remove_dir(&config.data_dir.join("snapshots")).map_err(|error| problem(error.to_string()))?;
        let context = ShardContext {
            node_id: config.node_id,
            log: Arc::new(log),
            links: Arc::new(Links::new(config.node_id)),
            timing: config.timing.clone(),
            limits: config.limits,
            reads: ReadIndex::new(config.limits.mailbox_commands),
            completions: Completions::start(),
        };
        let silence = Duration::from_millis(config.timing.election_max_ms);
        let (wanted, wanted_receiver) = mpsc::channel(64);
        let groups = Groups {
            shards: RwLock::default(),
            silent_until: restarted.then(|| Instant::now() + silence),
            wanted: Some(wanted),
        };
        let groups = Arc::new(groups);
        let rounds = context.reads.clone().run(Arc::downgrade(&groups), context.links.clone(), silence);
        tokio::spawn(rounds);
        let replication = Arc::new(Replication {
            context,
            resources,
            groups,
            make_evaluator,
            failed: Mutex::new(None),
            restarts: Mutex::new(HashMap::new()),
            config,
        });
        Ok((replication, wanted_receiver))
    }

    /// Starts a shard's replica from what is on disk; the running one where there is one.
    ///
    /// # Errors
    /// INTERNAL where its state cannot be opened.
    pub async fn start_shard(self: &Arc<Self>, shard_id: u32) -> Result<Arc<Shard>, Failure> {
        if let Some(shard) = self.shard(shard_id) {
            return Ok(shard);
        }
        let directory = self.config.data_dir.join("shards").join(shard_id.to_string());
        let state = ShardState::open(&directory, &self.resources)
            .map_err(|error| Failure::internal(format!("{}: {error}", directory.display())))?;
        self.run_shard(shard_id, Arc::new(state)).await
    }

    /// Boxed, since a supervisor that restarts a shard runs inside what this starts.
    fn run_shard(
        self: &Arc<Self>,
        shard_id: u32,
        state: Arc<ShardState>,
    ) -> BoxFuture<'_, Result<Arc<Shard>, Failure>> {
        async move {
            let evaluator = (self.make_evaluator)(shard_id);
            let snapshots = self.snapshots_of(shard_id);
            let shard = Shard::start(&self.context, shard_id, state, snapshots, evaluator).await?;
            self.groups.shards.write().insert(shard_id, shard.clone());
            tokio::spawn(supervise(self.clone(), shard.clone()));
            Ok(shard)
        }
        .boxed()
    }

    fn snapshots_of(&self, shard_id: u32) -> PathBuf {
        self.config.data_dir.join("snapshots").join(shard_id.to_string())
    }

    /// Shards that have a state on disk.
    ///
    /// # Errors
    /// INTERNAL where the data directory cannot be read.
    pub fn stored_shards(&self) -> Result<Vec<u32>, Failure> {
        let folder = self.config.data_dir.join("shards");
        let problem = |error: std::io::Error| Failure::internal(format!("{}: {error}", folder.display()));
        let mut shards = Vec::new();
        match std::fs::read_dir(&folder) {
            Ok(entries) => {
                for entry in entries {
                    shards
                        .extend(entry.map_err(problem)?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(problem(error)),
        }
        shards.sort_unstable();
        Ok(shards)
    }

    /// The running replica of a shard.
    pub fn shard(&self, shard_id: u32) -> Option<Arc<Shard>> {
        self.groups.shards.read().get(&shard_id).cloned()
    }

    /// Every running replica, by shard.
    pub fn shards(&self) -> BTreeMap<u32, Arc<Shard>> {
        self.groups.shards.read().iter().map(|(id, shard)| (*id, shard.clone())).collect()
    }

    /// Why the node cannot go on, where it cannot.
    pub fn failed(&self) -> Option<String> {
        self.failed.lock().clone()
    }

    /// Whether a failed group may be restarted once more; counts the restart.
    fn may_restart(&self, shard_id: u32) -> bool {
        let mut restarts = self.restarts.lock();
        let recent = restarts.entry(shard_id).or_default();
        recent.retain(|at| at.elapsed() < RESTART_WINDOW);
        recent.push(Instant::now());
        recent.len() <= RESTARTS_MAX
    }

    /// Whether the link to a peer is up.
    pub fn is_connected(&self, peer: u64) -> bool {
        self.context.links.is_connected(peer)
    }

    /// Serves a peer's link, a connection that begins with [`LINK_FIRST_BYTE`](crate::LINK_FIRST_BYTE), until it ends.
    pub fn serve_link<S>(&self, stream: S) -> impl Future<Output = ()> + Send + 'static + use<S>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        serve(self.groups.clone(), stream)
    }

    /// Receives a snapshot from a leader and installs it.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a transfer that is not whole, UNAVAILABLE where there is no such replica.
    pub async fn serve_snapshot(
        &self,
        incoming: Streaming<pb::SnapshotChunk>,
    ) -> Result<pb::InstallSnapshotResponse, Status> {
        let folder_of = |shard_id| match self.shard(shard_id) {
            Some(_) => Ok(self.snapshots_of(shard_id)),
            None => Err(format!("no replica of shard {shard_id} here")),
        };
        let received = receive(incoming, folder_of).await.map_err(Status::invalid_argument)?;
        let (arrived, resources) = (received.directory.clone(), self.resources.clone());
        let checkpoint = tokio::task::spawn_blocking(move || Checkpoint::open(arrived.path(), &resources))
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| Status::invalid_argument(format!("the snapshot is not sound: {error}")))?;
        if checkpoint.applied.log_id != received.meta.last_log_id.as_ref().map(log_id_to_pb) {
            let (says, holds) = (received.meta.last_log_id, checkpoint.applied.log_id);
            return Err(Status::invalid_argument(format!(
                "the snapshot says it ends at {says:?}, its files at {holds:?}"
            )));
        }
        let group = self.groups.get(received.shard_id).ok_or_else(|| Status::unavailable("the replica stopped"))?;
        let snapshot = Snapshot { meta: received.meta, snapshot: received.directory };
        let response = group
            .install_full_snapshot(received.vote, snapshot)
            .await
            .map_err(|fatal| Status::unavailable(fatal.to_string()))?;
        Ok(pb::InstallSnapshotResponse { vote: Some(vote_to_pb(&response.vote)) })
    }

    /// Hands leadership over where another voter is ready for it, then stops every group and flushes.
    pub async fn shutdown(&self) {
        let shards = self.shards();
        let transfers = shards.values().filter(|shard| shard.leads()).map(|shard| async move {
            for target in shard.transfer_targets().into_iter().take(2) {
                match shard.transfer_leader(target, TRANSFER_BOUND).await {
                    Ok(()) => return,
                    Err(failure) => tracing::warn!(shard = shard.id(), %failure, "leadership not handed over"),
                }
            }
        });
        futures::future::join_all(transfers).await;
        futures::future::join_all(shards.values().map(|shard| shard.stop())).await;
        self.groups.shards.write().clear();
        self.context.links.close();
        for (shard_id, shard) in shards {
            let state = shard.state().clone();
            match tokio::task::spawn_blocking(move || state.flush()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(shard = shard_id, %error, "not flushed; the log has it all"),
                Err(error) => tracing::warn!(shard = shard_id, %error, "not flushed; the log has it all"),
            }
        }
    }
}

/// Restarts a group that failed, from its log and state, and says so in a metric. A group that keeps
/// failing fails the node.
async fn supervise(replication: Arc<Replication>, shard: Arc<Shard>) {
    let shard_id = shard.id();
    let Some(failure) = shard.failed().await else { return };
    metrics::counter!("cirrus_group_failures_total", "shard" => shard_id.to_string()).increment(1);
    tracing::error!(shard = shard_id, failure, "the group failed");
    let state = shard.state().clone();
    shard.stop().await;
    drop(shard);
    while replication.may_restart(shard_id) {
        tokio::time::sleep(RESTART_PAUSE).await;
        match replication.run_shard(shard_id, state.clone()).await {
            Ok(_) => return tracing::warn!(shard = shard_id, "the group runs again"),
            Err(failure) => tracing::error!(shard = shard_id, %failure, "the group does not restart"),
        }
    }
    *replication.failed.lock() = Some(format!("shard {shard_id} failed: {failure}"));
}

fn remove_dir(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
