//! One shard's log as it stands in memory: its bounds, its vote, and the cache of its newest entries.
//!
//! A pure data structure: no lock, no I/O. What it says is what has been *asked* of the log; the disk follows.
//! ```text
//!    last_purged        first                    cached_from              last
//!         │               │                           │                    │
//!     ····┼───────────────┼───────── on disk ─────────┼─── in the cache ───┤
//!                                                     └ some not yet on disk
//! ```
//! Invariants:
//! - Entries are contiguous, and the cache holds the newest of them without a gap.
//! - An entry that is not on disk yet is in the cache: every entry carries the sequence of the operation that
//!   writes it, and only what the writer has passed may be evicted. (An index would not do: after a truncation
//!   the same index is written twice.)

use std::collections::VecDeque;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use cirrus_proto::internal::v1::{LogId, Vote};

use super::entry::EncodedEntry;
use crate::StorageError;

/// The bounds of a shard's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The last entry that was purged; everything up to it is in the state.
    pub last_purged: Option<LogId>,
    /// The last entry, or `last_purged` if there is none.
    pub last: Option<LogId>,
}

#[derive(Debug, Default)]
pub(super) struct Tail {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    last_purged: Option<LogId>,
    /// Index of the first entry and id of the last; none if the log is empty.
    entries: Option<(u64, LogId)>,
    cached: VecDeque<Cached>,
    cached_bytes: usize,
    /// Grows whenever entries are removed, so that a reader of the disk notices.
    removals: u64,
}

#[derive(Debug)]
struct Cached {
    sequence: u64,
    entry: Arc<EncodedEntry>,
}

/// How to read a range: first `disk` (maybe empty), then `cached`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ReadPlan {
    pub(super) disk: Range<u64>,
    pub(super) cached: Vec<Arc<EncodedEntry>>,
    pub(super) removals: u64,
}

impl Tail {
    /// A log as found on disk. The cache starts empty.
    pub(super) fn recovered(
        vote: Option<Vote>,
        committed: Option<LogId>,
        last_purged: Option<LogId>,
        entries: Option<(u64, LogId)>,
    ) -> Self {
        Self { vote, committed, last_purged, entries, ..Self::default() }
    }

    pub(super) fn state(&self) -> LogState {
        LogState { last_purged: self.last_purged, last: self.last() }
    }

    pub(super) fn removals(&self) -> u64 {
        self.removals
    }

    pub(super) fn cached_bytes(&self) -> usize {
        self.cached_bytes
    }

    fn last(&self) -> Option<LogId> {
        self.entries.map(|(_, last)| last).or(self.last_purged)
    }

    /// Index of the first cached entry; all entries before it are on disk.
    fn cached_from(&self) -> Option<u64> {
        self.cached.front().map(|cached| cached.entry.index)
    }

    /// Checks that the entries continue the log.
    pub(super) fn check_append(&self, entries: &[Arc<EncodedEntry>]) -> Result<(), StorageError> {
        let mut previous = self.last();
        for entry in entries {
            if let Some(previous) = previous
                && (previous.index.checked_add(1) != Some(entry.index) || entry.term < previous.term)
            {
                return Err(StorageError::Refused(format!(
                    "entry (term {}, index {}) does not follow (term {}, index {})",
                    entry.term, entry.index, previous.term, previous.index
                )));
            }
            previous = Some(entry.log_id());
        }
        Ok(())
    }

    /// Adds entries that passed [`Self::check_append`] and that operation `sequence` writes. Returns the bytes added.
    pub(super) fn append(&mut self, entries: &[Arc<EncodedEntry>], sequence: u64) -> usize {
        let before = self.cached_bytes;
        for entry in entries {
            let first = self.entries.map_or(entry.index, |(first, _)| first);
            self.entries = Some((first, entry.log_id()));
            self.cached_bytes += entry.memory_bytes();
            self.cached.push_back(Cached { sequence, entry: entry.clone() });
        }
        self.cached_bytes - before
    }

    /// Removes the entries after `log_id`, or all. Returns the indexes removed, if any.
    pub(super) fn truncate_after(
        &mut self,
        log_id: Option<LogId>,
    ) -> Result<Option<RangeInclusive<u64>>, StorageError> {
        let log_id = log_id.or(self.last_purged);
        if let (Some(log_id), Some(purged)) = (log_id, self.last_purged)
            && log_id.index < purged.index
        {
            return Err(StorageError::Refused(format!(
                "truncate after index {}, which was purged (up to {})",
                log_id.index, purged.index
            )));
        }
        let Some((first, last)) = self.entries else { return Ok(None) };
        let from = match log_id {
            Some(log_id) if log_id.index >= last.index => return Ok(None),
            Some(log_id) => first.max(log_id.index + 1),
            None => first,
        };
        while let Some(cached) = self.cached.pop_back_if(|cached| cached.entry.index >= from) {
            self.cached_bytes -= cached.entry.memory_bytes();
        }
        self.entries = log_id.filter(|_| from > first).map(|log_id| (first, log_id));
        self.removals += 1;
        Ok(Some(from..=last.index))
    }

    /// Removes the entries up to `log_id`, which may lie past the last one (after a snapshot was installed).
    /// Returns the indexes removed; empty if there were none. `None`: that much was already purged.
    pub(super) fn purge(&mut self, log_id: LogId) -> Result<Option<Range<u64>>, StorageError> {
        if self.last_purged.is_some_and(|purged| purged.index >= log_id.index) {
            return Ok(None);
        }
        let mut removed = 0..0;
        if let Some((first, last)) = self.entries {
            if log_id.index.saturating_add(1) < first {
                return Err(StorageError::Refused(format!(
                    "purge up to index {} would leave a gap before the first entry, {first}",
                    log_id.index
                )));
            }
            removed = first..log_id.index.min(last.index) + 1;
            while let Some(cached) = self.cached.pop_front_if(|cached| cached.entry.index <= log_id.index) {
                self.cached_bytes -= cached.entry.memory_bytes();
            }
            self.entries = (log_id.index < last.index).then_some((log_id.index + 1, last));
        }
        self.last_purged = Some(log_id);
        self.removals += 1;
        Ok(Some(removed))
    }

    /// Evicts oldest entries that are on disk (`written`: the last operation that is) until at most `bytes_target`
    /// are cached. Returns the bytes freed.
    pub(super) fn evict(&mut self, written: u64, bytes_target: usize) -> usize {
        let before = self.cached_bytes;
        while self.cached_bytes > bytes_target {
            let Some(cached) = self.cached.pop_front_if(|cached| cached.sequence <= written) else { break };
            self.cached_bytes -= cached.entry.memory_bytes();
        }
        before - self.cached_bytes
    }

    /// Where the entries of `range` are to be read, up to about `max_bytes`.
    pub(super) fn plan_read(&self, range: Range<u64>, max_bytes: usize) -> ReadPlan {
        let mut plan = ReadPlan { disk: 0..0, cached: Vec::new(), removals: self.removals };
        let Some((first, last)) = self.entries else { return plan };
        let start = range.start.max(first);
        let end = range.end.min(last.index.saturating_add(1));
        if start >= end {
            return plan;
        }
        let Some(cached_from) = self.cached_from() else {
            plan.disk = start..end;
            return plan;
        };
        if start < cached_from {
            plan.disk = start..end.min(cached_from);
        }
        let cached_start = start.max(cached_from);
        let mut bytes = 0;
        for index in cached_start..end {
            let entry = &self.cached[(index - cached_from) as usize].entry;
            bytes += entry.bytes.len();
            if bytes > max_bytes && !plan.cached.is_empty() {
                break;
            }
            plan.cached.push(entry.clone());
        }
        plan
    }

    /// The id at `index` as far as memory knows: `Some(None)` if the log has no such entry, `None` if the disk knows.
    pub(super) fn known_id(&self, index: u64) -> Option<Option<LogId>> {
        if let Some(purged) = self.last_purged.filter(|purged| purged.index == index) {
            return Some(Some(purged));
        }
        let Some((first, last)) = self.entries.filter(|(first, last)| (*first..=last.index).contains(&index)) else {
            return Some(None);
        };
        if index == last.index {
            return Some(Some(last));
        }
        let cached_from = self.cached_from().filter(|from| *from <= index)?;
        debug_assert!(cached_from >= first);
        Some(Some(self.cached[(index - cached_from) as usize].entry.log_id()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn entry(term: u64, index: u64) -> Arc<EncodedEntry> {
        Arc::new(EncodedEntry { term, index, bytes: Bytes::from(vec![7; 100]) })
    }

    fn id(term: u64, index: u64) -> LogId {
        LogId { term, index }
    }

    fn with_entries(range: RangeInclusive<u64>, sequence: u64) -> Tail {
        let mut tail = Tail::default();
        let entries: Vec<_> = range.map(|index| entry(1, index)).collect();
        tail.check_append(&entries).unwrap();
        tail.append(&entries, sequence);
        tail
    }

    fn indexes(plan: &ReadPlan) -> Vec<u64> {
        plan.cached.iter().map(|entry| entry.index).collect()
    }

    #[test]
    fn an_entry_that_is_not_written_yet_is_never_evicted() {
        let mut tail = with_entries(1..=5, 1);
        tail.append(&[entry(1, 6), entry(1, 7)], 2);
        tail.evict(1, 0);
        assert_eq!(indexes(&tail.plan_read(1..8, usize::MAX)), [6, 7]);
        assert_eq!(tail.plan_read(1..8, usize::MAX).disk, 1..6);
        tail.evict(2, 0);
        assert_eq!(tail.plan_read(1..8, usize::MAX).disk, 1..8);
    }

    #[test]
    fn an_index_written_twice_is_kept_until_its_second_write() {
        let mut tail = with_entries(1..=5, 1);
        assert_eq!(tail.truncate_after(Some(id(1, 3))).unwrap(), Some(4..=5));
        tail.append(&[entry(2, 4)], 3);
        tail.evict(1, 0);
        assert_eq!(tail.plan_read(1..9, usize::MAX), {
            let cached = vec![entry(2, 4)];
            ReadPlan { disk: 1..4, cached, removals: 1 }
        });
    }

    #[test]
    fn a_gap_or_an_older_term_is_refused() {
        let tail = with_entries(1..=3, 1);
        assert!(matches!(tail.check_append(&[entry(1, 5)]), Err(StorageError::Refused(_))));
        assert!(matches!(tail.check_append(&[entry(0, 4)]), Err(StorageError::Refused(_))));
        assert!(tail.check_append(&[entry(1, 4), entry(2, 5)]).is_ok());
    }

    #[test]
    fn purging_past_the_end_leaves_an_empty_log_at_that_id() {
        let mut tail = with_entries(1..=3, 1);
        assert_eq!(tail.purge(id(4, 10)).unwrap(), Some(1..4));
        assert_eq!(tail.state(), LogState { last_purged: Some(id(4, 10)), last: Some(id(4, 10)) });
        assert!(tail.check_append(&[entry(4, 4)]).is_err());
        assert!(tail.check_append(&[entry(4, 11)]).is_ok());
        assert_eq!(tail.purge(id(4, 9)).unwrap(), None);
        assert_eq!(tail.cached_bytes(), 0);
    }

    #[test]
    fn a_read_gives_one_entry_even_if_it_is_over_the_bound() {
        let tail = with_entries(1..=3, 1);
        assert_eq!(indexes(&tail.plan_read(1..4, 1)), [1]);
        assert_eq!(indexes(&tail.plan_read(1..4, 200)), [1, 2]);
        assert_eq!(indexes(&tail.plan_read(2..2, 200)), [0u64; 0]);
    }

    #[test]
    fn truncating_to_nothing_leaves_what_was_purged() {
        let mut tail = with_entries(1..=5, 1);
        tail.purge(id(1, 2)).unwrap();
        assert_eq!(tail.truncate_after(None).unwrap(), Some(3..=5));
        assert_eq!(tail.state(), LogState { last_purged: Some(id(1, 2)), last: Some(id(1, 2)) });
        assert!(tail.truncate_after(Some(id(1, 1))).is_err());
        assert_eq!(tail.truncate_after(None).unwrap(), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Append(u8),
        Truncate(u8),
        Purge(u8),
        Write,
        Evict,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (1..5u8).prop_map(Step::Append),
            (0..6u8).prop_map(Step::Truncate),
            (0..6u8).prop_map(Step::Purge),
            Just(Step::Write),
            Just(Step::Evict),
        ];
        proptest::collection::vec(step, 1..60)
    }

    proptest! {
        /// Against a model that is a plain map, with a "disk" that gets operations late: a plan always yields
        /// exactly the model's entries, and what it sends to the disk is there.
        #[test]
        fn a_plan_always_finds_exactly_the_log(steps in steps()) {
            use std::collections::BTreeMap;
            let mut tail = Tail::default();
            let mut model: BTreeMap<u64, u64> = BTreeMap::new();
            let mut disk = model.clone();
            let mut versions: Vec<BTreeMap<u64, u64>> = Vec::new();
            let mut purged = 0;
            let mut term = 1;
            let mut written = 0;
            for step in steps {
                match step {
                    Step::Append(count) => {
                        let next = tail.state().last.map_or(1, |last| last.index + 1);
                        let entries: Vec<_> = (next..next + u64::from(count)).map(|index| entry(term, index)).collect();
                        tail.check_append(&entries).unwrap();
                        model.extend(entries.iter().map(|entry| (entry.index, entry.term)));
                        versions.push(model.clone());
                        tail.append(&entries, versions.len() as u64);
                    }
                    Step::Truncate(count) => {
                        let Some(last) = tail.state().last else { continue };
                        let to = last.index.saturating_sub(u64::from(count)).max(purged);
                        let to_id = model.get(&to).map(|term| id(*term, to));
                        tail.truncate_after(to_id).unwrap();
                        model.retain(|index, _| *index <= to);
                        versions.push(model.clone());
                        term += 1;
                    }
                    Step::Purge(count) => {
                        let to = purged + u64::from(count);
                        let Some(to_term) = model.get(&to).copied() else { continue };
                        tail.purge(id(to_term, to)).unwrap();
                        model.retain(|index, _| *index > to);
                        purged = to;
                        versions.push(model.clone());
                    }
                    Step::Write => {
                        written = versions.len() as u64;
                        disk = model.clone();
                    }
                    Step::Evict => {
                        tail.evict(written, 150);
                    }
                }
                let plan = tail.plan_read(0..u64::MAX, usize::MAX);
                let mut read: Vec<(u64, u64)> = Vec::new();
                for index in plan.disk.clone() {
                    read.push((index, disk[&index]));
                }
                read.extend(plan.cached.iter().map(|entry| (entry.index, entry.term)));
                prop_assert_eq!(read, model.iter().map(|(index, term)| (*index, *term)).collect::<Vec<_>>());
                for index in 0..purged + 12 {
                    if let Some(known) = tail.known_id(index)
                        && index > purged
                    {
                        prop_assert_eq!(known.map(|known| known.term), model.get(&index).copied());
                    }
                }
            }
        }
    }
}
