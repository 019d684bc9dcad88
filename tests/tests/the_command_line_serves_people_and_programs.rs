//! The command line: results on standard output, errors on standard error, a non-zero exit where something failed,
//! and JSON where a program asks for it.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use anyhow::{Context as _, ensure};
use cirrus_tests::cluster::{TestCluster, cirrus_binary};
use cirrus_tests::command_line::{CommandLine, finish};
use cirrus_tests::outcome::TestResult;
use cirrus_tests::wait::eventually;
use cirrus_tests::workload::COUNTER_LIBRARY;
use serde_json::Value;
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_on_the_command_line() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let cirrus = CommandLine { endpoints: cluster.endpoints().join(",") };

    // Keys and values.
    let missing = cirrus.run(&["get", "greeting"]).await?;
    assert_eq!((missing.code, missing.output.as_str()), (1, ""), "{missing:?}");
    cirrus.succeeds(&["put", "greeting", "hello, world"]).await?;
    assert_eq!(cirrus.succeeds(&["get", "greeting"]).await?.trim_end_matches('\n'), "hello, world", "the bare value");
    let one_endpoint = ["get", "greeting", "--endpoints", &cluster.endpoint(3)?];
    assert_eq!(cirrus.succeeds(&one_endpoint).await?.trim_end_matches('\n'), "hello, world");
    assert_eq!(cirrus.succeeds(&["incr", "hits", "5"]).await?.trim(), "5");
    assert_eq!(cirrus.succeeds(&["incr", "hits"]).await?.trim(), "6");
    let found = cirrus.json(&["get", "greeting"]).await?;
    assert_eq!(found["value"], "hello, world", "{found}");
    assert!(found["version"].as_u64().is_some_and(|version| version > 0), "{found}");
    let scanned = cirrus.succeeds(&["scan"]).await?;
    let (greeting, hits) = (scanned.find("greeting"), scanned.find("hits"));
    assert!(greeting.is_some() && greeting < hits, "{scanned}");
    assert!(cirrus.json(&["scan"]).await?.to_string().contains("hello, world"));
    cirrus.succeeds(&["delete", "greeting"]).await?;
    assert_eq!(cirrus.run(&["get", "greeting"]).await?.code, 1);

    // The cluster.
    let table = cirrus.succeeds(&["status"]).await?;
    for endpoint in cluster.endpoints() {
        assert!(table.contains(&endpoint), "{table}");
    }
    let status = cirrus.json(&["status"]).await?;
    assert_eq!(status["nodes"].as_array().context("nodes")?.len(), 3, "{status}");
    assert_eq!(status["shards"].as_array().context("shards")?.len(), 5, "{status}");

    // Procedures.
    let source = cluster.directory()?.join("counters.lua");
    std::fs::write(&source, COUNTER_LIBRARY)?;
    let source = source.to_str().context("a path in UTF-8")?;
    cirrus.succeeds(&["proc", "upload", source]).await?;
    assert!(cirrus.succeeds(&["proc", "list"]).await?.contains("counters"));
    assert_eq!(cirrus.succeeds(&["proc", "call", "counters.incr", "--key", "hits", "5"]).await?.trim(), "11");
    assert!(cirrus.succeeds(&["proc", "show", "counters"]).await?.contains("function incr"));
    assert!(cirrus.json(&["proc", "list"]).await?.to_string().contains("incr"));
    let broken = cluster.directory()?.join("broken.lua");
    std::fs::write(&broken, "function f(\n  return 1\nend\n")?;
    let error = cirrus.fails(&["proc", "upload", broken.to_str().context("a path in UTF-8")?]).await?;
    assert!(error.contains('2') || error.contains("line"), "a syntax error names its line: {error}");
    lint_types_and_shipped_libraries(&cirrus, broken.parent().context("a folder")?).await?;

    // Trying out.
    let dry = cirrus.run(&["proc", "call", "counters.incr", "--key", "hits", "5", "--dry-run"]).await?;
    assert_eq!((dry.code, dry.output.as_str()), (0, "16\n"), "{dry:?}");
    assert!(dry.errors.contains("put") && dry.errors.contains("_get"), "{dry:?}");
    let dry = cirrus.json(&["proc", "call", "counters.incr", "--key", "hits", "5", "--dry-run"]).await?;
    assert_eq!(dry["effects"][0]["value"], "16", "{dry}");
    assert_eq!(cirrus.succeeds(&["get", "hits"]).await?.trim(), "11", "a dry run writes nothing");

    // Schedules.
    let every = ["--every", "200ms", "--key", "hits", "0"];
    let created = cirrus.succeeds(&[&["proc", "schedule", "counters.incr"], &every[..]].concat()).await?;
    assert!(created.contains("cirrus proc unschedule counters-incr-hits"), "{created}");
    let again = cirrus.json(&[&["proc", "schedule", "counters.incr"], &every[..]].concat()).await?;
    assert_eq!((&again["created"], &again["every_ms"]), (&Value::from(false), &Value::from(200)), "{again}");
    eventually("it runs", Duration::from_secs(30), async || {
        let listed = cirrus.json(&["proc", "schedules"]).await?;
        let progress = &listed["schedules"][0]["progress"];
        ensure!(progress["runs"].as_u64() > Some(1) && progress["failures"] == 0, "{listed}");
        ensure!(progress["last_run"]["result"] == 11, "{listed}");
        Ok(())
    })
    .await?;
    let table = cirrus.succeeds(&["proc", "schedules"]).await?;
    assert!(table.contains("200ms") && table.contains("skip") && table.contains("ok: 11"), "{table}");
    let error = cirrus.fails(&["proc", "schedule", "counters.incr", "--every", "1s", "--key", "hits"]).await?;
    assert!(error.contains("SCHEDULE_EXISTS"), "{error}");
    for wrong in [["--every", "10ms"], ["--every", "5"], ["--every", "100500us"]] {
        cirrus.fails(&[&["proc", "schedule", "counters.incr", "--key", "other"], &wrong[..]].concat()).await?;
    }
    let typed = ["proc", "schedule", "counters.incr", "--every", "1h 30min", "--key", "hits", "--name", "typed"];
    let typed = cirrus.json(&[&typed[..], &["--missed", "catch-up", "--json", "[0]"]].concat()).await?;
    assert_eq!((&typed["args"][0][0], &typed["every_ms"]), (&Value::from(0), &Value::from(5_400_000)), "{typed}");
    let ended = cirrus.json(&["proc", "unschedule", "typed"]).await?;
    assert_eq!((&ended["deleted"], &ended["progress"]), (&Value::from(true), &Value::Null), "it never ran");
    let error = cirrus.fails(&["proc", "delete", "counters"]).await?;
    assert!(error.contains("LIBRARY_IN_USE") && error.contains("counters-incr-hits"), "{error}");
    let ended = cirrus.succeeds(&["proc", "unschedule", "counters-incr-hits"]).await?;
    assert!(ended.contains("runs, 0 of them failed"), "{ended}");
    assert_eq!(cirrus.run(&["proc", "unschedule", "counters-incr-hits"]).await?.code, 1);

    // Versions.
    std::fs::write(source, format!("-- changed\n{COUNTER_LIBRARY}"))?;
    let staged = cirrus.succeeds(&["proc", "upload", "--stage", "--author", "ada", source]).await?;
    assert!(staged.contains("version 2") && staged.contains("proc activate counters@2"), "{staged}");
    assert_eq!(cirrus.json(&["proc", "call", "counters.incr", "--key", "hits", "1"]).await?["library_version"], 1);
    assert_eq!(cirrus.succeeds(&["proc", "call", "counters@2.incr", "--key", "hits", "1"]).await?.trim(), "13");
    let diff = cirrus.run(&["proc", "diff", "counters"]).await?;
    assert!(diff.code == 1 && diff.output.contains("+-- changed"), "{diff:?}");
    assert!(cirrus.succeeds(&["proc", "diff", "counters", "1", "1"]).await?.is_empty());
    let canary = cirrus.succeeds(&["proc", "activate", "counters@2", "--canary", "10"]).await?;
    assert!(canary.contains("version 2 for 10 %"), "{canary}");
    assert!(cirrus.succeeds(&["proc", "activate", "counters@2"]).await?.contains("runs version 2"));
    let versions = cirrus.succeeds(&["proc", "versions", "counters"]).await?;
    assert!(versions.contains("active") && versions.contains("ada"), "{versions}");
    let error = cirrus.fails(&["proc", "delete", "counters@2"]).await?;
    assert!(error.contains("LIBRARY_IN_USE"), "{error}");
    assert!(cirrus.succeeds(&["proc", "rollback", "counters"]).await?.contains("runs version 1"));
    let error = cirrus.fails(&["proc", "rollback", "counters"]).await?;
    assert!(error.contains("NOTHING_TO_ROLL_BACK"), "{error}");
    assert!(cirrus.succeeds(&["proc", "show", "counters@2"]).await?.starts_with("-- changed"));
    cirrus.succeeds(&["proc", "delete", "counters@2"]).await?;
    assert_eq!(
        cirrus.json(&["proc", "versions", "counters"]).await?["versions"].as_array().context("versions")?.len(),
        1
    );

    cirrus.succeeds(&["proc", "delete", "counters"]).await?;
    let error = cirrus.fails(&["proc", "call", "counters.incr", "--key", "hits", "5"]).await?;
    assert!(error.contains("LIBRARY_NOT_FOUND") || error.contains("counters"), "{error}");

    // Procedures with databases.
    let ledger = "function book(key, note)
        sql.exec('ledger', 'CREATE TABLE IF NOT EXISTS entries (note TEXT)')
        sql.exec('ledger', 'INSERT INTO entries VALUES (?)', note)
        return kv.incr('{' .. key .. '}.entries')
    end";
    let file = cluster.directory()?.join("ledger.lua");
    std::fs::write(&file, ledger)?;
    cirrus.succeeds(&["proc", "upload", file.to_str().context("a path")?]).await?;
    let call = ["proc", "call", "ledger.book", "--key", "ada", "rent"];
    let dry = cirrus.run(&[&call[..], &["--dry-run"]].concat()).await?;
    assert_eq!((dry.code, dry.output.trim()), (0, "1"), "{dry:?}");
    for part in
        ["change database  ada/ledger", " pages, ", "{ada}.entries", "INSERT INTO entries VALUES (?) [text of 4 bytes]"]
    {
        assert!(dry.errors.contains(part), "{part}: {}", dry.errors);
    }
    let dry = cirrus.json(&[&call[..], &["--dry-run"]].concat()).await?;
    assert_eq!(
        (&dry["databases"][0]["user"], &dry["databases"][0]["dbname"]),
        (&"ada".into(), &"ledger".into()),
        "{dry}"
    );
    let error = cirrus.fails(&["sql", "query", "ada/ledger", "SELECT * FROM entries"]).await?;
    assert!(error.contains("DATABASE_NOT_FOUND"), "{error}");
    assert_eq!(cirrus.succeeds(&call).await?.trim(), "1");
    assert!(cirrus.succeeds(&["sql", "query", "ada/ledger", "SELECT * FROM entries"]).await?.contains("rent"));

    // What goes wrong.
    cirrus.succeeds(&["put", "text", "abc"]).await?;
    let error = cirrus.fails(&["incr", "text"]).await?;
    assert!(error.contains("NOT_A_NUMBER") || error.contains("number"), "{error}");
    let error: Value = serde_json::from_str(&cirrus.fails(&["incr", "text", "-o", "json"]).await?)?;
    assert_eq!(error["error"]["reason"], "NOT_A_NUMBER", "{error}");
    cirrus.fails(&["put", "", "x"]).await?;
    cirrus.fails(&["no-such-command"]).await?;
    let nobody = CommandLine { endpoints: "127.0.0.1:1".to_owned() };
    let unreachable = nobody.run(&["get", "greeting"]).await?;
    assert_eq!(unreachable.code, 2, "an outage must not look like a missing key (exit 1): {unreachable:?}");
    assert!(unreachable.errors.contains("127.0.0.1:1"), "{unreachable:?}");
    Ok(())
}

#[tokio::test]
async fn help_names_every_command() -> TestResult {
    let mut command = Command::new(cirrus_binary()?);
    command.arg("--help");
    let help = finish(command, "").await?;
    assert_eq!(help.code, 0);
    for name in ["serve", "dev", "status", "get", "put", "delete", "incr", "scan", "proc", "bench"] {
        assert!(help.output.contains(name), "the help does not name {name}:\n{}", help.output);
    }
    Ok(())
}

/// What needs no server is asked without one.
async fn lint_types_and_shipped_libraries(cirrus: &CommandLine, folder: &std::path::Path) -> TestResult {
    let nowhere = CommandLine { endpoints: "127.0.0.1:1".to_owned() };
    let path = |name: &str| folder.join(name).to_str().map(str::to_owned).context("a path in UTF-8");
    let (careless, clean, refused) = (path("careless.lua")?, path("clean.lua")?, path("refused.lua")?);
    std::fs::write(&careless, "function f(key)\n    kv.get(key)\n    return kv.gett(key)\nend\n")?;
    std::fs::write(&clean, "function f(key)\n    return kv.get(key)\nend\n")?;
    std::fs::write(&refused, "local text = require('text')\nreturn { f = text.f }\n")?;

    let lint = nowhere.run(&["proc", "lint", &careless, &clean]).await?;
    let found = format!(
        "{careless}:2:5: unused-result: the result of kv.get is not used\n\
         {careless}:3:15: unknown-field: kv has no gett; did you mean get?\n"
    );
    assert_eq!((lint.code, lint.output.as_str(), lint.errors.as_str()), (1, found.as_str(), ""));
    let lint = nowhere.run(&["proc", "lint", &careless, &clean, "-o", "json"]).await?;
    let linted: Value = serde_json::from_str(&lint.output)?;
    assert_eq!((lint.code, &linted["files"][1]["warnings"]), (1, &Value::Array(Vec::new())), "{linted}");
    assert_eq!(linted["files"][0]["warnings"][1]["code"], "unknown-field", "{linted}");
    assert_eq!(linted["files"][0]["warnings"][1]["line"], 3, "{linted}");
    assert_eq!(nowhere.succeeds(&["proc", "lint", &clean, &refused]).await?, "", "a requirement is not known here");
    std::fs::write(&refused, "\nerror('no')")?;
    let lint = nowhere.run(&["proc", "lint", &refused]).await?;
    assert_eq!((lint.code, lint.output), (1, format!("{refused}:2: refused: no\n")));
    assert!(nowhere.fails(&["proc", "lint", &path("missing.lua")?]).await?.contains("missing.lua"));
    assert!(nowhere.succeeds(&["proc", "types"]).await?.contains("\ndeclare kv: {\n"));

    let upload = cirrus.run(&["proc", "upload", &careless]).await?;
    assert_eq!((upload.code, upload.output.as_str()), (0, "careless version 1: f\n"), "{upload:?}");
    assert!(upload.errors.contains("warning: careless:3:15: unknown-field: kv has no gett"), "{upload:?}");
    let upload = cirrus.json(&["proc", "upload", &careless]).await?;
    assert_eq!(upload["warnings"].as_array().map(Vec::len), Some(2), "{upload}");
    cirrus.succeeds(&["proc", "delete", "careless"]).await?;

    cirrus.succeeds(&["proc", "upload", "--shipped", "lightcloud"]).await?;
    let add = ["proc", "call", "lightcloud.list_add", "--key", "ada", "--json", r#"["a~b",{"base64":"/w=="}]"#];
    assert_eq!(cirrus.succeeds(&add).await?.trim(), "2");
    let list = cirrus.succeeds(&["proc", "call", "lightcloud.list_get", "--key", "ada", "--json"]).await?;
    assert_eq!(list.trim(), r#"["a~b",{"base64":"/w=="}]"#);
    let counted = ["proc", "call", "lightcloud.counter_incr", "--key", "{ada}.visits", "9223372036854775807"];
    assert_eq!(cirrus.succeeds(&counted).await?.trim(), "9223372036854775807");
    cirrus.succeeds(&["proc", "delete", "lightcloud"]).await?;
    Ok(())
}
