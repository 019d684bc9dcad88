//! Speaks to one node, exactly once per request: no routing, no retry, no request id that the test did not set.

use std::error::Error as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use cirrus_proto::v1::cluster_client::ClusterClient;
use cirrus_proto::v1::key_value_client::KeyValueClient;
use cirrus_proto::v1::procedures_client::ProceduresClient;
use cirrus_proto::v1::sql_client::SqlClient;
use cirrus_proto::v1::{
    CallRequest, DeleteRequest, GetRequest, GetResponse, IncrementRequest, Library, PutRequest, PutResponse,
    ReadConsistency, RequestId, ScanRequest, ScanResponse, StatusRequest, StatusResponse, UploadLibraryRequest,
};
use cirrus_proto::{Advice, Failure, Reason};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// Sends every request with its deadline, which tonic's own timeout keeps to itself.
#[derive(Clone, Copy)]
pub struct WithDeadline(Duration);

impl Interceptor for WithDeadline {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.set_timeout(self.0);
        Ok(request)
    }
}

/// How requests reach the node.
type Connection = InterceptedService<Channel, WithDeadline>;

/// A connection to one node, made at the first request and again after it broke.
#[derive(Clone)]
pub struct NodeClient {
    /// The node's gRPC address, host:port.
    pub address: String,
    /// The services, for requests that have no method below.
    pub key_value: KeyValueClient<Connection>,
    /// See `key_value`.
    pub procedures: ProceduresClient<Connection>,
    /// See `key_value`.
    pub cluster: ClusterClient<Connection>,
    /// See `key_value`.
    pub sql: SqlClient<Connection>,
}

impl NodeClient {
    /// `timeout` bounds each request; it reaches the node as the request's deadline.
    pub fn new(address: &str, timeout: Duration) -> Result<NodeClient> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).context("a node's address")?;
        let channel = endpoint
            .connect_timeout(Duration::from_secs(1))
            // A paused node keeps its connections open; without this, requests to it would pile up.
            .keep_alive_while_idle(true)
            .http2_keep_alive_interval(Duration::from_secs(2))
            .keep_alive_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .connect_lazy();
        Ok(NodeClient {
            address: address.to_owned(),
            key_value: KeyValueClient::with_interceptor(channel.clone(), WithDeadline(timeout)),
            procedures: ProceduresClient::with_interceptor(channel.clone(), WithDeadline(timeout)),
            cluster: ClusterClient::with_interceptor(channel.clone(), WithDeadline(timeout)),
            sql: SqlClient::with_interceptor(channel, WithDeadline(timeout)),
        })
    }

    /// The cluster as this node sees it.
    pub async fn status(&self) -> Result<StatusResponse, Status> {
        Ok(self.cluster.clone().status(StatusRequest {}).await?.into_inner())
    }

    /// Reads a key.
    pub async fn get(&self, key: &str, consistency: ReadConsistency) -> Result<GetResponse, Status> {
        let request = GetRequest { key: key.to_owned().into(), consistency: consistency.into() };
        Ok(self.key_value.clone().get(request).await?.into_inner())
    }

    /// The value that a linearizable read finds.
    pub async fn value(&self, key: &str) -> Result<Option<Vec<u8>>, Status> {
        let found = self.get(key, ReadConsistency::Linearizable).await?;
        Ok(found.found.then(|| found.value.to_vec()))
    }

    /// Stores a value.
    pub async fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> Result<PutResponse, Status> {
        self.put_request(PutRequest { key: key.to_owned().into(), value: value.into().into(), ..PutRequest::default() })
            .await
    }

    /// Stores a value, with everything that the request may say.
    pub async fn put_request(&self, request: PutRequest) -> Result<PutResponse, Status> {
        Ok(self.key_value.clone().put(request).await?.into_inner())
    }

    /// Deletes a key; whether there was a value.
    pub async fn delete(&self, key: &str) -> Result<bool, Status> {
        let request = DeleteRequest { key: key.to_owned().into(), ..DeleteRequest::default() };
        Ok(self.key_value.clone().delete(request).await?.into_inner().deleted)
    }

    /// Adds to a key; the sum.
    pub async fn increment(&self, key: &str, delta: i64, request_id: Option<RequestId>) -> Result<i64, Status> {
        let request = IncrementRequest { key: key.to_owned().into(), delta, ttl_ms: 0, request_id };
        Ok(self.key_value.clone().increment(request).await?.into_inner().value)
    }

    /// Calls "library.function"; the result.
    pub async fn call(&self, procedure: &str, key: &str, arguments: &[&str]) -> Result<Vec<u8>, Status> {
        let request = CallRequest {
            procedure: procedure.to_owned(),
            key: key.to_owned().into(),
            args: arguments.iter().map(|argument| argument.as_bytes().to_vec().into()).collect(),
            ..Default::default()
        };
        Ok(self.procedures.clone().call(request).await?.into_inner().result.to_vec())
    }

    /// Uploads a library.
    pub async fn upload(&self, name: &str, source: impl Into<Vec<u8>>) -> Result<Library, Status> {
        let request =
            UploadLibraryRequest { name: name.to_owned(), source: source.into().into(), ..Default::default() };
        let response = self.procedures.clone().upload_library(request).await?.into_inner();
        response.library.ok_or_else(|| Status::data_loss("an upload's response without a library"))
    }

    /// Every page of a scan.
    pub async fn scan(&self, request: ScanRequest) -> Result<Vec<ScanResponse>, Status> {
        let mut pages = self.key_value.clone().scan(request).await?.into_inner();
        let mut all = Vec::new();
        while let Some(page) = pages.message().await? {
            all.push(page);
        }
        Ok(all)
    }
}

/// The reason that the cluster gave, if it was the cluster that answered.
pub fn reason(status: &Status) -> Option<Reason> {
    Failure::from_status(status).map(|failure| failure.reason)
}

/// Whether the request certainly did not happen: the cluster says so, or no connection was made.
pub fn certainly_refused(status: &Status) -> bool {
    if let Some(failure) = Failure::from_status(status) {
        return matches!(failure.advice(), Advice::FixRequest | Advice::Retry | Advice::RetryElsewhere);
    }
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.kind() == std::io::ErrorKind::ConnectionRefused;
        }
        source = error.source();
    }
    false
}
