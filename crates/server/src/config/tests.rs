//! The layers, and what a mistake in them is told as.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;

use cirrus_cluster::{LogSettings, SuspensionSettings};
use cirrus_proto::limits::{Limits, SqlLimits};
use cirrus_replication::Timing;

use super::*;

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn load(toml: &str, environment: &[(&str, &str)], flags: &Flags) -> Result<ServerConfig, String> {
    let file = file(toml);
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    ServerConfig::from_layers(Some(file.path()), environment, flags).map_err(|error| error.to_string())
}

#[test]
fn no_layer_but_the_defaults_is_a_node_on_loopback() {
    let config = ServerConfig::from_layers(None, [], &Flags::default()).unwrap();
    assert_eq!(config, ServerConfig::default());
    assert_eq!(config.limits.limits(), Limits::DEFAULT);
    assert_eq!(config.procedures.suspension(), SuspensionSettings::default());
    assert_eq!(config.procedures.logs(), LogSettings::default());
    assert_eq!(config.sql.limits(), SqlLimits::DEFAULT);
}

#[test]
fn later_layers_win() {
    let flags = Flags { node_id: Some(4), ..Flags::default() };
    let toml = "node_id = 2\nshards = 16\nlisten = \"127.0.0.1:1\"\n[replication]\nheartbeat_ms = 50\n";
    let environment = [("CIRRUS_NODE_ID", "3"), ("CIRRUS_SHARDS", "32")];
    let config = load(toml, &environment, &flags).unwrap();
    assert_eq!(config.node_id, 4, "a flag wins over the environment and the file");
    assert_eq!(config.shards, 32, "the environment wins over the file");
    assert_eq!(config.listen, "127.0.0.1:1", "the file wins over the default");
    assert_eq!(config.replication.heartbeat_ms, 50);
    assert_eq!(
        config.replication.election_min_ms,
        Timing::default().election_min_ms,
        "a section keeps the defaults of its other keys"
    );
}

#[test]
fn the_environment_reaches_into_sections_and_lists() {
    let environment = [
        ("CIRRUS_REPLICATION_HEARTBEAT_MS", "70"),
        ("CIRRUS_LOG_FORMAT", "json"),
        ("CIRRUS_SCHEDULING", "batch"),
        ("CIRRUS_ADVERTISE", "node-1.example:7100"),
        ("CIRRUS_JOIN", "a:7100, b:7100"),
        ("CIRRUS_SERVICE_HOST", "10.0.0.1"),
        ("CIRRUS_ENDPOINTS", "a:7100"),
    ];
    let config = load("", &environment, &Flags::default()).unwrap();
    assert_eq!(config.replication.heartbeat_ms, 70);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.scheduling, Scheduling::Batch);
    assert_eq!(config.advertise.as_deref(), Some("node-1.example:7100"));
    assert_eq!(config.join, ["a:7100", "b:7100"]);
}

#[test]
fn a_mistake_is_told_with_its_key() {
    /// A file, an environment, and what the message names.
    type Mistake<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: &[Mistake<'_>] = &[
        ("node = 2", &[], &["unknown field", "node"]),
        ("[limits]\nkey_size = 2", &[], &["unknown field", "key_size", "limits"]),
        ("node_id = \"two\"", &[], &["node_id", "expected u64"]),
        ("", &[("CIRRUS_SHARDS", "many")], &["CIRRUS_SHARDS"]),
        ("node_id = 0", &[], &["node_id", "from 1"]),
        ("scheduling = \"fast\"", &[], &["fast", "normal", "batch"]),
        ("", &[("CIRRUS_SCHEDULING", "idle")], &["idle", "normal", "batch"]),
        ("idle_poll_us = 10001", &[], &["idle_poll_us", "0 to 10000", "not 10001"]),
        ("", &[("CIRRUS_IDLE_POLL_US", "-1")], &["CIRRUS_IDLE_POLL_US", "-1"]),
        ("listen = \"7100\"", &[], &["listen", "host:port"]),
        ("listen = \"0.0.0.0:7100\"", &[], &["advertise", "0.0.0.0"]),
        ("shards = 0", &[], &["shards"]),
        ("join = [\"here\"]", &[], &["join", "here", "host:port"]),
        ("[replication]\nheartbeat_ms = 500", &[], &["replication.election_min_ms"]),
        ("[replication]\nelection_max_ms = 300", &[], &["replication.election_max_ms"]),
        ("[limits]\nconnections = 0", &[], &["limits.connections"]),
        ("[limits]\nvalue_bytes = 16000000", &[], &["limits.value_bytes"]),
        ("[limits]\ndeadline_max_ms = 10", &[], &["limits.deadline_max_ms"]),
        ("[procedures]\nsuspend_after_kills = 1001", &[], &["procedures.suspend_after_kills", "1000"]),
        ("[procedures]\nsuspend_ms = 0", &[], &["procedures.suspend_ms"]),
        ("[procedures]\nsuspend_max_ms = 9999", &[], &["procedures.suspend_max_ms", "suspend_ms (10000)"]),
        ("[procedures]\nlog_lines_kept = 10001", &[], &["procedures.log_lines_kept", "10000"]),
        ("[procedures]\nlog_lines_per_second = 0", &[], &["procedures.log_lines_per_second"]),
        ("[procedures]\nsuspend_max_ms = 86400001", &[], &["procedures.suspend_max_ms", "a day"]),
        ("[sql]\npage_bytes = 1000", &[], &["sql.page_bytes"]),
        ("[sql]\ncpu_ms = 0", &[], &["sql.cpu_ms", "at least 1"]),
        ("[sql]\nhttp_body_bytes = 0", &[], &["sql.http_body_bytes", "at least 1"]),
        ("[sql]\ncpu_ms = \"x\"", &[], &["sql.cpu_ms", "expected u64"]),
        ("[sql]\ncpu_seconds = 1", &[], &["unknown field", "cpu_seconds", "sql"]),
        ("[limits]\nsession_idle_ms = 0", &[], &["limits.session_idle_ms", "at least 1"]),
        ("[sql]\nreply_bytes = 16000000", &[], &["sql.reply_bytes"]),
        ("[sql]\nquery_streams = 257", &[], &["sql.query_streams", "256"]),
        ("[sql]\nstream_idle_ms = 0", &[], &["sql.stream_idle_ms"]),
        ("[log]\nfilter = \"cirrus=loud\"", &[], &["log.filter"]),
        ("[log]\nformat = \"xml\"", &[], &["xml", "text"]),
        ("[storage]\nblock_cache_mib = 0", &[], &["storage.block_cache_mib"]),
        ("[storage]\nstate_buffer_mib = 0", &[], &["storage.state_buffer_mib"]),
    ];
    for (toml, environment, expected) in cases {
        let message = load(toml, environment, &Flags::default()).unwrap_err();
        for part in *expected {
            assert!(message.contains(part), "{toml:?} {environment:?} answered {message:?} without {part:?}");
        }
    }
}

#[test]
fn a_file_that_is_missing_is_an_error() {
    let error = ServerConfig::from_layers(Some(Path::new("/no/such/file.toml")), [], &Flags::default());
    assert!(error.unwrap_err().to_string().contains("/no/such/file.toml"));
}
