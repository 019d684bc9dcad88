//! A log entry as the log holds it: encoded, with its id beside it.

use bytes::Bytes;
use cirrus_proto::internal::v1::{Entry, LogId};
use prost::Message;

use crate::StorageError;

/// What a cached entry costs beyond its bytes: the entry, its reference counts and its place in the cache.
const OVERHEAD_BYTES: usize = 112;

/// One entry, encoded once and shared by the cache, the writer and the senders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedEntry {
    /// The term of the leader that proposed it.
    pub term: u64,
    /// Its place in the shard's log.
    pub index: u64,
    /// The encoded `internal.v1.Entry`. Give it an allocation of its own: a slice of a larger network buffer would
    /// keep all of that buffer in memory for as long as the entry is cached, and the cache could not count it.
    pub bytes: Bytes,
}

/// Only the id of an `Entry`; the payload is skipped without a copy.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct EntryHead {
    #[prost(message, optional, tag = "1")]
    log_id: Option<LogId>,
}

impl EncodedEntry {
    /// Encodes an entry.
    ///
    /// # Errors
    /// `Refused` if it has no log id.
    pub fn encode(entry: &Entry) -> Result<Self, StorageError> {
        let LogId { term, index } =
            entry.log_id.ok_or_else(|| StorageError::Refused("a log entry without a log id".to_owned()))?;
        Ok(Self { term, index, bytes: entry.encode_to_vec().into() })
    }

    /// Decodes it again; the payload shares `bytes`.
    ///
    /// # Errors
    /// `Damaged` if `bytes` are no `Entry`.
    pub fn decode(&self) -> Result<Entry, StorageError> {
        Entry::decode(self.bytes.clone())
            .map_err(|error| StorageError::Damaged(format!("log entry {}: {error}", self.index)))
    }

    /// Its term and index.
    pub fn log_id(&self) -> LogId {
        LogId { term: self.term, index: self.index }
    }

    /// What it counts against memory bounds.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.len() + OVERHEAD_BYTES
    }
}

/// What is wrong with the entry at (`shard_id`, `index`) on disk.
pub(super) fn damaged(shard_id: u32, index: u64, what: &str) -> StorageError {
    StorageError::Damaged(format!("log of shard {shard_id}, index {index}: {what}"))
}

/// The id inside an entry that was read from disk as that of (`shard_id`, `index`).
pub(super) fn stored_id(shard_id: u32, index: u64, bytes: &[u8]) -> Result<LogId, StorageError> {
    let damaged = |what: &str| damaged(shard_id, index, what);
    let head = EntryHead::decode(bytes).map_err(|error| damaged(&format!("not an entry ({error})")))?;
    match head.log_id {
        Some(log_id) if log_id.index == index => Ok(log_id),
        Some(log_id) => Err(damaged(&format!("holds the entry of index {}", log_id.index))),
        None => Err(damaged("an entry without an id")),
    }
}
