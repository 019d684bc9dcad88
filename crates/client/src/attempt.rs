//! One attempt of a request on one node.

use std::time::{Duration, Instant};

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Streaming};
use tonic_prost::ProstCodec;

use crate::connection::Connection;
use crate::node::Node;
use crate::policy::Trouble;
use crate::request::UnaryRequest;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// A call's reply may be 4 MiB by default and is configurable; tonic's own limit is 4 MiB with everything.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// tonic's codec over a connection.
pub(crate) fn grpc(connection: Connection) -> Grpc<Connection> {
    let origin = connection.origin();
    Grpc::with_origin(connection, origin).max_decoding_message_size(ANSWER_BYTES_MAX)
}

/// Sends a request and waits for its answer, for `limit` at most. `deadline` is [`deadline_header`] of the same.
pub(crate) async fn attempt<R: UnaryRequest>(
    node: &Node,
    request: &R,
    limit: Duration,
    deadline: HeaderValue,
) -> Result<Response<R::Response>, Trouble> {
    let started = Instant::now();
    let connection = node.connection(limit).await.map_err(Trouble::NotSent)?;
    let mut headers = HeaderMap::with_capacity(4);
    headers.insert(GRPC_TIMEOUT, deadline);
    let message = Request::from_parts(MetadataMap::from_headers(headers), Extensions::new(), request.clone());
    let mut grpc = grpc(connection);
    let answer = grpc.unary(message, PathAndQuery::from_static(R::PATH), ProstCodec::default());
    match timeout(limit.saturating_sub(started.elapsed()), answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(status)) => Err(Trouble::from_status(&status)),
        Err(_) => Err(Trouble::TimedOut(limit)),
    }
}

/// The `grpc-timeout` of an attempt: a little less than its limit, so that the node's own account of what
/// happened by then arrives before this side stops waiting.
pub(crate) fn deadline_header(limit: Duration) -> HeaderValue {
    let limit = limit - (limit / 10).min(Duration::from_millis(50));
    // The gRPC specification allows 8 digits.
    let (amount, unit) = match limit.as_micros() {
        micros @ 0..=99_999_999 => (micros as u64, 'u'),
        _ => ((limit.as_millis() as u64).min(99_999_999), 'm'),
    };
    HeaderValue::try_from(format!("{amount}{unit}")).expect("invariant: digits and a letter are a header value")
}

/// Opens a stream of answers on a node. The request bounds how long it lasts, if anything does.
pub(crate) async fn open_stream<R, M>(
    node: &Node,
    limit: Duration,
    path: &'static str,
    request: Request<R>,
) -> Result<Streaming<M>, Trouble>
where
    R: prost::Message + 'static,
    M: prost::Message + Default + 'static,
{
    let connection = node.connection(limit).await.map_err(Trouble::NotSent)?;
    let method = PathAndQuery::from_static(path);
    let answer = grpc(connection).server_streaming(request, method, ProstCodec::default()).await;
    Ok(answer.map_err(|status| Trouble::from_status(&status))?.into_inner())
}

/// The stream's next message; none where it has ended.
pub(crate) async fn next_message<M>(stream: &mut Streaming<M>) -> Result<Option<M>, Trouble> {
    stream.message().await.map_err(|status| Trouble::from_status(&status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_fit_the_header_and_come_before_the_limit() {
        for (limit_ms, expected) in
            [(0, "0u"), (1, "900u"), (2_000, "1950000u"), (100_000, "99950000u"), (200_000, "199950m")]
        {
            assert_eq!(deadline_header(Duration::from_millis(limit_ms)), expected, "{limit_ms}");
        }
    }
}
