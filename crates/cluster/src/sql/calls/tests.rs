//! Procedures and batches on real databases, in a shard in memory.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use cirrus_engine::{MemoryView, Moment, ShardHead};
use cirrus_procedures::{Arguments, CallResult, Invocation, LibrarySource, Runtime, ShardScope};
use cirrus_proto::internal::v1::{Table, reply};
use cirrus_proto::limits::Limits;
use cirrus_proto::v1::{
    BatchRequest, BatchResponse, IncrementRequest, ProcedureDeclaration, SqlCell, SqlDatabase, SqlExecuteRequest,
    SqlStatement, WriteOperation, sql_cell, write_operation, write_result,
};
use cirrus_sql::{Change, changed_databases};

use super::*;
use crate::sql::database_id;

struct Shard {
    state: MemoryView,
    head: ShardHead,
    limits: Limits,
    runtime: Runtime,
    sql: SqlCommands,
    version: u64,
    read_only: bool,
}

/// For calls that are to end otherwise than by their time.
const AMPLE: Limits = Limits { call_cpu_ms: 20_000, ..Limits::DEFAULT };

impl Shard {
    fn new() -> Shard {
        Shard::with_limits(AMPLE, SqlLimits::DEFAULT)
    }

    fn with_limits(limits: Limits, sql: SqlLimits) -> Shard {
        let mut head = ShardHead::default();
        head.advance_to(Moment { now_ms: 1_000_000 });
        Shard {
            state: MemoryView::new(),
            head,
            limits,
            runtime: Runtime::new(limits, 0),
            sql: SqlCommands::new(Owner::Queries, sql, None),
            version: 0,
            read_only: false,
        }
    }

    /// A shard with a database of two tables and a key, each with 100.
    fn with_accounts() -> Shard {
        let mut shard = Shard::new();
        shard
            .run(
                "sql.exec('bank', {
                    'CREATE TABLE savings (balance INT CHECK (balance >= 0))',
                    'CREATE TABLE checking (balance INT CHECK (balance >= 0))',
                    'INSERT INTO savings VALUES (100)',
                    'INSERT INTO checking VALUES (100)',
                })
                kv.put('{ada}.cash', 100)
                return 1",
            )
            .unwrap();
        shard
    }

    /// Evaluates, and applies what succeeds.
    fn commit<R>(
        &mut self,
        work: impl FnOnce(&mut Runtime, &mut SqlCommands, &mut Transaction<'_>) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let mut transaction = Transaction::new(&self.state, self.head, &self.limits);
        let result = work(&mut self.runtime, &mut self.sql, &mut transaction)?;
        let (effects, head) = transaction.finish();
        self.state.apply(&effects);
        self.head = head;
        Ok(result)
    }

    /// Runs `body` as a function of the key `{ada}`.
    fn run(&mut self, body: &str) -> Result<String, Failure> {
        self.version += 1;
        let source = Bytes::from(format!("function f(key)\n{body}\nend"));
        let library = LibrarySource { name: "lib".to_owned(), version: self.version, source, requires: Vec::new() };
        let declaration =
            ProcedureDeclaration { name: "f".to_owned(), read_only: self.read_only, ..ProcedureDeclaration::default() };
        let key = Bytes::from_static(b"{ada}");
        let answered = self.commit(|runtime, sql, transaction| {
            let invocation = Invocation {
                library: &library,
                required: &[],
                function: "f",
                declaration: Some(&declaration),
                key: &key,
                more_keys: &[],
                arguments: Arguments::Strings(&[]),
                typed_result: false,
                trace: None,
                dry_run: false,
                patience: None,
            };
            let scope = ShardScope::new(1, 1, &key);
            runtime.call(invocation, transaction, &scope, Some(&mut CallDatabases::new(sql)))
        });
        match answered?.result {
            CallResult::Bytes(bytes) => Ok(String::from_utf8(bytes.to_vec()).unwrap()),
            CallResult::Value(value) => panic!("{value:?} was not asked for"),
        }
    }

    fn answers(&mut self, cases: &[(&str, &str)]) {
        for (body, expected) in cases {
            assert_eq!(self.run(body).as_deref(), Ok(*expected), "{body}");
        }
    }

    fn fails(&mut self, body: &str) -> Failure {
        self.run(body).expect_err(body)
    }

    /// "savings checking cash", of a database that is sound.
    fn accounts(&mut self) -> String {
        self.run(
            "assert(sql.query('bank', 'PRAGMA integrity_check')[1].integrity_check == 'ok')
            local savings = sql.query('bank', 'SELECT balance FROM savings')[1].balance
            local checking = sql.query('bank', 'SELECT balance FROM checking')[1].balance
            return savings .. ' ' .. checking .. ' ' .. kv.get('{ada}.cash')",
        )
        .unwrap()
    }
}

const TRANSFER: &str = "
    sql.exec('bank', 'UPDATE savings SET balance = balance - 10')
    sql.exec('bank', 'UPDATE checking SET balance = balance + 4')
    kv.incr('{ada}.cash', 6)
";

#[test]
fn keys_and_databases_change_together_or_not_at_all() {
    let mut shard = Shard::with_accounts();
    let stored = shard.state.count(Table::Sql);
    for (end, reason) in [
        ("error('no')", Reason::ProcedureFailed),
        ("error('ABORTED', 'no')", Reason::ProcedureFailed),
        ("return nil", Reason::ProcedureReturnedNothing),
        ("kv.get('')", Reason::KeyEmpty),
        ("sql.exec('bank', 'UPDATE savings SET balance = -1')", Reason::SqlConstraint),
        ("sql.exec('bank', 'UPDATE saving SET balance = 1')", Reason::SqlInvalid),
        (
            "sql.exec('other', 'CREATE TABLE t (x)') sql.exec('other', 'INSERT INTO t VALUES (1)') error('no')",
            Reason::ProcedureFailed,
        ),
        ("return string.rep('x', 5000000)", Reason::ResultTooLarge),
    ] {
        // The connection that the failed call leaves has what was never stored.
        assert_eq!(shard.fails(&format!("{TRANSFER} {end}")).reason, reason, "{end}");
        assert_eq!(shard.accounts(), "100 100 100", "{end}");
        assert_eq!(shard.state.count(Table::Sql), stored, "{end}");
        assert_eq!(shard.fails("sql.query('other', 'SELECT 1')").reason, Reason::DatabaseNotFound);
    }
    assert_eq!(shard.run(&format!("{TRANSFER} return 'done'")).as_deref(), Ok("done"));
    assert_eq!(shard.accounts(), "90 104 106");
}

#[test]
fn a_call_sees_its_own_writes_in_order() {
    Shard::with_accounts().answers(&[
        (
            "local seen = {}
            for i = 1, 3 do
                sql.exec('bank', 'UPDATE savings SET balance = balance - 1')
                table.insert(seen, sql.query('bank', 'SELECT balance FROM savings')[1].balance)
            end
            return table.concat(seen, ' ')",
            "99 98 97",
        ),
        (
            "sql.exec({dbname = 'other', user = 'bob'}, 'CREATE TABLE t (x)')
            sql.exec('bank', 'UPDATE savings SET balance = balance + 3')
            sql.exec({dbname = 'other', user = 'bob'}, 'INSERT INTO t VALUES (1), (2)')
            return sql.query({dbname = 'other', user = 'bob'}, 'SELECT count(*) AS n FROM t')[1].n",
            "2",
        ),
        ("return sql.query('bank', 'SELECT balance FROM savings')[1].balance", "100"),
    ]);
}

#[test]
fn a_statement_that_fails_leaves_what_was_before_it() {
    let mut shard = Shard::with_accounts();
    let caught = shard.run(&format!(
        "{TRANSFER}
        local ok, problem = pcall(sql.exec, 'bank', 'UPDATE savings SET balance = balance - 1000')
        sql.exec('bank', 'UPDATE checking SET balance = balance + 1')
        return tostring(ok) .. ' ' .. problem"
    ));
    assert_eq!(caught.as_deref(), Ok("false SQL_CONSTRAINT: CHECK constraint failed: balance >= 0"));
    assert_eq!(shard.accounts(), "90 105 106");
    // Of a list nothing remains, whichever failed.
    let caught = shard.run(
        "local list = {'UPDATE savings SET balance = 1', {'UPDATE checking SET balance = ?', -1}}
        local _, problem = pcall(sql.exec, 'bank', list)
        return problem",
    );
    let expected = "SQL_CONSTRAINT: statements[1]: CHECK constraint failed: balance >= 0";
    assert_eq!(caught.as_deref(), Ok(expected));
    assert_eq!(shard.accounts(), "90 105 106");
    // So of a query that writes.
    let caught = shard.run("local _, problem = pcall(sql.query, 'bank', 'DELETE FROM savings') return problem");
    assert_eq!(caught.as_deref(), Ok("SQL_READ_ONLY: a query only reads, and the statement writes"));
    assert_eq!(shard.accounts(), "90 105 106");
}

#[test]
fn values_come_back_as_they_were() {
    let mut shard = Shard::new();
    shard.run("sql.exec('d', 'CREATE TABLE t (x)') return 1").unwrap();
    for (given, expected) in [
        ("9223372036854775807", "integer 9223372036854775807"),
        ("integer.fromstring('9223372036854775807')", "integer 9223372036854775807 integer"),
        ("integer.fromstring('-9223372036854775808')", "integer -9223372036854775808 integer"),
        ("2^53", "integer 9007199254740992 number"),
        ("integer.fromstring('9007199254740993')", "integer 9007199254740993 integer"),
        ("0.1", "real 0.1 number"),
        ("-1.5e300", "real -1.5e+300 number"),
        ("math.huge", "real inf number"),
        ("0/0", "null nil nil"),
        ("nil", "null nil nil"),
        ("true", "integer 1 number"),
        ("'it''s'", "text it''s string"),
        ("sql.blob('\\xff\\0')", "blob \\255\\000 string"),
    ] {
        // A number beyond 2^63 is a double; what Lua reads above as one is.
        if given == "9223372036854775807" {
            continue;
        }
        let given = given.replace("''", "\\'");
        let expected = expected.replace("''", "'");
        let body = format!(
            "sql.exec('d', 'DELETE FROM t')
            sql.exec('d', 'INSERT INTO t VALUES (?)', {given})
            local row = sql.query('d', 'SELECT x, typeof(x) AS kind FROM t')[1]
            local shown = if row.kind == 'blob' then string.format('\\\\%03d\\\\%03d', row.x:byte(1, 2)) else tostring(row.x)
            return row.kind .. ' ' .. shown .. ' ' .. type(row.x)"
        );
        assert_eq!(shard.run(&body).as_deref(), Ok(&*expected), "{given}");
    }
}

#[test]
fn results_say_what_was_done() {
    let mut shard = Shard::new();
    shard.answers(&[
        ("local r = sql.exec('d', 'CREATE TABLE t (id INTEGER PRIMARY KEY, x)') return r.affected_rows .. #r.rows", "00"),
        ("local r = sql.exec('d', 'INSERT INTO t (x) VALUES (1), (2), (2)') return r.affected_rows .. ' ' .. r.last_insert_rowid", "3 3"),
        ("return json.encode(sql.exec('d', 'UPDATE t SET x = x + 1 WHERE x = :x RETURNING id, x', {x = 2}).rows)", "[{\"id\":2,\"x\":3},{\"id\":3,\"x\":3}]"),
        ("return json.encode(sql.query('d', 'SELECT * FROM t WHERE id > ?', 7))", "[]"),
        ("return json.encode(sql.query('d', 'SELECT id, NULL AS gone FROM t WHERE id = 1'))", "[{\"id\":1}]"),
        ("return sql.query('d', 'SELECT now.t FROM (SELECT strftime(\\'%s\\') AS t) now')[1].t", "1000"),
    ]);
    let failure = shard.fails("sql.query('d', 'SELECT a.id, b.id FROM t a, t b')");
    assert_eq!(failure.reason, Reason::SqlInvalid);
    assert_eq!(failure.message, "two columns are named \"id\": give them different names with AS");
    // Found before anything remains of it.
    let caught = "pcall(sql.exec, 'd', 'DELETE FROM t RETURNING id, id') return sql.query('d', 'SELECT count(*) AS n FROM t')[1].n";
    assert_eq!(shard.run(caught).as_deref(), Ok("3"));
    for body in [
        "sql.exec('d', 'BEGIN')",
        "sql.exec('d', 'COMMIT')",
        "sql.exec('d', 'ATTACH ? AS other', 'x')",
        "sql.exec('d', 'PRAGMA journal_mode = wal')",
    ] {
        assert_eq!(shard.fails(body).reason, Reason::SqlNotAllowed, "{body}");
    }
    assert_eq!(shard.fails("sql.exec('d', 'SELECT 1; SELECT 2')").reason, Reason::SqlInvalid);
    assert_eq!(shard.fails("sql.exec('d', 'SELECT ?', 1, 2)").reason, Reason::SqlInvalid);
    assert_eq!(
        shard.fails("sql.exec({dbname = 'd', user = string.rep('u', 257)}, 'SELECT 1')").reason,
        Reason::InvalidField
    );
}

/// Runs for ever.
const ENDLESS: &str = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n";

#[test]
fn statements_end_with_the_calls_time() {
    let limits = Limits { call_cpu_ms: 50, ..Limits::DEFAULT };
    let mut shard = Shard::with_limits(limits, SqlLimits::DEFAULT);
    shard.run("sql.exec('d', 'CREATE TABLE t (x)') return 1").unwrap();
    for body in [
        format!("sql.query('d', '{ENDLESS}')"),
        format!("sql.exec('d', 'INSERT INTO t {ENDLESS}')"),
        format!("while true do pcall(sql.query, 'd', '{ENDLESS}') end"),
        format!("pcall(sql.query, 'd', '{ENDLESS}') return 'swallowed'"),
        "while true do sql.exec('d', 'INSERT INTO t VALUES (1)') end".to_owned(),
    ] {
        let began = Instant::now();
        let failure = shard.fails(&format!("kv.put('{{ada}}', 1) sql.exec('d', 'INSERT INTO t VALUES (1)') {body}"));
        assert_eq!(failure.reason, Reason::CallTimeout, "{body}: {failure}");
        assert!(began.elapsed() < Duration::from_secs(10), "{body}");
        let left = "return (kv.get('{ada}') or '-') .. sql.query('d', 'SELECT count(*) AS n FROM t')[1].n";
        assert_eq!(shard.run(left).as_deref(), Ok("-0"), "{body}");
    }
}

#[test]
fn the_statements_own_limit_is_an_error_like_others() {
    let mut shard = Shard::with_limits(AMPLE, SqlLimits { cpu_ms: 20, ..SqlLimits::DEFAULT });
    let body = format!(
        "local _, problem = pcall(sql.query, {{dbname = 'd'}}, '{ENDLESS}') kv.put(key, problem) return problem"
    );
    shard.run("sql.exec('d', 'CREATE TABLE t (x)') return 1").unwrap();
    assert_eq!(shard.run(&body).as_deref(), Ok("SQL_TIMEOUT: the statements used more than 20 ms of CPU time"));
    assert_eq!(shard.fails(&format!("sql.query('d', '{ENDLESS}')")).reason, Reason::SqlTimeout);
}

#[test]
fn a_call_is_killed_within_its_statement() {
    let mut shard = Shard::with_limits(
        Limits { call_cpu_ms: 60_000, ..Limits::DEFAULT },
        SqlLimits { cpu_ms: 60_000, ..SqlLimits::DEFAULT },
    );
    shard.run("sql.exec('d', 'CREATE TABLE t (x)') return 1").unwrap();
    for body in [
        format!("sql.query('d', '{ENDLESS}')"),
        format!("while true do pcall(sql.exec, 'd', 'INSERT INTO t {ENDLESS}') end"),
        "while true do sql.exec('d', 'UPDATE t SET x = x + 1') end".to_owned(),
    ] {
        let control = shard.runtime.control();
        let killer = std::thread::spawn(move || {
            let running = loop {
                match control.running() {
                    Some(running) if running.began.elapsed() > Duration::from_millis(50) => break running,
                    _ => std::thread::sleep(Duration::from_millis(1)),
                }
            };
            assert!(control.kill(running.sequence));
            Instant::now()
        });
        let failure = shard.fails(&format!("kv.put(key, 1) sql.exec('d', 'INSERT INTO t VALUES (1)') {body}"));
        let took = killer.join().unwrap().elapsed();
        assert_eq!(failure.reason, Reason::CallKilled, "{body}");
        assert!(took < Duration::from_secs(2), "{body}: {took:?}");
        let left = "return (kv.get(key) or '-') .. sql.query('d', 'SELECT count(*) AS n FROM t')[1].n";
        assert_eq!(shard.run(left).as_deref(), Ok("-0"), "{body}");
    }
}

#[test]
fn what_results_and_changes_take_is_bounded() {
    let limits = Limits { call_memory_bytes: 4 << 20, write_set_bytes: 100_000, ..AMPLE };
    let mut shard = Shard::with_limits(limits, SqlLimits::DEFAULT);
    shard.run("sql.exec('d', 'CREATE TABLE t (x)') return 1").unwrap();
    let numbers = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 60000) SELECT x FROM n";
    assert_eq!(shard.fails(&format!("sql.query('d', '{numbers}')")).reason, Reason::CallMemory);
    assert_eq!(
        shard.fails(&format!("return #sql.query('d', '{}')", numbers.replace("60000", "600000"))).reason,
        Reason::SqlReplyTooLarge
    );
    let written = "kv.put(key, 'before')
        local _, problem = pcall(sql.exec, 'd', 'INSERT INTO t VALUES (randomblob(200000))')
        sql.exec('d', 'INSERT INTO t VALUES (1)')
        return string.match(problem, '^[A-Z_]+') .. ' ' .. sql.query('d', 'SELECT count(*) AS n FROM t')[1].n";
    assert_eq!(shard.run(written).as_deref(), Ok("WRITE_SET_TOO_LARGE 1"));
    assert_eq!(
        shard.run("return kv.get(key) .. sql.query('d', 'SELECT count(*) AS n FROM t')[1].n").as_deref(),
        Ok("before1")
    );
}

#[test]
fn a_read_only_call_reads() {
    let mut shard = Shard::with_accounts();
    shard.read_only = true;
    assert_eq!(shard.accounts(), "100 100 100");
    for body in ["sql.exec('bank', 'SELECT 1')", "sql.exec('bank', 'DELETE FROM savings')"] {
        assert_eq!(shard.fails(body).reason, Reason::ReadOnly, "{body}");
    }
    assert_eq!(shard.fails("sql.query('bank', 'DELETE FROM savings')").reason, Reason::SqlReadOnly);
}

#[test]
fn what_a_call_would_change_is_known() {
    let shard = Shard::with_accounts();
    let mut sql = SqlCommands::new(Owner::Queries, SqlLimits::DEFAULT, None);
    let mut transaction = Transaction::new(&shard.state, shard.head, &shard.limits);
    let before = transaction.savepoint();
    assert!(changed_databases(&transaction, before).is_empty());
    let (bank, new) = (database("ada", "bank"), database("bob", "new"));
    for (database, text) in
        [(&bank, "UPDATE savings SET balance = 1"), (&new, "CREATE TABLE t (x)"), (&bank, "SELECT 1")]
    {
        sql.run(Some(database), &[statement(text)], Asked::default(), &mut transaction).unwrap();
    }
    let changed = changed_databases(&transaction, before);
    let Change { pages, bytes } = changed[&database_id(&bank)];
    assert!(pages == 2 && bytes > 50 && bytes < 1000, "{pages} pages, {bytes} bytes");
    assert_eq!(changed.keys().collect::<Vec<_>>(), [&database_id(&bank), &database_id(&new)]);
    transaction.rollback_to(before);
    assert!(changed_databases(&transaction, before).is_empty());
}

fn database(user: &'static str, dbname: &str) -> SqlDatabase {
    SqlDatabase { dbfile: 0, user: Bytes::from_static(user.as_bytes()), dbname: dbname.to_owned() }
}

fn statement(sql: &str) -> SqlStatement {
    SqlStatement { sql: sql.to_owned(), ..SqlStatement::default() }
}

fn sql(dbname: &str, statements: &[&str]) -> WriteOperation {
    let statements = statements.iter().map(|sql| statement(sql)).collect();
    let request = SqlExecuteRequest { database: Some(database("ada", dbname)), statements, request_id: None };
    WriteOperation { operation: Some(write_operation::Operation::Sql(request)) }
}

fn increment(delta: i64) -> WriteOperation {
    let request = IncrementRequest { key: Bytes::from_static(b"{ada}.cash"), delta, ..IncrementRequest::default() };
    WriteOperation { operation: Some(write_operation::Operation::Increment(request)) }
}

fn batch(shard: &mut Shard, operations: Vec<WriteOperation>) -> Result<BatchResponse, Failure> {
    let request = BatchRequest { operations, request_id: None };
    match shard.commit(|_, sql, transaction| sql.batch(&request, transaction))? {
        reply::Kind::Batch(response) => Ok(response),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_batch_has_its_results_in_their_places() {
    let mut shard = Shard::with_accounts();
    let operations = vec![
        increment(5),
        sql("bank", &["UPDATE savings SET balance = balance - 5", "SELECT balance FROM savings"]),
        increment(1),
        sql("bank", &["SELECT balance FROM savings"]),
    ];
    let results = batch(&mut shard, operations).unwrap().results;
    let shown: Vec<String> = results
        .into_iter()
        .map(|result| match result.result.unwrap() {
            write_result::Result::Increment(response) => response.value.to_string(),
            write_result::Result::Sql(response) => {
                let last = response.results.last().unwrap();
                assert_eq!(last.rows[0].cells, [SqlCell { kind: Some(sql_cell::Kind::Int64(95)) }]);
                format!("{} results", response.results.len())
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(shown, ["105", "2 results", "106", "1 results"]);
    assert_eq!(shard.accounts(), "95 100 106");
}

#[test]
fn a_batch_fails_as_a_whole_and_says_where() {
    let mut shard = Shard::with_accounts();
    let failure = batch(
        &mut shard,
        vec![
            sql("bank", &["UPDATE checking SET balance = 0"]),
            increment(5),
            sql("bank", &["UPDATE checking SET balance = 1", "UPDATE savings SET balance = -1"]),
        ],
    )
    .unwrap_err();
    assert_eq!(failure.reason, Reason::SqlConstraint);
    assert_eq!((&*failure.metadata["operation"], &*failure.metadata["statement"]), ("2", "1"));
    assert_eq!(failure.message, "operations[2]: statements[1]: CHECK constraint failed: balance >= 0");
    assert_eq!(shard.accounts(), "100 100 100");
}

#[test]
fn a_batchs_sql_shares_the_limits_of_one_request() {
    let limits = SqlLimits { reply_rows: 15, cpu_ms: 50, ..SqlLimits::DEFAULT };
    let mut shard = Shard::with_limits(AMPLE, limits);
    let ten = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 10) SELECT x FROM n";
    batch(&mut shard, vec![sql("d", &[ten])]).unwrap();
    let failure = batch(&mut shard, vec![sql("d", &[ten]), increment(1), sql("d", &[ten])]).unwrap_err();
    assert_eq!((failure.reason, &*failure.metadata["operation"]), (Reason::SqlReplyTooLarge, "2"));
    // Each takes some milliseconds.
    let busy = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 50000) SELECT max(x) FROM n";
    batch(&mut shard, vec![sql("d", &[busy])]).unwrap();
    let failure = batch(&mut shard, (0..100).map(|_| sql("d", &[busy])).collect()).unwrap_err();
    assert_eq!(failure.reason, Reason::SqlTimeout);
}
