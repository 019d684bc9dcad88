//! The catalog: what shard 0 keeps about the cluster, in TABLE_CATALOG.
//!
//! | key | value |
//! | --- | --- |
//! | `cluster` | `StoredCluster` |
//! | `node/` + node id, big-endian | `MemberNode` |
//! | `library/` + name | `StoredLibrary` |
//! | `deleted-library/` + name | its last version, big-endian |

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use cirrus_engine::{Transaction, View};
use cirrus_proto::internal::v1::{self as pb, Table, reply};
use cirrus_proto::v1;
use cirrus_proto::{Failure, Reason};
use prost::Message;
use sha2::{Digest as _, Sha256};

/// The feature level of a cluster that this version creates.
pub const FEATURE_LEVEL: u32 = 1;

const CLUSTER_KEY: &[u8] = b"cluster";
const NODE_PREFIX: &[u8] = b"node/";
const LIBRARY_PREFIX: &[u8] = b"library/";

fn node_key(node_id: u64) -> Bytes {
    [NODE_PREFIX, &node_id.to_be_bytes()].concat().into()
}

fn library_key(name: &str) -> Bytes {
    [LIBRARY_PREFIX, name.as_bytes()].concat().into()
}

fn decode<M: Message + Default>(what: &str, bytes: Bytes) -> Result<M, Failure> {
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
    for (key, value) in entries(view, NODE_PREFIX)? {
        let id = key.try_into().map_err(|_| Failure::internal("the catalog has a malformed node key"))?;
        nodes.insert(u64::from_be_bytes(id), decode("node", value)?);
    }
    Ok(nodes)
}

/// One library with its source.
///
/// # Errors
/// INTERNAL where the state is unreadable.
pub fn library(view: &dyn View, name: &str) -> Result<Option<pb::StoredLibrary>, Failure> {
    view.get(Table::Catalog, &library_key(name))?.map(|bytes| decode("library", bytes)).transpose()
}

/// All libraries by name, without their sources.
///
/// # Errors
/// INTERNAL where the state is unreadable.
pub fn libraries(view: &dyn View) -> Result<Vec<v1::Library>, Failure> {
    let stored =
        entries(view, LIBRARY_PREFIX)?.into_iter().map(|(_, value)| decode::<pb::StoredLibrary>("library", value));
    stored.filter_map(|stored| stored.map(|stored| stored.library).transpose()).collect()
}

/// Entries under a prefix, which is cut off the keys.
fn entries(view: &dyn View, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Bytes)>, Failure> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    let mut found = Vec::new();
    view.scan(Table::Catalog, prefix, Some(&end), &mut |key, value| {
        found.push((key[prefix.len()..].to_vec(), Bytes::copy_from_slice(value)));
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

fn transaction_get(transaction: &Transaction<'_>, key: &[u8]) -> Result<Option<Bytes>, Failure> {
    transaction.read(Table::Catalog, key)
}

/// Creates the cluster, with its first node. Does nothing where it is there already.
pub(crate) fn create_cluster(
    command: &pb::CreateCluster,
    transaction: &mut Transaction<'_>,
) -> Result<reply::Kind, Failure> {
    if transaction_get(transaction, CLUSTER_KEY)?.is_none() {
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
    match transaction_get(transaction, &key)? {
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

/// Stores a library as the next version of its name.
pub(crate) fn upload_library(
    request: &v1::UploadLibraryRequest,
    transaction: &mut Transaction<'_>,
) -> Result<reply::Kind, Failure> {
    let functions = cirrus_procedures::inspect(&request.name, &request.source, transaction.limits())?;
    let key = library_key(&request.name);
    let previous: Option<pb::StoredLibrary> =
        transaction_get(transaction, &key)?.map(|bytes| decode("library", bytes)).transpose()?;
    let last_version = previous.and_then(|stored| stored.library).map_or(0, |library| library.version);
    let library = v1::Library {
        name: request.name.clone(),
        version: last_version.max(deleted_version(&request.name, transaction)?) + 1,
        sha256: hexadecimal(&Sha256::digest(&request.source)),
        functions,
        uploaded_at_ms: transaction.now_ms(),
        source_bytes: request.source.len() as u64,
    };
    let stored = pb::StoredLibrary { library: Some(library.clone()), source: request.source.clone() };
    transaction.write(Table::Catalog, key, stored.encode_to_vec().into())?;
    Ok(reply::Kind::UploadLibrary(v1::UploadLibraryResponse { library: Some(library) }))
}

/// Removes a library. Its last version number stays, so that no two sources ever share a version.
pub(crate) fn delete_library(
    request: &v1::DeleteLibraryRequest,
    transaction: &mut Transaction<'_>,
) -> Result<reply::Kind, Failure> {
    let key = library_key(&request.name);
    let stored: Option<pb::StoredLibrary> =
        transaction_get(transaction, &key)?.map(|bytes| decode("library", bytes)).transpose()?;
    let deleted = stored.is_some();
    if let Some(library) = stored.and_then(|stored| stored.library) {
        let version = Bytes::copy_from_slice(&library.version.to_be_bytes());
        transaction.write(Table::Catalog, deleted_key(&request.name), version)?;
        transaction.remove(Table::Catalog, key)?;
    }
    Ok(reply::Kind::DeleteLibrary(v1::DeleteLibraryResponse { deleted }))
}

fn deleted_key(name: &str) -> Bytes {
    [b"deleted-library/", name.as_bytes()].concat().into()
}

fn deleted_version(name: &str, transaction: &Transaction<'_>) -> Result<u64, Failure> {
    match transaction_get(transaction, &deleted_key(name))? {
        None => Ok(0),
        Some(bytes) => {
            let bytes = bytes.as_ref().try_into();
            Ok(u64::from_be_bytes(bytes.map_err(|_| Failure::internal("the catalog has a malformed version"))?))
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
