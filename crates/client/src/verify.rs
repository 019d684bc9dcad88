//! Comparing replicas, which takes as long as reading them.

use cirrus_proto::v1::{VerifyRequest, VerifyResponse};
use tonic::{Request, Streaming};

use crate::attempt::{next_message, open_stream};
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
        let opened = open_stream(&node, self.timeout(), VERIFY, Request::new(request)).await;
        let mut shards: Streaming<VerifyResponse> = opened.map_err(broken)?;
        while let Some(shard) = next_message(&mut shards).await.map_err(broken)? {
            found(shard);
        }
        Ok(())
    }
}
