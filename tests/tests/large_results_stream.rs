//! A query whose results are larger than a reply may be: all of it flows, from one moment, through any node.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use anyhow::{Context as _, ensure};
use cirrus_proto::Reason;
use cirrus_proto::v1::{ReadConsistency, SqlDatabase, SqlQueryStreamRequest, SqlQueryStreamResponse};
use cirrus_tests::cluster::TestCluster;
use cirrus_tests::node_client::{NodeClient, reason};
use cirrus_tests::outcome::TestResult;
use cirrus_tests::sql::{database, integer, rows, single_integer, statement};
use cirrus_tests::wait::eventually;
use tonic::Status;

/// Of 1,000 bytes each.
const ROWS: i64 = 40_000;

const COUNT: &str = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 4000)";

fn request(database: &SqlDatabase, sql: &[&str], consistency: ReadConsistency) -> SqlQueryStreamRequest {
    let statements = sql.iter().map(|sql| statement(sql, [])).collect();
    SqlQueryStreamRequest { database: Some(database.clone()), statements, consistency: consistency.into() }
}

/// All parts, or the failure behind those that came.
async fn streamed(node: &NodeClient, request: SqlQueryStreamRequest) -> (Vec<SqlQueryStreamResponse>, Option<Status>) {
    let mut parts = Vec::new();
    let mut stream = match node.sql.clone().query_stream(request).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return (parts, Some(status)),
    };
    loop {
        match stream.message().await {
            Ok(Some(part)) => parts.push(part),
            Ok(None) => return (parts, None),
            Err(status) => return (parts, Some(status)),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_every_node() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let nodes = cluster.all_nodes()?;
    let book = database("ada", "book");
    let create = statement("CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)", []);
    nodes[0].execute_sql(&book, vec![create], None).await?;
    for _ in 0..10 {
        let insert = format!("{COUNT} INSERT INTO t (v) SELECT printf('%.1000c', 'x') FROM c");
        // A write set's worth at a time.
        for limit in ["n <= 2000", "n > 2000"] {
            let insert = statement(&format!("{insert} WHERE {limit}"), []);
            nodes[0].execute_sql(&book, vec![insert], None).await?;
        }
    }

    let all = "SELECT id, v FROM t ORDER BY id";
    let too_large = nodes[0].query_sql(&book, all, ReadConsistency::Unspecified).await.unwrap_err();
    assert!(reason(&too_large) == Some(Reason::SqlReplyTooLarge), "{too_large:?}");
    for (node, consistency) in
        nodes.iter().zip([ReadConsistency::Linearizable, ReadConsistency::Lease, ReadConsistency::Linearizable])
    {
        let (parts, failure) = streamed(node, request(&book, &["SELECT 7 AS n", all], consistency)).await;
        assert!(failure.is_none(), "through {}: {failure:?}", node.address);
        assert!(parts[0].statement == 0 && parts[0].last && parts[0].columns[0].name == "n", "{:?}", parts[0]);
        assert!(parts[0].rows[0].cells == [integer(7)]);
        let rest = &parts[1..];
        assert!(rest[0].columns.len() == 2 && rest[1..].iter().all(|part| part.columns.is_empty()));
        assert!(rest.iter().all(|part| part.statement == 1));
        assert!(rest.iter().map(|part| part.last).eq((1..=rest.len()).map(|nth| nth == rest.len())));
        let ids = rest.iter().flat_map(|part| &part.rows).map(|row| row.cells[0].clone());
        assert!(ids.eq((1..=ROWS).map(integer)), "rows are missing, or out of order");
        let largest = rest.iter().map(|part| part.rows.len()).max().context("no parts")?;
        assert!((200..300).contains(&largest), "a part of {largest} rows, of a kilobyte each");
    }

    // One moment: what is written while it flows does not show. The client holds it up until the table is empty.
    let node = &nodes[1];
    let read = request(&book, &[all], ReadConsistency::Linearizable);
    let mut stream = node.sql.clone().query_stream(read).await?.into_inner();
    let mut seen = stream.message().await?.context("no part")?.rows.len();
    for (from, to) in (0..20).map(|nth| (nth * 2000, (nth + 1) * 2000)) {
        let delete = statement("DELETE FROM t WHERE id > ? AND id <= ?", [integer(from), integer(to)]);
        node.execute_sql(&book, vec![delete], None).await?;
    }
    let counted = node.query_sql(&book, "SELECT count(*) FROM t", ReadConsistency::Linearizable).await?;
    assert!(single_integer(&counted)? == 0);
    while let Some(part) = stream.message().await? {
        seen += part.rows.len();
    }
    assert!(seen == ROWS as usize, "{seen} rows of {ROWS}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_what_ends_early_says_so() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let nodes = cluster.all_nodes()?;
    let book = database("bob", "book");
    nodes[0].execute_sql(&book, vec![statement("CREATE TABLE t (id INTEGER PRIMARY KEY, v)", [])], None).await?;
    let linearizable = ReadConsistency::Linearizable;

    for node in &nodes {
        // Some hundred kilobytes of rows, then an error.
        let sql = format!(
            "{COUNT} SELECT printf('%.1000c', 'x'), CASE n WHEN 3999 THEN abs(-9223372036854775808) ELSE n END FROM c"
        );
        let (parts, failure) = streamed(node, request(&book, &[&sql], linearizable)).await;
        let failure = failure.context("a result that was cut short seemed complete")?;
        assert!(reason(&failure) == Some(Reason::SqlInvalid), "{failure:?}");
        assert!(!parts.is_empty() && parts.iter().all(|part| !part.last));

        for (sql, expected) in [
            ("DELETE FROM t", Reason::SqlReadOnly),
            ("SELECT * FROM nowhere", Reason::SqlInvalid),
            ("ATTACH '/etc/passwd' AS x", Reason::SqlNotAllowed),
        ] {
            let (parts, failure) = streamed(node, request(&book, &[sql], linearizable)).await;
            assert!(failure.as_ref().and_then(reason) == Some(expected), "{sql}: {failure:?}");
            assert!(parts.is_empty());
        }
        let (_, failure) = streamed(node, request(&book, &[], linearizable)).await;
        assert!(failure.as_ref().and_then(reason) == Some(Reason::InvalidField), "{failure:?}");
        let (_, failure) = streamed(node, request(&database("nobody", "book"), &["SELECT 1"], linearizable)).await;
        assert!(failure.as_ref().and_then(reason) == Some(Reason::DatabaseNotFound), "{failure:?}");
    }

    // A client that goes away ends the query, wherever it runs; one that would never end ends as well.
    let endless =
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT printf('%.1000c', 'x') FROM c";
    let mut streams = Vec::new();
    for node in &nodes {
        let mut stream = node.sql.clone().query_stream(request(&book, &[endless], linearizable)).await?.into_inner();
        stream.message().await?.context("no part")?;
        streams.push(stream);
    }
    let under_way = || async {
        let mut sum = 0.0;
        for node_id in cluster.node_ids() {
            let (_, text) = cluster.http_get(node_id, "/metrics").await?;
            let line = "cirrus_requests_in_flight{kind=\"query streams\"} ";
            let count = text.lines().find_map(|found| found.strip_prefix(line)).map_or(Ok(0.0), str::parse::<f64>)?;
            sum += count;
        }
        anyhow::Ok(sum)
    };
    assert!(under_way().await? >= 3.0);
    drop(streams);
    eventually("the queries of clients that left are over", Duration::from_secs(20), async || {
        let sum = under_way().await?;
        ensure!(sum == 0.0, "{sum} query streams are under way");
        Ok(())
    })
    .await?;
    let found = nodes[0].query_sql(&book, "SELECT 1", linearizable).await?;
    assert!(rows(&found) == [[integer(1)]]);
    Ok(())
}
