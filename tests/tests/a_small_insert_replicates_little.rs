//! What one row adds to the log of each node where its database has 10 MiB: the pages that it changed, and not the database.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cirrus_proto::v1::{ReadConsistency, SqlDatabase, SqlDescribeRequest};
use cirrus_tests::cluster::{ClusterOptions, TestCluster};
use cirrus_tests::outcome::TestResult;
use cirrus_tests::shards::shard_status;
use cirrus_tests::sql::{database, single_integer, statement};
use cirrus_tests::wait::eventually;

const DATABASE_BYTES: u64 = 10 * 1024 * 1024;
const PROMISED_BYTES: f64 = 64.0 * 1024.0;

/// Inserts that are measured of each kind.
const INSERTS: usize = 12;

/// Bytes of text in a row.
const ROW_BYTES: usize = 400;

/// Where a row goes.
struct Kind {
    name: &'static str,
    tables: &'static [&'static str],
    /// Of a row: its key. Its body is random in any case.
    key: &'static str,
}

const KINDS: [Kind; 4] = [
    Kind {
        name: "at the end of a table",
        tables: &["CREATE TABLE t (key INTEGER PRIMARY KEY, body TEXT)"],
        key: "NULL",
    },
    Kind {
        name: "at the end of a table, and at random places of two indexes",
        tables: &[
            "CREATE TABLE t (key INTEGER PRIMARY KEY, body TEXT)",
            "CREATE INDEX by_body ON t (body)",
            "CREATE INDEX by_part ON t (substr(body, 10, 40))",
        ],
        key: "NULL",
    },
    Kind {
        name: "at a random place of a table",
        tables: &["CREATE TABLE t (key INTEGER PRIMARY KEY, body TEXT)"],
        key: "random()",
    },
    Kind {
        name: "at a random place of a table that is its own index, and of an index",
        tables: &["CREATE TABLE t (key TEXT PRIMARY KEY, body TEXT) WITHOUT ROWID", "CREATE INDEX by_body ON t (body)"],
        key: "hex(randomblob(16))",
    },
];

/// Inserts so many rows with random contents.
fn insert(kind: &Kind, rows: usize) -> String {
    let (key, half) = (kind.key, ROW_BYTES / 2);
    format!(
        "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {rows}) \
         INSERT INTO t SELECT {key}, hex(randomblob({half})) FROM c"
    )
}

/// Fills a database; its size.
async fn fill(cluster: &TestCluster, one: &SqlDatabase, kind: &Kind) -> Result<u64> {
    let node = cluster.node(1)?;
    let tables = kind.tables.iter().map(|table| statement(table, []));
    node.execute_sql(one, tables.collect(), None).await?;
    loop {
        // So few that what they change at random places fits a write set.
        node.execute_sql(one, vec![statement(&insert(kind, 1500), [])], None).await?;
        let request = SqlDescribeRequest { database: Some(one.clone()), ..Default::default() };
        let info = node.sql.clone().describe(request).await?.into_inner().info.context("a description without info")?;
        if info.size_bytes >= DATABASE_BYTES {
            return Ok(info.size_bytes);
        }
    }
}

/// Returns once all replicas of the shard have applied, and so appended, what there is.
async fn settled(cluster: &TestCluster, shard_id: u32) -> Result<()> {
    eventually("all replicas have applied all entries", Duration::from_secs(20), async || {
        let mut stands = Vec::new();
        for node in cluster.all_nodes()? {
            let status = node.status().await?;
            let shard = shard_status(&status, shard_id)?;
            stands.extend([shard.last_log_index, shard.applied_index]);
        }
        ensure!(stands.iter().all(|index| *index == stands[0]), "{stands:?}");
        Ok(())
    })
    .await
}

/// Bytes that the nodes have appended to their logs, of all shards.
async fn appended(cluster: &TestCluster) -> Result<Vec<f64>> {
    let mut bytes = Vec::new();
    for node_id in cluster.node_ids() {
        bytes.push(cluster.metric(node_id, "cirrus_log_append_bytes_total").await?);
    }
    Ok(bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_database_of_ten_megabytes() -> TestResult {
    let cluster = TestCluster::start(ClusterOptions { shards: 1, ..ClusterOptions::default() }).await?;
    for kind in &KINDS {
        let one = database(kind.name, "filled");
        let size = fill(&cluster, &one, kind).await?;
        let rows = "SELECT count(*) FROM t";
        let before = single_integer(&cluster.node(2)?.query_sql(&one, rows, ReadConsistency::Unspecified).await?)?;
        settled(&cluster, 1).await?;
        let mut largest: f64 = 0.0;
        let mut sum = 0.0;
        for number in 0..INSERTS {
            let before = appended(&cluster).await?;
            let node = cluster.node(number as u64 % 3 + 1)?;
            node.execute_sql(&one, vec![statement(&insert(kind, 1), [])], None).await?;
            settled(&cluster, 1).await?;
            for (node_id, (after, before)) in (1..).zip(appended(&cluster).await?.into_iter().zip(before)) {
                let bytes = after - before;
                assert!(bytes > ROW_BYTES as f64, "node {node_id} appended {bytes} bytes: less than the row");
                assert!(bytes < PROMISED_BYTES, "{}: node {node_id} appended {bytes} bytes", kind.name);
                largest = largest.max(bytes);
                sum += bytes;
            }
        }
        let after = single_integer(&cluster.node(2)?.query_sql(&one, rows, ReadConsistency::Unspecified).await?)?;
        assert_eq!(after, before + INSERTS as i64);
        eprintln!(
            "a row of {ROW_BYTES} bytes {}, of {size} bytes: {:.0} bytes a node on average, {largest} at most",
            kind.name,
            sum / (INSERTS * 3) as f64
        );
    }
    Ok(())
}
