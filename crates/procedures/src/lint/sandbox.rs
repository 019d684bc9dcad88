//! What a source finds in the sandbox: its names, taken from a machine, and what is known of its functions.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::{Arc, OnceLock};

use mlua::{Table, Value};

use super::scan::Path;
use crate::api::signatures;
use crate::machine::Machine;
use crate::surroundings::Surroundings;
use crate::testing;

/// A global variable of the sandbox.
pub(super) enum Global {
    /// A table's fields.
    Table(HashSet<Vec<u8>>),
    Other,
}

/// The names and what is known of them.
pub(super) struct Sandbox {
    globals: HashMap<Vec<u8>, Global>,
    arguments: HashMap<String, RangeInclusive<usize>>,
}

impl Sandbox {
    /// That of this build; the first use makes a machine to look at.
    ///
    /// Fails where there is no memory for a machine.
    pub(super) fn get() -> mlua::Result<&'static Sandbox> {
        static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
        Sandbox::once(&SANDBOX, Sandbox::new)
    }

    /// That of test files.
    pub(super) fn of_tests() -> mlua::Result<&'static Sandbox> {
        static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
        Sandbox::once(&SANDBOX, || {
            let mut sandbox = Sandbox::new()?;
            for name in testing::FUNCTIONS {
                sandbox.globals.insert(name.into(), Global::Other);
            }
            let expectations = testing::EXPECTATIONS.into_iter().map(Vec::from).collect();
            sandbox.globals.insert("expect".into(), Global::Table(expectations));
            Ok(sandbox)
        })
    }

    fn once(
        place: &'static OnceLock<Sandbox>,
        make: impl FnOnce() -> mlua::Result<Sandbox>,
    ) -> mlua::Result<&'static Sandbox> {
        match place.get() {
            Some(sandbox) => Ok(sandbox),
            None => {
                let sandbox = make()?;
                Ok(place.get_or_init(|| sandbox))
            }
        }
    }

    fn new() -> mlua::Result<Self> {
        let machine = Machine::new(Arc::default(), Surroundings::default())?;
        let mut globals = HashMap::new();
        for pair in machine.shared_globals()?.pairs::<mlua::LuaString, Value>() {
            let (name, value) = pair?;
            let global = match value {
                Value::Table(table) => Global::Table(fields(&table)?),
                _ => Global::Other,
            };
            globals.insert(name.as_bytes().to_vec(), global);
        }
        // Each environment has these of its own.
        for name in ["_G", "require"] {
            globals.insert(name.into(), Global::Other);
        }
        let arguments = signatures().map(|(table, name, arguments)| (joined(table.unwrap_or(""), name), arguments));
        Ok(Sandbox { globals, arguments: arguments.collect() })
    }

    pub(super) fn global(&self, name: &[u8]) -> Option<&Global> {
        self.globals.get(name)
    }

    /// The names that a mistyped one may stand for: of global variables, or of a table's fields.
    pub(super) fn names(&self, table: Option<&[u8]>) -> Vec<&[u8]> {
        match table {
            None => self.globals.keys().map(Vec::as_slice).collect(),
            Some(table) => match self.globals.get(table) {
                Some(Global::Table(fields)) => fields.iter().map(Vec::as_slice).collect(),
                _ => Vec::new(),
            },
        }
    }

    /// How many arguments a function of the APIs takes.
    pub(super) fn arguments(&self, path: Path<'_>) -> Option<&RangeInclusive<usize>> {
        self.arguments.get(&full_name(path))
    }

    /// Whether it is a mistake to call the function for nothing.
    pub(super) fn is_for_its_result(&self, path: Path<'_>) -> bool {
        let global = String::from_utf8_lossy(path.global);
        match path.field {
            None => is_for_its_result("", &global),
            Some(field) => is_for_its_result(&global, &String::from_utf8_lossy(field)),
        }
    }
}

/// As scripts write it.
pub(super) fn full_name(path: Path<'_>) -> String {
    let global = String::from_utf8_lossy(path.global);
    match path.field {
        None => global.into_owned(),
        Some(field) => format!("{global}.{}", String::from_utf8_lossy(field)),
    }
}

fn joined(table: &str, name: &str) -> String {
    if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") }
}

fn fields(table: &Table) -> mlua::Result<HashSet<Vec<u8>>> {
    table.pairs::<mlua::LuaString, Value>().map(|pair| Ok(pair?.0.as_bytes().to_vec())).collect()
}

/// Names in a table.
enum Names {
    All,
    AllBut(&'static [&'static str]),
    These(&'static [&'static str]),
}

use Names::{All, AllBut, These};

/// Functions whose only point is what they return, and `kv.cas`, whose answer says whether it did anything. By table;
/// "" are global functions. A test knows all others, so that no new function is forgotten.
#[rustfmt::skip]
const FOR_THEIR_RESULT: &[(&str, Names)] = &[
    ("kv", These(&["cas", "get", "scan", "ttl", "version"])),
    ("sql", These(&["blob", "query"])),
    ("json", AllBut(&["array"])),
    ("crypto", All),
    ("", These(&[
        "_bit", "_codec", "_dist", "_fwmkeys", "_get", "_hash", "_isect", "_pack", "_regex", "_rnum", "_size", "_split",
        "_stashget", "_strstr", "_time", "_ucs", "_union", "_unpack", "_vsiz", "gcinfo", "getmetatable", "ipairs",
        "newproxy", "next", "now", "pairs", "rawequal", "rawget", "rawlen", "select", "tonumber", "tostring", "type",
        "typeof", "unpack", "uuid",
    ])),
    ("bit32", All),
    ("buffer", AllBut(&[
        "copy", "fill", "writebits", "writef32", "writef64", "writei16", "writei32", "writei8", "writestring", "writeu16",
        "writeu32", "writeu8",
    ])),
    ("coroutine", These(&["create", "isyieldable", "running", "status", "wrap"])),
    ("debug", All),
    ("integer", All),
    ("math", AllBut(&["random", "randomseed"])),
    ("os", All),
    ("string", AllBut(&["gsub"])),
    ("table", These(&["clone", "concat", "create", "find", "getn", "isfrozen", "maxn", "pack", "unpack"])),
    ("utf8", All),
    ("vector", All),
];

fn is_for_its_result(table: &str, name: &str) -> bool {
    FOR_THEIR_RESULT.iter().any(|(of, names)| {
        *of == table
            && match names {
                All => true,
                AllBut(others) => !others.contains(&name),
                These(names) => names.contains(&name),
            }
    })
}
