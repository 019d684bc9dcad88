//! One HTTP/2 connection to a node: dialing, keeping alive, noticing its end.
//!
//! tonic encodes and decodes; this module carries. tonic's own channel hands every request to a worker
//! task, which hands it to hyper's connection task, which spawns a task that waits for the answer. Here
//! the caller's task writes into the connection's send buffer and is woken by the answer itself.
//!
//! One task per connection drives the socket and sends pings. It ends when the peer closes, when a ping is
//! not answered in time, or when the last handle is dropped; every request in flight then fails at once.

mod body;
mod exchange;
mod socket;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong};
use http::Uri;
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::ClientConfig;
use socket::Socket;

/// What a node may send ahead of what a caller has read, for one answer and for the whole connection.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Requests that may be sent before the node has said how many it takes at once.
const INITIAL_STREAMS: usize = 200;

/// A handle to an open connection; cheap to clone.
#[derive(Clone)]
pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
    /// `http://host:port`, the scheme and authority of every request.
    origin: Uri,
    ended: Arc<AtomicBool>,
}

impl Connection {
    /// Connects and waits until the node has answered a ping: a stopped process still accepts connections,
    /// by its kernel, and only an answer shows that it runs. `silent` is set when a later ping goes unanswered.
    pub(crate) async fn open(
        address: &str,
        config: &ClientConfig,
        silent: &Arc<AtomicBool>,
    ) -> Result<Connection, String> {
        let origin: Uri = format!("http://{address}").parse().map_err(|error| format!("not an address: {error}"))?;
        match timeout(config.connect_timeout, Self::dial(address, origin, config, silent)).await {
            Ok(dialed) => dialed,
            Err(_) => Err(format!("no connection within {} ms", config.connect_timeout.as_millis())),
        }
    }

    async fn dial(
        address: &str,
        origin: Uri,
        config: &ClientConfig,
        silent: &Arc<AtomicBool>,
    ) -> Result<Connection, String> {
        let socket = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        socket.set_nodelay(true).map_err(|error| error.to_string())?;
        let (requests, mut connection) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_max_send_streams(INITIAL_STREAMS)
            .handshake::<_, Bytes>(Socket(socket))
            .await
            .map_err(|error| error.to_string())?;
        let mut pings = connection.ping_pong().expect("invariant: ping_pong is taken once");
        tokio::select! {
            ended = &mut connection => {
                return Err(ended.err().map_or("the node closed the connection".to_owned(), |error| error.to_string()));
            }
            answer = pings.ping(Ping::opaque()) => { answer.map_err(|error| error.to_string())?; }
        }
        let ended = Arc::new(AtomicBool::new(false));
        let keepalive = Keepalive {
            interval: config.keepalive_interval,
            timeout: config.keepalive_timeout,
            silent: Arc::clone(silent),
        };
        tokio::spawn(drive(connection, pings, keepalive, Arc::clone(&ended), address.to_owned()));
        Ok(Connection { requests, origin, ended })
    }

    /// Scheme and authority for the requests on this connection.
    pub(crate) fn origin(&self) -> Uri {
        self.origin.clone()
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.ended.load(Ordering::Acquire)
    }
}

struct Keepalive {
    interval: Duration,
    timeout: Duration,
    /// Set when a ping is not answered: the node is stopped or cut off.
    silent: Arc<AtomicBool>,
}

async fn drive(
    mut connection: h2::client::Connection<Socket, Bytes>,
    mut pings: PingPong,
    keepalive: Keepalive,
    has_ended: Arc<AtomicBool>,
    address: String,
) {
    let mut ticks = interval(keepalive.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        tokio::select! {
            biased;
            ended = &mut connection => {
                tracing::debug!(address, error = ended.err().map(tracing::field::display), "connection ended");
                break;
            }
            _ = ticks.tick() => {}
        }
        tokio::select! {
            biased;
            _ = &mut connection => break,
            answer = timeout(keepalive.timeout, pings.ping(Ping::opaque())) => match answer {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => break,
                Err(_) => {
                    tracing::debug!(address, "connection closed: a ping was not answered");
                    keepalive.silent.store(true, Ordering::Relaxed);
                    break;
                }
            },
        }
    }
    // Before the requests in flight fail: whoever tries again must not pick this connection.
    has_ended.store(true, Ordering::Release);
    drop(connection);
}
