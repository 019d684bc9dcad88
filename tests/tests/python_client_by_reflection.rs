//! A Python client that knows nothing but gRPC's server reflection puts, gets, scans, uploads and calls.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cirrus_tests::cluster::{TestCluster, cirrus_binary};
use cirrus_tests::outcome::TestResult;
use tokio::process::Command;

const PACKAGES: [&str; 3] = ["grpcio==1.71.0", "grpcio-reflection==1.71.0", "protobuf==5.29.4"];

/// Runs a command to its end; its output where it fails.
async fn run(command: &mut Command, within: Duration) -> Result<String> {
    let name = format!("{:?}", command.as_std());
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn();
    let ended = child.with_context(|| format!("{name} does not start"))?.wait_with_output();
    let output =
        tokio::time::timeout(within, ended).await.with_context(|| format!("{name} takes over {within:?}"))??;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} ended with {}:\n{text}", output.status);
    Ok(text)
}

/// A virtual environment with the packages, made once per target directory and set of versions.
async fn python() -> Result<PathBuf> {
    let target = cirrus_binary()?.parent().context("the binary is in a directory")?.to_owned();
    let environment = target.join("python-client");
    let python = environment.join("bin/python");
    let stamp = environment.join("installed");
    if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == PACKAGES.join(" ")) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment), Duration::from_secs(60))
        .await
        .context("this test needs python3 with its venv module (Debian: python3, python3-venv)")?;
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES);
    run(&mut install, Duration::from_secs(240))
        .await
        .context("this test needs PyPI, or a mirror that pip is told of")?;
    std::fs::write(stamp, PACKAGES.join(" "))?;
    Ok(python)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_client_needs_nothing_but_reflection() -> TestResult {
    let python = python().await?;
    let cluster = TestCluster::three_nodes().await?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/reflection_client.py");
    for endpoint in cluster.endpoints() {
        let mut command = Command::new(&python);
        command.arg(&script).arg(&endpoint);
        let said = run(&mut command, Duration::from_secs(60)).await?;
        assert!(said.contains("all checks passed"), "the client said:\n{said}");
        eprintln!("{endpoint}:\n{said}");
    }
    Ok(())
}
