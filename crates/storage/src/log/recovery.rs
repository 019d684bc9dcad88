//! Reading a log back when a node starts.
//!
//! Everything is read and checked once: a replica must not vote or answer from a log with a hole in it.

use std::collections::HashMap;

use cirrus_proto::internal::v1::{LogId, Vote};
use prost::Message;
use rocksdb::{DB, ReadOptions};

use super::entry::stored_id;
use super::keys::{ENTRIES, META, MetaKind, parse_entry_key, parse_meta_key};
use super::tail::Tail;
use super::writer::column_family;
use crate::StorageError;

#[derive(Default)]
struct Found {
    vote: Option<Vote>,
    committed: Option<LogId>,
    last_purged: Option<LogId>,
    entries: Option<(u64, LogId)>,
}

/// All shards that the log knows.
pub(super) fn recover(db: &DB) -> Result<HashMap<u32, Tail>, StorageError> {
    let mut shards: HashMap<u32, Found> = HashMap::new();
    read_meta(db, &mut shards)?;
    read_entries(db, &mut shards)?;
    Ok(shards
        .into_iter()
        .map(|(shard_id, found)| {
            (shard_id, Tail::recovered(found.vote, found.committed, found.last_purged, found.entries))
        })
        .collect())
}

fn read_meta(db: &DB, shards: &mut HashMap<u32, Found>) -> Result<(), StorageError> {
    let mut iterator = db.raw_iterator_cf(column_family(db, META)?);
    iterator.seek_to_first();
    while let Some((key, value)) = iterator.item() {
        let (shard_id, kind) =
            parse_meta_key(key).ok_or_else(|| StorageError::Damaged(format!("log: unknown meta key {key:02x?}")))?;
        let found = shards.entry(shard_id).or_default();
        match kind {
            MetaKind::Vote => found.vote = Some(decode(shard_id, kind, value)?),
            MetaKind::Committed => found.committed = Some(decode(shard_id, kind, value)?),
            MetaKind::Purged => found.last_purged = Some(decode(shard_id, kind, value)?),
        }
        iterator.next();
    }
    iterator.status().map_err(StorageError::rocksdb("read the log's meta data"))
}

fn decode<M: Message + Default>(shard_id: u32, kind: MetaKind, value: &[u8]) -> Result<M, StorageError> {
    M::decode(value).map_err(|error| StorageError::Damaged(format!("log of shard {shard_id}, {kind:?}: {error}")))
}

fn read_entries(db: &DB, shards: &mut HashMap<u32, Found>) -> Result<(), StorageError> {
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    options.set_readahead_size(2 << 20);
    let mut iterator = db.raw_iterator_cf_opt(column_family(db, ENTRIES)?, options);
    iterator.seek_to_first();
    let mut position = None;
    while let Some((key, value)) = iterator.item() {
        let (shard_id, index) =
            parse_entry_key(key).ok_or_else(|| StorageError::Damaged(format!("log: unknown entry key {key:02x?}")))?;
        let log_id = stored_id(shard_id, index, value)?;
        let found = shards.entry(shard_id).or_default();
        found
            .add(log_id)
            .map_err(|problem| StorageError::Damaged(format!("log of shard {shard_id}, index {index}: {problem}")))?;
        position = Some((shard_id, index));
        iterator.next();
    }
    iterator.status().map_err(StorageError::rocksdb(match position {
        Some((shard_id, index)) => format!("read the log after shard {shard_id}, index {index}"),
        None => "read the log at its start".to_owned(),
    }))
}

impl Found {
    fn add(&mut self, log_id: LogId) -> Result<(), String> {
        let previous = self.entries.map(|(_, last)| last).or(self.last_purged);
        if let Some(previous) = previous {
            if previous.index.checked_add(1) != Some(log_id.index) {
                return Err(format!("the entry before it is missing (found {} before)", previous.index));
            }
            if previous.term > log_id.term {
                return Err(format!("term {} after term {}", log_id.term, previous.term));
            }
        }
        let first = self.entries.map_or(log_id.index, |(first, _)| first);
        self.entries = Some((first, log_id));
        Ok(())
    }
}
