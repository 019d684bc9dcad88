//! What this node asks of a peer: one connection that carries the Raft traffic of all shards.
//!
//! Frames of every shard share the stream and are sent several to a message, so that eight busy shards
//! cost one write to the socket instead of eight. A frame names its shard and a call; the answer carries
//! both back. A link that breaks fails every call on it at once and reconnects by itself; while it is
//! down, calls fail immediately, since openraft backs off and retries on its own.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cirrus_proto::internal::v1 as pb;
use cirrus_proto::internal::v1::link_frame::Body;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::transport::Endpoint;

use crate::outbox::{Outbox, outbox};
use crate::wire::{self, MessageReader};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a peer is asked for a sign of life.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// A peer that says nothing for so long is stopped or cut off.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(4);

const RECONNECT_MIN: Duration = Duration::from_millis(20);
const RECONNECT_MAX: Duration = Duration::from_millis(500);

/// Why a call on a link failed: the peer was not reached, or the link broke before it answered.
#[derive(Clone, Debug, thiserror::Error)]
#[error("node {peer}: {problem}")]
pub(crate) struct LinkDown {
    peer: u64,
    problem: String,
}

/// The outgoing link to one peer. Dropping it closes the connection.
pub(crate) struct PeerLink {
    address: String,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    peer: u64,
    next_call: AtomicU64,
    connected: AtomicBool,
    /// The open connection's outbox, with the calls that wait for an answer on it.
    connection: Mutex<Connection>,
}

#[derive(Default)]
struct Connection {
    outbox: Option<Outbox>,
    waiting: HashMap<u64, Waiter>,
    problem: String,
}

enum Waiter {
    Answer(oneshot::Sender<Body>),
    Appends(mpsc::UnboundedSender<Body>),
}

impl PeerLink {
    pub(crate) fn open(own_node_id: u64, peer: u64, address: String) -> Self {
        let shared = Arc::new(Shared {
            peer,
            next_call: AtomicU64::new(1),
            connected: AtomicBool::new(false),
            connection: Mutex::new(Connection { problem: "not connected yet".to_owned(), ..Default::default() }),
        });
        let task = tokio::spawn(keep_connected(own_node_id, address.clone(), shared.clone()));
        PeerLink { address, shared, task }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.shared.connected.load(Ordering::Relaxed)
    }

    /// Sends one request and waits for its answer, at most for `bound`.
    pub(crate) async fn ask(&self, shard_id: u32, body: Body, bound: Duration) -> Result<Body, LinkDown> {
        let (sender, receiver) = oneshot::channel();
        let call = self.register(Waiter::Answer(sender))?;
        let answered = tokio::time::timeout(bound, async {
            call.send(shard_id, body).await?;
            receiver.await.map_err(|_| self.shared.down())
        })
        .await;
        match answered {
            Ok(Ok(Body::Failed(problem))) => Err(LinkDown { peer: self.shared.peer, problem }),
            Ok(result) => result,
            Err(_) => {
                Err(LinkDown { peer: self.shared.peer, problem: format!("no answer in {} ms", bound.as_millis()) })
            }
        }
    }

    /// Opens an append stream.
    pub(crate) fn open_appends(&self) -> Result<(Call, mpsc::UnboundedReceiver<Body>), LinkDown> {
        let (sender, receiver) = mpsc::unbounded_channel();
        Ok((self.register(Waiter::Appends(sender))?, receiver))
    }

    fn register(&self, waiter: Waiter) -> Result<Call, LinkDown> {
        let mut connection = self.shared.connection.lock();
        let Some(outbox) = connection.outbox.clone() else {
            return Err(LinkDown { peer: self.shared.peer, problem: connection.problem.clone() });
        };
        let id = self.shared.next_call.fetch_add(1, Ordering::Relaxed);
        connection.waiting.insert(id, waiter);
        Ok(Call { id, outbox, shared: self.shared.clone() })
    }
}

impl Drop for PeerLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One call under way. Dropping it forgets its answer.
pub(crate) struct Call {
    id: u64,
    outbox: Outbox,
    shared: Arc<Shared>,
}

impl Call {
    /// Sends a frame of this call; waits while the outbox is full.
    pub(crate) async fn send(&self, shard_id: u32, body: Body) -> Result<(), LinkDown> {
        self.outbox.send(self.frame(shard_id, body)).await.map_err(|_| self.shared.down())
    }

    fn frame(&self, shard_id: u32, body: Body) -> pb::LinkFrame {
        pb::LinkFrame { shard_id, call_id: self.id, body: Some(body) }
    }

    pub(crate) fn down(&self) -> LinkDown {
        self.shared.down()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let forgotten = self.shared.connection.lock().waiting.remove(&self.id);
        if let Some(Waiter::Appends(_)) = forgotten {
            // The peer keeps a stream open until it is told that nothing more comes.
            let end = self.frame(0, Body::AppendEnd(pb::Blank {}));
            self.outbox.send_detached(end);
        }
    }
}

impl Shared {
    fn down(&self) -> LinkDown {
        LinkDown { peer: self.peer, problem: self.connection.lock().problem.clone() }
    }

    fn deliver(&self, frame: pb::LinkFrame) {
        let Some(body) = frame.body else { return };
        let mut connection = self.connection.lock();
        let last = !matches!(body, Body::AppendResponse(_));
        if last {
            match connection.waiting.remove(&frame.call_id) {
                // A receiver that is gone gave up waiting.
                Some(Waiter::Answer(sender)) => drop(sender.send(body)),
                Some(Waiter::Appends(sender)) => drop(sender.send(body)),
                None => {}
            }
        } else if let Some(Waiter::Appends(sender)) = connection.waiting.get(&frame.call_id) {
            drop(sender.send(body));
        }
    }

    fn set_connected(&self, outbox: Outbox) {
        let mut connection = self.connection.lock();
        connection.outbox = Some(outbox);
        connection.problem = "the link broke".to_owned();
        self.connected.store(true, Ordering::Relaxed);
    }

    /// Fails every call that waits: dropping a waiter closes its channel.
    fn set_disconnected(&self, problem: String) {
        self.connected.store(false, Ordering::Relaxed);
        let mut connection = self.connection.lock();
        connection.outbox = None;
        connection.waiting.clear();
        connection.problem = problem;
    }
}

/// How a node connects to another: with bounds on how long a dead one goes unnoticed.
///
/// # Errors
/// An address that is no host:port.
pub fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(Duration::from_secs(1))
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(8 * 1024 * 1024)
        .initial_connection_window_size(16 * 1024 * 1024))
}

async fn keep_connected(own_node_id: u64, address: String, shared: Arc<Shared>) {
    let mut pause = RECONNECT_MIN;
    loop {
        let problem = match connect(own_node_id, &address).await {
            Ok(connection) => {
                pause = RECONNECT_MIN;
                tracing::info!(peer = shared.peer, address, "link up");
                let problem = carry(connection, &shared).await;
                tracing::info!(peer = shared.peer, address, problem, "link down");
                problem
            }
            Err(problem) => problem,
        };
        shared.set_disconnected(problem);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RECONNECT_MAX);
    }
}

/// Connects, and waits until the peer has spoken: a stopped process still accepts connections, by its kernel.
async fn connect(own_node_id: u64, address: &str) -> Result<TcpStream, String> {
    let connecting = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        wire::call(&mut stream, own_node_id).await?;
        Ok::<TcpStream, std::io::Error>(stream)
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(connected) => connected.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no link within {} ms", CONNECT_TIMEOUT.as_millis())),
    }
}

/// Carries calls and their answers until the link breaks; returns why it did.
async fn carry(stream: TcpStream, shared: &Shared) -> String {
    let (reader, writer) = stream.into_split();
    let (outbox, messages) = outbox();
    shared.set_connected(outbox.clone());
    let mut writing = pin!(wire::write_messages(writer, messages));
    let mut reader = MessageReader::new(reader);
    let mut pings = tokio::time::interval(PING_INTERVAL);
    let mut silent_at = Instant::now() + SILENCE_MAX;
    loop {
        tokio::select! {
            written = &mut writing => break written.err().map_or("closed".to_owned(), |error| error.to_string()),
            message = reader.next() => match message {
                Ok(Some(message)) => {
                    silent_at = Instant::now() + SILENCE_MAX;
                    message.frames.into_iter().for_each(|frame| shared.deliver(frame));
                }
                Ok(None) => break "the peer closed the link".to_owned(),
                Err(error) => break error.to_string(),
            },
            _ = pings.tick() => outbox.try_send(pb::LinkFrame { body: Some(Body::Ping(pb::Blank {})), ..Default::default() }),
            () = tokio::time::sleep_until(silent_at) => {
                break format!("the peer was silent for {} ms", SILENCE_MAX.as_millis());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_call_on_a_link_that_is_down_fails_at_once_and_says_why() {
        let link = PeerLink::open(1, 2, "127.0.0.1:1".to_owned());
        let body = Body::AppendEnd(pb::Blank {});
        let error = link.ask(1, body, Duration::from_secs(5)).await.unwrap_err();
        assert!(error.to_string().starts_with("node 2: "), "{error}");
        assert!(!link.is_connected());
    }
}
