//! Messages that leave no faster than the client takes them, made on a thread for what blocks or by the shard's leader.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cirrus_cluster::sql::Readable;
use cirrus_proto::v1::sql_client::SqlClient;
use cirrus_proto::v1::{ReadConsistency, SqlDatabase};
use cirrus_proto::{FORWARDED_METADATA, Failure, Reason};
use cirrus_replication::Shard;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout_at;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::admission::{Admission, Admitted};
use crate::edge::{Edge, check_consistency, code_of, is_forwarded};
use crate::observation::Rpc;
use crate::peers::Peers;

/// Messages made before the client takes them.
const MESSAGES_AHEAD: usize = 2;

/// What the client reads.
pub(super) type Stream<T> = ReceiverStream<Result<T, Status>>;

/// Where messages go.
pub(super) struct Outflow<T> {
    /// For messages to clients, such as "export".
    what: &'static str,
    messages: mpsc::Sender<Result<T, Status>>,
    deadline: Instant,
    /// How long the client may take nothing.
    idle: Duration,
    runtime: Handle,
    ended: Result<(), Failure>,
    _admitted: Admitted,
}

impl<T: Send + 'static> Outflow<T> {
    fn new(what: &'static str, deadline: Instant, idle: Duration, admitted: Admitted) -> (Self, Stream<T>) {
        let (messages, stream) = mpsc::channel(MESSAGES_AHEAD);
        let runtime = Handle::current();
        let outflow = Outflow { what, messages, deadline, idle, runtime, ended: Ok(()), _admitted: admitted };
        (outflow, ReceiverStream::new(stream))
    }

    fn late(&self) -> Failure {
        Failure::new(Reason::DeadlineExceeded, format!("the {} did not end before its deadline", self.what))
    }

    /// Why nothing more is sent to a client that did not take a message in time.
    fn not_taken(&self) -> Failure {
        if Instant::now() >= self.deadline {
            return self.late();
        }
        let limit_ms = self.idle.as_millis();
        let problem = format!("the client took nothing of the {} for more than {limit_ms} ms", self.what);
        Failure::new(Reason::StreamIdle, problem).with("limit", limit_ms)
    }

    /// When a message must have been taken.
    fn taken_by(&self) -> tokio::time::Instant {
        self.deadline.min(Instant::now() + self.idle).into()
    }

    /// Waits until there is room. Breaks where the client went away, or stood still for too long.
    pub(super) fn send(&mut self, message: T) -> ControlFlow<()> {
        match self.runtime.block_on(timeout_at(self.taken_by(), self.messages.send(Ok(message)))) {
            Ok(Ok(())) => ControlFlow::Continue(()),
            Ok(Err(_)) => ControlFlow::Break(()),
            Err(_) => {
                self.ended = Err(self.not_taken());
                ControlFlow::Break(())
            }
        }
    }

    /// Ends the stream. One without an error is complete, so that one which is not must not end in silence.
    pub(super) fn end(self, outcome: Result<(), Failure>) {
        if let Err(failure) = self.ended.and(outcome) {
            // Where the client stands still, what waits for it is not the state's snapshot any more, and ends with its
            // connection.
            self.runtime.spawn(async move { self.messages.send(Err(failure.into())).await });
        }
    }

    /// Passes on what the leader sends.
    async fn relay(self, mut from: Streaming<T>) {
        loop {
            let message = match timeout_at(self.deadline.into(), from.message()).await {
                Ok(Ok(Some(message))) => Ok(message),
                Ok(Ok(None)) => return,
                Ok(Err(status)) => Err(broken(self.what, &status).into()),
                Err(_) => Err(self.late().into()),
            };
            let ends = message.is_err();
            let sent = timeout_at(self.taken_by(), self.messages.send(message)).await;
            match sent {
                Ok(Ok(())) if !ends => {}
                Ok(_) => return,
                Err(_) => {
                    let failure = self.not_taken();
                    // The leader's stream is given up now.
                    drop(from);
                    self.end(Err(failure));
                    return;
                }
            }
        }
    }
}

/// A request that a stream answers, made from the replica that may be read: here, or on the shard's leader.
pub(super) trait Streamed: Send + Sized + 'static {
    /// What the stream is made of.
    type Message: Send + 'static;

    /// For messages to clients, such as "export".
    const WHAT: &'static str;

    /// The field `database`.
    fn database(&self) -> Option<&SqlDatabase>;

    /// The field `consistency`, as it came.
    fn consistency(&self) -> i32;

    /// Refuses what is wrong with the request besides.
    fn check(&self, edge: &Edge) -> Result<(), Failure>;

    /// Makes the messages. Blocks.
    fn make(self, edge: &Edge, shard: &Shard, outflow: Outflow<Self::Message>);

    /// Asks the leader for them.
    fn ask(
        leader: SqlClient<Channel>,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Message>>, Status>> + Send;
}

/// Starts streams of one kind.
pub(super) struct Outflows {
    edge: Arc<Edge>,
    peers: Peers,
    admission: Admission,
    idle: Duration,
    rpc: Rpc,
}

impl Outflows {
    /// Of at most `most` at a time, called `kind` in metrics.
    pub(super) fn new(
        edge: Arc<Edge>,
        peers: Peers,
        (rpc, kind): (&'static str, &'static str),
        most: usize,
        idle: Duration,
    ) -> Outflows {
        Outflows { edge, peers, admission: Admission::new(kind, most), idle, rpc: Rpc::new(rpc) }
    }

    /// Streams under way.
    pub(super) fn admission(&self) -> &Admission {
        &self.admission
    }

    /// Starts a stream; what is wrong before its first message is answered at once.
    pub(super) async fn start<R: Streamed>(&self, request: Request<R>) -> Result<Stream<R::Message>, Status> {
        let observation = self.rpc.begin();
        let started = self.prepare(request, observation.started()).await;
        observation.answer(code_of(&started));
        Ok(started?)
    }

    async fn prepare<R: Streamed>(&self, request: Request<R>, now: Instant) -> Result<Stream<R::Message>, Failure> {
        let admitted = self.admission.admit()?;
        let edge = &self.edge;
        let (metadata, _, request) = request.into_parts();
        // A reader that is slow holds the state's snapshot: where nothing is stated, the longest deadline ends it.
        let deadline = edge.deadlines.stated(now, &metadata)?.unwrap_or(now + edge.deadlines.longest);
        check_consistency(request.consistency())?;
        request.check(edge)?;
        let consistency = ReadConsistency::try_from(request.consistency()).unwrap_or_default();
        let user = &cirrus_engine::named_database(request.database())?.user;
        let shard_id = edge.node.shard_of_user(user)?;
        let readable = edge.node.readable(shard_id, consistency, deadline, !is_forwarded(&metadata)).await?;
        let (outflow, stream) = Outflow::new(R::WHAT, deadline, self.idle, admitted);
        match readable {
            Readable::Here(shard) => {
                let edge = Arc::clone(edge);
                tokio::task::spawn_blocking(move || request.make(&edge, &shard, outflow));
            }
            Readable::At(address) => {
                let leader = SqlClient::new(self.peers.channel(&address)?);
                let relayed = R::ask(leader, forwarded(request, deadline)).await;
                tokio::spawn(outflow.relay(relayed.map_err(|status| broken(R::WHAT, &status))?.into_inner()));
            }
        }
        Ok(stream)
    }
}

/// The request as it goes to the shard's leader, which must not send it on.
fn forwarded<T>(request: T, deadline: Instant) -> Request<T> {
    let mut forwarded = Request::new(request);
    forwarded.metadata_mut().insert(FORWARDED_METADATA, MetadataValue::from_static("1"));
    forwarded.set_timeout(deadline.saturating_duration_since(Instant::now()));
    forwarded
}

/// A read changes nothing: where the leader is lost, it can be begun anew.
fn broken(what: &str, status: &Status) -> Failure {
    Failure::from_status(status).unwrap_or_else(|| {
        let problem = format!("the connection to the shard's leader broke during the {what}: {}", status.message());
        Failure::new(Reason::NoLeader, problem)
    })
}
