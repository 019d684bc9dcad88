//! Which segments there are, how much of each is needed, and which to free.
//!
//! Segments are freed oldest first only, so that their numbers never have a gap and a lost file is noticed. The oldest
//! is free once no live entry lies in it. An idle shard's entries would keep it, and all after it, for ever; so while
//! less than a quarter of all segments is live, the oldest segment's live entries are written again at the log's end
//! ("relocated"). Going round like this writes at most a third more, and bounds the log by four times what is live.

use std::collections::{HashMap, VecDeque};

use super::positions::Position;

/// So few segments are left alone.
const SEGMENTS_KEPT: usize = 4;

struct Segment {
    number: u64,
    file_bytes: u64,
    /// What live entries are charged.
    live: u64,
    /// For each shard, the least and greatest index that may lie in it.
    indexes: HashMap<u32, (u64, u64)>,
}

#[derive(Default)]
pub(super) struct Space {
    segments: VecDeque<Segment>,
}

impl Space {
    /// Adds the next segment; it is where the log ends from now on.
    pub(super) fn push(&mut self, number: u64, file_bytes: u64) {
        debug_assert!(self.segments.back().is_none_or(|last| last.number + 1 == number));
        self.segments.push_back(Segment { number, file_bytes, live: 0, indexes: HashMap::new() });
    }

    /// The last segment's file has grown.
    pub(super) fn grown(&mut self, file_bytes: u64) {
        if let Some(last) = self.segments.back_mut() {
            last.file_bytes = last.file_bytes.max(file_bytes);
        }
    }

    fn segment(&mut self, number: u64) -> Option<&mut Segment> {
        let place = number.checked_sub(self.segments.front()?.number)?;
        self.segments.get_mut(usize::try_from(place).ok()?)
    }

    /// Entries of consecutive indexes have been written, all to one segment.
    pub(super) fn written(&mut self, shard_id: u32, first: u64, positions: &[Position]) {
        let Some(position) = positions.first() else { return };
        let Some(segment) = self.segment(position.segment) else { return };
        segment.live += positions.iter().map(|position| u64::from(position.charge)).sum::<u64>();
        let last = first + (positions.len() as u64 - 1);
        let indexes = segment.indexes.entry(shard_id).or_insert((first, last));
        *indexes = (indexes.0.min(first), indexes.1.max(last));
    }

    /// What lay there is not needed any more.
    pub(super) fn freed(&mut self, position: Position) {
        if let Some(segment) = self.segment(position.segment) {
            debug_assert!(segment.live >= u64::from(position.charge));
            segment.live = segment.live.saturating_sub(u64::from(position.charge));
        }
    }

    /// The number of the oldest segment, now removed, if nothing in it is live.
    pub(super) fn take_dead(&mut self) -> Option<u64> {
        if self.segments.len() < 2 {
            return None;
        }
        self.segments.pop_front_if(|oldest| oldest.live == 0).map(|oldest| oldest.number)
    }

    /// Whether the oldest segment's live entries should be relocated.
    pub(super) fn is_sparse(&self) -> bool {
        self.segments.len() > SEGMENTS_KEPT && self.live_bytes() < self.file_bytes() / 4
    }

    /// The oldest segment, and a shard with the indexes that may have entries in it. Ask again after
    /// [`Self::relocated`].
    pub(super) fn oldest(&self) -> Option<(u64, u32, (u64, u64))> {
        let oldest = self.segments.front()?;
        oldest.indexes.iter().next().map(|(shard_id, indexes)| (oldest.number, *shard_id, *indexes))
    }

    /// A shard's entries in the oldest segment have been relocated, up to the index before `next`; none: all.
    pub(super) fn relocated(&mut self, shard_id: u32, next: Option<u64>) {
        let Some(oldest) = self.segments.front_mut() else { return };
        match (next, oldest.indexes.get_mut(&shard_id)) {
            (Some(next), Some(indexes)) if next <= indexes.1 => indexes.0 = next,
            _ => drop(oldest.indexes.remove(&shard_id)),
        }
    }

    pub(super) fn segments(&self) -> usize {
        self.segments.len()
    }

    pub(super) fn live_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.live).sum()
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.file_bytes).sum()
    }
}
