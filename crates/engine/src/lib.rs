//! What commands mean: reads a shard's state, and says what would change.
//!
//! Owns the key-value commands, expiry, conditions, the request-id sessions behind exactly-once, and
//! the [`Transaction`] through which all of them (and procedures) see and change a shard. A command is
//! *evaluated* once, on the shard's leader, and produces *effects*; replicas apply the effects and know
//! nothing of commands. So this crate decides, and nothing here is ever repeated on another replica.
//!
//! ```text
//!   command ──► validate ──► mailbox ──► sessions::admit ──► evaluate ──► sessions::remember ──► finish
//!               (no state)               └───────────── one Transaction ──────────────────┘       │
//!                                                                              effects + head after
//!   reads of a Transaction:  its own writes  ⊕  Overlay (in-flight effects)  ⊕  View (applied state)
//! ```
//!
//! Invariants:
//! - Pure: no clock, no randomness, no I/O but reads through [`View`], no async. Time comes in as a value,
//!   and a shard's clock never goes backwards ([`ShardHead::advance_to`]).
//! - A command that fails leaves its transaction as it found it.
//! - A value whose expiry has come reads as absent everywhere: reads, conditions, comparisons, increments.
//! - `TABLE_EXPIRY` has exactly one key for each value with an expiry, and [`ShardHead::expiring_values`]
//!   counts them. Where it is 0, a blind put reads nothing.
//! - Every written value gets the shard's next revision as its version; no two writes share one.
//! - A request id is evaluated at most once while its session is kept ([`sessions`]).
//! - A tick of a schedule runs at most once ([`schedules`]).
//! - What [`Transaction::finish`] returns does not contain the head: whoever proposes adds
//!   [`ShardHead::effect`] once to each proposal.
//!
//! Read in this order: [`View`], [`Overlay`], [`Transaction`], [`evaluate`], [`sessions`], then the reads
//! that go past the executor, [`get`] and [`shard_scan`].
//!
//! Next stop on a request's path: `cirrus-replication`'s shard executor, which proposes the effects.

mod batch;
mod bounds;
mod commands;
pub mod effect;
mod encoding;
mod evaluate;
mod head;
mod keys;
mod memory;
mod merge;
mod number;
mod overlay;
mod reads;
pub mod schedules;
pub mod sessions;
mod sweep;
mod tables;
mod transact;
mod transaction;
mod validate;
mod view;
mod write_set;

pub use batch::{RunSql, evaluate_batch, has_sql};
pub use evaluate::evaluate;
pub use head::{Moment, ShardHead};
pub use keys::{databases, keys, routing_key};
pub use memory::MemoryView;
pub use number::parse_integer;
pub use overlay::{Overlaid, Overlay};
pub use reads::{get, shard_scan};
pub use transaction::{Savepoint, Transaction, Value};
pub use validate::{named_database, statements, validate};
pub use view::{View, ViewError, Visit};
