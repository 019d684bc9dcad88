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

/// The limits of databases and of the requests to them. All are enforced with a [`Failure`](crate::Failure) that
/// names the limit and, where it is known, the actual size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqlLimits {
    /// Largest database, bytes of its pages.
    pub database_bytes: usize,
    /// Bytes of a page of a database that is created: a power of two from 512 to 65,536.
    pub page_bytes: usize,
    /// Longest user of a database, bytes.
    pub user_bytes: usize,
    /// Longest dbname, bytes.
    pub dbname_bytes: usize,
    /// Most statements in one request.
    pub statements: usize,
    /// Longest text of one statement, bytes.
    pub sql_bytes: usize,
    /// Longest string, blob or row, bytes.
    pub value_bytes: usize,
    /// CPU time of one request's statements, milliseconds.
    pub cpu_ms: u64,
    /// CPU time of bringing a database to its schema's version, milliseconds.
    pub upgrade_cpu_ms: u64,
    /// CPU time of checking and converting a file that is imported, milliseconds.
    pub import_cpu_ms: u64,
    /// What SQLite may allocate for one request, bytes.
    pub memory_bytes: usize,
    /// Most rows in all of one request's results.
    pub reply_rows: usize,
    /// Most bytes in all of one request's results.
    pub reply_bytes: usize,
    /// Most databases in a page of a list.
    pub list_databases: usize,
    /// Most databases that one shard keeps open.
    pub open_databases: usize,
    /// Most memory that one shard's open databases keep, bytes.
    pub open_bytes: usize,
}

impl SqlLimits {
    /// The defaults that the documentation states.
    pub const DEFAULT: SqlLimits = SqlLimits {
        database_bytes: 64 * 1024 * 1024,
        page_bytes: 1024,
        user_bytes: 256,
        dbname_bytes: 64,
        statements: 1000,
        sql_bytes: 1024 * 1024,
        value_bytes: 1024 * 1024,
        cpu_ms: 1000,
        upgrade_cpu_ms: 2000,
        import_cpu_ms: 10_000,
        memory_bytes: 64 * 1024 * 1024,
        reply_rows: 100_000,
        reply_bytes: 4 * 1024 * 1024,
        list_databases: 1000,
        open_databases: 1000,
        open_bytes: 32 * 1024 * 1024,
    };
}

impl Default for SqlLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
