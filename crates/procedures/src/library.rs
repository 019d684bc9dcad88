//! A library: one uploaded source text, and the functions that calls may name.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cirrus_proto::limits::Limits;
use cirrus_proto::name::{NAME_CHARACTERS_MAX, is_name};
use cirrus_proto::v1::ProcedureDeclaration;
use cirrus_proto::{Failure, Reason};
use mlua::chunk::Compiler;
use mlua::{Table, Value};

use crate::declarations::declarations;
use crate::machine::{Machine, Require};
use crate::modules::Modules;
use crate::surroundings::Surroundings;
use crate::trouble::{Meaning, Trouble, library_invalid, meaning, syntax_error};

/// Most libraries that one library may require, directly and by others.
const REQUIRED_MAX: usize = 16;

/// Most functions that a library may export.
const EXPORTS_MAX: usize = 1024;

/// A library as the catalog stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibrarySource {
    /// 1 to 64 characters: letters, digits, `_`, `-`.
    pub name: String,
    /// Counts the uploads of this name. With the name it stands for the source: what was compiled for
    /// the pair is run for it again.
    pub version: u64,
    /// Luau or Lua 5.1, UTF-8.
    pub source: Bytes,
    /// What it requires, as its upload found it.
    pub requires: Vec<Requirement>,
}

/// A `require` of a library, pinned to one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// As the source has it: "library" or "library@version".
    pub written: String,
    /// The library.
    pub name: String,
    /// Its version.
    pub version: u64,
}

/// What an upload's source turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspected {
    /// What calls may name, sorted.
    pub functions: Vec<String>,
    /// What it requires, in the order in which it does.
    pub requires: Vec<Requirement>,
    /// What its comments declare, by name.
    pub declarations: Vec<ProcedureDeclaration>,
}

/// Finds a library by its name and, where the source pins one, its version. Answers it behind everything that it
/// requires itself, each version once.
pub type Resolve<'a> = dyn Fn(&str, Option<u64>) -> Result<Vec<LibrarySource>, Failure> + 'a;

/// Compiles a source, runs it once in a sandbox with a call's limits and no access to keys, and lists
/// what calls may name and what it requires.
///
/// A library exports the functions of the table that it returns or, where it returns nothing, the global
/// functions that it defines; of these, those whose names are identifiers that do not begin with `_`.
///
/// Each `require` that it meets as it loads is looked up with `resolve`, once for each text; a source that
/// requires without end runs out of libraries or of time.
///
/// Fails with [`Reason::InvalidField`] for the name, [`Reason::LibraryTooLarge`] for the size, else
/// [`Reason::LibraryInvalid`], whose `line` metadata names the line where one is at fault.
pub fn inspect(name: &str, source: &[u8], limits: &Limits, resolve: &Resolve<'_>) -> Result<Inspected, Failure> {
    check_library_name(name)?;
    if source.len() > limits.library_bytes {
        return Err(Failure::too_large(Reason::LibraryTooLarge, "source", source.len(), limits.library_bytes));
    }
    let bytecode = compile(name, source)?;
    let machine = Machine::new(Arc::default(), Surroundings::default()).map_err(Failure::internal)?;
    machine.begin(limits, None).map_err(|error| invalid(name, &error))?;
    let mut modules = Modules::default();
    let mut requires: Vec<Requirement> = Vec::new();
    // The source is run until it meets a library that is not there yet, which is found, and then anew.
    let exports = loop {
        let require = machine.require(&requires, &modules).map_err(|error| invalid(name, &error))?;
        let loaded = load_once(&machine, name, &bytecode, &require);
        if machine.budget().is_exhausted() {
            let limit = Duration::from_millis(limits.call_cpu_ms);
            return Err(library_invalid(name, format!("{name} did not finish loading within {limit:?}"), None));
        }
        match require.missing().map_err(|error| invalid(name, &error))? {
            None => break loaded.map_err(|trouble| in_library(name, trouble))?,
            Some(written) => requires.push(find(name, &written, &machine, &mut modules, resolve)?),
        }
    };
    if exports.is_empty() {
        let message = format!(
            "{name} exports nothing: return a table of functions, or define global functions whose names do not begin with _"
        );
        return Err(library_invalid(name, message, None));
    }
    let declarations = declarations(name, source, &exports)?;
    Ok(Inspected { functions: exports, requires, declarations })
}

fn load_once(machine: &Machine, name: &str, bytecode: &[u8], require: &Require) -> Result<Vec<String>, Trouble> {
    let main = machine.load(name, bytecode)?;
    let defined = machine.define(name, &main, Some(require))?;
    functions_of(&defined.exports, name, machine)
}

/// Finds what a source requires, and loads it and what it requires itself.
fn find(
    name: &str,
    written: &str,
    machine: &Machine,
    modules: &mut Modules,
    resolve: &Resolve<'_>,
) -> Result<Requirement, Failure> {
    let about = |failure: Failure| {
        let message = format!("{name} requires {written:?}: {}", failure.message);
        library_invalid(name, message, None).with("required", written)
    };
    let (required, version) = parse_requirement(written).map_err(about)?;
    let found = resolve(required, version).map_err(|failure| match failure.reason {
        Reason::Internal => failure,
        _ => about(failure),
    })?;
    let version = found.last().map_or(0, |library| library.version);
    for library in &found {
        if modules.get(&library.name, library.version).is_some() {
            continue;
        }
        if modules.len() >= REQUIRED_MAX {
            let message =
                format!("{name} requires more than {REQUIRED_MAX} libraries, those that they require included");
            return Err(library_invalid(name, message, None).with("limit", REQUIRED_MAX));
        }
        let bytecode = compile(&library.name, &library.source)?;
        let defined = machine
            .load(&library.name, &bytecode)
            .map_err(Trouble::Lua)
            .and_then(|main| machine.define_pinned(library, &main, modules));
        modules.insert(library, defined.map_err(|trouble| about(in_library(&library.name, trouble)))?.exports);
    }
    Ok(Requirement { written: written.to_owned(), name: required.to_owned(), version })
}

/// "library" or "library@version".
pub(crate) fn parse_requirement(written: &str) -> Result<(&str, Option<u64>), Failure> {
    let (name, version) = match written.split_once('@') {
        None => (written, None),
        Some((name, version)) => {
            let number = version.parse().ok().filter(|&number| number > 0);
            let problem =
                || Failure::invalid_field("version", format!("a version is a number from 1, not {version:?}"));
            (name, Some(number.ok_or_else(problem)?))
        }
    };
    check_library_name(name)?;
    Ok((name, version))
}

fn invalid(name: &str, error: &mlua::Error) -> Failure {
    match meaning(error, name) {
        Meaning::OutOfMemory => library_invalid(name, format!("{name} uses up a call's memory as it loads"), None),
        Meaning::Raised { message, line } => library_invalid(name, message, line),
    }
}

fn in_library(name: &str, trouble: Trouble) -> Failure {
    match trouble {
        Trouble::Lua(error) => invalid(name, &error),
        Trouble::Failure(failure) => failure,
    }
}

/// Whether a library may have that name.
pub fn check_library_name(name: &str) -> Result<(), Failure> {
    if !is_name(name) {
        let problem = format!(
            "a library's name is 1 to {NAME_CHARACTERS_MAX} characters, letters, digits, '_' and '-'; got {:?}",
            name.chars().take(NAME_CHARACTERS_MAX + 1).collect::<String>()
        );
        return Err(Failure::invalid_field("name", problem));
    }
    Ok(())
}

/// Whether a call may name a function so. Names that begin with `_` are the library's own; `require` is there
/// without its doing.
pub(crate) fn is_export_name(name: &str) -> bool {
    name != "require"
        && name.len() <= NAME_CHARACTERS_MAX
        && name.starts_with(|char: char| char.is_ascii_alphabetic())
        && name.chars().all(|char| char.is_ascii_alphanumeric() || char == '_')
}

/// Compiles to Luau's bytecode.
pub(crate) fn compile(name: &str, source: &[u8]) -> Result<Vec<u8>, Failure> {
    if let Err(error) = std::str::from_utf8(source) {
        let offset = error.valid_up_to();
        let line = 1 + source[..offset].iter().filter(|&&byte| byte == b'\n').count() as u32;
        let message = format!("{name}:{line}: the source is not UTF-8 at byte {offset}");
        return Err(library_invalid(name, message, Some(line)).with("offset", offset));
    }
    // Level 1 keeps every line and function name for messages. Types would only serve native code.
    let compiler = Compiler::new().set_optimization_level(1).set_debug_level(1).set_type_info_level(0);
    compiler.compile(source).map_err(|error| match error {
        mlua::Error::SyntaxError { message, .. } => syntax_error(name, &message),
        other => library_invalid(name, other.to_string(), None),
    })
}

fn functions_of(exports: &Table, library: &str, machine: &Machine) -> Result<Vec<String>, Trouble> {
    let mut names = Vec::new();
    for pair in exports.pairs::<Value, Value>() {
        let (Value::String(name), Value::Function(_)) = pair? else {
            if machine.budget().is_exhausted() {
                break;
            }
            continue;
        };
        let Ok(name) = name.to_str() else { continue };
        if is_export_name(&name) {
            names.push(name.to_owned());
        }
        if names.len() > EXPORTS_MAX {
            let message = format!("{library} exports more than {EXPORTS_MAX} functions");
            return Err(library_invalid(library, message, None).into());
        }
    }
    names.sort_unstable();
    Ok(names)
}
