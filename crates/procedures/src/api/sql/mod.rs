//! `sql.*`: the SQLite databases of the call's shard, together with its keys.
//!
//! | call | result |
//! | --- | --- |
//! | `sql.exec(database, statement, …)` | `{affected_rows=, last_insert_rowid=, rows={…}}`, with the parameters bound to `?` |
//! | `sql.exec(database, {statement, {statement, …}, …})` | a list of the same: the statements take effect together or not at all |
//! | `sql.query(database, statement, …)` | the rows, of a statement that only reads; of a list of statements a list of these |
//! | `sql.blob(bytes)` | a buffer, which is bound as a blob: strings are text |
//!
//! A database is given by its dbname, or as `{dbname=, dbfile=, user=}`. Its user is, unless named, the call's: what picks its
//! shard, the hash tag of its key or the key itself. `request.rs` says what values become as parameters, `rows.rs`
//! what cells become in Lua.
//!
//! What the statements do is part of the call's transaction. Where one fails, an error is raised that `pcall` catches, and
//! what was there before is there still. Statements are ended with the call: by its CPU time, and when it is killed.

mod request;
mod rows;

use bytes::Bytes;
use cirrus_proto::{Failure, Reason};
use mlua::{Lua, Value};

use self::request::Asked;
use super::pure::{Context, PureFunction, Returned};
use super::{Access, Answer, MANY, Operation, Raised, expect_text, one};
use crate::databases::{SqlDatabases, SqlRequest};

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation { table: Some("sql"), name: "exec", arguments: 2..=MANY, returns: 1, run: execute },
    Operation { table: Some("sql"), name: "query", arguments: 2..=MANY, returns: 1, run: query },
];

pub(super) const FUNCTIONS: &[PureFunction] =
    &[PureFunction { table: Some("sql"), name: "blob", arguments: 1..=1, run: blob }];

/// What a call has to do SQL with.
pub(crate) struct Sql<'a> {
    pub(crate) databases: &'a mut dyn SqlDatabases,
    /// Of the call's machine.
    pub(crate) context: &'a Context,
    /// Of the call, which tells whose databases are meant where no user is named; `None` where there is no call.
    pub(crate) key: Option<&'a Bytes>,
    /// Others wait for the call's thread. SQL may take the processor for longer than they should wait, so that such a
    /// call is given up, and made again on a thread of its own.
    pub(crate) others_wait: bool,
}

fn execute(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    run(access, lua, arguments, false)
}

fn query(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    run(access, lua, arguments, true)
}

fn run(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value], read_only: bool) -> Answer {
    let Some(sql) = &mut access.sql else {
        return Err(Raised::Misuse("there are no databases here".to_owned()));
    };
    if sql.others_wait {
        access.budget.exhaust();
        return Err(out_of_time());
    }
    let Asked { database, statements, is_list } =
        Asked::read(lua, sql.context, access.transaction.limits(), sql.key, arguments)?;
    if access.trace.is_some() {
        access.described = Some(request::description(&database, &statements));
    }
    access.scope.check_user(&database.user)?;
    if !read_only && access.transaction.is_read_only() {
        let problem = "a read-only procedure cannot change databases; sql.query reads them";
        return Err(Failure::new(Reason::ReadOnly, problem).into());
    }
    let request = SqlRequest {
        database: &database,
        statements: &statements,
        read_only,
        cpu: access.budget.left(),
        killed: access.budget.killed(),
    };
    // Whoever gathers statements may have gathered none.
    if statements.is_empty() {
        return one(rows::Tables::new(lua, sql.context).answer(Vec::new(), is_list, read_only)?);
    }
    let outcome = sql.databases.run(access.transaction, request);
    access.budget.give_back(outcome.upgrade);
    let results = match outcome.results {
        Ok(results) => results,
        Err(failure) if failure.reason == Reason::CallTimeout => {
            access.budget.exhaust();
            return Err(out_of_time());
        }
        // The next interrupt says so as well, and every one after it.
        Err(failure) if failure.reason == Reason::SqlKilled => return Err(out_of_time()),
        Err(failure) => return Err(failure.into()),
    };
    one(rows::Tables::new(lua, sql.context).answer(results, is_list, read_only)?)
}

fn out_of_time() -> Raised {
    Raised::Lua(mlua::Error::runtime("out of CPU time"))
}

fn blob(_: &Context, lua: &Lua, arguments: &[Value]) -> Result<Returned, Raised> {
    let bytes = expect_text(lua, "bytes", &arguments[0])?;
    Ok(Returned::Value(Value::Buffer(lua.create_buffer(bytes)?)))
}
