//! `cirrus`, the one binary: starts nodes, and asks them.
//!
//! Owns the command line ([`arguments`]), what it prints ([`output`], [`failure`]) and one module for each
//! command ([`commands`]). A node is `cirrus_server::run`; every other command is a client of nodes, local
//! or far.
//!
//! Invariants:
//! - Standard output has the answer and nothing else; errors go to standard error, with exit 2.
//! - Exit 1 is an answer: `get` found no value, a condition did not hold.
//! - With `-o json`, both are JSON. Bytes that are not UTF-8 appear as base64 under a name that says so.
//! - `get` and `proc call` print the bare value, so that a shell can use it.

mod arguments;
mod commands;
mod failure;
mod idle_polling;
mod library_directory;
mod library_tests;
mod lua_json;
mod output;
mod scheduling;

use std::process::ExitCode;

use clap::Parser as _;

use crate::arguments::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let format = cli.global.output;
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) => error.report(format),
    }
}
