//! What a caller may choose about a client.

use std::time::Duration;

/// How a [`Client`](crate::Client) finds and talks to a cluster.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// gRPC addresses, host:port, of some nodes of the cluster. One that answers is enough: the others
    /// are learned from it.
    pub endpoints: Vec<String>,
    /// The longest that a request may take, with all its attempts.
    pub timeout: Duration,
    /// The longest that one attempt may take where the request may be sent again after it: reads, and
    /// writes under a request id.
    pub attempt_timeout: Duration,
    /// The longest that connecting to a node may take, until it answers its first ping.
    pub connect_timeout: Duration,
    /// Time between pings on an open connection.
    pub keepalive_interval: Duration,
    /// A connection whose ping is not answered for this long is closed. A node that is stopped or cut
    /// off is noticed by it.
    pub keepalive_timeout: Duration,
    /// Puts a request id on every mutating request that has none, so that it can be sent again safely.
    pub request_ids: bool,
    /// HTTP/2 connections to each node.
    pub connections_per_node: usize,
    /// The pause before the first resend; doubles with each further one.
    pub backoff_min: Duration,
    /// The longest pause between attempts.
    pub backoff_max: Duration,
    /// The shard map is asked for at most once in this time.
    pub refresh_interval_min: Duration,
}

impl ClientConfig {
    /// The defaults, for a cluster with these nodes.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        ClientConfig { endpoints: endpoints.into_iter().map(Into::into).collect(), ..ClientConfig::default() }
    }
}

impl Default for ClientConfig {
    fn default() -> Self {
        ClientConfig {
            endpoints: vec!["127.0.0.1:7100".to_owned()],
            timeout: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(1),
            keepalive_interval: Duration::from_millis(500),
            keepalive_timeout: Duration::from_millis(1500),
            request_ids: true,
            connections_per_node: 1,
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_millis(200),
            refresh_interval_min: Duration::from_millis(100),
        }
    }
}
