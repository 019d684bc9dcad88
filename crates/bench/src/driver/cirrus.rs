//! Cirrus: unary calls by `cirrus-client`, as its users make them, and the pipelined stream.
//!
//! The client sends each request to the leader of its key's shard, over `--connections` to each node,
//! shared by all of the bench's clients. Request ids are off, as etcd, Redis and memcached have nothing
//! like them; so a write is never sent again after it may have been proposed. What the client does for
//! its caller before that (following a leader, waiting out a full mailbox) is part of the latency.

mod pipeline;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use cirrus_client::{Client, ClientConfig, ClientError};
use cirrus_proto::v1::StatusRequest;
use cirrus_proto::v1::cluster_client::ClusterClient;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use super::{Driver, ServerTime, Session, grpc, patiently};
use crate::recorder::OperationError;
use crate::workload::Operation;
use pipeline::Pipeline;

/// The library of `--op call`: a read-modify-write of two keys, written as LightCloud's scripts are.
const LIBRARY: &str = "bench";
const LIBRARY_SOURCE: &str = "\
function incr(key, amount)
    local sum = tonumber(_get(key) or '0') + tonumber(amount)
    _put(key, tostring(sum))
    local total = '{' .. key .. '}/total'
    _put(total, tostring(tonumber(_get(total) or '0') + tonumber(amount)))
    return sum
end
";
const PROCEDURE: &str = "bench.incr";

/// How often the shard map is asked for without cause: a node that forwards does not tell a pipeline so.
const REFRESH_INTERVAL: Duration = Duration::from_millis(500);

/// A cluster whose shards all have leaders.
pub(crate) struct CirrusDriver {
    client: Client,
    /// By address, for pipelines; connected when first used.
    channels: Vec<(String, Vec<Channel>)>,
    refresher: JoinHandle<()>,
    /// CPU time of all calls, microseconds, as their answers tell it.
    script_us: Arc<AtomicU64>,
}

impl CirrusDriver {
    pub(crate) async fn connect(endpoints: &[String], connections: usize, patience: Duration) -> anyhow::Result<Self> {
        let mut config = ClientConfig::new(endpoints);
        config.request_ids = false;
        config.connections_per_node = connections;
        let client = patiently(patience, &format!("cirrus at {}", endpoints.join(",")), async || {
            let client = Client::connect(config.clone()).await?;
            let status = client.status().await?;
            anyhow::ensure!(status.shards.len() > 1, "the cluster has no shards yet");
            let leaderless = status.shards.iter().filter(|shard| shard.leader_node_id == 0).count();
            anyhow::ensure!(leaderless == 0, "{leaderless} shards have no leader yet");
            // The map that the client got as it connected may be older than that.
            client.refresh().await?;
            Ok(client)
        })
        .await?;
        let with_channels = |address: String| grpc::connections(&address, connections).map(|all| (address, all));
        let channels = client.addresses().into_iter().map(with_channels).collect::<Result<_, _>>()?;
        let refreshed = client.clone();
        let refresher = tokio::spawn(async move {
            loop {
                tokio::time::sleep(REFRESH_INTERVAL).await;
                // Where no node answers, the requests themselves fail and are counted.
                drop(refreshed.refresh().await);
            }
        });
        Ok(CirrusDriver { client, channels, refresher, script_us: Arc::default() })
    }

    /// The client that all sessions share.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// A client that keeps up to `window` requests in flight.
    pub(crate) fn pipeline(&self, number: usize, window: usize) -> Pipeline {
        let picked = self.channels.iter().map(|(address, all)| (address.clone(), all[number % all.len()].clone()));
        Pipeline::new(self.client.clone(), picked.collect(), number, window)
    }
}

impl Drop for CirrusDriver {
    fn drop(&mut self) {
        self.refresher.abort();
    }
}

impl Driver for CirrusDriver {
    type Session = CirrusSession;

    async fn prepare(&self, operation: Operation) -> anyhow::Result<()> {
        if operation == Operation::Call {
            let upload = self.client.upload_library(LIBRARY, LIBRARY_SOURCE);
            upload.await.with_context(|| format!("uploading library {LIBRARY:?}"))?;
        }
        Ok(())
    }

    async fn session(&self, _: usize) -> anyhow::Result<CirrusSession> {
        Ok(CirrusSession { client: self.client.clone(), script_us: self.script_us.clone() })
    }

    /// Asks every node, so it is `None` where one does not answer.
    async fn processor_time(&self) -> Option<ServerTime> {
        let mut all = Duration::ZERO;
        for (_, channels) in &self.channels {
            let mut node = ClusterClient::new(channels.first()?.clone());
            let asked = tokio::time::timeout(Duration::from_secs(1), node.status(StatusRequest {})).await;
            all += Duration::from_micros(asked.ok()?.ok()?.into_inner().process_cpu_us);
        }
        let scripts = Duration::from_micros(self.script_us.load(Relaxed));
        Some(ServerTime { all, scripts })
    }
}

/// One client of Cirrus, with one request in flight.
pub(crate) struct CirrusSession {
    client: Client,
    script_us: Arc<AtomicU64>,
}

impl Session for CirrusSession {
    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), OperationError> {
        require_applied(self.client.put(key, value).await?.applied)
    }

    async fn get(&mut self, key: Bytes) -> Result<Option<usize>, OperationError> {
        let answer = self.client.get(key).await?;
        Ok(answer.found.then_some(answer.value.len()))
    }

    async fn call(&mut self, key: Bytes) -> Result<(), OperationError> {
        let answer = self.client.call(PROCEDURE, key, vec![Bytes::from_static(b"1")]).await?;
        self.script_us.fetch_add(answer.cpu_us, Relaxed);
        let sum = answer.result;
        match std::str::from_utf8(&sum).ok().and_then(|digits| digits.parse::<i64>().ok()) {
            Some(1..) => Ok(()),
            _ => Err(OperationError::new("WRONG_RESULT", format!("a counter stands at {sum:?}"))),
        }
    }
}

fn require_applied(applied: bool) -> Result<(), OperationError> {
    if applied { Ok(()) } else { Err(OperationError::new("NOT_APPLIED", "a put without a condition was not applied")) }
}

impl From<ClientError> for OperationError {
    fn from(error: ClientError) -> Self {
        let retry_after = error.failure.as_ref().and_then(|failure| failure.retry_after);
        OperationError { kind: error.reason_name().into(), message: error.to_string(), retry_after }
    }
}
