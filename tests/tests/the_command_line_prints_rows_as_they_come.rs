//! `cirrus sql query` and the shell print results of any size, row by row, and never a part as if it were all.
#![allow(clippy::unwrap_used)]

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cirrus_tests::cluster::{TestCluster, cirrus_binary};
use cirrus_tests::outcome::TestResult;
use cirrus_tests::sql::{database, statement};
use cirrus_tests::wait::eventually;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};

/// Of a kilobyte each: several times what one message may have.
const ROWS: usize = 20_000;
const WITHIN: Duration = Duration::from_secs(60);

fn numbered(rows: usize) -> String {
    format!(
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {rows}) \
         SELECT n, printf('%.1000c', 'x') AS v FROM c"
    )
}

fn start(cluster: &TestCluster, arguments: &[&str]) -> Result<Child> {
    let mut command = Command::new(cirrus_binary()?);
    command.args(arguments).env("CIRRUS_ENDPOINTS", cluster.endpoints().join(",")).kill_on_drop(true);
    Ok(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
}

/// Exit code, standard output and standard error.
async fn run(cluster: &TestCluster, arguments: &[&str], input: &str) -> Result<(i32, String, String)> {
    let mut child = start(cluster, arguments)?;
    let mut stdin = child.stdin.take().context("a standard input")?;
    stdin.write_all(input.as_bytes()).await?;
    drop(stdin);
    let ended = tokio::time::timeout(WITHIN, child.wait_with_output()).await.context("it does not end")??;
    let code = ended.status.code().context("it was killed")?;
    Ok((code, String::from_utf8(ended.stdout)?, String::from_utf8(ended.stderr)?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_them_or_an_error() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let create = vec![statement("CREATE TABLE t (a)", []), statement("INSERT INTO t VALUES (1)", [])];
    cluster.node(1)?.execute_sql(&database("ada", "book"), create, None).await?;
    let query = ["sql", "query", "ada/book"];

    // As a table: aligned with what was printed, rows that follow may be wider.
    let (code, output, errors) = run(&cluster, &[&query[..], &[&numbered(ROWS)]].concat(), "").await?;
    assert_eq!((code, &errors[..]), (0, ""));
    let mut lines = output.lines();
    assert_eq!(lines.next().map(str::trim_end), Some("n    v"));
    let mut count = 0;
    for line in lines {
        count += 1;
        let (number, text) = line.split_once(' ').context("two columns")?;
        assert_eq!(number.parse::<usize>()?, count, "{line}");
        assert!(text.trim_start().starts_with("xxx") && text.ends_with("(1000 bytes)"), "{line}");
        assert!(count < 200 || line.find('x') >= Some(5), "row {count} is not below those before it: {line}");
    }
    assert_eq!(count, ROWS);

    // As one object, whose shape is that of small results.
    let numbers = numbered(ROWS);
    let two = [&query[..], &["SELECT a FROM t", &numbers, "-o", "json"]].concat();
    let (code, output, errors) = run(&cluster, &two, "").await?;
    assert_eq!((code, &errors[..]), (0, ""));
    let answer: Value = serde_json::from_str(&output)?;
    assert_eq!(answer["results"][0]["rows"].to_string(), "[[1]]");
    let large = answer["results"][1].as_object().context("an object")?;
    assert_eq!(large.keys().collect::<Vec<_>>(), ["columns", "rows", "affected_rows", "last_insert_rowid"]);
    let rows = large["rows"].as_array().context("rows")?;
    assert!(rows.len() == ROWS && rows.iter().zip(1..).all(|(row, n)| row[0] == n && row[1].to_string().len() == 1002));

    // An error midway, behind rows that were printed: exit 2, a reason, and in JSON no object.
    let fails =
        numbered(ROWS).replace("SELECT n,", "SELECT CASE n WHEN 4000 THEN abs(-9223372036854775808) ELSE n END,");
    for format in ["table", "json"] {
        let (code, output, errors) = run(&cluster, &[&query[..], &[&fails, "-o", format]].concat(), "").await?;
        assert!(code == 2 && errors.contains("SQL_INVALID"), "{code}: {errors}");
        assert!(output.len() > 1000, "{format}: {output}");
        assert!(serde_json::from_str::<Value>(&output).is_err());
    }
    // Before the first row nothing is printed.
    for format in ["table", "json"] {
        let (code, output, errors) =
            run(&cluster, &[&query[..], &["SELECT b FROM t", "-o", format]].concat(), "").await?;
        assert!(code == 2 && output.is_empty() && errors.contains("no such column: b"), "{code}: {output}{errors}");
    }

    // The shell as well; what begins as a query and writes is still a transaction, and a database need not be there.
    let script = format!(
        "{};\nWITH c(n) AS (VALUES (7)) INSERT INTO t SELECT n FROM c;\nSELECT sum(a) AS sum FROM t;\n",
        numbered(ROWS)
    );
    let (code, output, errors) = run(&cluster, &["sql", "shell", "ada/book"], &script).await?;
    assert!(code == 0 && errors.contains("1 row changed"), "{code}: {errors}");
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.len(), 1 + ROWS + 2);
    assert_eq!(lines[1 + ROWS..], ["sum", "8"]);
    let (code, output, errors) = run(&cluster, &["sql", "shell", "nobody/book"], "SELECT 1 AS one").await?;
    assert_eq!((code, &output[..], &errors[..]), (0, "one\n1\n", ""));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_query_still_runs() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let create = vec![statement("CREATE TABLE t (a)", [])];
    cluster.node(1)?.execute_sql(&database("ada", "book"), create, None).await?;
    let endless =
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT n, printf('%.1000c', 'x') FROM c";
    for format in ["table", "json"] {
        let mut child = start(&cluster, &["sql", "query", "ada/book", endless, "-o", format])?;
        let mut output = BufReader::new(child.stdout.take().context("a standard output")?);
        let read = async {
            let mut line = Vec::new();
            match format {
                "table" => {
                    for _ in 0..100 {
                        line.clear();
                        output.read_until(b'\n', &mut line).await?;
                    }
                    ensure!(line.starts_with(b"99 "), "{}", String::from_utf8_lossy(&line));
                }
                _ => {
                    line.resize(100_000, 0);
                    output.read_exact(&mut line).await?;
                    ensure!(line.starts_with(b"{\"results\":[{\"columns\":[{\"name\":\"n\""));
                }
            }
            Ok(())
        };
        tokio::time::timeout(WITHIN, read).await.context("no rows of a query that runs")??;
        // Whoever reads goes away, as `head` does: the command ends without a complaint, and so does the query.
        drop(output);
        let ended = tokio::time::timeout(WITHIN, child.wait_with_output()).await.context("it goes on")??;
        assert!(ended.stderr.is_empty(), "{}", String::from_utf8_lossy(&ended.stderr));
        eventually("the query is over", Duration::from_secs(20), async || {
            for node_id in cluster.node_ids() {
                let (_, text) = cluster.http_get(node_id, "/metrics").await?;
                let line = text.lines().find(|line| line.contains("in_flight{kind=\"query streams\"}"));
                ensure!(line.is_none_or(|line| line.ends_with(" 0")), "node {node_id}: {line:?}");
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}
