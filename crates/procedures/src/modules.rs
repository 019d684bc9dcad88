//! The libraries that a call, or an upload, has loaded for those that require them.

use mlua::Table;

use crate::library::LibrarySource;

/// The tables of loaded libraries' functions. Each version is loaded once, however many require it.
#[derive(Default)]
pub(crate) struct Modules(Vec<Module>);

struct Module {
    name: String,
    version: u64,
    exports: Table,
}

impl Modules {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn get(&self, name: &str, version: u64) -> Option<&Table> {
        self.0.iter().find(|module| module.version == version && module.name == name).map(|module| &module.exports)
    }

    pub(crate) fn insert(&mut self, library: &LibrarySource, exports: Table) {
        self.0.push(Module { name: library.name.clone(), version: library.version, exports });
    }
}
