//! Asking another node to run what its shard leads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cirrus_proto::internal::v1::node_client::NodeClient;
use cirrus_proto::internal::v1::{
    DescribeReplicaRequest, DescribeReplicaResponse, ExecuteRequest, ExecuteResponse, FollowLocalLogsResponse,
    HashReplicaRequest, HashReplicaResponse, JoinRequest, JoinResponse,
};
use cirrus_proto::v1::FollowLogsRequest;
use cirrus_proto::{Failure, Reason};
use cirrus_replication::{MESSAGE_BYTES_MAX, endpoint};
use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use parking_lot::Mutex;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Connections to other nodes, opened on first use.
#[derive(Default)]
pub(crate) struct Forwarder {
    clients: Mutex<HashMap<Arc<str>, NodeClient<Channel>>>,
}

impl Forwarder {
    fn client(&self, address: &str) -> Result<NodeClient<Channel>, Failure> {
        let mut clients = self.clients.lock();
        if let Some(client) = clients.get(address) {
            return Ok(client.clone());
        }
        let channel = endpoint(address)
            .map_err(|error| Failure::invalid_field("address", format!("{address:?}: {error}")))?
            .connect_lazy();
        let client = NodeClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        clients.insert(address.into(), client.clone());
        Ok(client)
    }

    /// Runs a command or query on the node at `address`, which must lead the shard.
    ///
    /// # Errors
    /// That node's failure; NO_LEADER where it was not reached, so that nothing happened; OUTCOME_UNKNOWN
    /// where the connection broke or the deadline passed while it worked.
    pub(crate) async fn execute(
        &self,
        address: &str,
        request: ExecuteRequest,
        deadline: Instant,
    ) -> Result<ExecuteResponse, Failure> {
        let mut request = tonic::Request::new(request);
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        let response = self.client(address)?.execute(request).await;
        response.map(tonic::Response::into_inner).map_err(|status| failure_of(address, &status))
    }

    /// Follows what calls on the node at `address` log.
    ///
    /// # Errors
    /// As [`Forwarder::execute`], at once or in the stream.
    pub(crate) async fn follow_local_logs(
        &self,
        address: &str,
        request: FollowLogsRequest,
    ) -> Result<BoxStream<'static, Result<FollowLocalLogsResponse, Failure>>, Failure> {
        let opened = self.client(address)?.follow_local_logs(request).await;
        let messages = opened.map_err(|status| failure_of(address, &status))?.into_inner();
        let address = address.to_owned();
        Ok(messages.map_err(move |status| failure_of(&address, &status)).boxed())
    }

    /// Where the replica of a shard on the node at `address` stands, if it has one.
    ///
    /// # Errors
    /// As [`Forwarder::execute`].
    pub(crate) async fn describe_replica(
        &self,
        address: &str,
        shard_id: u32,
        bound: Duration,
    ) -> Result<DescribeReplicaResponse, Failure> {
        let mut request = tonic::Request::new(DescribeReplicaRequest { shard_id });
        request.set_timeout(bound);
        let response = self.client(address)?.describe_replica(request).await;
        response.map(tonic::Response::into_inner).map_err(|status| failure_of(address, &status))
    }

    /// Has the node at `address` hash its replica of a shard. Dropping it ends that.
    ///
    /// # Errors
    /// As [`Forwarder::execute`].
    pub(crate) async fn hash_replica(
        &self,
        address: &str,
        request: HashReplicaRequest,
    ) -> Result<HashReplicaResponse, Failure> {
        let response = self.client(address)?.hash_replica(request).await;
        response.map(tonic::Response::into_inner).map_err(|status| failure_of(address, &status))
    }

    /// Asks the node at `address` to admit this one.
    pub(crate) async fn join(
        &self,
        address: &str,
        request: JoinRequest,
        bound: Duration,
    ) -> Result<JoinResponse, Failure> {
        let mut request = tonic::Request::new(request);
        request.set_timeout(bound);
        let response = self.client(address)?.join(request).await;
        response.map(tonic::Response::into_inner).map_err(|status| failure_of(address, &status))
    }
}

fn failure_of(address: &str, status: &Status) -> Failure {
    if let Some(failure) = Failure::from_status(status) {
        return failure;
    }
    if was_never_sent(status) {
        return Failure::new(Reason::NoLeader, format!("the node at {address} is not reached: {}", status.message()))
            .retry_after(Duration::from_millis(100));
    }
    let (code, message) = (status.code(), status.message());
    Failure::new(Reason::OutcomeUnknown, format!("the node at {address} broke off: {code:?}: {message}"))
}

/// Whether the connection could not even be made.
fn was_never_sent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.to_string().contains("tcp connect error") || error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    status.code() == Code::Unimplemented
}
