//! SPHiveDB's protocol, byte for byte, over a shard in memory with SPHiveDB's own configuration.

use cirrus_proto::Failure;
use cirrus_proto::limits::SqlLimits;
use cirrus_sql::json_rpc::{Answer, BATCH_CALLS_MAX, Call, Incoming, check_offered};
use cirrus_sql::{Removal, Request, SphivedbConfig};

use crate::shard::Shard;

const CONFIG: &str = "[Database]\nDBFileBegin = 0\nDBFileEnd = 9\n\
    [ddl.addrbook]\ncreate table addrbook ( id int, addr varchar(64), unique(addr) );\n\
    [ddl.notes]\ncreate table note ( id INTEGER PRIMARY KEY, body, score REAL DEFAULT 0.5 );\n";

/// Answers a body as the server does.
fn post(shard: &mut Shard, body: &str) -> String {
    let config = SphivedbConfig::parse(CONFIG).unwrap();
    let schemas = config.schemas(&SqlLimits::DEFAULT).unwrap();
    let incoming = Incoming::parse(body.as_bytes());
    let calls: Vec<Call> = incoming.calls().cloned().collect();
    let outcomes: Vec<Result<Answer, Failure>> = calls
        .iter()
        .map(|call| {
            check_offered(call, &config.dbfiles, |dbname| schemas.contains_key(dbname))?;
            match call {
                Call::Execute { database, statements } => {
                    let schema = schemas.get(&database.dbname.to_ascii_lowercase());
                    shard
                        .commit(|databases, transaction| {
                            databases.execute(
                                transaction,
                                Request { schema, types_as_written: true, ..Request::new(database, statements) },
                            )
                        })
                        .map(|executed| Answer::Executed(executed.results))
                }
                Call::Remove { database } => {
                    while shard.commit(|databases, transaction| databases.remove(transaction, database))?
                        == Removal::More
                    {}
                    Ok(Answer::Removed)
                }
            }
        })
        .collect();
    String::from_utf8(incoming.answer(outcomes)).unwrap()
}

/// A request to execute in one of the databases of the user "u".
fn execute(dbname: &str, sql: &[&str]) -> String {
    let sql = serde_json::to_string(sql).unwrap();
    format!(r#"{{"method":"execute","params":[{{"dbfile":0,"user":"u","dbname":"{dbname}","sql":{sql}}}],"id":1}}"#)
}

fn table(body: &[(&str, &str)]) {
    let mut shard = Shard::new();
    for (request, expected) in body {
        assert_eq!(post(&mut shard, request), *expected, "\nto {request}");
    }
}

#[test]
fn the_documented_conversation() {
    table(&[
        (
            r#"{"method":"execute","params":[{"dbfile":0,"user":"foobar","dbname":"addrbook",
               "sql":["insert into addrbook values ( 1, \"foo@bar.com\" )","select * from addrbook"]}],"id":"foobar"}"#,
            r#"{"result":[{"name":["affected","last_insert_rowid"],"type":["int","int"],"row":[[1,1]]},{"name":["id","addr"],"type":["int","varchar(64)"],"row":[["1","foo@bar.com"]]}],"id":"foobar"}"#,
        ),
        (
            r#"{"method":"execute","params":[{"dbfile":0,"user":"foobar","dbname":"addrbook","sql":["select * from t"]}],"id":"x"}"#,
            r#"{"error":{"code":-32603,"message":"Internal error.","data":{"code":1,"message":"no such table: t"}},"id":"x"}"#,
        ),
        (
            r#"{"method":"remove","params":[{"dbfile":0,"user":"foobar","dbname":"addrbook"}],"id":"x"}"#,
            r#"{"result":0,"id":"x"}"#,
        ),
        (
            r#"{"method":"remove","params":[{"dbfile":0,"user":"foobar","dbname":"addrbook"}],"id":"x"}"#,
            r#"{"error":{"code":-32603,"message":"Internal error.","data":{"code":-1,"message":"there is no database \"addrbook\" of user \"foobar\" in dbfile 0"}},"id":"x"}"#,
        ),
    ]);
}

#[test]
fn requests_that_are_none() {
    let error = |code: i32, message: &str, id: &str| {
        format!(r#"{{"error":{{"code":{code},"message":"{message}"}},"id":{id}}}"#)
    };
    let mut shard = Shard::new();
    for (request, expected) in [
        (r#"{"params":[],"id":1}"#, error(-32600, "invalid json stream, not method property", "1")),
        (r#"{"method":7,"params":[],"id":1}"#, error(-32600, "invalid json stream, not method property", "1")),
        (
            r#"{"method":"execute","id":[1,{"a":null}]}"#,
            error(-32600, "invalid json stream, not params property", r#"[1,{"a":null}]"#),
        ),
        (
            r#"{"method":"execute","params":{"dbfile":0}}"#,
            error(-32600, "invalid json stream, not params property", "null"),
        ),
        ("7", error(-32600, "invalid json stream, not method property", "null")),
        ("null", error(-32600, "invalid json stream, not method property", "null")),
        ("[]", error(-32600, "invalid json stream, an empty batch", "null")),
        (r#"{"method":"drop","params":[],"id":"x"}"#, error(-32601, "Method not found.", r#""x""#)),
        (r#"{"method":"","params":[],"id":2.5}"#, error(-32601, "Method not found.", "2.5")),
        (r#"{"method":"execute","params":[],"id":1}"#, error(-32602, "invalid params, not dbfile property", "1")),
        (r#"{"method":"execute","params":[7],"id":1}"#, error(-32602, "invalid params, not dbfile property", "1")),
        (
            r#"{"method":"execute","params":[{"dbfile":"0"}],"id":1}"#,
            error(-32602, "invalid params, not dbfile property", "1"),
        ),
        (
            r#"{"method":"execute","params":[{"dbfile":-1}],"id":1}"#,
            error(-32602, "invalid params, not dbfile property", "1"),
        ),
        (
            r#"{"method":"execute","params":[{"dbfile":1.5}],"id":1}"#,
            error(-32602, "invalid params, not dbfile property", "1"),
        ),
        (
            r#"{"method":"execute","params":[{"dbfile":0}],"id":1}"#,
            error(-32602, "invalid params, not user property", "1"),
        ),
        (
            r#"{"method":"remove","params":[{"dbfile":0,"user":5}],"id":1}"#,
            error(-32602, "invalid params, not user property", "1"),
        ),
        (
            r#"{"method":"remove","params":[{"dbfile":0,"user":"u"}],"id":1}"#,
            error(-32602, "invalid params, not dbname property", "1"),
        ),
        (
            r#"{"method":"execute","params":[{"dbfile":0,"user":"u","dbname":"addrbook"}],"id":1}"#,
            error(-32602, "invalid params, not sql property", "1"),
        ),
        (
            r#"{"method":"execute","params":[{"dbfile":0,"user":"u","dbname":"addrbook","sql":[]}],"id":1}"#,
            error(-32602, "invalid params, not sql property", "1"),
        ),
        (
            r#"{"method":"execute","params":[{"dbfile":0,"user":"u","dbname":"addrbook","sql":"select 1"}],"id":1}"#,
            error(-32602, "invalid params, not sql property", "1"),
        ),
        (
            r#"{"method":"execute","params":[{"dbfile":0,"user":"u","dbname":"addrbook","sql":["select 1",2]}],"id":1}"#,
            error(-32602, "invalid params, not sql property", "1"),
        ),
    ] {
        assert_eq!(post(&mut shard, request), expected, "to {request}");
    }
    for (request, message) in [
        ("", "invalid json stream, EOF while parsing a value at line 1 column 0"),
        ("{", "invalid json stream, EOF while parsing an object at line 1 column 1"),
        ("{\"method\":\"execute\",}", "invalid json stream, trailing comma at line 1 column 21"),
        ("{} {}", "invalid json stream, trailing characters at line 1 column 4"),
    ] {
        assert_eq!(post(&mut shard, request), error(-32600, message, "null"), "to {request}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(post(&mut shard, &deep).contains("recursion limit exceeded"));
    assert_eq!(shard.stored_keys(), 0);
}

#[test]
fn databases_that_are_not_offered() {
    let refused = |code: i32, message: &str| {
        format!(
            r#"{{"error":{{"code":-32603,"message":"Internal error.","data":{{"code":{code},"message":"{message}"}}}},"id":1}}"#
        )
    };
    let mut shard = Shard::new();
    let call = |method: &str, dbfile: &str, user: &str, dbname: &str| {
        format!(
            r#"{{"method":"{method}","params":[{{"dbfile":{dbfile},"user":"{user}","dbname":"{dbname}","sql":["select 1"]}}],"id":1}}"#
        )
    };
    for (request, expected) in [
        (call("execute", "10", "u", "addrbook"), refused(-1, "invalid dbfile")),
        (call("remove", "10", "u", "addrbook"), refused(-1, "invalid dbfile")),
        (call("execute", "5000000000", "u", "addrbook"), refused(-1, "invalid dbfile")),
        (call("execute", "0", "u", "nothing"), refused(-1, "invalid dbname")),
        (call("remove", "0", "u", ""), refused(-1, "invalid dbname")),
        (call("execute", "0", "", "addrbook"), refused(-1, "user: must not be empty")),
    ] {
        assert_eq!(post(&mut shard, &request), expected, "to {request}");
    }
    assert!(
        post(&mut shard, &call("EXECUTE", "9", "u", "AddrBook")).starts_with(r#"{"result":"#),
        "in upper case as well"
    );
}

#[test]
fn statements_and_their_answers() {
    const WROTE_1_1: &str = r#"{"name":["affected","last_insert_rowid"],"type":["int","int"],"row":[[1,1]]}"#;
    let result = |tables: &[&str]| format!(r#"{{"result":[{}],"id":1}}"#, tables.join(","));
    let wrote = |affected: i64, rowid: i64| {
        format!(r#"{{"name":["affected","last_insert_rowid"],"type":["int","int"],"row":[[{affected},{rowid}]]}}"#)
    };
    let failed = |code: i32, message: &str| {
        format!(
            r#"{{"error":{{"code":-32603,"message":"Internal error.","data":{{"code":{code},"message":"{message}"}}}},"id":1}}"#
        )
    };
    let big = "9223372036854775807";
    let mut shard = Shard::new();
    for (sql, expected) in [
        // An empty select has its columns.
        (
            vec!["select * from note"],
            result(&[r#"{"name":["id","body","score"],"type":["INTEGER","null","REAL"],"row":[]}"#]),
        ),
        (vec!["insert into note(body) values ('hello')"], result(&[WROTE_1_1])),
        (
            vec!["SELECT id, body FROM note"],
            result(&[r#"{"name":["id","body"],"type":["INTEGER","null"],"row":[["1","hello"]]}"#]),
        ),
        (
            vec!["  select score, body || '!' as b, 1 from note"],
            result(&[r#"{"name":["score","b","1"],"type":["REAL","null","null"],"row":[["0.5","hello!","1"]]}"#]),
        ),
        (vec!["update note set body = null where id = 1"], result(&[&wrote(1, 0)])),
        (vec!["select body from note"], result(&[r#"{"name":["body"],"type":["null"],"row":[[null]]}"#])),
        (vec!["update note set body = 'x' where id = 77"], result(&[&wrote(0, 0)])),
        (
            vec!["insert into note(body) values ('b'), ('c')", "delete from note where id > 1"],
            result(&[&wrote(2, 3), &wrote(2, 3)]),
        ),
        (
            vec!["create table extra(v)", "insert into extra values (1)", "drop table extra"],
            result(&[&wrote(0, 0), WROTE_1_1, &wrote(0, 1)]),
        ),
        // Quoting, of SQL and of JSON.
        (vec!["insert into note values (10, 'it''s \"quoted\" \\ and / \t\u{1}\n', 1e100)"], result(&[&wrote(1, 10)])),
        (
            vec!["select * from note where id = 10"],
            result(&[
                r#"{"name":["id","body","score"],"type":["INTEGER","null","REAL"],"row":[["10","it's \"quoted\" \\ and / \t\u0001\n","1.0e+100"]]}"#,
            ]),
        ),
        (
            vec!["select \"double\" as d, 'naïve 😀' as n"],
            result(&[r#"{"name":["d","n"],"type":["null","null"],"row":[["double","naïve 😀"]]}"#]),
        ),
        // Numbers as SQLite writes them, and none cut to 32 bits.
        (
            vec!["select 1.0, 0.1, 1e18, -1e-7, 3.14159265358979"],
            result(&[
                r#"{"name":["1.0","0.1","1e18","-1e-7","3.14159265358979"],"type":["null","null","null","null","null"],"row":[["1.0","0.1","1.0e+18","-1.0e-07","3.14159265358979"]]}"#,
            ]),
        ),
        (
            vec!["insert into note(id) values (9223372036854775807)"],
            result(&[&format!(
                r#"{{"name":["affected","last_insert_rowid"],"type":["int","int"],"row":[[1,{big}]]}}"#
            )]),
        ),
        (
            vec!["select max(id) from note"],
            result(&[&format!(r#"{{"name":["max(id)"],"type":["null"],"row":[["{big}"]]}}"#)]),
        ),
        (vec!["delete from note where id = 9223372036854775807"], result(&[&wrote(1, 0)])),
        // Blobs as text, whatever they are.
        (
            vec!["select x'616263' as a, x'ff00' as b, x'' as c"],
            result(&[
                "{\"name\":[\"a\",\"b\",\"c\"],\"type\":[\"null\",\"null\",\"null\"],\"row\":[[\"abc\",\"\u{fffd}\\u0000\",\"\"]]}",
            ]),
        ),
        (
            vec!["select cast(x'61ff' as text) as t"],
            result(&["{\"name\":[\"t\"],\"type\":[\"null\"],\"row\":[[\"a\u{fffd}\"]]}"]),
        ),
        // Rows, though it is no SELECT.
        (
            vec!["insert into note(id) values (20) returning id"],
            result(&[r#"{"name":["id"],"type":["INTEGER"],"row":[["20"]]}"#]),
        ),
        (
            vec!["with t(x) as (values (1), (2)) select x from t"],
            result(&[r#"{"name":["x"],"type":["null"],"row":[["1"],["2"]]}"#]),
        ),
        (vec!["pragma user_version"], result(&[r#"{"name":["user_version"],"type":["null"],"row":[["0"]]}"#])),
        // Several statements in one text, and none.
        (
            vec!["delete from note; insert into note(body) values ('one'); insert into note(body) values ('two')"],
            result(&[&wrote(1, 2)]),
        ),
        (
            vec!["select count(*) from note; delete from note where id = 2"],
            result(&[r#"{"name":["count(*)"],"type":["null"],"row":[["2"]]}"#]),
        ),
        (vec!["", " ; -- nothing"], result(&[&wrote(0, 0), &wrote(0, 0)])),
        (vec!["select count(*) as n from note"], result(&[r#"{"name":["n"],"type":["null"],"row":[["1"]]}"#])),
        // What fails, at whatever place, leaves nothing.
        (vec!["selec 1"], failed(1, r#"near \"selec\": syntax error"#)),
        (vec!["select missing from note"], failed(1, "no such column: missing")),
        (vec!["insert into note(id) values (1)"], failed(19, "UNIQUE constraint failed: note.id")),
        (
            vec![
                "insert into note(body) values ('lost')",
                "select 1",
                "insert into nowhere values (1)",
                "delete from note",
            ],
            failed(1, "no such table: nowhere"),
        ),
        (vec!["delete from note", "insert into note(id) values ('x')"], failed(20, "datatype mismatch")),
        (vec!["delete from note; select * from nowhere"], failed(1, "no such table: nowhere")),
        (
            vec!["begin", "select 1"],
            failed(23, "BEGIN is refused: all statements of a request are one transaction; use SAVEPOINT within it"),
        ),
        (vec!["attach '/tmp/x' as y"], failed(23, "ATTACH and VACUUM INTO are refused: a request has one database")),
        (vec!["select zeroblob(2000000)"], failed(18, "string or blob too big: above the limit of 1048576 bytes")),
        (vec!["select 'never ending", "select 1"], failed(1, r#"unrecognized token: \"'never ending\""#)),
        (vec!["select ?"], result(&[r#"{"name":["?"],"type":["null"],"row":[[null]]}"#])),
        (
            vec!["select id, body from note"],
            result(&[r#"{"name":["id","body"],"type":["INTEGER","null"],"row":[["1","one"]]}"#]),
        ),
    ] {
        assert_eq!(post(&mut shard, &execute("notes", &sql)), expected, "to {sql:?}");
    }
}

#[test]
fn several_requests_in_one_body() {
    let mut shard = Shard::new();
    let insert = execute("notes", &["insert into note(body) values ('a')"]);
    let select = execute("notes", &["select count(*) as n from note"]);
    let answer =
        post(&mut shard, &format!(r#"[{insert},7,{{"method":"fly","params":[],"id":"f"}},{insert},{select}]"#));
    let wrote = |rowid: u32| {
        format!(
            r#"{{"result":[{{"name":["affected","last_insert_rowid"],"type":["int","int"],"row":[[1,{rowid}]]}}],"id":1}}"#
        )
    };
    let expected = format!(
        "[{},{},{},{},{}]",
        wrote(1),
        r#"{"error":{"code":-32600,"message":"invalid json stream, not method property"},"id":null}"#,
        r#"{"error":{"code":-32601,"message":"Method not found."},"id":"f"}"#,
        wrote(2),
        r#"{"result":[{"name":["n"],"type":["null"],"row":[["2"]]}],"id":1}"#,
    );
    assert_eq!(answer, expected);

    let many = vec![&insert[..]; BATCH_CALLS_MAX + 1].join(",");
    let answer = post(&mut shard, &format!("[{many}]"));
    assert_eq!(
        answer,
        r#"{"error":{"code":-32600,"message":"invalid json stream, a batch of 101 calls, above the limit of 100"},"id":null}"#
    );
    // A client of version 2.0 is told so.
    let version_2 = select.replacen('{', r#"{"jsonrpc":"2.0","#, 1);
    assert!(post(&mut shard, &version_2).starts_with(r#"{"jsonrpc":"2.0","result":[{"#));
}
