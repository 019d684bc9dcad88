//! Three nodes over real connections.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cirrus_proto::Reason;
use futures::future::{join, join_all};

use super::{BOUND, Cluster, Settings, TestNode, put, soon, until, value};

#[tokio::test(flavor = "multi_thread")]
async fn entries_reach_every_node_and_an_idle_leader_still_knows_that_it_leads() {
    let cluster = Cluster::start(3, Settings::default()).await;
    join_all((0..300).map(async |nth| cluster.put(&format!("key{nth}"), &nth.to_string()).await)).await;
    for nth in 0..300 {
        cluster.until_all_have(&format!("key{nth}"), &nth.to_string()).await;
    }
    // Nothing is written: what confirms the leader and tells followers what is committed are heartbeats.
    cluster.on_leader("read barrier", async |shard| shard.read_barrier(soon()).await).await;
    cluster.on_leader("lease barrier", async |shard| shard.lease_barrier(soon()).await).await;
    for node in &cluster.0 {
        until("its links are up", || (1..=3).all(|peer| peer == node.id || node.replication.is_connected(peer))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_are_written_to_are_hashed_at_one_entry() {
    const RATE: u64 = 1 << 40;
    let cluster = Cluster::start(3, Settings::default()).await;
    let ends = AtomicBool::new(false);
    let write = async |writer: usize| {
        for nth in 0.. {
            if ends.load(Ordering::Relaxed) {
                break;
            }
            cluster.put(&format!("key{writer}"), &nth.to_string()).await;
        }
    };
    let hash = async {
        let mut hashes = HashSet::new();
        for _ in 0..10 {
            let applied = cluster.0.iter().map(|node| node.shard().applied_next()).max().unwrap();
            let index = applied + 20;
            let shards: Vec<_> = cluster.0.iter().map(TestNode::shard).collect();
            let hashed = join_all(shards.iter().map(|shard| shard.hash_state(index, BOUND, RATE))).await;
            let hashed: Vec<_> = hashed.into_iter().map(Result::unwrap).collect();
            for one in &hashed {
                assert_eq!(one.applied.log_id.unwrap().index, index);
                assert_eq!((one.hash, one.keys, one.bytes), (hashed[0].hash, hashed[0].keys, hashed[0].bytes));
            }
            hashes.insert(hashed[0].hash);
        }
        ends.store(true, Ordering::Relaxed);
        hashes.len()
    };
    let (hashes, _) = join(hash, join_all((0..4).map(write))).await;
    assert_eq!(hashes, 10, "each entry changes the state");

    // What is past already is hashed as it is, and what does not come is not waited for.
    let shard = cluster.0[1].shard();
    let last = shard.applied_next() - 1;
    assert!(shard.hash_state(1, BOUND, RATE).await.unwrap().applied.log_id.unwrap().index >= last);
    let failure = shard.hash_state(last + 1000, Duration::from_millis(100), RATE).await.unwrap_err();
    assert_eq!(failure.reason, Reason::DeadlineExceeded);
    cluster.put("last", "1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_others_elect_a_leader_and_the_old_one_catches_up_when_it_returns() {
    let mut cluster = Cluster::start(3, Settings::default()).await;
    cluster.put("before", "1").await;
    cluster.transfer_to(1).await;
    let term = cluster.0[0].shard().report().term;
    let old = cluster.0.remove(0);
    old.gateway.close();
    old.shard().stop().await;
    old.replication.context.links.close();

    cluster.put("meanwhile", "2").await;
    let leader = cluster.leader().map(|node| (node.id, node.shard().report().term));
    assert!(leader.is_some_and(|(id, new_term)| id != 1 && new_term > term), "{leader:?} after term {term}");
    cluster.0.push(old.crash_and_restart().await);
    cluster.until_all_have("before", "1").await;
    cluster.until_all_have("meanwhile", "2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_goes_where_it_is_sent_and_no_write_is_lost() {
    let cluster = Cluster::start(3, Settings::default()).await;
    for target in [2, 3, 1, 3] {
        cluster.transfer_to(target).await;
        until("the target leads", || cluster.leader().is_some_and(|leader| leader.id == target)).await;
        cluster.put("last-leader", &target.to_string()).await;
        cluster.until_all_have("last-leader", &target.to_string()).await;
    }
    let failure = cluster
        .on_leader("refuse", async |shard| Ok(shard.transfer_leader(9, Duration::from_secs(1)).await.unwrap_err()));
    assert_eq!(failure.await.reason, Reason::InvalidField, "a node that is no voter");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nothing_is_acknowledged() {
    let cluster = Cluster::start(3, Settings::default()).await;
    cluster.put("key", "before").await;
    cluster.transfer_to(1).await;
    let shard = cluster.0[0].shard();
    for node in &cluster.0 {
        node.gateway.close();
    }
    let failure = shard.execute(put("key", "alone"), Instant::now() + Duration::from_millis(500)).await.unwrap_err();
    // It cannot know that its peers never got the entry; or it had noticed before that nobody answers.
    assert!(matches!(failure.reason, Reason::OutcomeUnknown | Reason::NoLeader | Reason::NotLeader), "{failure}");
    assert_eq!(value(&shard, "key").unwrap(), "before");
    assert!(shard.read_barrier(Instant::now() + Duration::from_millis(500)).await.is_err());

    for node in &cluster.0 {
        node.gateway.open();
    }
    cluster.put("key", "after").await;
    cluster.until_all_have("key", "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_after_a_purge_gets_a_snapshot_and_can_send_it_on() {
    let settings = Settings::default().with_short_log();
    let mut cluster = Cluster::start(1, settings.clone()).await;
    let mut written = 0;
    while cluster.0[0].purged_upto().is_none_or(|purged| purged < 10) {
        cluster.put(&format!("key{written}"), "v").await;
        written += 1;
        assert!(written < 10_000, "the log is never purged");
    }
    for id in [2, 3] {
        let newcomer = TestNode::start(id, settings.clone()).await;
        cluster.add_voter(&newcomer).await;
        cluster.0.push(newcomer);
        for nth in 0..written {
            cluster.until_all_have(&format!("key{nth}"), "v").await;
        }
        let newcomer = &cluster.0[cluster.0.len() - 1];
        // Openraft purges after the snapshot is readable. One that got the first entries has nothing to purge yet.
        until("the snapshot replaces the log", || newcomer.purged_upto().is_some()).await;
        let snapshots = newcomer.snapshots();
        assert!(!snapshots.iter().any(|name| name.starts_with("received")), "left behind: {snapshots:?}");
        // The next newcomer's snapshot comes from this one, which has built none itself.
        cluster.transfer_to(id).await;
        until("the newcomer leads", || cluster.leader().is_some_and(|leader| leader.id == id)).await;
    }
    cluster.put("last", "v").await;
    cluster.until_all_have("last", "v").await;
}
