//! A directory of libraries and their tests, as authors keep them.
//!
//! `stock.lua` or `stock.luau` is the library `stock`; `stock@4.lua` is its version 4, for libraries that require that one.
//! `stock_test.lua`, `stock_tests.lua`, `test.lua` and `tests.lua` are test files.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cirrus_client::{Failure, Reason};
use cirrus_procedures::{LibrarySources, check_library_name};

use crate::failure::CommandError;
use crate::output::at;

/// What the names of sources end in.
const EXTENSIONS: [&str; 2] = ["lua", "luau"];

#[derive(Clone, Debug)]
pub(crate) struct LibraryDirectory {
    path: PathBuf,
}

impl LibraryDirectory {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        LibraryDirectory { path: path.into() }
    }

    /// The directory in which a file stands.
    pub(crate) fn of_file(file: &Path) -> Self {
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        LibraryDirectory::new(parent.unwrap_or(Path::new(".")))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The libraries' names. Fails for a file whose name no library may have, and for two files of one library.
    pub(crate) fn libraries(&self) -> Result<Vec<String>, CommandError> {
        let mut found = BTreeMap::new();
        for (stem, file) in self.sources()? {
            if is_test(&stem) || stem.contains('@') {
                continue;
            }
            check_library_name(&stem).map_err(|failure| CommandError::local(at(&file, failure.message)))?;
            if let Some(other) = found.insert(stem, file.clone()) {
                let problem = format!("{} is the same library", other.display());
                return Err(CommandError::local(at(&file, problem)));
            }
        }
        Ok(found.into_keys().collect())
    }

    /// The test files, by name.
    pub(crate) fn test_files(&self) -> Result<Vec<PathBuf>, CommandError> {
        Ok(self.sources()?.into_iter().filter(|(stem, _)| is_test(stem)).map(|(_, file)| file).collect())
    }

    /// Stem and path of each source.
    fn sources(&self) -> Result<Vec<(String, PathBuf)>, CommandError> {
        let failed = |error: io::Error| CommandError::local(at(&self.path, error));
        let mut sources = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            // As the user would write it.
            let file = file.strip_prefix(".").unwrap_or(&file).to_owned();
            let is_source =
                file.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known));
            if is_source && file.is_file() {
                let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                sources.push((stem, file));
            }
        }
        sources.sort();
        Ok(sources)
    }
}

/// Whether a source of that stem holds tests.
pub(crate) fn is_test(stem: &str) -> bool {
    matches!(stem, "test" | "tests") || stem.ends_with("_test") || stem.ends_with("_tests")
}

impl LibrarySources for LibraryDirectory {
    fn source(&self, name: &str, version: Option<u64>) -> Result<Bytes, Failure> {
        let wanted = version.map_or(name.to_owned(), |version| format!("{name}@{version}"));
        let mut found = None;
        for extension in EXTENSIONS {
            let file = self.path.join(format!("{wanted}.{extension}"));
            match std::fs::read(&file) {
                Ok(_) if found.is_some() => {
                    let problem = format!("both {wanted}.lua and {wanted}.luau are in {}", self.path.display());
                    return Err(Failure::new(Reason::LibraryInvalid, problem));
                }
                Ok(source) => found = Some(Bytes::from(source)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Failure::internal(at(&file, error))),
            }
        }
        found.ok_or_else(|| {
            let (directory, file) = (self.path.display(), self.path.join(format!("{wanted}.lua")));
            let problem = format!(
                "there is no {wanted}.lua in {directory} (from a cluster: cirrus proc show {wanted} > {})",
                file.display()
            );
            Failure::new(Reason::LibraryNotFound, problem).with("library", wanted)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn directory(files: &[&str]) -> (tempfile::TempDir, LibraryDirectory) {
        let temporary = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::write(temporary.path().join(file), format!("-- {file}")).unwrap();
        }
        let directory = LibraryDirectory::new(temporary.path());
        (temporary, directory)
    }

    #[test]
    fn libraries_tests_and_kept_versions_are_told_apart() {
        let (_temporary, directory) =
            directory(&["b.luau", "a.lua", "a_test.lua", "tests.luau", "a@4.lua", "notes.txt", "latest.lua"]);
        assert_eq!(directory.libraries().unwrap(), ["a", "b", "latest"]);
        let tests = directory.test_files().unwrap();
        let names: Vec<_> = tests.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a_test.lua", "tests.luau"]);
        assert_eq!(directory.source("b", None).unwrap(), "-- b.luau");
        assert_eq!(directory.source("a", Some(4)).unwrap(), "-- a@4.lua");
        let missing = directory.source("a", Some(5)).unwrap_err();
        assert_eq!(missing.reason, Reason::LibraryNotFound);
        assert!(missing.message.contains("cirrus proc show a@5"), "{missing}");
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        assert!(directory(&["my lib.lua"]).1.libraries().is_err());
        let (_temporary, both) = directory(&["a.lua", "a.luau"]);
        assert!(both.libraries().is_err());
        assert_eq!(both.source("a", None).unwrap_err().reason, Reason::LibraryInvalid);
        assert!(LibraryDirectory::new("/nowhere/at/all").libraries().is_err());
    }

    #[test]
    fn a_files_directory_is_its_parent() {
        assert_eq!(LibraryDirectory::of_file(Path::new("x_test.lua")).path(), Path::new("."));
        assert_eq!(LibraryDirectory::of_file(Path::new("a/x_test.lua")).path(), Path::new("a"));
    }
}
