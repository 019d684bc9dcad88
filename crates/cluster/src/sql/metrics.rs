//! What requests to databases cost, by kind of request: metrics, and a line in the log for each slow one.
//!
//! No label is what clients choose: users and dbnames are as many as they like.

use std::time::Duration;

use cirrus_proto::Failure;
use cirrus_proto::v1::{SqlDatabase, SqlStatement};
use cirrus_sql::{Databases, Statistics};
use metrics::{Counter, Gauge, Histogram, Unit};

/// A request that takes longer gets a line in the log: where it writes, its shard's other requests waited for it.
const SLOW: Duration = Duration::from_millis(50);

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RequestKind {
    #[default]
    Execute,
    /// What a batch has for one database.
    Batch,
    /// `sql.exec` and `sql.query` of a procedure.
    Call,
    Remove,
    Import,
    Upgrade,
    Query,
    Stream,
    Describe,
    List,
}

impl RequestKind {
    const ALL: [RequestKind; 10] = [
        RequestKind::Execute,
        RequestKind::Batch,
        RequestKind::Call,
        RequestKind::Remove,
        RequestKind::Import,
        RequestKind::Upgrade,
        RequestKind::Query,
        RequestKind::Stream,
        RequestKind::Describe,
        RequestKind::List,
    ];

    fn name(self) -> &'static str {
        match self {
            RequestKind::Execute => "execute",
            RequestKind::Batch => "batch",
            RequestKind::Call => "call",
            RequestKind::Remove => "remove",
            RequestKind::Import => "import",
            RequestKind::Upgrade => "upgrade",
            RequestKind::Query => "query",
            RequestKind::Stream => "stream",
            RequestKind::Describe => "describe",
            RequestKind::List => "list",
        }
    }
}

/// Tells what the metrics of this module mean.
pub(crate) fn describe() {
    metrics::describe_counter!("cirrus_sql_requests_total", "Requests to databases that were evaluated, by kind");
    metrics::describe_counter!("cirrus_sql_failures_total", "Those that failed, by kind and reason");
    metrics::describe_histogram!("cirrus_sql_seconds", Unit::Seconds, "Evaluating one request to a database");
    metrics::describe_counter!("cirrus_sql_write_bytes_total", Unit::Bytes, "Keys and values written for databases");
    metrics::describe_counter!("cirrus_sql_pages_written_total", "Pages of databases written or removed by statements");
    metrics::describe_counter!("cirrus_sql_opens_total", "Requests that opened their database, or found it open");
    metrics::describe_counter!("cirrus_sql_upgrades_total", "Upgrades to a schema's version, by outcome");
    metrics::describe_gauge!("cirrus_sql_open_databases", "Databases that are kept open, by shard, and for queries");
    metrics::describe_gauge!("cirrus_sql_open_bytes", Unit::Bytes, "Memory of the databases that are kept open");
}

/// What a request is about, for the log: sizes, and no values.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sizes<'a> {
    pub(super) dbname: &'a str,
    pub(super) statements: usize,
    /// Of statements' texts, or of an import's pages.
    pub(super) bytes: usize,
}

impl<'a> Sizes<'a> {
    /// Of statements for a database.
    pub(super) fn of(database: Option<&'a SqlDatabase>, statements: &[SqlStatement]) -> Self {
        Sizes {
            dbname: database.map_or("", |database| &database.dbname),
            statements: statements.len(),
            bytes: statements.iter().map(|statement| statement.sql.len()).sum(),
        }
    }
}

struct RequestMeters {
    requests: Counter,
    seconds: Histogram,
    write_bytes: Counter,
}

impl RequestMeters {
    fn new(kind: RequestKind) -> Self {
        let name = kind.name();
        RequestMeters {
            requests: metrics::counter!("cirrus_sql_requests_total", "request" => name),
            seconds: metrics::histogram!("cirrus_sql_seconds", "request" => name),
            write_bytes: metrics::counter!("cirrus_sql_write_bytes_total", "request" => name),
        }
    }
}

/// The meters of the requests to one shard, or of one place for queries.
pub(super) struct SqlMeters {
    by_kind: [RequestMeters; RequestKind::ALL.len()],
    opened: Counter,
    found_open: Counter,
    pages_written: Counter,
    upgrades: Counter,
    failed_upgrades: Counter,
    open: Gauge,
    open_bytes: Gauge,
    /// What was told of the databases before.
    told: Statistics,
}

/// Whose databases they are, as the label `shard` names them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Owner {
    Shard(u32),
    Queries,
}

impl SqlMeters {
    pub(super) fn new(owner: Owner) -> Self {
        let shard = match owner {
            Owner::Shard(shard_id) => shard_id.to_string(),
            Owner::Queries => "queries".to_owned(),
        };
        SqlMeters {
            by_kind: RequestKind::ALL.map(RequestMeters::new),
            opened: metrics::counter!("cirrus_sql_opens_total", "database" => "opened"),
            found_open: metrics::counter!("cirrus_sql_opens_total", "database" => "found_open"),
            pages_written: metrics::counter!("cirrus_sql_pages_written_total"),
            upgrades: metrics::counter!("cirrus_sql_upgrades_total", "outcome" => "upgraded"),
            failed_upgrades: metrics::counter!("cirrus_sql_upgrades_total", "outcome" => "failed"),
            open: metrics::gauge!("cirrus_sql_open_databases", "shard" => shard.clone()),
            open_bytes: metrics::gauge!("cirrus_sql_open_bytes", "shard" => shard),
            told: Statistics::default(),
        }
    }

    /// Takes note of a request that was evaluated.
    pub(super) fn record<T>(
        &mut self,
        kind: RequestKind,
        took: Duration,
        outcome: &Result<T, Failure>,
        write_bytes: usize,
        sizes: Sizes<'_>,
    ) {
        let meters = &self.by_kind[kind as usize];
        meters.requests.increment(1);
        meters.seconds.record(took);
        match outcome {
            Ok(_) => meters.write_bytes.increment(write_bytes as u64),
            Err(failure) => {
                let labels = [("request", kind.name()), ("reason", failure.reason.as_str())];
                metrics::counter!("cirrus_sql_failures_total", &labels).increment(1);
            }
        }
        if took >= SLOW {
            let Sizes { dbname, statements, bytes } = sizes;
            tracing::warn!(
                request = kind.name(),
                took_ms = took.as_millis() as u64,
                dbname,
                statements,
                bytes,
                write_bytes,
                outcome = outcome.as_ref().map_or_else(|failure| failure.reason.as_str(), |_| "ok"),
                "a slow request to a database"
            );
        }
    }

    /// Takes note of what the databases did since the last time, and of what they hold.
    pub(super) fn follow(&mut self, databases: &Databases) {
        self.tell(databases.statistics());
    }

    fn tell(&mut self, now: Statistics) {
        let told = std::mem::replace(&mut self.told, now);
        self.opened.increment(now.opened - told.opened);
        self.found_open.increment(now.found_open - told.found_open);
        self.pages_written.increment(now.pages_written - told.pages_written);
        self.upgrades.increment(now.upgrades - told.upgrades);
        self.failed_upgrades.increment(now.failed_upgrades - told.failed_upgrades);
        // By difference: all places for queries share a gauge.
        self.open.increment(now.open as f64 - told.open as f64);
        self.open_bytes.increment(now.open_bytes as f64 - told.open_bytes as f64);
    }
}

/// The databases are closed with their meters.
impl Drop for SqlMeters {
    fn drop(&mut self) {
        self.tell(Statistics { open: 0, open_bytes: 0, ..self.told });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_meters_of_its_own() {
        for (place, kind) in RequestKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place, "{}", kind.name());
        }
    }
}
