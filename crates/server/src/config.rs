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
//!
//! Each section of the file has a module of its own, with its fields, its defaults, and what the node makes of it.

mod environment;
mod flags;
mod limits;
mod log;
mod procedures;
mod replication;
mod scheduling;
mod sql;
mod storage;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Format as _, Serialized, Toml};
use serde::{Deserialize, Deserializer, Serialize};

use self::environment::Environment;
use crate::validation;

pub use self::environment::ENVIRONMENT_PREFIX;
pub use self::flags::Flags;
pub use self::limits::LimitsSection;
pub use self::log::{LogFormat, LogSection};
pub use self::procedures::ProceduresSection;
pub use self::replication::ReplicationSection;
pub use self::scheduling::Scheduling;
pub use self::sql::SqlSection;
pub use self::storage::StorageSection;

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
    /// Threads that serve requests and replicate; 0: as the number of processors suggests.
    pub worker_threads: usize,
    /// How the kernel schedules those threads, and all others of the node.
    pub scheduling: Scheduling,
    /// How long a node's only thread looks for work before it sleeps, at most, microseconds; 0: it
    /// sleeps at once. It does so only where its waits are that short, and leaves the processor to whoever wants it.
    pub idle_poll_us: u64,
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
            scheduling: Scheduling::default(),
            idle_poll_us: 200,
            replication: ReplicationSection::default(),
            limits: LimitsSection::default(),
            procedures: ProceduresSection::default(),
            sql: SqlSection::default(),
            storage: StorageSection::default(),
            log: LogSection::default(),
        }
    }
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
        field: Cow<'static, str>,
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
