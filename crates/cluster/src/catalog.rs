//! The catalog: what shard 0 keeps about the cluster, in TABLE_CATALOG.
//!
//! | key | value |
//! | --- | --- |
//! | `cluster` | `StoredCluster` |
//! | `node/` + node id, big-endian | `MemberNode` |
//!
//! The libraries, which it keeps too, are in `library_catalog.rs`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use cirrus_engine::{Transaction, View, Visit};
use cirrus_proto::internal::v1::{self as pb, Table, reply};
use cirrus_proto::{Failure, Reason};
use prost::Message;

/// The feature level of a cluster that this version creates.
pub const FEATURE_LEVEL: u32 = 1;

const CLUSTER_KEY: &[u8] = b"cluster";
const NODE_PREFIX: &[u8] = b"node/";

fn node_key(node_id: u64) -> Bytes {
    [NODE_PREFIX, &node_id.to_be_bytes()].concat().into()
}

pub(crate) fn decode<M: Message + Default>(what: &str, bytes: Bytes) -> Result<M, Failure> {
    M::decode(bytes).map_err(|error| Failure::internal(format!("the catalog's {what} is unreadable: {error}")))
}

/// The cluster's own facts; `None` before it is created.
///
/// # Errors
/// INTERNAL where the state is unreadable.
pub fn cluster(view: &dyn View) -> Result<Option<pb::StoredCluster>, Failure> {
    view.get(Table::Catalog, CLUSTER_KEY)?.map(|bytes| decode("cluster entry", bytes)).transpose()
}

/// The cluster's nodes by id.
///
/// # Errors
/// INTERNAL where the state is unreadable.
pub fn nodes(view: &dyn View) -> Result<BTreeMap<u64, pb::MemberNode>, Failure> {
    let mut nodes = BTreeMap::new();
    for (key, value) in Committed(view).entries(NODE_PREFIX)? {
        let id = key.try_into().map_err(|_| Failure::internal("the catalog has a malformed node key"))?;
        nodes.insert(u64::from_be_bytes(id), decode("node", value)?);
    }
    Ok(nodes)
}

/// What reads the catalog: its committed state, or a transaction that changes it.
pub(crate) trait Reads {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Failure>;
    fn scan(&self, start: &[u8], end: &[u8], visit: Visit<'_>) -> Result<(), Failure>;

    /// Entries under a prefix, which is cut off the keys.
    fn entries(&self, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Bytes)>, Failure> {
        let mut end = prefix.to_vec();
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        let mut found = Vec::new();
        self.scan(prefix, &end, &mut |key, value| {
            found.push((key[prefix.len()..].to_vec(), Bytes::copy_from_slice(value)));
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }
}

/// A replica's state.
pub(crate) struct Committed<'a>(pub(crate) &'a dyn View);

impl Reads for Committed<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Failure> {
        Ok(self.0.get(Table::Catalog, key)?)
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: Visit<'_>) -> Result<(), Failure> {
        Ok(self.0.scan(Table::Catalog, start, Some(end), visit)?)
    }
}

impl Reads for Transaction<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Failure> {
        self.read(Table::Catalog, key)
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: Visit<'_>) -> Result<(), Failure> {
        self.scan_table(Table::Catalog, start, Some(end), visit)
    }
}

/// Creates the cluster, with its first node. Does nothing where it is there already.
pub(crate) fn create_cluster(
    command: &pb::CreateCluster,
    transaction: &mut Transaction<'_>,
) -> Result<reply::Kind, Failure> {
    if Reads::get(transaction, CLUSTER_KEY)?.is_none() {
        let stored = pb::StoredCluster {
            cluster_id: command.cluster_id.clone(),
            shard_count: command.shard_count,
            feature_level: FEATURE_LEVEL,
        };
        transaction.write(Table::Catalog, Bytes::from_static(CLUSTER_KEY), stored.encode_to_vec().into())?;
        let node = command.node.clone().ok_or_else(|| Failure::invalid_field("node", "is missing"))?;
        transaction.write(Table::Catalog, node_key(command.node_id), node.encode_to_vec().into())?;
    }
    Ok(reply::Kind::Done(pb::Done {}))
}

/// Adds a node. A node that is there already may come back with the same address only: ids are never reused.
pub(crate) fn register_node(
    command: &pb::RegisterNode,
    transaction: &mut Transaction<'_>,
) -> Result<reply::Kind, Failure> {
    if command.node_id == 0 {
        return Err(Failure::invalid_field("node_id", "must be above 0"));
    }
    let node = command.node.clone().ok_or_else(|| Failure::invalid_field("node", "is missing"))?;
    let key = node_key(command.node_id);
    match Reads::get(transaction, &key)? {
        Some(bytes) => {
            let known: pb::MemberNode = decode("node", bytes)?;
            if known.address != node.address {
                let (id, address) = (command.node_id, &known.address);
                return Err(Failure::new(
                    Reason::NodeConflict,
                    format!(
                        "node {id} is in the cluster already, at {address}; it asked to join from {}",
                        node.address
                    ),
                ));
            }
        }
        None => transaction.write(Table::Catalog, key, node.encode_to_vec().into())?,
    }
    Ok(reply::Kind::Done(pb::Done {}))
}
