//! The service `KeyValue`.

use std::sync::Arc;

use cirrus_cluster::Routed;
use cirrus_proto::internal::v1::{command, query, query_result, reply};
use cirrus_proto::v1::key_value_server::KeyValue;
use cirrus_proto::v1::{
    BatchRequest, BatchResponse, DeleteRequest, DeleteResponse, GetRequest, GetResponse, IncrementRequest,
    IncrementResponse, PipelineRequest, PutRequest, PutResponse, ScanRequest, ScanResponse, TransactRequest,
    TransactResponse,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

use crate::edge::{Edge, check_consistency, mismatched_reply, read_span};
use crate::observation::Rpc;
use crate::pipeline::{Pipeline, Pipelines};
use crate::routing::check_key;
use crate::scan::Scans;

/// Serves keys and values.
pub(crate) struct KeyValueService {
    edge: Arc<Edge>,
    scans: Scans,
    pipelines: Arc<Pipelines>,
    get: Rpc,
    put: Rpc,
    delete: Rpc,
    increment: Rpc,
    batch: Rpc,
    transact: Rpc,
}

impl KeyValueService {
    pub(crate) fn new(edge: Arc<Edge>, scans: Scans, pipelines: Arc<Pipelines>) -> Self {
        KeyValueService {
            edge,
            scans,
            pipelines,
            get: Rpc::new("KeyValue/Get"),
            put: Rpc::new("KeyValue/Put"),
            delete: Rpc::new("KeyValue/Delete"),
            increment: Rpc::new("KeyValue/Increment"),
            batch: Rpc::new("KeyValue/Batch"),
            transact: Rpc::new("KeyValue/Transact"),
        }
    }
}

#[tonic::async_trait]
impl KeyValue for KeyValueService {
    type ScanStream = ReceiverStream<Result<ScanResponse, Status>>;
    type PipelineStream = Pipeline;

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let edge = &self.edge;
        let get = |arrival, request: GetRequest| async move {
            check_key(&request.key, &edge.limits)?;
            check_consistency(request.consistency)?;
            let shard_id = edge.node.shard_of(&request.key)?;
            let consistency = request.consistency;
            let span = read_span(self.get.name(), shard_id);
            let routed = edge.query(shard_id, query::Kind::Get(request), consistency, arrival).instrument(span).await?;
            match routed.value {
                query_result::Kind::Get(value) => Ok(Routed { value, leader_address: routed.leader_address }),
                _ => Err(mismatched_reply()),
            }
        };
        edge.unary(&self.get, request, get).await
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let unwrap = |reply| if let reply::Kind::Put(response) = reply { Some(response) } else { None };
        self.edge.command(&self.put, request, command::Kind::Put, unwrap).await
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        let unwrap = |reply| if let reply::Kind::Delete(response) = reply { Some(response) } else { None };
        self.edge.command(&self.delete, request, command::Kind::Delete, unwrap).await
    }

    async fn increment(&self, request: Request<IncrementRequest>) -> Result<Response<IncrementResponse>, Status> {
        let unwrap = |reply| if let reply::Kind::Increment(response) = reply { Some(response) } else { None };
        self.edge.command(&self.increment, request, command::Kind::Increment, unwrap).await
    }

    async fn batch(&self, request: Request<BatchRequest>) -> Result<Response<BatchResponse>, Status> {
        let unwrap = |reply| if let reply::Kind::Batch(response) = reply { Some(response) } else { None };
        self.edge.command(&self.batch, request, command::Kind::Batch, unwrap).await
    }

    async fn transact(&self, request: Request<TransactRequest>) -> Result<Response<TransactResponse>, Status> {
        let unwrap = |reply| if let reply::Kind::Transact(response) = reply { Some(response) } else { None };
        self.edge.command(&self.transact, request, command::Kind::Transact, unwrap).await
    }

    async fn scan(&self, request: Request<ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        Ok(Response::new(self.scans.start(request)?))
    }

    async fn pipeline(
        &self,
        request: Request<Streaming<PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        Ok(Response::new(self.pipelines.open(request)?))
    }
}
