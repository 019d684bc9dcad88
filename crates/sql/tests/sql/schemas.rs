//! Schemas for all databases of a dbname.

use cirrus_proto::limits::SqlLimits;
use cirrus_proto::{Failure, Reason};
use cirrus_sql::{Cell, DatabaseId, Executed, ListFilter, Migration, Request, Schema, Statement, list};

use crate::shard::{Shard, book, text};

const LIMITS: SqlLimits = SqlLimits::DEFAULT;

fn schema(version: u64, ddl: &str, migrations: &[(u64, &str)]) -> Schema {
    let migration = |(number, sql): &(u64, &str)| Migration { number: *number, sql: (*sql).to_owned(), on_new: false };
    Schema::declare(version, ddl, migrations.iter().map(migration).collect(), &LIMITS).unwrap()
}

fn execute(shard: &mut Shard, schema: &Schema, sql: &str) -> Result<Executed, Failure> {
    let statements = [Statement::new(sql)];
    shard.commit(|databases, transaction| {
        databases.execute(transaction, Request { schema: Some(schema), ..Request::new(&book(), &statements) })
    })
}

fn rows(shard: &mut Shard, schema: &Schema, sql: &str) -> Vec<Vec<Cell>> {
    let statements = [Statement::new(sql)];
    let request = book();
    let request = Request { schema: Some(schema), ..Request::new(&request, &statements) };
    shard.databases.query(&shard.state, 0, request).unwrap().remove(0).rows
}

const BOOK_1: &str = "CREATE TABLE addrbook(id INTEGER PRIMARY KEY, addr varchar(64));";
const BOOK_2: &str = "CREATE TABLE addrgroup(gid INTEGER PRIMARY KEY, name TEXT DEFAULT 'none' NOT NULL);
    CREATE TABLE addrbook(id INTEGER PRIMARY KEY, addr varchar(64), gid int REFERENCES addrgroup, -- the group
        freq INT NOT NULL DEFAULT 0 CHECK (freq >= 0));
    CREATE UNIQUE INDEX by_addr ON addrbook(addr);
    CREATE VIEW often AS SELECT addr FROM addrbook WHERE freq > 10;";

#[test]
fn a_database_has_its_schema_from_its_first_request_on() {
    let mut shard = Shard::new();
    let first = schema(3, BOOK_1, &[]);
    assert_eq!(rows(&mut shard, &first, "SELECT * FROM addrbook"), [[]; 0], "a query sees it and stores nothing");
    assert_eq!(shard.stored_keys(), 0);
    let executed = execute(&mut shard, &first, "INSERT INTO addrbook(addr) VALUES ('a@x')").unwrap();
    assert!(executed.upgraded && executed.stored.created);
    let executed = execute(&mut shard, &first, "INSERT INTO addrbook(addr) VALUES ('b@x')").unwrap();
    assert!(!executed.upgraded);
    assert_eq!(shard.databases.describe(&shard.state, &book()).unwrap().info.schema_version, 3);
}

#[test]
fn what_was_opened_written_and_upgraded_is_counted() {
    let mut shard = Shard::new();
    let first = schema(1, BOOK_1, &[]);
    let created = execute(&mut shard, &first, "INSERT INTO addrbook(addr) VALUES ('a@x'), ('a@x')").unwrap().stored;
    let inserted = execute(&mut shard, &first, "INSERT INTO addrbook(addr) VALUES ('b@x')").unwrap().stored;
    let counted = shard.databases.statistics();
    assert_eq!((counted.opened, counted.found_open, counted.open), (1, 1, 1));
    assert_eq!(counted.pages_written, (created.pages + inserted.pages) as u64);
    assert!(counted.pages_written > 0 && counted.open_bytes > 10_000, "{counted:?}");
    assert_eq!((counted.upgrades, counted.failed_upgrades), (1, 0));

    // A statement that fails leaves the connection; an upgrade that fails, as a query's, takes it along.
    execute(&mut shard, &first, "INSERT INTO nowhere VALUES (1)").unwrap_err();
    execute(&mut shard, &schema(2, BOOK_2, &[]), "SELECT 1").unwrap_err();
    let counted = shard.databases.statistics();
    assert_eq!((counted.opened, counted.found_open, counted.open), (1, 3, 0));
    assert_eq!((counted.upgrades, counted.failed_upgrades), (1, 1));
    // A query makes an upgrade and forgets it.
    rows(&mut shard, &schema(2, &BOOK_2.replace("UNIQUE INDEX", "INDEX"), &[]), "SELECT * FROM often");
    assert_eq!(shard.databases.statistics().upgrades, 1);
}

#[test]
fn a_later_version_adds_what_is_missing_and_drops_nothing() {
    let mut shard = Shard::new();
    execute(&mut shard, &schema(1, BOOK_1, &[]), "INSERT INTO addrbook(addr) VALUES ('a@x')").unwrap();
    shard.sql(&book(), "CREATE TABLE own(v)").unwrap();
    let second = schema(2, BOOK_2, &[]);
    second.check_upgrade_from(&schema(1, BOOK_1, &[]), &LIMITS).unwrap();
    assert_eq!(
        rows(&mut shard, &second, "SELECT * FROM addrbook"),
        [[Cell::Integer(1), text("a@x"), Cell::Null, Cell::Integer(0)]]
    );
    assert_eq!(
        shard.sql(&book(), "SELECT * FROM addrbook").unwrap().columns.len(),
        2,
        "a query's upgrade is not stored"
    );

    let executed = execute(&mut shard, &second, "INSERT INTO addrbook(addr, freq) VALUES ('b@x', 11)").unwrap();
    assert!(executed.upgraded);
    assert_eq!(shard.sql(&book(), "SELECT * FROM often").unwrap().rows, [[text("b@x")]]);
    assert_eq!(shard.sql(&book(), "SELECT * FROM own").unwrap().rows.len(), 0);
    let failure = shard.sql(&book(), "INSERT INTO addrbook(addr, freq) VALUES ('c@x', -1)").unwrap_err();
    assert_eq!(failure.message, "CHECK constraint failed: freq >= 0", "a column comes with its constraints");
    let failure = shard.sql(&book(), "INSERT INTO addrbook(addr) VALUES ('b@x')").unwrap_err();
    assert_eq!(failure.message, "UNIQUE constraint failed: addrbook.addr");

    // An earlier version than it has is none of its business.
    assert!(!execute(&mut shard, &schema(1, BOOK_1, &[]), "SELECT 1").unwrap().upgraded);
    // Neither is a column that the DDL no longer has, or has with another type.
    let third = schema(3, "CREATE TABLE ADDRBOOK(id INTEGER PRIMARY KEY, addr blob)", &[]);
    assert!(execute(&mut shard, &third, "SELECT 1").unwrap().upgraded);
    let columns = shard.sql(&book(), "SELECT * FROM addrbook").unwrap().columns;
    assert_eq!((columns.len(), columns[1].declared_type.as_deref()), (4, Some("varchar(64)")));
}

#[test]
fn migrations_run_once_in_order_before_indexes_and_triggers() {
    let mut shard = Shard::new();
    let first = schema(1, BOOK_1, &[]);
    for addr in ["a@x", "b@x", "a@x"] {
        execute(&mut shard, &first, &format!("INSERT INTO addrbook(addr) VALUES ('{addr}')")).unwrap();
    }
    let dedupe = "DELETE FROM addrbook WHERE id NOT IN (SELECT min(id) FROM addrbook GROUP BY addr)";
    let ddl = format!(
        "{BOOK_2} CREATE TABLE log(what); CREATE TRIGGER t AFTER UPDATE ON addrbook BEGIN INSERT INTO log VALUES ('no'); END"
    );
    let count = "UPDATE addrbook SET freq = freq + 1; INSERT INTO log VALUES ('seven'), ('7')";
    let second = schema(2, &ddl, &[(1, dedupe), (7, count)]);
    execute(&mut shard, &second, "SELECT 1").unwrap();
    assert_eq!(shard.sql(&book(), "SELECT addr, freq FROM addrbook").unwrap().rows.len(), 2);
    assert_eq!(shard.sql(&book(), "SELECT what FROM log").unwrap().rows, [[text("seven")], [text("7")]]);

    let third = schema(3, &ddl, &[(1, dedupe), (7, count), (8, "INSERT INTO log VALUES ('eight')")]);
    execute(&mut shard, &third, "SELECT 1").unwrap();
    assert_eq!(shard.sql(&book(), "SELECT what FROM log").unwrap().rows.len(), 3, "only the one that is new");

    // A new database is what migrations lead to.
    let other = DatabaseId::new(1, "new", "addrbook");
    let statements = [Statement::new("SELECT count(*) FROM log")];
    let executed = shard.commit(|databases, transaction| {
        databases.execute(transaction, Request { schema: Some(&third), ..Request::new(&other, &statements) })
    });
    assert_eq!(executed.unwrap().results[0].rows, [[Cell::Integer(0)]]);
    // But for rows that every database begins with.
    let seed = Migration { number: 1, sql: "INSERT INTO kinds VALUES ('home'), ('work')".to_owned(), on_new: true };
    let seeded = Schema::declare(1, "CREATE TABLE kinds(name)", vec![seed], &LIMITS).unwrap();
    let id = DatabaseId::new(2, "new", "kinds");
    let statements = [Statement::new("SELECT count(*) FROM kinds")];
    let executed = shard.commit(|databases, transaction| {
        databases.execute(transaction, Request { schema: Some(&seeded), ..Request::new(&id, &statements) })
    });
    assert_eq!(executed.unwrap().results[0].rows, [[Cell::Integer(2)]]);
}

#[test]
fn a_failed_upgrade_fails_the_request_and_leaves_the_database_as_it_was() {
    let mut shard = Shard::new();
    shard.advance_to(5000);
    let first = schema(1, BOOK_1, &[]);
    for _ in 0..2 {
        execute(&mut shard, &first, "INSERT INTO addrbook(addr) VALUES ('twice')").unwrap();
    }
    let keys = shard.stored_keys();
    for (second, step, message) in [
        (schema(2, BOOK_2, &[]), "index by_addr", "UNIQUE constraint failed: addrbook.addr"),
        (
            schema(2, BOOK_1, &[(1, "UPDATE addrbook SET addr = 'x'; UPDATE missing SET x = 1")]),
            "migration 1",
            "no such table: missing",
        ),
        (
            schema(2, BOOK_1, &[(1, "UPDATE addrbook SET addr = 'x'"), (2, "COMMIT")]),
            "migration 2",
            "COMMIT is refused",
        ),
        (schema(2, BOOK_1, &[(1, "ATTACH ':memory:' AS x")]), "migration 1", "ATTACH and VACUUM INTO are refused"),
        (
            schema(2, "CREATE TABLE addrbook(id INTEGER PRIMARY KEY, addr, u UNIQUE)", &[]),
            "column addrbook.u",
            "Cannot add a UNIQUE column",
        ),
        (
            schema(2, "CREATE TABLE addrbook(id INTEGER PRIMARY KEY, addr, n NOT NULL)", &[]),
            "column addrbook.n",
            "Cannot add a NOT NULL column with default value NULL",
        ),
    ] {
        for _ in 0..2 {
            let failure = execute(&mut shard, &second, "DELETE FROM addrbook").unwrap_err();
            assert_eq!(failure.reason, Reason::SchemaUpgradeFailed, "{failure}");
            assert_eq!((&failure.metadata["step"][..], &failure.metadata["schema_version"][..]), (step, "2"));
            assert!(failure.message.starts_with(&format!("{step} of schema version 2 failed: ")), "{failure}");
            assert!(failure.message.contains(message), "{failure}");
            assert_eq!(shard.stored_keys(), keys);
            let left = shard.sql(&book(), "SELECT DISTINCT addr FROM addrbook").unwrap();
            assert_eq!((left.columns.len(), left.rows), (1, vec![vec![text("twice")]]));
            assert!(execute(&mut shard, &first, "SELECT 1").is_ok(), "the version that it has still works");
        }
    }
    // Whoever evaluates notes it, so that it can be counted.
    let second = schema(2, BOOK_2, &[]);
    let failure = execute(&mut shard, &second, "SELECT 1").unwrap_err();
    shard.commit(|databases, transaction| databases.record_upgrade_failure(transaction, &book(), &failure)).unwrap();
    let page = list(&shard.state, &ListFilter::default(), None, 10, &LIMITS).unwrap();
    let noted = page.databases[0].upgrade_failure.clone().unwrap();
    assert_eq!((noted.schema_version, &noted.step[..], noted.failed_at_ms), (2, "index by_addr", 5000));
    assert_eq!(page.databases[0].schema_version, 1);
    let dedupe = "DELETE FROM addrbook WHERE id NOT IN (SELECT min(id) FROM addrbook GROUP BY addr)";
    let third = schema(3, BOOK_2, &[(1, dedupe)]);
    assert!(shard.commit(|databases, transaction| databases.upgrade(transaction, &book(), &third)).unwrap());
    assert!(!shard.commit(|databases, transaction| databases.upgrade(transaction, &book(), &third)).unwrap());
    let info = shard.databases.describe(&shard.state, &book()).unwrap().info;
    assert_eq!((info.schema_version, info.upgrade_failure), (3, None));
}

#[test]
fn an_upgrade_goes_with_its_request() {
    let mut shard = Shard::new();
    execute(&mut shard, &schema(1, BOOK_1, &[]), "INSERT INTO addrbook(addr) VALUES ('a@x')").unwrap();
    let second = schema(2, BOOK_2, &[]);
    let failure = execute(&mut shard, &second, "INSERT INTO addrbook(addr) VALUES ('a@x')").unwrap_err();
    assert_eq!(failure.reason, Reason::SqlConstraint);
    assert_eq!(shard.sql(&book(), "SELECT * FROM addrbook").unwrap().columns.len(), 2, "undone with the request");
    // Foreign keys that the request switches on are none of the upgrade's business.
    let statements =
        ["PRAGMA foreign_keys = ON", "INSERT INTO addrbook(addr, gid) VALUES ('b@x', 77)"].map(Statement::new);
    let failure = shard
        .commit(|databases, transaction| {
            databases.execute(transaction, Request { schema: Some(&second), ..Request::new(&book(), &statements) })
        })
        .unwrap_err();
    assert_eq!(failure.message, "statements[1]: FOREIGN KEY constraint failed");
}

#[test]
fn a_schema_is_checked_when_it_is_declared() {
    let declare = |ddl: &str, migrations: Vec<Migration>| Schema::declare(1, ddl, migrations, &LIMITS).unwrap_err();
    for (ddl, message) in [
        ("CREATE TABLE t(", "incomplete input"),
        ("CREATE TABLE t(a); CREATE TABLE t(b)", "table t already exists"),
        ("CREATE INDEX i ON missing(a)", "no such table: main.missing"),
        ("CREATE TABLE t(a); DROP TABLE t", "DROP is refused in a schema's DDL"),
        ("CREATE TEMP TABLE t(a)", "CREATE TEMP is refused in a schema's DDL"),
        ("PRAGMA user_version = 1", "PRAGMA is refused in a schema's DDL"),
        ("CREATE TABLE t(a); ALTER TABLE t ADD COLUMN b", "ALTER is refused in a schema's DDL"),
        ("ATTACH 'x' AS y", "ATTACH and VACUUM INTO are refused: a request has one database"),
        (" -- a comment\n SELECT 1", "SELECT is refused in a schema's DDL"),
        ("CREATE TABLE t(a); INSERT INTO t VALUES (1)", "INSERT is refused in a schema's DDL"),
        ("CREATE TABLE t(a); UPDATE t SET a = 1", "UPDATE is refused in a schema's DDL"),
        ("CREATE TABLE t(a); DELETE FROM t", "DELETE is refused in a schema's DDL"),
        ("SELECT 1", "SELECT is refused in a schema's DDL"),
        ("BEGIN", "BEGIN is refused"),
    ] {
        let failure = declare(ddl, vec![]);
        assert_eq!(failure.reason, Reason::SchemaInvalid, "{ddl}: {failure}");
        assert_eq!(failure.metadata["step"], "ddl");
        assert!(failure.message.contains(message), "{ddl}: {failure}");
    }
    let migration = |number: u64, sql: &str, on_new: bool| Migration { number, sql: sql.to_owned(), on_new };
    let failure = declare(BOOK_1, vec![migration(2, "", false), migration(2, "", false)]);
    assert_eq!(failure.message, "migrations: number 2 does not follow 2");
    let failure = declare(BOOK_1, vec![migration(4, "INSERT INTO missing VALUES (1)", true)]);
    assert_eq!(failure.message, "migration 4: no such table: missing");
    assert!(Schema::declare(0, BOOK_1, vec![], &LIMITS).is_err());

    let allowed = "CREATE TABLE a(x INTEGER PRIMARY KEY AUTOINCREMENT, y UNIQUE, z AS (x + 1) STORED);
        CREATE TABLE b AS SELECT 1 AS one; CREATE TABLE c(p, q, PRIMARY KEY (p, q)) WITHOUT ROWID, STRICT;";
    assert!(Schema::declare(1, allowed, vec![], &LIMITS).is_err(), "a STRICT table's columns have types");
    let allowed = "CREATE TABLE IF NOT EXISTS a(x INTEGER PRIMARY KEY AUTOINCREMENT, y UNIQUE, z AS (x + 1) STORED);
        CREATE TABLE c(p INT, q TEXT, PRIMARY KEY (p, q)) WITHOUT ROWID, STRICT;
        CREATE VIRTUAL TABLE words USING fts5(body); CREATE VIEW v AS WITH w AS (SELECT x FROM a) SELECT * FROM w;
        CREATE TRIGGER t AFTER INSERT ON a BEGIN INSERT INTO words VALUES (new.y); DELETE FROM c; END;
        CREATE INDEX i ON a(lower(y)) WHERE y NOT NULL;";
    let declared = Schema::declare(1, allowed, vec![], &LIMITS).unwrap();
    assert_eq!(declared.tables().collect::<Vec<_>>(), ["a", "c", "words"]);
    let mut shard = Shard::new();
    execute(&mut shard, &declared, "INSERT INTO a(y) VALUES ('quick fox')").unwrap();
    assert_eq!(
        shard.sql(&book(), "SELECT body FROM words WHERE words MATCH 'fox'").unwrap().rows,
        [[text("quick fox")]]
    );
}

#[test]
fn the_way_from_the_version_before_is_tried() {
    let first = schema(1, BOOK_1, &[]);
    let failure = schema(2, "CREATE TABLE addrbook(id INTEGER PRIMARY KEY, addr, n NOT NULL)", &[])
        .check_upgrade_from(&first, &LIMITS)
        .unwrap_err();
    assert_eq!(failure.reason, Reason::SchemaInvalid);
    assert_eq!(failure.metadata["step"], "column addrbook.n");
    let failure =
        schema(2, BOOK_1, &[(1, "UPDATE missing SET x = 1")]).check_upgrade_from(&first, &LIMITS).unwrap_err();
    assert_eq!(failure.metadata["step"], "migration 1");
}
