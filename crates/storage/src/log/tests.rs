//! Fsyncs as the appender counts them: an image of a running machine's files shows what was written, not what was
//! fsynced.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use cirrus_proto::internal::v1::{Entry, LogId, Vote};

use super::{EncodedEntry, LogConfig, NodeLog};
use crate::{SharedResources, StorageConfig};

const PATIENCE: Duration = Duration::from_secs(20);

fn entry(index: u64) -> Arc<EncodedEntry> {
    let entry = Entry { log_id: Some(LogId { term: 1, index }), payload: None };
    Arc::new(EncodedEntry::encode(&entry).unwrap())
}

fn config() -> LogConfig {
    LogConfig { segment_bytes: 256 << 10, ..LogConfig::default() }
}

fn open(directory: &Path, config: LogConfig) -> Arc<NodeLog> {
    let resources = SharedResources::new(StorageConfig::default()).unwrap();
    Arc::new(NodeLog::open(directory, &resources, config).unwrap())
}

fn fsyncs(node: &NodeLog) -> u64 {
    node.core.fsyncs.load(Ordering::SeqCst)
}

#[test]
fn a_callback_comes_after_an_fsync_that_came_after_the_call() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path(), config());
    let log = node.shard(1);
    for index in 0..40 {
        let before = fsyncs(&node);
        let (sender, receiver) = channel();
        let counted = node.clone();
        let done = Box::new(move |outcome| sender.send((outcome, fsyncs(&counted))).unwrap());
        if index % 2 == 0 {
            log.append(vec![entry(index / 2)], done).unwrap();
        } else {
            log.save_vote(Vote { term: index, node_id: 1, committed: false }, done).unwrap();
        }
        let (outcome, at_callback) = receiver.recv_timeout(PATIENCE).unwrap();
        assert_eq!(outcome, Ok(()));
        assert_eq!(at_callback, before + 1, "one operation, one fsync");
    }
}

#[test]
fn operations_that_wait_together_share_one_fsync() {
    let directory = tempfile::tempdir().unwrap();
    let node = open(directory.path(), config());
    let before = fsyncs(&node);
    // The first callback holds the writer until all others wait.
    let (release, held) = channel::<()>();
    let (sender, receiver) = channel();
    let hold = Box::new(move |_| held.recv_timeout(PATIENCE).unwrap());
    node.shard(0).append(vec![entry(0)], hold).unwrap();
    for shard_id in 1..=50 {
        let sender = sender.clone();
        node.shard(shard_id).append(vec![entry(0)], Box::new(move |outcome| sender.send(outcome).unwrap())).unwrap();
    }
    release.send(()).unwrap();
    for _ in 1..=50 {
        assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), Ok(()));
    }
    // The writer may have taken some of them together with the first.
    let count = fsyncs(&node) - before;
    assert!((1..=2).contains(&count), "{count} fsyncs");
}

#[test]
fn lazy_operations_are_fsynced_within_their_delay() {
    let directory = tempfile::tempdir().unwrap();
    let config = LogConfig { lazy_delay_max: Duration::from_millis(10), ..config() };
    let node = open(directory.path(), config);
    let before = fsyncs(&node);
    node.shard(1).save_committed(Some(LogId { term: 1, index: 1 })).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while fsyncs(&node) == before {
        assert!(Instant::now() < deadline, "it was never fsynced");
        std::thread::sleep(Duration::from_millis(1));
    }
}
