//! `cirrus proc deploy`: libraries that change together become active together, or nothing changes.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cirrus_tests::cluster::{ClusterOptions, TestCluster, cirrus_binary};
use cirrus_tests::outcome::TestResult;
use serde_json::Value;
use tokio::process::Command;

/// Exit status, standard output and standard error.
async fn cirrus(cluster: &TestCluster, arguments: &[&str]) -> Result<(i32, String, String)> {
    let mut command = Command::new(cirrus_binary()?);
    command.args(arguments).env("CIRRUS_ENDPOINTS", cluster.endpoints().join(","));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let ended = command.spawn()?.wait_with_output();
    let output = tokio::time::timeout(Duration::from_secs(60), ended).await.context("it takes over a minute")??;
    let code = output.status.code().context("it was killed")?;
    Ok((code, String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
}

async fn deploy(cluster: &TestCluster, directory: &Path, more: &[&str]) -> Result<(i32, Value)> {
    let directory = directory.to_str().context("a path in UTF-8")?;
    let arguments = [&["proc", "deploy", directory, "-o", "json", "--author", "ada"], more].concat();
    let (code, output, errors) = cirrus(cluster, &arguments).await?;
    let text = if output.is_empty() { &errors } else { &output };
    Ok((code, serde_json::from_str(text).with_context(|| format!("it prints {output:?} and {errors:?}"))?))
}

/// The active version and those that are stored, by library.
async fn state(cluster: &TestCluster) -> Result<Vec<(String, u64, Vec<u64>)>> {
    let client = cluster.client(true).await?;
    let mut state = Vec::new();
    for library in client.list_libraries().await? {
        let listed = client.list_library_versions(&library.name).await?;
        let stored = listed.versions.iter().map(|version| version.version).collect();
        state.push((library.name, listed.activation.unwrap().active_version, stored));
    }
    Ok(state)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_that_fails_midway_leaves_all_as_it_was() -> TestResult {
    // The cluster takes smaller libraries than the directory's check allows: so a later one fails.
    let config = "[limits]\nlibrary_bytes = 2048\n".to_owned();
    let cluster = TestCluster::start(ClusterOptions { nodes: 1, shards: 2, config, ..Default::default() }).await?;
    let directory = cluster.directory()?.join("shop");
    std::fs::create_dir(&directory)?;
    let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
    let uses = "local text = require('text') function run(key) return text.title() .. kv.incr(key) end\n";
    write("text.lua", "function title() return 'one ' end\n");
    write("uses.lua", uses);
    write("uses_test.lua", "function test_run() expect.match(call('uses.run', 'k'), '^%a+ 1$') end\n");

    let (code, report) = deploy(&cluster, &directory, &[]).await?;
    assert_eq!((code, report["outcome"].as_str()), (0, Some("deployed")), "{report}");
    assert_eq!(report["undo"], serde_json::json!(["cirrus proc delete uses", "cirrus proc delete text"]));
    let call = async || cirrus(&cluster, &["proc", "call", "uses.run", "--key", "k"]).await;
    assert_eq!(call().await?.1, "one 1\n");
    let before = state(&cluster).await?;

    // `text` and a new library are stored before `uses`, which is too large.
    write("text.lua", "function title() return 'two ' end\n");
    write("added.lua", "function f() return 1 end\n");
    write("uses.lua", &format!("require('added') {uses}--{}\n", "x".repeat(3000)));
    let (code, report) = deploy(&cluster, &directory, &[]).await?;
    assert_eq!(code, 2, "{report}");
    let error = &report["error"];
    assert_eq!(error["reason"], "LIBRARY_TOO_LARGE", "{report}");
    assert_eq!(error["metadata"]["step"], "storing uses", "{report}");
    assert_eq!(error["metadata"]["not_undone"], "", "{report}");
    assert!(error["message"].as_str().unwrap().contains("undone: added, which is new, was removed"), "{report}");
    assert_eq!(state(&cluster).await?, before, "{report}");
    assert_eq!(call().await?.1, "one 2\n");

    // Without what made it too large, all of it goes, in one.
    write("uses.lua", &format!("require('added') {uses}"));
    let (code, report) = deploy(&cluster, &directory, &["--dry-run"]).await?;
    assert_eq!((code, report["outcome"].as_str()), (0, Some("planned")), "{report}");
    assert_eq!(state(&cluster).await?, before, "a dry run changes nothing");
    let (code, report) = deploy(&cluster, &directory, &[]).await?;
    assert_eq!((code, report["outcome"].as_str()), (0, Some("deployed")), "{report}");
    assert_eq!(call().await?.1, "two 3\n");

    // What it prints undoes it.
    for command in report["undo"].as_array().context("commands")? {
        let words: Vec<&str> = command.as_str().context("a command")?.split(' ').skip(1).collect();
        let (code, output, errors) = cirrus(&cluster, &words).await?;
        assert_eq!(code, 0, "{command}: {output}{errors}");
    }
    assert_eq!(call().await?.1, "one 4\n");
    let names: Vec<String> = state(&cluster).await?.into_iter().map(|(name, ..)| name).collect();
    assert_eq!(names, ["text", "uses"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tests_decide_and_libraries_of_the_cluster_are_found() -> TestResult {
    let cluster = TestCluster::start(ClusterOptions { nodes: 1, shards: 2, ..Default::default() }).await?;
    let client = cluster.client(true).await?;
    client.upload_library("money", "function cents(n) return n * 100 end".as_bytes()).await?;
    let directory = cluster.directory()?.join("shop");
    std::fs::create_dir(&directory)?;
    let write = |name: &str, text: &str| std::fs::write(directory.join(name), text).unwrap();
    write("till.lua", "local money = require('money') function take(key, n) return kv.incr(key, money.cents(n)) end\n");
    write("tests.lua", "function test_take() expect.equal(call('till.take', 'k', 2), 201) end\n");

    let (code, report) = deploy(&cluster, &directory, &[]).await?;
    assert_eq!((code, report["outcome"].as_str()), (1, Some("tests_failed")), "{report}");
    assert_eq!(report["tests"]["files"][0]["tests"][0]["failure"]["actual"], "200", "{report}");
    assert_eq!(state(&cluster).await?.len(), 1, "nothing was deployed");
    let (code, output, errors) =
        cirrus(&cluster, &["proc", "deploy", directory.to_str().context("a path in UTF-8")?]).await?;
    assert_eq!(code, 1, "{output}{errors}");
    assert!(output.contains("expected  201") && errors.contains("nothing was deployed"), "{output}{errors}");

    let (code, report) = deploy(&cluster, &directory, &["--skip-tests"]).await?;
    assert_eq!((code, report["outcome"].as_str()), (0, Some("deployed")), "{report}");
    assert_eq!(report["tests"], Value::Null);
    let (code, report) = deploy(&cluster, &directory, &["--skip-tests"]).await?;
    assert_eq!((code, report["outcome"].as_str()), (0, Some("unchanged")), "{report}");

    // Another version of what it requires is active now: it is deployed again, with the same source.
    client.upload_library("money", "function cents(n) return n * 1000 end".as_bytes()).await?;
    let (code, report) = deploy(&cluster, &directory, &["--skip-tests"]).await?;
    assert_eq!((code, &report["libraries"][0]["version"]), (0, &Value::from(2)), "{report}");
    let (_, output, _) = cirrus(&cluster, &["proc", "call", "till.take", "--key", "k", "1"]).await?;
    assert_eq!(output, "1000\n");

    write("other.lua", "local lost = require('lost') function f() end\n");
    let (code, report) = deploy(&cluster, &directory, &["--skip-tests"]).await?;
    assert_eq!((code, report["error"]["reason"].as_str()), (2, Some("LIBRARY_INVALID")), "{report}");
    Ok(())
}
