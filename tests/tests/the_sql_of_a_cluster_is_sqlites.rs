//! SQL logic tests on a cluster over gRPC and on plain SQLite side by side: no record differs, and one that does is shown.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cirrus_proto::v1::SqlListRequest;
use cirrus_tests::cluster::TestCluster;
use cirrus_tests::outcome::TestResult;
use tokio::process::Command;

/// Exit code and standard output.
async fn run(cluster: &TestCluster, paths: &[&Path]) -> Result<(i32, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sqllogictest"));
    command.args(paths).args(["--endpoints", &cluster.endpoints().join(",")]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let ended = command.spawn()?.wait_with_output();
    let output = tokio::time::timeout(Duration::from_secs(120), ended).await.context("it takes over 120 s")??;
    let errors = String::from_utf8_lossy(&output.stderr);
    Ok((output.status.code().context("it was killed")?, String::from_utf8(output.stdout)? + &errors))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn and_what_differs_is_shown() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql_logic");
    let (code, output) = run(&cluster, &[&folder]).await?;
    assert_eq!(code, 0, "{output}");
    let totals = "4 files, 96 records: 0 different, 0 alike and not as the file says, 0 not compared; 0 files failed";
    assert!(output.contains(totals), "{output}");

    let write = |name: &str, text: &str| -> Result<PathBuf> {
        let path = cluster.directory()?.join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    };
    // Nobody draws the same 128 bits twice.
    let random = "statement ok\nCREATE TABLE t (x)\n\nquery TI nosort\nSELECT hex(randomblob(16)), 5\n----\nx\n5\n";
    let otherwise = "query I nosort\nSELECT 1\n----\n2\n\nstatement ok\nBEGIN\n\nstatement ok\nVACUUM\n\n\
        statement ok\nPRAGMA journal_mode = WAL\n\nstatement ok\nCREATE TABLE a (x); CREATE TABLE b (x)\n\n\
        query I\nSELECT count(*) FROM a, b\n----\n0\n\nstatement ok\nCREATE TEMP TABLE c (x)\n\n\
        statement ok\nINSERT INTO c SELECT 1\n";
    let (random, otherwise) = (write("random.test", random)?, write("otherwise.test", otherwise)?);
    let (code, output) = run(&cluster, &[&random, &otherwise]).await?;
    assert_eq!(code, 1, "{output}");
    let totals = "2 files, 10 records: 1 different, 1 alike and not as the file says, 4 not compared; 0 files failed";
    for expected in [
        totals,
        "random.test:4: SELECT hex(randomblob(16)), 5\n  cirrus: 1 rows, 2 columns: [Text(\"",
        "  sqlite: 1 rows, 2 columns: [Text(\"",
        "otherwise.test:1: SELECT 1\n  both: 1 rows, 1 columns: [Integer(1)]",
        "VACUUM\na request is a transaction, in which VACUUM fails",
        "PRAGMA journal_mode = WAL\nSQL_NOT_ALLOWED: ",
        "INSERT INTO c SELECT 1\na temporary table is filled from others",
    ] {
        assert!(output.contains(expected), "{expected:?} is missing in\n{output}");
    }

    // What is no file of tests is not passed over.
    let broken = write("broken.test", "query I nosort\n")?;
    let (code, output) = run(&cluster, &[&broken]).await?;
    assert!(code == 2 && output.contains("FAILED: parse error at"), "{code}: {output}");
    let (code, output) = run(&cluster, &[&folder.join("nowhere")]).await?;
    assert!(code == 2 && output.contains("nowhere"), "{code}: {output}");

    let left = cluster.node(1)?.sql.clone().list(SqlListRequest::default()).await?.into_inner();
    assert!(left.databases.is_empty(), "the databases are left: {left:?}");
    Ok(())
}
