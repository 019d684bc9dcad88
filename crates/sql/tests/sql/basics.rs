//! Statements, what they answer and what they store.

use bytes::Bytes;
use cirrus_engine::{MemoryView, View, ViewError, Visit};
use cirrus_proto::Reason;
use cirrus_proto::internal::v1::Table;
use cirrus_sql::{Cell, Column, DatabaseId, Parameters, Request, Statement};

use crate::shard::{Shard, book, text};

#[test]
fn a_database_is_created_by_what_is_written_to_it() {
    let mut shard = Shard::new();
    assert_eq!(shard.query(&book(), "SELECT 1").unwrap_err().reason.as_str(), "DATABASE_NOT_FOUND");
    assert_eq!(shard.sql(&book(), "SELECT 1").unwrap().rows, [[Cell::Integer(1)]]);
    assert_eq!(shard.stored_keys(), 0, "reading creates nothing");

    let executed = shard
        .execute(
            &book(),
            &[
                Statement::new("CREATE TABLE addrbook(id INTEGER PRIMARY KEY, addr varchar(64))"),
                Statement::new("INSERT INTO addrbook(addr) VALUES ('a@x'), ('b@x')"),
                Statement::new("SELECT *, length(addr) AS n FROM addrbook ORDER BY id DESC"),
            ],
        )
        .unwrap();
    assert!(executed.stored.created);
    assert_eq!(executed.stored.pages, 2);
    assert_eq!(shard.stored_keys(), 3, "two pages and the entry");
    let [created, inserted, selected] = executed.results.try_into().unwrap();
    assert_eq!((created.affected_rows, created.columns, created.rows), (0, vec![], vec![]));
    assert_eq!((inserted.affected_rows, inserted.last_insert_rowid), (2, 2));
    let column = |name: &str, declared_type: Option<&str>| Column {
        name: name.to_owned(),
        declared_type: declared_type.map(str::to_owned),
    };
    assert_eq!(
        selected.columns,
        [column("id", Some("INTEGER")), column("addr", Some("varchar(64)")), column("n", None)]
    );
    assert_eq!(selected.rows[0], [Cell::Integer(2), text("b@x"), Cell::Integer(3)]);

    assert_eq!(shard.query(&book(), "SELECT count(*) FROM addrbook").unwrap().rows, [[Cell::Integer(2)]]);
    assert_eq!(shard.query(&book(), "DELETE FROM addrbook").unwrap_err().reason.as_str(), "SQL_READ_ONLY");
    let empty = shard.sql(&book(), "SELECT id FROM addrbook WHERE 0").unwrap();
    assert_eq!((empty.columns.len(), empty.rows.len()), (1, 0), "an empty result has its columns");
}

#[test]
fn every_type_goes_in_and_out() {
    let mut shard = Shard::new();
    shard.sql(&book(), "CREATE TABLE t(v)").unwrap();
    let cells = [
        Cell::Null,
        Cell::Integer(i64::MIN),
        Cell::Integer(9_007_199_254_740_993),
        Cell::Real(0.1),
        Cell::Real(f64::INFINITY),
        text("naïve 😀 \0 text"),
        text(""),
        Cell::Blob(vec![0, 255, 1].into()),
        Cell::Blob(vec![].into()),
    ];
    for cell in &cells {
        let insert = Statement::with_parameters("INSERT INTO t VALUES (?1) RETURNING v", [cell.clone()]);
        assert_eq!(shard.execute(&book(), &[insert]).unwrap().results[0].rows, [[cell.clone()]]);
    }
    let rows = shard.query(&book(), "SELECT v FROM t ORDER BY rowid").unwrap().rows;
    assert_eq!(rows.into_iter().flatten().collect::<Vec<_>>(), cells);
    // SQLite has no NaN.
    let nan = Statement::with_parameters("SELECT ?", [Cell::Real(f64::NAN)]);
    assert_eq!(shard.execute(&book(), &[nan]).unwrap().results[0].rows, [[Cell::Null]]);
    assert_eq!(shard.sql(&book(), "SELECT CAST(x'61ff62' AS TEXT)").unwrap().rows, [[text("a\u{fffd}b")]]);
}

#[test]
fn parameters_are_all_given_and_none_too_many() {
    let mut shard = Shard::new();
    let mut run = |sql: &str, parameters: Parameters| {
        let statement = Statement { parameters, ..Statement::new(sql) };
        let result = shard.execute(&book(), &[statement]);
        result.map(|mut executed| executed.results.remove(0).rows.remove(0)).map_err(|failure| failure.message)
    };
    let named = |names: &[&str]| {
        Parameters::Named(names.iter().zip(1..).map(|(name, n)| ((*name).to_owned(), Cell::Integer(n))).collect())
    };
    let positional = |count: i64| Parameters::Positional((1..=count).map(Cell::Integer).collect());
    assert_eq!(run("SELECT ?, ?", positional(2)).unwrap(), [Cell::Integer(1), Cell::Integer(2)]);
    assert_eq!(run("SELECT ?2, ?1, ?2", positional(2)).unwrap()[0], Cell::Integer(2));
    assert_eq!(run("SELECT :b, $a, :b", named(&["$a", ":b"])).unwrap()[0], Cell::Integer(2));
    for (sql, parameters, problem) in [
        ("SELECT ?, ?", positional(1), "the statement has 2 parameters, and 1 cells are given"),
        ("SELECT 1", positional(1), "the statement has 0 parameters, and 1 cells are given"),
        ("SELECT :a, :b", named(&[":a"]), "no cell is given for parameter 2 (:b)"),
        ("SELECT :a", named(&["a"]), "the statement has no parameter \"a\""),
        ("SELECT ?, :a", named(&[":a"]), "no cell is given for parameter 1 (?)"),
    ] {
        assert_eq!(run(sql, parameters).unwrap_err(), problem, "{sql}");
    }
}

#[test]
fn a_request_is_one_statement_after_the_other_and_all_or_nothing() {
    let mut shard = Shard::new();
    shard.sql(&book(), "CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE)").unwrap();
    shard.sql(&book(), "INSERT INTO t(v) VALUES ('kept')").unwrap();
    let before = shard.stored_keys();
    let failure = shard
        .execute(
            &book(),
            &[
                Statement::new("INSERT INTO t(v) VALUES ('lost')"),
                Statement::new("CREATE TABLE lost(x)"),
                Statement::new("INSERT INTO t(v) VALUES ('one'), ('kept')"),
                Statement::new("INSERT INTO t(v) VALUES ('never')"),
            ],
        )
        .unwrap_err();
    assert_eq!(failure.reason.as_str(), "SQL_CONSTRAINT");
    assert_eq!(failure.message, "statements[2]: UNIQUE constraint failed: t.v");
    assert_eq!(failure.metadata["statement"], "2");
    assert_eq!(failure.metadata["sqlite_code"], "19");
    assert_eq!(failure.metadata["sqlite_message"], "UNIQUE constraint failed: t.v");
    assert_eq!(shard.stored_keys(), before);
    assert_eq!(shard.sql(&book(), "SELECT v FROM t").unwrap().rows, [[text("kept")]]);
    assert_eq!(shard.sql(&book(), "SELECT * FROM lost").unwrap_err().message, "no such table: lost");

    // Within a request, savepoints.
    let executed = shard.execute(
        &book(),
        &[
            "SAVEPOINT s",
            "INSERT INTO t(v) VALUES ('undone')",
            "ROLLBACK TO s",
            "INSERT INTO t(v) VALUES ('done')",
            "RELEASE s",
        ]
        .map(Statement::new),
    );
    assert_eq!(executed.unwrap().results[3].last_insert_rowid, 2);
    assert_eq!(shard.query(&book(), "SELECT v FROM t ORDER BY 1").unwrap().rows, [[text("done")], [text("kept")]]);

    // A conflict clause that rolls all of it back fails the request.
    let failure = shard.execute(
        &book(),
        &["INSERT INTO t(v) VALUES ('gone')", "INSERT OR ROLLBACK INTO t(v) VALUES ('kept')"].map(Statement::new),
    );
    assert_eq!(failure.unwrap_err().reason.as_str(), "SQL_CONSTRAINT");
    assert_eq!(shard.query(&book(), "SELECT count(*) FROM t").unwrap().rows, [[Cell::Integer(2)]]);
}

#[test]
fn a_text_is_one_statement_unless_it_is_a_script() {
    let mut shard = Shard::new();
    assert_eq!(shard.sql(&book(), "SELECT 1; -- and no more\n").unwrap().rows.len(), 1);
    for (sql, problem) in [
        ("SELECT 1; SELECT 2", "one statement is expected, and there are several"),
        ("", "there is no statement"),
        (" -- nothing\n", "there is no statement"),
    ] {
        let failure = shard.sql(&book(), sql).unwrap_err();
        assert_eq!((failure.reason.as_str(), &failure.message[..]), ("SQL_INVALID", problem), "{sql:?}");
    }
    let run = |shard: &mut Shard, sql: &str| {
        shard.execute(&book(), &[Statement::script(sql)]).map(|mut executed| executed.results.remove(0))
    };
    let result =
        run(&mut shard, "CREATE TABLE t(v); INSERT INTO t VALUES (1), (2); UPDATE t SET v = v + 1 WHERE v = 2;")
            .unwrap();
    assert_eq!((result.affected_rows, result.last_insert_rowid, result.rows.len()), (1, 2, 0));
    let result = run(&mut shard, "SELECT v FROM t; DELETE FROM t; SELECT 7").unwrap();
    assert_eq!(result.rows, [[Cell::Integer(1)], [Cell::Integer(3)]]);
    assert_eq!(shard.query(&book(), "SELECT v FROM t").unwrap().rows.len(), 0);
    assert_eq!(
        run(&mut shard, "INSERT INTO t VALUES (1); INSERT INTO missing VALUES (1)").unwrap_err().message,
        "no such table: missing"
    );
    assert_eq!(shard.query(&book(), "SELECT v FROM t").unwrap().rows.len(), 0);
    assert_eq!(run(&mut shard, " ; -- nothing\n").unwrap().affected_rows, 0);
}

#[test]
fn requests_leave_nothing_to_the_next_on_the_same_connection() {
    let mut shard = Shard::new();
    shard.execute(&book(), &["CREATE TABLE t(v UNIQUE)", "INSERT INTO t VALUES (1)"].map(Statement::new)).unwrap();
    assert_eq!(shard.databases.statistics().open, 1);
    assert_eq!(shard.sql(&book(), "SELECT last_insert_rowid()").unwrap().rows, [[Cell::Integer(0)]]);
    assert_eq!(shard.sql(&book(), "CREATE TABLE u(v)").unwrap().affected_rows, 0);
    shard.sql(&book(), "CREATE TEMP TABLE secret(v)").unwrap();
    assert_eq!(shard.databases.statistics().open, 0, "a connection with temporary tables is closed");
    assert_eq!(shard.sql(&book(), "SELECT * FROM secret").unwrap_err().message, "no such table: secret");

    let references = "CREATE TABLE child(v REFERENCES t(v) DEFERRABLE INITIALLY DEFERRED)";
    shard.execute(&book(), &[references, "INSERT INTO child VALUES (7)"].map(Statement::new)).unwrap();
    let failure =
        shard.execute(&book(), &["PRAGMA foreign_keys = ON", "INSERT INTO child VALUES (8)"].map(Statement::new));
    assert_eq!(failure.unwrap_err().message, "FOREIGN KEY constraint failed", "when it commits");
    shard.sql(&book(), "INSERT INTO child VALUES (9)").unwrap();
    assert_eq!(shard.sql(&book(), "SELECT v FROM child").unwrap().rows, [[Cell::Integer(7)], [Cell::Integer(9)]]);
    assert_eq!(shard.sql(&book(), "PRAGMA foreign_keys").unwrap().rows, [[Cell::Integer(0)]]);
}

#[test]
fn an_unchanged_page_is_not_written() {
    let mut shard = Shard::new();
    shard
        .execute(
            &book(),
            &["CREATE TABLE t(id INTEGER PRIMARY KEY, v)", "INSERT INTO t VALUES (1, 'x')"].map(Statement::new),
        )
        .unwrap();
    shard.sql(&book(), "UPDATE t SET v = 'x'").unwrap();
    assert_eq!(shard.effects, []);
    shard.execute(&book(), &["UPDATE t SET v = 'y'", "UPDATE t SET v = 'x'"].map(Statement::new)).unwrap();
    assert_eq!(shard.effects, []);
    let executed = shard.execute(&book(), &[Statement::new("UPDATE t SET v = 'y'")]).unwrap();
    assert_eq!((executed.stored.pages, shard.effects.len()), (1, 2), "the page of the row, and the entry");
}

#[test]
fn a_large_databases_insert_writes_few_pages() {
    let mut shard = Shard::new();
    shard.sql(&book(), "CREATE TABLE t(id INTEGER PRIMARY KEY, v)").unwrap();
    for _ in 0..5 {
        shard
            .sql(
                &book(),
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 2000) \
                 INSERT INTO t(v) SELECT hex(randomblob(500)) FROM n",
            )
            .unwrap();
    }
    let pages = shard.query(&book(), "PRAGMA page_count").unwrap().rows;
    assert!(matches!(pages[0][0], Cell::Integer(pages) if pages > 10_000), "{pages:?}");
    let executed = shard.execute(&book(), &[Statement::new("INSERT INTO t(v) VALUES (hex(randomblob(50)))")]).unwrap();
    assert!(executed.stored.bytes < 4096, "{:?}", executed.stored);
}

#[test]
fn more_than_sqlite_keeps_in_memory_is_undone_as_well() {
    let mut shard = Shard::new();
    let many = |table: &str| {
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1500) \
             INSERT INTO {table}(v) SELECT hex(zeroblob(400)) || i FROM n"
        )
    };
    shard
        .execute(&book(), &[Statement::new("CREATE TABLE t(id INTEGER PRIMARY KEY, v)"), Statement::new(many("t"))])
        .unwrap();
    let digest = "SELECT count(*), sum(length(v)), sum(id * length(v)), max(v) FROM t";
    let before = shard.sql(&book(), digest).unwrap().rows;
    // Undone within a request that goes on; the table is scanned again in between, so that pages are read back.
    let statements = [
        "SAVEPOINT s",
        "UPDATE t SET v = v || hex(zeroblob(300))",
        &many("t"),
        "DELETE FROM t WHERE id % 2",
        digest,
        "ROLLBACK TO s",
        digest,
        "PRAGMA integrity_check",
        "CREATE TABLE u(v)",
    ]
    .map(Statement::new);
    let results = shard.execute(&book(), &statements).unwrap().results;
    assert_ne!(results[4].rows, before);
    assert_eq!((&results[6].rows, &results[7].rows), (&before, &vec![vec![text("ok")]]));
    // Undone with a request that fails, on the connection that is kept and on a new one.
    let failing =
        ["UPDATE t SET v = v || hex(zeroblob(300))", &many("t"), "DELETE FROM t WHERE id % 2", "SELECT missing"];
    shard.execute(&book(), &failing.map(Statement::new)).unwrap_err();
    for close in [false, true] {
        if close {
            shard.databases.close_all();
        }
        assert_eq!(shard.sql(&book(), digest).unwrap().rows, before);
        assert_eq!(shard.sql(&book(), "PRAGMA integrity_check").unwrap().rows, [[text("ok")]]);
    }
}

/// A state whose reads of pages fail.
struct Broken<'a>(&'a MemoryView);

impl View for Broken<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        match self.0.get(table, key)? {
            Some(stored) if table == Table::Sql && key[0] == 2 => {
                Err(ViewError(format!("{} bytes out of reach", stored.len())))
            }
            other => Ok(other),
        }
    }

    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), ViewError> {
        self.0.scan(table, start, end, visit)
    }
}

#[test]
fn a_state_that_cannot_be_read_fails_the_request_and_says_so() {
    let mut shard = Shard::new();
    shard.execute(&book(), &["CREATE TABLE t(v)", "INSERT INTO t VALUES (1)"].map(Statement::new)).unwrap();
    shard.databases.close_all();
    let statements = [Statement::new("SELECT v FROM t")];
    let id = book();
    let broken = Broken(&shard.state);
    let failure = shard.databases.query(&broken, 0, Request::new(&id, &statements)).unwrap_err();
    assert_eq!(failure.reason, Reason::Internal);
    assert!(failure.message.contains("bytes out of reach"), "{failure}");
    assert_eq!(shard.databases.statistics().open, 0);
    assert_eq!(shard.query(&book(), "SELECT v FROM t").unwrap().rows, [[Cell::Integer(1)]]);
}

#[test]
fn time_is_the_shards() {
    let mut shard = Shard::new();
    shard.advance_to(1_700_000_000_123);
    let sql = "SELECT datetime('now'), CURRENT_TIMESTAMP, strftime('%s', 'now'), unixepoch('now', 'subsec')";
    let row = shard.sql(&book(), sql).unwrap().rows.remove(0);
    assert_eq!(
        row,
        [text("2023-11-14 22:13:20"), text("2023-11-14 22:13:20"), text("1700000000"), Cell::Real(1_700_000_000.123)]
    );
}

#[test]
fn databases_do_not_see_each_other() {
    let mut shard = Shard::new();
    let ids = [
        DatabaseId::new(0, "u", "d"),
        DatabaseId::new(1, "u", "d"),
        DatabaseId::new(0, &b"u\0"[..], "d"),
        DatabaseId::new(0, &b"\xff"[..], "d"),
        DatabaseId::new(0, "u", "d2"),
    ];
    for (id, n) in ids.iter().zip(0..) {
        let insert = Statement::with_parameters("INSERT INTO t VALUES (?)", [Cell::Integer(n)]);
        shard.execute(id, &[Statement::new("CREATE TABLE t(v)"), insert]).unwrap();
    }
    shard.databases.close_all();
    for (id, n) in ids.iter().zip(0..) {
        assert_eq!(shard.query(id, "SELECT v FROM t").unwrap().rows, [[Cell::Integer(n)]]);
    }
}

#[test]
fn several_requests_of_one_transaction_see_each_other_and_go_together() {
    let mut shard = Shard::new();
    let one = |sql: &str| [Statement::new(sql)];
    shard
        .commit(|databases, transaction| {
            databases.execute(transaction, Request::new(&book(), &one("CREATE TABLE t(v)")))?;
            databases.execute(transaction, Request::new(&book(), &one("INSERT INTO t VALUES (1)")))?;
            let before = transaction.savepoint();
            databases.execute(transaction, Request::new(&book(), &one("INSERT INTO t VALUES (2)")))?;
            databases.execute(transaction, Request::new(&book(), &one("CREATE TABLE u(v)")))?;
            transaction.rollback_to(before);
            let executed = databases.execute(transaction, Request::new(&book(), &one("SELECT v FROM t")))?;
            assert_eq!(executed.results[0].rows, [[Cell::Integer(1)]], "what was undone is gone");
            databases.execute(transaction, Request::new(&book(), &one("INSERT INTO t VALUES (3)")))?;
            assert!(databases.execute(transaction, Request::new(&book(), &one("SELECT * FROM u"))).is_err());
            Ok(())
        })
        .unwrap();
    assert_eq!(shard.query(&book(), "SELECT v FROM t").unwrap().rows, [[Cell::Integer(1)], [Cell::Integer(3)]]);
}
