//! The node's links, one for each peer, shared by all shards.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::link::PeerLink;

/// Every outgoing link of a node.
pub(crate) struct Links {
    own_node_id: u64,
    peers: Mutex<HashMap<u64, Arc<PeerLink>>>,
}

impl Links {
    pub(crate) fn new(own_node_id: u64) -> Self {
        Links { own_node_id, peers: Mutex::new(HashMap::new()) }
    }

    pub(crate) fn own_node_id(&self) -> u64 {
        self.own_node_id
    }

    /// The link to a peer, opened on first use and replaced when its address changed.
    pub(crate) fn to(&self, peer: u64, address: &str) -> Arc<PeerLink> {
        let mut peers = self.peers.lock();
        match peers.get(&peer) {
            Some(link) if link.address() == address => link.clone(),
            _ => {
                let link = Arc::new(PeerLink::open(self.own_node_id, peer, address.to_owned()));
                peers.insert(peer, link.clone());
                link
            }
        }
    }

    /// The link to a peer, if one was ever opened.
    pub(crate) fn existing(&self, peer: u64) -> Option<Arc<PeerLink>> {
        self.peers.lock().get(&peer).cloned()
    }

    /// Whether a link to the peer is up; false where none was ever opened.
    pub(crate) fn is_connected(&self, peer: u64) -> bool {
        self.peers.lock().get(&peer).is_some_and(|link| link.is_connected())
    }

    /// Closes every link.
    pub(crate) fn close(&self) {
        self.peers.lock().clear();
    }
}
