//! What the command line sets.

use std::path::PathBuf;

use serde::Serialize;

use super::Scheduling;

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
    /// `--scheduling`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduling: Option<Scheduling>,
}
