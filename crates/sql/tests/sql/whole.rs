//! Databases as a whole: listed, described, removed, exported, imported.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use cirrus_engine::Transaction;
use cirrus_proto::Reason;
use cirrus_proto::limits::{Limits, SqlLimits};
use cirrus_sql::{Cell, DatabaseId, Import, ListFilter, Removal, Request, Statement, export, list};
use rusqlite::Connection;

use crate::shard::{Shard, book, text};

fn exported(shard: &Shard, id: &DatabaseId) -> Vec<u8> {
    let mut file = Vec::new();
    export(&shard.state, id, &SqlLimits::DEFAULT, &mut |page| {
        file.extend_from_slice(page);
        ControlFlow::Continue(())
    })
    .unwrap();
    file
}

/// Opens a file with plain SQLite, as the shell would.
fn opened(file: &[u8]) -> (tempfile::TempDir, Connection) {
    // Before plain SQLite is used in the process.
    cirrus_sql::initialize().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("exported.db");
    std::fs::write(&path, file).unwrap();
    (folder, Connection::open(path).unwrap())
}

fn strings(connection: &Connection, sql: &str) -> Vec<String> {
    connection.prepare(sql).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// A file that plain SQLite made.
fn made(sql: &str) -> Vec<u8> {
    let (folder, connection) = opened(b"");
    connection.execute_batch(sql).unwrap();
    connection.close().unwrap();
    std::fs::read(folder.path().join("exported.db")).unwrap()
}

fn imported(shard: &mut Shard, id: &DatabaseId, file: &[u8], part_bytes: usize) {
    let import = Import::prepare(file, shard.databases.limits()).unwrap();
    for part in import.parts(part_bytes) {
        shard.commit(|databases, transaction| databases.import(transaction, id, &part)).unwrap();
    }
}

fn removed(shard: &mut Shard, id: &DatabaseId) -> Removal {
    shard.commit(|databases, transaction| databases.remove(transaction, id)).unwrap()
}

#[test]
fn databases_are_listed_by_what_they_are_of_and_in_pages() {
    let mut shard = Shard::new();
    shard.advance_to(1000);
    let mut ids = BTreeSet::new();
    for dbfile in [0, 7] {
        for user in ["ann", "anna", "bob"] {
            for dbname in ["addrbook", "notes"] {
                let id = DatabaseId::new(dbfile, user, dbname);
                shard.sql(&id, "CREATE TABLE t(v)").unwrap();
                ids.insert(id);
            }
        }
    }
    let listed = |filter: &ListFilter, count_max: usize| {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = list(&shard.state, filter, after.as_ref(), count_max, &SqlLimits::DEFAULT).unwrap();
            assert!(page.databases.len() <= count_max);
            found.extend(page.databases.into_iter().map(|info| info.id));
            match page.next {
                Some(next) => after = Some(next),
                None => return found,
            }
        }
    };
    for count_max in [1, 2, 5, 100] {
        assert_eq!(listed(&ListFilter::default(), count_max), ids.iter().cloned().collect::<Vec<_>>());
    }
    let filter = ListFilter { dbfile: Some(7), user_prefix: "ann".into(), dbname: None };
    let expected: Vec<_> = ids.iter().filter(|id| id.dbfile == 7 && id.user.starts_with(b"ann")).cloned().collect();
    assert_eq!((listed(&filter, 3), expected.len()), (expected, 4));
    let filter = ListFilter { dbfile: None, user_prefix: "bob".into(), dbname: Some("notes".to_owned()) };
    assert_eq!(listed(&filter, 1), [DatabaseId::new(0, "bob", "notes"), DatabaseId::new(7, "bob", "notes")]);

    let page = list(&shard.state, &filter, None, 1, &SqlLimits::DEFAULT).unwrap();
    let info = &page.databases[0];
    assert_eq!((info.bytes, info.created_at_ms, info.changed_at_ms, info.busy), (2048, 1000, 1000, false));
    assert!(info.stored_bytes < 300, "{info:?}");
}

#[test]
fn a_description_tells_size_and_schema() {
    let mut shard = Shard::new();
    shard.advance_to(1000);
    let script =
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE); CREATE VIEW w AS SELECT v FROM t; CREATE INDEX i ON t(v);";
    shard.execute(&book(), &[Statement::script(script)]).unwrap();
    shard.advance_to(2000);
    shard.sql(&book(), "INSERT INTO t(v) VALUES (zeroblob(10000))").unwrap();
    let described = shard.databases.describe(&shard.state, &book()).unwrap();
    assert_eq!((described.info.created_at_ms, described.info.changed_at_ms), (1000, 2000));
    let Cell::Integer(pages) = shard.query(&book(), "PRAGMA page_count").unwrap().rows[0][0] else { panic!() };
    assert_eq!(described.info.bytes, pages as u64 * 1024);
    let objects: Vec<_> = described.objects.iter().map(|object| (&object.kind[..], &object.name[..])).collect();
    assert_eq!(objects, [("table", "t"), ("index", "sqlite_autoindex_t_1"), ("view", "w"), ("index", "i")]);
    assert_eq!((&described.objects[3].table[..], &described.objects[3].sql[..]), ("t", "CREATE INDEX i ON t(v)"));
    let missing = DatabaseId::new(0, "nobody", "addrbook");
    let failure = shard.databases.describe(&shard.state, &missing).unwrap_err();
    assert_eq!(failure.message, "there is no database \"addrbook\" of user \"nobody\" in dbfile 0");
}

#[test]
fn a_removed_database_is_gone_and_begins_anew() {
    let mut shard = Shard::new();
    shard.execute(&book(), &["CREATE TABLE t(v)", "INSERT INTO t VALUES (1)"].map(Statement::new)).unwrap();
    let other = DatabaseId::new(0, "foobar", "addrbook2");
    shard.sql(&other, "CREATE TABLE t(v)").unwrap();
    let keys = shard.stored_keys();
    assert_eq!(removed(&mut shard, &book()), Removal::Done);
    assert_eq!(shard.stored_keys(), keys - 3);
    let failure = shard.commit(|databases, transaction| databases.remove(transaction, &book())).unwrap_err();
    assert_eq!(failure.reason, Reason::DatabaseNotFound);
    assert_eq!(shard.query(&book(), "SELECT 1").unwrap_err().reason, Reason::DatabaseNotFound);
    assert_eq!(shard.sql(&book(), "SELECT * FROM t").unwrap_err().message, "no such table: t");
    shard.sql(&book(), "CREATE TABLE t(a, b)").unwrap();
    assert_eq!(shard.query(&book(), "SELECT * FROM t").unwrap().columns.len(), 2);

    // A removal that is given up leaves it, and what was open does not think it gone.
    let mut transaction = Transaction::new(&shard.state, shard.head, &Limits::DEFAULT);
    shard.databases.remove(&mut transaction, &other).unwrap();
    drop(transaction);
    assert_eq!(shard.sql(&other, "SELECT * FROM t").unwrap().rows.len(), 0);
}

#[test]
fn a_database_too_large_for_one_write_set_is_removed_in_steps() {
    let mut shard = Shard::new();
    let id = DatabaseId::new(0, "u".repeat(256), "d".repeat(64));
    let file = made(
        "PRAGMA page_size = 1024; CREATE TABLE t(v); \
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000) INSERT INTO t SELECT randomblob(1000) FROM n",
    );
    imported(&mut shard, &id, &file, 2 * 1024 * 1024);
    let other = book();
    shard.sql(&other, "CREATE TABLE t(v)").unwrap();
    let mut steps = 1;
    while removed(&mut shard, &id) == Removal::More {
        steps += 1;
        assert_eq!(shard.sql(&id, "SELECT 1").unwrap_err().reason, Reason::DatabaseBusy);
        let page = list(&shard.state, &ListFilter::default(), None, 10, &SqlLimits::DEFAULT).unwrap();
        assert!(page.databases.iter().any(|info| info.id == id && info.busy));
    }
    assert!(steps > 1, "{steps}");
    assert_eq!(shard.stored_keys(), 3, "only the other database's");
}

#[test]
fn an_export_is_a_file_that_sqlite_opens() {
    let mut shard = Shard::new();
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 500) INSERT INTO t SELECT i, hex(i) FROM n";
    for sql in
        ["CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE INDEX i ON t(v)", fill, "DELETE FROM t WHERE id % 3 = 0"]
    {
        shard.execute(&book(), &[Statement::script(sql)]).unwrap();
    }
    let file = exported(&shard, &book());
    let (_folder, connection) = opened(&file);
    assert_eq!(strings(&connection, "PRAGMA integrity_check"), ["ok"]);
    assert_eq!(strings(&connection, "SELECT CAST(count(*) AS TEXT) FROM t"), ["334"]);
    connection.execute_batch("INSERT INTO t VALUES (3, 'back'); VACUUM").unwrap();
    assert_eq!(strings(&connection, "PRAGMA integrity_check"), ["ok"]);
    let missing = DatabaseId::new(9, "x", "y");
    let failure = export(&shard.state, &missing, &SqlLimits::DEFAULT, &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert_eq!(failure.reason, Reason::DatabaseNotFound);
}

#[test]
fn the_shell_reads_an_export() {
    let Ok(version) = std::process::Command::new("sqlite3").arg("-version").output() else {
        eprintln!("skipped: there is no sqlite3 here");
        return;
    };
    assert!(version.status.success());
    let mut shard = Shard::new();
    let script =
        "CREATE TABLE addrbook(id INTEGER PRIMARY KEY, addr); INSERT INTO addrbook(addr) VALUES ('a@x'), ('b@x')";
    shard.execute(&book(), &[Statement::script(script)]).unwrap();
    let (folder, _) = opened(&exported(&shard, &book()));
    let answer = std::process::Command::new("sqlite3")
        .arg(folder.path().join("exported.db"))
        .arg("PRAGMA integrity_check; SELECT * FROM addrbook;")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "ok\n1|a@x\n2|b@x\n");
}

#[test]
fn files_of_every_kind_are_imported() {
    let content = "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, v UNIQUE); INSERT INTO t(v) VALUES ('one'), ('two'), (zeroblob(5000)); \
         DELETE FROM t WHERE v = 'two'; CREATE VIEW w AS SELECT v FROM t; CREATE INDEX i ON t(v, id); \
         CREATE TRIGGER tr AFTER INSERT ON t BEGIN DELETE FROM t WHERE id = new.id AND v = 'never'; END; \
         CREATE TABLE k(a, b, PRIMARY KEY (a, b)) WITHOUT ROWID; INSERT INTO k VALUES (1, 2), (3, 4); \
         CREATE VIRTUAL TABLE words USING fts5(body); INSERT INTO words VALUES ('quick fox'); ANALYZE; PRAGMA user_version = 42";
    for (n, before) in [
        "PRAGMA page_size = 1024",
        "PRAGMA page_size = 512",
        "PRAGMA page_size = 4096",
        "PRAGMA page_size = 65536",
        "PRAGMA encoding = 'UTF-16le'",
        "PRAGMA auto_vacuum = FULL",
        "PRAGMA journal_mode = WAL",
    ]
    .iter()
    .enumerate()
    {
        let file = made(&format!("{before}; {content}; PRAGMA wal_checkpoint(TRUNCATE)"));
        let mut shard = Shard::new();
        let id = DatabaseId::new(n as u32, "u", "d");
        imported(&mut shard, &id, &file, 3000);
        let mut ask = |sql: &str| shard.query(&id, sql).unwrap().rows;
        assert_eq!(ask("PRAGMA integrity_check"), [[text("ok")]], "{before}");
        assert_eq!(ask("PRAGMA page_size"), [[Cell::Integer(1024)]], "{before}");
        assert_eq!(ask("PRAGMA user_version"), [[Cell::Integer(42)]], "{before}");
        assert_eq!(ask("SELECT id, v FROM t WHERE id < 3"), [[Cell::Integer(1), text("one")]], "{before}");
        assert_eq!(ask("SELECT length(v) FROM t WHERE id = 3"), [[Cell::Integer(5000)]], "{before}");
        assert_eq!(ask("SELECT count(*) FROM k").len() + ask("SELECT count(*) FROM w").len(), 2, "{before}");
        assert_eq!(ask("SELECT body FROM words WHERE words MATCH 'fox'"), [[text("quick fox")]], "{before}");
        shard.sql(&id, "INSERT INTO t(v) VALUES ('four')").unwrap();
        assert_eq!(shard.query(&id, "SELECT max(id) FROM t").unwrap().rows, [[Cell::Integer(4)]], "{before}");
        let (_folder, connection) = opened(&exported(&shard, &id));
        assert_eq!(strings(&connection, "PRAGMA integrity_check"), ["ok"], "{before}");
    }
}

#[test]
fn what_is_no_sound_database_is_not_imported() {
    let limits = SqlLimits { database_bytes: 256 * 1024, ..SqlLimits::DEFAULT };
    let good =
        made("CREATE TABLE t(v); INSERT INTO t VALUES (zeroblob(9000)), (randomblob(9000)); CREATE INDEX i ON t(v)");
    let refused = |file: &[u8]| Import::prepare(file, &limits).unwrap_err();
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    for (file, message) in [
        (vec![], "the file does not begin as a SQLite database does"),
        (b"SQLite format 3\0".to_vec(), "the file does not begin as a SQLite database does"),
        (vec![0; 4096], "the file does not begin as a SQLite database does"),
        (b"id,name\n1,x\n".repeat(100), "the file does not begin as a SQLite database does"),
        (with(16, &[0, 100]), "the file's header gives an impossible size of pages"),
        (good[..good.len() - 1].to_vec(), "which are not whole pages"),
        (with(18, &[9]), ""),
        (with(good.len() - 4096, &[0xff; 4096]), ""),
        (with(4096, &[0; 4096]), ""),
        (with(100, &[0xff; 50]), ""),
        (good[..4096].to_vec(), ""),
    ] {
        // A version of the file format that SQLite does not know is the one thing that is put right.
        if let Err(failure) = Import::prepare(&file, &limits) {
            assert_eq!(failure.reason, Reason::DatabaseInvalid, "{failure}");
            assert!(failure.message.contains(message), "{failure}");
        } else {
            assert_eq!(file, with(18, &[9]));
        }
    }
    let large = made("CREATE TABLE t(v); INSERT INTO t VALUES (zeroblob(300000))");
    assert_eq!(refused(&large).reason, Reason::DatabaseTooLarge);
    let long = Import::prepare(&large, &SqlLimits { value_bytes: 100_000, ..SqlLimits::DEFAULT }).unwrap_err();
    assert_eq!(long.reason, Reason::SqlTooLarge, "{long}");
}

#[test]
fn broken_files_never_panic_or_get_in_unnoticed() {
    let good = made(
        "PRAGMA page_size = 512; CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE INDEX i ON t(v); \
         CREATE VIRTUAL TABLE words USING fts5(body); INSERT INTO words VALUES ('quick fox'); \
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100) INSERT INTO t SELECT i, hex(i) FROM n",
    );
    let mut accepted = 0;
    // The same every time: a multiplicative sequence picks what is broken.
    let mut random = 12345u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 33) as usize % below
    };
    for _ in 0..300 {
        let mut file = good.clone();
        for _ in 0..=next(3) {
            let at = next(file.len());
            file[at] = next(256) as u8;
        }
        let Ok(import) = Import::prepare(&file, &SqlLimits::DEFAULT) else { continue };
        accepted += 1;
        let mut shard = Shard::new();
        for part in import.parts(1 << 20) {
            shard.commit(|databases, transaction| databases.import(transaction, &book(), &part)).unwrap();
        }
        assert_eq!(shard.query(&book(), "PRAGMA integrity_check").unwrap().rows, [[text("ok")]]);
        for sql in [
            "SELECT * FROM t ORDER BY v",
            "SELECT * FROM words WHERE words MATCH 'fox'",
            "DELETE FROM t",
            "DROP TABLE words",
        ] {
            if let Err(failure) = shard.sql(&book(), sql) {
                assert_ne!(failure.reason, Reason::Internal, "{sql}: {failure}");
            }
        }
    }
    assert!(accepted > 10, "{accepted}: most bytes are data");
}

#[test]
fn an_import_replaces_nothing_and_goes_in_order() {
    let mut shard = Shard::new();
    let file = made("CREATE TABLE t(v); INSERT INTO t VALUES (randomblob(9000))");
    let import = Import::prepare(&file, &SqlLimits::DEFAULT).unwrap();
    let parts: Vec<_> = import.parts(4096).collect();
    assert!(parts.len() > 2);
    let another = Import::prepare(&file, &SqlLimits::DEFAULT).unwrap();
    let mut store = |part: &cirrus_sql::ImportPart| {
        shard
            .commit(|databases, transaction| databases.import(transaction, &book(), part))
            .map_err(|failure| failure.reason)
    };
    assert_eq!(store(&parts[1]), Err(Reason::InvalidField));
    assert_eq!(store(&parts[0]), Ok(()));
    assert_eq!(store(&parts[0]), Err(Reason::InvalidField));
    assert_eq!(store(&another.parts(4096).next().unwrap()), Err(Reason::DatabaseBusy));
    assert_eq!(
        store(&cirrus_sql::ImportPart { pages: parts[1].pages.slice(1..), ..parts[1].clone() }),
        Err(Reason::InvalidField)
    );
    assert_eq!(shard.sql(&book(), "SELECT 1").unwrap_err().reason, Reason::DatabaseBusy);
    // One that was begun and is not continued is removed.
    assert_eq!(removed(&mut shard, &book()), Removal::Done);
    assert_eq!(shard.stored_keys(), 0);
    let mut store = |part: &cirrus_sql::ImportPart| {
        shard
            .commit(|databases, transaction| databases.import(transaction, &book(), part))
            .map_err(|failure| failure.reason)
    };
    for part in &parts {
        assert_eq!(store(part), Ok(()));
    }
    assert_eq!(store(&parts[0]), Err(Reason::DatabaseExists));
    let request = [Statement::new("SELECT length(v) FROM t")];
    let rows = shard.databases.query(&shard.state, 0, Request::new(&book(), &request)).unwrap();
    assert_eq!(rows[0].rows, [[Cell::Integer(9000)]]);
}
