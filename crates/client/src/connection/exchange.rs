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
            if self.ended {
                return Poll::Ready(self.stream.send_data(Bytes::new(), true));
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
