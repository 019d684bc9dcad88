//! The configuration of one node: defaults, then a TOML file, then `CIRRUS_*`, then flags; later ones win.
//!
//! | field | environment | TOML |
//! | --- | --- | --- |
//! | `node_id` | `CIRRUS_NODE_ID` | `node_id = 1` |
//! | `join` | `CIRRUS_JOIN=a:7100,b:7100` | `join = ["a:7100", "b:7100"]` |
//! | `replication.heartbeat_ms` | `CIRRUS_REPLICATION_HEARTBEAT_MS` | `[replication]` `heartbeat_ms = 100` |
//!
//! An unknown key in the file is an error that names it. An unknown `CIRRUS_*` variable is not: container
//! platforms set such names for their own purposes, and the client commands have variables of theirs.

mod sql;

use std::path::{Path, PathBuf};
use std::time::Duration;

use cirrus_cluster::{LogSettings, SuspensionSettings};
use cirrus_proto::limits::Limits;
use cirrus_replication::Timing;
use cirrus_storage::StorageConfig;
use figment::Figment;
use figment::providers::{Format as _, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};
use serde::{Deserialize, Deserializer, Serialize};

use crate::validation;
pub use sql::SqlSection;

/// The prefix of environment variables that configure a node.
pub const ENVIRONMENT_PREFIX: &str = "CIRRUS_";

/// Everything that can be set on a node. [`ServerConfig::default`] is a one-node cluster on loopback.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// This node's id, from 1; never reused in a cluster.
    pub node_id: u64,
    /// gRPC listens here, host:port. Port 0 takes a free one.
    pub listen: String,
    /// Metrics and probes listen here, host:port.
    pub http_listen: String,
    /// The gRPC address that clients and other nodes reach this node at. Default: where it listens.
    pub advertise: Option<String>,
    /// The HTTP address told to others. Default: the advertised host with the HTTP port.
    pub http_advertise: Option<String>,
    /// Holds the log, the shards' state and the node's identity.
    pub data_dir: PathBuf,
    /// gRPC addresses of nodes whose cluster this one joins. Empty: it creates a cluster, if it has none yet.
    #[serde(deserialize_with = "list_or_commas")]
    pub join: Vec<String>,
    /// How many data shards a cluster has that this node creates. Without effect on an existing cluster.
    pub shards: u32,
    /// Threads that serve requests and replicate; 0: one for each processor.
    pub worker_threads: usize,
    /// Raft's timing and log retention.
    pub replication: ReplicationSection,
    /// What requests and connections may take.
    pub limits: LimitsSection,
    /// Procedures that do harm, and what calls log.
    pub procedures: ProceduresSection,
    /// What databases and the requests to them may take.
    pub sql: SqlSection,
    /// Memory for RocksDB.
    pub storage: StorageSection,
    /// What is logged, and how.
    pub log: LogSection,
}

/// `[replication]`: Raft's timing and log retention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplicationSection {
    /// A leader shows itself this often, milliseconds.
    pub heartbeat_ms: u64,
    /// The shortest wait between the end of a silent leader's lease and an election, milliseconds.
    pub election_min_ms: u64,
    /// The longest such wait, and the leader's lease, milliseconds.
    pub election_max_ms: u64,
    /// A snapshot is taken after this many log entries.
    pub snapshot_log_entries: u64,
    /// This many entries before a snapshot stay in the log, for followers that lag.
    pub keep_log_entries: u64,
}

/// `[limits]`: what one request, and all of them together, may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Longest key, bytes.
    pub key_bytes: usize,
    /// Longest value, bytes.
    pub value_bytes: usize,
    /// Largest batch or write set of one command, bytes.
    pub write_set_bytes: usize,
    /// Most operations in one batch or transaction.
    pub operations: usize,
    /// Longest library source, bytes.
    pub library_bytes: usize,
    /// CPU time of one procedure call, milliseconds.
    pub call_cpu_ms: u64,
    /// Luau heap of one procedure call, bytes.
    pub call_memory_bytes: usize,
    /// Longest result of a procedure call, bytes.
    pub call_reply_bytes: usize,
    /// Most pairs in a scan's page.
    pub scan_page_pairs: usize,
    /// Most bytes in a scan's page.
    pub scan_page_bytes: usize,
    /// Commands that may wait for a shard's executor.
    pub mailbox_commands: usize,
    /// Replies that a client session may leave unacknowledged.
    pub session_replies: usize,
    /// How long a session is kept after its last request, milliseconds.
    pub session_idle_ms: u64,
    /// Open gRPC connections; above it, new ones are closed at once.
    pub connections: usize,
    /// Requests that one connection may have open at a time (HTTP/2 streams).
    pub streams_per_connection: u32,
    /// Unary requests under way on the node; above it they fail with TOO_MANY_REQUESTS.
    pub requests_in_flight: usize,
    /// Scans under way on the node.
    pub scan_streams: usize,
    /// Open pipelines on the node.
    pub pipeline_streams: usize,
    /// Requests of one pipeline under way; above it the node stops reading from the stream.
    pub pipeline_requests: usize,
    /// Bytes of one pipeline's requests under way; above it the node stops reading from the stream.
    pub pipeline_bytes: usize,
    /// The deadline of a request that states none, milliseconds.
    pub deadline_default_ms: u64,
    /// The longest deadline that a request gets, whatever it states, milliseconds.
    pub deadline_max_ms: u64,
}

/// `[procedures]`: what is done about procedures that do harm, and with what calls log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProceduresSection {
    /// A procedure is suspended on a node where so many of twice as many of its calls in a row were killed; 0: none is.
    pub suspend_after_kills: u32,
    /// Kills that are longer ago do not count, milliseconds.
    pub suspend_window_ms: u64,
    /// How long a procedure is suspended until one call is let through, milliseconds. It doubles as long as that is
    /// killed, too.
    pub suspend_ms: u64,
    /// The longest that it becomes, milliseconds.
    pub suspend_max_ms: u64,
    /// Lines logged by calls that the node keeps in memory.
    pub log_lines_kept: usize,
    /// Lines logged by calls that each of those who follow gets of this node in a second.
    pub log_lines_per_second: u32,
    /// Those who follow what calls log, through this node or another.
    pub log_followers: usize,
}

/// `[storage]`: memory for the shards' states.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageSection {
    /// Block cache of all RocksDB instances, MiB.
    pub block_cache_mib: usize,
    /// Write buffers of all RocksDB instances, MiB.
    pub write_buffer_mib: usize,
    /// What each replica gathers before it writes to its RocksDB, MiB.
    pub state_buffer_mib: usize,
}

/// `[log]`: what is logged, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSection {
    /// A `tracing` filter. "info,openraft=error,cirrus_server=debug" adds a span per request.
    pub filter: String,
    /// For people or for programs.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text.
    Text,
    /// One JSON object a line.
    Json,
}

/// What the command line sets; what is `None` falls to the lower layers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Flags {
    /// `--node-id`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_id: Option<u64>,
    /// `--listen`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// `--http-listen`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_listen: Option<String>,
    /// `--advertise`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<String>,
    /// `--data-dir`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// `--join`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub join: Option<Vec<String>>,
    /// `--shards`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shards: Option<u32>,
    /// `--worker-threads`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_threads: Option<usize>,
}

/// A configuration that cannot be used. The message names the key and where it was set.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that cannot be read or parsed, an unknown key, or a value of the wrong type.
    #[error("configuration: {0}")]
    Unreadable(#[from] Box<figment::Error>),
    /// A value out of its range, or in conflict with another.
    #[error("configuration: {field}: {problem}")]
    Invalid {
        /// The key, such as `replication.election_min_ms`.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl ServerConfig {
    /// Reads the layers, the process's environment among them, and validates the result.
    pub fn load(file: Option<&Path>, flags: &Flags) -> Result<ServerConfig, ConfigError> {
        Self::from_layers(file, std::env::vars_os().filter_map(text_variable), flags)
    }

    /// [`ServerConfig::load`] with the environment as a value.
    pub fn from_layers(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &Flags,
    ) -> Result<ServerConfig, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(ServerConfig::default()));
        if let Some(file) = file {
            // A file that was asked for and is not there is an error, not an empty layer.
            std::fs::metadata(file).map_err(|error| {
                Box::new(figment::Error::from(format!("cannot read file {}: {error}", file.display())))
            })?;
            figment = figment.merge(Toml::file_exact(file));
        }
        figment = figment.merge(Environment::of(environment));
        figment = figment.merge(Serialized::defaults(flags));
        let config: ServerConfig = figment.extract().map_err(Box::new)?;
        validation::validate(&config)?;
        Ok(config)
    }
}

impl ReplicationSection {
    /// The timing of every shard's group.
    pub fn timing(&self) -> Timing {
        Timing {
            heartbeat_ms: self.heartbeat_ms,
            election_min_ms: self.election_min_ms,
            election_max_ms: self.election_max_ms,
            snapshot_log_entries: self.snapshot_log_entries,
            keep_log_entries: self.keep_log_entries,
        }
    }
}

impl LimitsSection {
    /// The limits that every layer enforces.
    pub fn limits(&self) -> Limits {
        Limits {
            key_bytes: self.key_bytes,
            value_bytes: self.value_bytes,
            write_set_bytes: self.write_set_bytes,
            operations: self.operations,
            library_bytes: self.library_bytes,
            call_cpu_ms: self.call_cpu_ms,
            call_memory_bytes: self.call_memory_bytes,
            call_reply_bytes: self.call_reply_bytes,
            scan_page_pairs: self.scan_page_pairs,
            scan_page_bytes: self.scan_page_bytes,
            mailbox_commands: self.mailbox_commands,
            session_replies: self.session_replies,
            session_idle_ms: self.session_idle_ms,
        }
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            node_id: 1,
            listen: "127.0.0.1:7100".to_owned(),
            http_listen: "127.0.0.1:7180".to_owned(),
            advertise: None,
            http_advertise: None,
            data_dir: PathBuf::from("./cirrus-data"),
            join: Vec::new(),
            shards: 8,
            worker_threads: 0,
            replication: ReplicationSection::default(),
            limits: LimitsSection::default(),
            procedures: ProceduresSection::default(),
            sql: SqlSection::default(),
            storage: StorageSection::default(),
            log: LogSection::default(),
        }
    }
}

impl Default for ReplicationSection {
    fn default() -> Self {
        let timing = Timing::default();
        ReplicationSection {
            heartbeat_ms: timing.heartbeat_ms,
            election_min_ms: timing.election_min_ms,
            election_max_ms: timing.election_max_ms,
            snapshot_log_entries: timing.snapshot_log_entries,
            keep_log_entries: timing.keep_log_entries,
        }
    }
}

impl Default for LimitsSection {
    fn default() -> Self {
        let limits = Limits::DEFAULT;
        LimitsSection {
            key_bytes: limits.key_bytes,
            value_bytes: limits.value_bytes,
            write_set_bytes: limits.write_set_bytes,
            operations: limits.operations,
            library_bytes: limits.library_bytes,
            call_cpu_ms: limits.call_cpu_ms,
            call_memory_bytes: limits.call_memory_bytes,
            call_reply_bytes: limits.call_reply_bytes,
            scan_page_pairs: limits.scan_page_pairs,
            scan_page_bytes: limits.scan_page_bytes,
            mailbox_commands: limits.mailbox_commands,
            session_replies: limits.session_replies,
            session_idle_ms: limits.session_idle_ms,
            connections: 8192,
            streams_per_connection: 1024,
            requests_in_flight: 16_384,
            scan_streams: 256,
            pipeline_streams: 512,
            pipeline_requests: 1024,
            pipeline_bytes: 4 * 1024 * 1024,
            deadline_default_ms: 5_000,
            deadline_max_ms: 60_000,
        }
    }
}

impl ProceduresSection {
    /// When a node suspends procedures.
    pub fn suspension(&self) -> SuspensionSettings {
        SuspensionSettings {
            kills: self.suspend_after_kills,
            window: Duration::from_millis(self.suspend_window_ms),
            pause: Duration::from_millis(self.suspend_ms),
            pause_max: Duration::from_millis(self.suspend_max_ms),
        }
    }

    /// How much a node keeps and tells of what calls log.
    pub fn logs(&self) -> LogSettings {
        LogSettings {
            lines_kept: self.log_lines_kept,
            lines_per_second: self.log_lines_per_second,
            followers: self.log_followers,
        }
    }
}

impl Default for ProceduresSection {
    fn default() -> Self {
        let (suspension, logs) = (SuspensionSettings::default(), LogSettings::default());
        ProceduresSection {
            suspend_after_kills: suspension.kills,
            suspend_window_ms: suspension.window.as_millis() as u64,
            suspend_ms: suspension.pause.as_millis() as u64,
            suspend_max_ms: suspension.pause_max.as_millis() as u64,
            log_lines_kept: logs.lines_kept,
            log_lines_per_second: logs.lines_per_second,
            log_followers: logs.followers,
        }
    }
}

impl StorageSection {
    /// What storage is opened with.
    pub fn storage(&self) -> StorageConfig {
        StorageConfig {
            block_cache_bytes: self.block_cache_mib << 20,
            write_buffer_bytes: self.write_buffer_mib << 20,
            state_buffer_bytes: self.state_buffer_mib << 20,
            ..StorageConfig::default()
        }
    }
}

impl Default for StorageSection {
    fn default() -> Self {
        let storage = StorageConfig::default();
        StorageSection {
            block_cache_mib: storage.block_cache_bytes >> 20,
            write_buffer_mib: storage.write_buffer_bytes >> 20,
            state_buffer_mib: storage.state_buffer_bytes >> 20,
        }
    }
}

impl Default for LogSection {
    fn default() -> Self {
        LogSection { filter: "info,openraft=error".to_owned(), format: LogFormat::Text }
    }
}

/// The layer of `CIRRUS_*` variables that name a known key.
struct Environment(Dict);

impl Environment {
    fn of(variables: impl IntoIterator<Item = (String, String)>) -> Environment {
        let known = known_keys();
        let mut keys = Dict::new();
        for (name, text) in variables {
            let Some(name) = name.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
            let name = name.to_ascii_lowercase();
            let Some(key) = known.iter().find(|key| key.replace('.', "_") == name) else { continue };
            insert(&mut keys, key, parse(&text));
        }
        Environment(keys)
    }
}

impl Provider for Environment {
    fn metadata(&self) -> Metadata {
        Metadata::named("the environment").interpolater(|_: &Profile, keys: &[&str]| {
            format!("{ENVIRONMENT_PREFIX}{}", keys.join("_").to_ascii_uppercase())
        })
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.0.clone()))
    }
}

/// Every key of the configuration, as "section.key".
fn known_keys() -> Vec<String> {
    fn collect(prefix: &str, dict: &Dict, keys: &mut Vec<String>) {
        for (name, value) in dict {
            match value.as_dict() {
                Some(section) => collect(&format!("{prefix}{name}."), section, keys),
                None => keys.push(format!("{prefix}{name}")),
            }
        }
    }
    // The optional keys are given a value, so that they are listed.
    let every =
        ServerConfig { advertise: Some(String::new()), http_advertise: Some(String::new()), ..ServerConfig::default() };
    let value = Value::serialize(every).expect("the configuration is a tree of plain values");
    let mut keys = Vec::new();
    collect("", value.as_dict().expect("a struct serializes to a dictionary"), &mut keys);
    keys
}

fn insert(dict: &mut Dict, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            dict.insert(key.to_owned(), value);
        }
        Some((section, rest)) => {
            let entry = dict.entry(section.to_owned()).or_insert_with(|| Dict::new().into());
            if let Value::Dict(_, section) = entry {
                insert(section, rest, value);
            }
        }
    }
}

/// A number where the text is one, else the text: no key needs more.
fn parse(text: &str) -> Value {
    match text.trim().parse::<u64>() {
        Ok(number) => Value::from(number),
        Err(_) => Value::from(text.trim()),
    }
}

/// A list, or its items in one text with commas between.
fn list_or_commas<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum ListOrText {
        List(Vec<String>),
        Text(String),
    }
    let items = match ListOrText::deserialize(deserializer)? {
        ListOrText::List(items) => items,
        ListOrText::Text(text) => text.split(',').map(str::to_owned).collect(),
    };
    Ok(items.into_iter().map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect())
}

fn text_variable((name, value): (std::ffi::OsString, std::ffi::OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write as _;

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
        assert_eq!(config.sql.limits(), cirrus_proto::limits::SqlLimits::DEFAULT);
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
            ("CIRRUS_ADVERTISE", "node-1.example:7100"),
            ("CIRRUS_JOIN", "a:7100, b:7100"),
            ("CIRRUS_SERVICE_HOST", "10.0.0.1"),
            ("CIRRUS_ENDPOINTS", "a:7100"),
        ];
        let config = load("", &environment, &Flags::default()).unwrap();
        assert_eq!(config.replication.heartbeat_ms, 70);
        assert_eq!(config.log.format, LogFormat::Json);
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
            ("[sql]\ncpu_ms = 0", &[], &["sql.cpu_ms"]),
            ("[sql]\nreply_bytes = 16000000", &[], &["sql.reply_bytes"]),
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
}
