//! A client that takes nothing of its stream loses it after a while, is told so, and meanwhile holds up nobody else.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use anyhow::{Context as _, ensure};
use cirrus_proto::Reason;
use cirrus_proto::v1::{ReadConsistency, SqlDatabase, SqlQueryStreamRequest, SqlQueryStreamResponse};
use cirrus_tests::cluster::{ClusterOptions, TestCluster};
use cirrus_tests::node_client::{NodeClient, reason};
use cirrus_tests::outcome::TestResult;
use cirrus_tests::sql::{database, integer, open_exported, rows, statement};
use cirrus_tests::wait::eventually;
use tokio::time::timeout;
use tonic::{Status, Streaming};

/// Bounds every wait for a node.
const WITHIN: Duration = Duration::from_secs(30);

/// More than one connection's usual window has room for.
const STREAMS: usize = 8;

/// Longer than a request of [`TestCluster::node`]'s clients may take: what is held up until streams are given up fails.
const CONFIG: &str = "[sql]\nquery_streams = 8\nstream_idle_ms = 8000\n";

/// More than all that lies between the node and a client can hold.
const ENDLESS: &str =
    "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT n, printf('%.1000c', 'x') FROM c";

fn request(database: &SqlDatabase) -> SqlQueryStreamRequest {
    let statements = vec![statement(ENDLESS, [])];
    SqlQueryStreamRequest { database: Some(database.clone()), statements, ..Default::default() }
}

/// The next part, which must not keep the test for ever.
async fn next(stream: &mut Streaming<SqlQueryStreamResponse>) -> Result<Option<SqlQueryStreamResponse>, Status> {
    timeout(WITHIN, stream.message()).await.unwrap_or_else(|_| panic!("no part, no end and no error within {WITHIN:?}"))
}

async fn open(node: &NodeClient, book: &SqlDatabase) -> Result<Streaming<SqlQueryStreamResponse>, Status> {
    let opened = timeout(WITHIN, node.sql.clone().query_stream(request(book))).await;
    Ok(opened.unwrap_or_else(|_| panic!("no stream and no refusal within {WITHIN:?}"))?.into_inner())
}

async fn under_way(cluster: &TestCluster) -> anyhow::Result<f64> {
    let mut sum = 0.0;
    for node_id in cluster.node_ids() {
        let (_, text) = cluster.http_get(node_id, "/metrics").await?;
        let line = "cirrus_requests_in_flight{kind=\"query streams\"} ";
        sum += text.lines().find_map(|found| found.strip_prefix(line)).map_or(Ok(0.0), str::parse::<f64>)?;
    }
    Ok(sum)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_are_told() -> TestResult {
    let cluster = TestCluster::start(ClusterOptions { config: CONFIG.to_owned(), ..Default::default() }).await?;
    cluster.wait_spread().await?;
    let book = database("ada", "book");
    let leader = cluster.leader_of_shard(cluster.shard_of("{ada}").await?).await?;
    let follower = cluster.node_ids().into_iter().find(|&node_id| node_id != leader).context("a follower")?;
    let fill = "INSERT INTO t SELECT value, hex(randomblob(600)) FROM (WITH RECURSIVE c(value) AS \
                (SELECT 1 UNION ALL SELECT value + 1 FROM c WHERE value < 1500) SELECT value FROM c)";
    let create = vec![statement("CREATE TABLE t (id INTEGER PRIMARY KEY, v)", []), statement(fill, [])];
    cluster.node(leader)?.execute_sql(&book, create, None).await?;

    for node_id in [leader, follower] {
        let node = cluster.node(node_id)?;
        let mut stalled = Vec::new();
        for _ in 0..STREAMS {
            // Each has a connection of its own, so that it is the node's side that is asked for.
            let client = NodeClient::new(&cluster.endpoint(node_id)?, Duration::from_secs(60))?;
            let mut stream = open(&client, &book).await?;
            let first = next(&mut stream).await?.context("no part")?;
            assert!(!first.rows.is_empty() && !first.last);
            stalled.push(stream);
        }
        let refused = open(&node, &book).await.unwrap_err();
        assert!(reason(&refused) == Some(Reason::TooManyRequests), "{refused:?}");

        // What goes the same way goes on, as does the shard.
        let file = node.export(&book, ReadConsistency::Linearizable).await?;
        open_exported(&file, cluster.directory()?)?;
        let insert = vec![statement("INSERT INTO t DEFAULT VALUES", [])];
        node.execute_sql(&book, insert, None).await?;
        let found = node.query_sql(&book, "SELECT 1", ReadConsistency::Linearizable).await?;
        assert!(rows(&found) == [[integer(1)]]);

        // Neither thread nor snapshot nor place is kept for them.
        eventually("streams that nobody reads are given up", Duration::from_secs(30), async || {
            let sum = under_way(&cluster).await?;
            ensure!(sum == 0.0, "{sum} query streams are under way");
            Ok(())
        })
        .await?;
        for mut stream in stalled {
            let failure = loop {
                match next(&mut stream).await {
                    Ok(Some(part)) => assert!(!part.last, "a result without an end has one"),
                    Ok(None) => panic!("a result that was cut short seemed complete"),
                    Err(status) => break status,
                }
            };
            assert!(reason(&failure) == Some(Reason::StreamIdle), "{failure:?}");
            assert!(failure.message().contains("8000 ms"), "{failure:?}");
        }
        // There is room for others.
        let mut stream = open(&node, &book).await?;
        next(&mut stream).await?.context("no part")?;
    }
    Ok(())
}
