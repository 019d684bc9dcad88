//! One record: what shared one fsync.
//!
//! ```text
//!   0      4      8        16         24      28     32                                multiple of 512
//!   ┌──────┬──────┬────────┬──────────┬───────┬──────┬─────────────────────────────────┬─────────┐
//!   │magic │crc   │segment │sequence  │length │salt  │payload: internal.v1.LogRecord   │ zeros   │
//!   └──────┴──────┴────────┴──────────┴───────┴──────┴─────────────────────────────────┴─────────┘
//! ```
//! All numbers are little-endian. The CRC-32C covers everything after it up to the payload's end. Files are used again,
//! so a record carries the number of the segment and its own in the log: leftovers have smaller ones. The salt is
//! random for each segment, so that no client's bytes inside a torn record can pass for a record.
//!
//! Records begin on sector boundaries: a sector that was acknowledged is never written again.

use std::sync::Arc;

use bytes::Bytes;
use cirrus_proto::internal::v1::log_operation::Change;
use cirrus_proto::internal::v1::{LogOperation, LogRecord, LogShard};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::entry::EncodedEntry;
use crate::StorageError;

/// What a disk writes whole or not at all.
pub(super) const SECTOR_BYTES: usize = 512;
pub(super) const HEADER_BYTES: usize = 32;
const MAGIC: [u8; 4] = *b"CLOG";
/// Where the bytes begin that the checksum covers.
const CHECKED_FROM: usize = 8;

// Field numbers of log.proto.
const RECORD_OPERATIONS: u32 = 3;
const OPERATION_SHARD_ID: u32 = 1;
const OPERATION_APPEND: u32 = 2;
const OPERATION_RELOCATE: u32 = 7;
const ENTRIES_FIRST_INDEX: u32 = 1;
const ENTRIES_ENTRIES: u32 = 2;

/// Which record of which segment it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordId {
    pub(super) segment: u64,
    pub(super) sequence: u64,
    pub(super) salt: u32,
}

/// Where an entry lies in its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) offset: u32,
    pub(super) length: u32,
    pub(super) crc: u32,
}

/// Whether entries are new or only moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntriesKind {
    Append,
    Relocate,
}

/// Encodes one record after the other in the same memory.
#[derive(Default)]
pub(super) struct RecordBuffer {
    bytes: Vec<u8>,
    /// The entries encoded, in order.
    placed: Vec<Placed>,
}

impl RecordBuffer {
    /// Forgets the last record. Memory beyond `bytes_max`, of an unusually large one, is given back.
    pub(super) fn begin(&mut self, bytes_max: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(bytes_max);
        self.bytes.resize(HEADER_BYTES, 0);
        self.placed.clear();
    }

    pub(super) fn operation(&mut self, shard_id: u32, change: Change) {
        let operation = LogOperation { shard_id, change: Some(change) };
        prost::encoding::message::encode(RECORD_OPERATIONS, &operation, &mut self.bytes);
    }

    /// Encodes entries, which follow each other without a gap. By hand, so that they are copied once.
    pub(super) fn entries(&mut self, shard_id: u32, kind: EntriesKind, entries: &[Arc<EncodedEntry>]) {
        let Some(first) = entries.first() else { return };
        let field = match kind {
            EntriesKind::Append => OPERATION_APPEND,
            EntriesKind::Relocate => OPERATION_RELOCATE,
        };
        // All field numbers are below 16: their keys take one byte.
        let delimited = |bytes: usize| 1 + encoded_len_varint(bytes as u64) + bytes;
        let entries_bytes = 1
            + encoded_len_varint(first.index)
            + entries.iter().map(|entry| delimited(entry.bytes.len())).sum::<usize>();
        let operation_bytes = 1 + encoded_len_varint(u64::from(shard_id)) + delimited(entries_bytes);

        let buffer = &mut self.bytes;
        let begin = |buffer: &mut Vec<u8>, field, bytes: usize| {
            encode_key(field, WireType::LengthDelimited, buffer);
            encode_varint(bytes as u64, buffer);
        };
        begin(buffer, RECORD_OPERATIONS, operation_bytes);
        encode_key(OPERATION_SHARD_ID, WireType::Varint, buffer);
        encode_varint(u64::from(shard_id), buffer);
        begin(buffer, field, entries_bytes);
        encode_key(ENTRIES_FIRST_INDEX, WireType::Varint, buffer);
        encode_varint(first.index, buffer);
        for entry in entries {
            begin(buffer, ENTRIES_ENTRIES, entry.bytes.len());
            self.placed.push(Placed {
                offset: buffer.len() as u32,
                length: entry.bytes.len() as u32,
                crc: crc32c::crc32c(&entry.bytes),
            });
            buffer.extend_from_slice(&entry.bytes);
        }
    }

    /// Makes it the first record of a segment. Fields may come in any order, so this needs no second encoding.
    pub(super) fn start_segment(&mut self, shards: Vec<LogShard>) {
        // Writing to memory that grows does not fail.
        let _ = LogRecord { starts_segment: true, shards, operations: Vec::new() }.encode(&mut self.bytes);
    }

    /// What the record takes on disk, as it is now.
    pub(super) fn disk_bytes(&self) -> u64 {
        padded(self.bytes.len()) as u64
    }

    pub(super) fn placed(&self) -> &[Placed] {
        &self.placed
    }

    /// Completes the record and returns it as it is to be written.
    pub(super) fn finish(&mut self, id: RecordId) -> Result<&[u8], StorageError> {
        let length = u32::try_from(self.bytes.len() - HEADER_BYTES)
            .ok()
            .filter(|length| *length < u32::MAX - (1 << 20))
            .ok_or_else(|| StorageError::Failed(format!("a log record of {} bytes", self.bytes.len())))?;
        self.bytes[..4].copy_from_slice(&MAGIC);
        self.bytes[8..16].copy_from_slice(&id.segment.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&id.sequence.to_le_bytes());
        self.bytes[24..28].copy_from_slice(&length.to_le_bytes());
        self.bytes[28..32].copy_from_slice(&id.salt.to_le_bytes());
        let crc = crc32c::crc32c(&self.bytes[CHECKED_FROM..]);
        self.bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        self.bytes.resize(padded(self.bytes.len()), 0);
        Ok(&self.bytes)
    }
}

/// A record that was written whole.
#[derive(Debug)]
pub(super) struct IntactRecord {
    pub(super) id: RecordId,
    pub(super) payload: Bytes,
}

impl IntactRecord {
    /// The record at `offset` of segment number `segment`, if there is a whole one.
    pub(super) fn parse(file: &Bytes, offset: usize, segment: u64) -> Option<Self> {
        let header = file.get(offset..)?.first_chunk::<HEADER_BYTES>()?;
        if header[..4] != MAGIC || header[8..16] != segment.to_le_bytes() {
            return None;
        }
        let number =
            |from: usize| u32::from_le_bytes([header[from], header[from + 1], header[from + 2], header[from + 3]]);
        let sequence = u64::from(number(16)) | u64::from(number(20)) << 32;
        let start = offset + HEADER_BYTES;
        let end = start.checked_add(number(24) as usize)?;
        let checked = file.get(offset + CHECKED_FROM..end)?;
        (crc32c::crc32c(checked) == number(4))
            .then(|| Self { id: RecordId { segment, sequence, salt: number(28) }, payload: file.slice(start..end) })
    }

    pub(super) fn disk_bytes(&self) -> usize {
        padded(HEADER_BYTES + self.payload.len())
    }

    /// Where a part of the payload lies in the record.
    pub(super) fn place(&self, part: &Bytes) -> Placed {
        let in_payload = part.as_ptr() as usize - self.payload.as_ptr() as usize;
        Placed { offset: (HEADER_BYTES + in_payload) as u32, length: part.len() as u32, crc: crc32c::crc32c(part) }
    }
}

/// What each entry of a record is charged beyond its length: all that is not an entry, in equal shares.
pub(super) fn overhead_of_each(record_bytes: u64, entries: impl Iterator<Item = u32>) -> u32 {
    let (count, bytes) = entries.fold((0, 0), |(count, bytes), length| (count + 1, bytes + u64::from(length)));
    record_bytes.saturating_sub(bytes).checked_div(count).unwrap_or(0) as u32
}

fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(SECTOR_BYTES)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use cirrus_proto::internal::v1::{LogEntries, LogId, Vote};
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Entries { shard_id: u32, relocate: bool, first: u64, payloads: Vec<Vec<u8>> },
        Vote { shard_id: u32, term: u64 },
        Purge { shard_id: u32, index: u64 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let payload = proptest::collection::vec(any::<u8>(), 0..600);
        let payloads = proptest::collection::vec(payload, 1..5);
        let step = prop_oneof![
            (any::<u32>(), any::<bool>(), 0..u64::MAX - 10, payloads).prop_map(
                |(shard_id, relocate, first, payloads)| Step::Entries { shard_id, relocate, first, payloads }
            ),
            (any::<u32>(), any::<u64>()).prop_map(|(shard_id, term)| Step::Vote { shard_id, term }),
            (any::<u32>(), any::<u64>()).prop_map(|(shard_id, index)| Step::Purge { shard_id, index }),
        ];
        proptest::collection::vec(step, 0..8)
    }

    /// The record, what it should decode to, and its entries in order.
    fn encode(buffer: &mut RecordBuffer, steps: &[Step], starts_segment: bool, id: RecordId) -> (Bytes, LogRecord) {
        let mut operations = Vec::new();
        buffer.begin(1 << 20);
        for step in steps {
            match step {
                Step::Entries { shard_id, relocate, first, payloads } => {
                    let bytes: Vec<Bytes> = payloads.iter().cloned().map(Bytes::from).collect();
                    let indexed = (*first..).zip(&bytes);
                    let entries: Vec<_> = indexed
                        .map(|(index, bytes)| Arc::new(EncodedEntry { term: 1, index, bytes: bytes.clone() }))
                        .collect();
                    let kind = if *relocate { EntriesKind::Relocate } else { EntriesKind::Append };
                    buffer.entries(*shard_id, kind, &entries);
                    let entries = LogEntries { first_index: *first, entries: bytes };
                    let change = if *relocate { Change::Relocate(entries) } else { Change::Append(entries) };
                    operations.push(LogOperation { shard_id: *shard_id, change: Some(change) });
                }
                Step::Vote { shard_id, term } => {
                    let change = Change::Vote(Vote { term: *term, node_id: 2, committed: true });
                    buffer.operation(*shard_id, change.clone());
                    operations.push(LogOperation { shard_id: *shard_id, change: Some(change) });
                }
                Step::Purge { shard_id, index } => {
                    let change = Change::Purge(LogId { term: 3, index: *index });
                    buffer.operation(*shard_id, change.clone());
                    operations.push(LogOperation { shard_id: *shard_id, change: Some(change) });
                }
            }
        }
        let shard = LogShard { shard_id: 9, first_index: 4, ..LogShard::default() };
        let shards = if starts_segment { vec![shard] } else { Vec::new() };
        if starts_segment {
            buffer.start_segment(shards.clone());
        }
        let disk_bytes = buffer.disk_bytes();
        let record = Bytes::copy_from_slice(buffer.finish(id).unwrap());
        assert_eq!(record.len() as u64, disk_bytes);
        (record, LogRecord { starts_segment, shards, operations })
    }

    proptest! {
        #[test]
        fn a_record_reads_back_and_its_entries_lie_where_they_were_placed(
            before in steps(), steps in steps(), starts_segment: bool, segment: u64, sequence: u64, salt: u32,
        ) {
            let mut buffer = RecordBuffer::default();
            let id = RecordId { segment, sequence, salt };
            // The memory was used before.
            encode(&mut buffer, &before, true, id);
            let (bytes, expected) = encode(&mut buffer, &steps, starts_segment, id);
            let record = IntactRecord::parse(&bytes, 0, segment).unwrap();
            prop_assert_eq!(record.id, id);
            prop_assert_eq!(record.disk_bytes(), bytes.len());
            prop_assert_eq!(bytes.len() % SECTOR_BYTES, 0);
            let decoded = LogRecord::decode(record.payload.clone()).unwrap();
            prop_assert_eq!(&decoded, &expected);
            let mut placed = buffer.placed().iter();
            for operation in &decoded.operations {
                if let Some(Change::Append(entries) | Change::Relocate(entries)) = &operation.change {
                    for entry in &entries.entries {
                        let place = placed.next().unwrap();
                        let start = place.offset as usize;
                        prop_assert_eq!(&bytes[start..start + place.length as usize], &entry[..]);
                        prop_assert_eq!(place.crc, crc32c::crc32c(entry));
                        if !entry.is_empty() {
                            prop_assert_eq!(record.place(entry), *place);
                        }
                    }
                }
            }
            prop_assert!(placed.next().is_none());
        }

        #[test]
        fn no_broken_or_foreign_record_is_taken_for_one(
            steps in steps(),
            place in any::<prop::sample::Index>(),
            change in 1..=255u8,
            cut in any::<prop::sample::Index>(),
        ) {
            let id = RecordId { segment: 7, sequence: 8, salt: 9 };
            let (bytes, _) = encode(&mut RecordBuffer::default(), &steps, false, id);
            prop_assert!(IntactRecord::parse(&bytes, 0, 6).is_none());
            let length = HEADER_BYTES + IntactRecord::parse(&bytes, 0, 7).unwrap().payload.len();
            let mut broken = bytes.to_vec();
            broken[place.index(length)] ^= change;
            prop_assert!(IntactRecord::parse(&broken.into(), 0, 7).is_none());
            prop_assert!(IntactRecord::parse(&bytes.slice(..cut.index(length)), 0, 7).is_none());
        }
    }
}
