//! Between openraft's types and our own protobuf: the only layout that reaches the wire or a disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use cirrus_proto::internal::v1 as pb;
use prost::Message as _;

use crate::types::{AppendRequest, Entry, LogId, Payload, ProposalBytes, StoredMembership, StreamAppendResult, Vote};

/// Where a member of a group is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// gRPC address, host:port.
    pub address: String,
    /// HTTP address, host:port.
    pub http_address: String,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl From<pb::MemberNode> for Node {
    fn from(node: pb::MemberNode) -> Self {
        Node { address: node.address, http_address: node.http_address }
    }
}

impl From<Node> for pb::MemberNode {
    fn from(node: Node) -> Self {
        pb::MemberNode { address: node.address, http_address: node.http_address }
    }
}

/// A message that lacks a part, or holds an impossible one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {message}: {problem}")]
pub struct Malformed {
    message: &'static str,
    problem: String,
}

impl Malformed {
    pub(crate) fn new(message: &'static str, problem: impl fmt::Display) -> Self {
        Malformed { message, problem: problem.to_string() }
    }
}

impl From<Malformed> for std::io::Error {
    fn from(error: Malformed) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error)
    }
}

pub(crate) fn log_id_to_pb(log_id: &LogId) -> pb::LogId {
    pb::LogId { term: log_id.leader_id.term, index: log_id.index }
}

pub(crate) fn log_id_from_pb(log_id: &pb::LogId) -> LogId {
    LogId::new_term_index(log_id.term, log_id.index)
}

pub(crate) fn vote_to_pb(vote: &Vote) -> pb::Vote {
    pb::Vote { term: vote.leader_id().term, node_id: vote.leader_id().voted_for, committed: vote.is_committed() }
}

pub(crate) fn vote_from_pb(vote: &pb::Vote) -> Vote {
    if vote.committed { Vote::new_committed(vote.term, vote.node_id) } else { Vote::new(vote.term, vote.node_id) }
}

pub(crate) fn required_vote(vote: &Option<pb::Vote>, message: &'static str) -> Result<Vote, Malformed> {
    vote.as_ref().map(vote_from_pb).ok_or_else(|| Malformed::new(message, "vote is missing"))
}

type Membership = openraft::Membership<u64, Node>;

pub(crate) fn membership_to_pb(membership: &Membership) -> pb::Membership {
    pb::Membership {
        configurations: membership
            .get_joint_config()
            .iter()
            .map(|voters| pb::VoterSet { node_ids: voters.iter().copied().collect() })
            .collect(),
        nodes: membership.nodes().map(|(id, node)| (*id, node.clone().into())).collect(),
    }
}

pub(crate) fn membership_from_pb(membership: pb::Membership) -> Result<Membership, Malformed> {
    let configurations: Vec<BTreeSet<u64>> =
        membership.configurations.into_iter().map(|set| set.node_ids.into_iter().collect()).collect();
    let nodes: BTreeMap<u64, Node> = membership.nodes.into_iter().map(|(id, node)| (id, node.into())).collect();
    if configurations.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configurations, nodes).map_err(|error| Malformed::new("Membership", error))
}

pub(crate) fn stored_membership_to_pb(stored: &StoredMembership) -> pb::StoredMembership {
    pb::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_pb),
        membership: Some(membership_to_pb(stored.membership())),
    }
}

pub(crate) fn stored_membership_from_pb(stored: pb::StoredMembership) -> Result<StoredMembership, Malformed> {
    let membership = stored.membership.map(membership_from_pb).transpose()?.unwrap_or_default();
    Ok(StoredMembership::new(stored.log_id.as_ref().map(log_id_from_pb), membership))
}

pub(crate) fn entry_to_pb(entry: Entry) -> pb::Entry {
    let payload = match entry.payload {
        Payload::Blank => pb::entry::Payload::Blank(pb::Blank {}),
        Payload::Normal(proposal) => pb::entry::Payload::Proposal(proposal.0),
        Payload::Membership(membership) => pb::entry::Payload::Membership(membership_to_pb(&membership)),
    };
    pb::Entry { log_id: Some(log_id_to_pb(&entry.log_id)), payload: Some(payload) }
}

pub(crate) fn entry_from_pb(entry: pb::Entry) -> Result<Entry, Malformed> {
    let log_id = entry.log_id.as_ref().ok_or_else(|| Malformed::new("Entry", "log_id is missing"))?;
    let payload = match entry.payload.ok_or_else(|| Malformed::new("Entry", "payload is missing"))? {
        pb::entry::Payload::Blank(_) => Payload::Blank,
        pb::entry::Payload::Proposal(proposal) => Payload::Normal(ProposalBytes(proposal)),
        pb::entry::Payload::Membership(membership) => Payload::Membership(membership_from_pb(membership)?),
    };
    Ok(Entry { log_id: log_id_from_pb(log_id), payload })
}

pub(crate) fn entry_from_bytes(bytes: Bytes) -> Result<Entry, Malformed> {
    entry_from_pb(pb::Entry::decode(bytes).map_err(|error| Malformed::new("Entry", error))?)
}

pub(crate) fn append_to_pb(request: AppendRequest) -> pb::AppendRequest {
    pb::AppendRequest {
        vote: Some(vote_to_pb(&request.vote)),
        previous: request.prev_log_id.as_ref().map(log_id_to_pb),
        leader_commit: request.leader_commit.as_ref().map(log_id_to_pb),
        entries: request.entries.into_iter().map(entry_to_pb).collect(),
        silent: false,
    }
}

pub(crate) fn append_from_pb(request: pb::AppendRequest) -> Result<AppendRequest, Malformed> {
    Ok(AppendRequest {
        vote: required_vote(&request.vote, "AppendRequest")?,
        prev_log_id: request.previous.as_ref().map(log_id_from_pb),
        leader_commit: request.leader_commit.as_ref().map(log_id_from_pb),
        entries: request.entries.into_iter().map(entry_from_pb).collect::<Result<_, _>>()?,
    })
}

pub(crate) fn append_result_to_pb(result: StreamAppendResult) -> pb::AppendResponse {
    use openraft::raft::StreamAppendError;
    use pb::append_response::Outcome;
    let outcome = match result {
        Ok(matched) => Outcome::Matched(pb::MatchedUpTo { log_id: matched.as_ref().map(log_id_to_pb) }),
        Err(StreamAppendError::Conflict(at)) => Outcome::Conflict(log_id_to_pb(&at)),
        Err(StreamAppendError::HigherVote(vote)) => Outcome::HigherVote(vote_to_pb(&vote)),
    };
    pb::AppendResponse { outcome: Some(outcome) }
}

/// `Err` carries what the remote node says of its failed or absent group.
pub(crate) fn append_result_from_pb(response: pb::AppendResponse) -> Result<StreamAppendResult, String> {
    use openraft::raft::StreamAppendError;
    use pb::append_response::Outcome;
    match response.outcome {
        Some(Outcome::Matched(matched)) => Ok(Ok(matched.log_id.as_ref().map(log_id_from_pb))),
        Some(Outcome::Conflict(at)) => Ok(Err(StreamAppendError::Conflict(log_id_from_pb(&at)))),
        Some(Outcome::HigherVote(vote)) => Ok(Err(StreamAppendError::HigherVote(vote_from_pb(&vote)))),
        Some(Outcome::Failed(problem)) => Err(problem),
        None => Err("append response without an outcome".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn entries() -> Vec<Entry> {
        let nodes: BTreeMap<u64, Node> =
            (1..=3).map(|id| (id, Node { address: format!("a{id}"), http_address: format!("h{id}") })).collect();
        let joint = vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])];
        vec![
            Entry { log_id: LogId::new_term_index(1, 0), payload: Payload::Blank },
            Entry {
                log_id: LogId::new_term_index(2, 7),
                payload: Payload::Normal(ProposalBytes(Bytes::from_static(b"xyz"))),
            },
            Entry {
                log_id: LogId::new_term_index(u64::MAX, u64::MAX),
                payload: Payload::Membership(Membership::new(joint, nodes).unwrap()),
            },
        ]
    }

    #[test]
    fn entries_survive_encoding() {
        for entry in entries() {
            let bytes = Bytes::from(entry_to_pb(entry.clone()).encode_to_vec());
            assert_eq!(entry_from_bytes(bytes).unwrap(), entry);
        }
    }

    #[test]
    fn votes_survive_encoding() {
        for vote in [Vote::new(3, 2), Vote::new_committed(3, 2)] {
            assert_eq!(vote_from_pb(&vote_to_pb(&vote)), vote);
        }
    }

    #[test]
    fn malformed_entries_are_refused_by_name() {
        let error = entry_from_pb(pb::Entry { log_id: None, payload: None }).unwrap_err();
        assert_eq!(error.to_string(), "malformed Entry: log_id is missing");
        assert!(entry_from_bytes(Bytes::from_static(b"\xff\xff\xff")).is_err());
    }
}
