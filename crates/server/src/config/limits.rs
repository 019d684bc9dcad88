//! `[limits]`: what one request, and all of them together, may take.

use cirrus_proto::limits::Limits;
use serde::{Deserialize, Serialize};

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
