//! One shard replica's state: the effects of the log up to its applied id.
//!
//! One RocksDB instance with the write-ahead log off, one column family for each table, and one, `applied`, for the
//! applied id and the membership; in front of it a buffer of what was applied last. The buffer is written back to
//! RocksDB in one write batch over all tables, and they flush atomically, so that what is on disk is always the state at
//! exactly one applied id: [`ShardState::flushed`].
//!
//! ```text
//!            flushed()                                  applied()
//!   ─────────────┼──────────────┬───────────────────────────┼─────► log index
//!    on disk     │ in memtables │ in the buffer             │ in the log only
//!                │ lost by a crash, replayed from the log   │
//! ```
//!
//! | file | holds |
//! | --- | --- |
//! | `recent` | the buffer of what was applied last |
//! | `tables` | the column families |
//! | `read` | lookups, scans and snapshots |
//! | `hash` | a hash of all that is in it, to compare replicas by |
//! | `checkpoint` | making, checking, listing and deleting checkpoints |
//! | `generation` | which directory is the live one, and how another takes its place |

mod checkpoint;
mod generation;
mod hash;
mod read;
mod recent;
mod tables;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use cirrus_proto::internal::v1::{Effect, LogId, StoredMembership, Table, effect};
use parking_lot::{Mutex, RwLock};
use prost::Message as _;
use rocksdb::{DB, FlushOptions, ReadOptions, ReadTier, WriteBatch, WriteOptions};

pub use checkpoint::{Checkpoint, CheckpointFile, delete_checkpoints_except};
pub use hash::StateHash;
pub use read::{PinnedState, StateSnapshot, Visit};

use crate::durable_files::{sync_files_in, sync_parent};
use crate::{SharedResources, StorageError};
use generation::{Directory, Generations};
use recent::{Buffer, Recent};
use tables::{APPLIED, APPLIED_LOG_ID, APPLIED_MEMBERSHIP, COLUMN_FAMILIES, TABLES, column_family, table_name};

/// Where a state stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// The last log entry whose effects it holds; none if it is new.
    pub log_id: Option<LogId>,
    /// The last membership in it; the default if there is none.
    pub membership: StoredMembership,
}

/// Effects to apply together.
#[derive(Clone, Debug, PartialEq)]
pub struct ApplyBatch {
    /// In order; a later effect on a key wins.
    pub effects: Vec<Effect>,
    /// The last log entry that they cover.
    pub applied: LogId,
    /// The membership, if one of the entries changed it.
    pub membership: Option<StoredMembership>,
}

/// Sizes, for metrics and status. Estimates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateStatistics {
    /// Live table files.
    pub disk_bytes: u64,
    /// The buffer of what was applied last, and memtables.
    pub memory_bytes: u64,
    /// Keys in the data table; one that was overwritten or deleted may count more than once.
    pub keys_estimate: u64,
}

/// One shard replica's state.
pub struct ShardState {
    resources: SharedResources,
    generations: Generations,
    live: RwLock<Arc<Live>>,
    /// Held while writing or replacing the live instance, so that no effect goes to one that is being replaced.
    writes: Mutex<()>,
}

/// The instance that reads and writes go to.
struct Live {
    db: DB,
    applied: RwLock<Applied>,
    recent: Recent,
    /// Bytes applied, and of those, bytes that a flush or checkpoint has covered.
    applied_bytes: AtomicU64,
    flushed_bytes: AtomicU64,
    /// After `db`, so that a replaced generation is removed only once RocksDB has closed it.
    directory: Directory,
}

impl Live {
    fn open(directory: PathBuf, resources: &SharedResources) -> Result<Self, StorageError> {
        let options = tables::options(resources);
        let db = DB::open_cf_descriptors(&options, &directory, tables::column_families(resources))
            .map_err(StorageError::rocksdb(format_args!("open the state in {}", directory.display())))?;
        let applied = read::applied(&db, &ReadOptions::default())?;
        Ok(Self {
            db,
            applied: RwLock::new(applied),
            recent: Recent::default(),
            applied_bytes: AtomicU64::new(0),
            flushed_bytes: AtomicU64::new(0),
            directory: Directory::new(directory),
        })
    }
}

impl Live {
    fn write_back(&self) -> Result<(), StorageError> {
        self.recent.write_back(|buffer| {
            let started = Instant::now();
            let writes = write_batch(&self.db, buffer)?;
            let bytes = writes.size_in_bytes() as u64;
            let mut options = WriteOptions::default();
            options.disable_wal(true);
            self.db.write_opt(writes, &options).map_err(StorageError::rocksdb("write the state back"))?;
            metrics::histogram!("cirrus_state_write_back_seconds").record(started.elapsed());
            metrics::counter!("cirrus_state_write_back_bytes_total").increment(bytes);
            Ok(())
        })
    }
}

/// A state that is closed in order keeps everything: RocksDB flushes what it holds when it is closed.
impl Drop for Live {
    fn drop(&mut self) {
        if let Err(error) = self.write_back() {
            tracing::warn!(%error, "a state was closed with effects that only the log has");
        }
    }
}

impl ShardState {
    /// Opens or creates the state in `directory`. Finishes or undoes an install that a crash interrupted.
    ///
    /// # Errors
    /// `Damaged`, `Failed`.
    pub fn open(directory: &Path, resources: &SharedResources) -> Result<Self, StorageError> {
        let (generations, live) = Generations::open(directory)?;
        let live = Arc::new(Live::open(live, resources)?);
        Ok(Self { resources: resources.clone(), generations, live: RwLock::new(live), writes: Mutex::default() })
    }

    fn live(&self) -> Arc<Live> {
        self.live.read().clone()
    }

    /// Where the state stands, counting what is in memory only: at least at the entry that wrote what was read before.
    pub fn applied(&self) -> Applied {
        self.live().applied.read().clone()
    }

    /// Applies a batch: all of it, with its applied id and membership, or nothing. Writes memory only. Where the buffer
    /// is full twice over, because nobody called [`Self::write_back`] when it was due, it is written back first.
    ///
    /// # Errors
    /// `Refused` if an effect names no table or no change, or `applied` does not grow; `Failed`.
    pub fn apply(&self, batch: &ApplyBatch) -> Result<(), StorageError> {
        let _ordered = self.writes.lock();
        let live = self.live();
        if let Some(applied) = live.applied.read().log_id.filter(|applied| applied.index >= batch.applied.index) {
            return Err(StorageError::Refused(format!(
                "apply up to index {}, but {} is applied already",
                batch.applied.index, applied.index
            )));
        }
        let changes = batch.effects.iter().map(change_of).collect::<Result<Vec<_>, _>>()?;
        if live.recent.filling().0 >= self.buffer_bytes().saturating_mul(2) {
            metrics::counter!("cirrus_state_write_stalls_total").increment(1);
            live.write_back()?;
        }
        let mut bytes = 0;
        // Held while the effects become readable: who has read one finds it counted in `applied`.
        let mut applied = live.applied.write();
        live.recent.add(batch.applied, batch.membership.as_ref(), |buffer| {
            for (table, key, value) in changes {
                bytes += (key.len() + value.map_or(0, <[u8]>::len)) as u64;
                match value {
                    Some(value) => buffer.put(table, key, value),
                    None => buffer.delete(table, key),
                }
            }
        });
        applied.log_id = Some(batch.applied);
        if let Some(membership) = &batch.membership {
            applied.membership = membership.clone();
        }
        drop(applied);
        // One for the entry itself: its applied id must be flushed even where it has no effects.
        live.applied_bytes.fetch_add(bytes + 1, Ordering::Relaxed);
        metrics::counter!("cirrus_state_apply_bytes_total").increment(bytes);
        Ok(())
    }

    fn buffer_bytes(&self) -> usize {
        self.resources.config().state_buffer_bytes
    }

    /// Memory that the buffer of what was applied last holds.
    pub fn buffered_bytes(&self) -> u64 {
        self.live().recent.bytes() as u64
    }

    /// Whether the buffer of what was applied last is full, and nobody writes it back yet.
    pub fn is_write_back_due(&self) -> bool {
        let (bytes, nothing_leaves) = self.live().recent.filling();
        nothing_leaves && bytes >= self.buffer_bytes()
    }

    /// Writes the buffer of what was applied last to RocksDB, whose memtables are memory too. Takes milliseconds, or
    /// as long as flushes cannot keep up; apply and reads go on meanwhile.
    ///
    /// # Errors
    /// `Failed`; what could not be written stays in the buffer.
    pub fn write_back(&self) -> Result<(), StorageError> {
        self.live().write_back()
    }

    /// Writes everything applied so far to disk; it is then part of [`Self::flushed`].
    ///
    /// # Errors
    /// `Failed`.
    pub fn flush(&self) -> Result<(), StorageError> {
        flush(&self.live())
    }

    /// The applied id that survives a crash. It grows by [`Self::flush`], by a checkpoint, and by itself when a
    /// memtable is full.
    ///
    /// # Errors
    /// `Failed`, `Damaged`.
    pub fn flushed(&self) -> Result<Option<LogId>, StorageError> {
        // Reads table files only, so it is exact, whoever flushed: tables become readable once they are durable.
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::Persisted);
        Ok(read::applied(&self.live().db, &options)?.log_id)
    }

    /// Bytes applied since the last [`Self::flush`] or checkpoint.
    pub fn unflushed_bytes(&self) -> u64 {
        let live = self.live();
        live.applied_bytes.load(Ordering::Relaxed).saturating_sub(live.flushed_bytes.load(Ordering::Relaxed))
    }

    /// Makes a checkpoint in `directory`, which must not exist, of at least everything applied so far; apply goes on
    /// meanwhile. Table files are hard links, so `directory` must be on the state's file system.
    ///
    /// # Errors
    /// `Refused` if `directory` exists; `Failed`.
    pub fn checkpoint(&self, directory: &Path) -> Result<Checkpoint, StorageError> {
        let started = Instant::now();
        let live = self.live();
        let applied_bytes = live.applied_bytes.load(Ordering::Relaxed);
        live.write_back()?;
        checkpoint::create(&live.db, directory)?;
        live.flushed_bytes.fetch_max(applied_bytes, Ordering::Relaxed);
        let checkpoint = Checkpoint::open(directory, &self.resources)?;
        metrics::histogram!("cirrus_state_checkpoint_seconds").record(started.elapsed());
        Ok(checkpoint)
    }

    /// Replaces the whole state by a checkpoint, whose directory is moved into this state's. Readers see the old
    /// state or the new; a crash at any point leaves one or the other.
    ///
    /// # Errors
    /// `Refused` if it is no whole checkpoint; nothing has changed then. `Failed`.
    pub fn install(&self, checkpoint_directory: &Path) -> Result<(), StorageError> {
        self.install_observed(checkpoint_directory, &mut |_| {})
    }

    /// `observe` is called between any two steps, where a crash test looks at the disk.
    fn install_observed(&self, checkpoint_directory: &Path, observe: &mut dyn FnMut(&str)) -> Result<(), StorageError> {
        Checkpoint::open(checkpoint_directory, &self.resources)?;
        sync_files_in(checkpoint_directory)?;
        observe("verified");

        let _ordered = self.writes.lock();
        let generation = self.generations.next()?;
        std::fs::rename(checkpoint_directory, generation.path())
            .map_err(StorageError::file("move into the state", checkpoint_directory))?;
        sync_parent(generation.path())?;
        sync_parent(checkpoint_directory)?;
        observe("moved");

        let installed = match Live::open(generation.path().to_owned(), &self.resources) {
            Ok(installed) => Arc::new(installed),
            Err(error) => {
                generation.discard();
                return Err(error);
            }
        };
        observe("opened");
        self.generations.publish(&generation)?;
        observe("published");

        let replaced = std::mem::replace(&mut *self.live.write(), installed);
        replaced.directory.remove_on_close();
        // Closes it, or leaves that to the last reader that still holds it.
        drop(replaced);
        observe("removed");
        metrics::counter!("cirrus_state_installs_total").increment(1);
        Ok(())
    }

    /// Sizes of the state.
    pub fn statistics(&self) -> StateStatistics {
        let live = self.live();
        let sum = |property| {
            COLUMN_FAMILIES
                .iter()
                .filter_map(|name| live.db.property_int_value_cf(live.db.cf_handle(name)?, property).ok()?)
                .sum()
        };
        let keys = live
            .db
            .cf_handle("data")
            .and_then(|data| live.db.property_int_value_cf(data, rocksdb::properties::ESTIMATE_NUM_KEYS).ok()?);
        StateStatistics {
            disk_bytes: sum(rocksdb::properties::LIVE_SST_FILES_SIZE),
            memory_bytes: sum(rocksdb::properties::CUR_SIZE_ALL_MEM_TABLES) + self.buffered_bytes(),
            keys_estimate: keys.unwrap_or(0) + live.recent.keys(Table::Data) as u64,
        }
    }
}

fn flush(live: &Live) -> Result<(), StorageError> {
    let started = Instant::now();
    let applied_bytes = live.applied_bytes.load(Ordering::Relaxed);
    live.write_back()?;
    let column_families =
        COLUMN_FAMILIES.iter().map(|name| column_family(&live.db, name)).collect::<Result<Vec<_>, _>>()?;
    let references: Vec<_> = column_families.iter().collect();
    live.db.flush_cfs_opt(&references, &FlushOptions::default()).map_err(StorageError::rocksdb("flush the state"))?;
    live.flushed_bytes.fetch_max(applied_bytes, Ordering::Relaxed);
    metrics::histogram!("cirrus_state_flush_seconds").record(started.elapsed());
    Ok(())
}

/// A table, a key in it and its new value; none: it is deleted.
type Change<'effect> = (Table, &'effect [u8], Option<&'effect [u8]>);

fn change_of(effect: &Effect) -> Result<Change<'_>, StorageError> {
    let table = Table::try_from(effect.table)
        .map_err(|_| StorageError::Refused(format!("table {} is unknown", effect.table)))?;
    table_name(table)?;
    match &effect.change {
        Some(effect::Change::Put(value)) => Ok((table, &effect.key, Some(value))),
        Some(effect::Change::Delete(true)) => Ok((table, &effect.key, None)),
        Some(effect::Change::Delete(false)) | None => {
            Err(StorageError::Refused("an effect without a change".to_owned()))
        }
    }
}

fn write_batch(db: &DB, buffer: &Buffer) -> Result<WriteBatch, StorageError> {
    // As much as the buffer takes is more than enough. A batch that grows touches twice the memory.
    let mut writes = WriteBatch::with_capacity_bytes(buffer.bytes);
    for table in TABLES {
        let column_family = column_family(db, table_name(table)?)?;
        // In order: each insertion into the memtable begins near where the last one ended.
        for (key, value) in buffer.sorted(table) {
            match value {
                Some(value) => writes.put_cf(column_family, key, value),
                None => writes.delete_cf(column_family, key),
            }
        }
    }
    let applied = column_family(db, APPLIED)?;
    if let Some(log_id) = &buffer.applied {
        writes.put_cf(applied, APPLIED_LOG_ID, log_id.encode_to_vec());
    }
    if let Some(membership) = &buffer.membership {
        writes.put_cf(applied, APPLIED_MEMBERSHIP, membership.encode_to_vec());
    }
    Ok(writes)
}

#[cfg(test)]
mod tests;
