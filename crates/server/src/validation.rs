//! What a configuration must satisfy; each complaint names the key.

use std::borrow::Cow;
use std::net::IpAddr;

use figment::value::Value;
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::config::{ConfigError, ServerConfig};
use crate::grpc::MESSAGE_BYTES_MAX;

/// More threads than any machine has processors.
const WORKER_THREADS_MAX: usize = 1024;
/// Who waits longer than this for work can afford to be woken.
const IDLE_POLL_MAX_US: u64 = 10_000;
/// More shards than this cost more threads and files than a node can carry.
const SHARDS_MAX: u32 = 1024;

/// A terabyte: beyond it a number is a slip.
const MIB_MAX: usize = 1 << 20;

/// Each kill holds a shard up for as long as a call may take.
const SUSPEND_AFTER_KILLS_MAX: u32 = 1000;

/// Each is up to a few kibibytes, and whoever asks for them gets those of all nodes.
const LOG_LINES_KEPT_MAX: usize = 10_000;

/// Each has a thread of those for what blocks, of which there are 512.
const SQL_QUERY_STREAMS_MAX: usize = 256;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Checks what types cannot express.
pub(crate) fn validate(config: &ServerConfig) -> Result<(), ConfigError> {
    require(config.node_id >= 1, "node_id", "node ids count from 1")?;
    require((1..=SHARDS_MAX).contains(&config.shards), "shards", format!("must be 1 to {SHARDS_MAX}"))?;
    let threads = format!("must be 0 to {WORKER_THREADS_MAX}");
    require(config.worker_threads <= WORKER_THREADS_MAX, "worker_threads", threads)?;
    let idle_poll = format!("must be 0 to {IDLE_POLL_MAX_US}, not {}", config.idle_poll_us);
    require(config.idle_poll_us <= IDLE_POLL_MAX_US, "idle_poll_us", idle_poll)?;
    require(!config.data_dir.as_os_str().is_empty(), "data_dir", "must not be empty")?;
    addresses(config)?;
    replication(config)?;
    limits(config)?;
    procedures(config)?;
    sql(config)?;
    for (field, mib) in [
        ("storage.block_cache_mib", config.storage.block_cache_mib),
        ("storage.write_buffer_mib", config.storage.write_buffer_mib),
        ("storage.state_buffer_mib", config.storage.state_buffer_mib),
    ] {
        require((1..=MIB_MAX).contains(&mib), field, format!("must be 1 to {MIB_MAX}"))?;
    }
    match EnvFilter::try_new(&config.log.filter) {
        Ok(_) => Ok(()),
        Err(error) => Err(invalid("log.filter", error.to_string())),
    }
}

fn addresses(config: &ServerConfig) -> Result<(), ConfigError> {
    let (listen_host, _) = host_and_port("listen", &config.listen)?;
    host_and_port("http_listen", &config.http_listen)?;
    for address in &config.join {
        reachable("join", address)?;
    }
    match &config.advertise {
        Some(address) => reachable("advertise", address)?,
        None if is_unspecified(listen_host) => {
            let problem = format!("must be set: others cannot reach this node at {}", config.listen);
            return Err(invalid("advertise", problem));
        }
        None => {}
    }
    match &config.http_advertise {
        Some(address) => reachable("http_advertise", address),
        None => Ok(()),
    }
}

fn replication(config: &ServerConfig) -> Result<(), ConfigError> {
    let timing = &config.replication;
    require(timing.heartbeat_ms >= 1, "replication.heartbeat_ms", "must be at least 1")?;
    // Below two heartbeats, one that is late would depose a healthy leader.
    require(
        timing.election_min_ms >= 2 * timing.heartbeat_ms,
        "replication.election_min_ms",
        format!("{} is below twice heartbeat_ms ({})", timing.election_min_ms, timing.heartbeat_ms),
    )?;
    require(
        timing.election_max_ms > timing.election_min_ms,
        "replication.election_max_ms",
        format!("{} is not above election_min_ms ({})", timing.election_max_ms, timing.election_min_ms),
    )?;
    require(timing.snapshot_log_entries >= 1, "replication.snapshot_log_entries", "must be at least 1")
}

fn limits(config: &ServerConfig) -> Result<(), ConfigError> {
    let limits = &config.limits;
    at_least_one("limits", limits)?;
    // What a request carries must fit in a message, with room for the message's own fields and, where a
    // request fails for its size, for saying so.
    let carried: &[(&'static str, usize)] = &[
        ("limits.value_bytes", limits.value_bytes),
        ("limits.write_set_bytes", limits.write_set_bytes),
        ("limits.library_bytes", limits.library_bytes),
        ("limits.scan_page_bytes", limits.scan_page_bytes),
        ("limits.call_reply_bytes", limits.call_reply_bytes),
    ];
    for (field, value) in carried {
        let most = MESSAGE_BYTES_MAX / 2;
        require(*value <= most, field, format!("{value} is above {most}, half the largest message"))?;
    }
    require(
        limits.deadline_max_ms >= limits.deadline_default_ms,
        "limits.deadline_max_ms",
        format!("{} is below deadline_default_ms ({})", limits.deadline_max_ms, limits.deadline_default_ms),
    )
}

fn procedures(config: &ServerConfig) -> Result<(), ConfigError> {
    let procedures = &config.procedures;
    let (field, most) = ("procedures.suspend_after_kills", SUSPEND_AFTER_KILLS_MAX);
    require(procedures.suspend_after_kills <= most, field, format!("must be 0 to {most}"))?;
    require(procedures.suspend_window_ms >= 1, "procedures.suspend_window_ms", "must be at least 1")?;
    require(procedures.suspend_ms >= 1, "procedures.suspend_ms", "must be at least 1")?;
    let (longest, first) = (procedures.suspend_max_ms, procedures.suspend_ms);
    let problem = format!("{longest} is below suspend_ms ({first})");
    require(longest >= first, "procedures.suspend_max_ms", problem)?;
    let (kept, most) = (procedures.log_lines_kept, LOG_LINES_KEPT_MAX);
    require(kept <= most, "procedures.log_lines_kept", format!("must be 0 to {most}"))?;
    require(procedures.log_lines_per_second >= 1, "procedures.log_lines_per_second", "must be at least 1")?;
    require(longest <= DAY_MS, "procedures.suspend_max_ms", format!("{longest} is above {DAY_MS}, a day"))
}

fn sql(config: &ServerConfig) -> Result<(), ConfigError> {
    at_least_one("sql", &config.sql)?;
    let page_bytes = config.sql.page_bytes;
    require(
        page_bytes.is_power_of_two() && (512..=65_536).contains(&page_bytes),
        "sql.page_bytes",
        format!("{page_bytes} is not a power of two from 512 to 65536"),
    )?;
    let (streams, most) = (config.sql.query_streams, SQL_QUERY_STREAMS_MAX);
    require(streams <= most, "sql.query_streams", format!("{streams} is above {most}"))?;
    let (reply_bytes, most) = (config.sql.reply_bytes, MESSAGE_BYTES_MAX / 2);
    let problem = format!("{reply_bytes} is above {most}, half the largest message");
    require(reply_bytes <= most, "sql.reply_bytes", problem)
}

/// Every number of a section must be above 0.
fn at_least_one(section: &str, values: &impl Serialize) -> Result<(), ConfigError> {
    let values = Value::serialize(values).expect("a section is a dictionary of plain values");
    let zero = values.as_dict().into_iter().flatten().find(|(_, value)| value.to_u128() == Some(0));
    match zero {
        Some((key, _)) => Err(invalid(format!("{section}.{key}"), "must be at least 1")),
        None => Ok(()),
    }
}

/// Splits "host:port"; a host of IPv6 stands in brackets.
fn host_and_port<'a>(field: &'static str, address: &'a str) -> Result<(&'a str, u16), ConfigError> {
    let parts = address.rsplit_once(':').and_then(|(host, port)| {
        let host = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
        Some((host, port.parse::<u16>().ok()?)).filter(|(host, _)| !host.is_empty())
    });
    parts.ok_or_else(|| invalid(field, format!("{address:?} is not host:port")))
}

/// An address that others can connect to.
fn reachable(field: &'static str, address: &str) -> Result<(), ConfigError> {
    let (host, port) = host_and_port(field, address)?;
    require(port != 0 && !is_unspecified(host), field, format!("others cannot connect to {address}"))
}

/// Whether a host stands for every address of the machine.
pub(crate) fn is_unspecified(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified())
}

fn require(holds: bool, field: &'static str, problem: impl Into<String>) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(invalid(field, problem)) }
}

fn invalid(field: impl Into<Cow<'static, str>>, problem: impl Into<String>) -> ConfigError {
    ConfigError::Invalid { field: field.into(), problem: problem.into() }
}
