//! openraft's view of the network: one client for each (shard, peer), all over the node's links.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cirrus_proto::internal::v1 as pb;
use cirrus_proto::internal::v1::link_frame::Body;
use futures::{Stream, StreamExt as _};
use openraft::OptionalSend;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption, RaftNetworkFactory,
};
use openraft::raft::{SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse};
use tokio::sync::{Semaphore, mpsc};

use crate::convert::{
    Node, append_result_from_pb, append_to_pb, log_id_from_pb, log_id_to_pb, required_vote, vote_to_pb,
};
use crate::link::{Call, LinkDown, PeerLink};
use crate::links::Links;
use crate::snapshot::SnapshotDirectory;
use crate::snapshot_transfer;
use crate::types::{AppendRequest, StreamAppendResult, TypeConfig, Vote};

type AppendResults<'s> = BoxStream<'s, Result<StreamAppendResult, RPCError<TypeConfig>>>;

/// Append requests of one stream that may wait for their answers.
pub(crate) const APPENDS_IN_FLIGHT: usize = 64;

/// Makes a shard's clients.
pub(crate) struct NetworkFactory {
    pub(crate) shard_id: u32,
    pub(crate) links: Arc<Links>,
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, node: &Node) -> Network {
        self.client(target, node, false)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Node) -> Network {
        self.client(target, node, true)
    }
}

impl NetworkFactory {
    fn client(&self, target: u64, node: &Node, single: bool) -> Network {
        let link = self.links.to(target, &node.address);
        Network { shard_id: self.shard_id, node_id: self.links.own_node_id(), link, single }
    }
}

/// One shard's client to one peer.
pub(crate) struct Network {
    shard_id: u32,
    node_id: u64,
    link: Arc<PeerLink>,
    /// Heartbeats: each append stream has one item, so it travels as one question and one answer.
    single: bool,
}

fn unreachable(error: LinkDown) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(&error))
}

fn unexpected(what: &str) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::from_string(format!("unexpected answer to {what}")))
}

fn append_result(body: Body) -> Result<StreamAppendResult, RPCError<TypeConfig>> {
    match body {
        Body::AppendResponse(response) | Body::HeartbeatResponse(response) => {
            append_result_from_pb(response).map_err(|problem| RPCError::Unreachable(Unreachable::from_string(problem)))
        }
        Body::Failed(problem) => Err(RPCError::Unreachable(Unreachable::from_string(problem))),
        _ => Err(unexpected("an append")),
    }
}

impl Network {
    async fn append_once(
        &self,
        request: AppendRequest,
        bound: Duration,
    ) -> Result<StreamAppendResult, RPCError<TypeConfig>> {
        let body = Body::Heartbeat(append_to_pb(request));
        append_result(self.link.ask(self.shard_id, body, bound).await.map_err(unreachable)?)
    }

    async fn ask_vote(
        &self,
        request: VoteRequest<TypeConfig>,
        pre_vote: bool,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let body = Body::Vote(pb::VoteRequest {
            vote: Some(vote_to_pb(&request.vote)),
            last_log_id: request.last_log_id.as_ref().map(log_id_to_pb),
            pre_vote,
            leader_transfer: request.leadership_transfer,
        });
        match self.link.ask(self.shard_id, body, option.hard_ttl()).await.map_err(unreachable)? {
            Body::VoteResponse(response) => {
                let vote = required_vote(&response.vote, "VoteResponse")
                    .map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
                Ok(VoteResponse::new(vote, response.last_log_id.as_ref().map(log_id_from_pb), response.granted))
            }
            _ => Err(unexpected("a vote")),
        }
    }
}

impl NetBackoff<TypeConfig> for Network {
    fn backoff(&self) -> Option<Backoff> {
        None
    }
}

impl NetStreamAppend<TypeConfig> for Network {
    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<AppendResults<'s>, RPCError<TypeConfig>>>
    where
        S: Stream<Item = AppendRequest> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            if self.single {
                let Some(request) = input.next().await else { return Ok(futures::stream::empty().boxed()) };
                let result = self.append_once(request, option.hard_ttl()).await?;
                return Ok(futures::stream::iter([Ok(result)]).boxed());
            }
            let (call, answers) = match self.link.open_appends() {
                Ok(opened) => opened,
                Err(down) => {
                    // openraft backs off where its requests are polled: failing without a poll would spin.
                    input.next().await;
                    return Err(unreachable(down));
                }
            };
            let call = Arc::new(call);
            let permits = Arc::new(Semaphore::new(APPENDS_IN_FLIGHT));
            let pump = AbortOnDrop(tokio::spawn(pump(self.shard_id, call.clone(), permits.clone(), input)));
            Ok(futures::stream::unfold(Some((answers, call, permits, pump)), next_append_result).boxed())
        })
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends a stream's requests, at most [`APPENDS_IN_FLIGHT`] with entries ahead of the answers.
///
/// A request without entries only tells the follower of a commit. It rides along with what else goes to that
/// follower, is dropped where entries of its stream go with it, and is not answered: the answer to later entries
/// vouches for everything before them.
async fn pump<S>(shard_id: u32, call: Arc<Call>, permits: Arc<Semaphore>, mut input: S)
where
    S: Stream<Item = AppendRequest> + Unpin,
{
    // The first request of a stream probes what the follower has.
    let mut probed = false;
    while let Some(request) = input.next().await {
        let silent = request.entries.is_empty() && probed;
        let body = Body::Append(pb::AppendRequest { silent, ..append_to_pb(request) });
        if !silent {
            let Ok(permit) = permits.acquire().await else { return };
            permit.forget();
        }
        if call.send(shard_id, body).await.is_err() {
            return;
        }
        probed = true;
    }
    // A link that broke meanwhile ends the stream by itself.
    let _ = call.send(shard_id, Body::AppendEnd(pb::Blank {})).await;
}

type AppendStreamState = (mpsc::UnboundedReceiver<Body>, Arc<Call>, Arc<Semaphore>, AbortOnDrop);

async fn next_append_result(
    state: Option<AppendStreamState>,
) -> Option<(Result<StreamAppendResult, RPCError<TypeConfig>>, Option<AppendStreamState>)> {
    let mut state = state?;
    match state.0.recv().await {
        Some(Body::AppendEnd(_)) => None,
        Some(body) => match append_result(body) {
            Ok(result) => {
                state.2.add_permits(1);
                Some((Ok(result), Some(state)))
            }
            Err(error) => Some((Err(error), None)),
        },
        None => Some((Err(unreachable(state.1.down())), None)),
    }
}

impl NetVote<TypeConfig> for Network {
    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_vote(request, false, option).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_vote(request, true, option).await
    }
}

impl NetSnapshot<TypeConfig> for Network {
    type SnapshotData = SnapshotDirectory;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotDirectory>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let transfer = snapshot_transfer::send(self.link.address(), self.node_id, self.shard_id, vote, snapshot);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            result = transfer => result.map(SnapshotResponse::new).map_err(|problem| {
                StreamingError::Unreachable(Unreachable::from_string(problem))
            }),
        }
    }
}

impl NetTransferLeader<TypeConfig> for Network {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let body = Body::TransferLeader(pb::TransferLeaderRequest {
            from_leader: Some(vote_to_pb(request.from_leader())),
            to_node_id: *request.to_node_id(),
            last_log_id: request.last_log_id().map(log_id_to_pb),
        });
        match self.link.ask(self.shard_id, body, option.hard_ttl()).await.map_err(unreachable)? {
            Body::TransferLeaderResponse(response) if response.refused.is_empty() => Ok(Ok(())),
            Body::TransferLeaderResponse(response) => {
                Err(RPCError::Network(NetworkError::from_string(response.refused)))
            }
            _ => Err(unexpected("a leadership transfer")),
        }
    }
}
