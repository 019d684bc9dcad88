//! `cirrus sql …`: statements, databases, files, schemas, and a shell that runs scripts; tables for people, JSON for programs,
//! and errors that say what is wrong.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cirrus_tests::cluster::TestCluster;
use cirrus_tests::command_line::CommandLine;
use cirrus_tests::outcome::TestResult;
use cirrus_tests::wait::eventually;
use rusqlite::Connection;
use rusqlite::types::Value as Cell;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_session_on_the_command_line() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let cirrus = CommandLine { endpoints: cluster.endpoints().join(",") };
    let folder = cluster.directory()?;
    statements(&cirrus).await?;
    databases(&cirrus).await?;
    files(&cirrus, folder).await?;
    schemas(&cirrus, folder).await?;
    sphivedbs_configuration(&cirrus, folder).await?;
    shell(&cirrus).await
}

/// Lines of columns, without the white space that lays them out.
fn table(output: &str) -> Vec<Vec<&str>> {
    output.lines().map(|line| line.split_whitespace().collect()).collect()
}

async fn statements(cirrus: &CommandLine) -> TestResult {
    let create = "CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT UNIQUE)";
    let made = cirrus.run(&["sql", "exec", "ada/notes", create, "INSERT INTO notes (body) VALUES ('first')"]).await?;
    // What is no result is told beside it.
    assert_eq!((made.code, &*made.output), (0, ""), "{made:?}");
    assert_eq!(made.errors, "0 rows changed, last row id 0\n1 row changed, last row id 1\n");
    let found = cirrus.succeeds(&["sql", "query", "ada/notes", "SELECT * FROM notes"]).await?;
    assert_eq!(table(&found), [["id", "body"], ["1", "first"]]);
    let returned = "INSERT INTO notes (body) VALUES ('second') RETURNING id";
    assert_eq!(table(&cirrus.succeeds(&["sql", "exec", "ada/notes", returned]).await?), [["id"], ["2"]]);

    let insert = "INSERT INTO notes (body) VALUES ('third'), ('fourth')";
    let cells = "SELECT id, NULL AS n, -9223372036854775807 - 1 AS i, 2.0 AS d, 'a' || char(10) AS t, x'ff' AS b \
                 FROM notes WHERE id = 4";
    let answered = cirrus.json(&["sql", "exec", "ada/notes", insert, cells]).await?;
    let nothing = json!({ "columns": [], "rows": [], "affected_rows": 2, "last_insert_rowid": 4 });
    assert_eq!(answered["results"][0], nothing, "{answered}");
    let rows = json!([[4, null, i64::MIN, 2.0, "a\n", { "base64": "/w==" }]]);
    assert_eq!(answered["results"][1]["rows"], rows, "{answered}");
    assert_eq!(answered["results"][1]["columns"][0], json!({ "name": "id", "declared_type": "INTEGER" }));
    for consistency in ["linearizable", "lease", "stale"] {
        eventually("every consistency is served", Duration::from_secs(10), async || {
            let query = ["sql", "query", "ada/notes", "SELECT count(*) AS n FROM notes", "SELECT 7 AS seven"];
            let counted = cirrus.run(&[&query[..], &["--consistency", consistency, "-o", "json"]].concat()).await?;
            let results: Value = serde_json::from_str(&counted.output).with_context(|| format!("{counted:?}"))?;
            let rows = (&results["results"][0]["rows"], &results["results"][1]["rows"]);
            ensure!(rows == (&json!([[4]]), &json!([[7]])), "{consistency}: {results}");
            Ok(())
        })
        .await?;
    }

    // What fails says which statement it was, and leaves nothing.
    let twice = ["sql", "exec", "ada/notes", "DELETE FROM notes", "INSERT INTO notes VALUES (1, 'x'), (1, 'y')"];
    let error = cirrus.fails(&twice).await?;
    assert!(error.starts_with("error: SQL_CONSTRAINT: ") && error.contains("UNIQUE constraint failed"), "{error}");
    assert!(error.contains("statements[1]"), "{error}");
    let error = cirrus.json_error(&twice).await?;
    assert_eq!((&error["reason"], &error["outcome_unknown"]), (&json!("SQL_CONSTRAINT"), &json!(false)), "{error}");
    assert_eq!((&error["metadata"]["statement"], &error["metadata"]["sqlite_code"]), (&json!("1"), &json!("19")));
    assert_eq!(error["metadata"]["sqlite_message"], "UNIQUE constraint failed: notes.id");
    assert_eq!(table(&cirrus.succeeds(&["sql", "query", "ada/notes", "SELECT count(*) FROM notes"]).await?)[1], ["4"]);
    for (arguments, expected) in [
        (&["query", "ada/notes", "DELETE FROM notes"][..], "SQL_READ_ONLY"),
        (&["query", "ada/nothing", "SELECT 1"], "DATABASE_NOT_FOUND"),
        (&["exec", "ada/notes", "SELEC 1"], "near \"SELEC\": syntax error"),
        (&["exec", "ada/notes", "SELECT 1; SELECT 2"], "one statement is expected"),
        (&["exec", "ada/notes", "SELECT ?"], "SQL_INVALID"),
        (&["exec", "ada/notes", "ATTACH 'x' AS y"], "SQL_NOT_ALLOWED"),
        (&["exec", "ada/notes"], "<SQL>"),
        (&["exec", "ada", "SELECT 1"], "\"ada\" is not USER/DBNAME"),
        (&["exec", "ada/notes", "SELECT 1", "--dbfile", "one"], "--dbfile"),
    ] {
        let error = cirrus.fails(&[&["sql"], arguments].concat()).await?;
        assert!(error.contains(expected), "cirrus sql {arguments:?}: {error}");
    }
    let nobody = CommandLine { endpoints: "127.0.0.1:1".to_owned() };
    assert!(nobody.fails(&["sql", "query", "ada/notes", "SELECT 1"]).await?.contains("127.0.0.1:1"));
    Ok(())
}

async fn databases(cirrus: &CommandLine) -> TestResult {
    for (name, dbfile) in [("bob/notes", "0"), ("bob/book", "0"), ("bob/notes", "7"), ("team/bob/notes", "0")] {
        cirrus.json(&["sql", "exec", name, "CREATE TABLE t (x)", "--dbfile", dbfile]).await?;
    }
    let listed = async |arguments: &[&str]| -> Result<Vec<String>> {
        let listed = cirrus.json(&[&["sql", "list"], arguments].concat()).await?;
        let name = |one: &Value| format!("{} {} {}", one["dbfile"], one["user"], one["dbname"]).replace('"', "");
        let mut names: Vec<String> = listed["databases"].as_array().context("databases")?.iter().map(name).collect();
        names.sort();
        Ok(names)
    };
    let all = ["0 ada notes", "0 bob book", "0 bob notes", "0 team/bob notes", "7 bob notes"];
    assert_eq!(listed(&[]).await?, all);
    assert_eq!(listed(&["--dbfile", "7"]).await?, all[4..]);
    assert_eq!(listed(&["--user-prefix", "b", "--dbname", "notes"]).await?, ["0 bob notes", "7 bob notes"]);
    assert_eq!(listed(&["--limit", "3"]).await?.len(), 3);
    assert_eq!(listed(&["--user-prefix", "nobody"]).await?.len(), 0);
    let shown = cirrus.succeeds(&["sql", "list", "--dbfile", "7"]).await?;
    let lines = table(&shown);
    assert_eq!(lines[0], ["USER", "DBNAME", "DBFILE", "BYTES", "STORED", "SCHEMA", "CHANGED", "STATE"]);
    assert!(lines.len() == 2 && lines[1][..3] == ["bob", "notes", "7"] && lines[1].ends_with(&["ok"]), "{shown}");

    let described = cirrus.succeeds(&["sql", "describe", "ada/notes"]).await?;
    for expected in
        ["size", "stored", "created", "schema", "\nCREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT UNIQUE);\n"]
    {
        assert!(described.contains(expected), "{described}");
    }
    assert!(described.contains("-- index sqlite_autoindex_notes_1 of notes"), "{described}");
    let described = cirrus.json(&["sql", "describe", "ada/notes"]).await?;
    assert_eq!(
        (&described["user"], &described["dbname"], &described["busy"]),
        (&json!("ada"), &json!("notes"), &json!(false))
    );
    assert!(
        described["size_bytes"].as_u64() >= Some(2048) && described["created_at_ms"].as_u64() > Some(0),
        "{described}"
    );
    assert_eq!(
        (&described["objects"][0]["kind"], &described["objects"][1]["name"]),
        (&json!("table"), &json!("sqlite_autoindex_notes_1"))
    );

    assert_eq!(cirrus.succeeds(&["sql", "remove", "bob/notes"]).await?, "removed bob/notes\n");
    assert_eq!(cirrus.json(&["sql", "remove", "bob/notes", "--dbfile", "7"]).await?, json!({ "removed": true }));
    assert_eq!(listed(&[]).await?, ["0 ada notes", "0 bob book", "0 team/bob notes"]);
    for arguments in [["sql", "remove", "bob/notes"], ["sql", "describe", "bob/notes"]] {
        let error = cirrus.fails(&arguments).await?;
        assert!(error.contains("DATABASE_NOT_FOUND"), "{error}");
    }
    Ok(())
}

async fn files(cirrus: &CommandLine, folder: &Path) -> TestResult {
    let path = |name: &str| folder.join(name).to_str().map(str::to_owned).context("a path in UTF-8");
    let (exported, again, plain, garbage) =
        (path("exported.sqlite")?, path("again.sqlite")?, path("plain.sqlite")?, path("garbage")?);

    // Out, to SQLite itself.
    let told = cirrus.succeeds(&["sql", "export", "ada/notes", &exported]).await?;
    let size = std::fs::metadata(&exported)?.len();
    assert_eq!(told, format!("{size} bytes in {exported}\n"));
    let opened = Connection::open(&exported)?;
    let all = |connection: &Connection| -> rusqlite::Result<Vec<(i64, String)>> {
        let mut rows = connection.prepare("SELECT id, body FROM notes ORDER BY id")?;
        rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    };
    let rows = all(&opened)?;
    assert_eq!(rows[..2], [(1, "first".to_owned()), (2, "second".to_owned())]);
    assert_eq!(opened.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0))?, "ok");
    let error = cirrus.fails(&["sql", "export", "ada/notes", &exported]).await?;
    assert!(error.contains(&exported) && error.contains("exists"), "a file that is there stays: {error}");

    // In again, as another user's, and out.
    let imported = cirrus.succeeds(&["sql", "import", "eve/notes", &exported]).await?;
    assert!(imported.ends_with(" bytes stored\n"), "{imported}");
    let told = cirrus.json(&["sql", "export", "eve/notes", &again, "--consistency", "lease"]).await?;
    assert_eq!(told, json!({ "file": again, "size_bytes": std::fs::metadata(&again)?.len() }));
    assert_eq!(all(&Connection::open(&again)?)?, rows);
    let error = cirrus.fails(&["sql", "import", "eve/notes", &exported]).await?;
    assert!(error.contains("DATABASE_EXISTS"), "{error}");

    // In, from SQLite itself.
    let script = "CREATE TABLE t (v); INSERT INTO t VALUES (1), ('two'), (x'03'), (NULL)";
    Connection::open(&plain)?.execute_batch(script)?;
    let told = cirrus.json(&["sql", "import", "zoe/things", &plain]).await?;
    assert!(told["size_bytes"].as_u64() >= Some(1024), "{told}");
    let found = cirrus.json(&["sql", "query", "zoe/things", "SELECT v FROM t ORDER BY rowid"]).await?;
    assert_eq!(found["results"][0]["rows"], json!([[1], ["two"], [{ "base64": "Aw==" }], [null]]));

    std::fs::write(&garbage, "no database at all")?;
    assert_eq!(cirrus.json_error(&["sql", "import", "zoe/other", &garbage]).await?["reason"], "DATABASE_INVALID");
    let nowhere = path("nowhere")?;
    assert!(cirrus.fails(&["sql", "import", "zoe/other", &nowhere]).await?.contains(&nowhere));
    let error = cirrus.fails(&["sql", "export", "zoe/other", &nowhere]).await?;
    assert!(error.contains("DATABASE_NOT_FOUND") && !Path::new(&nowhere).exists(), "{error}");
    Ok(())
}

async fn schemas(cirrus: &CommandLine, folder: &Path) -> TestResult {
    let file = |name: &str, text: &str| -> Result<String> {
        let path = folder.join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_str().context("a path in UTF-8")?.to_owned())
    };
    let first = file("first.sql", "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT);\n")?;
    let second = "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, mail TEXT);\n\
                  CREATE UNIQUE INDEX by_name ON people (name);\n";
    let second = file("second.sql", second)?;
    let upper = file("1-upper.sql", "UPDATE people SET name = upper(name);\n")?;
    let root = file("2-root.sql", "INSERT INTO people (name) VALUES ('root');\n")?;
    let set = ["sql", "schema", "set", "people"];

    assert_eq!(cirrus.succeeds(&[&set[..], &[&first]].concat()).await?, "people version 1 is stored\n");
    assert_eq!(cirrus.succeeds(&[&set[..], &[&first]].concat()).await?, "people version 1 says the same already\n");
    // One of three cannot have the index that comes.
    for (user, names) in [("u1", "('ada')"), ("u2", "('ada'), ('bob')"), ("u3", "('ada'), ('ada')")] {
        let insert = format!("INSERT INTO people (name) VALUES {names}");
        cirrus.json(&["sql", "exec", &format!("{user}/people"), &insert]).await?;
    }
    let migrations = ["--migration", &upper, "--migration-on-new", &root];
    let stored = cirrus.json(&[&set[..], &[&second], &migrations].concat()).await?;
    assert_eq!(stored, json!({ "version": 2, "changed": true }));

    let shown = cirrus.succeeds(&["sql", "schema", "show", "people"]).await?;
    assert!(shown.starts_with("-- people version 2, "), "{shown}");
    for expected in [
        "\nCREATE UNIQUE INDEX by_name ON people (name);\n",
        "\n-- migration 1\nUPDATE people SET name = upper(name);\n",
        "\n-- migration 2, on new databases as well\nINSERT INTO people (name) VALUES ('root');\n",
    ] {
        assert!(shown.contains(expected), "{expected:?} is missing in {shown}");
    }
    let shown = cirrus.json(&["sql", "schema", "show", "people"]).await?;
    assert_eq!((&shown["dbname"], &shown["version"]), (&json!("people"), &json!(2)), "{shown}");
    let on_new = json!({ "number": 2, "sql": "INSERT INTO people (name) VALUES ('root');\n", "on_new": true });
    assert_eq!(shown["migrations"][1], on_new, "{shown}");
    let listed = cirrus.succeeds(&["sql", "schema", "list"]).await?;
    assert_eq!(table(&listed)[0], ["DBNAME", "VERSION", "SINCE"]);
    assert_eq!(table(&listed)[1][..2], ["people", "2"]);
    let listed = cirrus.json(&["sql", "schema", "list"]).await?;
    assert_eq!((&listed["schemas"][0]["dbname"], &listed["schemas"][0]["version"]), (&json!("people"), &json!(2)));

    let status = cirrus.succeeds(&["sql", "schema", "status", "people"]).await?;
    assert_eq!(table(&status), [vec!["VERSION", "DATABASES"], vec!["1", "3", "behind"]], "{status}");
    let walked = cirrus.run(&["sql", "schema", "migrate", "people", "--rate", "1000"]).await?;
    assert_eq!((walked.code, &*walked.output), (1, "3 looked at, 2 upgraded, 1 failed\n"), "{walked:?}");
    let status = cirrus.run(&["sql", "schema", "status", "people"]).await?;
    assert!(status.code == 0 && status.errors.contains("1 databases could not be upgraded"), "{status:?}");
    for expected in [vec!["1", "1", "behind"], vec!["2", "2", "current"]] {
        assert!(table(&status.output).contains(&expected), "{status:?}");
    }
    let status = cirrus.json(&["sql", "schema", "status", "people"]).await?;
    assert_eq!((&status["current_version"], &status["failed"]), (&json!(2), &json!(1)), "{status}");
    assert_eq!(status["versions"], json!([{ "version": 1, "databases": 1 }, { "version": 2, "databases": 2 }]));
    assert_eq!(status["failures"][0]["user"], "u3");
    assert_eq!(status["failures"][0]["upgrade_failure"]["step"], "index by_name", "{status}");
    let error = cirrus.fails(&["sql", "exec", "u3/people", "SELECT 1"]).await?;
    assert!(error.contains("SCHEMA_UPGRADE_FAILED") && error.contains("index by_name"), "{error}");

    // A new database has what it begins with, and migrated ones what migrations made.
    for (user, expected) in [("u1", json!([["ADA"], ["root"]])), ("u4", json!([["root"]]))] {
        let found = cirrus.json(&["sql", "exec", &format!("{user}/people"), "SELECT name FROM people"]).await?;
        let mut names = found["results"][0]["rows"].as_array().context("rows")?.clone();
        names.sort_by_key(Value::to_string);
        assert_eq!(Value::from(names), expected, "{user}");
    }
    // Without the index, the last one is well, too.
    let third = file("third.sql", "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, mail TEXT);\n")?;
    cirrus.succeeds(&[&set[..], &[&third], &migrations].concat()).await?;
    let walked = cirrus.json(&["sql", "schema", "migrate", "people"]).await?;
    assert_eq!(walked["failed"], 0, "{walked}");

    let broken = file("broken.sql", "CREATE TABEL people (id)")?;
    let unnumbered = file("upper.sql", "UPDATE people SET name = upper(name)")?;
    for (arguments, expected) in [
        (&["set", "people", &broken][..], "SCHEMA_INVALID"),
        (&["set", "people", "nowhere.sql"], "nowhere.sql"),
        (&["set", "people", &third, "--migration", &unnumbered], "begins with its number"),
        (&["show", "nothing"], "SCHEMA_NOT_FOUND"),
        (&["status", "nothing"], "SCHEMA_NOT_FOUND"),
        (&["migrate", "nothing"], "SCHEMA_NOT_FOUND"),
        (&["migrate", "people", "--rate", "0"], "--rate"),
    ] {
        let error = cirrus.fails(&[&["sql", "schema"], arguments].concat()).await?;
        assert!(error.contains(expected), "cirrus sql schema {arguments:?}: {error}");
    }
    Ok(())
}

async fn sphivedbs_configuration(cirrus: &CommandLine, folder: &Path) -> TestResult {
    let ini = folder.join("sphivedbsvr.ini");
    let path = ini.to_str().context("a path in UTF-8")?;
    let text = "[Server]\nMaxConnections = 1024\n\n[Database]\nDBFileBegin = 3\nDBFileEnd = 9\n\n\
                [ddl.addrbook]\ncreate table addrbook ( id int, addr varchar(64) );\n\n[ddl.Notes2]\ncreate table n ( x );\n";
    std::fs::write(&ini, text)?;
    let imported = cirrus.succeeds(&["sql", "schema", "import", path]).await?;
    assert_eq!(imported, "addrbook version 1 is stored\nnotes2 version 1 is stored\ndbfiles 3 to 9\n");
    let imported = cirrus.json(&["sql", "schema", "import", path]).await?;
    let same = |dbname: &str| json!({ "dbname": dbname, "version": 1, "changed": false });
    let schemas = [same("addrbook"), same("notes2")];
    assert_eq!(imported, json!({ "first_dbfile": 3, "last_dbfile": 9, "schemas": schemas }));
    assert!(cirrus.succeeds(&["sql", "schema", "show", "addrbook"]).await?.contains("create table addrbook ( id int"));
    let found = cirrus.json(&["sql", "query", "someone/addrbook", "SELECT * FROM addrbook", "--dbfile", "3"]).await?;
    assert_eq!(found["results"][0]["columns"][1], json!({ "name": "addr", "declared_type": "varchar(64)" }));
    std::fs::write(&ini, text.replace("DBFileEnd = 9", "DBFileEnd = many"))?;
    let error = cirrus.fails(&["sql", "schema", "import", path]).await?;
    assert!(error.contains("INVALID_FIELD") && error.contains("DBFileEnd"), "{error}");
    Ok(())
}

const SCRIPT: &str = "\
CREATE TABLE t (id INTEGER PRIMARY KEY,
    v ANY);
-- a comment; with a semicolon
INSERT INTO t (v) VALUES ('it''s; here'), (NULL),
    (x'00ff'), (0.1), ('two
lines');
CREATE TRIGGER again AFTER DELETE ON t BEGIN
    INSERT INTO t (v) VALUES (old.v);
    SELECT 1;
END;
CREATE INDEX by_v ON t (v); CREATE VIEW w AS SELECT v FROM t;
SELECT count(*) AS n FROM t;
.tables
.schema
SELECT 'unended' AS last
";

async fn shell(cirrus: &CommandLine) -> TestResult {
    let shell = ["sql", "shell", "sam/book"];
    let run = cirrus.run_with_input(&shell, SCRIPT).await?;
    assert_eq!(run.code, 0, "{run:?}");
    let lines: Vec<&str> = run.output.lines().map(str::trim_end).collect();
    assert_eq!(lines[..5], ["n", "5", "name", "t", "w"], "{run:?}");
    let schema = "CREATE TABLE t (id INTEGER PRIMARY KEY,\n    v ANY);\n\
                  CREATE TRIGGER again AFTER DELETE ON t BEGIN\n    INSERT INTO t (v) VALUES (old.v);\n    SELECT 1;\nEND;\n\
                  CREATE INDEX by_v ON t (v);\nCREATE VIEW w AS SELECT v FROM t;\n";
    assert!(run.output.contains(schema), "{run:?}");
    assert_eq!(lines[lines.len() - 2..], ["last", "unended"], "the last statement needs no semicolon");
    assert!(run.errors.contains("5 rows changed, last row id 5\n"), "{run:?}");

    // A dump makes the same database on plain SQLite, and on Cirrus.
    let dumped = cirrus.run_with_input(&shell, ".dump\n.quit\nSELECT 'never';\n").await?;
    assert_eq!((dumped.code, &*dumped.errors), (0, ""), "{dumped:?}");
    assert!(dumped.output.ends_with("COMMIT;\n"), "nothing runs behind .quit: {dumped:?}");
    let plain = Connection::open_in_memory()?;
    plain.execute_batch(&dumped.output)?;
    let mut rows = plain.prepare("SELECT v FROM t ORDER BY id")?;
    let rows: Vec<Cell> = rows.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let text = |text: &str| Cell::Text(text.to_owned());
    assert_eq!(rows, [text("it's; here"), Cell::Null, Cell::Blob(vec![0, 255]), Cell::Real(0.1), text("two\nlines")]);
    plain.execute_batch("DELETE FROM t WHERE id = 1")?;
    assert_eq!(plain.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0))?, 5, "the trigger is there");

    // What fails is told, the rest runs, and the exit code says it.
    let script = "SELEC 1;\nSELECT 2 AS two;\n.nonsense\nINSERT INTO t (id) VALUES (1);\n";
    let failed = cirrus.run_with_input(&shell, script).await?;
    assert_eq!((failed.code, &*failed.output), (2, "two\n2\n"), "{failed:?}");
    for expected in ["error: SQL_INVALID: ", "there is no command .nonsense", "error: SQL_CONSTRAINT: "] {
        assert!(failed.errors.contains(expected), "{failed:?}");
    }
    for script in ["SELECT 'open", "SELECT 1; .tables"] {
        let failed = cirrus.run_with_input(&shell, script).await?;
        assert!(failed.code == 2 && failed.errors.contains("SQL_INVALID"), "{script}: {failed:?}");
    }
    let help = cirrus.run_with_input(&shell, ".help").await?;
    assert!(help.code == 0 && help.output.contains(".schema"), "{help:?}");

    // An answer for each statement, for programs; a failure as well.
    let script = "SELECT 1 AS one; DELETE FROM t WHERE id = 99;\nSELECT x;\n";
    let run = cirrus.run_with_input(&[&shell[..], &["-o", "json"]].concat(), script).await?;
    let answers: Vec<Value> =
        serde_json::Deserializer::from_str(&run.output).into_iter().collect::<serde_json::Result<_>>()?;
    assert_eq!((run.code, answers.len()), (2, 2), "{run:?}");
    assert_eq!(answers[0]["results"][0]["rows"], json!([[1]]));
    assert_eq!(answers[1]["results"][0]["affected_rows"], 0);
    assert_eq!(serde_json::from_str::<Value>(&run.errors)?["error"]["reason"], "SQL_INVALID");

    // A database that is not there has no schema, and nothing to dump.
    let empty = cirrus.run_with_input(&["sql", "shell", "sam/nothing"], ".schema\n.tables\n").await?;
    assert_eq!(empty.code, 0, "{empty:?}");
    let empty = cirrus.run_with_input(&["sql", "shell", "sam/nothing"], ".dump\n").await?;
    assert!(empty.code == 2 && empty.errors.contains("DATABASE_NOT_FOUND"), "{empty:?}");
    Ok(())
}
