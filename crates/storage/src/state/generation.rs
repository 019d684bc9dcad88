//! Which directory holds the live state, and how another takes its place.
//!
//! ```text
//!   shard-3/LIVE            the text "state-000002": the one live generation
//!   shard-3/state-000002/   its RocksDB instance
//!   shard-3/state-000003/   moved in by an install, not yet published; or replaced, not yet removed
//! ```
//! `LIVE` is replaced atomically, and always after what it names is complete and durable. So at every moment it names
//! a whole state; any other generation is a leftover, which opening removes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::StorageError;
use crate::durable_files::{create_directory, replace_file, sync_directory};

const POINTER: &str = "LIVE";
const PREFIX: &str = "state-";

pub(super) struct Generations {
    root: PathBuf,
}

impl Generations {
    /// Returns the live generation's directory too; for a new state it may not exist yet.
    pub(super) fn open(root: &Path) -> Result<(Self, PathBuf), StorageError> {
        create_directory(root)?;
        let generations = Self { root: root.to_owned() };
        let pointer = root.join(POINTER);
        let live = match fs::read_to_string(&pointer) {
            Ok(name) => {
                let name = name.trim_end();
                parse(name).ok_or_else(|| StorageError::Damaged(format!("{}: names {name:?}", pointer.display())))?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // A new state is published before it is created, so only damage loses the pointer but not the data.
                if let Some(number) = generations.numbers()?.first() {
                    return Err(StorageError::Damaged(format!(
                        "{} is missing, but {} is there",
                        pointer.display(),
                        name_of(*number)
                    )));
                }
                replace_file(&pointer, name_of(1).as_bytes())?;
                1
            }
            Err(error) => return Err(StorageError::file("read", &pointer)(error)),
        };
        generations.remove_leftovers(live)?;
        let live = root.join(name_of(live));
        Ok((generations, live))
    }

    fn remove_leftovers(&self, live: u64) -> Result<(), StorageError> {
        for number in self.numbers()? {
            if number != live {
                let path = self.root.join(name_of(number));
                fs::remove_dir_all(&path).map_err(StorageError::file("remove", &path))?;
            }
        }
        sync_directory(&self.root)
    }

    fn numbers(&self) -> Result<Vec<u64>, StorageError> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(StorageError::file("list", &self.root))? {
            let entry = entry.map_err(StorageError::file("list", &self.root))?;
            numbers.extend(entry.file_name().to_str().and_then(parse));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// A generation that is not there yet.
    pub(super) fn next(&self) -> Result<NextGeneration, StorageError> {
        let number = self.numbers()?.last().copied().unwrap_or(0) + 1;
        Ok(NextGeneration { number, path: self.root.join(name_of(number)) })
    }

    /// Makes it the live one.
    pub(super) fn publish(&self, generation: &NextGeneration) -> Result<(), StorageError> {
        replace_file(&self.root.join(POINTER), name_of(generation.number).as_bytes())
    }
}

pub(super) struct NextGeneration {
    number: u64,
    path: PathBuf,
}

impl NextGeneration {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it again; if that fails, the next opening does it.
    pub(super) fn discard(&self) {
        remove(&self.path);
    }
}

/// A generation's directory, removed when it is dropped if it was replaced.
pub(super) struct Directory {
    path: PathBuf,
    remove_on_close: AtomicBool,
}

impl Directory {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, remove_on_close: AtomicBool::new(false) }
    }

    pub(super) fn remove_on_close(&self) {
        self.remove_on_close.store(true, Ordering::Release);
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.remove_on_close.load(Ordering::Acquire) {
            remove(&self.path);
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        tracing::warn!(%error, path = %path.display(), "a replaced state's directory stays until the next start");
    }
}

fn name_of(number: u64) -> String {
    format!("{PREFIX}{number:06}")
}

fn parse(name: &str) -> Option<u64> {
    let number = name.strip_prefix(PREFIX)?.parse().ok()?;
    (name_of(number) == name).then_some(number)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_read_back_and_nothing_else_does(number: u64, other in "state-[0-9a]{0,9}|.*") {
            prop_assert_eq!(parse(&name_of(number)), Some(number));
            if let Some(number) = parse(&other) {
                prop_assert_eq!(name_of(number), other);
            }
        }
    }

    #[test]
    fn a_lost_pointer_is_damage_not_a_new_state() {
        let root = tempfile::tempdir().unwrap();
        let (_, live) = Generations::open(root.path()).unwrap();
        fs::create_dir(&live).unwrap();
        fs::remove_file(root.path().join(POINTER)).unwrap();
        assert!(matches!(Generations::open(root.path()), Err(StorageError::Damaged(_))));
        assert!(live.is_dir());
    }

    #[test]
    fn a_pointer_that_names_no_generation_is_damage() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(POINTER), "state-../other").unwrap();
        assert!(matches!(Generations::open(root.path()), Err(StorageError::Damaged(_))));
    }
}
