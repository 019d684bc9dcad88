//! One node of the cluster: where a request finds its shard's leader, here or elsewhere.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cirrus_proto::internal::v1::{
    Command, ExecuteRequest, ExecuteResponse, Query, QueryResult, Reply, execute_request, execute_response,
};
use cirrus_proto::limits::{Limits, SqlLimits};
use cirrus_proto::v1::CallRequest;
use cirrus_proto::{Failure, Reason, routing};
use cirrus_replication::{Executed, LeaderView, Node, Replication, ReplicationConfig, Shard, Submitted, Timing};
use cirrus_storage::StorageConfig;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::call_metrics::{self, KnownProcedures};
use crate::caller::Calling;
use crate::catalog_view::CatalogHandle;
use crate::evaluator::{CATALOG_SHARD, ShardEvaluator};
use crate::forward::Forwarder;
use crate::governor::{Governor, SuspensionSettings};
use crate::log_book::{self, LogBook, LogSettings};
use crate::query::run_query;
use crate::read_calls::ReadCalls;
use crate::running_calls::{CallControls, RuntimeId};
use crate::sql::SqlReads;
use crate::{bootstrap, governor, placement, schedule_metrics, schedule_runner, state_metrics, sweep};

/// How long a request waits between looks for a leader.
const LEADER_POLL: Duration = Duration::from_millis(25);
/// How long a forwarded request may go on at a node that was deposed meanwhile. One that is alive answers by
/// then; one that stands still would hold the request until its deadline.
const DEPOSED_GRACE: Duration = Duration::from_millis(500);

/// What a node needs to know to start.
#[derive(Clone)]
pub struct NodeConfig {
    /// Never reused within a cluster; above 0.
    pub node_id: u64,
    /// Everything that the node keeps.
    pub data_dir: PathBuf,
    /// gRPC address at which others reach this node, host:port.
    pub address: String,
    /// HTTP address at which others reach this node, host:port.
    pub http_address: String,
    /// gRPC addresses of nodes to join; empty: create a cluster.
    pub join: Vec<String>,
    /// Data shards of a cluster that this node creates.
    pub shard_count: u32,
    /// What is enforced.
    pub limits: Limits,
    /// What is enforced of databases and the requests to them.
    pub sql: SqlLimits,
    /// Heartbeats, elections, snapshots.
    pub timing: Timing,
    /// Caches and buffers.
    pub storage: StorageConfig,
    /// When procedures are suspended.
    pub suspension: SuspensionSettings,
    /// How much is kept and told of what calls log.
    pub logs: LogSettings,
}

/// A result, and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Routed<T> {
    /// The result.
    pub value: T,
    /// Where this node forwarded the request to: the shard's leader, which smart clients ask next time.
    pub leader_address: Option<String>,
}

/// Leaders of shards that this node has no replica of, as other nodes named them.
#[derive(Default)]
struct LeaderHints(parking_lot::Mutex<HashMap<u32, String>>);

impl LeaderHints {
    fn of(&self, shard_id: u32) -> Option<String> {
        self.0.lock().get(&shard_id).cloned()
    }

    /// Takes note of a leader, or forgets one that proved wrong.
    fn learn(&self, shard_id: u32, address: Option<&String>) {
        match address {
            Some(address) => self.0.lock().insert(shard_id, address.clone()),
            None => self.0.lock().remove(&shard_id),
        };
    }
}

/// The cluster that the node belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) cluster_id: String,
    pub(crate) shard_count: u32,
}

/// A running node.
pub struct ClusterNode {
    pub(crate) config: NodeConfig,
    pub(crate) replication: Arc<Replication>,
    pub(crate) catalog: Arc<CatalogHandle>,
    pub(crate) forwarder: Forwarder,
    pub(crate) membership: OnceLock<Membership>,
    pub(crate) calls: Arc<CallControls>,
    read_calls: ReadCalls,
    pub(crate) governor: Arc<Governor>,
    pub(crate) log_book: Arc<LogBook>,
    sql_reads: SqlReads,
    /// Held while a replica is hashed.
    pub(crate) hashing: Semaphore,
    hints: LeaderHints,
    tasks: parking_lot::Mutex<JoinSet<()>>,
}

impl ClusterNode {
    /// Opens the node's storage and starts its replicas. A new node then creates a cluster or joins one, in
    /// the background; see [`ClusterNode::is_ready`].
    ///
    /// # Errors
    /// INVALID_FIELD for an impossible setting, NODE_CONFLICT for another node's data directory, INTERNAL
    /// where storage cannot be opened.
    pub async fn start(config: NodeConfig) -> Result<Arc<ClusterNode>, Failure> {
        if config.node_id == 0 {
            return Err(Failure::invalid_field("node_id", "must be above 0"));
        }
        if config.shard_count == 0 || config.shard_count > u32::from(routing::SLOT_COUNT) {
            let range = format!("must be 1 to {}, not {}", routing::SLOT_COUNT, config.shard_count);
            return Err(Failure::invalid_field("shards", range));
        }
        std::fs::create_dir_all(&config.data_dir)
            .map_err(|error| Failure::internal(format!("{}: {error}", config.data_dir.display())))?;
        let catalog = Arc::new(CatalogHandle::default());
        let (limits, sql) = (config.limits, config.sql);
        // What is wrong with the limits, or with SQLite, is found before any shard starts.
        cirrus_sql::Databases::new(sql)?;
        let procedures = Arc::new(KnownProcedures::default());
        let governor = Arc::new(Governor::new(config.suspension, procedures.clone()));
        let log_book = LogBook::new(config.node_id, config.logs);
        let calling = Calling {
            limits,
            catalog: catalog.clone(),
            procedures,
            governor: governor.clone(),
            log_book: log_book.clone(),
        };
        let calls = Arc::new(CallControls::default());
        let read_calls = ReadCalls::new(calling.clone(), calls.clone(), sql);
        let controls = calls.clone();
        call_metrics::describe();
        schedule_metrics::describe();
        state_metrics::describe();
        log_book::describe();
        crate::sql::describe();
        let (replication, wanted) = Replication::open(
            ReplicationConfig {
                node_id: config.node_id,
                data_dir: config.data_dir.clone(),
                timing: config.timing.clone(),
                limits,
                storage: config.storage.clone(),
            },
            Arc::new(move |shard_id| {
                let evaluator = ShardEvaluator::new(shard_id, &calling, sql);
                controls.register(RuntimeId::Shard(shard_id), evaluator.control());
                Box::new(evaluator)
            }),
        )?;
        let node = Arc::new(ClusterNode {
            config,
            replication,
            sql_reads: SqlReads::new(sql, catalog.clone()),
            catalog,
            forwarder: Forwarder::default(),
            membership: OnceLock::new(),
            calls,
            read_calls,
            governor,
            log_book,
            hashing: Semaphore::new(1),
            hints: LeaderHints::default(),
            tasks: parking_lot::Mutex::new(JoinSet::new()),
        });
        let known = bootstrap::resume(&node).await?;
        let mut tasks = node.tasks.lock();
        if !known {
            tasks.spawn(bootstrap::begin(node.clone()));
        }
        tasks.spawn(bootstrap::start_wanted(node.clone(), wanted));
        tasks.spawn(placement::run(node.clone()));
        tasks.spawn(sweep::run(node.clone()));
        tasks.spawn(state_metrics::run(node.clone()));
        tasks.spawn(schedule_runner::run(node.clone()));
        tasks.spawn(governor::tidy_up(node.governor.clone()));
        drop(tasks);
        Ok(node)
    }

    /// This node as others know it.
    pub(crate) fn as_member(&self) -> Node {
        Node { address: self.config.address.clone(), http_address: self.config.http_address.clone() }
    }

    pub(crate) fn member_of(&self) -> Result<&Membership, Failure> {
        self.membership.get().ok_or_else(|| {
            Failure::new(Reason::NotReady, "this node does not belong to a cluster yet")
                .retry_after(Duration::from_millis(200))
        })
    }

    /// The shard that holds a key.
    ///
    /// # Errors
    /// NOT_READY before the node belongs to a cluster.
    pub fn shard_of(&self, key: &[u8]) -> Result<u32, Failure> {
        Ok(routing::shard_of_key(key, self.member_of()?.shard_count))
    }

    /// The data shards.
    ///
    /// # Errors
    /// NOT_READY before the node belongs to a cluster.
    pub fn shard_ids(&self) -> Result<Vec<u32>, Failure> {
        Ok((1..=self.member_of()?.shard_count).collect())
    }

    /// The node's groups, for its peers.
    pub fn replication(&self) -> &Arc<Replication> {
        &self.replication
    }

    /// What is enforced.
    pub fn limits(&self) -> &Limits {
        &self.config.limits
    }

    /// What is enforced of databases.
    pub fn sql_limits(&self) -> &SqlLimits {
        &self.config.sql
    }

    /// The local replica of a shard, if it leads.
    fn local_leader(&self, shard_id: u32) -> Option<Arc<Shard>> {
        self.replication.shard(shard_id).filter(|shard| shard.leads())
    }

    /// Queues a command on the local leader at once, so that commands of one caller keep their order.
    /// `None` where this node does not lead the shard: then use [`ClusterNode::command`].
    ///
    /// # Errors
    /// As [`Shard::submit`]; PROCEDURE_SUSPENDED, LIBRARY_BUDGET_EXCEEDED.
    pub fn submit(&self, shard_id: u32, command: Command, deadline: Instant) -> Option<Result<Submitted, Failure>> {
        let shard = self.local_leader(shard_id)?;
        Some(self.admit_command(&shard, &command).and_then(|()| shard.submit(command, deadline)))
    }

    /// Runs a command on its shard's leader, here or, if `may_forward`, on another node. Waits for an
    /// election to end, until the deadline.
    ///
    /// # Errors
    /// The command's own; NOT_LEADER, NO_LEADER, MAILBOX_FULL, PROCEDURE_SUSPENDED, LIBRARY_BUSY,
    /// LIBRARY_BUDGET_EXCEEDED, DEADLINE_EXCEEDED: nothing happened; OUTCOME_UNKNOWN.
    pub async fn command(
        &self,
        shard_id: u32,
        command: Command,
        deadline: Instant,
        may_forward: bool,
    ) -> Result<Routed<Reply>, Failure> {
        let routed = self.command_with_index(shard_id, command, deadline, may_forward).await?;
        Ok(Routed { value: routed.value.reply, leader_address: routed.leader_address })
    }

    /// As [`ClusterNode::command`], with the log index at which the command was applied.
    ///
    /// # Errors
    /// As [`ClusterNode::command`].
    pub async fn command_with_index(
        &self,
        shard_id: u32,
        command: Command,
        deadline: Instant,
        may_forward: bool,
    ) -> Result<Routed<Executed>, Failure> {
        let command = Arc::new(command);
        loop {
            let failure = if let Some(shard) = self.local_leader(shard_id) {
                self.admit_command(&shard, &command)?;
                match shard.execute(command.clone(), deadline).await {
                    Ok(executed) => return Ok(Routed { value: executed, leader_address: None }),
                    Err(failure) => failure,
                }
            } else if !may_forward {
                return Err(self.elsewhere(shard_id));
            } else if let Some(address) = self.leader_address(shard_id) {
                let kind = execute_request::Kind::Command(Command::clone(&command));
                let request = ExecuteRequest { shard_id, kind: Some(kind) };
                match self.forward(&address, request, deadline).await {
                    Ok(response) => {
                        let Some(execute_response::Kind::Reply(reply)) = response.kind else {
                            return Err(Failure::internal(format!("{address} answered without a reply")));
                        };
                        let executed = Executed { reply, applied_index: response.applied_index };
                        return Ok(Routed { value: executed, leader_address: Some(address) });
                    }
                    Err(failure) => failure,
                }
            } else {
                self.elsewhere(shard_id)
            };
            self.pause_before_retry(shard_id, failure, deadline, may_forward).await?;
        }
    }

    /// Runs a query where its consistency asks for, here or, if `may_forward`, on another node.
    ///
    /// # Errors
    /// The query's own; NOT_LEADER, NO_LEADER, MAILBOX_FULL, DEADLINE_EXCEEDED.
    pub async fn query(
        &self,
        shard_id: u32,
        query: Query,
        deadline: Instant,
        may_forward: bool,
    ) -> Result<Routed<QueryResult>, Failure> {
        loop {
            let failure = match self.replication.shard(shard_id) {
                Some(shard) if query.consistency() == cirrus_proto::v1::ReadConsistency::Stale || shard.leads() => {
                    match run_query(&shard, &query, &self.config.limits, (&self.read_calls, &self.sql_reads), deadline)
                        .await
                    {
                        Ok(value) => return Ok(Routed { value, leader_address: None }),
                        Err(failure) => failure,
                    }
                }
                _ if !may_forward => return Err(self.elsewhere(shard_id)),
                _ => match self.leader_address(shard_id) {
                    Some(address) => {
                        let kind = execute_request::Kind::Query(query.clone());
                        let request = ExecuteRequest { shard_id, kind: Some(kind) };
                        match self.forward(&address, request, deadline).await {
                            Ok(response) => {
                                let Some(execute_response::Kind::Result(value)) = response.kind else {
                                    return Err(Failure::internal(format!("{address} answered without a result")));
                                };
                                return Ok(Routed { value, leader_address: Some(address) });
                            }
                            // A read changes nothing, so a broken connection is no unknown outcome.
                            Err(failure) if failure.reason == Reason::OutcomeUnknown => {
                                Failure { reason: Reason::NoLeader, ..failure }
                            }
                            Err(failure) => failure,
                        }
                    }
                    None => self.elsewhere(shard_id),
                },
            };
            self.pause_before_retry(shard_id, failure, deadline, may_forward).await?;
        }
    }

    /// Whether the procedure is declared read-only, as far as this node's catalog says.
    pub fn is_read_only(&self, request: &CallRequest) -> bool {
        self.catalog.is_read_only(&request.procedure, &request.key)
    }

    /// Asks the shard's leader at `address`, for as long as it is not known to be deposed.
    async fn forward(
        &self,
        address: &str,
        request: ExecuteRequest,
        deadline: Instant,
    ) -> Result<ExecuteResponse, Failure> {
        let shard_id = request.shard_id;
        tokio::select! {
            answered = self.forwarder.execute(address, request, deadline) => answered,
            () = self.deposed(shard_id, address) => Err(Failure::new(
                Reason::OutcomeUnknown,
                format!("the node at {address} no longer leads shard {shard_id} and does not answer"),
            )),
        }
    }

    /// Ends [`DEPOSED_GRACE`] after the local replica saw another node lead than the one at `address`.
    async fn deposed(&self, shard_id: u32, address: &str) {
        if let Some(shard) = self.replication.shard(shard_id) {
            let mut leader = shard.leader();
            let other = |view: &LeaderView| view.leader.as_ref().is_some_and(|(_, node)| node.address != address);
            if leader.wait_for(other).await.is_ok() {
                return tokio::time::sleep(DEPOSED_GRACE).await;
            }
        }
        // Without a replica that follows the shard there is nobody to tell.
        std::future::pending().await
    }

    /// Returns to try again where nothing happened and a leader may be there soon; else gives the failure back.
    pub(crate) async fn pause_before_retry(
        &self,
        shard_id: u32,
        failure: Failure,
        deadline: Instant,
        may_forward: bool,
    ) -> Result<(), Failure> {
        // Both say that nothing happened, so trying again is safe.
        let leaderless = matches!(failure.reason, Reason::NotLeader | Reason::NoLeader);
        if leaderless {
            self.hints.learn(shard_id, failure.metadata.get("leader"));
        }
        if !leaderless || !may_forward || Instant::now() + LEADER_POLL >= deadline {
            return Err(failure);
        }
        tokio::time::sleep(LEADER_POLL).await;
        Ok(())
    }

    pub(crate) fn elsewhere(&self, shard_id: u32) -> Failure {
        match self.replication.shard(shard_id) {
            Some(shard) => shard.elsewhere(),
            None => Failure::new(Reason::NoLeader, format!("this node has no replica of shard {shard_id}"))
                .retry_after(Duration::from_millis(100)),
        }
    }

    /// Where the shard's leader is reached, if it is another node.
    pub(crate) fn leader_address(&self, shard_id: u32) -> Option<String> {
        match self.replication.shard(shard_id) {
            Some(shard) => {
                let leader = shard.leader().borrow().leader.clone();
                leader.filter(|(id, _)| *id != self.config.node_id).map(|(_, node)| node.address)
            }
            // Without a replica here, another node answers, or says where the leader is.
            None => self.hints.of(shard_id).or_else(|| self.any_other_node()),
        }
    }

    fn any_other_node(&self) -> Option<String> {
        let mut others = self.members();
        others.remove(&self.config.node_id);
        let nth = rand::random_range(0..others.len().max(1));
        others.into_values().nth(nth).map(|node| node.address)
    }

    /// The cluster's nodes, as this node's catalog has them.
    pub(crate) fn members(&self) -> BTreeMap<u64, Node> {
        let Some(shard) = self.replication.shard(CATALOG_SHARD) else { return BTreeMap::new() };
        match crate::catalog::nodes(&shard.view()) {
            Ok(nodes) => nodes.into_iter().map(|(id, node)| (id, node.into())).collect(),
            Err(failure) => {
                tracing::error!(%failure, "the catalog is unreadable");
                BTreeMap::new()
            }
        }
    }

    /// Whether the node belongs to a cluster, has a catalog, and each of its replicas knows a leader.
    pub fn is_ready(&self) -> bool {
        let shards = self.replication.shards();
        self.membership.get().is_some()
            && shards.contains_key(&CATALOG_SHARD)
            && shards.values().all(|shard| shard.leader().borrow().leader.is_some())
            && self.members().contains_key(&self.config.node_id)
    }

    /// Why the node cannot go on, where it cannot.
    pub fn failed(&self) -> Option<String> {
        self.replication.failed()
    }

    /// Hands leadership over, stops the groups and flushes.
    pub async fn shutdown(&self) {
        self.tasks.lock().abort_all();
        self.replication.shutdown().await;
    }
}
