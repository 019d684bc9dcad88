//! The few ways in which storage fails, each telling the caller what to do.

use std::fmt::Display;
use std::path::Path;

/// Why a storage call failed. The kind is for programs, the text for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// The disk or RocksDB failed. What was being written may or may not be there: stop using the instance.
    #[error("storage failed: {0}")]
    Failed(String),
    /// What is on disk is not what was written. Do not start from it; rebuild the replica from the others.
    #[error("stored data is damaged: {0}")]
    Damaged(String),
    /// The request itself is wrong (a gap in the log, a broken checkpoint). Nothing was changed.
    #[error("refused by storage: {0}")]
    Refused(String),
    /// The log was closed.
    #[error("storage is closed")]
    Closed,
}

impl StorageError {
    /// For `map_err` on RocksDB calls: `action` says what was being done.
    pub(crate) fn rocksdb(action: impl Display) -> impl FnOnce(rocksdb::Error) -> StorageError {
        move |error| match error.kind() {
            rocksdb::ErrorKind::Corruption => StorageError::Damaged(format!("{action}: {error}")),
            _ => StorageError::Failed(format!("{action}: {error}")),
        }
    }

    /// For `map_err` on file system calls.
    pub(crate) fn file(action: &str, path: &Path) -> impl FnOnce(std::io::Error) -> StorageError {
        move |error| StorageError::Failed(format!("{action} {}: {error}", path.display()))
    }
}
