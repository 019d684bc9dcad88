//! Reading a log back when a node starts.
//!
//! A power cut may tear the last record, which was not acknowledged: it is dropped. Damage to what *was* acknowledged
//! must not be dropped: a voter that forgets entries or votes breaks the group's safety. They can be told apart, since
//! each record is fsynced before the next is written: **an intact later record after a broken one means that the broken
//! one had been acknowledged**. Damage to the very last record looks like a torn one, and is not found.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::appender::{End, new_salt};
use super::positions::OnDisk;
use super::preparer::keep_spares;
use super::record::{IntactRecord, SECTOR_BYTES};
use super::replay::Replay;
use super::segment::{self, SEGMENT, SPARE, path_of};
use super::space::Space;
use crate::StorageError;
use crate::durable_files::sync_directory;

/// A log as found on disk, ready to be continued.
pub(super) struct Recovered {
    pub(super) shards: HashMap<u32, OnDisk>,
    pub(super) space: Space,
    pub(super) files: HashMap<u64, Arc<File>>,
    pub(super) end: End,
    pub(super) spares: VecDeque<u64>,
}

/// Reads and checks everything. Changes files only once nothing was found damaged.
pub(super) fn recover(directory: &Path, segment_bytes: u64) -> Result<Recovered, StorageError> {
    let numbers = segment::list(directory, SEGMENT)?;
    let mut replay = Replay::default();
    let mut files = HashMap::new();
    // Numbers and sequences begin at 1; what comes before the oldest segment that is left is not known.
    let mut expected = numbers.first().is_none_or(|first| *first == 1).then_some(1);
    let mut found: Option<Found> = None;
    let mut unused = None;
    for (place, number) in numbers.iter().copied().enumerate() {
        let path = path_of(directory, number, SEGMENT);
        if place > 0 && numbers[place - 1] + 1 != number {
            return Err(StorageError::Damaged(format!("the log's segment {} is missing", numbers[place - 1] + 1)));
        }
        let contents = Bytes::from(std::fs::read(&path).map_err(StorageError::file("read", &path))?);
        let in_segment = read_segment(&contents, number, &mut expected, &mut replay, &path)?;
        match in_segment {
            Some(end) => {
                files.insert(number, Arc::new(segment::open(&path)?));
                found = Some(end);
            }
            // The next segment is prepared before anything is written to it.
            None if place + 1 == numbers.len() && (found.is_some() || number == 1) => unused = Some(path),
            None => {
                return Err(StorageError::Damaged(format!("{}: its first record is broken", path.display())));
            }
        }
    }

    let (shards, mut space) = replay.finish()?;
    // It may hold parts of a torn record. Under its number none may be left.
    if let Some(path) = unused {
        segment::remove(&path)?;
    }
    let end = match found {
        Some(found) => found.continued(&files, directory)?,
        None => first_segment(directory, segment_bytes)?,
    };
    files.insert(end.segment, end.file.clone());
    space.grown(end.file_bytes);
    let temporary = segment::temporary_path(directory);
    if temporary.exists() {
        segment::remove(&temporary)?;
    }
    let spares = keep_spares(directory, segment_bytes)?;
    sync_directory(directory)?;
    Ok(Recovered { shards, space, files, end, spares })
}

fn first_segment(directory: &Path, segment_bytes: u64) -> Result<End, StorageError> {
    // Spares without a log are of one that is gone, with the same numbers.
    for number in segment::list(directory, SPARE)? {
        segment::remove(&path_of(directory, number, SPARE))?;
    }
    let file = Arc::new(segment::create(directory, 1, segment_bytes)?);
    Ok(End { segment: 1, file, file_bytes: segment_bytes, offset: 0, salt: new_salt(), next_sequence: 1 })
}

/// Where the records of a segment end.
struct Found {
    number: u64,
    salt: u32,
    next_sequence: u64,
    offset: u64,
    file_bytes: u64,
    /// Something is left after the records: parts of a torn one, or of an earlier use of the file.
    leftovers: bool,
}

impl Found {
    /// Makes what was read durable (a killed process may not have come to it), and clears what follows.
    fn continued(self, files: &HashMap<u64, Arc<File>>, directory: &Path) -> Result<End, StorageError> {
        let path = path_of(directory, self.number, SEGMENT);
        let file = match files.get(&self.number) {
            Some(file) => file.clone(),
            None => Arc::new(segment::open(&path)?),
        };
        if self.leftovers {
            segment::fill_with_zeros(&file, self.offset, self.file_bytes)
                .map_err(StorageError::file("clear the end of", &path))?;
        }
        file.sync_all().map_err(StorageError::file("fsync", &path))?;
        Ok(End {
            segment: self.number,
            file,
            file_bytes: self.file_bytes,
            offset: self.offset,
            salt: self.salt,
            next_sequence: self.next_sequence,
        })
    }
}

/// Replays the records of one segment; none if it has no record. `expected`: the next sequence, if it is known.
fn read_segment(
    contents: &Bytes,
    number: u64,
    expected: &mut Option<u64>,
    replay: &mut Replay,
    path: &Path,
) -> Result<Option<Found>, StorageError> {
    let damaged = |what: String| StorageError::Damaged(format!("{}: {what}", path.display()));
    let mut salt = None;
    let mut offset = 0;
    while let Some(record) = IntactRecord::parse(contents, offset, number) {
        if salt.is_some_and(|salt| salt != record.id.salt) {
            break;
        }
        let first = salt.is_none();
        if let Some(expected) = expected.filter(|expected| *expected != record.id.sequence) {
            let sequence = record.id.sequence;
            return Err(damaged(format!("record {expected} is missing (found {sequence} at offset {offset})")));
        }
        if first {
            replay.space.push(number, contents.len() as u64);
        }
        replay.record(&record, offset, first)?;
        salt = Some(record.id.salt);
        *expected = Some(record.id.sequence + 1);
        offset += record.disk_bytes();
    }

    let end = offset.min(contents.len());
    for later in (offset..contents.len()).step_by(SECTOR_BYTES).skip(1) {
        let record = IntactRecord::parse(contents, later, number);
        if record.is_some_and(|record| {
            salt.is_none_or(|salt| salt == record.id.salt)
                && expected.is_none_or(|expected| record.id.sequence > expected)
        }) {
            return Err(damaged(format!(
                "acknowledged data at offset {offset} is broken (intact data follows at {later})"
            )));
        }
    }
    let (Some(salt), Some(next_sequence)) = (salt, *expected) else { return Ok(None) };
    Ok(Some(Found {
        number,
        salt,
        next_sequence,
        offset: offset as u64,
        file_bytes: contents.len() as u64,
        leftovers: contents[end..].iter().any(|byte| *byte != 0),
    }))
}
