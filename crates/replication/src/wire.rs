//! A link's bytes: its opening, and messages behind their lengths.
//!
//! ```text
//! caller ─► 0x00 "CIRRUS1"  node id (8 bytes, big-endian)  message  message …
//! called ─► 0x00 "CIRRUS1"                                 message  message …
//! message:  length (4 bytes, big-endian)  encoded internal.v1.LinkMessage
//! ```
//!
//! A link shares its port with gRPC. No HTTP begins with a zero byte, so the first byte tells the two apart.

use std::io;
use std::pin::pin;

use bytes::{Buf as _, BufMut as _, BytesMut};
use cirrus_proto::internal::v1 as pb;
use futures::{Stream, StreamExt as _};
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The largest message between nodes, bytes: the largest frame is one entry beyond the append limit.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What a link's connection begins with, and no HTTP connection does.
pub const LINK_FIRST_BYTE: u8 = 0;

const PREFACE: [u8; 8] = *b"\0CIRRUS1";
const LENGTH_BYTES: usize = 4;
/// A buffer that a large message grew beyond this is not kept.
const BUFFER_BYTES_KEPT: usize = 1024 * 1024;

fn refused(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Opens a link from the caller's side, and waits for the other's opening.
pub(crate) async fn call<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, own_node_id: u64) -> io::Result<()> {
    let mut opening = [0; PREFACE.len() + 8];
    opening[..PREFACE.len()].copy_from_slice(&PREFACE);
    opening[PREFACE.len()..].copy_from_slice(&own_node_id.to_be_bytes());
    stream.write_all(&opening).await?;
    read_preface(stream).await
}

/// Opens a link from the called side; returns the caller's node id.
pub(crate) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<u64> {
    read_preface(stream).await?;
    let node_id = stream.read_u64().await?;
    if node_id == 0 {
        return Err(refused("a link from node 0".to_owned()));
    }
    stream.write_all(&PREFACE).await?;
    Ok(node_id)
}

async fn read_preface<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<()> {
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface).await?;
    if preface == PREFACE {
        return Ok(());
    }
    Err(refused(format!("a link of another version begins with \"{}\"", preface.escape_ascii())))
}

/// Writes messages until they end.
pub(crate) async fn write_messages<W: AsyncWrite + Unpin>(
    mut writer: W,
    messages: impl Stream<Item = pb::LinkMessage>,
) -> io::Result<()> {
    let mut messages = pin!(messages);
    let mut buffer = BytesMut::new();
    while let Some(message) = messages.next().await {
        buffer.clear();
        buffer.put_u32(message.encoded_len() as u32);
        message.encode(&mut buffer).map_err(io::Error::other)?;
        writer.write_all(&buffer).await?;
        if buffer.capacity() > BUFFER_BYTES_KEPT {
            buffer = BytesMut::new();
        }
    }
    Ok(())
}

/// Reads messages.
pub(crate) struct MessageReader<R> {
    reader: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> MessageReader<R> {
    pub(crate) fn new(reader: R) -> Self {
        MessageReader { reader, buffer: BytesMut::new() }
    }

    /// The next message; `None` where the peer closed the link between two. What was read stays if this is
    /// dropped, so it may be raced against a timeout.
    pub(crate) async fn next(&mut self) -> io::Result<Option<pb::LinkMessage>> {
        loop {
            let wanted = match self.buffer.get(..LENGTH_BYTES) {
                Some(mut length) => {
                    let length = length.get_u32() as usize;
                    if length > MESSAGE_BYTES_MAX {
                        let text = format!("a message of {length} bytes, the limit is {MESSAGE_BYTES_MAX}");
                        return Err(refused(text));
                    }
                    if self.buffer.len() >= LENGTH_BYTES + length {
                        self.buffer.advance(LENGTH_BYTES);
                        let message = self.buffer.split_to(length).freeze();
                        return pb::LinkMessage::decode(message)
                            .map(Some)
                            .map_err(|error| refused(format!("not a message: {error}")));
                    }
                    LENGTH_BYTES + length - self.buffer.len()
                }
                None => LENGTH_BYTES,
            };
            self.buffer.reserve(wanted.max(16 * 1024));
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the link ended inside a message"))
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cirrus_proto::internal::v1::link_frame::Body;

    use super::*;

    fn message(call_id: u64, text_bytes: usize) -> pb::LinkMessage {
        let body = Some(Body::Failed("x".repeat(text_bytes)));
        pb::LinkMessage { frames: vec![pb::LinkFrame { shard_id: 1, call_id, body }] }
    }

    #[tokio::test]
    async fn messages_arrive_whole_however_the_bytes_are_cut() {
        let sent: Vec<pb::LinkMessage> = (0..50).map(|nth| message(nth, (nth * nth * 37) as usize)).collect();
        for capacity in [1, 3, 4096, 1 << 20] {
            let (near, far) = tokio::io::duplex(capacity);
            let writing = tokio::spawn(write_messages(near, futures::stream::iter(sent.clone())));
            let mut reader = MessageReader::new(far);
            let mut received = Vec::new();
            while let Some(message) = reader.next().await.unwrap() {
                received.push(message);
            }
            writing.await.unwrap().unwrap();
            assert_eq!(received, sent, "{capacity} bytes at a time");
        }
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused() {
        let cases: [(&[u8], &str); 3] = [
            (b"\xff\xff\xff\xff", "4294967295 bytes, the limit is 67108864"),
            (b"\0\0\0\x01\xff", "not a message"),
            (b"\0\0\0\x05ab", "ended inside"),
        ];
        for (bytes, expected) in cases {
            let error = MessageReader::new(bytes).next().await.unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn a_link_opens_with_the_callers_id_and_with_nothing_else() {
        let (mut near, mut far) = tokio::io::duplex(64);
        let (called, answered) = tokio::join!(call(&mut near, 7), answer(&mut far));
        called.unwrap();
        assert_eq!(answered.unwrap(), 7);
        for opening in [b"\0CIRRUS2\0\0\0\0\0\0\0\x07".as_slice(), b"\0CIRRUS1\0\0\0\0\0\0\0\0", b"PRI * HTTP/2.0\r\n"]
        {
            let (mut near, mut far) = tokio::io::duplex(64);
            near.write_all(opening).await.unwrap();
            assert_eq!(answer(&mut far).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
