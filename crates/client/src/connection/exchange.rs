//! One request and its answer on a connection: the HTTP service that tonic's codec runs on.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, SendStream};
use http::{Request, Response};
use http_body::Body as _;
use tonic::body::Body;

use super::Connection;
use super::body::AnswerBody;

impl tower_service::Service<Request<Body>> for Connection {
    type Response = Response<AnswerBody>;
    type Error = h2::Error;
    type Future = Exchange;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        self.requests.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Exchange {
        let (parts, body) = request.into_parts();
        let body_ended = body.is_end_stream();
        match self.requests.send_request(Request::from_parts(parts, ()), body_ended) {
            Ok((answer, stream)) => {
                let upload = (!body_ended).then(|| Upload::new(body, stream));
                Exchange::Sent { answer, upload }
            }
            Err(error) => Exchange::Refused(Some(error)),
        }
    }
}

/// Waits for an answer's headers while it sends the request's body. Dropping it resets the stream, so that
/// the node stops working for nobody.
pub(crate) enum Exchange {
    Refused(Option<h2::Error>),
    Sent { answer: ResponseFuture, upload: Option<Upload> },
}

impl Future for Exchange {
    type Output = Result<Response<AnswerBody>, h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (answer, upload) = match &mut *self {
            Exchange::Refused(error) => {
                return Poll::Ready(Err(error.take().expect("invariant: polled to its end once")));
            }
            Exchange::Sent { answer, upload } => (answer, upload),
        };
        if upload.as_mut().is_some_and(|upload| Pin::new(upload).poll(cx).is_ready()) {
            *upload = None;
        }
        let answer = ready!(Pin::new(answer).poll(cx))?;
        // A stream of requests goes on beside its stream of answers.
        let upload = upload.take().map(|upload| tokio::spawn(upload).abort_handle());
        Poll::Ready(Ok(answer.map(|stream| AnswerBody::new(stream, upload))))
    }
}

/// What is left of a body is handed over without waiting for room, up to this. A stream has no room before the
/// connection's task has opened it: a small request that waited for it would be written apart from its headers.
const REST_BYTES_MAX: usize = 16 * 1024;

/// Sends a request's body, as fast as the node takes it. Its errors end the answer too, so they are told
/// there.
pub(crate) struct Upload {
    body: Body,
    stream: SendStream<Bytes>,
    /// Data that waits for room, and what came behind it.
    waiting: Bytes,
    following: Option<Bytes>,
    /// Nothing comes behind these.
    ended: bool,
}

impl Upload {
    fn new(body: Body, stream: SendStream<Bytes>) -> Self {
        Upload { body, stream, waiting: Bytes::new(), following: None, ended: false }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            if self.ended && self.following.is_none() && self.waiting.len() <= REST_BYTES_MAX {
                let rest = std::mem::take(&mut self.waiting);
                return Poll::Ready(self.stream.send_data(rest, true));
            }
            while !self.waiting.is_empty() {
                let room = ready!(self.poll_room(cx))?;
                let piece = self.waiting.split_to(room.min(self.waiting.len()));
                let last = self.ended && self.waiting.is_empty() && self.following.is_none();
                self.stream.send_data(piece, last)?;
                if last {
                    return Poll::Ready(Ok(()));
                }
            }
            if let Some(following) = self.following.take() {
                self.waiting = following;
                continue;
            }
            match self.poll_data(cx) {
                Poll::Ready(Some(data)) => self.waiting = data,
                Poll::Ready(None) => {
                    self.ended = true;
                    continue;
                }
                // The node may lose interest meanwhile.
                Poll::Pending => return self.stream.poll_reset(cx).map(|reset| reset.map(|_| ())),
            }
            // A request of one message ends right behind it. Knowing so before it is sent saves a frame.
            match self.poll_data(cx) {
                Poll::Ready(Some(data)) => self.following = Some(data),
                Poll::Ready(None) => self.ended = true,
                Poll::Pending => {}
            }
        }
    }

    /// How many of the waiting bytes the node takes now; above 0.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, h2::Error>> {
        self.stream.reserve_capacity(self.waiting.len());
        let mut room = self.stream.capacity();
        while room == 0 {
            room = match ready!(self.stream.poll_capacity(cx)) {
                Some(room) => room?,
                None => return Poll::Ready(Err(Reason::STREAM_CLOSED.into())),
            };
        }
        Poll::Ready(Ok(room))
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                // gRPC requests have no trailers, so every frame is data.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Poll::Ready(Some(data)),
                    _ => {}
                },
                Some(Err(_)) => {
                    self.stream.send_reset(Reason::CANCEL);
                    return Poll::Ready(None);
                }
                None => return Poll::Ready(None),
            }
        }
    }
}

impl Future for Upload {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_send(cx).map(|sent| {
            if let Err(error) = sent {
                tracing::trace!(%error, "a request's body was not sent to its end");
            }
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
    use tower_service::Service as _;

    use super::*;

    /// Counts what would be system calls of a socket.
    struct CountsWrites(DuplexStream, Arc<AtomicUsize>);

    impl AsyncRead for CountsWrites {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for CountsWrites {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.1.fetch_add(1, Ordering::SeqCst);
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    /// Answers each request with its body.
    async fn echo(stream: DuplexStream) {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(accepted) = connection.accept().await {
            let (request, mut respond) = accepted.unwrap();
            tokio::spawn(async move {
                let mut body = request.into_body();
                let mut echoed = Vec::new();
                while let Some(data) = body.data().await {
                    let data = data.unwrap();
                    body.flow_control().release_capacity(data.len()).unwrap();
                    echoed.extend_from_slice(&data);
                }
                let mut answer = respond.send_response(Response::new(()), false).unwrap();
                answer.send_data(echoed.into(), true).unwrap();
            });
        }
    }

    #[tokio::test]
    async fn a_small_request_is_written_together_with_its_headers_and_every_size_arrives_whole() {
        let (near, far) = duplex(1 << 20);
        tokio::spawn(echo(far));
        let writes = Arc::new(AtomicUsize::new(0));
        let (requests, driven) =
            h2::client::Builder::new().handshake::<_, Bytes>(CountsWrites(near, Arc::clone(&writes))).await.unwrap();
        tokio::spawn(driven);
        let mut connection =
            Connection { requests, origin: "http://node".parse().unwrap(), ended: Arc::new(AtomicBool::new(false)) };

        // The first ones come before the window and the settings of either side are known.
        for bytes in [0, 1, 300, REST_BYTES_MAX, REST_BYTES_MAX + 1, 200_000, 300] {
            let request = Request::post("http://node/").body(Body::new("x".repeat(bytes))).unwrap();
            std::future::poll_fn(|cx| connection.poll_ready(cx)).await.unwrap();
            writes.store(0, Ordering::SeqCst);
            let answer = connection.call(request).await.unwrap();
            let written = writes.load(Ordering::SeqCst);
            let mut body = answer.into_body();
            let mut echoed = 0;
            while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                echoed += frame.unwrap().into_data().unwrap().len();
            }
            assert_eq!(echoed, bytes);
            if bytes == 300 {
                assert_eq!(written, 1, "headers and body of {bytes} bytes");
            }
        }
    }
}
