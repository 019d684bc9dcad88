//! `kill -9` of a shard's leader under SQL: what was acknowledged is there, once, and every replica's databases are sound.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use anyhow::{Result, ensure};
use cirrus_client::Client;
use cirrus_proto::v1::{ReadConsistency, SqlDatabase};
use cirrus_tests::cluster::{ClusterOptions, TestCluster};
use cirrus_tests::outcome::TestResult;
use cirrus_tests::shards::shard_status;
use cirrus_tests::sql::{database, integer, open_exported, rows, single_integer, statement};
use cirrus_tests::wait::eventually;
use cirrus_tests::writers::Writers;

const CLIENTS: usize = 32;
const DATABASES: usize = 8;
const BALANCE: i64 = 1_000_000;

/// Moves one from one table to the other, and notes the number of the transfer.
async fn transfer(client: &Client, database: &SqlDatabase, number: i64) -> Result<()> {
    let statements = vec![
        statement("UPDATE savings SET balance = balance - 1", []),
        statement("INSERT INTO transfers (number) VALUES (?)", [integer(number)]),
        statement("UPDATE checking SET balance = balance + 1", []),
    ];
    client.execute_sql(database.clone(), statements).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_every_transfer_that_was_acknowledged_made_once() -> TestResult {
    let mut cluster = TestCluster::start(ClusterOptions { shards: 2, ..ClusterOptions::default() }).await?;
    let databases: Vec<SqlDatabase> =
        (0..DATABASES).map(|number| database(&format!("user-{number}"), "bank")).collect();
    // Request ids: what is sent again after a lost leader must not happen again. So numbers need not be unique to SQLite.
    let client = cluster.client(true).await?;
    for one in &databases {
        let statements = vec![
            statement("CREATE TABLE savings (balance INT)", []),
            statement("CREATE TABLE checking (balance INT)", []),
            statement("CREATE TABLE transfers (number INT)", []),
            statement("INSERT INTO savings VALUES (?)", [integer(BALANCE)]),
            statement("INSERT INTO checking VALUES (0)", []),
        ];
        client.execute_sql(one.clone(), statements).await?;
    }

    let writers = Writers::start(CLIENTS, {
        let (client, databases) = (client.clone(), databases.clone());
        move |of, number| {
            let (client, one) = (client.clone(), databases[of % DATABASES].clone());
            async move { transfer(&client, &one, number as i64).await }
        }
    });
    writers.kill_leaders(&mut cluster, &[1, 2], 300).await?;
    writers.wait_for(100).await?;
    let made = writers.end().await?;
    cluster.wait_ready().await?;
    eprintln!("{} transfers", made.count());

    for (number, one) in databases.iter().enumerate() {
        let numbers = made.numbers_of(|of| of % DATABASES == number);
        let expected: Vec<_> = numbers.iter().map(|&number| vec![integer(number)]).collect();
        let (node, all) = (cluster.node(1)?, "SELECT number FROM transfers ORDER BY 1");
        let found = node.query_sql(one, all, ReadConsistency::Unspecified).await?;
        assert_eq!(rows(&found), expected, "what was acknowledged is not what is there");
        for node in cluster.all_nodes()? {
            // Each replica's own state.
            eventually("the replica has all transfers", Duration::from_secs(20), async || {
                let count = node.query_sql(one, "SELECT count(*) FROM transfers", ReadConsistency::Stale).await?;
                ensure!(single_integer(&count)? == numbers.len() as i64, "{count:?} of {}", numbers.len());
                Ok(())
            })
            .await?;
            let file = node.export(one, ReadConsistency::Stale).await?;
            let opened = open_exported(&file, cluster.directory()?)?;
            let balance = |table: &str| -> Result<i64> {
                Ok(opened.query_row(&format!("SELECT balance FROM {table}"), [], |row| row.get(0))?)
            };
            assert_eq!(balance("checking")?, numbers.len() as i64, "a transfer was made in part, or twice");
            assert_eq!(balance("savings")? + balance("checking")?, BALANCE);
        }
    }
    cluster.identical_replicas(vec![]).await?;
    Ok(())
}

/// So small that the log of the writes below is purged many times over.
const SMALL_LOG: &str = "
[replication]
snapshot_log_entries = 100
keep_log_entries = 20
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_follower_that_returns_by_snapshot() -> TestResult {
    let options = ClusterOptions { shards: 1, config: SMALL_LOG.to_owned(), ..ClusterOptions::default() };
    let mut cluster = TestCluster::start(options).await?;
    let leader = cluster.leader_of_shard(1).await?;
    let follower = cluster.node_ids().into_iter().find(|&node_id| node_id != leader).unwrap();
    let writer = cluster.node(leader)?;
    let users: Vec<SqlDatabase> = (0..10).map(|number| database(&format!("user-{number}"), "notes")).collect();
    for one in &users {
        let create = "CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)";
        writer.execute_sql(one, vec![statement(create, [])], None).await?;
    }
    // The follower has an old state of each database, open connections to it as well.
    let node = cluster.node(follower)?;
    eventually("the follower has the databases", Duration::from_secs(10), async || {
        for one in &users {
            node.query_sql(one, "SELECT count(*) FROM notes", ReadConsistency::Stale).await?;
        }
        Ok(())
    })
    .await?;
    cluster.kill9(follower).await?;
    for number in 0..600 {
        let insert = statement("INSERT INTO notes (body) VALUES (hex(randomblob(40)))", []);
        writer.execute_sql(&users[number % users.len()], vec![insert], None).await?;
    }
    let last_log_index = shard_status(&writer.status().await?, 1)?.last_log_index;
    assert!(last_log_index > 500, "only {last_log_index} log entries: too few for a purge");

    cluster.restart(follower).await?;
    eventually("the follower has applied everything", Duration::from_secs(30), async || {
        let applied = shard_status(&node.status().await?, 1)?.applied_index;
        ensure!(applied >= last_log_index, "applied {applied} of {last_log_index}");
        Ok(())
    })
    .await?;
    let installed = cluster.metric(follower, "cirrus_state_installs_total").await?;
    assert!(installed >= 1.0, "the follower caught up without a snapshot: the log was not purged");
    for one in &users {
        let (expected, found) =
            (writer.export(one, ReadConsistency::Linearizable).await?, node.export(one, ReadConsistency::Stale).await?);
        assert!(expected == found, "the follower's database differs from the leader's");
        let opened = open_exported(&found, cluster.directory()?)?;
        assert_eq!(opened.query_row("SELECT count(*) FROM notes", [], |row| row.get::<_, i64>(0))?, 60);
    }
    cluster.identical_replicas(vec![]).await?;
    Ok(())
}
