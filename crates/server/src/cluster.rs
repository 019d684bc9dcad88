//! The service `Cluster`.

use std::sync::Arc;

use cirrus_cluster::Routed;
use cirrus_proto::v1::cluster_server::Cluster;
use cirrus_proto::v1::{StatusRequest, StatusResponse, VerifyRequest, VerifyResponse};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::edge::Edge;
use crate::observation::Rpc;
use crate::verify::Verifications;

/// Tells how the cluster stands, as this node sees it.
pub(crate) struct ClusterService {
    edge: Arc<Edge>,
    status: Rpc,
    verifications: Verifications,
}

impl ClusterService {
    pub(crate) fn new(edge: Arc<Edge>, verifications: Verifications) -> Self {
        ClusterService { edge, status: Rpc::new("Cluster/Status"), verifications }
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    type VerifyStream = ReceiverStream<Result<VerifyResponse, Status>>;

    async fn verify(&self, request: Request<VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        Ok(Response::new(self.verifications.start(request)?))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let node = &self.edge.node;
        let handle = |_, _| async move { Ok(Routed { value: node.status(), leader_address: None }) };
        self.edge.unary(&self.status, request, handle).await
    }
}
