//! Accepting connections, not more than a bound of them at a time, and closing those that never speak.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use cirrus_replication::LINK_FIRST_BYTE;
use metrics::{Counter, Gauge};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// A peer that has sent nothing this long after it connected is no client.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);
/// When the process is out of file descriptors, accepting is tried again after this pause.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Connections that have spoken and wait for the server to take them.
const ACCEPTED_MAX: usize = 16;

/// A listening socket with a bound on its open connections.
pub(crate) struct Connections {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    open: Gauge,
    refused: Counter,
    silent: Counter,
    first_bytes_timeout: Duration,
}

/// An accepted connection; counts as open until it is dropped.
pub(crate) struct Connection {
    stream: TcpStream,
    /// Until the peer's first bytes.
    silence: Option<Pin<Box<Sleep>>>,
    silent: Counter,
    open: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Connections {
    /// At most `most` connections at a time; `name` labels their metrics.
    pub(crate) fn new(listener: TcpListener, name: &'static str, most: usize) -> Connections {
        Connections {
            listener,
            permits: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            open: metrics::gauge!("cirrus_connections", "listener" => name),
            refused: metrics::counter!("cirrus_connections_refused_total", "listener" => name),
            silent: metrics::counter!("cirrus_connections_silent_total", "listener" => name),
            first_bytes_timeout: FIRST_BYTES_TIMEOUT,
        }
    }

    /// The next connection. One above the bound is closed at once: the peer sees that, where one left waiting
    /// to be accepted would look like a node that hangs.
    pub(crate) async fn next(&self) -> (Connection, SocketAddr) {
        loop {
            let (stream, address) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    if !is_of_one_connection(&error) {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                    }
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
                self.refused.increment(1);
                continue;
            };
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, %address, "the connection closed before it was served");
                continue;
            }
            self.open.increment(1.0);
            let connection = Connection {
                stream,
                silence: Some(Box::pin(tokio::time::sleep(self.first_bytes_timeout))),
                silent: self.silent.clone(),
                open: self.open.clone(),
                _permit: permit,
            };
            return (connection, address);
        }
    }

    /// The connections of clients as a stream. Those of other nodes' links go to `serve_link`, and end with
    /// the stream.
    pub(crate) fn into_stream<F>(
        self,
        serve_link: impl Fn(Connection) -> F + Clone + Send + 'static,
    ) -> impl futures::Stream<Item = Result<Connection, io::Error>>
    where
        F: Future<Output = ()> + Send,
    {
        let (clients, accepted) = mpsc::channel(ACCEPTED_MAX);
        let accepting = async move {
            let mut open = JoinSet::new();
            loop {
                let mut connection = tokio::select! {
                    (connection, _) = self.next() => connection,
                    Some(_) = open.join_next() => continue,
                };
                let (clients, serve_link) = (clients.clone(), serve_link.clone());
                open.spawn(async move {
                    match connection.first_byte().await {
                        Ok(LINK_FIRST_BYTE) => serve_link(connection).await,
                        // The listener is gone where nobody takes it.
                        Ok(_) => drop(clients.send(Ok(connection)).await),
                        Err(error) => tracing::debug!(%error, "a connection ended before it was served"),
                    }
                });
            }
        };
        // A set, since dropping it ends what it holds.
        let mut tasks = JoinSet::new();
        tasks.spawn(accepting);
        futures::stream::unfold((accepted, tasks), |(mut accepted, tasks)| async {
            let connection = accepted.recv().await?;
            Some((connection, (accepted, tasks)))
        })
    }
}

impl Connection {
    /// Waits for the peer's first byte and leaves it to be read.
    async fn first_byte(&mut self) -> io::Result<u8> {
        let mut first = [0];
        let Connection { stream, silence, .. } = self;
        let silence = async {
            match silence {
                Some(silence) => silence.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            peeked = stream.peek(&mut first) => match peeked? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(first[0]),
            },
            () = silence => Err(self.said_nothing()),
        }
    }

    fn said_nothing(&self) -> io::Error {
        self.silent.increment(1);
        io::Error::new(io::ErrorKind::TimedOut, "the peer sent nothing")
    }
}

/// Whether accepting failed for the connection and not for the socket.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

impl axum::serve::Listener for Connections {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        self.next().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some(silence) = &mut self.silence else { return result };
        if result.is_pending() {
            if silence.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(self.said_nothing()));
            }
        } else {
            self.silence = None;
        }
        result
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    /// h2 would write each payload of 256 bytes and more by itself, to save a copy; answers that are ready
    /// together are to leave in one system call.
    fn is_write_vectored(&self) -> bool {
        false
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn connections(most: usize) -> (Connections, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Connections::new(listener, "test", most), address)
    }

    #[tokio::test]
    async fn a_connection_above_the_bound_is_closed_at_once() {
        let (connections, address) = connections(1).await;
        let _first_client = TcpStream::connect(address).await.unwrap();
        let (first, _) = connections.next().await;
        let mut second_client = TcpStream::connect(address).await.unwrap();
        let refusing = tokio::spawn(async move { connections.next().await.1 });
        assert_eq!(second_client.read(&mut [0; 1]).await.unwrap_or(0), 0, "the second is closed");
        drop(first);
        let third_client = TcpStream::connect(address).await.unwrap();
        assert_eq!(refusing.await.unwrap(), third_client.local_addr().unwrap(), "there is room again");
    }

    #[tokio::test]
    async fn a_peer_that_never_speaks_is_closed() {
        let (mut connections, address) = connections(10).await;
        connections.first_bytes_timeout = Duration::from_millis(20);
        let _silent_client = TcpStream::connect(address).await.unwrap();
        let (mut silent, _) = connections.next().await;
        let error = silent.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_peer_that_spoke_may_be_silent() {
        let (mut connections, address) = connections(10).await;
        connections.first_bytes_timeout = Duration::from_millis(200);
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"a").await.unwrap();
        let (mut connection, _) = connections.next().await;
        connection.read_exact(&mut [0; 1]).await.unwrap();
        let longer = Duration::from_millis(400);
        assert!(tokio::time::timeout(longer, connection.read(&mut [0; 1])).await.is_err(), "it stays open");
    }
}
