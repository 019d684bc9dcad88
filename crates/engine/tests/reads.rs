//! Reads that go past the executor.

#![allow(clippy::unwrap_used)]

mod shard;

use bytes::Bytes;
use cirrus_engine::shard_scan;
use cirrus_proto::Reason;
use cirrus_proto::internal::v1::command::Kind;
use cirrus_proto::internal::v1::{ShardScan, ShardScanResult};
use cirrus_proto::v1::{GetRequest, PutRequest};
use proptest::prelude::*;
use shard::{Shard, bytes, put};

fn shard_with(keys: &[&str]) -> Shard {
    let mut shard = Shard::new();
    for key in keys {
        shard.run(Kind::Put(put(key, &format!("value of {key}")))).unwrap();
    }
    shard
}

fn page(shard: &Shard, request: &ShardScan) -> ShardScanResult {
    shard_scan(&shard.view, shard.now_ms, request, &shard.limits).unwrap()
}

fn keys(result: &ShardScanResult) -> Vec<&str> {
    result.pairs.iter().map(|pair| std::str::from_utf8(&pair.key).unwrap()).collect()
}

#[test]
fn a_get_refuses_keys_that_cannot_exist() {
    let shard = Shard::new();
    for (key, reason) in [(vec![], Reason::KeyEmpty), (vec![0; 4097], Reason::KeyTooLarge)] {
        let request = GetRequest { key: key.into(), ..GetRequest::default() };
        assert_eq!(cirrus_engine::get(&shard.view, 0, &request, &shard.limits).unwrap_err().reason, reason);
    }
}

#[test]
fn a_scan_reads_its_range_in_order_with_what_is_stored_beside_values() {
    let shard = shard_with(&["b", "a", "d", "c"]);
    let all = page(&shard, &ShardScan::default());
    assert_eq!(keys(&all), ["a", "b", "c", "d"]);
    assert!(all.next_start.is_empty());
    assert_eq!((all.pairs[0].version, &all.pairs[0].value[..]), (2, &b"value of a"[..]));
    let range = |start: &str, end: &str| ShardScan { start: bytes(start), end: bytes(end), ..ShardScan::default() };
    assert_eq!(keys(&page(&shard, &range("b", "d"))), ["b", "c"]);
    assert_eq!(keys(&page(&shard, &range("bb", ""))), ["c", "d"]);
    assert!(page(&shard, &range("c", "c")).pairs.is_empty());
    assert!(page(&shard, &range("d", "b")).pairs.is_empty());
}

#[test]
fn a_page_ends_at_its_bounds_and_says_where_the_next_one_starts() {
    let shard = shard_with(&["a", "b", "c"]);
    let pair_bytes = "a".len() + "value of a".len();
    let cases = [
        // pairs, bytes, expected keys, whether more is left
        (1, 0, 1, true),
        (2, 0, 2, true),
        (3, 0, 3, false),
        (0, 1, 1, true),
        (0, 2 * pair_bytes - 1, 1, true),
        (0, 2 * pair_bytes, 2, true),
        (0, 3 * pair_bytes, 3, false),
        (1, 2 * pair_bytes, 1, true),
    ];
    for (max_pairs, max_bytes, count, more) in cases {
        let result = page(&shard, &ShardScan { max_pairs, max_bytes: max_bytes as u32, ..ShardScan::default() });
        assert_eq!(result.pairs.len(), count, "{max_pairs} pairs, {max_bytes} bytes");
        let next = if more { [&result.pairs[count - 1].key[..], b"\0"].concat() } else { vec![] };
        assert_eq!(result.next_start, next);
    }
}

#[test]
fn the_nodes_own_limits_bound_a_page() {
    let mut shard = shard_with(&["a", "b", "c"]);
    shard.limits.scan_page_pairs = 2;
    assert_eq!(page(&shard, &ShardScan { max_pairs: 100, ..ShardScan::default() }).pairs.len(), 2);
    shard.limits.scan_page_bytes = 1;
    assert_eq!(page(&shard, &ShardScan { max_bytes: 100, ..ShardScan::default() }).pairs.len(), 1);
}

#[test]
fn expired_pairs_neither_show_nor_count() {
    let mut shard = shard_with(&["a", "d"]);
    for key in ["b", "c", "e"] {
        shard.run(Kind::Put(PutRequest { ttl_ms: 10, ..put(key, "x") })).unwrap();
    }
    shard.now_ms += 10;
    let result = page(&shard, &ShardScan { max_pairs: 2, ..ShardScan::default() });
    assert_eq!(keys(&result), ["a", "d"]);
    assert!(result.next_start.is_empty(), "an expired pair is nothing to come back for");
}

#[test]
fn keys_only_leaves_values_out_of_pairs_and_of_the_byte_bound() {
    let shard = shard_with(&["a", "b", "c"]);
    let result = page(&shard, &ShardScan { keys_only: true, max_bytes: 3, ..ShardScan::default() });
    assert_eq!(keys(&result), ["a", "b", "c"]);
    assert!(result.pairs.iter().all(|pair| pair.value.is_empty() && pair.version > 0));
}

proptest! {
    #[test]
    fn pages_read_one_after_the_other_give_every_pair_once(
        stored in proptest::collection::btree_set(proptest::collection::vec(0u8..3, 1..5), 0..30),
        max_pairs in 1u32..5,
        max_bytes in 0u32..20,
    ) {
        let mut shard = Shard::new();
        for key in &stored {
            shard.run(Kind::Put(PutRequest { key: key.clone().into(), ..PutRequest::default() })).unwrap();
        }
        let mut request = ShardScan { max_pairs, max_bytes, ..ShardScan::default() };
        let mut found: Vec<Bytes> = Vec::new();
        loop {
            let result = page(&shard, &request);
            found.extend(result.pairs.into_iter().map(|pair| pair.key));
            if result.next_start.is_empty() {
                break;
            }
            prop_assert!(request.start < result.next_start, "every page makes progress");
            request.start = result.next_start;
        }
        prop_assert_eq!(found, stored.into_iter().map(Bytes::from).collect::<Vec<_>>());
    }
}
