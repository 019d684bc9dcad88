//! Connections to other nodes' public services, one a node, made when first needed.

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

/// Connections by address. Cheap to clone; clones share them.
#[derive(Clone, Default)]
pub(crate) struct Peers {
    channels: Arc<Mutex<HashMap<String, Channel>>>,
}

impl Peers {
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
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .connect_lazy();
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}
