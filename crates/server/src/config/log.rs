//! `[log]`: what is logged, and how.

use serde::{Deserialize, Serialize};

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

impl Default for LogSection {
    fn default() -> Self {
        LogSection { filter: "info,openraft=error".to_owned(), format: LogFormat::Text }
    }
}
