//! The files of the log's directory.
//!
//! | name | holds |
//! | --- | --- |
//! | `N.segment` | a segment of the log |
//! | `N.spare` | a segment that was freed, to be used again under a new number |
//! | `prepared.tmp` | a file that is being filled with zeros |
//! | `LOCK` | nothing: locked by the process that has the log open |
//!
//! Files are filled with zeros before use: then a record neither allocates blocks nor changes the size, and its fsync
//! has no metadata to write.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use crate::StorageError;
use crate::durable_files::sync_directory;

pub(super) const SEGMENT: &str = "segment";
pub(super) const SPARE: &str = "spare";
const ZEROS_BYTES: usize = 256 << 10;

/// The open segments, for readers.
#[derive(Default)]
pub(super) struct SegmentFiles(RwLock<HashMap<u64, Arc<File>>>);

impl SegmentFiles {
    pub(super) fn new(files: HashMap<u64, Arc<File>>) -> Self {
        Self(RwLock::new(files))
    }

    pub(super) fn get(&self, number: u64) -> Option<Arc<File>> {
        self.0.read().get(&number).cloned()
    }

    pub(super) fn insert(&self, number: u64, file: Arc<File>) {
        self.0.write().insert(number, file);
    }

    pub(super) fn remove(&self, number: u64) -> Option<Arc<File>> {
        self.0.write().remove(&number)
    }
}

pub(super) fn path_of(directory: &Path, number: u64, kind: &str) -> PathBuf {
    // As many digits as the largest number has, so that names sort as numbers do.
    directory.join(format!("{number:020}.{kind}"))
}

/// The numbers of all files of a kind, in order.
pub(super) fn list(directory: &Path, kind: &str) -> Result<Vec<u64>, StorageError> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(StorageError::file("list", directory))? {
        let path = entry.map_err(StorageError::file("list", directory))?.path();
        if path.extension().is_some_and(|extension| extension == kind) {
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            numbers.push(
                number.ok_or_else(|| {
                    StorageError::Damaged(format!("{}: not a name that the log gives", path.display()))
                })?,
            );
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

pub(super) fn open(path: &Path) -> Result<File, StorageError> {
    OpenOptions::new().read(true).write(true).open(path).map_err(StorageError::file("open", path))
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), StorageError> {
    std::fs::rename(from, to).map_err(StorageError::file("rename", from))
}

pub(super) fn remove(path: &Path) -> Result<(), StorageError> {
    std::fs::remove_file(path).map_err(StorageError::file("remove", path))
}

/// Makes a new segment of zeros, durably.
pub(super) fn create(directory: &Path, number: u64, bytes: u64) -> Result<File, StorageError> {
    let temporary = temporary_path(directory);
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(true).clone();
    let file = options.open(&temporary).map_err(StorageError::file("create", &temporary))?;
    fill_with_zeros(&file, 0, bytes).map_err(StorageError::file("fill", &temporary))?;
    file.sync_all().map_err(StorageError::file("fsync", &temporary))?;
    rename(&temporary, &path_of(directory, number, SEGMENT))?;
    sync_directory(directory)?;
    Ok(file)
}

pub(super) fn temporary_path(directory: &Path) -> PathBuf {
    directory.join("prepared.tmp")
}

pub(super) fn fill_with_zeros(file: &File, from: u64, to: u64) -> std::io::Result<()> {
    let zeros = vec![0; ZEROS_BYTES];
    let mut offset = from;
    while offset < to {
        let bytes = (to - offset).min(ZEROS_BYTES as u64);
        file.write_all_at(&zeros[..bytes as usize], offset)?;
        offset += bytes;
    }
    Ok(())
}
