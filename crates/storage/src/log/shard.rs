//! One shard's view of the node's log.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cirrus_proto::internal::v1::{LogId, Vote};
use parking_lot::Mutex;

use super::entry::EncodedEntry;
use super::positions::OnDisk;
use super::queue::{Change, Done, Operation, Reservation};
use super::tail::{LogState, Tail};
use super::{NodeLog, reader};
use crate::StorageError;

/// One shard's log.
///
/// Calls that change it may come from several threads, but only their caller can know the right order of them.
/// Reads may run at any time, from any number of threads.
#[derive(Clone)]
pub struct ShardLog {
    shard_id: u32,
    shard: Arc<Shard>,
    node: Arc<NodeLog>,
}

/// What a node knows of one shard's log.
#[derive(Default)]
pub(super) struct Shard {
    /// What was asked of it, with the newest entries.
    pub(super) tail: Mutex<Tail>,
    /// What was fsynced.
    pub(super) on_disk: Mutex<OnDisk>,
}

impl Shard {
    /// A log as found on disk. The cache starts empty.
    pub(super) fn recovered(on_disk: OnDisk) -> Self {
        let tail = Tail::recovered(on_disk.vote, on_disk.committed, on_disk.last_purged(), on_disk.entries());
        Self { tail: Mutex::new(tail), on_disk: Mutex::new(on_disk) }
    }
}

impl ShardLog {
    pub(super) fn new(shard_id: u32, shard: Arc<Shard>, node: Arc<NodeLog>) -> Self {
        Self { shard_id, shard, node }
    }

    /// The shard.
    pub fn shard_id(&self) -> u32 {
        self.shard_id
    }

    /// The bounds of the log, counting what is not durable yet.
    pub fn state(&self) -> LogState {
        self.shard.tail.lock().state()
    }

    /// The last vote saved, durable or about to be.
    pub fn vote(&self) -> Option<Vote> {
        self.shard.tail.lock().vote
    }

    /// The last committed id saved. After a crash it may be an older one, or none.
    pub fn committed(&self) -> Option<LogId> {
        self.shard.tail.lock().committed
    }

    /// Appends entries that continue the log. They are readable on return; `done` is called after the fsync.
    /// Blocks only while the queue is full. On an error `done` is dropped uncalled.
    ///
    /// # Errors
    /// `Refused` if there would be a gap or a term would fall; what failed the log; `Closed`.
    pub fn append(&self, entries: Vec<Arc<EncodedEntry>>, done: Done) -> Result<(), StorageError> {
        let core = &self.node.core;
        let reservation = core.queue.reserve(Reservation::for_append(&entries))?;
        let mut tail = self.shard.tail.lock();
        if let Err(refused) = tail.check_append(&entries) {
            core.queue.cancel(reservation);
            return Err(refused);
        }
        let change = Change::Append { entries: entries.clone(), done };
        // The lock is held: nobody can read between the two, and the queue's order is the log's.
        let sequence = core.queue.push(Operation { shard_id: self.shard_id, change }, reservation)?;
        let added = tail.append(&entries, sequence);
        core.cache.bytes.fetch_add(added, Ordering::Relaxed);
        Ok(())
    }

    /// Saves a vote. `done` is called once it, and everything asked of the node's log before it, is durable.
    ///
    /// # Errors
    /// What failed the log; `Closed`.
    pub fn save_vote(&self, vote: Vote, done: Done) -> Result<(), StorageError> {
        self.push(|tail| {
            tail.vote = Some(vote);
            Ok(Some(Change::Vote { vote, done }))
        })
    }

    /// Saves how far the log is committed; durable some time later.
    ///
    /// # Errors
    /// What failed the log; `Closed`.
    pub fn save_committed(&self, log_id: Option<LogId>) -> Result<(), StorageError> {
        self.push(|tail| {
            tail.committed = log_id;
            Ok(Some(Change::Committed { log_id }))
        })
    }

    /// Removes all entries after `log_id`; none: all entries. Reads see it at once; durable before anything that is
    /// appended later.
    ///
    /// # Errors
    /// `Refused` if `log_id` was purged; what failed the log; `Closed`.
    pub fn truncate_after(&self, log_id: Option<LogId>) -> Result<(), StorageError> {
        self.remove(|tail| Ok(tail.truncate_after(log_id)?.map(|removed| Change::Truncate { removed })))
    }

    /// Removes all entries up to `log_id`, which must be in the state, durably. It may lie past the last entry: the
    /// log then continues after it. Reads see it at once; durable before anything that is appended later.
    ///
    /// # Errors
    /// `Refused` if a gap would be left; what failed the log; `Closed`.
    pub fn purge(&self, log_id: LogId) -> Result<(), StorageError> {
        self.remove(|tail| Ok(tail.purge(log_id)?.map(|_| Change::Purge { log_id })))
    }

    fn remove(
        &self,
        change: impl FnOnce(&mut Tail) -> Result<Option<Change>, StorageError>,
    ) -> Result<(), StorageError> {
        self.push(|tail| {
            let before = tail.cached_bytes();
            let change = change(tail)?;
            self.node.core.cache.bytes.fetch_sub(before - tail.cached_bytes(), Ordering::Relaxed);
            Ok(change)
        })
    }

    /// Changes the tail and queues the operation under one lock.
    fn push(&self, change: impl FnOnce(&mut Tail) -> Result<Option<Change>, StorageError>) -> Result<(), StorageError> {
        let queue = &self.node.core.queue;
        let reservation = queue.reserve(Reservation::small())?;
        let mut tail = self.shard.tail.lock();
        match change(&mut tail) {
            Ok(Some(change)) => {
                queue.push(Operation { shard_id: self.shard_id, change }, reservation)?;
            }
            Ok(None) => queue.cancel(reservation),
            Err(refused) => {
                queue.cancel(reservation);
                return Err(refused);
            }
        }
        Ok(())
    }

    /// The entries of `range` that the log has, in order and without a gap, up to about `max_bytes` but at least
    /// one. Reads memory where it can; otherwise blocks on the disk.
    ///
    /// # Errors
    /// `Damaged`, naming shard and index; `Failed`.
    pub fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Arc<EncodedEntry>>, StorageError> {
        loop {
            let plan = self.shard.tail.lock().plan_read(range.clone(), max_bytes);
            if plan.disk.is_empty() {
                return Ok(plan.cached);
            }
            let outcome = self.read_disk(plan.disk.clone(), max_bytes);
            // What was being read may have been truncated or purged meanwhile; then it says nothing.
            if self.shard.tail.lock().removals() != plan.removals {
                continue;
            }
            let mut entries = outcome?;
            if entries.len() as u64 == plan.disk.end - plan.disk.start {
                let mut bytes: usize = entries.iter().map(|entry| entry.bytes.len()).sum();
                for entry in plan.cached {
                    bytes += entry.bytes.len();
                    if bytes > max_bytes {
                        break;
                    }
                    entries.push(entry);
                }
            }
            return Ok(entries);
        }
    }

    /// The id of the entry at `index`, or of the last purged one if that was its index; none if there is none.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub fn entry_id(&self, index: u64) -> Result<Option<LogId>, StorageError> {
        if let Some(known) = self.shard.tail.lock().known_id(index) {
            return Ok(known);
        }
        Ok(self.read(index..index.saturating_add(1), 0)?.first().map(|entry| entry.log_id()))
    }

    fn read_disk(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Arc<EncodedEntry>>, StorageError> {
        metrics::counter!("cirrus_log_disk_reads_total").increment(1);
        reader::read(self.shard_id, &self.shard.on_disk, &self.node.core.files, range, max_bytes)
    }
}
