//! A library: one uploaded source text, and the functions that calls may name.

use std::time::Duration;

use bytes::Bytes;
use cirrus_proto::limits::Limits;
use cirrus_proto::{Failure, Reason};
use mlua::chunk::Compiler;
use mlua::{Table, Value};

use crate::machine::Machine;
use crate::trouble::{Meaning, Trouble, library_invalid, meaning, syntax_error};

/// Longest name of a library or of a function that it exports, characters.
const NAME_CHARACTERS_MAX: usize = 64;

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
}

/// Compiles a source, runs it once in a sandbox with a call's limits and no access to keys, and lists
/// what calls may name, sorted.
///
/// A library exports the functions of the table that it returns or, where it returns nothing, the global
/// functions that it defines; of these, those whose names are identifiers that do not begin with `_`.
///
/// Fails with [`Reason::InvalidField`] for the name, [`Reason::LibraryTooLarge`] for the size, else
/// [`Reason::LibraryInvalid`], whose `line` metadata names the line where one is at fault.
pub fn inspect(name: &str, source: &[u8], limits: &Limits) -> Result<Vec<String>, Failure> {
    check_library_name(name)?;
    if source.len() > limits.library_bytes {
        return Err(Failure::too_large(Reason::LibraryTooLarge, "source", source.len(), limits.library_bytes));
    }
    let bytecode = compile(name, source)?;
    let failure = |error: mlua::Error| match meaning(&error, name) {
        Meaning::OutOfMemory => library_invalid(name, format!("{name} uses up a call's memory as it loads"), None),
        Meaning::Raised { message, line } => library_invalid(name, message, line),
    };
    let machine = Machine::new().map_err(Failure::internal)?;
    let cpu_limit = Duration::from_millis(limits.call_cpu_ms);
    machine.begin(limits).map_err(failure)?;
    let exports = machine.load(name, &bytecode).map_err(Trouble::Lua).and_then(|main| {
        let defined = machine.define(name, &main)?;
        functions_of(&defined.exports, name, &machine)
    });
    if machine.budget().is_exhausted() {
        return Err(library_invalid(name, format!("{name} did not finish loading within {cpu_limit:?}"), None));
    }
    let exports = exports.map_err(|trouble| match trouble {
        Trouble::Lua(error) => failure(error),
        Trouble::Failure(failure) => failure,
    })?;
    if exports.is_empty() {
        let message = format!(
            "{name} exports nothing: return a table of functions, or define global functions whose names do not begin with _"
        );
        return Err(library_invalid(name, message, None));
    }
    Ok(exports)
}

/// Whether a library may have that name.
pub fn check_library_name(name: &str) -> Result<(), Failure> {
    let allowed = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == '-';
    if name.is_empty() || name.len() > NAME_CHARACTERS_MAX || !name.chars().all(allowed) {
        let problem = format!(
            "a library's name is 1 to {NAME_CHARACTERS_MAX} characters, letters, digits, '_' and '-'; got {:?}",
            name.chars().take(NAME_CHARACTERS_MAX + 1).collect::<String>()
        );
        return Err(Failure::invalid_field("name", problem));
    }
    Ok(())
}

/// Whether a call may name a function so. Names that begin with `_` are the library's own.
pub(crate) fn is_export_name(name: &str) -> bool {
    name.len() <= NAME_CHARACTERS_MAX
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
