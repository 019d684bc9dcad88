//! Checkpoints: a state's files as hard links, complete in themselves.

use std::fs;
use std::path::{Path, PathBuf};

use rocksdb::{DB, ReadOptions};

use super::{Applied, read, tables};
use crate::durable_files::{create_directory, sync_directory, sync_parent};
use crate::{SharedResources, StorageError};

/// Names with this ending are on their way out.
const REMOVED: &str = "removed";
/// RocksDB's write-ahead log files.
const LOG: &str = "log";

/// A whole checkpoint on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Its directory.
    pub directory: PathBuf,
    /// Where it stands, as read from its own tables.
    pub applied: Applied,
    /// All its files, by name.
    pub files: Vec<CheckpointFile>,
}

/// One file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointFile {
    /// A plain name in the checkpoint's directory.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

impl Checkpoint {
    /// Checks a directory, made here or received, and reads where it stands: every table that its manifest names is
    /// there, has the right size and a readable index, and it holds an applied id. Contents of blocks are checked
    /// when they are read; a transfer must bring its own checksums.
    ///
    /// # Errors
    /// `Refused`, with what is wrong.
    pub fn open(directory: &Path, resources: &SharedResources) -> Result<Self, StorageError> {
        let refused = |what: String| StorageError::Refused(format!("checkpoint {}: {what}", directory.display()));
        let files = list(directory).map_err(&refused)?;
        let mut options = tables::options(resources);
        options.create_if_missing(false);
        options.create_missing_column_families(false);
        // All files are opened at once, and so checked.
        options.set_max_open_files(-1);
        let present = DB::list_cf(&options, directory).map_err(|error| refused(error.to_string()))?;
        let families = tables::column_families(resources)
            .into_iter()
            // One of an older version lacks the tables that are newer; they are made when the state is opened.
            .filter(|family| {
                !tables::NEWER.contains(&family.name()) || present.iter().any(|name| name == family.name())
            });
        let applied = DB::open_cf_descriptors_read_only(&options, directory, families, false)
            .map_err(|error| refused(error.to_string()))
            .and_then(|db| read::applied(&db, &ReadOptions::default()).map_err(|error| refused(error.to_string())))?;
        if applied.log_id.is_none() {
            return Err(refused("it has no applied id".to_owned()));
        }
        Ok(Self { directory: directory.to_owned(), applied, files })
    }

    /// The size of all files.
    pub fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Deletes it. After a crash half-way, [`delete_checkpoints_except`] deletes the rest.
    ///
    /// # Errors
    /// `Failed`.
    pub fn delete(self) -> Result<(), StorageError> {
        delete(&self.directory)
    }
}

/// Flushes, then links and copies. The flush is what puts a state without a write-ahead log into the checkpoint.
pub(super) fn create(db: &DB, directory: &Path) -> Result<(), StorageError> {
    if fs::symlink_metadata(directory).is_ok() {
        return Err(StorageError::Refused(format!("checkpoint {} exists", directory.display())));
    }
    if let Some(parent) = directory.parent() {
        create_directory(parent)?;
    }
    rocksdb::checkpoint::Checkpoint::new(db)
        .and_then(|checkpoint| checkpoint.create_checkpoint(directory))
        .map_err(StorageError::rocksdb("make a checkpoint"))?;
    remove_empty_log(directory)?;
    sync_directory(directory)?;
    sync_parent(directory)
}

/// RocksDB links its write-ahead log too, which is empty, since states do not write one.
fn remove_empty_log(directory: &Path) -> Result<(), StorageError> {
    for entry in fs::read_dir(directory).map_err(StorageError::file("list", directory))? {
        let path = entry.map_err(StorageError::file("list", directory))?.path();
        if path.extension().is_some_and(|extension| extension == LOG)
            && fs::metadata(&path).map_err(StorageError::file("inspect", &path))?.len() == 0
        {
            fs::remove_file(&path).map_err(StorageError::file("remove", &path))?;
        }
    }
    Ok(())
}

/// Deletes all checkpoints in `parent`, whole, unfinished or half-deleted, but those in `keep`. Returns how many.
///
/// # Errors
/// `Failed`.
pub fn delete_checkpoints_except(parent: &Path, keep: &[&Path]) -> Result<usize, StorageError> {
    let mut deleted = 0;
    let entries = match fs::read_dir(parent) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        other => other.map_err(StorageError::file("list", parent))?,
    };
    for entry in entries {
        let path = entry.map_err(StorageError::file("list", parent))?.path();
        if path.is_dir() && !keep.contains(&path.as_path()) {
            delete(&path)?;
            deleted += 1;
        }
    }
    Ok(deleted)
}

/// Renames first, so that no half-deleted directory looks like a checkpoint.
fn delete(directory: &Path) -> Result<(), StorageError> {
    let doomed = match directory.extension() {
        Some(extension) if extension == REMOVED => directory.to_owned(),
        _ => {
            let doomed = directory.with_added_extension(REMOVED);
            if doomed.exists() {
                fs::remove_dir_all(&doomed).map_err(StorageError::file("delete", &doomed))?;
            }
            fs::rename(directory, &doomed).map_err(StorageError::file("rename", directory))?;
            doomed
        }
    };
    fs::remove_dir_all(&doomed).map_err(StorageError::file("delete", &doomed))
}

fn list(directory: &Path) -> Result<Vec<CheckpointFile>, String> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| error.to_string())? {
        let entry = entry.map_err(|error| error.to_string())?;
        // Not through links: a received checkpoint has no business pointing elsewhere.
        let metadata = entry.metadata().map_err(|error| error.to_string())?;
        let name = entry.file_name().into_string().map_err(|name| format!("file name {name:?}"))?;
        if !metadata.is_file() {
            return Err(format!("{name} is not a file"));
        }
        if Path::new(&name).extension().is_some_and(|extension| extension == LOG) {
            return Err(format!("{name} is a write-ahead log, which a state does not have"));
        }
        files.push(CheckpointFile { name, bytes: metadata.len() });
    }
    files.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}
