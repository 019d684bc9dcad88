//! Merges the shards' pages into one sequence in key order.
//!
//! Every shard has a cursor: the pairs read ahead, and where its next page starts. The smallest key over all
//! cursors is the next of the scan, once no cursor is empty that has more to read. Keys are spread by hash, so
//! cursors run low at about the same time: a refill reads for all that are low, concurrently.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use bytes::Bytes;
use cirrus_proto::Failure;
use cirrus_proto::internal::v1::ShardScanResult;
use cirrus_proto::v1::{KeyValuePair, ScanResponse};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

/// Shards that one refill reads from at a time.
const CONCURRENT_PAGES: usize = 8;
/// What a shard's page never shrinks below, so that many shards do not mean many tiny reads.
const SHARD_PAGE_PAIRS_MIN: usize = 16;
const SHARD_PAGE_BYTES_MIN: usize = 64 * 1024;

/// Reads one shard's pairs from `start` on.
pub(crate) trait PageSource: Sync {
    /// The next page: at most so many pairs and about so many bytes, but one pair at least where there is one.
    fn page(
        &self,
        shard_id: u32,
        start: Bytes,
        pairs_max: usize,
        bytes_max: usize,
    ) -> impl Future<Output = Result<ShardScanResult, Failure>> + Send;
}

/// The largest page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageSize {
    pub(crate) pairs: usize,
    pub(crate) bytes: usize,
}

/// A scan under way over all shards.
pub(crate) struct Merge<S> {
    source: S,
    cursors: Vec<Cursor>,
    /// The first key of every cursor that has pairs.
    heads: BinaryHeap<Reverse<(Bytes, usize)>>,
    /// Cursors without pairs that have more to read.
    empty_cursors: usize,
    page: PageSize,
    /// Pairs still wanted.
    remaining: u64,
}

struct Cursor {
    shard_id: u32,
    pairs: VecDeque<KeyValuePair>,
    /// None: nothing is left to read.
    next_start: Option<Bytes>,
}

impl<S: PageSource> Merge<S> {
    /// A scan from `start` on over `shard_ids`, of at most `limit` pairs (0: no limit).
    pub(crate) fn new(source: S, shard_ids: &[u32], start: &Bytes, limit: u64, page: PageSize) -> Self {
        let cursor = |&shard_id| Cursor { shard_id, pairs: VecDeque::new(), next_start: Some(start.clone()) };
        Merge {
            source,
            cursors: shard_ids.iter().map(cursor).collect(),
            heads: BinaryHeap::new(),
            empty_cursors: shard_ids.len(),
            page,
            remaining: if limit == 0 { u64::MAX } else { limit },
        }
    }

    /// The next page in key order; none at the end.
    pub(crate) async fn next_page(&mut self) -> Result<Option<ScanResponse>, Failure> {
        let mut pairs = Vec::new();
        let mut bytes = 0;
        while self.remaining > 0 && pairs.len() < self.page.pairs {
            while self.empty_cursors > 0 {
                self.refill().await?;
            }
            let Some(Reverse((_, index))) = self.heads.peek() else { break };
            let index = *index;
            let size = self.cursors[index].pairs.front().map_or(0, size_of_pair);
            if !pairs.is_empty() && bytes + size > self.page.bytes {
                break;
            }
            self.heads.pop();
            pairs.extend(self.cursors[index].pairs.pop_front());
            bytes += size;
            self.remaining -= 1;
            self.show_head(index);
        }
        Ok(if pairs.is_empty() { None } else { Some(ScanResponse { pairs }) })
    }

    /// Enters a cursor's first pair among the heads, or counts it as empty.
    fn show_head(&mut self, index: usize) {
        let cursor = &self.cursors[index];
        match cursor.pairs.front() {
            Some(pair) => self.heads.push(Reverse((pair.key.clone(), index))),
            None if cursor.next_start.is_some() => self.empty_cursors += 1,
            None => {}
        }
    }

    /// Reads a page for every cursor that is low.
    async fn refill(&mut self) -> Result<(), Failure> {
        let size = self.shard_page();
        let mut pages = Vec::new();
        let mut reads = FuturesUnordered::new();
        for (index, cursor) in self.cursors.iter().enumerate() {
            if cursor.pairs.len() > size.pairs / 4 {
                continue;
            }
            let Some(start) = cursor.next_start.clone() else { continue };
            if reads.len() == CONCURRENT_PAGES {
                pages.extend(reads.next().await);
            }
            reads.push(read(&self.source, index, cursor.shard_id, start, size));
        }
        while let Some(page) = reads.next().await {
            pages.push(page);
        }
        drop(reads);
        for (index, page) in pages {
            self.accept(index, page?)?;
        }
        Ok(())
    }

    fn accept(&mut self, index: usize, page: ShardScanResult) -> Result<(), Failure> {
        let cursor = &mut self.cursors[index];
        let next_start = Some(page.next_start).filter(|next| !next.is_empty());
        if next_start.is_some() && next_start <= cursor.next_start {
            return Err(Failure::internal(format!("a scan of shard {} stands still", cursor.shard_id)));
        }
        cursor.next_start = next_start;
        let was_empty = cursor.pairs.is_empty();
        cursor.pairs.extend(page.pairs);
        if was_empty {
            self.empty_cursors -= 1;
            self.show_head(index);
        }
        Ok(())
    }

    /// Twice a shard's share of the pairs wanted: enough for most pages to need one refill, and little waste.
    fn shard_page(&self) -> PageSize {
        let shards = self.cursors.len().max(1);
        let wanted = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(self.page.pairs);
        PageSize {
            pairs: (2 * wanted / shards).max(SHARD_PAGE_PAIRS_MIN).min(wanted),
            bytes: (2 * self.page.bytes / shards).max(SHARD_PAGE_BYTES_MIN).min(self.page.bytes),
        }
    }
}

/// Reads one page for the cursor at an index.
async fn read<S: PageSource>(
    source: &S,
    index: usize,
    shard_id: u32,
    start: Bytes,
    size: PageSize,
) -> (usize, Result<ShardScanResult, Failure>) {
    (index, source.page(shard_id, start, size.pairs, size.bytes).await)
}

fn size_of_pair(pair: &KeyValuePair) -> usize {
    pair.key.len() + pair.value.len()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;

    use super::*;

    /// Shards in memory, by number from 1.
    #[derive(Default)]
    struct Shards {
        shards: Vec<BTreeMap<Bytes, Bytes>>,
        pages_read: AtomicUsize,
    }

    impl Shards {
        fn of(keys: &[(Vec<u8>, usize)], shard_count: usize) -> Shards {
            let mut shards = vec![BTreeMap::new(); shard_count];
            for (index, (key, value_bytes)) in keys.iter().enumerate() {
                let mut key = key.clone();
                key.extend((index as u16).to_be_bytes());
                shards[index % shard_count].insert(Bytes::from(key), Bytes::from(vec![b'v'; *value_bytes]));
            }
            Shards { shards, ..Shards::default() }
        }

        fn sorted_keys(&self) -> Vec<Bytes> {
            let mut keys: Vec<Bytes> = self.shards.iter().flat_map(|shard| shard.keys().cloned()).collect();
            keys.sort();
            keys
        }
    }

    impl PageSource for &Shards {
        async fn page(
            &self,
            shard_id: u32,
            start: Bytes,
            pairs_max: usize,
            bytes_max: usize,
        ) -> Result<ShardScanResult, Failure> {
            self.pages_read.fetch_add(1, Ordering::Relaxed);
            let mut result = ShardScanResult::default();
            let mut bytes = 0;
            for (key, value) in self.shards[shard_id as usize - 1].range(start..) {
                bytes += key.len() + value.len();
                let full = result.pairs.len() == pairs_max || bytes > bytes_max;
                if full && !result.pairs.is_empty() {
                    result.next_start = key.clone();
                    break;
                }
                let pair = KeyValuePair { key: key.clone(), value: value.clone(), ..KeyValuePair::default() };
                result.pairs.push(pair);
            }
            Ok(result)
        }
    }

    fn merge(shards: &Shards, limit: u64, page: PageSize) -> Result<Vec<ScanResponse>, Failure> {
        let shard_ids: Vec<u32> = (1..=shards.shards.len() as u32).collect();
        let mut merge = Merge::new(shards, &shard_ids, &Bytes::new(), limit, page);
        futures::executor::block_on(async {
            let mut pages = Vec::new();
            while let Some(page) = merge.next_page().await? {
                pages.push(page);
            }
            Ok(pages)
        })
    }

    proptest! {
        #[test]
        fn pages_hold_all_keys_once_in_order_within_their_bounds(
            keys in prop::collection::vec((prop::collection::vec(0u8..4, 1..5), 0usize..40), 0..300),
            shard_count in 1usize..9,
            limit in 0u64..50,
            pairs in 1usize..40,
            bytes in 1usize..200,
        ) {
            let shards = Shards::of(&keys, shard_count);
            let pages = merge(&shards, limit, PageSize { pairs, bytes }).unwrap();
            let mut expected = shards.sorted_keys();
            if limit > 0 {
                expected.truncate(limit as usize);
            }
            let found: Vec<Bytes> = pages.iter().flat_map(|page| page.pairs.iter().map(|pair| pair.key.clone())).collect();
            prop_assert_eq!(found, expected);
            for page in &pages {
                let size: usize = page.pairs.iter().map(size_of_pair).sum();
                prop_assert!(page.pairs.len() <= pairs);
                prop_assert!(size <= bytes || page.pairs.len() == 1, "{} bytes in {} pairs", size, page.pairs.len());
            }
        }
    }

    #[test]
    fn a_limited_scan_reads_each_shard_once() {
        let keys: Vec<(Vec<u8>, usize)> = (0..10_000u16).map(|key| (key.to_be_bytes().to_vec(), 8)).collect();
        let shards = Shards::of(&keys, 8);
        let pages = merge(&shards, 10, PageSize { pairs: 1000, bytes: 1 << 20 }).unwrap();
        assert_eq!(pages[0].pairs.len(), 10);
        assert_eq!(shards.pages_read.load(Ordering::Relaxed), 8);
    }

    #[test]
    fn a_shard_that_stands_still_ends_the_scan() {
        struct Stuck;
        impl PageSource for Stuck {
            async fn page(&self, _: u32, start: Bytes, _: usize, _: usize) -> Result<ShardScanResult, Failure> {
                Ok(ShardScanResult { pairs: Vec::new(), next_start: start })
            }
        }
        let page = PageSize { pairs: 10, bytes: 100 };
        let mut merge = Merge::new(Stuck, &[1], &Bytes::from_static(b"k"), 0, page);
        let failure = futures::executor::block_on(merge.next_page()).unwrap_err();
        assert!(failure.message.contains("stands still"), "{failure}");
    }

    #[test]
    fn a_failed_page_fails_the_scan() {
        struct Failing;
        impl PageSource for Failing {
            async fn page(&self, shard_id: u32, _: Bytes, _: usize, _: usize) -> Result<ShardScanResult, Failure> {
                Err(Failure::internal(format!("shard {shard_id} is gone")))
            }
        }
        let page = PageSize { pairs: 10, bytes: 100 };
        let mut merge = Merge::new(Failing, &[3], &Bytes::new(), 0, page);
        let failure = futures::executor::block_on(merge.next_page()).unwrap_err();
        assert_eq!(failure.message, "shard 3 is gone");
    }
}
