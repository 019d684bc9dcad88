//! SPHiveDB's JSON-RPC over HTTP: its documented exchange, byte for byte save white space, on a three-node cluster that
//! took over its configuration; every error code; batches; and a bound on bodies.
#![allow(clippy::unwrap_used)]

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use cirrus_proto::v1::{ReadConsistency, SqlDatabase};
use cirrus_tests::cluster::{ClusterOptions, TestCluster, cirrus_binary};
use cirrus_tests::outcome::TestResult;
use cirrus_tests::sql::{database, rows, text};
use tokio::process::Command;

const CONFIGURATION: &str = "
[Server]
MaxConnections = 1024

[Database]
DBFileBegin = 0
DBFileEnd = 9

[ddl.addrbook]
create table addrbook ( id int, addr varchar(64) );
";

async fn cirrus(cluster: &TestCluster, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(cirrus_binary()?);
    command.args(arguments).env("CIRRUS_ENDPOINTS", cluster.endpoints().join(",")).stdin(Stdio::null());
    let output = command.output().await?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cirrus {arguments:?}: {errors}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Answers that differ in white space outside of strings only are the same; that of the documentation has line breaks.
fn packed(json: &str) -> String {
    let mut packed = String::new();
    let (mut in_string, mut escaped) = (false, false);
    for letter in json.chars() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => in_string = !in_string,
            _ => {}
        }
        if in_string || !letter.is_whitespace() {
            packed.push(letter);
        }
    }
    packed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_get_the_documented_answers() -> TestResult {
    let config = "[sql]\nhttp_body_bytes = 20000\n".to_owned();
    let cluster = TestCluster::start(ClusterOptions { config, ..ClusterOptions::default() }).await?;
    let answer = async |node_id: u64, body: &str| -> Result<String> {
        let (code, answer) = cluster.http_post(node_id, "/sphivedb", body).await?;
        ensure!(code == 200, "{code}: {answer}");
        Ok(packed(&answer))
    };

    // Nothing is offered before a configuration is there.
    let early =
        answer(1, r#"{"method":"remove","params":[{"dbfile":0,"user":"u","dbname":"addrbook"}],"id":1}"#).await?;
    assert!(early.contains(r#""code":-32603"#) && early.contains(r#""data":{"code":-1"#), "{early}");

    let file = cluster.directory()?.join("sphivedbsvr.ini");
    std::fs::write(&file, CONFIGURATION)?;
    let file = file.to_str().context("a path that is text")?;
    let imported = cirrus(&cluster, &["sql", "schema", "import", file]).await?;
    assert_eq!(imported, "addrbook version 1 is stored\ndbfiles 0 to 9\n");
    // Again: nothing changes.
    let imported = cirrus(&cluster, &["sql", "schema", "import", file]).await?;
    assert_eq!(imported, "addrbook version 1 says the same already\ndbfiles 0 to 9\n");

    // The documentation's exchange, through a node of its own each.
    let exchange = [
        (
            r#"{"method":"execute","params":[{"dbfile":0,"user":"foobar","dbname":"addrbook",
              "sql":["insert into addrbook values ( 1, \"foo@bar.com\" )","select * from addrbook"]}],"id":"foobar"}"#,
            r#"{"result":[{"name":["affected","last_insert_rowid"],"type":["int","int"],"row":[[1,1]]},
              {"name":["id","addr"],"type":["int","varchar(64)"],"row":[["1","foo@bar.com"]]}],"id":"foobar"}"#,
        ),
        (
            r#"{"method":"execute","params":[{"dbfile":0,"user":"foobar","dbname":"AddrBook",
              "sql":["select * from t"]}],"id":"x"}"#,
            r#"{"error":{"code":-32603,"message":"Internal error.","data":{"code":1,"message":"no such table: t"}},"id":"x"}"#,
        ),
        (
            r#"{"method":"remove","params":[{"dbfile":0,"user":"foobar","dbname":"addrbook"}],"id":"x"}"#,
            r#"{"result":0,"id":"x"}"#,
        ),
        // What had been a bug: an empty SELECT has its columns.
        (
            r#"{"method":"execute","params":[{"dbfile":0,"user":"foobar","dbname":"addrbook","sql":["select * from addrbook"]}],"id":7}"#,
            r#"{"result":[{"name":["id","addr"],"type":["int","varchar(64)"],"row":[]}],"id":7}"#,
        ),
    ];
    for (number, (request, expected)) in (0..).zip(exchange) {
        assert_eq!(answer(number % 3 + 1, request).await?, packed(expected), "{request}");
    }

    // Every error code, and what fails midway leaves nothing.
    let errors = [
        ("{", -32600),
        (r#"{"id":1}"#, -32600),
        (r#"{"method":"execute"}"#, -32600),
        (r#"{"method":"sing","params":[{}]}"#, -32601),
        (r#"{"method":"execute","params":[{"user":"u","dbname":"addrbook","sql":["select 1"]}]}"#, -32602),
        (r#"{"method":"execute","params":[{"dbfile":0,"user":"u","dbname":"addrbook"}]}"#, -32602),
        (r#"{"method":"execute","params":[{"dbfile":10,"user":"u","dbname":"addrbook","sql":["select 1"]}]}"#, -32603),
        (r#"{"method":"execute","params":[{"dbfile":0,"user":"u","dbname":"nothing","sql":["select 1"]}]}"#, -32603),
        (
            r#"{"method":"execute","params":[{"dbfile":0,"user":"foobar","dbname":"addrbook",
              "sql":["insert into addrbook values (1, 'a')","insert into nothing values (1)"]}]}"#,
            -32603,
        ),
        (r#"{"method":"remove","params":[{"dbfile":0,"user":"nobody","dbname":"addrbook"}]}"#, -32603),
    ];
    for (request, code) in errors {
        let answer = answer(2, request).await?;
        assert!(answer.contains(&format!(r#"{{"code":{code},"#)), "{request}: {answer}");
    }

    // A batch is answered in its order.
    let call = |id: u32, sql: &str| {
        format!(
            r#"{{"method":"execute","params":[{{"dbfile":3,"user":"b","dbname":"addrbook","sql":["{sql}"]}}],"id":{id}}}"#
        )
    };
    let batch = format!(
        "[{},{},{}]",
        call(1, "insert into addrbook values (1, 'x')"),
        call(2, "broken"),
        call(3, "select count(*) from addrbook")
    );
    let batch = answer(3, &batch).await?;
    assert!(batch.starts_with(r#"[{"result":[{"name":["affected""#), "{batch}");
    assert!(batch.contains(r#""row":[["1"]]}],"id":3}]"#), "{batch}");

    // It is the same database that gRPC and the command line have.
    let (node, same) = (cluster.node(1)?, SqlDatabase { dbfile: 3, ..database("b", "addrbook") });
    let found = node.query_sql(&same, "SELECT addr FROM addrbook", ReadConsistency::Unspecified).await?;
    assert_eq!(rows(&found), [[text("x")]]);
    let shown = cirrus(&cluster, &["sql", "query", "b/addrbook", "--dbfile", "3", "SELECT * FROM addrbook"]).await?;
    assert_eq!(shown, "id  addr\n1   x\n");

    let (code, _) = cluster.http_post(1, "/sphivedb", &"x".repeat(30_000)).await?;
    assert_eq!(code, 413);
    let (code, _) = cluster.http_get(1, "/sphivedb").await?;
    assert_eq!(code, 405);
    Ok(())
}
