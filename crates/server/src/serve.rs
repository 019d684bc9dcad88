//! A node from start to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cirrus_cluster::{ClusterNode, NodeConfig};
use cirrus_proto::Failure;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic_health::server::HealthReporter;

use crate::admission::Admission;
use crate::config::{ConfigError, ServerConfig};
use crate::connections::Connections;
use crate::deadline::DeadlinePolicy;
use crate::edge::Edge;
use crate::key_value::KeyValueService;
use crate::logs::Logs;
use crate::peers::Peers;
use crate::pipeline::Pipelines;
use crate::readiness::{self, State};
use crate::scan::Scans;
use crate::sphivedb::{self, LateEdge};
use crate::sql::SqlService;
use crate::verify::Verifications;
use crate::{grpc, http, logging, observation, validation};

/// Handing leadership over and flushing may take this long.
const HANDOVER_BOUND: Duration = Duration::from_secs(10);
/// Requests under way when the node stops may take this long.
const DRAIN_BOUND: Duration = Duration::from_secs(10);
/// How often the drain looks whether they are done.
const DRAIN_LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// After the last request, connections get this long to close by themselves.
const CLOSE_BOUND: Duration = Duration::from_millis(250);
/// Probes and scrapers.
const HTTP_CONNECTIONS_MAX: usize = 256;

/// Why a node did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration is unusable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The log filter is unusable.
    #[error("configuration: log.filter: {0}")]
    LogFilter(#[from] tracing_subscriber::filter::ParseError),
    /// Metrics cannot be recorded.
    #[error("metrics: {0}")]
    Metrics(String),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// As configured.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The node's storage or its place in the cluster.
    #[error(transparent)]
    Start(#[from] Failure),
    /// A listener failed.
    #[error("the gRPC server failed: {0}")]
    Grpc(#[from] tonic::transport::Error),
    /// The descriptors for reflection are broken.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// What stops a node: all listeners and streams watch it.
struct Stop {
    state: watch::Sender<State>,
    streams: watch::Sender<bool>,
    listeners: watch::Sender<bool>,
}

/// Runs a node until `shutdown` completes and everything has been handed over.
///
/// # Errors
/// Fails where the node cannot start. What befalls it later shows in its probes.
pub async fn run(config: ServerConfig, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
    validation::validate(&config)?;
    logging::initialise(&config.log)?;
    let recorder = observation::recorder().map_err(ServeError::Metrics)?;
    let connections_max = config.limits.connections.min(connections_by_files());

    let (grpc_listener, grpc_address) = listen(&config.listen).await?;
    let (http_listener, http_address) = listen(&config.http_listen).await?;
    let stop = Stop {
        state: watch::Sender::new(State::Starting),
        streams: watch::Sender::new(false),
        listeners: watch::Sender::new(false),
    };
    // Ends with this function, whichever way it ends.
    let mut background = JoinSet::new();
    background.spawn(observation::upkeep(recorder.clone()));
    // Probes answer while storage is being opened.
    let http_connections = Connections::new(http_listener, "http", HTTP_CONNECTIONS_MAX);
    let late_edge = LateEdge::default();
    let router = http::router(stop.state.subscribe(), recorder.clone())
        .merge(sphivedb::router(Arc::clone(&late_edge), config.sql.http_body_bytes));
    background.spawn(async move {
        if let Err(error) = axum::serve(http_connections, router).await {
            tracing::error!(%error, "the HTTP listener failed");
        }
    });

    let address = config.advertise.clone().unwrap_or_else(|| grpc_address.to_string());
    let told_http_address = advertised_http(&config, &address, http_address);
    let node = ClusterNode::start(node_config(&config, address.clone(), told_http_address)).await?;
    background.spawn(readiness::follow(Arc::clone(&node), stop.state.clone()));
    let health = HealthReporter::new();
    background.spawn(readiness::report(stop.state.subscribe(), health.clone()));

    let limits = &config.limits;
    let edge = Arc::new(Edge {
        node: Arc::clone(&node),
        limits: limits.limits(),
        deadlines: DeadlinePolicy {
            default: Duration::from_millis(limits.deadline_default_ms),
            longest: Duration::from_millis(limits.deadline_max_ms),
        },
        requests: Admission::new("requests", limits.requests_in_flight),
    });
    // Nobody else sets it.
    let _ = late_edge.set(Arc::clone(&edge));
    let scans = Scans::new(Arc::clone(&edge), limits.scan_streams);
    let pipelines = Pipelines::new(Arc::clone(&edge), limits, Peers::default(), stop.streams.subscribe());
    let sql = SqlService::new(Arc::clone(&edge), &config.sql);
    let mut under_way = vec![edge.requests.clone(), scans.admission().clone(), pipelines.admission().clone()];
    under_way.extend(sql.admissions());
    let key_value = KeyValueService::new(Arc::clone(&edge), scans, Arc::new(pipelines));
    let logs = Logs::new(Arc::clone(&edge), config.procedures.log_followers, stop.streams.subscribe());
    let verifications = Verifications::new(Arc::clone(&edge), stop.streams.subscribe());
    let services = grpc::services(&edge, key_value, logs, verifications, sql, health)?;
    let incoming = Connections::new(grpc_listener, "grpc", connections_max).into_stream({
        let node = Arc::clone(&node);
        move |connection| node.replication().serve_link(connection)
    });
    let mut closing = stop.listeners.subscribe();
    let serving =
        grpc::server(limits.streams_per_connection).serve_with_incoming_shutdown(services, incoming, async move {
            // A sender that is gone closes the listener too.
            let _ = closing.wait_for(|closing| *closing).await;
        });
    tracing::info!(
        node = config.node_id,
        grpc = %grpc_address,
        http = %http_address,
        advertise = address,
        version = env!("CARGO_PKG_VERSION"),
        "listening"
    );

    tokio::pin!(serving);
    tokio::select! {
        result = &mut serving => result?,
        () = shutdown => {
            let stopping = hand_over(&node, &stop, &under_way);
            tokio::select! {
                () = stopping => {}
                result = &mut serving => result?,
            }
        }
    }
    tracing::info!(node = config.node_id, "stopped");
    Ok(())
}

/// The way down: probes first, so that balancers turn away; then leadership; then the listener; then what is
/// still under way.
async fn hand_over(node: &ClusterNode, stop: &Stop, under_way: &[Admission]) {
    tracing::info!("stopping: handing leadership over");
    readiness::advance(&stop.state, State::Stopping);
    stop.streams.send_replace(true);
    if tokio::time::timeout(HANDOVER_BOUND, node.shutdown()).await.is_err() {
        tracing::warn!("leadership was not handed over within {} s", HANDOVER_BOUND.as_secs());
    }
    stop.listeners.send_replace(true);
    let drained = async {
        while under_way.iter().any(|admission| admission.current() > 0) {
            tokio::time::sleep(DRAIN_LOOK_INTERVAL).await;
        }
    };
    if tokio::time::timeout(DRAIN_BOUND, drained).await.is_err() {
        let left: usize = under_way.iter().map(Admission::current).sum();
        tracing::warn!(left, "requests were cut off");
    }
    // Streams that never end, such as a watch on the health service, do not hold the node up.
    tokio::time::sleep(CLOSE_BOUND).await;
}

async fn listen(address: &str) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Listen { address: address.to_owned(), source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// The HTTP address to tell others: what is set, or else a host that others reach with the port it listens on.
fn advertised_http(config: &ServerConfig, grpc_address: &str, http_address: SocketAddr) -> String {
    if let Some(address) = &config.http_advertise {
        return address.clone();
    }
    if !validation::is_unspecified(&http_address.ip().to_string()) {
        return http_address.to_string();
    }
    let host = grpc_address.rsplit_once(':').map_or(grpc_address, |(host, _)| host);
    format!("{host}:{}", http_address.port())
}

fn node_config(config: &ServerConfig, address: String, http_address: String) -> NodeConfig {
    NodeConfig {
        node_id: config.node_id,
        data_dir: config.data_dir.clone(),
        address,
        http_address,
        join: config.join.clone(),
        shard_count: config.shards,
        limits: config.limits.limits(),
        sql: config.sql.limits(),
        timing: config.replication.timing(),
        storage: config.storage.storage(),
        suspension: config.procedures.suspension(),
        logs: config.procedures.logs(),
    }
}

/// Raises the limit on open files as far as the system lets it, and keeps half of it for storage.
fn connections_by_files() -> usize {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => {
            tracing::warn!(%error, "the limit on open files is unknown");
            return usize::MAX;
        }
    };
    let files = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    if files < 4096 {
        tracing::warn!(files, "the limit on open files is low; raise it (ulimit -n)");
    }
    usize::try_from(files / 2).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_http_address_that_others_are_told_is_one_they_can_reach() {
        let told = |http_advertise: Option<&str>, bound: &str| {
            let http_advertise = http_advertise.map(str::to_owned);
            let config = ServerConfig { http_advertise, ..ServerConfig::default() };
            advertised_http(&config, "node-1.example:7100", bound.parse().unwrap())
        };
        assert_eq!(told(None, "127.0.0.1:7180"), "127.0.0.1:7180");
        assert_eq!(told(None, "0.0.0.0:7180"), "node-1.example:7180");
        assert_eq!(told(Some("web.example:80"), "0.0.0.0:7180"), "web.example:80");
    }
}
