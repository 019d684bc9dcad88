//! Reads entries from segments: one read for entries that lie side by side, and a checksum for each.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use cirrus_proto::internal::v1::LogId;
use parking_lot::Mutex;

use super::entry::{EncodedEntry, damaged, stored_id};
use super::positions::{OnDisk, Position};
use super::segment::SegmentFiles;
use crate::StorageError;

/// Bytes between two entries that are cheaper read than skipped: a header and some padding.
const GAP_BYTES: u64 = 4 << 10;
/// Entries smaller than this together are one read.
const READ_BYTES: u64 = 1 << 20;

/// An entry to read.
pub(super) struct Place {
    pub(super) index: u64,
    pub(super) position: Position,
    pub(super) file: Arc<File>,
}

impl Place {
    fn span(&self) -> Range<u64> {
        let start = u64::from(self.position.offset);
        start..start + u64::from(self.position.length)
    }
}

/// The entries of `range`, up to about `max_bytes` but at least one.
pub(super) fn read(
    shard_id: u32,
    on_disk: &Mutex<OnDisk>,
    files: &SegmentFiles,
    range: Range<u64>,
    max_bytes: usize,
) -> Result<Vec<Arc<EncodedEntry>>, StorageError> {
    let mut places: Vec<Place> = Vec::new();
    {
        // The files are taken under this lock: a segment leaves only after its entries' positions have changed.
        let on_disk = on_disk.lock();
        let mut bytes = 0;
        for index in range {
            let missing = || damaged(shard_id, index, "the entry is missing");
            let position = *on_disk.position(index).ok_or_else(missing)?;
            bytes += position.length as usize;
            if bytes > max_bytes && !places.is_empty() {
                break;
            }
            let file = match places.last() {
                Some(last) if last.position.segment == position.segment => last.file.clone(),
                _ => files.get(position.segment).ok_or_else(missing)?,
            };
            places.push(Place { index, position, file });
        }
    }
    read_places(shard_id, &places)
}

pub(super) fn read_places(shard_id: u32, places: &[Place]) -> Result<Vec<Arc<EncodedEntry>>, StorageError> {
    let mut entries = Vec::with_capacity(places.len());
    let mut buffer = Vec::new();
    let mut rest = places;
    while let Some(first) = rest.first() {
        let mut span = first.span();
        let mut count = 1;
        for pair in rest.windows(2) {
            let next = pair[1].span();
            let beside = pair[0].position.segment == pair[1].position.segment
                && next.start >= span.end
                && next.start - span.end <= GAP_BYTES
                && next.end - span.start <= READ_BYTES;
            if !beside {
                break;
            }
            span.end = next.end;
            count += 1;
        }
        buffer.resize((span.end - span.start) as usize, 0);
        first.file.read_exact_at(&mut buffer, span.start).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => damaged(shard_id, first.index, "its segment has been cut off"),
            _ => StorageError::Failed(format!("read the log of shard {shard_id}, index {}: {error}", first.index)),
        })?;
        for place in &rest[..count] {
            let start = (place.span().start - span.start) as usize;
            entries.push(check(shard_id, place, &buffer[start..start + place.position.length as usize])?);
        }
        rest = &rest[count..];
    }
    Ok(entries)
}

fn check(shard_id: u32, place: &Place, bytes: &[u8]) -> Result<Arc<EncodedEntry>, StorageError> {
    if crc32c::crc32c(bytes) != place.position.crc {
        return Err(damaged(shard_id, place.index, "the entry does not match its checksum"));
    }
    let LogId { term, index } = stored_id(shard_id, place.index, bytes)?;
    Ok(Arc::new(EncodedEntry { term, index, bytes: Bytes::copy_from_slice(bytes) }))
}
