//! Comparing the replicas of a shard: each is hashed as it is at one and the same log index.
//!
//! The index is one that no replica has passed. On a shard that is written to it lies some way ahead, as far as the log grows
//! until all replicas are asked; on one that is not, it is the last. Where a replica was asked too late, another
//! index is tried.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use cirrus_proto::internal::v1::{HashReplicaRequest, HashReplicaResponse};
use cirrus_proto::v1::{ShardStatus, VerifiedReplica, VerifyOutcome, VerifyResponse};
use cirrus_proto::{Failure, Reason};
use futures::future::join_all;

use crate::node::ClusterNode;
use crate::status::local_status;

/// How often another index is tried.
const ATTEMPTS: u32 = 8;
/// How long the shard is watched to see how fast its log grows.
const WATCH: Duration = Duration::from_millis(100);
/// How long an entry may take from the leader's log to the slowest replica's state.
const APPLY_WAIT: Duration = Duration::from_secs(3);
/// How long a node may take to say where its replica stands.
const DESCRIBE_BOUND: Duration = Duration::from_secs(2);
/// The longest that a replica is read.
const HASH_BOUND: Duration = Duration::from_secs(3600);
/// The pause before another index is tried, times the number of the attempt.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest wait of a request to [`ClusterNode::hash_replica`].
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Where the replicas of a shard stand.
struct Replicas {
    /// Nodes with a replica, or of which nobody can say that they have none.
    nodes: BTreeMap<u64, Result<ShardStatus, Failure>>,
    /// The last entry that any of them has applied.
    applied_index: u64,
}

impl ClusterNode {
    /// Where this node's replica of a shard stands, if it has one.
    pub fn local_replica(&self, shard_id: u32) -> Option<ShardStatus> {
        let shard = self.replication.shard(shard_id)?;
        Some(local_status(&shard, self.membership.get()?.shard_count))
    }

    /// Hashes this node's replica of a shard, one at a time. Given up when the future is dropped.
    ///
    /// # Errors
    /// NO_LEADER where there is no replica, TOO_MANY_REQUESTS while another is hashed, DEADLINE_EXCEEDED where the entry
    /// is not applied in time.
    pub async fn hash_replica(&self, request: HashReplicaRequest) -> Result<HashReplicaResponse, Failure> {
        let shard = self.replication.shard(request.shard_id).ok_or_else(|| self.elsewhere(request.shard_id))?;
        let _only_one = self.hashing.try_acquire().map_err(|_| {
            Failure::new(Reason::TooManyRequests, "the node hashes another replica, one at a time").retry_after(PAUSE)
        })?;
        let wait = Duration::from_millis(request.wait_ms).min(WAIT_MAX);
        let hashed = shard.hash_state(request.log_index, wait, request.bytes_per_second).await?;
        Ok(HashReplicaResponse {
            log_index: hashed.applied.log_id.map_or(0, |applied| applied.index),
            hash: Bytes::copy_from_slice(&hashed.hash),
            keys: hashed.keys,
            bytes: hashed.bytes,
        })
    }

    /// Compares the replicas of a shard, each of which reads all of its own at that rate. Given up when the future is dropped.
    pub async fn verify_shard(&self, shard_id: u32, bytes_per_second: u64) -> VerifyResponse {
        let mut attempt = 1;
        loop {
            let before = self.replicas(shard_id).await;
            tokio::time::sleep(WATCH).await;
            let replicas = self.replicas(shard_id).await;
            let grown = replicas.applied_index.saturating_sub(before.applied_index);
            let log_index = replicas.applied_index + grown * 2 * u64::from(attempt);
            let asked = replicas.nodes.into_iter().map(|(node_id, status)| async move {
                let hashed = match status {
                    Ok(_) => self.hash_replica_of(node_id, shard_id, log_index, bytes_per_second).await,
                    Err(failure) => Err(failure),
                };
                (node_id, hashed)
            });
            let hashed = join_all(asked).await;
            let missed = |hashed: &Result<HashReplicaResponse, Failure>| match hashed {
                Ok(hashed) => hashed.log_index != log_index,
                Err(failure) => matches!(failure.reason, Reason::DeadlineExceeded | Reason::TooManyRequests),
            };
            if attempt >= ATTEMPTS || !hashed.iter().any(|(_, hashed)| missed(hashed)) {
                return compare(shard_id, log_index, hashed);
            }
            tokio::time::sleep(PAUSE * attempt).await;
            attempt += 1;
        }
    }

    async fn hash_replica_of(
        &self,
        node_id: u64,
        shard_id: u32,
        log_index: u64,
        bytes_per_second: u64,
    ) -> Result<HashReplicaResponse, Failure> {
        let wait_ms = APPLY_WAIT.as_millis() as u64;
        let request = HashReplicaRequest { shard_id, log_index, wait_ms, bytes_per_second };
        let hashed = async {
            if node_id == self.config.node_id {
                return self.hash_replica(request).await;
            }
            self.forwarder.hash_replica(&self.address_of(node_id)?, request).await
        };
        tokio::time::timeout(HASH_BOUND, hashed).await.unwrap_or_else(|_| {
            let text = format!("it took longer than {} s; allow more bytes a second", HASH_BOUND.as_secs());
            Err(Failure::new(Reason::OutcomeUnknown, text))
        })
    }

    fn address_of(&self, node_id: u64) -> Result<String, Failure> {
        let node = self.members().remove(&node_id);
        node.map(|node| node.address)
            .ok_or_else(|| Failure::internal(format!("node {node_id} is not in this node's catalog")))
    }

    /// Asks all nodes for their replicas of a shard.
    async fn replicas(&self, shard_id: u32) -> Replicas {
        let asked = self.members().into_iter().map(|(node_id, node)| async move {
            if node_id == self.config.node_id {
                return (node_id, Ok(self.local_replica(shard_id)));
            }
            let described = self.forwarder.describe_replica(&node.address, shard_id, DESCRIBE_BOUND).await;
            (node_id, described.map(|described| described.replica))
        });
        let answers = join_all(asked).await;
        let known = || answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()?.as_ref());
        let mut members: BTreeSet<u64> =
            known().flat_map(|status| status.voters.iter().chain(&status.learners).copied()).collect();
        if members.is_empty() {
            members.extend(answers.iter().map(|(node_id, _)| *node_id));
        }
        let applied_index = known().map(|status| status.applied_index).max().unwrap_or(0);
        let mut nodes: BTreeMap<u64, Result<ShardStatus, Failure>> = BTreeMap::new();
        for (node_id, answer) in answers {
            // A replica that is not a member any more may lag for good, and one that a member has not begun yet holds nothing.
            match answer {
                Ok(Some(status)) if members.contains(&node_id) => nodes.insert(node_id, Ok(status)),
                Ok(None) if members.contains(&node_id) => {
                    nodes.insert(node_id, Err(Failure::new(Reason::NotReady, "the node has no replica yet")))
                }
                Err(failure) if members.contains(&node_id) => nodes.insert(node_id, Err(failure)),
                _ => None,
            };
        }
        for node_id in members {
            let unknown = || Err(Failure::internal("the node is not in this node's catalog"));
            nodes.entry(node_id).or_insert_with(unknown);
        }
        Replicas { nodes, applied_index }
    }
}

/// What the hashes say, of which each may be that of another entry than the one that was meant.
fn compare(shard_id: u32, log_index: u64, hashed: Vec<(u64, Result<HashReplicaResponse, Failure>)>) -> VerifyResponse {
    let mut hashes = BTreeSet::new();
    let mut complete = !hashed.is_empty();
    let replica = |(node_id, hashed): (u64, Result<HashReplicaResponse, Failure>)| {
        let problem = match hashed {
            Ok(HashReplicaResponse { log_index: found, hash, keys, bytes }) if found == log_index => {
                hashes.insert(hash.clone());
                return VerifiedReplica { node_id, hash, keys, bytes, problem: String::new() };
            }
            Ok(other) => format!("hashed at entry {} instead of {log_index}", other.log_index),
            Err(failure) => format!("{}: {}", failure.reason.as_str(), failure.message),
        };
        complete = false;
        VerifiedReplica { node_id, problem, ..Default::default() }
    };
    let replicas: Vec<VerifiedReplica> = hashed.into_iter().map(replica).collect();
    let outcome = match (hashes.len(), complete) {
        (2.., _) => VerifyOutcome::Different,
        (1, true) => VerifyOutcome::Identical,
        _ => VerifyOutcome::Incomplete,
    };
    let log_index = if hashes.is_empty() { 0 } else { log_index };
    VerifyResponse { shard_id, outcome: outcome.into(), log_index, replicas }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashed(log_index: u64, hash: &'static str) -> Result<HashReplicaResponse, Failure> {
        Ok(HashReplicaResponse { log_index, hash: Bytes::from_static(hash.as_bytes()), keys: 1, bytes: 2 })
    }

    fn down() -> Result<HashReplicaResponse, Failure> {
        Err(Failure::new(Reason::NoLeader, "not reached"))
    }

    #[test]
    fn only_hashes_of_one_entry_are_compared() {
        use VerifyOutcome::{Different, Identical, Incomplete};
        for (replicas, outcome, index, problems) in [
            (vec![hashed(7, "a"), hashed(7, "a"), hashed(7, "a")], Identical, 7, 0),
            (vec![hashed(7, "a")], Identical, 7, 0),
            (vec![hashed(7, "a"), hashed(7, "b"), hashed(7, "a")], Different, 7, 0),
            (vec![hashed(7, "a"), hashed(7, "a"), down()], Incomplete, 7, 1),
            (vec![hashed(7, "a"), hashed(7, "b"), down()], Different, 7, 1),
            (vec![hashed(7, "a"), hashed(8, "b"), hashed(7, "a")], Incomplete, 7, 1),
            (vec![down(), hashed(8, "a")], Incomplete, 0, 2),
            (vec![], Incomplete, 0, 0),
        ] {
            let found = compare(3, 7, (1..).zip(replicas.clone()).collect());
            assert_eq!((found.outcome(), found.log_index), (outcome, index), "{replicas:?}");
            let told = found.replicas.iter().filter(|replica| !replica.problem.is_empty());
            assert_eq!(told.count(), problems, "{replicas:?}");
        }
    }
}
