//! A group that fails is restarted from its log and state, and counted.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use cirrus_proto::Reason;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use super::{BOUND, Cluster, DiskStall, Settings, TestNode, increment, incremented, put, soon, until};

static METRICS: LazyLock<PrometheusHandle> = LazyLock::new(|| PrometheusBuilder::new().install_recorder().unwrap());

/// What the node counts for operators. Tests of this file use shards of their own, since counters are the process's.
fn failures(shard_id: u32) -> u64 {
    let prefix = format!("cirrus_group_failures_total{{shard=\"{shard_id}\"}} ");
    let rendered = METRICS.render();
    rendered.lines().find_map(|line| line.strip_prefix(&prefix)).map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_panics_is_restarted_with_all_that_it_acknowledged() {
    let settings = Settings { shard_id: 21, ..Settings::default() };
    let node = TestNode::lead_alone(settings).await;
    assert_eq!(failures(21), 0);
    let before = node.shard();
    before.execute(increment("counter"), soon()).await.unwrap();
    let stall = DiskStall::begin(&node);
    let in_flight = before.submit(increment("counter"), soon()).unwrap();
    until("it is evaluated", || node.evaluations.begun() == 2).await;
    before.group().external_request(|_| panic!("as the test wants")).await.unwrap();
    let failure = in_flight.outcome().await.unwrap_err();
    assert!(matches!(failure.reason, Reason::OutcomeUnknown | Reason::NotLeader), "{failure}");
    drop(stall);

    until("another group runs", || !Arc::ptr_eq(&node.shard(), &before)).await;
    node.until_it_leads().await;
    let counted = incremented(&node.shard().execute(increment("counter"), soon()).await.unwrap());
    match failure.reason {
        Reason::OutcomeUnknown => assert!((2..=3).contains(&counted), "{counted}"),
        _ => assert_eq!(counted, 2, "nothing happened, as it said"),
    }
    assert_eq!(failures(21), 1);
    assert_eq!(node.replication.failed(), None);
}

/// The shape of openraft's issue 2116: a snapshot replaces entries that a follower has and has not applied, while it
/// waits for an fsync. Should its core panic, the supervisor has to bring the group back.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_gets_a_snapshot_over_entries_it_did_not_apply_goes_on() {
    let settings = Settings { shard_id: 22, ..Settings::default() }.with_short_log();
    let cluster = Cluster::start(3, settings).await;
    assert_eq!(failures(22), 0);
    cluster.transfer_to(1).await;
    cluster.put("key", "first").await;
    cluster.until_all_have("key", "first").await;
    let [leader, other, follower] = &cluster.0[..] else { panic!("three nodes") };

    // The follower gets an entry that is not committed: its disk hangs, and the other is not reached.
    other.gateway.close();
    let stall = DiskStall::begin(follower);
    let last = follower.shard().report().last_log_index;
    let pending = leader.shard().submit(put("key", "pending"), soon()).unwrap();
    until("the entry arrives", || follower.shard().report().last_log_index > last).await;
    let last = last + 1;
    // Heartbeats come after it.
    let heartbeats = async {
        for _ in 0..3 {
            let heard = last_heard(follower).await;
            while last_heard(follower).await == heard {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    tokio::time::timeout(BOUND, heartbeats).await.unwrap();

    // The others go on without it until its place in the log is purged.
    follower.gateway.close();
    other.gateway.open();
    pending.outcome().await.unwrap();
    let mut written = 0;
    while cluster.leader().and_then(|leader| leader.purged_upto()).is_none_or(|purged| purged <= last) {
        written += 1;
        cluster.put("key", &written.to_string()).await;
        assert!(written < 10_000, "the log is never purged");
    }
    follower.gateway.open();
    until("a snapshot arrives", || follower.purged_upto() > Some(last) || !follower.snapshots().is_empty()).await;
    drop(stall);

    cluster.put("key", "last").await;
    cluster.until_all_have("key", "last").await;
    assert!(follower.purged_upto() > Some(last), "it went on without a snapshot");
    assert_eq!(follower.replication.failed(), None);
}

/// When a replica last heard from its leader.
async fn last_heard(node: &TestNode) -> impl PartialEq {
    node.shard().group().with_raft_state(|state| state.vote_last_modified()).await.unwrap()
}

/// The same under load and at any moment: links break and disks hang while short logs are purged.
#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_while_followers_fall_behind_the_purge_again_and_again() {
    const WRITERS: usize = 8;
    const WRITES: usize = 250;
    let settings = Settings { shard_id: 23, ..Settings::default() }.with_short_log();
    let cluster = Cluster::start(3, settings).await;
    assert_eq!(failures(23), 0);
    let writers = futures::future::join_all((0..WRITERS).map(async |writer| {
        for nth in 1..=WRITES {
            cluster.put(&format!("writer{writer}"), &nth.to_string()).await;
        }
    }));
    let faults = async {
        loop {
            for follower in &cluster.0[1..] {
                follower.gateway.close();
                tokio::time::sleep(Duration::from_millis(60)).await;
                let stall = DiskStall::begin(follower);
                follower.gateway.open();
                tokio::time::sleep(Duration::from_millis(60)).await;
                drop(stall);
            }
        }
    };
    tokio::select! {
        _ = writers => {}
        () = faults => {}
    }
    for node in &cluster.0 {
        node.gateway.open();
    }
    for writer in 0..WRITERS {
        cluster.until_all_have(&format!("writer{writer}"), &WRITES.to_string()).await;
    }
    for node in &cluster.0 {
        assert_eq!(node.replication.failed(), None);
    }
}
