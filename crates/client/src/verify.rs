//! Comparing replicas, which takes as long as reading them.

use cirrus_proto::v1::{VerifyRequest, VerifyResponse};
use http::uri::PathAndQuery;
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;

use crate::attempt::grpc;
use crate::policy::Trouble;
use crate::request::Route;
use crate::{Client, ClientError};

const VERIFY: &str = "/cirrus.v1.Cluster/Verify";

impl Client {
    /// Compares what the replicas of each shard hold; `found` is told of each shard as soon as it is known. The client's timeout
    /// bounds the wait for its begin alone. One attempt: it changes nothing, and may be begun anew.
    pub async fn verify(
        &self,
        request: VerifyRequest,
        mut found: impl FnMut(VerifyResponse),
    ) -> Result<(), ClientError> {
        let node = self.router().choose(Route::Any, None);
        let broken = |trouble: Trouble| trouble.into_error(node.address(), false);
        let connection = node.connection(self.timeout()).await.map_err(|error| broken(Trouble::NotSent(error)))?;
        let method = PathAndQuery::from_static(VERIFY);
        let answer = grpc(connection).server_streaming(Request::new(request), method, ProstCodec::default()).await;
        let mut shards: Streaming<VerifyResponse> =
            answer.map_err(|status| broken(Trouble::from_status(&status)))?.into_inner();
        while let Some(shard) = shards.message().await.map_err(|status| broken(Trouble::from_status(&status)))? {
            found(shard);
        }
        Ok(())
    }
}
