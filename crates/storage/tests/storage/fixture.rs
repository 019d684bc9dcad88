//! Small instances, disk images, and waiting for the writer.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bytes::Bytes;
use cirrus_proto::internal::v1::{Effect, Entry, LogId, Table, Vote, effect, entry};
use cirrus_storage::{ApplyBatch, Done, EncodedEntry, LogConfig, SharedResources, StorageConfig, StorageError};
use tempfile::TempDir;

/// Nothing in these tests takes as long unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A directory in memory where there is one: these tests open thousands of instances, and say themselves what is
/// durable.
pub(crate) fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

pub(crate) fn resources() -> SharedResources {
    SharedResources::new(StorageConfig {
        block_cache_bytes: 4 << 20,
        write_buffer_bytes: 32 << 20,
        state_buffer_bytes: 64 << 10,
        state_memtable_bytes: 1 << 20,
        ..StorageConfig::default()
    })
    .unwrap()
}

/// A log that writes lazy operations only together with urgent ones, so that a test knows what is in which fsync.
pub(crate) fn log_config() -> LogConfig {
    // A log is opened thousands of times, and each time it may fill two segments with zeros.
    LogConfig { segment_bytes: 128 << 10, lazy_delay_max: Duration::from_secs(3600), ..LogConfig::default() }
}

pub(crate) fn id(term: u64, index: u64) -> LogId {
    LogId { term, index }
}

pub(crate) fn vote(term: u64, node_id: u64) -> Vote {
    Vote { term, node_id, committed: false }
}

pub(crate) fn entry(term: u64, index: u64, payload: impl Into<Bytes>) -> Arc<EncodedEntry> {
    let payload = Some(entry::Payload::Proposal(payload.into()));
    Arc::new(EncodedEntry::encode(&Entry { log_id: Some(id(term, index)), payload }).unwrap())
}

pub(crate) fn entries(term: u64, indexes: std::ops::RangeInclusive<u64>, payload: &[u8]) -> Vec<Arc<EncodedEntry>> {
    indexes.map(|index| entry(term, index, payload.to_vec())).collect()
}

/// A callback, and where it reports.
pub(crate) fn done() -> (Done, Receiver<Result<(), StorageError>>) {
    let (sender, receiver) = channel();
    (Box::new(move |outcome| sender.send(outcome).unwrap_or_default()), receiver)
}

/// Runs a call that takes a callback and waits until that was called.
pub(crate) fn wait(call: impl FnOnce(Done) -> Result<(), StorageError>) -> Result<(), StorageError> {
    let (done, outcome) = done();
    call(done)?;
    outcome.recv_timeout(PATIENCE).expect("the callback is called")
}

/// Waits for a condition that another thread brings about.
pub(crate) fn eventually(mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "the condition was not met in time");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn put(table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Effect {
    Effect { table: table.into(), key: key.into(), change: Some(effect::Change::Put(value.into())) }
}

pub(crate) fn delete(table: Table, key: impl Into<Bytes>) -> Effect {
    Effect { table: table.into(), key: key.into(), change: Some(effect::Change::Delete(true)) }
}

pub(crate) fn batch(index: u64, effects: Vec<Effect>) -> ApplyBatch {
    ApplyBatch { effects, applied: id(1, index), membership: None }
}

/// All files under a directory, with their contents.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct DiskImage(pub(crate) BTreeMap<PathBuf, Vec<u8>>);

impl DiskImage {
    /// What is there once background work has come to rest.
    pub(crate) fn capture(directory: &Path) -> Self {
        let mut image = None;
        eventually(|| {
            let Ok(now) = read_files(directory) else { return false };
            let rests = image.as_ref() == Some(&now);
            image = Some(now);
            rests
        });
        Self(image.unwrap())
    }

    /// Writes it to a directory, in place of all that was there.
    pub(crate) fn restore(&self, directory: &Path) {
        if directory.exists() {
            fs::remove_dir_all(directory).unwrap();
        }
        fs::create_dir_all(directory).unwrap();
        for (path, contents) in &self.0 {
            let path = directory.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }
    }

    /// The files that differ, or are in only one of the two.
    pub(crate) fn changed(&self, after: &Self) -> Vec<PathBuf> {
        let paths: std::collections::BTreeSet<_> = self.0.keys().chain(after.0.keys()).collect();
        paths.into_iter().filter(|path| self.0.get(*path) != after.0.get(*path)).cloned().collect()
    }

    pub(crate) fn with(&self, path: &Path, contents: Vec<u8>) -> Self {
        let mut image = self.clone();
        image.0.insert(path.to_owned(), contents);
        image
    }
}

fn read_files(directory: &Path) -> std::io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(next)? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.file_name().is_some_and(|name| name != "LOCK") {
                let name = path.strip_prefix(directory).expect("it is below").to_owned();
                files.insert(name, fs::read(&path)?);
            }
        }
    }
    Ok(files)
}

/// A file of which the first `cut` bytes of the new contents reached the disk.
pub(crate) fn torn(before: &[u8], after: &[u8], cut: usize) -> Vec<u8> {
    let mut file = after[..cut].to_vec();
    if before.len() > cut {
        file.extend(&before[cut..]);
    }
    file
}

/// Where two versions of a file begin and cease to differ.
pub(crate) fn difference(before: &[u8], after: &[u8]) -> std::ops::Range<usize> {
    let start = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let end = if before.len() == after.len() {
        after.len() - before.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count()
    } else {
        after.len()
    };
    start..end.max(start)
}
