//! memcached, by its text protocol, one connection for each client.
//!
//! Source: memcached's `doc/protocol.txt`.

use std::io;
use std::io::Write as _;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Driver, Session, patiently};
use crate::recorder::OperationError;
use crate::workload::Operation;

/// A memcached server.
pub(crate) struct MemcachedDriver {
    address: String,
}

impl MemcachedDriver {
    pub(crate) async fn connect(endpoints: &[String], patience: Duration) -> anyhow::Result<MemcachedDriver> {
        let address = endpoints[0].clone();
        patiently(patience, &format!("memcached at {address}"), async || {
            Connection::open(&address).await?.version().await.map_err(|error| anyhow::anyhow!(error.message))
        })
        .await?;
        Ok(MemcachedDriver { address })
    }
}

impl Driver for MemcachedDriver {
    type Session = MemcachedSession;

    async fn prepare(&self, _: Operation) -> anyhow::Result<()> {
        Ok(())
    }

    async fn session(&self, _: usize) -> anyhow::Result<MemcachedSession> {
        let connection = Some(Connection::open(&self.address).await?);
        Ok(MemcachedSession { address: self.address.clone(), connection })
    }
}

/// One client of memcached.
pub(crate) struct MemcachedSession {
    address: String,
    /// `None` after anything went wrong, until the next request: what the server sends next is then unsure.
    connection: Option<Connection>,
}

impl MemcachedSession {
    async fn connection(&mut self) -> Result<Connection, OperationError> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => Ok(Connection::open(&self.address).await?),
        }
    }
}

impl Session for MemcachedSession {
    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), OperationError> {
        let mut connection = self.connection().await?;
        connection.set(&key, &value).await?;
        self.connection = Some(connection);
        Ok(())
    }

    async fn get(&mut self, key: Bytes) -> Result<Option<usize>, OperationError> {
        let mut connection = self.connection().await?;
        let value = connection.get(&key).await?;
        self.connection = Some(connection);
        Ok(value.map(|value| value.len()))
    }

    async fn call(&mut self, _: Bytes) -> Result<(), OperationError> {
        Err(OperationError::new("UNSUPPORTED", "memcached does not run procedures"))
    }
}

/// A TCP connection that speaks the text protocol.
struct Connection {
    stream: TcpStream,
    outgoing: Vec<u8>,
    incoming: BytesMut,
}

/// An answer's first line is shorter than this, or it is no answer.
const LINE_BYTES_MAX: usize = 2048;

impl Connection {
    async fn open(address: &str) -> io::Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, outgoing: Vec::new(), incoming: BytesMut::new() })
    }

    async fn version(&mut self) -> Result<(), OperationError> {
        self.outgoing.extend_from_slice(b"version\r\n");
        self.send().await?;
        let line = self.line().await?;
        if line.starts_with(b"VERSION ") { Ok(()) } else { Err(unexpected(&line)) }
    }

    async fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), OperationError> {
        self.outgoing.extend_from_slice(b"set ");
        self.outgoing.extend_from_slice(key);
        write!(self.outgoing, " 0 0 {}\r\n", value.len())?;
        self.outgoing.extend_from_slice(value);
        self.outgoing.extend_from_slice(b"\r\n");
        self.send().await?;
        let line = self.line().await?;
        if &line[..] == b"STORED" { Ok(()) } else { Err(unexpected(&line)) }
    }

    async fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, OperationError> {
        self.outgoing.extend_from_slice(b"get ");
        self.outgoing.extend_from_slice(key);
        self.outgoing.extend_from_slice(b"\r\n");
        self.send().await?;
        let line = self.line().await?;
        if &line[..] == b"END" {
            return Ok(None);
        }
        // VALUE <key> <flags> <bytes>
        let mut words = line.split(|&byte| byte == b' ');
        let length = match (words.next(), words.next(), words.nth(1)) {
            (Some(b"VALUE"), Some(named), Some(length)) if named == key => {
                std::str::from_utf8(length).ok().and_then(|digits| digits.parse::<usize>().ok())
            }
            _ => None,
        };
        let Some(length) = length else { return Err(unexpected(&line)) };
        self.fill(length.saturating_add(2)).await?;
        let value = self.incoming.split_to(length).freeze();
        self.incoming.advance(2);
        let end = self.line().await?;
        if &end[..] == b"END" { Ok(Some(value)) } else { Err(unexpected(&end)) }
    }

    async fn send(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.outgoing).await?;
        self.outgoing.clear();
        Ok(())
    }

    /// The next line, without its end.
    async fn line(&mut self) -> Result<Bytes, OperationError> {
        let mut searched = 0;
        loop {
            if let Some(found) = self.incoming[searched..].windows(2).position(|pair| pair == b"\r\n") {
                let line = self.incoming.split_to(searched + found).freeze();
                self.incoming.advance(2);
                return Ok(line);
            }
            // The end may lie astride what is here and what comes next.
            searched = self.incoming.len().saturating_sub(1);
            if searched > LINE_BYTES_MAX {
                return Err(unexpected(&self.incoming));
            }
            self.fill(self.incoming.len() + 1).await?;
        }
    }

    /// Reads until at least this many bytes are buffered.
    async fn fill(&mut self, length: usize) -> io::Result<()> {
        while self.incoming.len() < length {
            if self.stream.read_buf(&mut self.incoming).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
            }
        }
        Ok(())
    }
}

impl From<io::Error> for OperationError {
    fn from(error: io::Error) -> Self {
        OperationError::new("DISCONNECTED", error)
    }
}

fn unexpected(line: &[u8]) -> OperationError {
    let shown = String::from_utf8_lossy(&line[..line.len().min(100)]).into_owned();
    let kind = match shown.split(' ').next() {
        Some(word @ ("SERVER_ERROR" | "CLIENT_ERROR" | "ERROR" | "NOT_STORED")) => word.to_owned(),
        _ => "UNEXPECTED_ANSWER".to_owned(),
    };
    OperationError::new(kind, shown)
}

#[cfg(test)]
mod tests;
