//! How a node comes to belong to a cluster: it resumes, creates one, or joins one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cirrus_proto::internal::v1::command::Kind;
use cirrus_proto::internal::v1::{Command, CreateCluster, JoinRequest, JoinResponse, RegisterNode};
use cirrus_proto::{Failure, Reason};
use tokio::sync::mpsc;

use crate::evaluator::CATALOG_SHARD;
use crate::node::{ClusterNode, Membership};
use crate::{catalog, identity};

const RETRY_PAUSE: Duration = Duration::from_millis(200);
const COMMAND_BOUND: Duration = Duration::from_secs(5);

/// Starts what the data directory holds. False where it belongs to no cluster yet.
pub(crate) async fn resume(node: &Arc<ClusterNode>) -> Result<bool, Failure> {
    let Some(identity) = identity::load(&node.config.data_dir, node.config.node_id)? else { return Ok(false) };
    belong(node, &identity.cluster_id, identity.shard_count);
    for shard_id in node.replication.stored_shards()? {
        node.replication.start_shard(shard_id).await?;
    }
    tracing::info!(cluster = identity.cluster_id, "resumed");
    Ok(true)
}

/// Creates a cluster, or joins one, trying until it works.
pub(crate) async fn begin(node: Arc<ClusterNode>) {
    loop {
        let result = if node.config.join.is_empty() { create(&node).await } else { join_any(&node).await };
        match result {
            Ok(()) => return,
            Err(failure) => tracing::warn!(%failure, "not in a cluster yet"),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

fn belong(node: &Arc<ClusterNode>, cluster_id: &str, shard_count: u32) {
    node.catalog.set(&node.replication, shard_count);
    // A node belongs to one cluster for good: a second call says the same.
    let _ = node.membership.set(Membership { cluster_id: cluster_id.to_owned(), shard_count });
}

/// Creates a cluster of one node. Each step may be repeated after a crash.
async fn create(node: &Arc<ClusterNode>) -> Result<(), Failure> {
    let node_id = node.config.node_id;
    let catalog_shard = node.replication.start_shard(CATALOG_SHARD).await?;
    catalog_shard.initialize(node_id, node.as_member()).await?;
    let command = Kind::CreateCluster(CreateCluster {
        cluster_id: format!("{:032x}", rand::random::<u128>()),
        shard_count: node.config.shard_count,
        node_id,
        node: Some(node.as_member().into()),
    });
    catalog_shard.execute(Command { kind: Some(command) }, Instant::now() + COMMAND_BOUND).await?;
    let created = catalog::cluster(&catalog_shard.view())?
        .ok_or_else(|| Failure::internal("the catalog lacks the cluster that was just created"))?;
    for shard_id in 1..=created.shard_count {
        node.replication.start_shard(shard_id).await?.initialize(node_id, node.as_member()).await?;
    }
    identity::store(&node.config.data_dir, node_id, &created.cluster_id, created.shard_count)?;
    belong(node, &created.cluster_id, created.shard_count);
    tracing::info!(cluster = created.cluster_id, shards = created.shard_count, "created a cluster");
    Ok(())
}

async fn join_any(node: &Arc<ClusterNode>) -> Result<(), Failure> {
    let mut last = Failure::invalid_field("join", "names no node");
    for address in &node.config.join {
        let request = JoinRequest {
            node_id: node.config.node_id,
            node: Some(node.as_member().into()),
            cluster_id: String::new(),
        };
        match node.forwarder.join(address, request, COMMAND_BOUND).await {
            Ok(joined) => return joined_cluster(node, joined).await,
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

async fn joined_cluster(node: &Arc<ClusterNode>, joined: JoinResponse) -> Result<(), Failure> {
    identity::store(&node.config.data_dir, node.config.node_id, &joined.cluster_id, joined.shard_count)?;
    belong(node, &joined.cluster_id, joined.shard_count);
    // The catalog's leader finds this node in the catalog and sends it entries.
    node.replication.start_shard(CATALOG_SHARD).await?;
    tracing::info!(cluster = joined.cluster_id, "joined a cluster");
    Ok(())
}

/// Starts replicas of shards whose leaders send entries here: a leader added this node to them.
pub(crate) async fn start_wanted(node: Arc<ClusterNode>, mut wanted: mpsc::Receiver<u32>) {
    while let Some(shard_id) = wanted.recv().await {
        let exists = node.membership.get().is_some_and(|membership| shard_id <= membership.shard_count);
        if exists && let Err(failure) = node.replication.start_shard(shard_id).await {
            tracing::error!(shard = shard_id, %failure, "a replica does not start");
        }
    }
}

impl ClusterNode {
    /// Admits a node to the cluster; its replicas follow by themselves.
    ///
    /// # Errors
    /// NODE_CONFLICT for an id in use elsewhere or a node of another cluster, and those of a catalog command.
    pub async fn join(&self, request: JoinRequest) -> Result<JoinResponse, Failure> {
        let membership = self.member_of()?;
        if !request.cluster_id.is_empty() && request.cluster_id != membership.cluster_id {
            let text = format!("node {} belongs to cluster {}", request.node_id, request.cluster_id);
            return Err(Failure::new(Reason::NodeConflict, text));
        }
        let command = Kind::RegisterNode(RegisterNode { node_id: request.node_id, node: request.node });
        let deadline = Instant::now() + COMMAND_BOUND;
        self.command(CATALOG_SHARD, Command { kind: Some(command) }, deadline, true).await?;
        Ok(JoinResponse {
            cluster_id: membership.cluster_id.clone(),
            shard_count: membership.shard_count,
            nodes: self.members().into_iter().map(|(id, node)| (id, node.into())).collect(),
        })
    }
}
