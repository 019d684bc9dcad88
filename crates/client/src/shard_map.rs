//! Which node leads which shard, as far as the nodes' answers tell.

use std::collections::{BTreeMap, BTreeSet};

use cirrus_proto::v1::StatusResponse;

/// What several nodes' answers to `Cluster.Status` amount to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ShardMapView {
    /// Data shards, numbered from 1. 0: no answering node belongs to a cluster yet.
    pub(crate) shard_count: u32,
    /// The address of each shard's leader, the catalog shard (0) first.
    pub(crate) leaders: Vec<Option<String>>,
    /// The addresses of all nodes.
    pub(crate) addresses: BTreeSet<String>,
}

impl ShardMapView {
    /// Merges answers. Nodes may disagree on a shard's leader: a deposed one does not know yet. The leader of
    /// the highest term is right, since a term has at most one.
    pub(crate) fn merge(answers: &[StatusResponse]) -> ShardMapView {
        let mut view = ShardMapView::default();
        let mut address_of = BTreeMap::new();
        for node in answers.iter().flat_map(|answer| &answer.nodes) {
            if !node.address.is_empty() {
                address_of.insert(node.node_id, &node.address);
                view.addresses.insert(node.address.clone());
            }
        }
        let shards = || answers.iter().flat_map(|answer| &answer.shards);
        view.shard_count = shards().map(|shard| shard.shard_id).max().unwrap_or(0);
        let mut terms = vec![0; view.shard_count as usize + 1];
        view.leaders = vec![None; terms.len()];
        for shard in shards().filter(|shard| shard.leader_node_id != 0) {
            let index = shard.shard_id as usize;
            if let Some(address) = address_of.get(&shard.leader_node_id)
                && (view.leaders[index].is_none() || shard.term > terms[index])
            {
                view.leaders[index] = Some((*address).clone());
                terms[index] = shard.term;
            }
        }
        view
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cirrus_proto::v1::{NodeStatus, ShardStatus};

    fn answer(leaders: &[(u32, u64, u64)]) -> StatusResponse {
        StatusResponse {
            nodes: (1..=3)
                .map(|node_id| NodeStatus { node_id, address: format!("n{node_id}:1"), ..Default::default() })
                .collect(),
            shards: leaders
                .iter()
                .map(|&(shard_id, leader_node_id, term)| ShardStatus {
                    shard_id,
                    leader_node_id,
                    term,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        }
    }

    fn leaders(answers: &[StatusResponse]) -> Vec<Option<String>> {
        ShardMapView::merge(answers).leaders
    }

    #[test]
    fn the_leader_of_the_highest_term_wins_whoever_answers_first() {
        let deposed = answer(&[(0, 1, 4), (1, 1, 4), (2, 2, 1)]);
        let current = answer(&[(0, 1, 4), (1, 3, 5), (2, 0, 1)]);
        let expected = vec![Some("n1:1".to_owned()), Some("n3:1".to_owned()), Some("n2:1".to_owned())];
        assert_eq!(leaders(&[deposed.clone(), current.clone()]), expected);
        assert_eq!(leaders(&[current, deposed]), expected);
    }

    #[test]
    fn a_candidate_of_a_higher_term_is_no_leader() {
        assert_eq!(
            leaders(&[answer(&[(0, 1, 1), (1, 0, 9)]), answer(&[(0, 1, 1), (1, 2, 3)])])[1],
            Some("n2:1".into())
        );
    }

    #[test]
    fn nodes_outside_of_a_cluster_have_no_map() {
        let view = ShardMapView::merge(&[StatusResponse::default()]);
        assert_eq!((view.shard_count, view.addresses.len()), (0, 0));
        assert_eq!(view.leaders, vec![None]);
    }
}
