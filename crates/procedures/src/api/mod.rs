//! What a procedure may do to its shard: the modern API ([`kv`], [`sql`], [`log`]) and Tokyo Tyrant's ([`tyrant`]); and what
//! it finds that touches no keys ([`pure`]).
//!
//! The first two are tables of [`Operation`]s. A machine binds each operation to a Lua function once; what a
//! running call may touch, its [`Access`], is lent to them for as long as the call runs. Every operation
//! checks its number of arguments, and that each key it names lies in the shard of the call.

mod crypto;
mod json;
pub(crate) mod kv;
mod log;
pub(crate) mod pure;
pub(crate) mod sql;
mod status;
pub(crate) mod tyrant;

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Instant;

use bytes::Bytes;
use cirrus_engine::{Transaction, Value as Stored};
use cirrus_proto::{Failure, Reason};
use mlua::{Function, Lua, MultiValue, Table, Value};

use crate::api::sql::Sql;
use crate::api::tyrant::iteration::Cursor;
use crate::api::tyrant::regex::Pattern;
use crate::api::tyrant::stash::Stash;
use crate::budget::CpuBudget;
use crate::call_log::CallLog;
use crate::scope::KeyScope;
use crate::surroundings::Surroundings;
use crate::text::{text, type_name};
use crate::trace::{self, Trace};
use crate::unprotected::unprotected;

/// What the running call may touch.
pub(crate) struct Access<'a, 'v> {
    pub(crate) transaction: &'a mut Transaction<'v>,
    pub(crate) scope: &'a dyn KeyScope,
    pub(crate) budget: &'a CpuBudget,
    pub(crate) log: CallLog<'a>,
    /// The shard's databases, where they were lent.
    pub(crate) sql: Option<Sql<'a>>,
    /// What Tokyo Tyrant's calls on this shard share.
    stash: &'a mut Stash,
    /// The call's global variables, once its library was loaded.
    pub(crate) environment: Option<Table>,
    /// The node's, unless a test sets its own.
    pub(crate) surroundings: Surroundings,
    /// Where `_iternext` goes on.
    pub(crate) iterator: Cursor,
    /// The pattern that `_regex` compiled last.
    pattern: Option<Pattern>,
    /// Counts the writes, to keys and to the stash. A page that was read at another count may be stale.
    pub(crate) generation: u64,
    /// The last failure raised, and the text that the script saw of it: where the call ends with that
    /// text, it fails for that reason.
    pub(crate) raised: Option<(String, Failure)>,
    /// The node's own fault: the call fails with it even where the script caught the error.
    pub(crate) fault: Option<Failure>,
    trace: Option<&'a Trace>,
    /// The line that the running operation logged.
    logged: String,
    /// What the running operation does, and to what, where a trace is kept and its first argument does not say it.
    described: Option<(Bytes, String)>,
}

impl<'a, 'v> Access<'a, 'v> {
    pub(crate) fn new(
        transaction: &'a mut Transaction<'v>,
        scope: &'a dyn KeyScope,
        budget: &'a CpuBudget,
        log: CallLog<'a>,
        trace: Option<&'a Trace>,
        stash: &'a mut Stash,
    ) -> Self {
        Access {
            transaction,
            scope,
            budget,
            log,
            sql: None,
            stash,
            environment: None,
            surroundings: Surroundings::default(),
            iterator: Cursor::default(),
            pattern: None,
            generation: 0,
            raised: None,
            fault: None,
            trace,
            logged: String::new(),
            described: None,
        }
    }

    /// Stores a value: see [`Transaction::put`].
    fn put(&mut self, key: Bytes, value: Bytes, expires_at_ms: u64, flags: u32) -> Result<u64, Failure> {
        self.wrote();
        self.transaction.put(key, value, expires_at_ms, flags)
    }

    /// Stores a value behind the one that is there, whose expiry and flags stay. The new size, bytes.
    fn append(&mut self, key: Bytes, tail: Bytes) -> Result<usize, Failure> {
        let (value, expires_at_ms, flags) = match self.transaction.get(&key)? {
            Some(found) => (Bytes::from([found.value, tail].concat()), found.expires_at_ms, found.flags),
            None => (tail, 0, 0),
        };
        let size = value.len();
        self.put(key, value, expires_at_ms, flags)?;
        Ok(size)
    }

    /// Removes a key: see [`Transaction::delete`].
    fn delete(&mut self, key: &[u8]) -> Result<Option<Stored>, Failure> {
        self.wrote();
        self.transaction.delete(key)
    }

    /// What calls on this shard share. A read-only call runs on any replica, which has another stash or none.
    fn stash(&mut self) -> Result<&mut Stash, Failure> {
        match self.transaction.is_read_only() {
            true => Err(Failure::new(Reason::ReadOnly, "a read-only procedure cannot use the stash")),
            false => Ok(self.stash),
        }
    }

    /// Pages that were read before may be stale.
    fn wrote(&mut self) {
        self.generation += 1;
    }

    /// A key argument, once it is known to be well-formed and of this shard.
    pub(crate) fn key(&self, lua: &Lua, value: &Value) -> Result<Bytes, Raised> {
        let key = expect_text(lua, "key", value)?;
        let limit = self.transaction.limits().key_bytes;
        if key.is_empty() {
            return Err(Failure::new(Reason::KeyEmpty, "key is empty").with("field", "key").into());
        }
        if key.len() > limit {
            return Err(Failure::too_large(Reason::KeyTooLarge, "key", key.len(), limit).into());
        }
        self.scope.check(&key)?;
        Ok(key)
    }

    /// Runs one operation for the script. The first value is the error to raise, or nil.
    pub(crate) fn enter(&mut self, lua: &Lua, mut arguments: MultiValue) -> mlua::Result<(Value, Value, Value)> {
        let index = match arguments.pop_front() {
            Some(Value::Integer(index)) => index as usize,
            _ => usize::MAX,
        };
        let Some(operation) = operation(index) else {
            return Err(mlua::Error::runtime("no such operation"));
        };
        // One that is full would only cost time, which a call has little of.
        self.trace = self.trace.filter(|trace| !trace.is_full());
        let began = self.trace.map(|_| Instant::now());
        let arguments = arguments.make_contiguous();
        let outcome = self.run(operation, lua, arguments);
        if let (Some(trace), Some(began)) = (self.trace, began) {
            let (key, described) = self.described.take().unzip();
            let text = match &outcome {
                Ok(_) => described.unwrap_or_else(|| std::mem::take(&mut self.logged)),
                Err(raised) => {
                    let problem = raised.to_string();
                    described.map_or_else(|| problem.clone(), |described| format!("{problem}: {described}"))
                }
            };
            let key = key.unwrap_or_else(|| trace::key(lua, arguments));
            trace.step(operation.full_name(), key, began, text);
        }
        let text = match outcome {
            Ok((first, second)) => return Ok((Value::Nil, first, second)),
            Err(Raised::Lua(error)) => return Err(error),
            Err(Raised::Misuse(problem)) => format!("{}: {problem}", operation.name),
            Err(Raised::Status { text, failure }) => {
                self.raised = Some((text.clone(), failure));
                text
            }
            Err(Raised::Failure(failure)) => {
                let text = failure.to_string();
                // Neither is an answer to the statement or about the key: no script should go on with it.
                if matches!(failure.reason, Reason::Internal | Reason::NotReady) {
                    self.fault = Some(failure.clone());
                }
                self.raised = Some((text.clone(), failure));
                text
            }
        };
        Ok((Value::String(lua.create_string(text)?), Value::Nil, Value::Nil))
    }

    fn run(&mut self, operation: &Operation, lua: &Lua, arguments: &[Value]) -> Answer {
        check_argument_count(&operation.arguments, arguments.len())?;
        (operation.run)(self, lua, arguments)
    }
}

/// The "table" of operations that scripts cannot name: the prelude's functions use them.
pub(crate) const INTERNAL: &str = "(internal)";

/// Any number of arguments from this one on.
pub(crate) const MANY: usize = usize::MAX;

/// One function of an API.
pub(crate) struct Operation {
    /// The global table that holds it; `None`: it is a global function.
    pub(crate) table: Option<&'static str>,
    pub(crate) name: &'static str,
    pub(crate) arguments: RangeInclusive<usize>,
    /// How many values it returns: 1 or 2. 0: it belongs to the prelude, and answers the error to raise or nil.
    pub(crate) returns: u8,
    run: Run,
}

type Run = fn(&mut Access<'_, '_>, &Lua, &[Value]) -> Answer;

impl Operation {
    /// A global function with one result.
    const fn global(name: &'static str, arguments: RangeInclusive<usize>, run: Run) -> Operation {
        Operation { table: None, name, arguments, returns: 1, run }
    }

    /// For the prelude only.
    const fn internal(name: &'static str, arguments: RangeInclusive<usize>, returns: u8, run: Run) -> Operation {
        Operation { table: Some(INTERNAL), name, arguments, returns, run }
    }

    /// As scripts write it.
    fn full_name(&self) -> String {
        match self.table {
            None | Some(INTERNAL) => self.name.to_owned(),
            Some(table) => format!("{table}.{}", self.name),
        }
    }
}

fn groups() -> impl Iterator<Item = &'static [Operation]> {
    let modern = [kv::OPERATIONS, log::OPERATIONS, status::OPERATIONS];
    modern.into_iter().chain(tyrant::GROUPS).chain([sql::OPERATIONS])
}

/// All operations; a bound function knows its own by its place here.
pub(crate) fn operations() -> impl Iterator<Item = &'static Operation> {
    groups().flatten()
}

/// Every function that scripts can name and that checks its number of arguments: its table, its name, and how many it
/// takes.
pub(crate) fn signatures() -> impl Iterator<Item = (Option<&'static str>, &'static str, RangeInclusive<usize>)> {
    let operations = operations().filter(|operation| operation.table != Some(INTERNAL));
    let operations = operations.map(|operation| (operation.table, operation.name, operation.arguments.clone()));
    let pure = pure::functions().map(|function| (function.table, function.name, function.arguments.clone()));
    let scripted = tyrant::SCRIPTED.iter().map(|(name, arguments)| (None, *name, arguments.clone()));
    operations.chain(pure).chain(scripted)
}

fn operation(mut index: usize) -> Option<&'static Operation> {
    for group in groups() {
        match group.get(index) {
            Some(operation) => return Some(operation),
            None => index = index.checked_sub(group.len())?,
        }
    }
    None
}

/// What an operation returns to the script; most leave the second value nil.
type Answer = Result<(Value, Value), Raised>;

fn one(value: impl Into<Option<Value>>) -> Answer {
    Ok((value.into().unwrap_or(Value::Nil), Value::Nil))
}

/// Why an operation did not succeed.
pub(crate) enum Raised {
    /// The engine or the shard's scope refused it; the script may catch it.
    Failure(Failure),
    /// The script raises it, and sees it as that text.
    Status { text: String, failure: Failure },
    /// The script called it wrongly.
    Misuse(String),
    /// Out of memory or time.
    Lua(mlua::Error),
}

impl fmt::Display for Raised {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Raised::Failure(failure) => failure.fmt(formatter),
            Raised::Status { text, .. } | Raised::Misuse(text) => formatter.write_str(text),
            Raised::Lua(error) => error.fmt(formatter),
        }
    }
}

impl From<Failure> for Raised {
    fn from(failure: Failure) -> Self {
        Raised::Failure(failure)
    }
}

impl From<mlua::Error> for Raised {
    fn from(error: mlua::Error) -> Self {
        Raised::Lua(error)
    }
}

fn check_argument_count(expected: &RangeInclusive<usize>, count: usize) -> Result<(), Raised> {
    if expected.contains(&count) {
        return Ok(());
    }
    Err(Raised::Misuse(format!("expected {}, got {count}", argument_count(expected))))
}

/// How many arguments are expected, for people.
pub(crate) fn argument_count(expected: &RangeInclusive<usize>) -> String {
    match (*expected.start(), *expected.end()) {
        (1, 1) => "1 argument".to_owned(),
        (1, MANY) => "at least 1 argument".to_owned(),
        (least, MANY) => format!("at least {least} arguments"),
        (least, most) if least == most => format!("{least} arguments"),
        (least, most) => format!("{least} to {most} arguments"),
    }
}

/// The bytes of a string or number argument.
fn expect_text(lua: &Lua, name: &str, value: &Value) -> Result<Bytes, Raised> {
    text(lua, value)?
        .ok_or_else(|| Raised::Misuse(format!("{name} must be a string or a number, got {}", type_name(value))))
}

fn string(lua: &Lua, bytes: &[u8]) -> Result<Value, Raised> {
    Ok(Value::String(unprotected(lua, bytes.len(), || lua.create_string(bytes))?))
}

/// The first key after all keys that begin with `prefix`; `None` where there is none.
fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// A scan's own look at the clock: it may pass over many pairs between two interrupts.
fn check_budget(budget: &CpuBudget) -> mlua::Result<()> {
    if budget.is_exhausted() {
        return Err(mlua::Error::runtime("out of CPU time"));
    }
    Ok(())
}

/// Bytes between two looks at the clock. MD5 takes about a tenth of a millisecond for so many.
const PIECE_BYTES: usize = 64 * 1024;

/// Hands out bytes piece by piece, for as long as the call has CPU time.
fn in_pieces(budget: &CpuBudget, bytes: &[u8], mut take: impl FnMut(&[u8])) -> mlua::Result<()> {
    for piece in bytes.chunks(PIECE_BYTES) {
        check_budget(budget)?;
        take(piece);
    }
    Ok(())
}

/// What a hexadecimal digit, of either case, stands for.
fn hex_value(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// Defines a function, global or in a global table, which is made where it is not there.
pub(crate) fn define(
    lua: &Lua,
    globals: &Table,
    table: Option<&str>,
    name: &str,
    function: Function,
) -> mlua::Result<()> {
    let Some(table) = table else { return globals.raw_set(name, function) };
    match globals.raw_get::<Option<Table>>(table)? {
        Some(table) => table.raw_set(name, function),
        None => globals.raw_set(table, lua.create_table_from([(name, function)])?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }
}
