//! The service `Cluster`.

use std::sync::Arc;

use cirrus_cluster::Routed;
use cirrus_proto::v1::cluster_server::Cluster;
use cirrus_proto::v1::{StatusRequest, StatusResponse};
use tonic::{Request, Response, Status};

use crate::edge::Edge;
use crate::observation::Rpc;

/// Tells how the cluster stands, as this node sees it.
pub(crate) struct ClusterService {
    edge: Arc<Edge>,
    status: Rpc,
}

impl ClusterService {
    pub(crate) fn new(edge: Arc<Edge>) -> Self {
        ClusterService { edge, status: Rpc::new("Cluster/Status") }
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let node = &self.edge.node;
        let handle = |_, _| async move { Ok(Routed { value: node.status(), leader_address: None }) };
        self.edge.unary(&self.status, request, handle).await
    }
}
