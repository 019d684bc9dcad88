//! File operations that have reached the disk when they return.
//!
//! On POSIX a new, renamed or removed name is durable only once its directory is fsynced.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use crate::StorageError;

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(directory: &Path) -> Result<(), StorageError> {
    File::open(directory).and_then(|handle| handle.sync_all()).map_err(StorageError::file("fsync directory", directory))
}

/// Makes every file of a flat directory, and the directory, durable.
pub(crate) fn sync_files_in(directory: &Path) -> Result<(), StorageError> {
    for entry in fs::read_dir(directory).map_err(StorageError::file("list", directory))? {
        let path = entry.map_err(StorageError::file("list", directory))?.path();
        File::open(&path).and_then(|file| file.sync_all()).map_err(StorageError::file("fsync", &path))?;
    }
    sync_directory(directory)
}

/// Creates a directory and its parents, durably.
pub(crate) fn create_directory(directory: &Path) -> Result<(), StorageError> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_directory(parent)?;
    }
    match fs::create_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(StorageError::file("create", directory)),
    }?;
    sync_parent(directory)
}

/// Makes the name of `path` itself durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), StorageError> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => sync_directory(Path::new(".")),
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

/// Replaces a small file's contents: after a crash it holds the old contents or the new, never a mix.
pub(crate) fn replace_file(path: &Path, contents: &[u8]) -> Result<(), StorageError> {
    let temporary = path.with_extension("tmp");
    File::create(&temporary)
        .and_then(|mut file| {
            file.write_all(contents)?;
            file.sync_all()
        })
        .map_err(StorageError::file("write", &temporary))?;
    fs::rename(&temporary, path).map_err(StorageError::file("replace", path))?;
    sync_parent(path)
}
