//! Every limit, and what is never allowed: clear failures, which leave nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cirrus_proto::limits::SqlLimits;
use cirrus_proto::{Failure, Reason};
use cirrus_sql::{Cell, DatabaseId, Request, Statement};

use crate::shard::{Shard, book};

/// A shard with a table `t(id, v)` of some rows.
fn shard(limits: SqlLimits) -> Shard {
    let mut shard = Shard::with_limits(limits);
    let rows = "INSERT INTO t(v) VALUES ('one'), ('two'), ('three')";
    shard.execute(&book(), &["CREATE TABLE t(id INTEGER PRIMARY KEY, v)", rows].map(Statement::new)).unwrap();
    shard
}

/// The request's failure; afterwards the database is as it was, and still works.
fn refused(shard: &mut Shard, statements: &[Statement]) -> Failure {
    let keys = shard.stored_keys();
    let failure = shard.execute(&book(), statements).unwrap_err();
    assert_eq!(shard.stored_keys(), keys);
    let check = [
        "SELECT count(*) FROM t",
        "PRAGMA integrity_check",
        "INSERT INTO t(v) VALUES ('x')",
        "DELETE FROM t WHERE v = 'x'",
    ];
    let results = shard.execute(&book(), &check.map(Statement::new)).unwrap().results;
    assert_eq!(results[0].rows, [[Cell::Integer(3)]], "after {failure}");
    assert_eq!(results[1].rows, [[Cell::Text("ok".to_owned())]], "after {failure}");
    failure
}

fn refused_sql(shard: &mut Shard, sql: &str) -> Failure {
    refused(shard, &[Statement::new("UPDATE t SET v = 'changed'"), Statement::new(sql)])
}

#[test]
fn what_no_request_may_do_is_refused_by_name() {
    let mut shard = shard(SqlLimits::DEFAULT);
    for (sql, message) in [
        ("ATTACH '/etc/passwd' AS x", "ATTACH and VACUUM INTO are refused: a request has one database"),
        ("ATTACH ':memory:' AS x", "ATTACH and VACUUM INTO are refused: a request has one database"),
        ("BEGIN", "BEGIN is refused: all statements of a request are one transaction; use SAVEPOINT within it"),
        (
            "BEGIN IMMEDIATE",
            "BEGIN is refused: all statements of a request are one transaction; use SAVEPOINT within it",
        ),
        ("COMMIT", "COMMIT is refused: all statements of a request are one transaction; use SAVEPOINT within it"),
        ("END", "COMMIT is refused: all statements of a request are one transaction; use SAVEPOINT within it"),
        ("ROLLBACK", "ROLLBACK is refused: all statements of a request are one transaction; use SAVEPOINT within it"),
        ("SELECT load_extension('/tmp/x.so')", "the function load_extension is refused"),
        ("SELECT fts3_tokenizer('simple')", "the function fts3_tokenizer is refused"),
        ("CREATE VIRTUAL TABLE c USING csv(filename='/etc/passwd')", "virtual tables of the module csv are refused"),
        ("PRAGMA writable_schema = ON", "PRAGMA writable_schema is refused"),
        ("PRAGMA journal_mode = WAL", "PRAGMA journal_mode is refused"),
        ("PRAGMA journal_mode", "PRAGMA journal_mode is refused"),
        ("PRAGMA main.locking_mode = NORMAL", "PRAGMA locking_mode is refused"),
        ("PRAGMA page_size = 4096", "PRAGMA page_size is refused with an argument"),
        ("PRAGMA max_page_count(1000000)", "PRAGMA max_page_count is refused with an argument"),
        ("PRAGMA encoding = 'UTF-16'", "PRAGMA encoding is refused with an argument"),
        ("PRAGMA schema_version = 7", "PRAGMA schema_version is refused with an argument"),
        ("PRAGMA temp_store = FILE", "PRAGMA temp_store is refused"),
        ("PRAGMA temp_store_directory = '/tmp'", "PRAGMA temp_store_directory is refused"),
        ("PRAGMA cache_size = 1000000", "PRAGMA cache_size is refused"),
        ("PRAGMA mmap_size = 1000000", "PRAGMA mmap_size is refused"),
        ("PRAGMA trusted_schema = ON", "PRAGMA trusted_schema is refused"),
        ("PRAGMA hard_heap_limit = 1", "PRAGMA hard_heap_limit is refused"),
        ("PRAGMA threads = 8", "PRAGMA threads is refused"),
        ("PRAGMA wal_checkpoint", "PRAGMA wal_checkpoint is refused"),
        ("PRAGMA shrink_memory", "PRAGMA shrink_memory is refused"),
        ("PRAGMA incremental_vacuum", "PRAGMA incremental_vacuum is refused"),
        ("PRAGMA foreign_keys = ON", "PRAGMA foreign_keys is refused but as a request's first statement"),
        ("PRAGMA no_such_pragma", "PRAGMA no_such_pragma is refused"),
    ] {
        let failure = refused_sql(&mut shard, sql);
        assert_eq!(failure.reason, Reason::SqlNotAllowed, "{sql}: {failure}");
        assert_eq!(failure.message, format!("statements[1]: {message}"), "{sql}");
    }
    for (sql, message) in [
        ("VACUUM", "cannot VACUUM from within a transaction"),
        ("VACUUM INTO '/tmp/cirrus-stolen.db'", "cannot VACUUM from within a transaction"),
        ("UPDATE sqlite_schema SET sql = 'x'", "table sqlite_master may not be modified"),
        ("INSERT INTO sqlite_dbpage VALUES (1, 1)", "no such table: sqlite_dbpage"),
        ("SELECT readfile('/etc/passwd')", "no such function: readfile"),
        ("DROP TABLE sqlite_schema", "table sqlite_master may not be dropped"),
    ] {
        let failure = refused_sql(&mut shard, sql);
        assert_eq!(failure.message, format!("statements[1]: {message}"), "{sql}");
    }
    assert!(!std::path::Path::new("/tmp/cirrus-stolen.db").exists());
}

#[test]
fn what_is_useful_is_allowed() {
    let mut shard = shard(SqlLimits::DEFAULT);
    for sql in [
        "PRAGMA table_info(t)",
        "PRAGMA table_xinfo(t)",
        "PRAGMA table_list",
        "PRAGMA index_list(t)",
        "PRAGMA foreign_key_list(t)",
        "PRAGMA foreign_key_check",
        "PRAGMA foreign_keys",
        "PRAGMA defer_foreign_keys = ON",
        "PRAGMA user_version",
        "PRAGMA user_version = 3",
        "PRAGMA application_id = 77",
        "PRAGMA integrity_check",
        "PRAGMA quick_check(t)",
        "PRAGMA page_size",
        "PRAGMA page_count",
        "PRAGMA max_page_count",
        "PRAGMA freelist_count",
        "PRAGMA encoding",
        "PRAGMA schema_version",
        "PRAGMA compile_options",
        "PRAGMA optimize",
        "SELECT name FROM pragma_table_info('t')",
        "EXPLAIN QUERY PLAN SELECT * FROM t",
        "EXPLAIN SELECT * FROM t",
        "ANALYZE",
        "REINDEX",
        "CREATE VIEW w AS SELECT v FROM t",
        "CREATE TRIGGER tr AFTER INSERT ON t BEGIN UPDATE t SET v = 'x' WHERE 0; END",
        "CREATE VIRTUAL TABLE words USING fts5(body)",
        "INSERT INTO words VALUES ('the quick brown fox')",
        "SELECT highlight(words, 0, '[', ']') FROM words WHERE words MATCH 'quick'",
        "CREATE VIRTUAL TABLE places USING rtree(id, x0, x1)",
        "INSERT INTO places VALUES (1, 0.5, 1.5)",
        "SELECT value FROM json_each('[1,2]')",
        "CREATE TEMP TABLE scratch AS SELECT * FROM t",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 10) SELECT sum(i) FROM n",
        "SELECT name, sql FROM sqlite_master",
        "DELETE FROM t WHERE id = 1 RETURNING v",
    ] {
        shard.sql(&book(), sql).unwrap_or_else(|failure| panic!("{sql}: {failure}"));
    }
    let highlighted =
        shard.sql(&book(), "SELECT highlight(words, 0, '[', ']') FROM words WHERE words MATCH 'brown'").unwrap();
    assert_eq!(highlighted.rows, [[Cell::Text("the quick [brown] fox".to_owned())]]);
}

#[test]
fn a_query_only_reads() {
    let mut shard = shard(SqlLimits::DEFAULT);
    for sql in [
        "INSERT INTO t(v) VALUES (1)",
        "DELETE FROM t RETURNING v",
        "CREATE TABLE u(v)",
        "CREATE TEMP TABLE u(v)",
        "PRAGMA user_version = 4",
        "PRAGMA optimize",
        "ANALYZE",
        "SELECT 1; DELETE FROM t",
    ] {
        let failure =
            shard.databases.query(&shard.state, 0, Request::new(&book(), &[Statement::script(sql)])).unwrap_err();
        assert!(matches!(failure.reason, Reason::SqlReadOnly | Reason::SqlNotAllowed), "{sql}: {failure}");
        assert_eq!(shard.query(&book(), "SELECT count(*) FROM t").unwrap().rows, [[Cell::Integer(3)]], "{sql}");
    }
}

#[test]
fn what_never_ends_is_stopped() {
    let mut shard = shard(SqlLimits { cpu_ms: 50, ..SqlLimits::DEFAULT });
    for sql in [
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) INSERT INTO t(v) SELECT 1 FROM n WHERE i < 0",
        "SELECT count(*) FROM t a, t b, t c, t d, t e, t f, t g, t h, t i, t j, t k, t l, t m, t n, t o, t p, t q",
    ] {
        let failure = refused_sql(&mut shard, sql);
        assert_eq!(failure.reason, Reason::SqlTimeout, "{sql}: {failure}");
        assert_eq!(failure.message, "statements[1]: the statements used more than 50 ms of CPU time");
        assert_eq!(failure.metadata["limit"], "50");
    }
    // A view of views, of which each has the one before twice: a million tables to compile.
    shard.sql(&book(), "CREATE VIEW w0 AS SELECT v FROM t").unwrap();
    for n in 1..20 {
        let before = n - 1;
        shard.sql(&book(), &format!("CREATE VIEW w{n} AS SELECT a.v FROM w{before} a, w{before} b")).unwrap();
    }
    let failure = refused_sql(&mut shard, "SELECT * FROM w19");
    assert!(matches!(failure.reason, Reason::SqlTimeout | Reason::SqlMemory | Reason::SqlInvalid), "{failure}");
    // A procedure's statements get what is left of its time.
    let endless =
        [Statement::new("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")];
    let id = book();
    let request = Request { cpu: Some(Duration::from_millis(5)), ..Request::new(&id, &endless) };
    let failure = shard.databases.query(&shard.state, 0, request).unwrap_err();
    assert_eq!(failure.message, "the statements used more than 5 ms of CPU time");
}

#[test]
fn a_request_can_be_killed() {
    let mut shard = shard(SqlLimits { cpu_ms: 60_000, ..SqlLimits::DEFAULT });
    let killed = std::sync::Arc::new(AtomicBool::new(false));
    let (started, wait_for_start) = mpsc::channel();
    let killer = std::thread::spawn({
        let killed = killed.clone();
        move || {
            wait_for_start.recv().unwrap();
            killed.store(true, Ordering::Relaxed);
        }
    });
    let statements = [
        Statement::new("UPDATE t SET v = 'half'"),
        Statement::new("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"),
    ];
    let began = Instant::now();
    let failure = shard
        .commit(|databases, transaction| {
            started.send(()).unwrap();
            databases.execute(transaction, Request { killed: &killed, ..Request::new(&book(), &statements) })
        })
        .unwrap_err();
    killer.join().unwrap();
    assert_eq!(failure.reason, Reason::SqlKilled, "{failure}");
    assert!(began.elapsed() < Duration::from_secs(30), "long before its CPU time is used up");
    let values = shard.query(&book(), "SELECT v FROM t WHERE v = 'half'").unwrap();
    assert_eq!(values.rows.len(), 0);
}

#[test]
fn sizes_are_bounded() {
    let small = SqlLimits {
        value_bytes: 100_000,
        sql_bytes: 50_000,
        memory_bytes: 4 * 1024 * 1024,
        reply_rows: 100,
        reply_bytes: 50_000,
        statements: 5,
        ..SqlLimits::DEFAULT
    };
    let mut shard = shard(small);
    let long = "x".repeat(100_001);
    let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000000)";
    for (statement, reason, message) in [
        (
            Statement::new("SELECT zeroblob(100001)"),
            Reason::SqlTooLarge,
            "string or blob too big: above the limit of 100000 bytes",
        ),
        (Statement::new("SELECT randomblob(2000000000)"), Reason::SqlTooLarge, "string or blob too big"),
        (Statement::new("SELECT printf('%*d', 2000000000, 1)"), Reason::SqlTooLarge, "string or blob too big"),
        (Statement::new("SELECT printf('%.*c', 2000000000, 'x')"), Reason::SqlTooLarge, "string or blob too big"),
        (
            Statement::new("SELECT replace(hex(zeroblob(40000)), '0', 'xxxxx')"),
            Reason::SqlTooLarge,
            "string or blob too big",
        ),
        (
            Statement::new(format!("{numbers} SELECT group_concat(i) FROM n")),
            Reason::SqlTooLarge,
            "string or blob too big",
        ),
        (Statement::with_parameters("SELECT ?", [Cell::Text(long)]), Reason::SqlTooLarge, "string or blob too big"),
        (
            Statement::new(format!("SELECT '{}'", "x".repeat(50_000))),
            Reason::SqlTooLarge,
            "statements[1].sql is 50009 bytes, above the limit of 50000",
        ),
        (
            Statement::new(format!("{numbers} SELECT i FROM n")),
            Reason::SqlReplyTooLarge,
            "the results have more than 100 rows",
        ),
        (
            Statement::new(format!("{numbers} SELECT zeroblob(1000) FROM n LIMIT 60")),
            Reason::SqlReplyTooLarge,
            "the results have more than 50000 bytes",
        ),
        (
            Statement::new(format!("{numbers} SELECT count(*) FROM (SELECT i, randomblob(100) r FROM n ORDER BY r)")),
            Reason::SqlMemory,
            "the statements used more than 4194304 bytes of memory",
        ),
        (
            Statement::new(format!("{numbers} SELECT count(DISTINCT randomblob(100)) FROM n")),
            Reason::SqlMemory,
            "the statements used more than 4194304 bytes of memory",
        ),
        (
            Statement::new(format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000))),
            Reason::SqlInvalid,
            "Recursion limit",
        ),
        (
            Statement::new(format!("SELECT 1{}", " + 1".repeat(5000))),
            Reason::SqlInvalid,
            "Expression tree is too large (maximum depth 1000)",
        ),
        (
            Statement::new(format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(600))),
            Reason::SqlInvalid,
            "too many terms in compound SELECT",
        ),
        (
            Statement::new(format!("SELECT {}", ["1"; 1001].join(","))),
            Reason::SqlInvalid,
            "too many columns in result set",
        ),
        (
            Statement::new(format!("SELECT max({})", ["1"; 200].join(","))),
            Reason::SqlInvalid,
            "too many arguments on function max",
        ),
        (
            Statement::new(format!("SELECT 'x' LIKE '{}'", "%a".repeat(200))),
            Reason::SqlInvalid,
            "LIKE or GLOB pattern too complex",
        ),
        (Statement::new("SELECT ?99999"), Reason::SqlInvalid, "variable number must be between ?1 and ?32766"),
    ] {
        let sql: String = statement.sql.chars().take(80).collect();
        let failure = refused(&mut shard, &[Statement::new("UPDATE t SET v = 'changed'"), statement]);
        assert_eq!(failure.reason, reason, "{sql}: {failure}");
        assert!(failure.message.contains(message), "{sql}: {failure}");
    }
    let failure = refused(&mut shard, &vec![Statement::new("SELECT 1"); 6]);
    assert_eq!(failure.message, "6 statements, above the limit of 5");
    let failure = refused(&mut shard, &[]);
    assert_eq!(failure.message, "statements: a request needs at least one");
    let failure = shard.sql(&DatabaseId::new(0, "", "d"), "SELECT 1").unwrap_err();
    assert_eq!(failure.message, "user: must not be empty");
}

#[test]
fn a_database_grows_to_its_limit_and_not_past_it() {
    let mut shard = shard(SqlLimits { database_bytes: 100 * 1024, ..SqlLimits::DEFAULT });
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 80) INSERT INTO t(v) SELECT zeroblob(1000) FROM n";
    let failure = refused(&mut shard, &[Statement::new(fill), Statement::new(fill)]);
    assert_eq!(failure.reason, Reason::DatabaseTooLarge, "{failure}");
    assert!(failure.message.contains("the database would be larger than the limit of 102400 bytes"), "{failure}");
    for _ in 0..3 {
        shard.sql(&book(), fill).unwrap();
        shard.sql(&book(), "DELETE FROM t WHERE id > 3").unwrap();
    }
}

#[test]
fn a_write_set_is_bounded() {
    let mut shard = shard(SqlLimits::DEFAULT);
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 6000) \
               INSERT INTO t(v) SELECT randomblob(900) FROM n";
    let failure = refused_sql(&mut shard, sql);
    assert_eq!(failure.reason, Reason::WriteSetTooLarge, "{failure}");
}

#[test]
fn deep_expressions_fit_a_small_stack() {
    let worker = std::thread::Builder::new().stack_size(1024 * 1024).spawn(|| {
        let mut shard = shard(SqlLimits::DEFAULT);
        let deep = format!("SELECT 1{}", " + (1".repeat(490) + &")".repeat(490));
        assert!(shard.sql(&book(), &deep).is_ok());
        let nested = format!("SELECT {}1{}", "(SELECT ".repeat(90), ")".repeat(90));
        let answered = shard.sql(&book(), &nested);
        assert!(answered.is_ok() || answered.unwrap_err().reason == Reason::SqlInvalid);
        for sql in [
            format!("SELECT {}1", "NOT ".repeat(5000)),
            format!("SELECT {}", "CASE WHEN 1 THEN ".repeat(2000)),
            format!("SELECT json('{}')", "[".repeat(100_000)),
            format!("SELECT * FROM {}t{}", "(SELECT * FROM ".repeat(500), ")".repeat(500)),
        ] {
            assert!(shard.sql(&book(), &sql).is_err());
        }
    });
    worker.unwrap().join().unwrap();
}
