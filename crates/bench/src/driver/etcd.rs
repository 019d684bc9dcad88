//! etcd, by its v3 API: `KV.Put` and linearizable `KV.Range`.
//!
//! Clients are dealt out over `--connections` to each endpoint, as etcd's own benchmark tool deals its
//! clients out over `--conns`; a member that is not the leader forwards, as in an etcd that its users
//! reach through all endpoints. Name only the leader's endpoint to measure without that hop.

use std::time::Duration;

use bytes::Bytes;
use tonic::Status;
use tonic::transport::Channel;

use super::{Driver, Session, grpc, patiently};
use crate::recorder::OperationError;
use crate::workload::Operation;

/// Generated from `proto/etcdserverpb`.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

use etcdserverpb::kv_client::KvClient;
use etcdserverpb::{PutRequest, RangeRequest};

/// Connections to an etcd cluster.
pub(crate) struct EtcdDriver {
    /// Endpoint by endpoint within each round, so that neighbours in this list are different members.
    channels: Vec<Channel>,
}

impl EtcdDriver {
    /// Waits until every endpoint answers a linearizable read, so that the cluster has a leader.
    pub(crate) async fn connect(endpoints: &[String], connections: usize, patience: Duration) -> anyhow::Result<Self> {
        let mut by_endpoint = Vec::new();
        for endpoint in endpoints {
            let channels = grpc::connections(endpoint, connections)?;
            patiently(patience, &format!("etcd at {endpoint}"), async || {
                let probe = RangeRequest { key: Bytes::from_static(b"bench/probe"), serializable: false };
                KvClient::new(channels[0].clone()).range(probe).await?;
                Ok(())
            })
            .await?;
            by_endpoint.push(channels);
        }
        let channels = (0..connections).flat_map(|round| by_endpoint.iter().map(move |all| all[round].clone()));
        Ok(EtcdDriver { channels: channels.collect() })
    }
}

impl Driver for EtcdDriver {
    type Session = EtcdSession;

    async fn prepare(&self, _: Operation) -> anyhow::Result<()> {
        Ok(())
    }

    async fn session(&self, client: usize) -> anyhow::Result<EtcdSession> {
        let channel = self.channels[client % self.channels.len()].clone();
        // etcd's own limit on an answer's size is above any value that the bench stores.
        Ok(EtcdSession { client: KvClient::new(channel).max_decoding_message_size(usize::MAX) })
    }
}

/// One client of etcd.
pub(crate) struct EtcdSession {
    client: KvClient<Channel>,
}

impl Session for EtcdSession {
    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), OperationError> {
        self.client.put(PutRequest { key, value }).await.map_err(|status| error_of(&status))?;
        Ok(())
    }

    async fn get(&mut self, key: Bytes) -> Result<Option<usize>, OperationError> {
        let request = RangeRequest { key, serializable: false };
        let answer = self.client.range(request).await.map_err(|status| error_of(&status))?;
        Ok(answer.into_inner().kvs.first().map(|pair| pair.value.len()))
    }

    async fn call(&mut self, _: Bytes) -> Result<(), OperationError> {
        Err(OperationError::new("UNSUPPORTED", "etcd does not run procedures"))
    }
}

fn error_of(status: &Status) -> OperationError {
    grpc::operation_error(status, None)
}
