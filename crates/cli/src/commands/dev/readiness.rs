//! When a local cluster is ready: every node says that every shard has a leader and all its voters.

use std::time::Duration;

use cirrus_client::v1::StatusResponse;
use cirrus_client::{Client, ClientConfig};
use indicatif::{ProgressBar, ProgressStyle};

use super::layout::NodePlan;

/// Between two looks at the nodes.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Voters that a shard has at least, where there are as many nodes.
const VOTERS: usize = 3;

/// Waits until the cluster is ready, without a bound; says what is missing on a progress line.
pub(crate) async fn wait(nodes: &[NodePlan]) -> u32 {
    let progress = ProgressBar::new_spinner()
        .with_style(ProgressStyle::default_spinner())
        .with_message(format!("starting {} nodes", nodes.len()));
    progress.enable_steady_tick(Duration::from_millis(100));
    let shards = loop {
        match look(nodes).await {
            Ok(shards) => break shards,
            Err(missing) => progress.set_message(missing),
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    };
    progress.finish_and_clear();
    shards
}

/// How many data shards the ready cluster has, or what is missing.
async fn look(nodes: &[NodePlan]) -> Result<u32, String> {
    let config = ClientConfig {
        timeout: Duration::from_secs(1),
        connect_timeout: Duration::from_millis(500),
        ..ClientConfig::new(nodes.iter().map(|node| node.address.clone()))
    };
    let client = Client::connect(config).await.map_err(|_| "no node answers yet".to_owned())?;
    let mut shards = 0;
    for node in nodes {
        let status = client.status_of(&node.address).await;
        let status = status.map_err(|_| format!("node {} does not answer yet", node.node_id))?;
        shards = missing(&status, nodes.len()).map_err(|missing| format!("node {}: {missing}", node.node_id))?;
    }
    Ok(shards)
}

fn missing(status: &StatusResponse, nodes: usize) -> Result<u32, String> {
    if status.nodes.len() < nodes {
        return Err(format!("{} of {nodes} nodes are in the cluster", status.nodes.len()));
    }
    if status.shards.len() < 2 {
        return Err("no shards yet".to_owned());
    }
    if let Some(shard) = status.shards.iter().find(|shard| shard.leader_node_id == 0) {
        return Err(format!("shard {} has no leader", shard.shard_id));
    }
    let voters = nodes.min(VOTERS);
    if let Some(shard) = status.shards.iter().find(|shard| shard.voters.len() < voters) {
        return Err(format!("shard {} has {} of {voters} voters", shard.shard_id, shard.voters.len()));
    }
    Ok(status.shards.len() as u32 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cirrus_client::v1::{NodeStatus, ShardStatus};

    fn status(nodes: usize, shards: &[(u64, usize)]) -> StatusResponse {
        StatusResponse {
            nodes: vec![NodeStatus::default(); nodes],
            shards: shards
                .iter()
                .map(|&(leader_node_id, voters)| ShardStatus {
                    leader_node_id,
                    voters: vec![1; voters],
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_cluster_is_ready_with_all_nodes_leaders_and_voters() {
        assert_eq!(missing(&status(3, &[(1, 3), (2, 3), (3, 3)]), 3), Ok(2));
        assert_eq!(missing(&status(1, &[(1, 1), (1, 1)]), 1), Ok(1));
        assert_eq!(missing(&status(5, &[(1, 5), (2, 3)]), 5), Ok(1));
        for (status, nodes) in [
            (status(2, &[(1, 3), (2, 3)]), 3),
            (status(3, &[(1, 3)]), 3),
            (status(3, &[(1, 3), (0, 3)]), 3),
            (status(3, &[(1, 3), (2, 2)]), 3),
        ] {
            assert!(missing(&status, nodes).is_err(), "{status:?}");
        }
    }
}
