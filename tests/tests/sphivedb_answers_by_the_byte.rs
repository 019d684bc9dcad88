//! SPHiveDB's JSON-RPC with `curl`, through all nodes of a three-node cluster in turn: a table of requests, each with the
//! whole body that answers it.
#![allow(clippy::unwrap_used)]

use anyhow::{Context as _, Result, ensure};
use cirrus_tests::cluster::{ClusterOptions, TestCluster, cirrus_binary};
use cirrus_tests::outcome::TestResult;
use serde_json::json;
use tokio::process::Command;

const CONFIGURATION: &str = "
[Database]
DBFileBegin = 0
DBFileEnd = 9

[ddl.addrbook]
create table addrbook ( id int, addr varchar(64), unique(addr) );

[ddl.notes]
create table note ( id INTEGER PRIMARY KEY, body, score REAL DEFAULT 0.5 );
";

/// Longest body that the nodes take.
const BODY_BYTES_MAX: usize = 20_000;

/// A cluster that took SPHiveDB's configuration over.
async fn start() -> Result<TestCluster> {
    let config = format!("[sql]\nhttp_body_bytes = {BODY_BYTES_MAX}\n");
    let cluster = TestCluster::start(ClusterOptions { config, ..ClusterOptions::default() }).await?;
    let file = cluster.directory()?.join("sphivedbsvr.ini");
    std::fs::write(&file, CONFIGURATION)?;
    let mut import = Command::new(cirrus_binary()?);
    import.args(["sql", "schema", "import"]).arg(file).env("CIRRUS_ENDPOINTS", cluster.endpoints().join(","));
    let output = import.output().await?;
    ensure!(output.status.success(), "the import: {}", String::from_utf8_lossy(&output.stderr));
    Ok(cluster)
}

/// Posts a body with `curl`; the answer's body. Whatever the request says, the status is 200 and the answer is JSON.
async fn post(cluster: &TestCluster, node_id: u64, path: &str, body: impl AsRef<[u8]>) -> Result<String> {
    let answer = cluster.curl(node_id, "POST", path, Some(body.as_ref())).await?;
    ensure!((answer.code, &answer.content_type[..]) == (200, "application/json"), "{answer:?}");
    Ok(answer.body)
}

/// Posts each body, to the nodes in turn, and compares the answers.
async fn check(cluster: &TestCluster, cases: impl IntoIterator<Item = (String, String)>) -> Result<usize> {
    let mut wrong = Vec::new();
    let mut count = 0;
    for (request, expected) in cases {
        let found = post(cluster, count as u64 % 3 + 1, "/sphivedb", &request).await.context(request.clone())?;
        if found != expected {
            wrong.push(format!("{request}\n  is answered by  {found}\n  and not by      {expected}"));
        }
        count += 1;
    }
    ensure!(wrong.is_empty(), "{} of {count} answers are wrong:\n{}", wrong.len(), wrong.join("\n"));
    Ok(count)
}

fn execute(user: &str, dbname: &str, sql: &[&str]) -> String {
    let params = json!([{ "dbfile": 0, "user": user, "dbname": dbname, "sql": sql }]);
    json!({ "method": "execute", "params": params, "id": 1 }).to_string()
}

/// An error without data.
fn error(code: i32, message: &str, id: &str) -> String {
    format!(r#"{{"error":{{"code":{code},"message":"{message}"}},"id":{id}}}"#)
}

/// An error with SQLite's code, or -1.
fn failed(code: i32, message: &str) -> String {
    let data = format!(r#"{{"code":{code},"message":{}}}"#, json!(message));
    format!(r#"{{"error":{{"code":-32603,"message":"Internal error.","data":{data}}},"id":1}}"#)
}

/// The table that answers a statement which changed rows.
fn wrote(affected: i64, rowid: i64) -> String {
    format!(r#"{{"name":["affected","last_insert_rowid"],"type":["int","int"],"row":[[{affected},{rowid}]]}}"#)
}

/// The table that answers a SELECT.
fn rows(names: &[&str], types: &[&str], rows: serde_json::Value) -> String {
    format!(r#"{{"name":{},"type":{},"row":{rows}}}"#, json!(names), json!(types))
}

fn results(tables: &[String]) -> String {
    format!(r#"{{"result":[{}],"id":1}}"#, tables.join(","))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_none() -> TestResult {
    let cluster = start().await?;
    let malformed = |problem: &str| error(-32600, &format!("invalid json stream, {problem}"), "null");
    let no = |code: i32, field: &str, id: &str| {
        let what = if code == -32600 { "json stream" } else { "params" };
        error(code, &format!("invalid {what}, not {field} property"), id)
    };
    let params = |params: &str| format!(r#"{{"method":"execute","params":[{params}],"id":1}}"#);
    let deep = format!(r#"{{"method":"execute","params":{}{},"id":1}}"#, "[".repeat(5000), "]".repeat(5000));
    let mut cases = vec![
        // -32600: no JSON, no method, no params.
        (String::new(), malformed("EOF while parsing a value at line 1 column 0")),
        ("{".to_owned(), malformed("EOF while parsing an object at line 1 column 1")),
        ("sql=select".to_owned(), malformed("expected value at line 1 column 1")),
        (r#"{"method":"execute",}"#.to_owned(), malformed("trailing comma at line 1 column 21")),
        ("{} {}".to_owned(), malformed("trailing characters at line 1 column 4")),
        ("{'method':1}".to_owned(), malformed("key must be a string at line 1 column 2")),
        (r#"{"method":"\ud800"}"#.to_owned(), malformed("unexpected end of hex escape at line 1 column 18")),
        ("{\"id\":\"a\u{1}\"}".to_owned(), {
            let problem = "control character (\\\\u0000-\\\\u001F) found while parsing a string at line 1 column 9";
            malformed(problem)
        }),
        (deep, malformed("recursion limit exceeded at line 1 column 156")),
        ("null".to_owned(), no(-32600, "method", "null")),
        ("\"execute\"".to_owned(), no(-32600, "method", "null")),
        ("[]".to_owned(), malformed("an empty batch")),
        (r#"{"params":[{}],"id":1}"#.to_owned(), no(-32600, "method", "1")),
        (r#"{"method":["execute"],"params":[{}],"id":1}"#.to_owned(), no(-32600, "method", "1")),
        (r#"{"method":"execute","id":1}"#.to_owned(), no(-32600, "params", "1")),
        (r#"{"method":"execute","params":{"dbfile":0},"id":1}"#.to_owned(), no(-32600, "params", "1")),
        (r#"{"method":"execute","params":null,"id":1}"#.to_owned(), no(-32600, "params", "1")),
        // -32601: another method.
        (r#"{"method":"drop","params":[{}],"id":1}"#.to_owned(), error(-32601, "Method not found.", "1")),
        (r#"{"method":"","params":[],"id":1}"#.to_owned(), error(-32601, "Method not found.", "1")),
    ];
    // -32602: each field, missing or of another type.
    for (given, missing) in [
        ("", "dbfile"),
        ("7", "dbfile"),
        (r#"{"user":"u","dbname":"notes","sql":["select 1"]}"#, "dbfile"),
        (r#"{"dbfile":"0","user":"u","dbname":"notes","sql":["select 1"]}"#, "dbfile"),
        (r#"{"dbfile":-1,"user":"u","dbname":"notes","sql":["select 1"]}"#, "dbfile"),
        (r#"{"dbfile":0.5,"user":"u","dbname":"notes","sql":["select 1"]}"#, "dbfile"),
        (r#"{"dbfile":null,"user":"u","dbname":"notes","sql":["select 1"]}"#, "dbfile"),
        (r#"{"dbfile":0,"dbname":"notes","sql":["select 1"]}"#, "user"),
        (r#"{"dbfile":0,"user":5,"dbname":"notes","sql":["select 1"]}"#, "user"),
        (r#"{"dbfile":0,"user":"u","sql":["select 1"]}"#, "dbname"),
        (r#"{"dbfile":0,"user":"u","dbname":false,"sql":["select 1"]}"#, "dbname"),
        (r#"{"dbfile":0,"user":"u","dbname":"notes"}"#, "sql"),
        (r#"{"dbfile":0,"user":"u","dbname":"notes","sql":[]}"#, "sql"),
        (r#"{"dbfile":0,"user":"u","dbname":"notes","sql":"select 1"}"#, "sql"),
        (r#"{"dbfile":0,"user":"u","dbname":"notes","sql":["select 1",null]}"#, "sql"),
    ] {
        cases.push((params(given), no(-32602, missing, "1")));
    }
    // -32603 and -1: a database that is not offered, or not there.
    let call = |method: &str, dbfile: &str, user: &str, dbname: &str| {
        let params = format!(r#"{{"dbfile":{dbfile},"user":"{user}","dbname":"{dbname}","sql":["select 1"]}}"#);
        format!(r#"{{"method":"{method}","params":[{params}],"id":1}}"#)
    };
    cases.extend([
        (call("execute", "10", "u", "notes"), failed(-1, "invalid dbfile")),
        (call("execute", "4294967296", "u", "notes"), failed(-1, "invalid dbfile")),
        (call("remove", "10", "u", "notes"), failed(-1, "invalid dbfile")),
        (call("execute", "0", "u", "nothing"), failed(-1, "invalid dbname")),
        (call("remove", "0", "u", ""), failed(-1, "invalid dbname")),
        (call("execute", "0", "", "notes"), failed(-1, "database.user: must not be empty")),
        (
            call("remove", "0", "nobody", "notes"),
            failed(-1, "there is no database \"notes\" of user \"nobody\" in dbfile 0"),
        ),
    ]);
    // An id is repeated, of whatever type it is; without one it is null.
    for id in ["\"x\"", "\"\"", "7", "-7", "2.5", "18446744073709551615", "true", "null", r#"[1,{"a":null}]"#] {
        cases.push((format!(r#"{{"method":"drop","params":[],"id":{id}}}"#), error(-32601, "Method not found.", id)));
    }
    cases.push((r#"{"method":"drop","params":[]}"#.to_owned(), error(-32601, "Method not found.", "null")));
    let count = check(&cluster, cases).await?;
    eprintln!("{count} requests that are none");

    // What is no UTF-8 is no JSON.
    let malformed_utf8 = [&br#"{"method":"execute","params":[],"id":""#[..], b"\xff\xfe", b"\"}"].concat();
    let found = post(&cluster, 2, "/sphivedb", malformed_utf8).await?;
    assert_eq!(found, malformed("invalid unicode code point at line 1 column 39"));

    // Nothing of all this created a database.
    for node_id in cluster.node_ids() {
        let absent = call("remove", "0", "u", "notes");
        let found = post(&cluster, node_id, "/sphivedb", absent).await?;
        assert_eq!(found, failed(-1, "there is no database \"notes\" of user \"u\" in dbfile 0"));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements() -> TestResult {
    let cluster = start().await?;
    const NOTE: [&str; 3] = ["id", "body", "score"];
    const NOTE_TYPES: [&str; 3] = ["INTEGER", "null", "REAL"];
    let one = |name: &str, cell: serde_json::Value| results(&[rows(&[name], &["null"], json!([[cell]]))]);
    let long = "x".repeat(15_000);
    let insert_long = format!("insert into note(id, body) values (30, '{long}')");
    let cases: Vec<(Vec<&str>, String)> = vec![
        // An empty SELECT has its columns.
        (vec!["select * from note"], results(&[rows(&NOTE, &NOTE_TYPES, json!([]))])),
        (vec!["select 1 as one where 0"], results(&[rows(&["one"], &["null"], json!([]))])),
        // Writes are answered by numbers, SELECTs by strings.
        (vec!["insert into note(body) values ('hello')"], results(&[wrote(1, 1)])),
        (vec!["select * from note"], results(&[rows(&NOTE, &NOTE_TYPES, json!([["1", "hello", "0.5"]]))])),
        // NULL is null, and no text.
        (vec!["update note set body = null, score = null"], results(&[wrote(1, 0)])),
        (vec!["select * from note"], results(&[rows(&NOTE, &NOTE_TYPES, json!([["1", null, null]]))])),
        (vec!["select null, 'null', ''"], {
            results(&[rows(&["null", "'null'", "''"], &["null"; 3], json!([[null, "null", ""]]))])
        }),
        // Types are those that were declared; expressions have none.
        (vec!["select id, id + 1 as next, count(*) as n from note"], {
            results(&[rows(&["id", "next", "n"], &["INTEGER", "null", "null"], json!([["1", "2", "1"]]))])
        }),
        // Blobs are told as text.
        (vec!["select x'616263'"], one("x'616263'", json!("abc"))),
        (vec!["select x'00ff' as b"], one("b", json!("\u{0}\u{fffd}"))),
        (vec!["insert into note values (2, x'c3a9', 1)"], results(&[wrote(1, 2)])),
        (vec!["select body, typeof(body) as t from note where id = 2"], {
            results(&[rows(&["body", "t"], &["null", "null"], json!([["é", "blob"]]))])
        }),
        // Quoting, in SQL and in JSON.
        (vec!["select 'it''s' as q"], one("q", json!("it's"))),
        (vec!["select \"double\" as q"], one("q", json!("double"))),
        (vec!["select 'a\\b/c\"d' as q"], one("q", json!("a\\b/c\"d"))),
        (vec!["select 'tab\there\nand\r\u{1}\u{7f}' as q"], one("q", json!("tab\there\nand\r\u{1}\u{7f}"))),
        (vec!["select 'naïve 😀 \u{202e}' as q"], one("q", json!("naïve 😀 \u{202e}"))),
        (vec!["select 1 as \"a \"\"name\"\"\""], one("a \"name\"", json!("1"))),
        (vec!["insert into note(id, body) values (3, '\u{1f600} \\ ''\"')"], results(&[wrote(1, 3)])),
        (vec!["select body from note where id = 3"], one("body", json!("\u{1f600} \\ '\""))),
        // Numbers, none of them cut.
        (vec!["select 9223372036854775807, -9223372036854775808 as least, 2147483648 as more"], {
            let names = ["9223372036854775807", "least", "more"];
            let row = json!([["9223372036854775807", "-9223372036854775808", "2147483648"]]);
            results(&[rows(&names, &["null"; 3], row)])
        }),
        (vec!["select 0.1 as a, 1e18 as b, -1e-7 as c, 1e999 as d"], {
            let row = json!([["0.1", "1.0e+18", "-1.0e-07", "Inf"]]);
            results(&[rows(&["a", "b", "c", "d"], &["null"; 4], row)])
        }),
        (vec!["insert into note(id) values (9007199254740993)"], results(&[wrote(1, 9_007_199_254_740_993)])),
        (vec!["delete from note where id > 3"], results(&[wrote(1, 0)])),
        // Several statements, in one request and in one text.
        (vec!["insert into note(id, body) values (4, 'a'), (5, 'b')", "delete from note where id > 3"], {
            results(&[wrote(2, 5), wrote(2, 5)])
        }),
        (vec!["insert into note(id) values (6); insert into note(id) values (7)"], results(&[wrote(1, 7)])),
        (vec!["select count(*) as n from note; delete from note where id > 3"], one("n", json!("5"))),
        (vec!["select count(*) as n from note"], one("n", json!("3"))),
        (vec!["", " ; -- nothing"], results(&[wrote(0, 0), wrote(0, 0)])),
        (vec!["insert into note(id) values (8) returning id"], {
            results(&[rows(&["id"], &["INTEGER"], json!([["8"]]))])
        }),
        (vec!["delete from note where id = 8; create table extra(v int)"], results(&[wrote(0, 0)])),
        (vec!["insert into extra values (1)", "select v from extra", "drop table extra"], {
            results(&[wrote(1, 1), rows(&["v"], &["int"], json!([["1"]])), wrote(0, 1)])
        }),
        // SQLite's errors have its codes and messages.
        (vec!["selec 1"], failed(1, "near \"selec\": syntax error")),
        (vec!["select * from nowhere"], failed(1, "no such table: nowhere")),
        (vec!["select missing from note"], failed(1, "no such column: missing")),
        (vec!["insert into note(id) values (1)"], failed(19, "UNIQUE constraint failed: note.id")),
        (vec!["insert into note(id) values ('x')"], failed(20, "datatype mismatch")),
        (vec!["select zeroblob(2000000)"], failed(18, "string or blob too big: above the limit of 1048576 bytes")),
        (vec!["select 'never ending"], failed(1, "unrecognized token: \"'never ending\"")),
        // What Cirrus refuses has the code of SQLite's "not authorized".
        (vec!["attach '/etc/passwd' as p"], {
            failed(23, "ATTACH and VACUUM INTO are refused: a request has one database")
        }),
        (vec!["begin"], {
            failed(23, "BEGIN is refused: all statements of a request are one transaction; use SAVEPOINT within it")
        }),
        // What fails midway, at whatever place, leaves nothing: not even the table that its first statement made.
        (
            vec![
                "create table lost(v)",
                "insert into note(id, body) values (20, 'lost')",
                "update note set body = 'lost'",
                "insert into nowhere values (1)",
                "delete from note",
            ],
            failed(1, "no such table: nowhere"),
        ),
        (vec!["delete from note", "insert into note(id, score) values ('x', 1)"], failed(20, "datatype mismatch")),
        (vec!["delete from note; insert into note(id) values (1), (1)"], {
            failed(19, "UNIQUE constraint failed: note.id")
        }),
        (vec!["select * from lost"], failed(1, "no such table: lost")),
        (vec!["select id, body from note"], {
            let found = json!([["1", null], ["2", "é"], ["3", "\u{1f600} \\ '\""]]);
            results(&[rows(&["id", "body"], &["INTEGER", "null"], found)])
        }),
        // Nearly as long as a body may be.
        (vec![&insert_long], results(&[wrote(1, 30)])),
        (vec!["select length(body) as n from note where id = 30"], one("n", json!("15000"))),
    ];
    let cases = cases.into_iter().map(|(sql, expected)| (execute("ada", "notes", &sql), expected));
    let count = check(&cluster, cases).await?;
    eprintln!("{count} lists of statements");

    // Unicode escapes in the body, which no library wrote.
    let escaped = r#"{"id":1,"params":[{"sql":["select '\u0041\u00e9\ud83d\ude00\/' as \"\u0071\""],"dbname":"notes",
        "user":"\u0061da","dbfile":0}],"method":"EXECUTE"}"#;
    assert_eq!(post(&cluster, 3, "/sphivedb", escaped).await?, one("q", json!("Aé😀/")));
    // Dbnames are compared without case, users with it.
    let count = "select count(*) as n from note";
    assert_eq!(post(&cluster, 1, "/sphivedb", execute("ada", "NoTeS", &[count])).await?, one("n", json!("4")));
    assert_eq!(post(&cluster, 2, "/sphivedb", execute("Ada", "notes", &[count])).await?, one("n", json!("0")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_removals_and_http_itself() -> TestResult {
    let cluster = start().await?;
    let insert = execute("u", "addrbook", &["insert into addrbook values (1, \"a@b.c\")"]);
    let select = execute("u", "addrbook", &["select addr from addrbook"]);
    let selected = results(&[rows(&["addr"], &["varchar(64)"], json!([["a@b.c"]]))]);
    let taken = failed(19, "UNIQUE constraint failed: addrbook.addr");

    // A batch is answered in its order; one call's failure does not concern the next.
    let batch = format!(r#"[{insert},7,{insert},{{"method":"fly","params":[],"id":"f"}},{select}]"#);
    let no_method = error(-32600, "invalid json stream, not method property", "null");
    let no_such = error(-32601, "Method not found.", "\"f\"");
    let expected = format!("[{},{no_method},{taken},{no_such},{selected}]", results(&[wrote(1, 1)]));
    assert_eq!(post(&cluster, 1, "/sphivedb", batch).await?, expected);
    let many = format!("[{}1]", "1,".repeat(100));
    let expected = error(-32600, "invalid json stream, a batch of 101 calls, above the limit of 100", "null");
    assert_eq!(post(&cluster, 2, "/sphivedb", many).await?, expected);

    // Any path is served, also with a query; other methods are not, and what else is there stays what it is.
    for path in ["/sphivedb", "/sphivedb/", "/", "/a/b?c=d", "/SPHiveDB"] {
        assert_eq!(post(&cluster, 3, path, &select).await?, selected, "{path}");
    }
    for (method, path, code) in
        [("GET", "/sphivedb", 405), ("PUT", "/sphivedb", 405), ("GET", "/other", 404), ("POST", "/metrics", 405)]
    {
        let answer = cluster.curl(1, method, path, (method != "GET").then_some(&b"{}"[..])).await?;
        assert_eq!((answer.code, &answer.body[..]), (code, ""), "{method} {path}");
    }
    // A body that is too long; one of just the limit is read.
    for (length, code) in [(BODY_BYTES_MAX + 1, 413), (BODY_BYTES_MAX, 200)] {
        for path in ["/sphivedb", "/other"] {
            let answer = cluster.curl(2, "POST", path, Some(&vec![b' '; length])).await?;
            assert_eq!(answer.code, code, "{length} bytes to {path}: {}", answer.body);
        }
    }

    // Removed, through one node, it is gone for all; what is there afterwards is a new one.
    let remove = r#"{"method":"remove","params":[{"dbfile":0,"user":"u","dbname":"addrbook"}],"id":"x"}"#;
    assert_eq!(post(&cluster, 1, "/sphivedb", remove).await?, r#"{"result":0,"id":"x"}"#);
    let gone =
        failed(-1, "there is no database \"addrbook\" of user \"u\" in dbfile 0").replace("\"id\":1", "\"id\":\"x\"");
    assert_eq!(post(&cluster, 2, "/sphivedb", remove).await?, gone);
    let empty = results(&[rows(&["addr"], &["varchar(64)"], json!([]))]);
    assert_eq!(post(&cluster, 3, "/sphivedb", &select).await?, empty);
    Ok(())
}
