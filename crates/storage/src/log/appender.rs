//! Writes records at the end of the log, one after the other, and keeps account of what lies where.

use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use cirrus_proto::internal::v1::log_operation::Change as StoredChange;
use cirrus_proto::internal::v1::{LogCommitted, LogId, LogShard};

use super::Core;
use super::entry::EncodedEntry;
use super::positions::Position;
use super::preparer::Preparer;
use super::queue::{Change, Operation};
use super::record::{EntriesKind, Placed, RecordBuffer, RecordId, overhead_of_each};
use super::relocation::{self, Run};
use super::segment::{SEGMENT, path_of};
use super::space::Space;
use crate::StorageError;

/// Where the log ends.
pub(super) struct End {
    pub(super) segment: u64,
    pub(super) file: Arc<File>,
    pub(super) file_bytes: u64,
    /// Where the next record goes; 0: the segment has none yet.
    pub(super) offset: u64,
    pub(super) salt: u32,
    pub(super) next_sequence: u64,
}

/// A number for each segment's records that nobody can guess.
pub(super) fn new_salt() -> u32 {
    std::hash::RandomState::new().build_hasher().finish() as u32
}

pub(super) struct Appender {
    directory: PathBuf,
    end: End,
    space: Space,
    preparer: Preparer,
    buffer: RecordBuffer,
    batch_bytes_max: usize,
    segment_bytes: u64,
    /// The last committed id of each shard in the batch: only that counts.
    committed: Vec<(u32, Option<LogId>)>,
}

impl Appender {
    pub(super) fn new(
        directory: PathBuf,
        end: End,
        space: Space,
        preparer: Preparer,
        batch_bytes_max: usize,
        segment_bytes: u64,
    ) -> Self {
        Self {
            directory,
            end,
            space,
            preparer,
            buffer: RecordBuffer::default(),
            batch_bytes_max,
            segment_bytes,
            committed: Vec::new(),
        }
    }

    /// Makes the operations durable, as one record with one fsync. After an error nothing more may be written.
    pub(super) fn write(&mut self, core: &Core, operations: &[Operation], bytes: usize) -> Result<(), StorageError> {
        let runs = relocation::collect(core, &mut self.space, bytes, self.segment_bytes)?;
        self.buffer.begin(self.batch_bytes_max.saturating_mul(2));
        for run in &runs {
            self.buffer.entries(run.shard_id, EntriesKind::Relocate, &run.entries);
        }
        let appended_bytes = self.encode(operations);

        let started = Instant::now();
        let starts_segment = self.make_room(core)?;
        let End { segment, salt, next_sequence: sequence, offset, .. } = self.end;
        let record = self.buffer.finish(RecordId { segment, sequence, salt })?;
        let record_bytes = record.len() as u64;
        let failed = |error: std::io::Error| {
            let path = path_of(&self.directory, segment, SEGMENT);
            StorageError::Failed(format!("write {}: {error}", path.display()))
        };
        self.end.file.write_all_at(record, offset).map_err(failed)?;
        self.end.file.sync_data().map_err(failed)?;
        #[cfg(test)]
        core.fsyncs.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        metrics::histogram!("cirrus_log_fsync_seconds").record(started.elapsed());
        metrics::histogram!("cirrus_log_batch_operations").record(operations.len() as f64);
        metrics::counter!("cirrus_log_append_bytes_total").increment(appended_bytes);

        self.end.next_sequence += 1;
        self.end.offset += record_bytes;
        self.end.file_bytes = self.end.file_bytes.max(self.end.offset);
        if starts_segment {
            self.space.push(segment, self.end.file_bytes);
        }
        self.space.grown(self.end.file_bytes);
        self.account(core, &runs, operations, offset, record_bytes)?;
        self.free(core);
        if starts_segment {
            self.report();
        }
        // Not before the segment's first record is durable: recovery knows at most one segment without any.
        if self.end.offset >= self.end.file_bytes / 4 {
            self.preparer.prepare(segment + 1);
        }
        Ok(())
    }

    fn encode(&mut self, operations: &[Operation]) -> u64 {
        let mut appended_bytes = 0;
        self.committed.clear();
        for Operation { shard_id, change } in operations {
            let change = match change {
                Change::Append { entries, .. } => {
                    appended_bytes += entries.iter().map(|entry| entry.bytes.len() as u64).sum::<u64>();
                    self.buffer.entries(*shard_id, EntriesKind::Append, entries);
                    continue;
                }
                Change::Committed { log_id } => {
                    match self.committed.iter_mut().find(|(shard, _)| shard == shard_id) {
                        Some((_, last)) => *last = *log_id,
                        None => self.committed.push((*shard_id, *log_id)),
                    }
                    continue;
                }
                Change::Vote { vote, .. } => StoredChange::Vote(*vote),
                Change::Truncate { removed } => StoredChange::TruncateFrom(*removed.start()),
                Change::Purge { log_id } => StoredChange::Purge(*log_id),
            };
            self.buffer.operation(*shard_id, change);
        }
        for (shard_id, log_id) in &self.committed {
            self.buffer.operation(*shard_id, StoredChange::Committed(LogCommitted { log_id: *log_id }));
        }
        appended_bytes
    }

    /// Goes on to the next segment if the record does not fit. Returns whether it is the first of its segment.
    fn make_room(&mut self, core: &Core) -> Result<bool, StorageError> {
        if self.end.offset > 0 && self.end.offset + self.buffer.disk_bytes() > self.end.file_bytes {
            let segment = self.end.segment + 1;
            let file = self.preparer.take(segment)?;
            let path = path_of(&self.directory, segment, SEGMENT);
            let file_bytes = file.metadata().map_err(StorageError::file("read the size of", &path))?.len();
            let file = Arc::new(file);
            core.files.insert(segment, file.clone());
            let next_sequence = self.end.next_sequence;
            self.end = End { segment, file, file_bytes, offset: 0, salt: new_salt(), next_sequence };
        }
        // A record larger than a segment makes its own one grow.
        let starts_segment = self.end.offset == 0;
        if starts_segment {
            let mut shards: Vec<LogShard> = Vec::new();
            for (shard_id, shard) in core.shards.read().iter() {
                shards.extend(shard.on_disk.lock().restate(*shard_id));
            }
            self.buffer.start_segment(shards);
        }
        Ok(starts_segment)
    }

    /// Notes what the record that was written at `offset` has changed.
    fn account(
        &mut self,
        core: &Core,
        runs: &[Run],
        operations: &[Operation],
        offset: u64,
        record_bytes: u64,
    ) -> Result<(), StorageError> {
        let overhead = overhead_of_each(record_bytes, self.buffer.placed().iter().map(|placed| placed.length));
        let mut unused = self.buffer.placed();
        let segment = self.end.segment;
        let space = &mut self.space;
        let mut take = |entries: &[Arc<EncodedEntry>]| {
            let (placed, rest) = unused.split_at(entries.len());
            unused = rest;
            let position = move |(entry, placed): (&Arc<EncodedEntry>, &Placed)| Position {
                term: entry.term,
                segment,
                offset: offset as u32 + placed.offset,
                length: placed.length,
                crc: placed.crc,
                charge: placed.length + overhead,
            };
            entries.iter().zip(placed).map(position).collect::<Vec<_>>()
        };
        for Run { shard_id, entries } in runs {
            let positions = take(entries);
            let first = entries.first().map_or(0, |entry| entry.index);
            space.written(*shard_id, first, &positions);
            let shard = core.known_shard(*shard_id)?;
            let mut on_disk = shard.on_disk.lock();
            for (index, position) in (first..).zip(positions) {
                on_disk.relocate(index, position).into_iter().for_each(|old| space.freed(old));
            }
        }
        for Operation { shard_id, change } in operations {
            let shard = core.known_shard(*shard_id)?;
            let mut on_disk = shard.on_disk.lock();
            match change {
                Change::Append { entries, .. } => {
                    let positions = take(entries);
                    let first = entries.first().map_or(0, |entry| entry.index);
                    space.written(*shard_id, first, &positions);
                    for (index, position) in (first..).zip(positions) {
                        on_disk.append(index, position);
                    }
                }
                Change::Vote { vote, .. } => on_disk.vote = Some(*vote),
                Change::Committed { log_id } => on_disk.committed = *log_id,
                Change::Truncate { removed } => on_disk.truncate_from(*removed.start(), |old| space.freed(old)),
                Change::Purge { log_id } => on_disk.purge(*log_id, |old| space.freed(old)),
            }
        }
        Ok(())
    }

    fn free(&mut self, core: &Core) {
        while let Some(number) = self.space.take_dead() {
            if let Some(file) = core.files.remove(number) {
                self.preparer.retire(number, file);
            }
        }
    }

    fn report(&self) {
        metrics::gauge!("cirrus_log_segments").set(self.space.segments() as f64);
        metrics::gauge!("cirrus_log_segment_bytes").set(self.space.file_bytes() as f64);
        metrics::gauge!("cirrus_log_live_bytes").set(self.space.live_bytes() as f64);
    }
}
