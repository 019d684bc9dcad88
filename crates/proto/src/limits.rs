//! What every layer bounds, with defaults.

/// The limits of one node. All are enforced with a [`Failure`](crate::Failure) that names the limit and
/// the actual size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest key, bytes.
    pub key_bytes: usize,
    /// Longest value, bytes.
    pub value_bytes: usize,
    /// Largest batch or write set of one command, bytes of keys and values.
    pub write_set_bytes: usize,
    /// Most operations in one batch or transaction.
    pub operations: usize,
    /// Longest library source, bytes.
    pub library_bytes: usize,
    /// CPU time of one call, milliseconds.
    pub call_cpu_ms: u64,
    /// Luau heap of one call, bytes.
    pub call_memory_bytes: usize,
    /// Longest result of a call, bytes.
    pub call_reply_bytes: usize,
    /// Most pairs in a scan's page.
    pub scan_page_pairs: usize,
    /// Most bytes of keys and values in a scan's page.
    pub scan_page_bytes: usize,
    /// Commands that may wait for a shard's executor.
    pub mailbox_commands: usize,
    /// Replies that a client session may leave unacknowledged.
    pub session_replies: usize,
    /// How long a session is kept after its last request, milliseconds.
    pub session_idle_ms: u64,
}

impl Limits {
    /// The defaults that the documentation states.
    pub const DEFAULT: Limits = Limits {
        key_bytes: 4 * 1024,
        value_bytes: 1024 * 1024,
        write_set_bytes: 4 * 1024 * 1024,
        operations: 4096,
        library_bytes: 256 * 1024,
        call_cpu_ms: 100,
        call_memory_bytes: 64 * 1024 * 1024,
        call_reply_bytes: 4 * 1024 * 1024,
        scan_page_pairs: 1000,
        scan_page_bytes: 1024 * 1024,
        mailbox_commands: 4096,
        session_replies: 4096,
        session_idle_ms: 10 * 60 * 1000,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
