//! What waits to be sent over a link: frames of all shards, packed several to a message.
//!
//! Most frames leave at once, with whatever else is ready by then. Some, news of a commit or a heartbeat, are in no
//! hurry: they ride along with the next message, and leave by themselves only after [`RIDE_MAX`]. A busy link
//! then carries no message for their sake.

use std::time::Duration;

use cirrus_proto::internal::v1 as pb;
use cirrus_proto::internal::v1::link_frame::Body;
use futures::Stream;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Frames that wait, at most; past it senders wait.
const FRAMES_MAX: usize = 1024;
/// Frames in one message, at most.
const MESSAGE_FRAMES_MAX: usize = 256;
/// Bytes after which a message takes no further frame.
const MESSAGE_BYTES_TARGET: usize = 512 * 1024;
/// How long a frame waits for a message to ride with.
const RIDE_MAX: Duration = Duration::from_millis(5);

/// The sending side.
#[derive(Clone)]
pub(crate) struct Outbox(mpsc::Sender<pb::LinkFrame>);

/// The link broke: nothing will be sent any more.
#[derive(Debug)]
pub(crate) struct Closed;

/// Whether a frame is in no hurry.
fn rides(frame: &pb::LinkFrame) -> bool {
    match &frame.body {
        Some(Body::Append(append)) => append.silent,
        Some(Body::Heartbeat(_) | Body::HeartbeatResponse(_) | Body::Ping(_)) => true,
        _ => false,
    }
}

impl Outbox {
    /// Sends a frame; waits while the outbox is full.
    pub(crate) async fn send(&self, frame: pb::LinkFrame) -> Result<(), Closed> {
        self.0.send(frame).await.map_err(|_| Closed)
    }

    /// Sends a frame if there is room for it.
    pub(crate) fn try_send(&self, frame: pb::LinkFrame) {
        // A full outbox needs no ping.
        let _ = self.0.try_send(frame);
    }

    /// Sends a frame from where nothing can wait.
    pub(crate) fn send_detached(&self, frame: pb::LinkFrame) {
        if let Err(mpsc::error::TrySendError::Full(frame)) = self.0.try_send(frame) {
            let sender = self.0.clone();
            tokio::spawn(async move { sender.send(frame).await.is_ok() });
        }
    }
}

/// An outbox, and the messages that leave it.
pub(crate) fn outbox() -> (Outbox, impl Stream<Item = pb::LinkMessage> + Send + 'static) {
    let (sender, frames) = mpsc::channel(FRAMES_MAX);
    let packer = Packer { frames, packed: Vec::new(), bytes: 0, leaves_at: None };
    let messages = futures::stream::unfold(packer, |mut packer| async move {
        let message = packer.next_message().await?;
        Some((message, packer))
    });
    (Outbox(sender), messages)
}

struct Packer {
    frames: mpsc::Receiver<pb::LinkFrame>,
    packed: Vec<pb::LinkFrame>,
    bytes: usize,
    /// When what is packed leaves, if all of it rides.
    leaves_at: Option<Instant>,
}

impl Packer {
    /// `None` once every sender is gone and all has been sent.
    async fn next_message(&mut self) -> Option<pb::LinkMessage> {
        while self.has_room() {
            let next = match self.leaves_at {
                None => self.frames.recv().await,
                Some(at) => match tokio::time::timeout_at(at, self.frames.recv()).await {
                    Ok(next) => next,
                    Err(_) => break,
                },
            };
            let Some(frame) = next else {
                if self.packed.is_empty() {
                    return None;
                }
                break;
            };
            let rides = rides(&frame);
            self.pack(frame);
            if rides {
                self.leaves_at.get_or_insert_with(|| Instant::now() + RIDE_MAX);
                continue;
            }
            // What else is ready runs first: frames that it sends travel in this message.
            tokio::task::yield_now().await;
            while self.has_room()
                && let Ok(frame) = self.frames.try_recv()
            {
                self.pack(frame);
            }
            break;
        }
        self.leaves_at = None;
        self.bytes = 0;
        Some(pb::LinkMessage { frames: std::mem::take(&mut self.packed) })
    }

    fn has_room(&self) -> bool {
        self.packed.len() < MESSAGE_FRAMES_MAX && self.bytes < MESSAGE_BYTES_TARGET
    }

    fn pack(&mut self, frame: pb::LinkFrame) {
        // Entries, and news of a later commit, tell of an earlier commit as well.
        if let Some(Body::Append(_)) = &frame.body {
            let superseded = |packed: &pb::LinkFrame| {
                packed.call_id == frame.call_id && matches!(&packed.body, Some(Body::Append(append)) if append.silent)
            };
            self.packed.retain(|packed| !superseded(packed));
        }
        self.bytes += frame.encoded_len();
        self.packed.push(frame);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::StreamExt as _;

    use super::*;

    fn frame(call_id: u64) -> pb::LinkFrame {
        pb::LinkFrame { shard_id: 1, call_id, body: Some(Body::AppendEnd(pb::Blank {})) }
    }

    fn riding(call_id: u64) -> pb::LinkFrame {
        pb::LinkFrame { body: Some(Body::Heartbeat(pb::AppendRequest::default())), ..frame(call_id) }
    }

    fn append(call_id: u64, silent: bool) -> pb::LinkFrame {
        let body = Body::Append(pb::AppendRequest { silent, ..Default::default() });
        pb::LinkFrame { shard_id: 1, call_id, body: Some(body) }
    }

    fn calls(message: &pb::LinkMessage) -> Vec<u64> {
        message.frames.iter().map(|frame| frame.call_id).collect()
    }

    #[tokio::test]
    async fn frames_that_wait_together_travel_together_and_in_order() {
        let (outbox, messages) = outbox();
        for call_id in 0..300 {
            outbox.send(frame(call_id)).await.unwrap();
        }
        drop(outbox);
        let messages: Vec<pb::LinkMessage> = messages.collect().await;
        assert_eq!(messages.len(), 2);
        assert_eq!(messages.iter().flat_map(calls).collect::<Vec<_>>(), (0..300).collect::<Vec<u64>>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_rides_leaves_with_the_next_or_by_itself() {
        let (outbox, messages) = outbox();
        let mut messages = Box::pin(messages);
        outbox.send(riding(1)).await.unwrap();
        outbox.send(frame(2)).await.unwrap();
        assert_eq!(calls(&messages.next().await.unwrap()), [1, 2]);
        let before = Instant::now();
        outbox.send(riding(3)).await.unwrap();
        outbox.send(riding(4)).await.unwrap();
        assert_eq!(calls(&messages.next().await.unwrap()), [3, 4]);
        assert!(before.elapsed() >= RIDE_MAX);
    }

    #[tokio::test]
    async fn news_of_a_commit_is_dropped_where_something_newer_of_its_stream_travels_along() {
        let (outbox, messages) = outbox();
        for silent in [append(7, true), append(7, true), append(8, true)] {
            outbox.send(silent).await.unwrap();
        }
        outbox.send(append(7, false)).await.unwrap();
        drop(outbox);
        let messages: Vec<pb::LinkMessage> = messages.collect().await;
        assert_eq!(messages.iter().map(calls).collect::<Vec<_>>(), [[8, 7]]);
    }
}
