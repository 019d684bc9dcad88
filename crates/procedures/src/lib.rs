//! Lua procedures: uploaded libraries that run on a shard's leader, next to its keys.
//!
//! Owns the Luau virtual machines, the limits on what runs in them, and the functions that scripts
//! find there: the modern API (`kv.get`, `kv.put`, …; see `api/kv.rs`) and Tokyo Tyrant's (`_get`, `_put`,
//! …; see `api/tyrant/`), with which its scripts, and LightCloud's, run unchanged; and what touches no keys, such as `json`
//! and `crypto` (`api/pure.rs`). SQL it knows as a port, [`SqlDatabases`], which whoever runs the call lends to it.
//!
//! An upload passes [`inspect`]: the source compiles, loads within a call's limits and exports something, and
//! what it requires is found and pinned (`modules.rs`).
//! Besides, [`lint()`] warns of what is probably a mistake, and [`TYPES`] tells editors what the sandbox has.
//! A call passes [`Runtime::call`]:
//!
//! ```text
//! source ─compile─► bytecode ─load─► main function            kept, by library name and version
//!   new environment ─► run main: defines the functions         each call, for what the library requires first
//!   the named function (key, args…) ─► kv.*, _get, … ─► Transaction
//!                                      sql.* ─► SqlDatabases ─► the same
//!   result ─► bytes
//! ```
//!
//! Invariants:
//! - A call sees nothing of the calls before it but what they stored, in keys or in Tokyo Tyrant's stash: its
//!   variables are its own, and what all calls share is read-only.
//! - A call ends: soon after its CPU time is used up, the next interrupt raises, and every one after it,
//!   until no `pcall` is left. Its memory, its result and its writes are bounded, too.
//! - A call can be watched and killed from other threads ([`CallControl`]); one whose kill was accepted fails.
//! - A call writes through its `Transaction` and to the stash only. When it fails, the caller discards the
//!   transaction, the runtime undoes what was done to the stash, and no effect is left.
//! - A script can name the keys and databases of its own shard only ([`KeyScope`]).
//!
//! A call may use time and randomness, unlike in systems that run scripts on every replica: only the
//! leader evaluates it, and the log carries its effects.
//!
//! What the interrupt does not bound: it comes at calls, returns, loop turns and steps of a pattern. A run of
//! other instructions between two of these delays it, and is at most as long as the library's source. A
//! source full of nothing but `t = a .. b` on megabyte strings so overran its 100 ms by seconds, once per
//! call, before it was killed. Memory stays bounded; who may upload libraries should be trusted that far.
//!
//! Authors try their libraries out before they upload them: [`testing`] runs test files against shards in memory, with
//! this same runtime, and a [`Linker`] finds what libraries require where they are mere files.
//!
//! Next stop on a request's path: the executor offers the transaction's effects to Raft
//! (`cirrus-replication`).

mod api;
mod budget;
mod call_log;
mod control;
mod databases;
mod declarations;
mod library;
mod lint;
mod machine;
mod modules;
mod parameters;
mod path;
mod runtime;
mod scope;
pub mod shipped;
mod sources;
mod surroundings;
pub mod testing;
mod text;
mod trace;
mod trouble;
mod types;
mod unprotected;
mod values;
mod walk;

pub use call_log::{LogLevel, LogLine, LogSink};
pub use control::{CallControl, RunningCall};
pub use databases::{SqlDatabases, SqlOutcome, SqlRequest};
pub use library::{Inspected, LibrarySource, Requirement, Resolve, check_library_name, inspect};
pub use lint::{WARNINGS_MAX, Warning, lint, lint_test};
pub use parameters::check_arguments;
pub use runtime::{Arguments, CallOutcome, CallResult, Invocation, Runtime};
pub use scope::{KeyScope, ShardScope};
pub use sources::{LibrarySources, Linked, Linker};
pub use trace::{Step, Trace};
pub use types::TYPES;
