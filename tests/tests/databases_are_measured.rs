//! `cirrus bench sql` runs to its end and tells what it measured, of a cluster that is there and of one of its own. How fast
//! that was is nobody's promise here.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cirrus_tests::cluster::{TestCluster, cirrus_binary};
use cirrus_tests::http::metric_sum;
use cirrus_tests::outcome::TestResult;
use cirrus_tests::wait::eventually;
use serde_json::Value;
use tokio::process::Command;

const SMALL: [&str; 11] = [
    "bench",
    "sql",
    "--databases",
    "300",
    "--active",
    "10,300",
    "--clients",
    "8",
    "--seconds",
    "1",
    "--warmup-seconds=0.2",
];

async fn bench(arguments: &[&str], endpoints: &str) -> Result<(String, String)> {
    let mut command = Command::new(cirrus_binary()?);
    command.args(SMALL).args(arguments).env("CIRRUS_ENDPOINTS", endpoints);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let ended = command.spawn()?.wait_with_output();
    let output = tokio::time::timeout(Duration::from_secs(180), ended).await.context("it takes over 3 min")??;
    let (text, errors) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    ensure!(output.status.success(), "{:?}: {errors}", output.status);
    Ok((text, errors))
}

/// What every system says of reads and writes.
fn assert_measured(system: &Value) {
    let name = &system["system"];
    assert!(system["read_open"]["operations"].as_u64() > Some(0), "{name}: {system}");
    let writes = system["writes"].as_array().unwrap();
    assert_eq!(writes.iter().map(|writing| writing["active"].as_u64().unwrap()).collect::<Vec<_>>(), [10, 300]);
    for writing in writes {
        assert!(writing["throughput_per_second"].as_f64() > Some(0.0), "{name}: {writing}");
        assert!(writing["latency_us"]["p50"].as_f64() <= writing["latency_us"]["p99.9"].as_f64(), "{name}: {writing}");
        assert_eq!(writing["errors"], serde_json::json!({}), "{name}");
    }
}

fn folders(directory: &Path) -> Result<usize> {
    Ok(std::fs::read_dir(directory)?.count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster_that_is_there() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let endpoints = cluster.endpoints().join(",");
    let report: Value = serde_json::from_str(&bench(&["-o", "json"], &endpoints).await?.0)?;
    let system = &report["systems"][0];
    assert_eq!((&system["system"], report["systems"].as_array().unwrap().len()), (&Value::from("cirrus"), 1));
    assert_measured(system);
    let cold = system["read_cold"]["operations"].as_u64().unwrap();
    assert!((1..=300).contains(&cold), "each database is read once: {cold}");
    let idle = &system["idle"];
    let told = idle["disk_bytes"].as_f64().unwrap() + idle["unflushed_memory_bytes"].as_f64().unwrap();
    assert!(told > 0.0, "{idle}");
    assert!((1000.0..3000.0).contains(&idle["uncompressed_bytes"].as_f64().unwrap()), "an address book: {idle}");

    // The metric that operators watch.
    eventually("the state's size is a metric", Duration::from_secs(20), async || {
        let (code, text) = cluster.http_get(1, "/metrics").await?;
        ensure!(code == 200 && metric_sum(&text, "cirrus_state_memory_bytes") > 0.0, "{code}");
        Ok(())
    })
    .await?;

    // Databases that are there are used, and nothing is said of their size.
    let (again, _) = bench(&[], &endpoints).await?;
    assert!(again.contains("300 active: writes/s") && !again.contains("an idle database takes"), "{again}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster_of_its_own_beside_plain_sqlite() -> TestResult {
    let scratch = tempfile::tempdir()?;
    let directory = scratch.path().to_str().context("a path")?;
    let arguments = ["--dev", "--compare", "sqlite", "--scratch-dir", directory, "-o", "json"];
    let report: Value = serde_json::from_str(&bench(&arguments, "127.0.0.1:1").await?.0)?;
    let systems = report["systems"].as_array().unwrap();
    let names: Vec<_> = systems.iter().map(|system| system["system"].as_str().unwrap()).collect();
    assert_eq!(names, ["cirrus", "sqlite", "sqlite wal"]);
    systems.iter().for_each(assert_measured);
    assert_eq!((&report["nodes"], &report["restarted"]), (&Value::from(3), &Value::from(true)));

    let (cirrus, sqlite) = (&systems[0]["idle"], &systems[1]["idle"]);
    assert_eq!(sqlite["disk_bytes"].as_f64(), Some(12_288.0), "three pages");
    let bytes = cirrus["disk_bytes"].as_f64().unwrap();
    assert!(bytes > 0.0 && bytes < 3000.0, "an idle address book is to take under 3 KB: {cirrus}");
    assert!(cirrus["log_bytes"].as_u64() > Some(0), "{cirrus}");
    assert_eq!(folders(scratch.path())?, 0, "what it made is removed");
    Ok(())
}
