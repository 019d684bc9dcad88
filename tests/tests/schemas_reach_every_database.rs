//! A schema for all databases of a dbname: there on first use, upgraded with the next request, walked to the idle ones;
//! what fails on one database stops no other.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use anyhow::Result;
use cirrus_client::Client;
use cirrus_proto::Reason;
use cirrus_proto::v1::{ReadConsistency, SqlMigrateDatabasesRequest, SqlMigration, SqlPutSchemaRequest};
use cirrus_tests::cluster::{ClusterOptions, TestCluster};
use cirrus_tests::node_client::reason;
use cirrus_tests::outcome::TestResult;
use cirrus_tests::sql::{database, rows, single_integer, statement, text};

const FIRST: &str = "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)";
const SECOND: &str = "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, mail TEXT DEFAULT 'none');
    CREATE TABLE visits (at INT);
    CREATE UNIQUE INDEX by_name ON people (name)";

async fn put(client: &Client, ddl: &str, migrations: Vec<SqlMigration>) -> Result<(u64, bool)> {
    let request = SqlPutSchemaRequest { dbname: "book".to_owned(), ddl: ddl.to_owned(), migrations, request_id: None };
    let answer = client.put_schema(request).await?;
    Ok((answer.version, answer.changed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_next_request_or_the_walk() -> TestResult {
    let mut cluster = TestCluster::start(ClusterOptions { shards: 3, ..ClusterOptions::default() }).await?;
    let client = cluster.client(true).await?;
    let nodes = cluster.all_nodes()?;
    assert_eq!(put(&client, FIRST, vec![]).await?, (1, true));
    assert_eq!(put(&client, FIRST, vec![]).await?, (1, false), "the same is no new version");
    // Seen through every node at once, by databases that are not there yet.
    for (number, node) in nodes.iter().enumerate() {
        let fresh = database(&format!("fresh-{number}"), "book");
        let found = node.query_sql(&fresh, "SELECT count(*) FROM people", ReadConsistency::Unspecified).await?;
        assert_eq!(single_integer(&found)?, 0);
    }
    for number in 0..20 {
        let insert = statement("INSERT INTO people (name) VALUES ('ada'), ('bob')", []);
        nodes[number % 3].execute_sql(&database(&format!("user-{number}"), "book"), vec![insert], None).await?;
    }
    // This one cannot have the unique index that comes.
    let double = database("user-13", "book");
    nodes[0].execute_sql(&double, vec![statement("INSERT INTO people (name) VALUES ('ada')", [])], None).await?;

    let unique = put(&client, "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, n INT UNIQUE)", vec![]).await;
    assert!(unique.unwrap_err().to_string().contains("SCHEMA_INVALID"), "SQLite cannot add such a column");
    let broken = put(&client, "CREATE TABEL people (id)", vec![]).await;
    assert!(broken.unwrap_err().to_string().contains("SCHEMA_INVALID"));
    let upper = SqlMigration { number: 1, sql: "UPDATE people SET name = upper(name)".to_owned(), on_new: false };
    assert_eq!(put(&client, SECOND, vec![upper]).await?, (2, true));

    // The next request finds it, whichever node has it; a query sees it without storing it.
    for (number, node) in nodes.iter().enumerate() {
        let one = database(&format!("user-{number}"), "book");
        for consistency in [ReadConsistency::Unspecified, ReadConsistency::Lease] {
            let found = node.query_sql(&one, "SELECT name, mail FROM people ORDER BY id", consistency).await?;
            assert_eq!(rows(&found), [[text("ADA"), text("none")], [text("BOB"), text("none")]]);
        }
    }
    let insert = || vec![statement("INSERT INTO visits VALUES (unixepoch())", [])];
    nodes[1].execute_sql(&database("user-5", "book"), insert(), None).await?;
    let status = client.schema_status("book").await?;
    let counts: Vec<_> = status.versions.iter().map(|one| (one.version, one.databases)).collect();
    assert_eq!((status.current_version, counts, status.failed), (2, vec![(1, 19), (2, 1)], 0));

    // One that fails says why, notes it, stays as it was.
    for _ in 0..2 {
        let failed = nodes[2].execute_sql(&double, insert(), None).await.unwrap_err();
        assert_eq!(reason(&failed), Some(Reason::SchemaUpgradeFailed), "{failed:?}");
    }
    // The walk comes to all others, although a leader is lost before it.
    let leader = cluster.leader_of_shard(2).await?;
    cluster.kill9(leader).await?;
    cluster.restart(leader).await?;
    cluster.wait_ready().await?;
    let request = SqlMigrateDatabasesRequest { dbname: "book".to_owned(), databases_per_second: 200 };
    let client = cluster.client(true).await?.with_timeout(Duration::from_secs(30));
    let walked = client.migrate_databases(request.clone(), |_| {}).await?;
    assert_eq!((walked.examined, walked.upgraded, walked.failed, walked.done), (20, 18, 1, true));
    let status = client.schema_status("book").await?;
    let counts: Vec<_> = status.versions.iter().map(|one| (one.version, one.databases)).collect();
    assert_eq!((counts, status.failed), (vec![(1, 1), (2, 19)], 1));
    let failure = status.failures[0].upgrade_failure.clone().unwrap();
    assert_eq!(status.failures[0].database, Some(double.clone()));
    assert_eq!((failure.schema_version, &*failure.step), (2, "index by_name"), "{failure:?}");

    // Mended by the next version, it follows.
    let upper = SqlMigration { number: 1, sql: "UPDATE people SET name = upper(name)".to_owned(), on_new: false };
    let mend = "DELETE FROM people WHERE id NOT IN (SELECT min(id) FROM people GROUP BY name)".to_owned();
    let mend = SqlMigration { number: 2, sql: mend, on_new: false };
    assert_eq!(put(&client, SECOND, vec![upper, mend]).await?, (3, true));
    let walked = client.migrate_databases(request, |_| {}).await?;
    assert_eq!((walked.upgraded, walked.failed), (20, 0));
    let status = client.schema_status("book").await?;
    assert_eq!((status.versions.len(), status.versions[0].version, status.failed), (1, 3, 0));

    let schema = client.get_schema("book").await?;
    assert_eq!((schema.version, schema.migrations.len(), &*schema.ddl), (3, 2, SECOND));
    assert_eq!(client.list_schemas().await?.len(), 1);
    let none = client.get_schema("none").await.unwrap_err();
    assert!(none.to_string().contains("SCHEMA_NOT_FOUND"), "{none}");
    Ok(())
}
