//! One shard's log as it stands on disk: its bounds, its vote, and where each entry lies.
//!
//! A pure data structure, like [`Tail`](super::tail::Tail), which it follows: the tail says what was asked, this says
//! what was fsynced. The writer and recovery change it by the same calls, so that a log reads back as it was written.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use cirrus_proto::internal::v1::{LogId, LogShard, Vote};

/// Where an entry lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) term: u64,
    /// The number of its segment; 0 if it is not known (yet): see [`OnDisk::restated`].
    pub(super) segment: u64,
    pub(super) offset: u32,
    pub(super) length: u32,
    pub(super) crc: u32,
    /// What it keeps from being freed: its length and its share of its record's header and padding.
    pub(super) charge: u32,
}

/// Of an entry that has been relocated, until that is replayed.
pub(super) const UNKNOWN_TERM: u64 = 0;

impl Position {
    fn missing(term: u64) -> Self {
        Self { term, segment: 0, offset: 0, length: 0, crc: 0, charge: 0 }
    }

    pub(super) fn is_missing(&self) -> bool {
        self.segment == 0
    }
}

/// What is on disk of one shard.
#[derive(Debug, Default)]
pub(super) struct OnDisk {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    last_purged: Option<LogId>,
    first: u64,
    positions: VecDeque<Position>,
}

impl OnDisk {
    /// As a segment's first record says it. Where the entries lie is to be found later: they have been moved.
    pub(super) fn restated(shard: &LogShard) -> Result<Self, String> {
        let mut positions = VecDeque::new();
        if let Some(last) = shard.last {
            let count = last.index.checked_sub(shard.first_index).and_then(|count| usize::try_from(count).ok());
            // A record that was checked says so many only if there are so many.
            let count = count.filter(|count| *count < 1 << 32).ok_or("the bounds make no sense")?;
            positions.resize(count, Position::missing(UNKNOWN_TERM));
            positions.push_back(Position::missing(last.term));
        }
        Ok(Self {
            vote: shard.vote,
            committed: shard.committed,
            last_purged: shard.purged,
            first: shard.first_index,
            positions,
        })
    }

    /// For a segment's first record; none if there is nothing to say.
    pub(super) fn restate(&self, shard_id: u32) -> Option<LogShard> {
        let entries = self.entries();
        let nothing = LogShard { shard_id, ..LogShard::default() };
        let shard = LogShard {
            vote: self.vote,
            committed: self.committed,
            purged: self.last_purged,
            first_index: entries.map_or(0, |(first, _)| first),
            last: entries.map(|(_, last)| last),
            ..nothing
        };
        (shard != nothing).then_some(shard)
    }

    pub(super) fn last_purged(&self) -> Option<LogId> {
        self.last_purged
    }

    /// Index of the first entry and id of the last.
    pub(super) fn entries(&self) -> Option<(u64, LogId)> {
        let last = self.positions.back()?;
        Some((self.first, LogId { term: last.term, index: self.first + self.positions.len() as u64 - 1 }))
    }

    pub(super) fn position(&self, index: u64) -> Option<&Position> {
        self.positions.get(usize::try_from(index.checked_sub(self.first)?).ok()?)
    }

    /// The first entry of which nobody knows where it lies.
    pub(super) fn first_missing(&self) -> Option<u64> {
        self.positions.iter().position(Position::is_missing).map(|place| self.first + place as u64)
    }

    /// The entries among `indexes` that lie in a segment.
    pub(super) fn lying_in(&self, segment: u64, indexes: RangeInclusive<u64>) -> impl Iterator<Item = (u64, Position)> {
        let start = self.first.max(*indexes.start());
        let skip = usize::try_from(start - self.first).unwrap_or(usize::MAX);
        let positions = (start..=*indexes.end()).zip(self.positions.iter().copied().skip(skip));
        positions.filter(move |(_, position)| position.segment == segment)
    }

    /// The last entry's term, if it is not known: its segment is gone, and what came after it was truncated.
    pub(super) fn learn_last_term(&mut self, term: u64) {
        if let Some(last) = self.positions.back_mut()
            && last.is_missing()
            && last.term == UNKNOWN_TERM
        {
            last.term = term;
        }
    }

    /// Whether an entry continues the log.
    pub(super) fn check_append(&self, log_id: LogId) -> Result<(), String> {
        let Some(previous) = self.entries().map(|(_, last)| last).or(self.last_purged) else { return Ok(()) };
        if previous.index.checked_add(1) != Some(log_id.index) {
            return Err(format!("the entry before it is missing (found {} before)", previous.index));
        }
        if previous.term > log_id.term {
            return Err(format!("term {} after term {}", log_id.term, previous.term));
        }
        Ok(())
    }

    /// Adds the entry at `index`, which continues the log.
    pub(super) fn append(&mut self, index: u64, position: Position) {
        if self.positions.is_empty() {
            self.first = index;
        }
        debug_assert_eq!(self.first + self.positions.len() as u64, index);
        self.positions.push_back(position);
    }

    /// Notes that the entry at `index` now lies elsewhere. Returns where it lay before; none if there is no such entry.
    pub(super) fn relocate(&mut self, index: u64, position: Position) -> Option<Position> {
        let place = usize::try_from(index.checked_sub(self.first)?).ok()?;
        Some(std::mem::replace(self.positions.get_mut(place)?, position))
    }

    pub(super) fn truncate_from(&mut self, index: u64, mut freed: impl FnMut(Position)) {
        let kept = usize::try_from(index.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.positions.drain(kept.min(self.positions.len())..).for_each(&mut freed);
    }

    pub(super) fn purge(&mut self, log_id: LogId, mut freed: impl FnMut(Position)) {
        while let Some((first, _)) = self.entries()
            && first <= log_id.index
        {
            self.positions.pop_front().into_iter().for_each(&mut freed);
            self.first += 1;
        }
        self.last_purged = Some(log_id);
    }
}
