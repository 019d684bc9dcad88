//! `[sql]`: what databases and the requests to them may take.

use cirrus_proto::limits::SqlLimits;
use serde::{Deserialize, Serialize};

/// `[sql]`: what databases and the requests to them may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SqlSection {
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
    /// Most databases that one shard, and one place for queries, keeps open.
    pub open_databases: usize,
    /// Most memory that one shard's, or one place's, open databases keep, bytes.
    pub open_bytes: usize,
    /// Imports under way on the node; each holds its file in memory.
    pub imports: usize,
    /// Exports under way on the node.
    pub exports: usize,
    /// Queries under way on the node whose results stream. Each has a thread, and holds a snapshot of its shard's state.
    pub query_streams: usize,
    /// How long the client of a query stream or an export may take nothing of it, milliseconds.
    pub stream_idle_ms: u64,
    /// Longest body of a request to POST /sphivedb, bytes; above it, the answer is 413.
    pub http_body_bytes: usize,
}

impl SqlSection {
    /// The limits that every layer enforces.
    pub fn limits(&self) -> SqlLimits {
        SqlLimits {
            database_bytes: self.database_bytes,
            page_bytes: self.page_bytes,
            user_bytes: self.user_bytes,
            dbname_bytes: self.dbname_bytes,
            statements: self.statements,
            sql_bytes: self.sql_bytes,
            value_bytes: self.value_bytes,
            cpu_ms: self.cpu_ms,
            upgrade_cpu_ms: self.upgrade_cpu_ms,
            import_cpu_ms: self.import_cpu_ms,
            memory_bytes: self.memory_bytes,
            reply_rows: self.reply_rows,
            reply_bytes: self.reply_bytes,
            list_databases: self.list_databases,
            open_databases: self.open_databases,
            open_bytes: self.open_bytes,
        }
    }
}

impl Default for SqlSection {
    fn default() -> Self {
        let limits = SqlLimits::DEFAULT;
        SqlSection {
            database_bytes: limits.database_bytes,
            page_bytes: limits.page_bytes,
            user_bytes: limits.user_bytes,
            dbname_bytes: limits.dbname_bytes,
            statements: limits.statements,
            sql_bytes: limits.sql_bytes,
            value_bytes: limits.value_bytes,
            cpu_ms: limits.cpu_ms,
            upgrade_cpu_ms: limits.upgrade_cpu_ms,
            import_cpu_ms: limits.import_cpu_ms,
            memory_bytes: limits.memory_bytes,
            reply_rows: limits.reply_rows,
            reply_bytes: limits.reply_bytes,
            list_databases: limits.list_databases,
            open_databases: limits.open_databases,
            open_bytes: limits.open_bytes,
            imports: 4,
            exports: 16,
            query_streams: 64,
            stream_idle_ms: 10_000,
            http_body_bytes: 4 * 1024 * 1024,
        }
    }
}
