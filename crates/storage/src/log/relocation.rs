//! Chooses and reads what is moved out of the oldest segment, a bounded part with each record.

use std::sync::Arc;

use super::Core;
use super::entry::EncodedEntry;
use super::reader::{Place, read_places};
use super::space::Space;
use crate::StorageError;

/// Moved with each record: at least this much, otherwise as much as the record brings itself; but never more than a
/// quarter of a segment.
const BYTES_MIN: usize = 64 << 10;
const BYTES_MAX: usize = 4 << 20;

/// Entries of consecutive indexes that are written once more.
pub(super) struct Run {
    pub(super) shard_id: u32,
    pub(super) entries: Vec<Arc<EncodedEntry>>,
}

/// What to move with a record of `batch_bytes`. The log must fail if it is then not written.
pub(super) fn collect(
    core: &Core,
    space: &mut Space,
    batch_bytes: usize,
    segment_bytes: u64,
) -> Result<Vec<Run>, StorageError> {
    let mut runs = Vec::new();
    if !space.is_sparse() {
        return Ok(runs);
    }
    let bytes_max = batch_bytes.clamp(BYTES_MIN, BYTES_MAX).min((segment_bytes / 4) as usize);
    let mut bytes = 0;
    while bytes < bytes_max
        && let Some((segment, shard_id, (first, last))) = space.oldest()
    {
        let file = core.files.get(segment);
        let mut places = Vec::new();
        let mut next = None;
        for (index, position) in core.known_shard(shard_id)?.on_disk.lock().lying_in(segment, first..=last) {
            if bytes >= bytes_max {
                next = Some(index);
                break;
            }
            let file =
                file.clone().ok_or_else(|| StorageError::Failed(format!("the log's segment {segment} is not open")))?;
            bytes += position.length as usize;
            places.push(Place { index, position, file });
        }
        let entries = read_places(shard_id, &places)?;
        runs.extend(
            entries.chunk_by(|a, b| a.index + 1 == b.index).map(|entries| Run { shard_id, entries: entries.to_vec() }),
        );
        space.relocated(shard_id, next);
    }
    Ok(runs)
}
