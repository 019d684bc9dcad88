//! Connections to other nodes' public services, one a node for each kind of use, made when first needed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cirrus_proto::Failure;
use tonic::transport::{Channel, Endpoint};

use crate::grpc::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};

/// A node that does not accept within this time is as good as down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A silent node is asked for a sign of life this often, and given up after the timeout.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a stream that is passed on, and that nobody reads, may hold of its connection's window, bytes.
const RELAYED_WINDOW_BYTES: u32 = 256 * 1024;

/// Connections by address. Cheap to clone; clones share them.
#[derive(Clone)]
pub(crate) struct Peers {
    channels: Arc<Mutex<HashMap<String, Channel>>>,
    stream_window_bytes: u32,
    connection_window_bytes: u32,
}

impl Default for Peers {
    fn default() -> Self {
        Peers {
            channels: Arc::default(),
            stream_window_bytes: STREAM_WINDOW_BYTES,
            connection_window_bytes: CONNECTION_WINDOW_BYTES,
        }
    }
}

impl Peers {
    /// For at most so many streams at a time whose readers may stand still: none holds up another, nor anything on other
    /// connections.
    pub(crate) fn for_slow_streams(streams_max: usize) -> Peers {
        let streams_max = u32::try_from(streams_max).unwrap_or(u32::MAX);
        Peers {
            channels: Arc::default(),
            stream_window_bytes: RELAYED_WINDOW_BYTES,
            // HTTP/2 has no larger one.
            connection_window_bytes: RELAYED_WINDOW_BYTES.saturating_mul(streams_max).min((1 << 31) - 1),
        }
    }

    /// The connection to the node at that address (host:port).
    pub(crate) fn channel(&self, address: &str) -> Result<Channel, Failure> {
        let mut channels = self.channels.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Failure::internal(format!("a node's address, {address}, is unusable: {error}")))?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .initial_stream_window_size(self.stream_window_bytes)
            .initial_connection_window_size(self.connection_window_bytes)
            .connect_lazy();
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}
