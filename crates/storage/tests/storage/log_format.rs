//! The log's files as written down in `src/log/record.rs`, read and changed without it.

use std::ops::Range;
use std::path::{Path, PathBuf};

use cirrus_proto::internal::v1::LogRecord;
use prost::Message as _;

pub(crate) const SECTOR: usize = 512;
const HEADER: usize = 32;

/// The numbers of the segments in a directory, in order.
pub(crate) fn segments(directory: &Path) -> Vec<u64> {
    let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let mut numbers: Vec<u64> = files
        .filter(|path| path.extension().is_some_and(|kind| kind == "segment"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().parse().unwrap())
        .collect();
    numbers.sort_unstable();
    numbers
}

pub(crate) fn segment_file(number: u64) -> PathBuf {
    PathBuf::from(format!("{number:020}.segment"))
}

/// Where the records of a segment lie, without their padding.
pub(crate) fn records(file: &[u8]) -> Vec<Range<usize>> {
    let number = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let mut records: Vec<Range<usize>> = Vec::new();
    let mut start = 0;
    while file[start..].starts_with(b"CLOG") && file[start + 8..start + 16] == file[8..16] {
        records.push(start..start + HEADER + number(start + 24));
        start = records[records.len() - 1].end.next_multiple_of(SECTOR);
        if start >= file.len() {
            break;
        }
    }
    records
}

/// Changes what a record says; it is an intact record again.
pub(crate) fn rewrite(file: &mut [u8], record: &Range<usize>, change: impl FnOnce(&mut LogRecord)) {
    let mut decoded = LogRecord::decode(&file[record.start + HEADER..record.end]).unwrap();
    change(&mut decoded);
    let payload = decoded.encode_to_vec();
    let end = record.start + HEADER + payload.len();
    assert!(end <= record.end.next_multiple_of(SECTOR), "there is room for it");
    file[record.start + 24..record.start + 28].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    file[record.start + HEADER..end].copy_from_slice(&payload);
    let crc = crc32c::crc32c(&file[record.start + 8..end]);
    file[record.start + 4..record.start + 8].copy_from_slice(&crc.to_le_bytes());
}
