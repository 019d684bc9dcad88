//! Every replica of a shard holds the same, whatever wrote it: statements with random numbers and the time among them. And
//! `cirrus cluster verify` finds a replica that holds something else.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Output;

use anyhow::{Context as _, Result, bail};
use cirrus_client::Client;
use cirrus_proto::v1::{ReadConsistency, SqlDatabase, SqlStatement, VerifyOutcome, VerifyRequest};
use cirrus_tests::cluster::{ClusterOptions, TestCluster, cirrus_binary};
use cirrus_tests::outcome::TestResult;
use cirrus_tests::replicas::verify;
use cirrus_tests::sql::{database, integer, rows, statement};
use cirrus_tests::writers::Writers;
use serde_json::Value;
use tokio::process::Command;

const CLIENTS: usize = 8;

/// What each replica would answer differently, had it to evaluate it.
fn nondeterministic(number: usize) -> Vec<SqlStatement> {
    let insert = "INSERT INTO drawn (number, at, dice, noise) VALUES (?, datetime('now'), random(), randomblob(40))";
    let draw = match number % 4 {
        0 => {
            "UPDATE drawn SET noise = randomblob(30) WHERE number IN (SELECT number FROM drawn ORDER BY random() LIMIT 2)"
        }
        1 => "INSERT INTO shuffled SELECT dice FROM drawn ORDER BY random() LIMIT 5",
        2 => "DELETE FROM shuffled WHERE rowid IN (SELECT rowid FROM shuffled ORDER BY random() LIMIT 3)",
        _ => "INSERT INTO drawn (at, noise) VALUES (strftime('%f', 'now'), hex(randomblob(abs(random()) % 600)))",
    };
    vec![statement(insert, [integer(number as i64)]), statement(draw, [])]
}

async fn create(client: &Client, one: &SqlDatabase) -> Result<()> {
    let statements = vec![
        statement("CREATE TABLE drawn (number INT, at TEXT, dice INT, noise BLOB)", []),
        statement("CREATE INDEX by_noise ON drawn (noise)", []),
        statement("CREATE TABLE shuffled (dice INT)", []),
    ];
    client.execute_sql(one.clone(), statements).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_random_writes_and_a_leaders_death() -> TestResult {
    let mut cluster = TestCluster::start(ClusterOptions { shards: 2, ..ClusterOptions::default() }).await?;
    let client = cluster.client(true).await?;
    let databases: Vec<SqlDatabase> = (0..6).map(|number| database(&format!("user-{number}"), "dice")).collect();
    for one in &databases {
        create(&client, one).await?;
    }
    let writers = Writers::start(CLIENTS, {
        let (client, databases) = (client.clone(), databases.clone());
        move |of, number| {
            let turn = of + number / CLIENTS;
            let (client, one) = (client.clone(), databases[turn % databases.len()].clone());
            async move { client.execute_sql(one, nondeterministic(turn)).await.map(drop).map_err(Into::into) }
        }
    });
    writers.wait_for(300).await?;
    // While they are written to.
    cluster.identical_replicas(vec![1, 2]).await?;
    let leader = cluster.leader_of_shard(1).await?;
    cluster.kill9(leader).await?;
    writers.wait_for(300).await?;
    // Two can be compared; of the third nobody knows.
    for shard in verify(&client, vec![1]).await? {
        assert_eq!(shard.outcome(), VerifyOutcome::Incomplete, "{shard:?}");
        let lost: Vec<_> = shard.replicas.iter().filter(|replica| !replica.problem.is_empty()).collect();
        assert!(lost.len() == 1 && lost[0].node_id == leader, "{shard:?}");
    }
    cluster.restart(leader).await?;
    writers.wait_for(300).await?;
    let made = writers.end().await?;
    cluster.wait_ready().await?;

    let shards = cluster.identical_replicas(vec![]).await?;
    assert_eq!(shards.iter().map(|shard| shard.shard_id).collect::<Vec<_>>(), [0, 1, 2]);
    let bytes: u64 = shards.iter().map(|shard| shard.replicas[0].bytes).sum();
    eprintln!("{} requests, {bytes} bytes in {} shards are the same on all nodes", made.count(), 3);
    // It was worth comparing: what was drawn is there, and no two draws are the same.
    for one in &databases {
        let drawn =
            "SELECT count(*) > 20 AND count(DISTINCT noise) >= count(number), count(DISTINCT dice) > 20 FROM drawn";
        let found = cluster.node(1)?.query_sql(one, drawn, ReadConsistency::Unspecified).await?;
        assert_eq!(rows(&found), [[integer(1), integer(1)]]);
    }
    Ok(())
}

async fn cluster_verify(cluster: &TestCluster, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(cirrus_binary()?);
    command.args(["cluster", "verify"]).args(arguments).env("CIRRUS_ENDPOINTS", cluster.endpoints().join(","));
    Ok(command.output().await?)
}

/// Changes the last byte of one value in the table `sql` of a stopped node's state.
fn corrupt(shard: &Path) -> Result<()> {
    let live = std::fs::read_to_string(shard.join("LIVE"))?;
    let directory = shard.join(live.trim());
    let mut options = rocksdb::Options::default();
    options.set_atomic_flush(true);
    let families = rocksdb::DB::list_cf(&options, &directory)?;
    let state = rocksdb::DB::open_cf(&options, &directory, &families)?;
    let table = state.cf_handle("sql").context("a table sql")?;
    let Some(first) = state.iterator_cf(table, rocksdb::IteratorMode::End).next() else { bail!("it is empty") };
    let (key, mut value) = first?;
    *value.last_mut().context("an empty value")? ^= 1;
    state.put_cf(table, key, value)?;
    state.flush_cf(table)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn or_else_it_is_found() -> TestResult {
    let mut cluster = TestCluster::start(ClusterOptions { shards: 2, ..ClusterOptions::default() }).await?;
    let client = cluster.client(true).await?;
    let one = database("user", "dice");
    create(&client, &one).await?;
    for number in 0..20 {
        client.execute_sql(one.clone(), nondeterministic(number)).await?;
    }
    let output = cluster_verify(&cluster, &[]).await?;
    let table = String::from_utf8(output.stdout)?;
    assert!(output.status.success(), "{table}{}", String::from_utf8_lossy(&output.stderr));
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["SHARD", "OUTCOME", "INDEX", "NODE", "KEYS", "BYTES", "HASH"]);
    assert_eq!(words.len(), 1 + 3 * 3, "{table}");
    assert!(
        words[1..].iter().all(
            |row| row[1] == "identical" && row[6] == words[1..].iter().find(|other| other[0] == row[0]).unwrap()[6]
        ),
        "{table}"
    );

    let shard_id = cluster.shard_of("{user}").await?;
    cluster.stop(2).await?;
    corrupt(&cluster.directory()?.join(format!("node-2/shards/{shard_id}")))?;
    cluster.restart(2).await?;
    cluster.wait_ready().await?;

    let output = cluster_verify(&cluster, &["-o", "json", "--rate-mib", "16"]).await?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let found: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(found["identical"], false);
    for shard in found["shards"].as_array().unwrap() {
        let differs = shard["shard_id"] == shard_id;
        assert_eq!(shard["outcome"], if differs { "different" } else { "identical" }, "{found}");
        let hash = |node: usize| shard["replicas"][node - 1]["hash"].as_str().unwrap();
        assert_eq!((hash(1) == hash(3), hash(1) == hash(2)), (true, !differs), "{found}");
    }
    let error: Value = serde_json::from_slice(&output.stderr)?;
    assert_eq!(error["error"]["metadata"]["shards"], shard_id.to_string());

    // A shard alone; and what there is not.
    let other = (3 - shard_id).to_string();
    assert!(cluster_verify(&cluster, &["--shard", &other]).await?.status.success());
    let unknown = cluster_verify(&cluster, &["--shard", "9"]).await?;
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("there is no shard 9; the last is 2"), "{unknown:?}");

    let slow = VerifyRequest { bytes_per_second: 1000, ..Default::default() };
    let refused = client.verify(slow, |_| ()).await.unwrap_err();
    assert!(refused.to_string().contains("bytes_per_second: 1000 is below the least"), "{refused}");

    // A node that is down leaves the answer open.
    cluster.stop(2).await?;
    let output = cluster_verify(&cluster, &["--shard", &other]).await?;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("incomplete"), "{output:?}");
    Ok(())
}
