//! Looks at a library's source for what is probably a mistake, without running it.
//!
//! | code | meaning |
//! | --- | --- |
//! | `syntax-error` | the source does not compile; there are no other warnings |
//! | `unknown-global` | reads a global variable that neither the sandbox has nor the source assigns |
//! | `unknown-field` | reads a field that a table of the sandbox does not have, as `kv.gett` |
//! | `method-call` | calls a function of such a table with a colon, as `kv:get(key)`, which passes the table |
//! | `argument-count` | calls a function of Cirrus with fewer or more arguments than it takes |
//! | `unused-result` | calls a function whose only point is its result, as `kv.get(key)`, for nothing |
//! | `unused-local` | declares a local variable or function that nothing reads; not where its name begins with `_` |
//! | `not-linted` | Luau compiles the source, and lint cannot read it |
//! | `more` | there are more than [`WARNINGS_MAX`] warnings |
//!
//! It reads the bytecode that Luau's own compiler makes (`bytecode.rs`, `instruction.rs`), so it agrees with Luau
//! about every source, and neither its stack nor its time depends on how a hostile source is nested
//! (docs/decisions/0015). The names are those of a machine, the numbers of arguments those that the functions check.

mod bytecode;
mod instruction;
mod locals;
mod sandbox;
mod scan;
mod wording;

use std::panic::catch_unwind;

use mlua::chunk::Compiler;

use bytecode::{Chunk, Unreadable};
use sandbox::Sandbox;

use crate::library::compile;

/// Most warnings that one source gets.
pub const WARNINGS_MAX: usize = 50;

/// Something about a source that is probably a mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// From 1.
    pub line: u32,
    /// From 1, in characters; `None` where it is not known.
    pub column: Option<u32>,
    /// What kind of mistake, as `unknown-global`; docs/procedures.md lists all.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

/// Warns of what is probably a mistake in a source, by line: at most [`WARNINGS_MAX`] warnings, then one of code
/// `more`. It takes about as long as compiling the source a few times, and cannot fail.
pub fn lint(source: &[u8]) -> Vec<Warning> {
    lint_in(source, Sandbox::get)
}

/// As [`lint`], for a file of tests, which find more than libraries do ([`testing`](crate::testing)).
pub fn lint_test(source: &[u8]) -> Vec<Warning> {
    lint_in(source, Sandbox::of_tests)
}

fn lint_in(source: &[u8], sandbox: fn() -> mlua::Result<&'static Sandbox>) -> Vec<Warning> {
    // A fault in reading bytecode must not cost an upload.
    catch_unwind(|| warnings(source, sandbox)).unwrap_or_else(|_| vec![not_linted("lint hit a fault")])
}

fn warnings(source: &[u8], sandbox: fn() -> mlua::Result<&'static Sandbox>) -> Vec<Warning> {
    // In an error's message, the line stands behind the library's name.
    if let Err(failure) = compile("", source) {
        let line = failure.metadata.get("line").and_then(|line| line.parse().ok()).unwrap_or(1);
        let message =
            failure.message.trim_start_matches(|char: char| char == ':' || char.is_ascii_digit()).trim_start();
        return vec![Warning { line, column: None, code: "syntax-error", message: message.to_owned() }];
    }
    // Without optimisation, code is where the source has it, and all local variables are there. The empty block ends
    // the part of a source in which comments such as `--!optimize 2` would change that.
    let compiler = Compiler::new().set_optimization_level(0).set_debug_level(2).set_type_info_level(0);
    let compiled = compiler.compile([b"do end ", source].concat());
    let Ok(bytecode) = compiled else { return vec![not_linted("it uses up Luau's registers without optimisation")] };
    let sandbox = match sandbox() {
        Ok(sandbox) => sandbox,
        Err(error) => return vec![not_linted(&error.to_string())],
    };
    match Chunk::read(&bytecode).and_then(|chunk| Ok(wording::words(scan::scan(&chunk, sandbox)?, source, sandbox))) {
        Ok(warnings) => warnings,
        Err(Unreadable) => vec![not_linted("this version of Luau is not known to lint")],
    }
}

fn not_linted(why: &str) -> Warning {
    Warning { line: 1, column: None, code: "not-linted", message: format!("not linted: {why}") }
}

#[cfg(test)]
mod tests;
