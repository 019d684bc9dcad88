//! What the records say, one after the other, when a node starts.
//!
//! Every record is checked against what those before it said: a replica must not vote or answer from a log with a hole
//! in it.

use std::collections::HashMap;

use bytes::Bytes;
use cirrus_proto::internal::v1::log_operation::Change;
use cirrus_proto::internal::v1::{LogId, LogOperation, LogRecord, LogShard};
use prost::Message as _;

use super::entry::{damaged, stored_id};
use super::positions::{OnDisk, Position, UNKNOWN_TERM};
use super::record::{IntactRecord, overhead_of_each};
use super::space::Space;
use crate::StorageError;

#[derive(Default)]
pub(super) struct Replay {
    shards: HashMap<u32, OnDisk>,
    pub(super) space: Space,
    started: bool,
}

/// Entries of the record at hand.
struct Source<'record> {
    record: &'record IntactRecord,
    offset: usize,
    overhead: u32,
}

impl Source<'_> {
    fn position(&self, term: u64, entry: &Bytes) -> Position {
        let placed = self.record.place(entry);
        Position {
            term,
            segment: self.record.id.segment,
            offset: self.offset as u32 + placed.offset,
            length: placed.length,
            crc: placed.crc,
            charge: placed.length + self.overhead,
        }
    }
}

impl Replay {
    /// The record at `offset` of its segment, in which it may be the `first`.
    pub(super) fn record(&mut self, record: &IntactRecord, offset: usize, first: bool) -> Result<(), StorageError> {
        let here = |what: &str| {
            StorageError::Damaged(format!("the log's segment {}, offset {offset}: {what}", record.id.segment))
        };
        let decoded = LogRecord::decode(record.payload.clone()).map_err(|error| here(&error.to_string()))?;
        if decoded.starts_segment != first {
            return Err(here(if first { "not the first record of a segment" } else { "a segment's first record" }));
        }
        if first {
            self.restated(decoded.shards).map_err(|what| here(&what))?;
        }
        let lengths = decoded.operations.iter().flat_map(|operation| match &operation.change {
            Some(Change::Append(entries) | Change::Relocate(entries)) => &entries.entries[..],
            _ => &[],
        });
        let overhead = overhead_of_each(record.disk_bytes() as u64, lengths.map(|entry| entry.len() as u32));
        let source = Source { record, offset, overhead };
        for LogOperation { shard_id, change } in &decoded.operations {
            let change =
                change.as_ref().ok_or_else(|| here("an operation of a kind that this version does not know"))?;
            self.operation(*shard_id, change, &source)?;
        }
        Ok(())
    }

    fn restated(&mut self, shards: Vec<LogShard>) -> Result<(), String> {
        if !std::mem::replace(&mut self.started, true) {
            for shard in shards {
                let shard_id = shard.shard_id;
                let on_disk = OnDisk::restated(&shard).map_err(|what| format!("log of shard {shard_id}: {what}"))?;
                self.shards.insert(shard_id, on_disk);
            }
            return Ok(());
        }
        let mut restated: HashMap<u32, LogShard> = shards.into_iter().map(|shard| (shard.shard_id, shard)).collect();
        for (shard_id, on_disk) in &mut self.shards {
            let shard = restated.remove(shard_id);
            if let Some(last) = shard.as_ref().and_then(|shard| shard.last) {
                on_disk.learn_last_term(last.term);
            }
            if on_disk.restate(*shard_id) != shard {
                return Err(format!("log of shard {shard_id}: it does not continue the segment before"));
            }
        }
        match restated.keys().next() {
            Some(shard_id) => Err(format!("log of shard {shard_id}: the segment before does not know it")),
            None => Ok(()),
        }
    }

    fn operation(&mut self, shard_id: u32, change: &Change, source: &Source<'_>) -> Result<(), StorageError> {
        let on_disk = self.shards.entry(shard_id).or_default();
        let space = &mut self.space;
        match change {
            Change::Append(appended) => {
                let mut positions = Vec::with_capacity(appended.entries.len());
                for (index, entry) in (appended.first_index..).zip(&appended.entries) {
                    let log_id = stored_id(shard_id, index, entry)?;
                    on_disk.check_append(log_id).map_err(|what| damaged(shard_id, index, &what))?;
                    let position = source.position(log_id.term, entry);
                    on_disk.append(index, position);
                    positions.push(position);
                }
                space.written(shard_id, appended.first_index, &positions);
            }
            Change::Relocate(relocated) => {
                let mut positions = Vec::with_capacity(relocated.entries.len());
                for (index, entry) in (relocated.first_index..).zip(&relocated.entries) {
                    let LogId { term, .. } = stored_id(shard_id, index, entry)?;
                    let position = source.position(term, entry);
                    let old = on_disk
                        .relocate(index, position)
                        .ok_or_else(|| damaged(shard_id, index, "an entry was relocated that the log did not have"))?;
                    if old.is_missing() {
                        // Its segment is gone. Only of the last entry the term was restated.
                        if old.term != UNKNOWN_TERM && old.term != term {
                            return Err(damaged(shard_id, index, "an entry was relocated with another term"));
                        }
                    } else if (old.term, old.crc) == (term, position.crc) {
                        space.freed(old);
                    } else {
                        return Err(damaged(shard_id, index, "an entry was changed when it was relocated"));
                    }
                    positions.push(position);
                }
                space.written(shard_id, relocated.first_index, &positions);
            }
            Change::Vote(vote) => on_disk.vote = Some(*vote),
            Change::Committed(committed) => on_disk.committed = committed.log_id,
            Change::TruncateFrom(index) => on_disk.truncate_from(*index, |old| space.freed(old)),
            Change::Purge(log_id) => on_disk.purge(*log_id, |old| space.freed(old)),
        }
        Ok(())
    }

    /// All shards that the log knows, with the segments that they need.
    pub(super) fn finish(self) -> Result<(HashMap<u32, OnDisk>, Space), StorageError> {
        let Self { mut shards, space, .. } = self;
        shards.retain(|shard_id, on_disk| on_disk.restate(*shard_id).is_some());
        let missing = shards.iter().filter_map(|(shard_id, on_disk)| Some((*shard_id, on_disk.first_missing()?)));
        match missing.min() {
            Some((shard_id, index)) => Err(damaged(shard_id, index, "the entry is missing")),
            None => Ok((shards, space)),
        }
    }
}
