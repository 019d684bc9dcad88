//! A value with a time to live is there before its time and gone after it, on every node, for every way to look.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use cirrus_proto::v1::write_condition::Kind;
use cirrus_proto::v1::{IncrementRequest, PutRequest, ReadConsistency, ScanRequest, WriteCondition};
use cirrus_tests::cluster::TestCluster;
use cirrus_tests::outcome::TestResult;
use cirrus_tests::wait::eventually;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_value_is_absent_everywhere() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let nodes = cluster.all_nodes()?;
    let put = |key: &str, ttl_ms| PutRequest {
        key: key.to_owned().into(),
        value: "short-lived".into(),
        ttl_ms,
        flags: 7,
        ..PutRequest::default()
    };
    let before_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    let started = Instant::now();
    nodes[0].put_request(put("ttl/short", 2_000)).await?;
    nodes[0].put_request(put("ttl/long", 600_000)).await?;
    nodes[0].put("ttl/forever", "stays").await?;
    nodes[0].put_request(put("ttl/replaced", 2_000)).await?;
    nodes[0].put("ttl/replaced", "without a ttl").await?;

    for node in &nodes {
        let found = node.get("ttl/short", ReadConsistency::Linearizable).await?;
        if started.elapsed() < Duration::from_millis(1_900) {
            assert!(found.found, "gone after {:?} of 2 s", started.elapsed());
            assert_eq!(found.flags, 7);
            let expiry = before_ms + 2_000..before_ms + 2_000 + 1_900;
            assert!(expiry.contains(&found.expires_at_ms), "{} is not in {expiry:?}", found.expires_at_ms);
        }
    }
    eventually("the value has expired", Duration::from_secs(10), async || {
        ensure!(nodes[1].value("ttl/short").await?.is_none(), "it is there still");
        Ok(())
    })
    .await?;
    let gone_after = started.elapsed();
    eprintln!("a value with 2 s to live was gone after {gone_after:?}");
    assert!(gone_after >= Duration::from_millis(1_990), "gone after {gone_after:?}");

    for node in &nodes {
        assert_eq!(node.value("ttl/short").await?, None, "through {}", node.address);
        let pages = node.scan(ScanRequest { prefix: "ttl/".into(), ..ScanRequest::default() }).await?;
        let keys: Vec<_> = pages.iter().flat_map(|page| &page.pairs).map(|pair| pair.key.clone()).collect();
        assert_eq!(keys, ["ttl/forever", "ttl/long", "ttl/replaced"], "through {}", node.address);
    }
    // Writes, too, find nothing there.
    assert!(!nodes[2].delete("ttl/short").await?);
    let if_absent = Some(WriteCondition { kind: Some(Kind::IfAbsent(true)) });
    let put_again = PutRequest { condition: if_absent, ..put("ttl/short", 0) };
    assert!(nodes[2].put_request(put_again).await?.applied);

    let increment = IncrementRequest { key: "ttl/counter".into(), delta: 5, ttl_ms: 1_000, request_id: None };
    nodes[0].key_value.clone().increment(increment.clone()).await?;
    eventually("the counter starts anew", Duration::from_secs(10), async || {
        let sum = nodes[1].key_value.clone().increment(increment.clone()).await?.into_inner().value;
        ensure!(sum == 5, "it counts on, {sum}");
        Ok(())
    })
    .await?;
    Ok(())
}
