//! The libraries that calls ran lately, decoded: one for a node's shards, since all read the same catalog.
//!
//! What is kept holds for one applied index of this node's catalog, and goes when that moves. The catalog changes
//! rarely; calls come by the thousand.

use std::collections::HashMap;
use std::sync::Arc;

use cirrus_procedures::LibrarySource;
use cirrus_proto::Failure;
use cirrus_proto::name::ProcedureName;
use cirrus_proto::v1::{LibraryActivation, ProcedureDeclaration};
use parking_lot::Mutex;

use crate::catalog::Reads;
use crate::governor::Terms;
use crate::library_catalog::{self, Versioned};

/// Most source text that is kept, bytes, counting what is required with each library that requires it.
const SOURCE_BYTES_KEPT: usize = 64 * 1024 * 1024;

/// Most versions that are kept.
const VERSIONS_KEPT: usize = 1024;

/// One version of a library, ready to be called.
#[derive(Debug)]
pub(crate) struct Runnable {
    pub(crate) source: LibrarySource,
    /// What it requires, each behind what it requires itself.
    pub(crate) required: Vec<LibrarySource>,
    declarations: Vec<ProcedureDeclaration>,
    /// Sorted.
    functions: Vec<String>,
}

impl Runnable {
    fn new(reads: &dyn Reads, versioned: Versioned) -> Result<Arc<Self>, Failure> {
        let (declarations, functions) = (versioned.header.declarations.clone(), versioned.header.functions.clone());
        let source = versioned.into_source();
        let required = library_catalog::required(reads, &source)?;
        Ok(Arc::new(Runnable { source, required, declarations, functions }))
    }

    /// What the library declares of a function.
    pub(crate) fn declaration(&self, function: &str) -> Option<&ProcedureDeclaration> {
        let place = self.declarations.binary_search_by(|declaration| declaration.name.as_str().cmp(function));
        place.ok().map(|place| &self.declarations[place])
    }

    /// Whether the upload found a function of that name.
    pub(crate) fn exports(&self, function: &str) -> bool {
        self.functions.binary_search_by(|listed| listed.as_str().cmp(function)).is_ok()
    }

    fn source_bytes(&self) -> usize {
        self.source.source.len() + self.required.iter().map(|library| library.source.len()).sum::<usize>()
    }
}

#[derive(Default)]
pub(crate) struct LibraryCache(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    /// The catalog's applied index, plus one, for which the rest holds.
    applied_next: u64,
    libraries: HashMap<String, Library>,
    versions: usize,
    source_bytes: usize,
}

#[derive(Default)]
struct Library {
    /// What calls run that pin no version, and what all may.
    entry: Option<(LibraryActivation, Terms)>,
    versions: HashMap<u64, Arc<Runnable>>,
}

impl LibraryCache {
    /// What a call of the procedure for that key runs, and what it may. `applied_next` was read before `reads`, so what is read is at
    /// least as new.
    ///
    /// # Errors
    /// LIBRARY_NOT_FOUND; INTERNAL where the state is unreadable.
    pub(crate) fn runnable(
        &self,
        reads: &dyn Reads,
        applied_next: u64,
        procedure: &ProcedureName<'_>,
        key: &[u8],
    ) -> Result<(Arc<Runnable>, Terms), Failure> {
        let mut kept = self.0.lock();
        if kept.applied_next < applied_next || kept.is_full() {
            *kept = Kept { applied_next, ..Kept::default() };
        }
        let name = procedure.library;
        let chosen = |activation: &LibraryActivation| {
            procedure.version.unwrap_or_else(|| library_catalog::version_for(name, activation, key))
        };
        let (version, terms) = match kept.libraries.get(name).and_then(|known| known.entry.as_ref()) {
            Some((activation, terms)) => (chosen(activation), *terms),
            None => {
                let active = library_catalog::active(reads, name)?;
                let terms = Terms::of(&active.activation, active.limits());
                let version = chosen(&active.activation);
                kept.library(name).entry = Some((active.activation, terms));
                if version == active.versioned.header.version {
                    return Ok((kept.keep(Runnable::new(reads, active.versioned)?), terms));
                }
                (version, terms)
            }
        };
        let runnable = match kept.libraries.get(name).and_then(|known| known.versions.get(&version)) {
            Some(runnable) => runnable.clone(),
            None => kept.keep(Runnable::new(reads, library_catalog::version(reads, name, version)?)?),
        };
        Ok((runnable, terms))
    }
}

impl Kept {
    fn is_full(&self) -> bool {
        self.source_bytes > SOURCE_BYTES_KEPT || self.versions > VERSIONS_KEPT
    }

    fn library(&mut self, name: &str) -> &mut Library {
        self.libraries.entry(name.to_owned()).or_default()
    }

    fn keep(&mut self, runnable: Arc<Runnable>) -> Arc<Runnable> {
        self.source_bytes += runnable.source_bytes();
        self.versions += 1;
        let LibrarySource { name, version, .. } = &runnable.source;
        self.library(name).versions.insert(*version, runnable.clone());
        runnable
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use cirrus_engine::{MemoryView, ShardHead, Transaction};
    use cirrus_proto::limits::Limits;
    use cirrus_proto::v1::{ActivateLibraryRequest, UploadLibraryRequest};

    use super::*;
    use crate::catalog::Committed;

    fn change(view: &mut MemoryView, change: impl FnOnce(&mut Transaction<'_>)) {
        let mut transaction = Transaction::new(view, ShardHead::default(), &Limits::DEFAULT);
        change(&mut transaction);
        let (effects, _) = transaction.finish();
        view.apply(&effects);
    }

    fn upload(view: &mut MemoryView, source: &'static str) {
        change(view, |transaction| {
            let request = UploadLibraryRequest { name: "l".into(), source: source.into(), ..Default::default() };
            library_catalog::upload(&request, transaction).unwrap();
        });
    }

    #[test]
    fn what_is_kept_goes_when_the_catalog_moves() {
        let mut view = MemoryView::new();
        let cache = LibraryCache::default();
        let version = |view: &MemoryView, applied_next, procedure| {
            let procedure = ProcedureName::parse(procedure).unwrap();
            let runnable = cache.runnable(&Committed(view), applied_next, &procedure, b"k");
            runnable.map(|(runnable, _)| runnable.source.version).map_err(|failure| failure.reason)
        };
        assert!(version(&view, 1, "l.f").is_err());
        upload(&mut view, "---@procedure f\n---@read_only\nfunction f() end");
        assert_eq!(version(&view, 2, "l.f"), Ok(1));
        upload(&mut view, "function f() end");
        assert_eq!(version(&view, 2, "l.f"), Ok(1), "as long as the index stays");
        assert_eq!(version(&view, 3, "l.f"), Ok(2));
        assert_eq!(version(&view, 3, "l@1.f"), Ok(1));
        assert_eq!(version(&view, 2, "l.f"), Ok(2), "an executor that looked earlier gets no older version");
        change(&mut view, |transaction| {
            let canary_percent = 50;
            let request = ActivateLibraryRequest { name: "l".into(), version: 1, canary_percent, ..Default::default() };
            library_catalog::activate(&request, transaction).unwrap();
        });
        let procedure = ProcedureName::parse("l.f").unwrap();
        let mut seen = [0; 3];
        for key in 0..100u8 {
            let (runnable, _) = cache.runnable(&Committed(&view), 4, &procedure, &[key]).unwrap();
            seen[runnable.source.version as usize] += 1;
            let declared = runnable.declaration("f").is_some_and(|declaration| declaration.read_only);
            assert_eq!(declared, runnable.source.version == 1);
        }
        assert!(seen[1] > 20 && seen[2] > 20, "{seen:?}");
    }
}
