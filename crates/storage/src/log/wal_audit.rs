//! Tells a torn tail from damage, before RocksDB opens the log.
//!
//! A power cut may tear what was not fsynced: recovery must drop it and go on. Damage to what *was* fsynced must
//! not be dropped: a voter that forgets entries or votes that it acknowledged breaks the group's safety. RocksDB
//! offers one or the other: "tolerate corrupted tail records" refuses to open when a torn batch has a hole in its
//! middle (file systems write pages in any order), and "point in time", which the log uses, silently forgets
//! everything from the first broken record on.
//!
//! The log can tell them apart, because its writer fsyncs each batch before it writes the next. So at most the
//! last batch of a file may be torn, and **an intact beginning of a batch after a broken record means that the
//! broken record had been acknowledged**. This scan looks for exactly that, and refuses.
//!
//! Damage to the very last acknowledged batch of a file looks like a torn tail, and is not found.
//!
//! Format: <https://github.com/facebook/rocksdb/wiki/Write-Ahead-Log-File-Format>. Files are recycled, so a record
//! carries the number of the file that it was written for; others are leftovers.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::StorageError;

const BLOCK_BYTES: usize = 32 << 10;
/// CRC (4), length (2), type (1), log number (4).
const HEADER_BYTES: usize = 11;
const FULL: u8 = 5;
const FIRST: u8 = 6;
const MIDDLE: u8 = 7;
const LAST: u8 = 8;

/// Checks all write-ahead log files of a RocksDB directory, which may not exist yet.
pub(super) fn audit(directory: &Path) -> Result<(), StorageError> {
    if !directory.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(directory).map_err(StorageError::file("list", directory))? {
        let path = entry.map_err(StorageError::file("list", directory))?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".log")?.parse::<u64>().ok());
        if let Some(number) = number {
            let file = File::open(&path).map_err(StorageError::file("open", &path))?;
            audit_file(file, number as u32, &path)?;
        }
    }
    Ok(())
}

fn audit_file(mut file: impl Read, number: u32, path: &Path) -> Result<(), StorageError> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut block_start: u64 = 0;
    let mut broken_at: Option<u64> = None;
    // Between the first and the last fragment of a batch.
    let mut inside_batch = false;
    loop {
        let length = read_block(&mut file, &mut block).map_err(StorageError::file("read", path))?;
        let mut position = 0;
        while position + HEADER_BYTES <= length {
            let offset = block_start + position as u64;
            let record = match Record::parse(&block[position..length], number) {
                Record::Intact(record) => record,
                Record::Broken { bytes } => {
                    broken_at.get_or_insert(offset);
                    // Its own header may still say where the next one is; if not, the next block does.
                    position += bytes.unwrap_or(BLOCK_BYTES);
                    continue;
                }
            };
            let begins = matches!(record.kind, FULL | FIRST);
            if let Some(broken_at) = broken_at.filter(|_| begins) {
                return Err(StorageError::Damaged(format!(
                    "{}: acknowledged data at offset {broken_at} is broken (intact data follows at {offset})",
                    path.display()
                )));
            }
            if begins == inside_batch {
                broken_at.get_or_insert(offset);
            }
            inside_batch = matches!(record.kind, FIRST | MIDDLE);
            position += record.bytes;
        }
        if length < BLOCK_BYTES {
            return Ok(());
        }
        block_start += BLOCK_BYTES as u64;
    }
}

enum Record {
    Intact(IntactRecord),
    /// Of this log file or not; its length is known if the header looks like one of this file's.
    Broken {
        bytes: Option<usize>,
    },
}

struct IntactRecord {
    kind: u8,
    bytes: usize,
}

impl Record {
    /// The record of log file `number` at the start of `block`, which holds at least a header.
    fn parse(block: &[u8], number: u32) -> Self {
        let length = usize::from(u16::from_le_bytes([block[4], block[5]]));
        let bytes = HEADER_BYTES + length;
        if block[7..HEADER_BYTES] != number.to_le_bytes() {
            return Self::Broken { bytes: None };
        }
        let Some(checked) = block.get(6..bytes) else { return Self::Broken { bytes: None } };
        let kind = block[6];
        if (FULL..=LAST).contains(&kind) && mask(crc32c::crc32c(checked)).to_le_bytes() == block[..4] {
            Self::Intact(IntactRecord { kind, bytes })
        } else {
            Self::Broken { bytes: Some(bytes) }
        }
    }
}

/// RocksDB stores checksums changed like this, since a CRC over data that holds CRCs is weak.
fn mask(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn read_block(file: &mut impl Read, block: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while length < block.len() {
        match file.read(&mut block[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use proptest::prelude::*;

    use super::*;

    /// A file as RocksDB writes it, where each batch ends, and where the payloads of all records lie.
    fn file_of(batches: &[Vec<u8>], number: u32) -> (Vec<u8>, Vec<usize>, Vec<Range<usize>>) {
        let mut file = Vec::new();
        let mut ends = Vec::new();
        let mut payloads = Vec::new();
        for batch in batches {
            let mut rest = batch.as_slice();
            let mut begin = true;
            loop {
                let left = BLOCK_BYTES - file.len() % BLOCK_BYTES;
                if left < HEADER_BYTES {
                    file.resize(file.len() + left, 0);
                    continue;
                }
                let fragment = rest.len().min(left - HEADER_BYTES);
                let end = fragment == rest.len();
                let kind = match (begin, end) {
                    (true, true) => FULL,
                    (true, false) => FIRST,
                    (false, false) => MIDDLE,
                    (false, true) => LAST,
                };
                let mut body = vec![kind];
                body.extend(number.to_le_bytes());
                body.extend(&rest[..fragment]);
                file.extend(mask(crc32c::crc32c(&body)).to_le_bytes());
                file.extend((fragment as u16).to_le_bytes());
                file.extend(body);
                payloads.push(file.len() - fragment..file.len());
                rest = &rest[fragment..];
                begin = false;
                if end {
                    break;
                }
            }
            ends.push(file.len());
        }
        (file, ends, payloads)
    }

    fn check(file: &[u8]) -> Result<(), StorageError> {
        audit_file(file, 9, Path::new("000009.log"))
    }

    fn batches() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let size = prop_oneof![1..300usize, 30_000..40_000usize, 65_000..70_000usize];
        proptest::collection::vec(size.prop_map(|size| vec![b'b'; size]), 2..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_whole_file_passes_over_leftovers_of_a_recycled_one(new in batches(), old in batches()) {
            let (mut file, _, _) = file_of(&old, 4);
            let (written, _, _) = file_of(&new, 9);
            file.resize(file.len().max(written.len()), 0);
            file[..written.len()].copy_from_slice(&written);
            prop_assert_eq!(check(&file), Ok(()));
        }

        #[test]
        fn any_tear_of_the_last_batch_passes(
            batches in batches(),
            cut in any::<prop::sample::Index>(),
            holes in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let (mut file, ends, _) = file_of(&batches, 9);
            let synced = ends[ends.len() - 2];
            let torn = file.len() - synced;
            for hole in holes {
                // A page that did not make it.
                let start = synced + hole.index(torn);
                let end = (start + 512).min(file.len());
                file[start..end].fill(0);
            }
            file.truncate(synced + cut.index(torn));
            prop_assert_eq!(check(&file), Ok(()));
        }

        #[test]
        fn damage_before_an_intact_batch_is_found(
            batches in batches(),
            place in any::<prop::sample::Index>(),
            change in 1..=255u8,
        ) {
            let (mut file, ends, payloads) = file_of(&batches, 9);
            let acknowledged_before_last = ends[ends.len() - 2];
            let damaged = place.index(acknowledged_before_last);
            file[damaged] ^= change;
            let outcome = check(&file);
            // A broken header hides what follows in its block, but nothing in later blocks.
            if payloads.iter().any(|payload| payload.contains(&damaged)) {
                prop_assert!(matches!(outcome, Err(StorageError::Damaged(_))), "{:?}", outcome);
            }
        }
    }
}
