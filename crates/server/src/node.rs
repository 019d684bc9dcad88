//! The service `Node`: what nodes ask of each other. Snapshots go to the replication crate
//! untouched; commands and queries run here or nowhere, since the sender has routed them already.

use std::sync::Arc;

use cirrus_proto::Failure;
use cirrus_proto::internal::v1::node_server::Node;
use cirrus_proto::internal::v1::{
    DescribeReplicaRequest, DescribeReplicaResponse, ExecuteRequest, ExecuteResponse, FollowLocalLogsResponse,
    HashReplicaRequest, HashReplicaResponse, InstallSnapshotResponse, JoinRequest, JoinResponse, SnapshotChunk,
    execute_request, execute_response,
};
use cirrus_proto::v1::FollowLogsRequest;
use futures::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use crate::edge::Edge;
use crate::observation::Rpc;

/// Serves the other nodes.
pub(crate) struct NodeService {
    edge: Arc<Edge>,
    execute: Rpc,
    join: Rpc,
    hash_replica: Rpc,
}

impl NodeService {
    pub(crate) fn new(edge: Arc<Edge>) -> Self {
        NodeService {
            edge,
            execute: Rpc::new("Node/Execute"),
            join: Rpc::new("Node/Join"),
            hash_replica: Rpc::new("Node/HashReplica"),
        }
    }

    async fn run(
        &self,
        request: Request<ExecuteRequest>,
        started: std::time::Instant,
    ) -> Result<ExecuteResponse, Failure> {
        let deadline = self.edge.deadlines.deadline(started, request.metadata())?;
        let ExecuteRequest { shard_id, kind } = request.into_inner();
        let node = &self.edge.node;
        let (kind, applied_index) = match kind {
            Some(execute_request::Kind::Command(command)) => {
                // The sender validated it by its own limits; this node holds to its own.
                cirrus_engine::validate(&command, &self.edge.limits)?;
                let executed = node.command_with_index(shard_id, command, deadline, false).await?.value;
                (execute_response::Kind::Reply(executed.reply), executed.applied_index)
            }
            Some(execute_request::Kind::Query(query)) => {
                let routed = node.query(shard_id, query, deadline, false).await?;
                (execute_response::Kind::Result(routed.value), 0)
            }
            Some(execute_request::Kind::ListRunningCalls(_)) => {
                (execute_response::Kind::ListRunningCalls(node.local_running_calls()), 0)
            }
            Some(execute_request::Kind::KillCall(request)) => {
                (execute_response::Kind::KillCall(node.kill_call(request, deadline, false).await?), 0)
            }
            None => return Err(Failure::invalid_field("kind", "one must be set")),
        };
        Ok(ExecuteResponse { kind: Some(kind), applied_index })
    }
}

#[tonic::async_trait]
impl Node for NodeService {
    type FollowLocalLogsStream = BoxStream<'static, Result<FollowLocalLogsResponse, Status>>;

    async fn follow_local_logs(
        &self,
        request: Request<FollowLogsRequest>,
    ) -> Result<Response<Self::FollowLocalLogsStream>, Status> {
        let messages = self.edge.node.follow_local_logs(&request.into_inner())?;
        Ok(Response::new(messages.map_err(Status::from).boxed()))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<InstallSnapshotResponse>, Status> {
        self.edge.node.replication().serve_snapshot(request.into_inner()).await.map(Response::new)
    }

    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<ExecuteResponse>, Status> {
        let observation = self.execute.begin();
        let outcome = self.run(request, observation.started()).await;
        observation.answer(crate::edge::code_of(&outcome));
        Ok(Response::new(outcome?))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let observation = self.join.begin();
        let outcome = self.edge.node.join(request.into_inner()).await;
        observation.answer(crate::edge::code_of(&outcome));
        Ok(Response::new(outcome?))
    }

    async fn describe_replica(
        &self,
        request: Request<DescribeReplicaRequest>,
    ) -> Result<Response<DescribeReplicaResponse>, Status> {
        let replica = self.edge.node.local_replica(request.into_inner().shard_id);
        Ok(Response::new(DescribeReplicaResponse { replica }))
    }

    // Without a deadline of this node's: it takes as long as reading a replica, and ends with its caller.
    async fn hash_replica(
        &self,
        request: Request<HashReplicaRequest>,
    ) -> Result<Response<HashReplicaResponse>, Status> {
        let observation = self.hash_replica.begin();
        let outcome = self.edge.node.hash_replica(request.into_inner()).await;
        observation.answer(crate::edge::code_of(&outcome));
        Ok(Response::new(outcome?))
    }
}
