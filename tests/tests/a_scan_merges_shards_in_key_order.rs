//! A scan gives the keys of all shards in byte order, page by page, within its bounds.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use bytes::Bytes;
use cirrus_proto::v1::{KeyValuePair, ReadConsistency, ScanRequest, ScanResponse};
use cirrus_tests::cluster::{ClusterOptions, TestCluster};
use cirrus_tests::outcome::TestResult;
use cirrus_tests::shards::shard_of;
use futures::{StreamExt as _, TryStreamExt as _};

const KEYS: u32 = 3500;

fn key(number: u32) -> String {
    // Not in the order in which they are written, and of different lengths.
    format!("scan/{:x}", number.wrapping_mul(2_654_435_761))
}

fn pairs(pages: &[ScanResponse]) -> Vec<&KeyValuePair> {
    pages.iter().flat_map(|page| &page.pairs).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scans_see_all_shards_in_key_order() -> TestResult {
    let cluster = TestCluster::start(ClusterOptions { shards: 8, ..ClusterOptions::default() }).await?;
    let status = cluster.status().await?;
    let nodes = cluster.all_nodes()?;
    let expected: BTreeMap<Bytes, Bytes> =
        (0..KEYS).map(|number| (key(number).into(), format!("value {number}").into())).collect();
    assert_eq!(expected.len(), KEYS as usize);
    futures::stream::iter(0..KEYS)
        .map(|number| {
            let node = nodes[number as usize % 3].clone();
            async move { node.put(&key(number), format!("value {number}")).await }
        })
        .buffer_unordered(64)
        .try_collect::<Vec<_>>()
        .await?;
    nodes[0].put("scam", "just before").await?;
    nodes[0].put("scan0", "just behind").await?;
    let shards: std::collections::BTreeSet<u32> =
        (0..KEYS).map(|number| shard_of(&status, &key(number)).unwrap()).collect();
    assert_eq!(shards.len(), 8, "the keys lie in all shards");

    let all = ScanRequest { prefix: "scan/".into(), ..ScanRequest::default() };
    for node in &nodes {
        let pages = node.scan(all.clone()).await?;
        let found: Vec<(Bytes, Bytes)> =
            pairs(&pages).into_iter().map(|pair| (pair.key.clone(), pair.value.clone())).collect();
        assert!(found.is_sorted(), "through {}", node.address);
        assert_eq!(found, expected.clone().into_iter().collect::<Vec<_>>(), "through {}", node.address);
        assert!(pages.len() >= 4, "{KEYS} keys came in {} pages", pages.len());
        assert!(pages.iter().all(|page| page.pairs.len() <= 1000));
        assert!(pairs(&pages).iter().all(|pair| pair.version > 0));
    }

    let (start, end): (Bytes, Bytes) = ("scan/4".into(), "scan/c0".into());
    let range = ScanRequest { start: start.clone(), end: end.clone(), ..ScanRequest::default() };
    let pages = nodes[1].scan(range.clone()).await?;
    let inside: Vec<&Bytes> = expected.range(start..end).map(|(key, _)| key).collect();
    assert_eq!(pairs(&pages).iter().map(|pair| &pair.key).collect::<Vec<_>>(), inside);

    let limited = ScanRequest { limit: 1234, keys_only: true, ..range.clone() };
    let pages = nodes[2].scan(limited).await?;
    assert_eq!(pairs(&pages).iter().map(|pair| &pair.key).collect::<Vec<_>>(), inside[..1234]);
    assert!(pairs(&pages).iter().all(|pair| pair.value.is_empty()), "keys_only leaves values out");

    let narrowed = ScanRequest { prefix: "scan/4".into(), ..range.clone() };
    let pages = nodes[0].scan(narrowed).await?;
    assert!(!pairs(&pages).is_empty());
    assert!(pairs(&pages).iter().all(|pair| pair.key.starts_with(b"scan/4")));

    let nothing = ScanRequest { start: "scan/c0".into(), end: "scan/4".into(), ..ScanRequest::default() };
    assert!(pairs(&nodes[0].scan(nothing).await?).is_empty());

    let client = cluster.client(true).await?;
    let collected = client.scan(all).collect().await?;
    assert_eq!(collected.len(), KEYS as usize);

    // What was just deleted is not seen by a scan that begins afterwards.
    let first = expected.first_key_value().unwrap().0;
    nodes[1].delete(std::str::from_utf8(first)?).await?;
    let again = ScanRequest {
        prefix: "scan/".into(),
        limit: 1,
        consistency: ReadConsistency::Linearizable.into(),
        ..ScanRequest::default()
    };
    let pages = nodes[2].scan(again).await?;
    assert_ne!(&pairs(&pages)[0].key, first);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_is_bounded_by_bytes_as_well() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let node = cluster.node(1)?;
    for number in 0..20 {
        node.put(&format!("big/{number:02}"), vec![b'x'; 300_000]).await?;
    }
    let pages = node.scan(ScanRequest { prefix: "big/".into(), ..ScanRequest::default() }).await?;
    assert_eq!(pairs(&pages).len(), 20);
    for page in &pages {
        let bytes: usize = page.pairs.iter().map(|pair| pair.key.len() + pair.value.len()).sum();
        assert!(bytes <= 1024 * 1024 || page.pairs.len() == 1, "a page of {bytes} bytes");
    }
    Ok(())
}
