//! A snapshot from one node to another: file by file, in checksummed chunks, on a stream of its own, so
//! that it delays no heartbeat.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cirrus_proto::NODE_ID_METADATA;
use cirrus_proto::internal::v1 as pb;
use cirrus_proto::internal::v1::node_client::NodeClient;
use cirrus_proto::internal::v1::snapshot_chunk::Part;
use openraft::type_config::alias::SnapshotOf;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::convert::{
    log_id_from_pb, log_id_to_pb, required_vote, stored_membership_from_pb, stored_membership_to_pb, vote_from_pb,
    vote_to_pb,
};
use crate::link::endpoint;
use crate::snapshot::{SnapshotDirectory, fresh_path};
use crate::types::{SnapshotMeta, TypeConfig, Vote};
use crate::wire::MESSAGE_BYTES_MAX;

const CHUNK_BYTES: usize = 256 * 1024;
/// How long a whole transfer, with the install at its end, may take.
const TRANSFER_BOUND: Duration = Duration::from_secs(600);

/// Sends a snapshot; returns the receiver's vote once it is installed there.
pub(crate) async fn send(
    address: &str,
    own_node_id: u64,
    shard_id: u32,
    vote: Vote,
    snapshot: SnapshotOf<TypeConfig, SnapshotDirectory>,
) -> Result<Vote, String> {
    let channel = endpoint(address).map_err(text)?.connect().await.map_err(text)?;
    let mut client = NodeClient::new(channel).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (sender, receiver) = mpsc::channel(8);
    let mut request = tonic::Request::new(ReceiverStream::new(receiver));
    request.metadata_mut().insert(NODE_ID_METADATA, own_node_id.into());
    request.set_timeout(TRANSFER_BOUND);
    let reader = tokio::spawn(async move {
        let result = read_all(shard_id, vote, &snapshot, &sender).await;
        if let Err(problem) = &result {
            // Without its end the receiver refuses the transfer.
            tracing::warn!(shard = shard_id, problem, "could not read a snapshot");
        }
        result
    });
    let response = client.install_snapshot(request).await.map_err(|status| status.message().to_owned())?;
    reader.await.map_err(text)??;
    let vote = response.into_inner().vote.ok_or("install response without a vote")?;
    Ok(vote_from_pb(&vote))
}

async fn read_all(
    shard_id: u32,
    vote: Vote,
    snapshot: &SnapshotOf<TypeConfig, SnapshotDirectory>,
    sender: &mpsc::Sender<pb::SnapshotChunk>,
) -> Result<(), String> {
    let files = list_files(snapshot.snapshot.path()).await.map_err(text)?;
    let header = pb::SnapshotHeader {
        shard_id,
        vote: Some(vote_to_pb(&vote)),
        meta: Some(pb::SnapshotMeta {
            last_log_id: snapshot.meta.last_log_id.as_ref().map(log_id_to_pb),
            membership: Some(stored_membership_to_pb(&snapshot.meta.last_membership)),
            snapshot_id: String::new(),
        }),
        total_bytes: files.iter().map(|(_, _, bytes)| bytes).sum(),
    };
    emit(sender, Part::Header(header)).await?;
    let file_count = files.len() as u32;
    for (name, path, bytes) in files {
        emit(sender, Part::FileStart(pb::FileStart { name, bytes })).await?;
        let crc32c = send_file(&path, bytes, sender).await?;
        emit(sender, Part::FileEnd(pb::FileEnd { crc32c })).await?;
    }
    emit(sender, Part::End(pb::SnapshotEnd { file_count })).await
}

async fn send_file(path: &Path, bytes: u64, sender: &mpsc::Sender<pb::SnapshotChunk>) -> Result<u32, String> {
    let mut file = tokio::fs::File::open(path).await.map_err(text)?.take(bytes);
    let mut whole = 0;
    loop {
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
        while buffer.len() < CHUNK_BYTES && file.read_buf(&mut buffer).await.map_err(text)? > 0 {}
        if buffer.is_empty() {
            return Ok(whole);
        }
        let data: Bytes = buffer.freeze();
        whole = crc32c::crc32c_append(whole, &data);
        let crc32c = crc32c::crc32c(&data);
        emit(sender, Part::FileChunk(pb::FileChunk { data, crc32c })).await?;
    }
}

async fn emit(sender: &mpsc::Sender<pb::SnapshotChunk>, part: Part) -> Result<(), String> {
    let chunk = pb::SnapshotChunk { part: Some(part) };
    sender.send(chunk).await.map_err(|_| "the receiver stopped the transfer".to_owned())
}

async fn list_files(directory: &Path) -> std::io::Result<Vec<(String, PathBuf, u64)>> {
    let mut files = Vec::new();
    let mut entries = tokio::fs::read_dir(directory).await?;
    while let Some(entry) = entries.next_entry().await? {
        let metadata = entry.metadata().await?;
        if metadata.is_file() {
            files.push((entry.file_name().to_string_lossy().into_owned(), entry.path(), metadata.len()));
        }
    }
    files.sort();
    Ok(files)
}

/// A snapshot that arrived whole, on disk and fsynced.
pub(crate) struct Received {
    pub(crate) shard_id: u32,
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
    pub(crate) directory: SnapshotDirectory,
}

/// Receives a transfer. `folder_of` names the shard's folder of snapshots, or says why there is none.
pub(crate) async fn receive(
    mut incoming: Streaming<pb::SnapshotChunk>,
    folder_of: impl Fn(u32) -> Result<PathBuf, String>,
) -> Result<Received, String> {
    let Some(Part::Header(header)) = next_part(&mut incoming).await? else {
        return Err("a snapshot must begin with its header".to_owned());
    };
    let vote = required_vote(&header.vote, "SnapshotHeader").map_err(text)?;
    let meta = header.meta.ok_or("the snapshot's header lacks its meta")?;
    let membership = meta.membership.map(stored_membership_from_pb).transpose().map_err(text)?.unwrap_or_default();
    let meta = SnapshotMeta { last_log_id: meta.last_log_id.as_ref().map(log_id_from_pb), last_membership: membership };
    let folder = folder_of(header.shard_id)?;
    let directory = SnapshotDirectory::new(fresh_path(&folder, "received"));
    tokio::fs::create_dir_all(directory.path()).await.map_err(text)?;
    let mut file_count = 0;
    loop {
        match next_part(&mut incoming).await? {
            Some(Part::FileStart(start)) => {
                receive_file(&mut incoming, directory.path(), &start).await?;
                file_count += 1;
            }
            Some(Part::End(end)) if end.file_count == file_count => break,
            Some(Part::End(end)) => {
                return Err(format!("the snapshot has {} files, {file_count} arrived", end.file_count));
            }
            Some(_) => return Err("a snapshot's part is out of order".to_owned()),
            None => return Err("the snapshot ended early".to_owned()),
        }
    }
    sync_directory(directory.path()).await.map_err(text)?;
    Ok(Received { shard_id: header.shard_id, vote, meta, directory })
}

async fn receive_file(
    incoming: &mut Streaming<pb::SnapshotChunk>,
    directory: &Path,
    start: &pb::FileStart,
) -> Result<(), String> {
    let name = &start.name;
    if name.is_empty() || name.contains(['/', '\\', '\0']) || name == "." || name == ".." {
        return Err(format!("a snapshot's file may not be named {name:?}"));
    }
    let mut file = tokio::fs::File::create_new(directory.join(name)).await.map_err(text)?;
    let (mut written, mut whole) = (0u64, 0u32);
    loop {
        match next_part(incoming).await? {
            Some(Part::FileChunk(chunk)) => {
                if crc32c::crc32c(&chunk.data) != chunk.crc32c {
                    return Err(format!("{name}: a chunk's checksum is wrong at byte {written}"));
                }
                whole = crc32c::crc32c_append(whole, &chunk.data);
                written += chunk.data.len() as u64;
                if written > start.bytes {
                    return Err(format!("{name}: more than the {} bytes announced", start.bytes));
                }
                file.write_all(&chunk.data).await.map_err(text)?;
            }
            Some(Part::FileEnd(end)) => {
                if written != start.bytes || whole != end.crc32c {
                    return Err(format!("{name}: {written} of {} bytes, or a wrong checksum", start.bytes));
                }
                return file.sync_all().await.map_err(text);
            }
            Some(_) => return Err(format!("{name}: a part is out of order")),
            None => return Err(format!("{name}: the snapshot ended early")),
        }
    }
}

async fn next_part(incoming: &mut Streaming<pb::SnapshotChunk>) -> Result<Option<Part>, String> {
    let chunk = incoming.message().await.map_err(|status| status.message().to_owned())?;
    Ok(chunk.and_then(|chunk| chunk.part))
}

async fn sync_directory(directory: &Path) -> std::io::Result<()> {
    tokio::fs::File::open(directory).await?.sync_all().await
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
