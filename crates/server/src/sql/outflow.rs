//! Messages that leave no faster than the client takes them, made on a thread for what blocks or by the shard's leader.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cirrus_cluster::sql::Readable;
use cirrus_proto::v1::{ReadConsistency, SqlDatabase};
use cirrus_proto::{FORWARDED_METADATA, Failure, Reason};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout_at;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Status, Streaming};

use crate::admission::Admitted;
use crate::edge::{Edge, is_forwarded};

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
    pub(super) fn new(what: &'static str, deadline: Instant, idle: Duration, admitted: Admitted) -> (Self, Stream<T>) {
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
    pub(super) async fn relay(self, mut from: Streaming<T>) {
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

/// When a stream ends at the latest. A reader that is slow holds the state's snapshot: where nothing is stated, the longest
/// deadline ends it.
pub(super) fn deadline(edge: &Edge, metadata: &MetadataMap, now: Instant) -> Result<Instant, Failure> {
    Ok(edge.deadlines.stated(now, metadata)?.unwrap_or(now + edge.deadlines.longest))
}

/// Where the database's shard can be read.
pub(super) async fn locate(
    edge: &Arc<Edge>,
    metadata: &MetadataMap,
    database: Option<&SqlDatabase>,
    consistency: ReadConsistency,
    deadline: Instant,
) -> Result<Readable, Failure> {
    let user = &cirrus_engine::named_database(database)?.user;
    let shard_id = edge.node.shard_of_user(user)?;
    edge.node.readable(shard_id, consistency, deadline, !is_forwarded(metadata)).await
}

/// The request as it goes to the shard's leader, which must not send it on.
pub(super) fn forwarded<T>(request: T, deadline: Instant) -> Request<T> {
    let mut forwarded = Request::new(request);
    forwarded.metadata_mut().insert(FORWARDED_METADATA, MetadataValue::from_static("1"));
    forwarded.set_timeout(deadline.saturating_duration_since(Instant::now()));
    forwarded
}

/// A read changes nothing: where the leader is lost, it can be begun anew.
pub(super) fn broken(what: &str, status: &Status) -> Failure {
    Failure::from_status(status).unwrap_or_else(|| {
        let problem = format!("the connection to the shard's leader broke during the {what}: {}", status.message());
        Failure::new(Reason::NoLeader, problem)
    })
}
