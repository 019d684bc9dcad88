//! The body of an answer, as tonic reads it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http_body::Frame;
use tokio::task::AbortHandle;

/// An answer's data and trailers.
pub(crate) struct AnswerBody {
    stream: RecvStream,
    data_ended: bool,
    /// The task that still sends the request's body, where that has not ended before the answer began.
    upload: Option<AbortHandle>,
}

impl AnswerBody {
    pub(super) fn new(stream: RecvStream, upload: Option<AbortHandle>) -> Self {
        AnswerBody { stream, data_ended: false, upload }
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Read means wanted: the node may send as much again.
                    let released = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(released.map(|()| Frame::data(data))));
                }
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_ended = true,
            }
        }
        Poll::Ready(ready!(self.stream.poll_trailers(cx))?.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        // Nobody waits for answers any more; the node learns so by a stream reset.
        if let Some(upload) = &self.upload {
            upload.abort();
        }
    }
}
