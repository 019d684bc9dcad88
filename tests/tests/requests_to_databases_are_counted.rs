//! What requests to databases cost shows in the node's metrics, by kind, and slow ones in its log: sizes, and no values.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use anyhow::{Result, ensure};
use cirrus_proto::Reason;
use cirrus_proto::v1::{ReadConsistency, SqlDescribeRequest, SqlListRequest, SqlPutSchemaRequest, SqlRemoveRequest};
use cirrus_tests::cluster::{ClusterOptions, TestCluster};
use cirrus_tests::node_client::reason;
use cirrus_tests::outcome::TestResult;
use cirrus_tests::sql::{database, statement, text};
use cirrus_tests::wait::eventually;

/// Takes longer than what is slow, whatever the machine.
const SLOW: &str = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 2000000)
    SELECT count(*), 'a secret' FROM c";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_kind() -> TestResult {
    let options = ClusterOptions { nodes: 1, shards: 1, ..ClusterOptions::default() };
    let cluster = TestCluster::start(options).await?;
    let (node, client) = (cluster.node(1)?, cluster.client(true).await?);
    let put = async |ddl: &str| {
        let request = SqlPutSchemaRequest { dbname: "book".to_owned(), ddl: ddl.to_owned(), ..Default::default() };
        client.put_schema(request).await
    };
    let insert = |value: &str| vec![statement("INSERT INTO people (name) VALUES (?)", [text(value)])];
    let (ada, bob) = (database("ada", "book"), database("bob", "book"));
    put("CREATE TABLE people (name TEXT)").await?;
    for one in [&ada, &ada, &ada, &bob, &bob] {
        node.execute_sql(one, insert("same"), None).await?;
    }
    let failed = node.execute_sql(&ada, vec![statement("INSERT INTO nowhere VALUES (1)", [])], None).await.unwrap_err();
    assert_eq!(reason(&failed), Some(Reason::SqlInvalid));
    // Bob's gets a column; none can get the index.
    put("CREATE TABLE people (name TEXT, mail TEXT)").await?;
    node.execute_sql(&bob, insert("other"), None).await?;
    put("CREATE TABLE people (name TEXT, mail TEXT); CREATE UNIQUE INDEX by_name ON people (name)").await?;
    let failed = node.execute_sql(&ada, insert("same"), None).await.unwrap_err();
    assert_eq!(reason(&failed), Some(Reason::SchemaUpgradeFailed));

    let free = database("eve", "free");
    node.execute_sql(&free, vec![statement("CREATE TABLE t (x)", [])], None).await?;
    for _ in 0..2 {
        node.query_sql(&free, "SELECT * FROM t", ReadConsistency::Unspecified).await?;
    }
    node.query_sql(&free, SLOW, ReadConsistency::Unspecified).await?;
    let describe = SqlDescribeRequest { database: Some(free.clone()), ..Default::default() };
    node.sql.clone().describe(describe).await?;
    node.sql.clone().list(SqlListRequest::default()).await?;
    node.sql.clone().remove(SqlRemoveRequest { database: Some(free), request_id: None }).await?;

    let (code, text) = cluster.http_get(1, "/metrics").await?;
    assert_eq!(code, 200);
    let value = |series: &str| -> Result<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(Ok(0.0), |value| Ok(value.parse()?))
    };
    for (series, expected) in [
        (r#"cirrus_sql_requests_total{request="execute"}"#, 9.0),
        (r#"cirrus_sql_requests_total{request="query"}"#, 3.0),
        (r#"cirrus_sql_requests_total{request="describe"}"#, 1.0),
        (r#"cirrus_sql_requests_total{request="list"}"#, 1.0),
        (r#"cirrus_sql_requests_total{request="remove"}"#, 1.0),
        (r#"cirrus_sql_requests_total{request="import"}"#, 0.0),
        (r#"cirrus_sql_failures_total{request="execute",reason="SQL_INVALID"}"#, 1.0),
        (r#"cirrus_sql_failures_total{request="execute",reason="SCHEMA_UPGRADE_FAILED"}"#, 1.0),
        (r#"cirrus_sql_seconds_count{request="execute"}"#, 9.0),
        // Ada's and Bob's at their first version, and Bob's at the second.
        (r#"cirrus_sql_upgrades_total{outcome="upgraded"}"#, 3.0),
        (r#"cirrus_sql_upgrades_total{outcome="failed"}"#, 1.0),
        // Eve's was closed by its removal, and Ada's by the upgrade that failed.
        (r#"cirrus_sql_open_databases{shard="1"}"#, 1.0),
    ] {
        assert_eq!(value(series)?, expected, "{series} in\n{text}");
    }
    let at_least = |series: &str, least: f64| -> Result<()> {
        let found = value(series)?;
        ensure!(found >= least, "{series} is {found}, and not at least {least}, in\n{text}");
        Ok(())
    };
    at_least(r#"cirrus_sql_opens_total{database="opened"}"#, 3.0)?;
    at_least(r#"cirrus_sql_opens_total{database="found_open"}"#, 3.0)?;
    at_least("cirrus_sql_pages_written_total", 7.0)?;
    at_least(r#"cirrus_sql_write_bytes_total{request="execute"}"#, 500.0)?;
    at_least(r#"cirrus_sql_open_bytes{shard="1"}"#, 10_000.0)?;
    at_least(r#"cirrus_sql_open_databases{shard="queries"}"#, 1.0)?;
    assert!(!text.contains("book") && !text.contains("ada"), "what clients choose is no label");

    let log = cluster.directory()?.join("node-1.log");
    eventually("the slow query is in the log", Duration::from_secs(10), async || {
        let log = std::fs::read_to_string(&log)?;
        let line = log.lines().find(|line| line.contains("a slow request to a database") && line.contains("query"));
        let Some(line) = line else { anyhow::bail!("it is not") };
        ensure!(line.contains("statements=1") && line.contains("outcome=\"ok\""), "{line}");
        ensure!(!log.contains("secret"), "a value is in the log");
        Ok(())
    })
    .await?;
    Ok(())
}
