//! `Cluster.Verify`: the replicas of each shard compared, for as long as somebody waits for it.

use std::sync::Arc;

use cirrus_proto::v1::{VerifyRequest, VerifyResponse};
use cirrus_proto::{Failure, Reason};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use crate::admission::Admission;
use crate::edge::{Edge, code_of};
use crate::observation::Rpc;

/// Bytes of keys and values that each replica reads in a second: a few percent of a processor.
const RATE_DEFAULT: u64 = 64 * 1024 * 1024;
/// The slowest that it may be: below it a replica would be read, and its files kept, for hours.
const RATE_MIN: u64 = 1024 * 1024;
/// Verifications under way on the node: each replica is hashed for one at a time.
const VERIFICATIONS_MAX: usize = 1;

/// Serves verifications.
pub(crate) struct Verifications {
    edge: Arc<Edge>,
    admission: Admission,
    rpc: Rpc,
    stopping: watch::Receiver<bool>,
}

impl Verifications {
    /// `stopping` turns true when the node stops, which ends a verification.
    pub(crate) fn new(edge: Arc<Edge>, stopping: watch::Receiver<bool>) -> Self {
        let admission = Admission::new("verifications", VERIFICATIONS_MAX);
        Verifications { edge, admission, rpc: Rpc::new("Cluster/Verify"), stopping }
    }

    /// Begins one. It counts as answered once its stream is open.
    pub(crate) fn start(
        &self,
        request: Request<VerifyRequest>,
    ) -> Result<ReceiverStream<Result<VerifyResponse, Status>>, Failure> {
        let observation = self.rpc.begin();
        let started = self.check(request.into_inner()).and_then(|checked| Ok((checked, self.admission.admit()?)));
        observation.answer(code_of(&started));
        let ((shard_ids, rate), admitted) = started?;
        let (messages, stream) = mpsc::channel(1);
        let edge = Arc::clone(&self.edge);
        let mut stopping = self.stopping.clone();
        tokio::spawn(async move {
            let _admitted = admitted;
            for shard_id in shard_ids {
                let verified = tokio::select! {
                    verified = edge.node.verify_shard(shard_id, rate) => verified,
                    () = messages.closed() => return,
                    () = stops(&mut stopping) => {
                        let stopping = Failure::new(Reason::ShuttingDown, "the node is stopping");
                        // Whoever went away does not mind.
                        let _ = messages.send(Err(stopping.into())).await;
                        return;
                    }
                };
                if messages.send(Ok(verified)).await.is_err() {
                    return;
                }
            }
        });
        Ok(ReceiverStream::new(stream))
    }

    /// The shards, and the rate.
    fn check(&self, request: VerifyRequest) -> Result<(Vec<u32>, u64), Failure> {
        let data_shards = self.edge.node.shard_ids()?;
        let all = || std::iter::once(cirrus_cluster::CATALOG_SHARD).chain(data_shards.iter().copied());
        let shard_ids: Vec<u32> = match &request.shard_ids[..] {
            [] => all().collect(),
            some => some.to_vec(),
        };
        if let Some(unknown) = shard_ids.iter().find(|asked| !all().any(|shard_id| shard_id == **asked)) {
            let problem = format!("there is no shard {unknown}; the last is {}", data_shards.len());
            return Err(Failure::invalid_field("shard_ids", problem));
        }
        match request.bytes_per_second {
            0 => Ok((shard_ids, RATE_DEFAULT)),
            rate if rate < RATE_MIN => {
                let problem = format!("{rate} is below the least, {RATE_MIN}");
                Err(Failure::invalid_field("bytes_per_second", problem))
            }
            rate => Ok((shard_ids, rate)),
        }
    }
}

async fn stops(stopping: &mut watch::Receiver<bool>) {
    // A sender that is gone is a node that stops as well.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}
