//! The one thread that writes the node's log.
//!
//! It takes whatever waits, of all shards, as one write batch with one fsync, then tells everyone in order. While
//! it waits for the disk the next batch gathers, so the batch size follows the load: at one client it is one
//! operation and one fsync.
//!
//! Every batch is fsynced before the next is written, those of lazy operations too. [`super::wal_audit`] relies on
//! it to tell a torn tail from damage.

use std::sync::Arc;
use std::time::Instant;

use prost::Message as _;
use rocksdb::{ColumnFamily, DB, WriteBatch, WriteOptions};

use super::Core;
use super::keys::{ENTRIES, META, MetaKind, entry_key, entry_key_after, meta_key};
use super::queue::{Change, Operation};
use crate::StorageError;

fn run(core: &Core) {
    let _guard = FailOnPanic(core);
    let mut batch = Vec::new();
    while let Some(sequence) = core.queue.take(&mut batch) {
        let bytes = batch.iter().map(Operation::bytes).sum();
        match write(&core.db, &batch, bytes) {
            Ok(()) => {
                core.cache.written(sequence);
                core.queue.release(bytes);
                for operation in batch.drain(..) {
                    operation.complete(Ok(()));
                }
                core.evict();
            }
            Err(error) => {
                tracing::error!(%error, "the node's log failed; no shard of this node can go on");
                metrics::counter!("cirrus_log_failures_total").increment(1);
                let abandoned = core.queue.fail(error.clone());
                for operation in batch.drain(..).chain(abandoned) {
                    operation.complete(Err(error.clone()));
                }
                return;
            }
        }
    }
}

/// A callback that panics must not leave everyone else waiting for a thread that is gone.
struct FailOnPanic<'core>(&'core Core);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = StorageError::Failed("the log's writer thread panicked".to_owned());
            for operation in self.0.queue.fail(error.clone()) {
                operation.complete(Err(error.clone()));
            }
        }
    }
}

fn write(db: &DB, operations: &[Operation], bytes: usize) -> Result<(), StorageError> {
    let entries = column_family(db, ENTRIES)?;
    let meta = column_family(db, META)?;
    let mut batch = WriteBatch::with_capacity_bytes(bytes + 64);
    let mut appended_bytes = 0;
    // Only the last committed id of a shard counts.
    let mut committed: Vec<(u32, Option<_>)> = Vec::new();
    for Operation { shard_id, change } in operations {
        let shard_id = *shard_id;
        match change {
            Change::Append { entries: appended, .. } => {
                for entry in appended {
                    appended_bytes += entry.bytes.len() as u64;
                    batch.put_cf(entries, entry_key(shard_id, entry.index), &entry.bytes);
                }
            }
            Change::Vote { vote, .. } => {
                batch.put_cf(meta, meta_key(shard_id, MetaKind::Vote), vote.encode_to_vec());
            }
            Change::Committed { log_id } => match committed.iter_mut().find(|(shard, _)| *shard == shard_id) {
                Some((_, last)) => *last = *log_id,
                None => committed.push((shard_id, *log_id)),
            },
            Change::Truncate { removed } => {
                let from = entry_key(shard_id, *removed.start());
                batch.delete_range_cf(entries, from.as_slice(), &entry_key_after(shard_id, *removed.end()));
            }
            Change::Purge { removed, log_id } => {
                // The marker and the removal are one batch: no crash leaves a log that starts after a gap.
                batch.put_cf(meta, meta_key(shard_id, MetaKind::Purged), log_id.encode_to_vec());
                if !removed.is_empty() {
                    let from = entry_key(shard_id, removed.start);
                    batch.delete_range_cf(entries, from.as_slice(), &entry_key(shard_id, removed.end));
                }
            }
        }
    }
    for (shard_id, log_id) in committed {
        let key = meta_key(shard_id, MetaKind::Committed);
        match log_id {
            Some(log_id) => batch.put_cf(meta, key, log_id.encode_to_vec()),
            None => batch.delete_cf(meta, key),
        }
    }

    let mut options = WriteOptions::default();
    options.set_sync(true);
    let started = Instant::now();
    db.write_opt(batch, &options).map_err(StorageError::rocksdb("write the log"))?;
    metrics::histogram!("cirrus_log_fsync_seconds").record(started.elapsed());
    metrics::histogram!("cirrus_log_batch_operations").record(operations.len() as f64);
    metrics::counter!("cirrus_log_append_bytes_total").increment(appended_bytes);
    Ok(())
}

pub(super) fn column_family<'db>(db: &'db DB, name: &str) -> Result<&'db ColumnFamily, StorageError> {
    db.cf_handle(name).ok_or_else(|| StorageError::Damaged(format!("the log has no column family {name}")))
}

/// Starts the thread.
pub(super) fn spawn(core: Arc<Core>) -> Result<std::thread::JoinHandle<()>, StorageError> {
    std::thread::Builder::new()
        .name("cirrus-log".to_owned())
        .spawn(move || run(&core))
        .map_err(|error| StorageError::Failed(format!("start the log's writer thread: {error}")))
}
