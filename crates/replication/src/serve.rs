//! The other end of a link: what a peer asks of this node's groups.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use cirrus_proto::internal::v1 as pb;
use cirrus_proto::internal::v1::link_frame::Body;
use futures::StreamExt as _;
use openraft::raft::{TransferLeaderRequest, VoteRequest};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::commit_pacing::{Appended, pace_commits};
use crate::convert::{
    Malformed, append_from_pb, append_result_to_pb, log_id_from_pb, log_id_to_pb, required_vote, vote_to_pb,
};
use crate::link::SILENCE_MAX;
use crate::network::APPENDS_IN_FLIGHT;
use crate::outbox::{Outbox, outbox};
use crate::replication::Groups;
use crate::types::Group;
use crate::wire::{self, MessageReader};

/// Serves one peer's link until it breaks.
pub(crate) async fn serve<S>(groups: Arc<Groups>, mut stream: S)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let peer = match tokio::time::timeout(SILENCE_MAX, wire::answer(&mut stream)).await {
        Ok(Ok(peer)) => peer,
        Ok(Err(error)) => return tracing::warn!(%error, "a link was refused"),
        Err(_) => return tracing::warn!("a link was not opened in time"),
    };
    tracing::debug!(peer, "serving a link");
    let (reader, writer) = tokio::io::split(stream);
    let (outbox, answers) = outbox();
    let problem = tokio::select! {
        written = wire::write_messages(writer, answers) => written.err(),
        read = read(groups, peer, MessageReader::new(reader), outbox) => read.err(),
    };
    tracing::debug!(peer, problem = problem.map(tracing::field::display), "a link that was served ended");
}

async fn read<R: AsyncRead + Unpin>(
    groups: Arc<Groups>,
    peer: u64,
    mut incoming: MessageReader<R>,
    outbox: Outbox,
) -> io::Result<()> {
    // Append streams by call; dropping a sender ends its stream.
    let mut appends: HashMap<u64, mpsc::Sender<Appended>> = HashMap::new();
    // A caller that lives pings.
    while let Some(message) = tokio::time::timeout(SILENCE_MAX, incoming.next()).await?? {
        for frame in message.frames {
            let asked = Asked { shard_id: frame.shard_id, call_id: frame.call_id, outbox: outbox.clone() };
            match frame.body {
                Some(Body::Append(request)) => asked.append(&groups, request, &mut appends).await,
                Some(Body::AppendEnd(_)) => drop(appends.remove(&frame.call_id)),
                Some(Body::Ping(_)) => asked.answer(Body::Ping(pb::Blank {})).await,
                Some(Body::ConfirmLeader(claimed)) => {
                    let shard_ids = groups.held_by(peer, &claimed);
                    asked.answer(Body::ConfirmLeaderResponse(pb::ConfirmLeaderResponse { shard_ids })).await;
                }
                Some(body) => drop(tokio::spawn(asked.answer_one(groups.clone(), body))),
                None => {}
            }
        }
    }
    Ok(())
}

/// A frame that wants an answer.
struct Asked {
    shard_id: u32,
    call_id: u64,
    outbox: Outbox,
}

impl Asked {
    async fn answer(&self, body: Body) {
        let frame = pb::LinkFrame { shard_id: self.shard_id, call_id: self.call_id, body: Some(body) };
        // A link that broke has nobody left to answer.
        let _ = self.outbox.send(frame).await;
    }

    fn group(&self, groups: &Groups) -> Result<Group, String> {
        groups.get(self.shard_id).ok_or_else(|| format!("no replica of shard {} here", self.shard_id))
    }

    /// Hands a request to its stream, which the first request of a call opens.
    async fn append(
        self,
        groups: &Arc<Groups>,
        request: pb::AppendRequest,
        appends: &mut HashMap<u64, mpsc::Sender<Appended>>,
    ) {
        let silent = request.silent;
        let request = match append_from_pb(request) {
            Ok(request) => Appended { request, silent },
            Err(error) => return self.answer(Body::Failed(error.to_string())).await,
        };
        let call_id = self.call_id;
        let stream = match appends.get(&call_id) {
            Some(stream) => stream,
            None => match self.group(groups) {
                Ok(group) => {
                    let (sender, receiver) = mpsc::channel(2 * APPENDS_IN_FLIGHT);
                    appends.retain(|_, stream| !stream.is_closed());
                    tokio::spawn(run_appends(group, receiver, self));
                    appends.entry(call_id).or_insert(sender)
                }
                Err(problem) => return self.answer(Body::Failed(problem)).await,
            },
        };
        // A full or closed channel: the sender broke its in-flight bound, or the stream ended with an
        // error that is on its way to it. Ending the stream tells it to open another. News of a commit may
        // be lost: heartbeats bring it too.
        if stream.try_send(request).is_err() && !silent {
            appends.remove(&call_id);
        }
    }

    async fn answer_one(self, groups: Arc<Groups>, body: Body) {
        let answered = match self.group(&groups) {
            Ok(_) if matches!(body, Body::Vote(_)) && !groups.may_vote() => {
                Err("this node restarted a moment ago and does not vote yet".to_owned())
            }
            Ok(group) => answer_one(&group, body).await,
            Err(problem) => Err(problem),
        };
        self.answer(answered.unwrap_or_else(Body::Failed)).await;
    }
}

async fn run_appends(group: Group, requests: mpsc::Receiver<Appended>, asked: Asked) {
    // Results come in the order of the requests.
    let silent: Arc<Mutex<VecDeque<bool>>> = Arc::default();
    let asks = silent.clone();
    let requests = Box::pin(pace_commits(requests).map(move |Appended { request, silent }| {
        asks.lock().push_back(silent);
        request
    }));
    let mut results = Box::pin(group.stream_append(requests));
    while let Some(result) = results.next().await {
        let silent = silent.lock().pop_front().unwrap_or(false);
        match result {
            Ok(Ok(_)) if silent => {}
            Ok(result) => asked.answer(Body::AppendResponse(append_result_to_pb(result))).await,
            Err(fatal) => return asked.answer(Body::Failed(fatal.to_string())).await,
        }
    }
    asked.answer(Body::AppendEnd(pb::Blank {})).await;
}

async fn answer_one(group: &Group, body: Body) -> Result<Body, String> {
    match body {
        Body::Heartbeat(request) => {
            let request = append_from_pb(request).map_err(text)?;
            let previous = request.prev_log_id;
            let last = request.entries.last().map(|entry| entry.log_id).or(previous);
            let response = group.append_entries(request).await.map_err(text)?;
            Ok(Body::HeartbeatResponse(append_result_to_pb(response.into_stream_result(previous, last))))
        }
        Body::Vote(request) => {
            let pre_vote = request.pre_vote;
            let request = VoteRequest {
                vote: required_vote(&request.vote, "VoteRequest").map_err(text)?,
                last_log_id: request.last_log_id.as_ref().map(log_id_from_pb),
                leadership_transfer: request.leader_transfer,
            };
            let response =
                if pre_vote { group.pre_vote(request).await } else { group.vote(request).await }.map_err(text)?;
            Ok(Body::VoteResponse(pb::VoteResponse {
                vote: Some(vote_to_pb(&response.vote)),
                last_log_id: response.last_log_id.as_ref().map(log_id_to_pb),
                granted: response.vote_granted,
            }))
        }
        Body::TransferLeader(request) => {
            let from = required_vote(&request.from_leader, "TransferLeaderRequest").map_err(text)?;
            let last = request.last_log_id.as_ref().map(log_id_from_pb);
            let request = TransferLeaderRequest::new(from, request.to_node_id, last);
            let refused = match group.handle_transfer_leader(request).await.map_err(text)? {
                Ok(()) => String::new(),
                Err(error) => error.to_string(),
            };
            Ok(Body::TransferLeaderResponse(pb::TransferLeaderResponse { refused }))
        }
        _ => Err(Malformed::new("LinkFrame", "not a request").to_string()),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
