//! What the replicas of shards hold, compared.

use anyhow::{Result, ensure};
use cirrus_client::Client;
use cirrus_proto::v1::{VerifyOutcome, VerifyRequest, VerifyResponse};

use crate::cluster::TestCluster;

/// What is found of some shards, or, where none is named, of all.
pub async fn verify(client: &Client, shard_ids: Vec<u32>) -> Result<Vec<VerifyResponse>> {
    let mut shards = Vec::new();
    client.verify(VerifyRequest { shard_ids, bytes_per_second: 0 }, |shard| shards.push(shard)).await?;
    Ok(shards)
}

impl TestCluster {
    /// Compares what all nodes hold of some shards or, where none is named, of all.
    ///
    /// # Errors
    /// Where replicas differ, or one could not be compared.
    pub async fn identical_replicas(&self, shard_ids: Vec<u32>) -> Result<Vec<VerifyResponse>> {
        let shards = verify(&self.client(false).await?, shard_ids).await?;
        for shard in &shards {
            ensure!(shard.outcome() == VerifyOutcome::Identical, "replicas are not the same: {shard:?}");
            let nodes: Vec<u64> = shard.replicas.iter().map(|replica| replica.node_id).collect();
            ensure!(nodes == self.node_ids(), "nodes {nodes:?} were compared: {shard:?}");
            let first = &shard.replicas[0];
            let same = shard.replicas.iter().all(|one| one.hash == first.hash && one.keys == first.keys);
            ensure!(same && shard.log_index > 0 && first.hash.len() == 32, "{shard:?}");
        }
        Ok(shards)
    }
}
