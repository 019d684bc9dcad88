//! A SQLite database for every user, over all nodes: transactions, queries on any replica, lists, files.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use anyhow::ensure;
use cirrus_proto::Reason;
use cirrus_proto::v1::{ReadConsistency, RequestId, SqlDescribeRequest, SqlListRequest, SqlRemoveRequest};
use cirrus_tests::cluster::TestCluster;
use cirrus_tests::node_client::reason;
use cirrus_tests::outcome::TestResult;
use cirrus_tests::shards::shard_status;
use cirrus_tests::sql::{
    blob, database, integer, named, null, open_exported, real, rows, single_integer, statement, text,
};
use cirrus_tests::wait::eventually;

const USERS: usize = 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_a_request_is_one_transaction() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let nodes = cluster.all_nodes()?;
    // Braces in a user change nothing: it is the user that picks the shard, not a tag in it.
    let users: Vec<String> = (0..USERS).map(|number| format!("u{{{number}}}")).collect();
    for (number, user) in users.iter().enumerate() {
        let node = &nodes[number % nodes.len()];
        let statements = vec![
            statement("CREATE TABLE t (id INTEGER PRIMARY KEY, v ANY, n VARCHAR(10))", []),
            statement("INSERT INTO t (v, n) VALUES (?, ?), (?, ?)", [null(), text("ü"), real(0.5), blob(&[0, 255])]),
            named("INSERT INTO t (v, n) VALUES (:v, :n)", [(":n", text("named")), (":v", integer(i64::MIN))]),
            statement("SELECT id, v, n, v IS NULL AS e FROM t ORDER BY id", []),
        ];
        let results = node.execute_sql(&database(user, "book"), statements, None).await?;
        assert_eq!((results[1].affected_rows, results[1].last_insert_rowid), (2, 2));
        assert_eq!(results[2].last_insert_rowid, 3);
        let columns: Vec<_> = results[3].columns.iter().map(|one| (&*one.name, &*one.declared_type)).collect();
        assert_eq!(columns, [("id", "INTEGER"), ("v", "ANY"), ("n", "VARCHAR(10)"), ("e", "")]);
        let expected = [
            vec![integer(1), null(), text("ü"), integer(1)],
            vec![integer(2), real(0.5), blob(&[0, 255]), integer(0)],
            vec![integer(3), integer(i64::MIN), text("named"), integer(0)],
        ];
        assert_eq!(rows(&results[3]), expected);
    }

    // All or nothing, through every node; and a failure says which statement it was.
    let book = database(&users[0], "book");
    for node in &nodes {
        let statements = vec![
            statement("DELETE FROM t", []),
            statement("CREATE TABLE other (x)", []),
            statement("INSERT INTO t (id) VALUES (1), (1)", []),
        ];
        let failed = node.execute_sql(&book, statements, None).await.unwrap_err();
        assert_eq!(reason(&failed), Some(Reason::SqlConstraint), "{failed:?}");
        assert!(failed.message().contains("statements[2]"), "{failed:?}");
        for consistency in [ReadConsistency::Unspecified, ReadConsistency::Lease] {
            let counted = node.query_sql(&book, "SELECT count(*) FROM t", consistency).await?;
            assert_eq!(single_integer(&counted)?, 3);
        }
        let refused = node.query_sql(&book, "DELETE FROM t", ReadConsistency::Unspecified).await.unwrap_err();
        assert_eq!(reason(&refused), Some(Reason::SqlReadOnly), "{refused:?}");
        let nobodys = database("nobody", "book");
        let missing = node.query_sql(&nobodys, "SELECT 1", ReadConsistency::Unspecified).await.unwrap_err();
        assert_eq!(reason(&missing), Some(Reason::DatabaseNotFound), "{missing:?}");
    }

    // Under a request id it happens once, and the answer stays.
    let id = RequestId { client_id: "c".into(), sequence: 1, acknowledged_below: 0 };
    let insert = || vec![statement("INSERT INTO t (n) VALUES ('once') RETURNING id", [])];
    for node in &nodes {
        let results = node.execute_sql(&book, insert(), Some(id.clone())).await?;
        assert_eq!(single_integer(&results[0])?, 4);
    }
    let other = vec![statement("DELETE FROM t", [])];
    let reused = nodes[1].execute_sql(&book, other, Some(id)).await.unwrap_err();
    assert_eq!(reason(&reused), Some(Reason::RequestIdReused));

    // Queries stay out of the log.
    let shard_id = cluster.shard_of("{u{0}").await?;
    let leader = cluster.node(cluster.leader_of_shard(shard_id).await?)?;
    let before = shard_status(&leader.status().await?, shard_id)?.last_log_index;
    for node in &nodes {
        node.query_sql(&book, "SELECT * FROM t", ReadConsistency::Unspecified).await?;
    }
    assert_eq!(shard_status(&leader.status().await?, shard_id)?.last_log_index, before, "queries entered the log");

    // Any replica answers what is stale.
    for node in &nodes {
        eventually("each replica has the row", Duration::from_secs(10), async || {
            let counted = node.query_sql(&book, "SELECT count(*) FROM t", ReadConsistency::Stale).await?;
            ensure!(single_integer(&counted)? == 4, "{counted:?}");
            Ok(())
        })
        .await?;
    }

    // Lists go over all shards, in pages.
    for page_size in [1, 7, 0] {
        let mut found = Vec::new();
        let mut page_token = bytes::Bytes::new();
        loop {
            let request = SqlListRequest { page_size, page_token, ..Default::default() };
            let page = nodes[2].sql.clone().list(request).await?.into_inner();
            assert!(page_size == 0 || page.databases.len() <= page_size as usize);
            found.extend(page.databases.into_iter().map(|info| info.database.unwrap().user));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        found.sort();
        let mut expected: Vec<_> = users.iter().map(|user| bytes::Bytes::from(user.clone())).collect();
        expected.sort();
        assert_eq!(found, expected, "pages of {page_size}");
    }
    let filtered = SqlListRequest { user_prefix: "u{1".into(), dbname: Some("book".to_owned()), ..Default::default() };
    assert_eq!(nodes[0].sql.clone().list(filtered).await?.into_inner().databases.len(), 11);
    let strange = SqlListRequest { page_token: "no token".into(), ..Default::default() };
    assert_eq!(reason(&nodes[0].sql.clone().list(strange).await.unwrap_err()), Some(Reason::InvalidField));

    // Removing one leaves the others.
    let remove = || SqlRemoveRequest { database: Some(database(&users[7], "book")), request_id: None };
    nodes[0].sql.clone().remove(remove()).await?;
    let gone = nodes[1].sql.clone().remove(remove()).await.unwrap_err();
    assert_eq!(reason(&gone), Some(Reason::DatabaseNotFound));
    let described = SqlDescribeRequest { database: Some(database(&users[8], "book")), ..Default::default() };
    let described = nodes[2].sql.clone().describe(described).await?.into_inner();
    assert_eq!(described.objects.len(), 1);
    assert_eq!((&*described.objects[0].kind, &*described.objects[0].name), ("table", "t"));
    assert!(described.info.unwrap().size_bytes >= 2048);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_databases_are_files_that_come_and_go() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let nodes = cluster.all_nodes()?;
    let original = database("alice", "notes");
    let fill = "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 1500) \
                INSERT INTO notes SELECT i, hex(randomblob(600)) FROM c";
    let statements = vec![
        statement("CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT)", []),
        statement("CREATE INDEX by_body ON notes (substr(body, 1, 8))", []),
        statement(fill, []),
    ];
    nodes[0].execute_sql(&original, statements, None).await?;
    let sum = "SELECT sum(id * length(body)) + sum(unicode(body)) FROM notes";
    let expected = single_integer(&nodes[0].query_sql(&original, sum, ReadConsistency::Unspecified).await?)?;

    for (number, node) in nodes.iter().enumerate() {
        let file = node.export(&original, ReadConsistency::Linearizable).await?;
        assert!(file.len() > 1_500_000, "{} bytes", file.len());
        let opened = open_exported(&file, cluster.directory()?)?;
        assert_eq!(opened.query_row(sum, [], |row| row.get::<_, i64>(0))?, expected);

        // It is stored in several parts, as another user's.
        let copy = database(&format!("bob-{number}"), "notes");
        node.import(&copy, &file).await?;
        for node in &nodes {
            let found = node.query_sql(&copy, sum, ReadConsistency::Unspecified).await?;
            assert_eq!(single_integer(&found)?, expected);
        }
        let checked = node.query_sql(&copy, "PRAGMA integrity_check", ReadConsistency::Unspecified).await?;
        assert_eq!(rows(&checked), [[text("ok")]]);
        let again = node.import(&copy, &file).await.unwrap_err();
        assert_eq!(reason(&again), Some(Reason::DatabaseExists), "{again:?}");
        node.execute_sql(&copy, vec![statement("DELETE FROM notes", [])], None).await?;
    }
    // What is no database is refused, and leaves none.
    let mut file = nodes[0].export(&original, ReadConsistency::Linearizable).await?;
    file[5000..20_000].fill(7);
    let damaged = database("carol", "notes");
    for broken in [&file[..], b"SELECT 1", b"", &file[..700]] {
        let refused = nodes[1].import(&damaged, broken).await.unwrap_err();
        assert_eq!(reason(&refused), Some(Reason::DatabaseInvalid), "{refused:?}");
    }
    let absent = nodes[2].export(&damaged, ReadConsistency::Linearizable).await.unwrap_err();
    assert_eq!(reason(&absent), Some(Reason::DatabaseNotFound), "{absent:?}");
    Ok(())
}
