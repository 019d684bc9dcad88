//! The directory's libraries, and those of the cluster that they require.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cirrus_client::{Client, ClientError, Failure, Reason};
use cirrus_procedures::testing::TestSettings;
use cirrus_procedures::{LibrarySources, Linker, Requirement};

use crate::failure::CommandError;
use crate::library_directory::LibraryDirectory;

/// What is to be deployed.
pub(super) struct Local {
    pub(super) sources: Sources,
    /// Each behind those of the directory that it requires.
    pub(super) libraries: Vec<LocalLibrary>,
}

pub(super) struct LocalLibrary {
    pub(super) name: String,
    pub(super) source: Bytes,
    pub(super) requires: Vec<Requirement>,
}

/// The directory first, then what was fetched from the cluster.
pub(super) struct Sources {
    directory: LibraryDirectory,
    fetched: BTreeMap<Wanted, Bytes>,
    /// Not there, and not looked for on the cluster yet.
    missing: RefCell<BTreeSet<Wanted>>,
}

/// A library, and the version that was named.
type Wanted = (String, Option<u64>);

impl LibrarySources for Sources {
    fn source(&self, name: &str, version: Option<u64>) -> Result<Bytes, Failure> {
        let wanted = (name.to_owned(), version);
        match self.directory.source(name, version) {
            Err(failure) if failure.reason == Reason::LibraryNotFound => match self.fetched.get(&wanted) {
                Some(source) => Ok(source.clone()),
                None => {
                    self.missing.borrow_mut().insert(wanted);
                    Err(failure)
                }
            },
            other => other,
        }
    }
}

/// Reads, inspects and orders what is in the directory.
pub(super) async fn read(directory: &LibraryDirectory, client: &Client) -> Result<Local, CommandError> {
    let names = directory.libraries()?;
    if names.is_empty() {
        let problem = format!("{}: there are no libraries, which are *.lua or *.luau", directory.path().display());
        return Err(CommandError::local(problem));
    }
    let mut sources = Sources { directory: directory.clone(), fetched: BTreeMap::new(), missing: RefCell::default() };
    let mut asked = BTreeSet::new();
    loop {
        let linked = link(&sources, &names);
        let missing: Vec<Wanted> =
            sources.missing.take().into_iter().filter(|wanted| !asked.contains(wanted)).collect();
        if missing.is_empty() {
            let libraries = linked.map_err(ClientError::from)?;
            return Ok(Local { sources, libraries });
        }
        for wanted in missing {
            let (name, version) = &wanted;
            match client.get_library(name, version.unwrap_or(0)).await {
                Ok(answer) => {
                    sources.fetched.insert(wanted.clone(), answer.source);
                }
                // The linker says who requires it.
                Err(error) if error.reason_name() == Reason::LibraryNotFound.as_str() => {}
                Err(error) => return Err(error.into()),
            }
            asked.insert(wanted);
        }
    }
}

/// Each library behind those that it requires.
fn link(sources: &Sources, names: &[String]) -> Result<Vec<LocalLibrary>, Failure> {
    let linker = Linker::new(sources, &TestSettings::default().limits);
    let mut libraries: Vec<LocalLibrary> = Vec::new();
    for name in names {
        let linked = linker.find(name, None)?;
        for library in linked.required.iter().chain([&linked.source]) {
            let is_local = library.version == 0 && names.contains(&library.name);
            if is_local && !libraries.iter().any(|known| known.name == library.name) {
                libraries.push(LocalLibrary {
                    name: library.name.clone(),
                    source: library.source.clone(),
                    requires: library.requires.clone(),
                });
            }
        }
    }
    Ok(libraries)
}
