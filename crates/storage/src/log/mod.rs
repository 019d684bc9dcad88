//! The node's log: one RocksDB for the Raft logs of all shards.
//!
//! [`NodeLog`] owns the instance, the queue and the writer thread; a [`ShardLog`] is one shard's view of it. A call
//! that changes a log does so in memory at once (so it is readable on return), queues the operation, and returns;
//! the [writer](writer) makes it durable. Everything asked of the node's log is one first-in, first-out order.
//!
//! | file | holds |
//! | --- | --- |
//! | `keys` | the layout on disk |
//! | `tail` | one shard's bounds and the cache of its newest entries: no lock, no I/O |
//! | `queue` | the bounded queue to the writer |
//! | `writer` | one batch, one fsync, then the callbacks |
//! | `wal_audit`, `recovery` | what happens when a node starts |

mod entry;
mod keys;
mod queue;
mod recovery;
mod tail;
mod wal_audit;
mod writer;

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use cirrus_proto::internal::v1::{LogId, Vote};
use parking_lot::{Mutex, RwLock};
use rocksdb::{ColumnFamilyDescriptor, DB, DBRecoveryMode, Options, ReadOptions};

pub use entry::EncodedEntry;
pub use queue::Done;
pub use tail::LogState;

use crate::durable_files::create_directory;
use crate::{SharedResources, StorageError};
use keys::{ENTRIES, META, entry_key};
use queue::{Change, Operation, Queue, Reservation};
use tail::Tail;

/// Bounds of the node's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Newest entries of all shards kept in memory. Entries not yet on disk stay beyond it.
    pub cache_bytes: usize,
    /// Operations waiting for the writer; beyond it callers wait.
    pub queue_bytes_max: usize,
    /// About how much is written with one fsync at most.
    pub batch_bytes_max: usize,
    /// How long a committed id, a truncation or a purge may wait for an fsync to ride on.
    pub lazy_delay_max: Duration,
    /// RocksDB's memtable for the log. What is purged before it is full is never written a second time.
    pub memtable_bytes: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            cache_bytes: 96 << 20,
            queue_bytes_max: 64 << 20,
            batch_bytes_max: 4 << 20,
            lazy_delay_max: Duration::from_millis(200),
            memtable_bytes: 64 << 20,
        }
    }
}

/// The log of all shards of a node.
///
/// After an I/O error the log is failed: every later call gets that error. Dropping it writes what is queued.
pub struct NodeLog {
    core: Arc<Core>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the handles and the writer thread share.
struct Core {
    db: DB,
    queue: Queue,
    cache: CacheBudget,
    shards: RwLock<HashMap<u32, Arc<Mutex<Tail>>>>,
}

/// The bound on cached entries of all shards.
struct CacheBudget {
    bytes: AtomicUsize,
    bytes_max: usize,
    /// Sequence of the last operation that is on disk.
    written: AtomicU64,
}

impl CacheBudget {
    fn written(&self, sequence: u64) {
        self.written.store(sequence, Ordering::Release);
    }
}

impl NodeLog {
    /// Opens or creates the log in `directory`, drops a torn tail, and checks everything that is left.
    ///
    /// # Errors
    /// `Damaged` if acknowledged data is broken or missing, naming the shard and index where they are known.
    pub fn open(directory: &Path, resources: &SharedResources, config: LogConfig) -> Result<Self, StorageError> {
        create_directory(directory)?;
        wal_audit::audit(directory)?;
        let options = log_options(resources, &config);
        let column_families = [ENTRIES, META].map(|name| {
            let mut options = options.clone();
            resources.set_table_format(&mut options, false);
            ColumnFamilyDescriptor::new(name, options)
        });
        let db = DB::open_cf_descriptors(&options, directory, column_families)
            .map_err(StorageError::rocksdb("open the log"))?;
        let shards = recovery::recover(&db)?;
        describe_metrics();

        let core = Arc::new(Core {
            db,
            queue: Queue::new(config.queue_bytes_max, config.batch_bytes_max, config.lazy_delay_max),
            cache: CacheBudget {
                bytes: AtomicUsize::new(0),
                bytes_max: config.cache_bytes,
                written: AtomicU64::new(0),
            },
            shards: RwLock::new(
                shards.into_iter().map(|(shard_id, tail)| (shard_id, Arc::new(Mutex::new(tail)))).collect(),
            ),
        });
        let writer = writer::spawn(core.clone())?;
        Ok(Self { core, writer: Mutex::new(Some(writer)) })
    }

    /// One shard's log; empty if the node has not seen it before. All handles of a shard share its state.
    pub fn shard(self: &Arc<Self>, shard_id: u32) -> ShardLog {
        let known = self.core.shards.read().get(&shard_id).cloned();
        let tail = known.unwrap_or_else(|| self.core.shards.write().entry(shard_id).or_default().clone());
        ShardLog { shard_id, tail, node: self.clone() }
    }

    /// The shards with anything in the log, in order.
    pub fn shard_ids(&self) -> Vec<u32> {
        let mut shard_ids: Vec<u32> = self.core.shards.read().keys().copied().collect();
        shard_ids.sort_unstable();
        shard_ids
    }

    /// The error that failed the log, if one did.
    pub fn failure(&self) -> Option<StorageError> {
        self.core.queue.refusal().filter(|refusal| *refusal != StorageError::Closed)
    }

    /// Writes what is queued, then refuses every later change with `Closed`. Reads still work.
    pub fn close(&self) {
        self.core.queue.close(StorageError::Closed);
        let Some(writer) = self.writer.lock().take() else { return };
        // The last handle may be dropped by a callback, on the writer thread itself.
        if writer.thread().id() != std::thread::current().id() && writer.join().is_err() {
            tracing::error!("the log's writer thread panicked");
        }
    }
}

impl Drop for NodeLog {
    fn drop(&mut self) {
        self.close();
    }
}

fn log_options(resources: &SharedResources, config: &LogConfig) -> Options {
    let mut options = resources.options();
    // Point in time: recovery stops at the first torn record. Tolerating only a cut tail would refuse to open when
    // a torn batch has a hole in it, which file systems may leave. What this mode cannot see, damage in the middle
    // of acknowledged data, `wal_audit` has looked for before.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    // An overwritten file needs no new blocks and no new size, so an fsync has no metadata to write: a quarter
    // less time for each on ext4. (RocksDB allows it with point-in-time recovery only.)
    options.set_recycle_log_file_num(2);
    // Both column families flush together, so that no small one keeps old write-ahead log files alive.
    options.set_atomic_flush(true);
    options.set_write_buffer_size(config.memtable_bytes);
    options.set_max_write_buffer_number(4);
    // Most of the log is purged soon: merging it early would be work for nothing.
    options.set_level_zero_file_num_compaction_trigger(8);
    options.set_max_open_files(256);
    options
}

fn describe_metrics() {
    use metrics::Unit;
    metrics::describe_histogram!(
        "cirrus_log_fsync_seconds",
        Unit::Seconds,
        "Writing and fsyncing one batch of the log"
    );
    metrics::describe_histogram!("cirrus_log_batch_operations", "Operations that shared one fsync");
    metrics::describe_counter!("cirrus_log_append_bytes_total", Unit::Bytes, "Bytes of entries appended");
    metrics::describe_gauge!("cirrus_log_cache_bytes", Unit::Bytes, "Log entries kept in memory");
    metrics::describe_counter!("cirrus_log_disk_reads_total", "Log reads that the cache could not serve alone");
    metrics::describe_counter!("cirrus_log_failures_total", "I/O errors that failed the node's log");
}

impl Core {
    /// Brings the cache back within its bound: first takes from shards that hold more than their share.
    fn evict(&self) {
        let mut over = self.cache.bytes.load(Ordering::Relaxed).saturating_sub(self.cache.bytes_max);
        metrics::gauge!("cirrus_log_cache_bytes").set(self.cache.bytes.load(Ordering::Relaxed) as f64);
        if over == 0 {
            return;
        }
        // A little more than needed, so that the next batch need not come here again.
        over += self.cache.bytes_max / 32;
        let written = self.cache.written.load(Ordering::Acquire);
        let shards = self.shards.read();
        let share = self.cache.bytes_max / shards.len().max(1);
        for tail in shards.values() {
            let mut tail = tail.lock();
            let target = share.max(tail.cached_bytes().saturating_sub(over));
            let freed = tail.evict(written, target);
            self.cache.bytes.fetch_sub(freed, Ordering::Relaxed);
            over = over.saturating_sub(freed);
            if over == 0 {
                return;
            }
        }
    }
}

/// One shard's log.
///
/// Calls that change it may come from several threads, but only their caller can know the right order of them.
/// Reads may run at any time, from any number of threads.
#[derive(Clone)]
pub struct ShardLog {
    shard_id: u32,
    tail: Arc<Mutex<Tail>>,
    node: Arc<NodeLog>,
}

impl ShardLog {
    /// The shard.
    pub fn shard_id(&self) -> u32 {
        self.shard_id
    }

    /// The bounds of the log, counting what is not durable yet.
    pub fn state(&self) -> LogState {
        self.tail.lock().state()
    }

    /// The last vote saved, durable or about to be.
    pub fn vote(&self) -> Option<Vote> {
        self.tail.lock().vote
    }

    /// The last committed id saved. After a crash it may be an older one, or none.
    pub fn committed(&self) -> Option<LogId> {
        self.tail.lock().committed
    }

    /// Appends entries that continue the log. They are readable on return; `done` is called after the fsync.
    /// Blocks only while the queue is full. On an error `done` is dropped uncalled.
    ///
    /// # Errors
    /// `Refused` if there would be a gap or a term would fall; what failed the log; `Closed`.
    pub fn append(&self, entries: Vec<Arc<EncodedEntry>>, done: Done) -> Result<(), StorageError> {
        let core = &self.node.core;
        let reservation = core.queue.reserve(Reservation::for_append(&entries))?;
        let mut tail = self.tail.lock();
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
        self.remove(|tail| Ok(tail.purge(log_id)?.map(|removed| Change::Purge { removed, log_id })))
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
        let mut tail = self.tail.lock();
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
            let plan = self.tail.lock().plan_read(range.clone(), max_bytes);
            if plan.disk.is_empty() {
                return Ok(plan.cached);
            }
            let outcome = self.read_disk(plan.disk.clone(), max_bytes);
            // What was being read may have been truncated or purged meanwhile; then it says nothing.
            if self.tail.lock().removals() != plan.removals {
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
        if let Some(known) = self.tail.lock().known_id(index) {
            return Ok(known);
        }
        Ok(self.read(index..index.saturating_add(1), 0)?.first().map(|entry| entry.log_id()))
    }

    fn read_disk(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Arc<EncodedEntry>>, StorageError> {
        metrics::counter!("cirrus_log_disk_reads_total").increment(1);
        let db = &self.node.core.db;
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(entry_key(self.shard_id, range.end));
        let mut iterator = db.raw_iterator_cf_opt(writer::column_family(db, ENTRIES)?, options);
        iterator.seek(entry_key(self.shard_id, range.start));
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in range {
            let Some((key, value)) = iterator.item() else {
                iterator.status().map_err(StorageError::rocksdb(format_args!(
                    "read the log of shard {}, index {index}",
                    self.shard_id
                )))?;
                return Err(self.missing(index));
            };
            if key != entry_key(self.shard_id, index) {
                return Err(self.missing(index));
            }
            bytes += value.len();
            if bytes > max_bytes && !entries.is_empty() {
                break;
            }
            let LogId { term, index } = entry::stored_id(self.shard_id, index, value)?;
            entries.push(Arc::new(EncodedEntry { term, index, bytes: Bytes::copy_from_slice(value) }));
            iterator.next();
        }
        Ok(entries)
    }

    fn missing(&self, index: u64) -> StorageError {
        StorageError::Damaged(format!("log of shard {}, index {index}: the entry is missing", self.shard_id))
    }
}

#[cfg(test)]
mod tests;
