//! `sql.*` over a port that answers what it was asked. What SQLite makes of it is tested where SQLite is (`cirrus-cluster`).

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cirrus_engine::Transaction;
use cirrus_procedures::{Arguments, SqlDatabases, SqlOutcome, SqlRequest, Trace};
use cirrus_proto::limits::Limits;
use cirrus_proto::v1::{SqlCell, SqlColumn, SqlResult, SqlRow, SqlStatement, lua_value, sql_cell};
use cirrus_proto::{Failure, Reason};

use crate::shard::{ELSEWHERE, Shard, failed};

/// What one was asked, for people.
type Asked = Rc<RefCell<Vec<String>>>;

/// Answers each statement with its parameters as a row with the columns `a`, `b`, ….
struct Echo(Asked);

impl SqlDatabases for Echo {
    fn run(&mut self, transaction: &mut Transaction<'_>, request: SqlRequest<'_>) -> SqlOutcome {
        let database = request.database;
        let kind = if request.read_only { "query" } else { "exec" };
        let user = String::from_utf8_lossy(&database.user).into_owned();
        let texts: Vec<&str> = request.statements.iter().map(|statement| &*statement.sql).collect();
        let asked = format!("{kind} {}:{user}/{} {}", database.dbfile, database.dbname, texts.join("; "));
        self.0.borrow_mut().push(asked);
        let results = request.statements.iter().map(|statement| match &*statement.sql {
            "fail" => Err(Failure::new(Reason::SqlConstraint, "no such luck").with("statement", 0)),
            "spend" => {
                let began = Instant::now();
                while began.elapsed() < request.cpu {}
                Err(Failure::new(Reason::CallTimeout, "too long"))
            }
            "killed" => Err(Failure::new(Reason::SqlKilled, "killed")),
            "not ready" => Err(Failure::new(Reason::NotReady, "the catalog lags")),
            "write" => transaction
                .put(Bytes::from_static(b"written"), Bytes::from_static(b"by SQL"), 0, 0)
                .map(|_| SqlResult::default()),
            _ => Ok(echo(statement)),
        });
        let upgrade = if request.statements[0].sql == "upgrade" {
            let took = Duration::from_millis(60);
            let began = Instant::now();
            while began.elapsed() < took {}
            took
        } else {
            Duration::ZERO
        };
        assert!(!request.killed.load(Relaxed));
        SqlOutcome { results: results.collect(), upgrade }
    }
}

fn echo(statement: &SqlStatement) -> SqlResult {
    let named = statement.named_parameters.iter();
    let mut cells: Vec<(String, SqlCell)> =
        named.map(|one| (one.name.clone(), one.value.clone().unwrap_or_default())).collect();
    cells.sort_by(|a, b| a.0.cmp(&b.0));
    cells.extend(statement.parameters.iter().zip('a'..).map(|(cell, name)| (name.to_string(), cell.clone())));
    let column = |(name, cell): &(String, SqlCell)| {
        let declared_type = match &cell.kind {
            Some(sql_cell::Kind::Null(_)) | None => "null",
            Some(sql_cell::Kind::Int64(_)) => "integer",
            Some(sql_cell::Kind::Double(_)) => "double",
            Some(sql_cell::Kind::Text(_)) => "text",
            Some(sql_cell::Kind::Blob(_)) => "blob",
        };
        [
            SqlColumn { name: name.clone(), declared_type: String::new() },
            SqlColumn { name: format!("{name}_is"), declared_type: declared_type.to_owned() },
        ]
    };
    let columns: Vec<SqlColumn> = cells.iter().flat_map(column).collect();
    let kind = |column: &SqlColumn| SqlCell { kind: Some(sql_cell::Kind::Text(column.declared_type.clone())) };
    let row = cells.into_iter().enumerate().flat_map(|(index, (_, cell))| [cell, kind(&columns[index * 2 + 1])]);
    let rows = vec![SqlRow { cells: row.collect() }];
    SqlResult { columns, rows, affected_rows: 3, last_insert_rowid: i64::MAX }
}

fn shard_within(limits: Limits) -> (Shard, Asked) {
    let mut shard = Shard::with_limits(limits);
    let asked = Asked::default();
    shard.databases = Some(Box::new(Echo(asked.clone())));
    shard.key = Bytes::from_static(b"{ada}.visits");
    (shard, asked)
}

fn shard() -> (Shard, Asked) {
    shard_within(Limits::DEFAULT)
}

#[test]
fn parameters_are_bound_as_what_they_are() {
    for (given, expected) in [
        ("1", "integer 1"),
        ("2^53", "integer 9007199254740992"),
        ("integer.fromstring('9223372036854775807')", "integer 9223372036854775807"),
        ("1.5", "double 1.5"),
        ("1e300", "double 1e+300"),
        ("true", "integer 1"),
        ("false", "integer 0"),
        ("'text'", "text text"),
        ("'12'", "text 12"),
        ("''", "text "),
        ("sql.blob('\\xff\\0')", "blob \u{fffd}\0"),
        ("buffer.fromstring('b')", "blob b"),
        ("nil", "null nil"),
        ("json.null", "null nil"),
    ] {
        let (mut shard, _) = shard();
        let body =
            format!("local row = sql.query('d', 'SELECT', {given}, 7)[1] return row.a_is .. ' ' .. tostring(row.a)");
        assert_eq!(shard.run(&body).as_deref(), Ok(expected), "{given}");
    }
}

#[test]
fn results_are_tables_by_column() {
    let (mut shard, _) = shard();
    for (body, expected) in [
        (
            "local r = sql.exec('d', 'x', 1) return r.affected_rows .. ' ' .. tostring(r.last_insert_rowid) .. ' ' .. #r.rows",
            "3 9223372036854775807 1",
        ),
        ("return type(sql.exec('d', 'x').last_insert_rowid)", "integer"),
        ("return sql.query('d', 'x', 'one', 'two')[1].b", "two"),
        ("return sql.query('d', 'x', {name = 'n', ['$other'] = 2})[1][':name']", "n"),
        ("return sql.query('d', 'x', {['$other'] = 2})[1]['$other']", "2"),
        ("return #sql.exec('d', {'x', {'y', 1}, {'z', {name = 1}}})", "3"),
        ("return sql.exec('d', {'x', {'y', 7, json.null}})[2].rows[1].a", "7"),
        ("return sql.query('d', {'x', {'y', 7}})[2][1].a", "7"),
        ("return json.encode(sql.query('d', {}))", "[]"),
        ("return sql.query(7, 'x', 'number')[1].a", "number"),
    ] {
        assert_eq!(shard.run(body).as_deref(), Ok(expected), "{body}");
    }
    let typed =
        shard.call_typed("function f(key) return sql.query('d', 'x', 2^60, nil) end", "f", Arguments::Values(&[]));
    let Some(lua_value::Kind::List(rows)) = typed.unwrap().kind else { panic!("rows are a list") };
    let Some(lua_value::Kind::Map(row)) = &rows.values[0].kind else { panic!("a row is a map") };
    let names: Vec<&[u8]> = row.entries.iter().map(|entry| &entry.key[..]).collect();
    assert_eq!(names, [&b"a"[..], b"a_is", b"b_is"], "NULL has no field");
}

#[test]
fn a_database_is_the_calls_users_unless_named() {
    let (mut shard, asked) = shard();
    for (database, expected) in [
        ("'notes'", "0:ada/notes"),
        ("{dbname = 'notes'}", "0:ada/notes"),
        ("{dbname = 'notes', dbfile = 4294967295, user = 'bob'}", "4294967295:bob/notes"),
        ("{dbname = 'notes', user = 7}", "0:7/notes"),
    ] {
        shard.run(&format!("sql.exec({database}, 'x') return 1")).unwrap();
        assert_eq!(asked.borrow_mut().pop(), Some(format!("exec {expected} x")), "{database}");
    }
    for (key, user) in [("plain", "plain"), ("{tag}", "tag"), ("a{b}c{d}", "b"), ("a{}b", "a{}b")] {
        shard.key = Bytes::from_static(key.as_bytes());
        shard.run("sql.query('d', 'x') return 1").unwrap();
        assert_eq!(asked.borrow_mut().pop(), Some(format!("query 0:{user}/d x")), "{key}");
    }
    let (reason, message) = failed(shard.run("sql.exec({dbname = 'd', user = 'bob'}, 'x')"));
    assert_eq!((reason, message.as_str()), (Reason::ProcedureReturnedNothing, "the procedure returned nil"));
}

#[test]
fn a_user_of_another_shard_is_refused() {
    // The test's shard has all keys but those that begin so.
    assert!(ELSEWHERE.starts_with(b"elsewhere"));
    let mut shard = Shard::new();
    let asked = Asked::default();
    shard.databases = Some(Box::new(Echo(asked.clone())));
    let (reason, _) = failed(shard.run("sql.exec({dbname = 'd', user = 'x'}, 'x')"));
    assert_eq!(reason, Reason::ProcedureReturnedNothing);
    asked.borrow_mut().clear();
    shard.keys_elsewhere = b"{bob".to_vec();
    let (reason, message) = failed(shard.run("sql.exec({dbname = 'd', user = 'bob'}, 'x')"));
    assert_eq!(reason, Reason::CrossShard);
    assert!(message.starts_with("the databases of user \"bob\" are those of another shard: "), "{message}");
    assert_eq!(asked.borrow().len(), 0, "it was not asked");
}

#[test]
fn misuse_says_what_is_wrong() {
    for (body, expected) in [
        ("sql.exec('d')", "exec: expected at least 2 arguments, got 1"),
        ("sql.exec(nil, 'x')", "exec: dbname must be a string or a number, got nil"),
        ("sql.exec({}, 'x')", "exec: a database needs a dbname"),
        ("sql.exec({dbname = 'd', dbfil = 1}, 'x')", "exec: there is no option dbfil"),
        ("sql.exec('\\xff', 'x')", "exec: dbname must be UTF-8"),
        ("sql.exec('d', 1)", "exec: a statement must be a string, got number"),
        ("sql.exec('d', '\\xff')", "exec: a statement must be UTF-8"),
        ("sql.exec('d', 'x', 1, {})", "exec: parameter 2 is a table"),
        ("sql.exec('d', 'x', print)", "exec: parameter 1 is a function"),
        ("sql.exec('d', 'x', '\\xff')", "exec: parameter 1 is no UTF-8: sql.blob makes bytes a blob"),
        ("sql.exec('d', 'x', {1})", "exec: a parameter's name is a number"),
        ("sql.exec('d', 'x', {name = {}})", "exec: parameter name is a table"),
        ("sql.exec('d', {'x'}, 1)", "exec: a list of statements has the parameters with each statement"),
        ("sql.exec('d', {x = 1})", "exec: the list of statements is no list, or has a hole: json.null can fill it"),
        ("sql.exec('d', {{'x', nil, 3}})", "exec: a statement with its parameters has a hole: json.null can fill it"),
        ("sql.exec('d', {{}})", "exec: a statement with its parameters is empty"),
        ("sql.query('d', {7})", "query: a statement must be a string, got number"),
        ("sql.blob({})", "blob: bytes must be a string or a number, got table"),
    ] {
        let (mut shard, asked) = shard();
        assert_eq!(failed(shard.run(body)), (Reason::ProcedureFailed, format!("lib:2: {expected}")), "{body}");
        assert!(asked.borrow().is_empty(), "{body}");
    }
    let mut without = Shard::new();
    let (_, message) = failed(without.run("sql.exec('d', 'x')"));
    assert_eq!(message, "lib:2: exec: there are no databases here");
    let (reason, message) = failed(shard().0.run("sql.exec({dbname = 'd', dbfile = -1}, 'x')"));
    assert_eq!(reason, Reason::InvalidField);
    assert_eq!(message, "dbfile is -1, outside 0 to 4294967295");
}

#[test]
fn what_is_copied_is_bounded() {
    for body in [
        "sql.exec('d', 'x', table.unpack(table.create(100, string.rep('x', 100000))))",
        "sql.exec('d', table.create(100, string.rep('x', 100000)))",
        "sql.exec('d', table.create(500000, 'x'))",
        "sql.exec('d', 'x', table.unpack(table.create(100, sql.blob(string.rep('x', 100000)))))",
    ] {
        let (mut shard, asked) = shard();
        let (reason, message) = failed(shard.run(body));
        assert_eq!(reason, Reason::InvalidField, "{body}: {message}");
        assert!(message.contains("above the limit of 4194304"), "{message}");
        assert!(asked.borrow().is_empty(), "{body}");
    }
}

#[test]
fn a_failed_statement_is_an_error_that_a_script_may_catch() {
    let (mut shard, _) = shard();
    let failure = shard.run("kv.put('k', 1) sql.exec('d', 'fail')").unwrap_err();
    assert_eq!((failure.reason, failure.metadata["statement"].as_str()), (Reason::SqlConstraint, "0"));
    assert_eq!(shard.value(b"k"), None);
    let caught = shard.run("kv.put('k', 1) local _, e = pcall(sql.exec, 'd', 'fail') return e");
    assert_eq!(caught.as_deref(), Ok("SQL_CONSTRAINT: no such luck"));
    assert_eq!(shard.text(b"k").as_deref(), Some("1"));
    // What the port wrote is the call's own.
    assert_eq!(shard.run("sql.exec('d', 'write') return kv.get('written')").as_deref(), Ok("by SQL"));
    shard.run("sql.exec('d', 'write') kv.put('k', 2) error('no')").unwrap_err();
    assert_eq!(shard.text(b"k").as_deref(), Some("1"));
    // Which is not for a script to go on with.
    let (reason, _) = failed(shard.run("pcall(sql.exec, 'd', 'not ready') return 1"));
    assert_eq!(reason, Reason::NotReady);
}

#[test]
fn a_read_only_call_reads() {
    let (mut shard, asked) = shard();
    let source = "---@procedure f\n---@read_only\nfunction f(key, write) return if write then sql.exec('d', 'x') else #sql.query('d', 'x') end";
    let read = shard.call_typed(source, "f", Arguments::Values(&[])).unwrap();
    assert_eq!(read.kind, Some(lua_value::Kind::Int64(1)));
    let write = cirrus_proto::v1::LuaValue { kind: Some(lua_value::Kind::Boolean(true)) };
    let refused = shard.call_typed(source, "f", Arguments::Values(&[write])).unwrap_err();
    assert_eq!(refused.reason, Reason::ReadOnly);
    assert_eq!(asked.borrow().len(), 1, "the port was not asked");
}

#[test]
fn time_is_the_calls() {
    let (mut shard, _) = shard_within(Limits { call_cpu_ms: 50, ..Limits::DEFAULT });
    for body in [
        "sql.exec('d', 'spend')",
        "pcall(sql.exec, 'd', 'spend') return 'swallowed'",
        "while true do pcall(sql.exec, 'd', 'spend') end",
        "while true do sql.query('d', 'x') end",
        "while true do pcall(sql.query, 'd', 'x') end",
    ] {
        let (reason, _) = failed(shard.run(&format!("kv.put('k', 1) {body}")));
        assert_eq!(reason, Reason::CallTimeout, "{body}");
        assert_eq!(shard.value(b"k"), None);
        assert_eq!(shard.run("return #sql.query('d', 'x')").as_deref(), Ok("1"), "{body}: the next call");
    }
    // An upgrade takes longer than the call may, which it is not charged with.
    let upgraded = "for _ = 1, 4 do sql.exec('d', 'upgrade') end return 'done'";
    assert_eq!(shard.run(upgraded).as_deref(), Ok("done"));
    assert_eq!(failed(shard.run("sql.exec('d', 'upgrade') while true do end")).0, Reason::CallTimeout);
}

#[test]
fn a_call_that_others_wait_for_is_given_up() {
    let (mut shard, asked) = shard();
    shard.patience = Some(Duration::from_secs(5));
    for body in ["sql.exec('d', 'x') return 1", "pcall(sql.query, 'd', 'x') return 1"] {
        assert_eq!(failed(shard.run(body)).0, Reason::CallTimeout);
    }
    assert!(asked.borrow().is_empty());
    assert_eq!(shard.run("return kv.get('k') or 'none'").as_deref(), Ok("none"));
    shard.patience = None;
    assert_eq!(shard.run("sql.exec('d', 'x') return 1").as_deref(), Ok("1"));
}

#[test]
fn steps_have_the_statement_and_no_values() {
    let (mut shard, _) = shard();
    shard.trace = Some(Trace::begin());
    shard
        .run(
            "kv.put('k', 1)
            sql.exec('notes', 'INSERT  INTO notes\\n VALUES (?, ?, ?, ?)', 'secret', 7, sql.blob('xx'), nil)
            sql.query({dbname = 'notes', dbfile = 3, user = 'bob'}, {'SELECT ' .. string.rep('1, ', 200), 'SELECT 2'})
            pcall(sql.exec, 'notes', 'fail', 'secret')
            return 1",
        )
        .unwrap();
    let steps = shard.trace.take().unwrap().into_steps();
    let told: Vec<(&str, &[u8], &str)> =
        steps.iter().map(|step| (&*step.operation, &step.key[..], &*step.text)).collect();
    assert_eq!(told[0], ("kv.put", &b"k"[..], ""));
    let inserted = "INSERT INTO notes VALUES (?, ?, ?, ?) [text of 6 bytes, integer, blob of 2 bytes, null]";
    assert_eq!(told[1], ("sql.exec", &b"ada/notes"[..], inserted));
    assert_eq!((told[2].0, told[2].1), ("sql.query", &b"bob/notes in dbfile 3"[..]));
    assert!(told[2].2.starts_with("SELECT 1, 1, ") && told[2].2.ends_with("… and 1 more"), "{}", told[2].2);
    assert!(told[2].2.len() < 230);
    assert_eq!(told[3].2, "SQL_CONSTRAINT: no such luck: fail [text of 6 bytes]");
}
