//! The node's log: segment files for the Raft logs of all shards.
//!
//! [`NodeLog`] owns the files, the queue and the writer thread; a [`ShardLog`] is one shard's view of it. A call
//! that changes a log does so in memory at once (so it is readable on return), queues the operation, and returns;
//! the [writer] makes it durable. Everything asked of the node's log is one first-in, first-out order.
//!
//! | file | holds |
//! | --- | --- |
//! | `shard` | the calls on one shard's log |
//! | `tail` | what was asked of it: its bounds and the cache of its newest entries: no lock, no I/O |
//! | `positions` | what is on disk of it, and where: no lock, no I/O |
//! | `queue` | the bounded queue to the writer |
//! | `writer` | one batch, one fsync, then the callbacks |
//! | `appender` | one batch as one record: encoded, written, fsynced, accounted for |
//! | `record` | the layout of a record on disk |
//! | `segment`, `preparer` | the files: prepared ahead of need, put away when freed |
//! | `space`, `relocation` | which segments to free, and moving what is live out of them |
//! | `reader` | entries that left the cache |
//! | `recovery`, `replay` | what happens when a node starts |

mod appender;
mod entry;
mod positions;
mod preparer;
mod queue;
mod reader;
mod record;
mod recovery;
mod relocation;
mod replay;
mod segment;
mod shard;
mod space;
mod tail;
mod writer;

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};

pub use entry::EncodedEntry;
pub use queue::Done;
pub use shard::ShardLog;
pub use tail::LogState;

use crate::durable_files::create_directory;
use crate::{SharedResources, StorageError};
use appender::Appender;
use preparer::Preparer;
use queue::Queue;
use record::SECTOR_BYTES;
use segment::SegmentFiles;
use shard::Shard;

/// Segments are at least and at most this large, whatever is configured.
const SEGMENT_BYTES: std::ops::RangeInclusive<usize> = 4 << 10..=1 << 30;

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
    /// The size of the log's files. The log takes about three of them, or four times what is live in it.
    pub segment_bytes: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            cache_bytes: 96 << 20,
            queue_bytes_max: 64 << 20,
            batch_bytes_max: 4 << 20,
            lazy_delay_max: Duration::from_millis(200),
            segment_bytes: 16 << 20,
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
    queue: Queue,
    cache: CacheBudget,
    shards: RwLock<HashMap<u32, Arc<Shard>>>,
    files: SegmentFiles,
    /// Locked, so that no other process opens the log.
    _lock: File,
    #[cfg(test)]
    fsyncs: AtomicU64,
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
    /// Opens or creates the log in `directory`, drops a torn tail, and checks everything that is left. The log shares
    /// none of the resources, which are RocksDB's.
    ///
    /// # Errors
    /// `Damaged` if acknowledged data is broken or missing, naming the shard and index where they are known; `Refused`
    /// if an earlier version's log is there.
    pub fn open(directory: &Path, _resources: &SharedResources, config: LogConfig) -> Result<Self, StorageError> {
        create_directory(directory)?;
        refuse_earlier_format(directory)?;
        let lock = lock(directory)?;
        let segment_bytes = config.segment_bytes.clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end());
        let segment_bytes = segment_bytes.next_multiple_of(SECTOR_BYTES) as u64;
        let recovered = recovery::recover(directory, segment_bytes)?;
        let preparer = Preparer::spawn(directory.to_owned(), segment_bytes, recovered.spares)?;
        let appender = Appender::new(
            directory.to_owned(),
            recovered.end,
            recovered.space,
            preparer,
            config.batch_bytes_max,
            segment_bytes,
        );
        describe_metrics();

        let shards = recovered.shards.into_iter();
        let core = Arc::new(Core {
            queue: Queue::new(config.queue_bytes_max, config.batch_bytes_max, config.lazy_delay_max),
            cache: CacheBudget {
                bytes: AtomicUsize::new(0),
                bytes_max: config.cache_bytes,
                written: AtomicU64::new(0),
            },
            shards: RwLock::new(
                shards.map(|(shard_id, on_disk)| (shard_id, Arc::new(Shard::recovered(on_disk)))).collect(),
            ),
            files: SegmentFiles::new(recovered.files),
            _lock: lock,
            #[cfg(test)]
            fsyncs: AtomicU64::new(0),
        });
        let writer = writer::spawn(core.clone(), appender)?;
        Ok(Self { core, writer: Mutex::new(Some(writer)) })
    }

    /// One shard's log; empty if the node has not seen it before. All handles of a shard share its state.
    pub fn shard(self: &Arc<Self>, shard_id: u32) -> ShardLog {
        let known = self.core.shards.read().get(&shard_id).cloned();
        let shard = known.unwrap_or_else(|| self.core.shards.write().entry(shard_id).or_default().clone());
        ShardLog::new(shard_id, shard, self.clone())
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

fn refuse_earlier_format(directory: &Path) -> Result<(), StorageError> {
    if directory.join("CURRENT").exists() {
        return Err(StorageError::Refused(format!(
            "{} holds the log of an earlier version of Cirrus, in RocksDB, which this one does not read",
            directory.display()
        )));
    }
    Ok(())
}

fn lock(directory: &Path) -> Result<File, StorageError> {
    let path = directory.join("LOCK");
    let file = File::create(&path).map_err(StorageError::file("create", &path))?;
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => StorageError::Failed(format!("{} is open already", directory.display())),
        TryLockError::Error(error) => StorageError::file("lock", &path)(error),
    })?;
    Ok(file)
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
    metrics::describe_gauge!("cirrus_log_segments", "Segment files of the log");
    metrics::describe_gauge!("cirrus_log_segment_bytes", Unit::Bytes, "Size of the log's segment files");
    metrics::describe_gauge!("cirrus_log_live_bytes", Unit::Bytes, "What of the log's segments is still needed");
    metrics::describe_counter!("cirrus_log_failures_total", "I/O errors that failed the node's log");
}

impl Core {
    /// A shard of which there is an operation.
    fn known_shard(&self, shard_id: u32) -> Result<Arc<Shard>, StorageError> {
        let shard = self.shards.read().get(&shard_id).cloned();
        shard.ok_or_else(|| StorageError::Failed(format!("the log does not know shard {shard_id}")))
    }

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
        for shard in shards.values() {
            let mut tail = shard.tail.lock();
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

#[cfg(test)]
mod tests;
