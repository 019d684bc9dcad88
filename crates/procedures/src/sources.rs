//! Libraries that are not uploaded yet: found by name, and inspected as an upload would be.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use cirrus_proto::limits::Limits;
use cirrus_proto::{Failure, Reason};

use crate::library::{Inspected, LibrarySource, inspect};
use crate::trouble::library_invalid;

/// Where the sources of libraries are.
pub trait LibrarySources {
    /// The source of a library; of one version, where that is named.
    ///
    /// Fails with [`Reason::LibraryNotFound`] where it is not there.
    fn source(&self, name: &str, version: Option<u64>) -> Result<Bytes, Failure>;
}

/// Finds libraries with everything that they require. Each is inspected once.
pub struct Linker<'a> {
    sources: &'a dyn LibrarySources,
    limits: Limits,
    known: RefCell<BTreeMap<Name, Result<Rc<Linked>, Failure>>>,
    /// What is being looked for, each for the one before it.
    wanted: RefCell<Vec<Name>>,
}

/// A library as an upload would have it.
#[derive(Clone, Debug)]
pub struct Linked {
    /// Its version is the one that was named; 0, which no upload gives, where none was.
    pub source: LibrarySource,
    /// Everything that it requires, each behind what it requires itself.
    pub required: Vec<LibrarySource>,
    /// Its functions, and what it declares of them.
    pub inspected: Inspected,
}

/// A library, and the version that was named.
type Name = (String, Option<u64>);

impl<'a> Linker<'a> {
    /// Finds libraries among these, and holds them to the limits of an upload.
    pub fn new(sources: &'a dyn LibrarySources, limits: &Limits) -> Self {
        Linker { sources, limits: *limits, known: RefCell::default(), wanted: RefCell::default() }
    }

    /// The library with everything that it requires.
    ///
    /// Fails as [`inspect`](crate::inspect) does, and as the sources do; with [`Reason::LibraryInvalid`] for libraries
    /// that require each other in a circle.
    pub fn find(&self, name: &str, version: Option<u64>) -> Result<Rc<Linked>, Failure> {
        let wanted = (name.to_owned(), version);
        if let Some(known) = self.known.borrow().get(&wanted) {
            return known.clone();
        }
        if self.wanted.borrow().contains(&wanted) {
            let circle: Vec<String> = self.wanted.borrow().iter().chain([&wanted]).map(written).collect();
            return Err(library_invalid(name, format!("{name} requires itself: {}", circle.join(" → ")), None));
        }
        self.wanted.borrow_mut().push(wanted.clone());
        let found = self.link(name, version);
        self.wanted.borrow_mut().pop();
        self.known.borrow_mut().insert(wanted, found.clone());
        found
    }

    fn link(&self, name: &str, version: Option<u64>) -> Result<Rc<Linked>, Failure> {
        let source = self.sources.source(name, version)?;
        let required = RefCell::new(Vec::<LibrarySource>::new());
        let inspected = inspect(name, &source, &self.limits, &|name, version| {
            let found = self.find(name, version)?;
            let found: Vec<_> = found.required.iter().chain([&found.source]).cloned().collect();
            let mut required = required.borrow_mut();
            for library in &found {
                if !required.iter().any(|known| known.name == library.name && known.version == library.version) {
                    required.push(library.clone());
                }
            }
            Ok(found)
        })?;
        let requires = inspected.requires.clone();
        let source = LibrarySource { name: name.to_owned(), version: version.unwrap_or(0), source, requires };
        Ok(Rc::new(Linked { source, required: required.into_inner(), inspected }))
    }
}

fn written((name, version): &Name) -> String {
    match version {
        None => name.clone(),
        Some(version) => format!("{name}@{version}"),
    }
}

/// Sources in memory, by name or by `name@version`.
impl LibrarySources for BTreeMap<String, Bytes> {
    fn source(&self, name: &str, version: Option<u64>) -> Result<Bytes, Failure> {
        let wanted = written(&(name.to_owned(), version));
        let missing = || Failure::new(Reason::LibraryNotFound, format!("there is no library {wanted}"));
        self.get(&wanted).cloned().ok_or_else(missing)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sources(libraries: &[(&str, &str)]) -> BTreeMap<String, Bytes> {
        libraries.iter().map(|(name, source)| ((*name).to_owned(), Bytes::from((*source).to_owned()))).collect()
    }

    #[test]
    fn what_a_library_requires_stands_before_it_and_once() {
        let sources = sources(&[
            ("a", "local b, c = require('b'), require('c') function run() end"),
            ("b", "local c, d = require('c'), require('d@3') function run() end"),
            ("c", "function run() end"),
            ("d@3", "function run() end"),
        ]);
        let linker = Linker::new(&sources, &Limits::DEFAULT);
        let found = linker.find("a", None).unwrap();
        let names: Vec<_> = found.required.iter().map(|library| (library.name.as_str(), library.version)).collect();
        assert_eq!(names, [("c", 0), ("d", 3), ("b", 0)]);
        assert_eq!(found.required[2].requires[1].written, "d@3");
        assert_eq!((found.source.version, found.source.requires[0].version), (0, 0));
    }

    #[test]
    fn circles_and_what_is_missing_are_named() {
        let sources = sources(&[
            ("a", "require('b') function run() end"),
            ("b", "require('a') function run() end"),
            ("c", "require('nowhere') function run() end"),
            ("d", "function run("),
        ]);
        let linker = Linker::new(&sources, &Limits::DEFAULT);
        for (name, message) in [
            ("a", "a requires \"b\": b requires \"a\": a requires itself: a → b → a"),
            ("c", "c requires \"nowhere\": there is no library nowhere"),
        ] {
            let failure = linker.find(name, None).unwrap_err();
            assert_eq!((failure.reason, failure.message.as_str()), (Reason::LibraryInvalid, message));
        }
        assert_eq!(linker.find("nowhere", None).unwrap_err().reason, Reason::LibraryNotFound);
        let failure = linker.find("d", None).unwrap_err();
        assert_eq!(failure.metadata["line"], "1", "{failure}");
    }
}
