//! Requests that are parts of something larger: of a procedure's call, of a batch.

use std::time::{Duration, Instant};

use cirrus_engine::Transaction;
use cirrus_proto::Reason;
use cirrus_proto::limits::{Limits, SqlLimits};
use cirrus_sql::{Cell, DatabaseId, Databases, Migration, Request, Schema, Spent, Statement, changed_databases};

use crate::shard::{Shard, book};

/// A shard with a table of one row, 1.
fn shard(limits: SqlLimits) -> Shard {
    let mut shard = Shard::with_limits(limits);
    let statements = ["CREATE TABLE t (x)", "INSERT INTO t VALUES (1)"].map(Statement::new);
    shard.execute(&book(), &statements).unwrap();
    shard
}

fn execute(databases: &mut Databases, transaction: &mut Transaction<'_>, sql: &str) {
    databases.execute(transaction, Request::new(&book(), &[Statement::new(sql)])).unwrap();
}

/// The row, and whether SQLite finds the database sound.
fn row(databases: &mut Databases, transaction: &Transaction<'_>) -> (Cell, Cell) {
    let statements = ["SELECT x FROM t", "PRAGMA integrity_check"].map(Statement::new);
    let mut results = databases.query_within(transaction, Request::new(&book(), &statements)).unwrap();
    let (check, found) = (results.remove(1), results.remove(0));
    (found.rows[0][0].clone(), check.rows[0][0].clone())
}

fn sound(x: i64) -> (Cell, Cell) {
    (Cell::Integer(x), Cell::Text("ok".to_owned()))
}

#[test]
fn a_query_within_a_transaction_sees_its_writes() {
    let mut shard = shard(SqlLimits::DEFAULT);
    shard
        .commit(|databases, transaction| {
            assert_eq!(row(databases, transaction), sound(1));
            for x in 2..5 {
                execute(databases, transaction, &format!("UPDATE t SET x = {x}"));
                assert_eq!(row(databases, transaction), sound(x));
            }
            let writes = [Statement::new("DELETE FROM t")];
            let refused = databases.query_within(transaction, Request::new(&book(), &writes)).unwrap_err();
            assert_eq!(refused.reason, Reason::SqlReadOnly);
            let other = DatabaseId::new(0, "foobar", "other");
            let found = databases.query_within(transaction, Request::new(&other, &[Statement::new("SELECT 1")]));
            assert_eq!(found.unwrap_err().reason, Reason::DatabaseNotFound);
            Ok(())
        })
        .unwrap();
    assert_eq!(shard.query(&book(), "SELECT x FROM t").unwrap().rows, [[Cell::Integer(4)]]);
}

/// The open connection runs ahead of what is stored, again and again, and is never believed.
#[test]
fn what_is_given_up_is_not_seen_again() {
    let mut shard = shard(SqlLimits::DEFAULT);
    for round in 0..10 {
        let mut transaction = Transaction::new(&shard.state, shard.head, &Limits::DEFAULT);
        let begin = transaction.savepoint();
        execute(&mut shard.databases, &mut transaction, "UPDATE t SET x = x + 100");
        let middle = transaction.savepoint();
        execute(&mut shard.databases, &mut transaction, "INSERT INTO t SELECT hex(randomblob(500)) FROM t");
        execute(&mut shard.databases, &mut transaction, "CREATE TABLE u (y)");
        match round % 3 {
            // Dropped with all that it did.
            0 => drop(transaction),
            // In part: what was before the savepoint is there.
            1 => {
                transaction.rollback_to(middle);
                assert_eq!(row(&mut shard.databases, &transaction), sound(101));
            }
            _ => {
                transaction.rollback_to(begin);
                assert_eq!(row(&mut shard.databases, &transaction), sound(1));
            }
        }
        let transaction = Transaction::new(&shard.state, shard.head, &Limits::DEFAULT);
        assert_eq!(row(&mut shard.databases, &transaction), sound(1), "round {round}");
    }
    shard.sql(&book(), "UPDATE t SET x = 2").unwrap();
    assert_eq!(shard.query(&book(), "SELECT * FROM t").unwrap().rows, [[Cell::Integer(2)]]);
    assert_eq!(shard.query(&book(), "SELECT count(*) FROM sqlite_schema").unwrap().rows, [[Cell::Integer(1)]]);
}

#[test]
fn what_was_spent_counts_towards_the_limits() {
    let limits = SqlLimits { reply_rows: 10, reply_bytes: 1000, cpu_ms: 30_000, ..SqlLimits::DEFAULT };
    let mut shard = shard(limits);
    let mut query = |sql: &str, spent: Spent| {
        let mut transaction = Transaction::new(&shard.state, shard.head, &Limits::DEFAULT);
        let statements = [Statement::new(sql)];
        let id = DatabaseId::new(0, "u", "d");
        let request = Request { spent, ..Request::new(&id, &statements) };
        let outcome = shard.databases.execute(&mut transaction, request).map(drop).map_err(|failure| failure.reason);
        (outcome, shard.databases.spent())
    };
    let three = "SELECT 1 UNION SELECT 2 UNION SELECT 3";
    let (outcome, used) = query(three, Spent::default());
    assert_eq!((outcome, used.rows, used.bytes), (Ok(()), 3, 24));
    let mut spent = Spent { rows: 7, bytes: 1000 - 24, ..Spent::default() };
    assert_eq!(query(three, spent).0, Ok(()));
    spent += Spent { bytes: 1, ..Spent::default() };
    assert_eq!(query(three, spent).0, Err(Reason::SqlReplyTooLarge));
    assert_eq!(query(three, Spent { rows: 8, ..Spent::default() }).0, Err(Reason::SqlReplyTooLarge));

    let endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n";
    let nearly_all = Spent { cpu: Duration::from_millis(29_980), ..Spent::default() };
    let began = Instant::now();
    let (outcome, used) = query(endless, nearly_all);
    assert_eq!(outcome, Err(Reason::SqlTimeout));
    assert!(used.cpu >= Duration::from_millis(10), "{used:?}: what failed is counted");
    assert!(began.elapsed() < Duration::from_secs(15));
    // What fails before it runs has used nothing.
    assert_eq!(query("", Spent::default()).1.rows, 0);
}

#[test]
fn an_upgrades_time_is_its_own() {
    let limits = SqlLimits { upgrade_cpu_ms: 30_000, ..SqlLimits::DEFAULT };
    let mut shard = shard(limits);
    let busy = "INSERT INTO t SELECT max(x) FROM (WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 300000) SELECT x FROM n)";
    let migration = Migration { number: 1, sql: busy.to_owned(), on_new: false };
    let schema = Schema::declare(1, "CREATE TABLE t (x)", vec![migration], &limits).unwrap();
    let mut upgrade = |spent: Spent| {
        let mut transaction = Transaction::new(&shard.state, shard.head, &Limits::DEFAULT);
        let statements = [Statement::new("SELECT count(*) FROM t")];
        // Less time than the migration takes.
        let cpu = Some(Duration::from_millis(2));
        let id = book();
        let request = Request { schema: Some(&schema), cpu, spent, ..Request::new(&id, &statements) };
        let outcome = shard.databases.execute(&mut transaction, request);
        (outcome.map(|executed| executed.results[0].rows.clone()), shard.databases.spent())
    };
    let (outcome, used) = upgrade(Spent::default());
    assert_eq!(outcome.unwrap(), [[Cell::Integer(2)]]);
    assert!(used.upgrade > Duration::from_millis(2) && used.cpu < used.upgrade, "{used:?}");
    let nothing_left = Spent { upgrade: Duration::from_millis(30_000), ..Spent::default() };
    let (outcome, used) = upgrade(nothing_left);
    assert_eq!(outcome.unwrap_err().reason, Reason::SchemaUpgradeFailed);
    assert!(used.upgrade < Duration::from_secs(10), "{used:?}");
}

#[test]
fn two_columns_of_one_name_are_refused_where_names_must_differ() {
    let (mut shard, id) = (shard(SqlLimits::DEFAULT), book());
    for (sql, refused) in [
        ("SELECT x, x FROM t", true),
        ("SELECT x, x AS y FROM t", false),
        ("SELECT x, X FROM t", true),
        ("SELECT a.x, b.x FROM t a, t b WHERE 0", true),
        ("INSERT INTO t VALUES (2) RETURNING x, x", true),
        ("INSERT INTO t VALUES (2) RETURNING x", false),
    ] {
        let statements = [Statement::new(sql)];
        let mut transaction = Transaction::new(&shard.state, shard.head, &Limits::DEFAULT);
        let before = transaction.savepoint();
        let request = Request { distinct_columns: true, ..Request::new(&id, &statements) };
        let outcome = shard.databases.execute(&mut transaction, request);
        assert_eq!(outcome.is_err(), refused, "{sql}: {outcome:?}");
        if let Err(failure) = outcome {
            assert_eq!(failure.reason, Reason::SqlInvalid);
            assert!(failure.message.starts_with("two columns are named \"x\""), "{failure}");
            assert!(changed_databases(&transaction, before).is_empty());
        }
        // Otherwise they are told apart by their places.
        shard
            .databases
            .query_within(&transaction, Request::new(&book(), &[Statement::new("SELECT x, x FROM t")]))
            .unwrap();
    }
    // A kept statement is compiled anew where the schema has changed.
    let all = [Statement::new("SELECT * FROM t, u")];
    let distinct = |all| Request { distinct_columns: true, ..Request::new(&id, all) };
    shard.sql(&book(), "CREATE TABLE u (y)").unwrap();
    shard.commit(|databases, transaction| databases.execute(transaction, distinct(&all)).map(drop)).unwrap();
    shard.sql(&book(), "ALTER TABLE u ADD COLUMN x").unwrap();
    let refused = shard.commit(|databases, transaction| databases.execute(transaction, distinct(&all)).map(drop));
    assert_eq!(refused.unwrap_err().reason, Reason::SqlInvalid);
}
