//! What the log's calls do while the power stays on.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use cirrus_storage::{EncodedEntry, LogConfig, LogState, NodeLog, ShardLog, StorageError};

use crate::fixture::*;

fn open(directory: &std::path::Path, config: LogConfig) -> Arc<NodeLog> {
    Arc::new(NodeLog::open(directory, &resources(), config).unwrap())
}

fn indexes(entries: &[Arc<EncodedEntry>]) -> Vec<u64> {
    entries.iter().map(|entry| entry.index).collect()
}

fn append(log: &ShardLog, entries: Vec<Arc<EncodedEntry>>) {
    wait(|done| log.append(entries, done)).unwrap();
}

#[test]
fn everything_is_there_after_a_restart() {
    let directory = scratch();
    {
        let node = open(directory.path(), log_config());
        let log = node.shard(3);
        append(&log, entries(1, 0..=9, b"one"));
        append(&node.shard(8), entries(4, 0..=2, b"other"));
        log.save_committed(Some(id(1, 7))).unwrap();
        log.truncate_after(Some(id(1, 8))).unwrap();
        log.purge(id(1, 4)).unwrap();
        wait(|done| log.save_vote(vote(2, 1), done)).unwrap();
    }
    let node = open(directory.path(), log_config());
    assert_eq!(node.shard_ids(), [3, 8]);
    let log = node.shard(3);
    assert_eq!(log.state(), LogState { last_purged: Some(id(1, 4)), last: Some(id(1, 8)) });
    assert_eq!(log.vote(), Some(vote(2, 1)));
    assert_eq!(log.committed(), Some(id(1, 7)));
    assert_eq!(log.read(0..100, usize::MAX).unwrap(), entries(1, 5..=8, b"one"));
    assert_eq!(node.shard(8).state(), LogState { last_purged: None, last: Some(id(4, 2)) });
    assert_eq!(node.shard(5).state(), LogState::default());
}

#[test]
fn lazy_operations_reach_the_disk_by_themselves_and_on_close() {
    let directory = scratch();
    let config = LogConfig { lazy_delay_max: Duration::from_millis(5), ..log_config() };
    let node = open(directory.path(), config);
    let log = node.shard(1);
    append(&log, entries(1, 0..=5, b"x"));
    let before = DiskImage::capture(directory.path());
    log.purge(id(1, 2)).unwrap();
    eventually(|| before != DiskImage::capture(directory.path()));

    // The writer sleeps without a timer now; it must still notice.
    let before = DiskImage::capture(directory.path());
    log.save_committed(Some(id(1, 5))).unwrap();
    eventually(|| before != DiskImage::capture(directory.path()));
    drop((log, node));

    let node = open(directory.path(), log_config());
    node.shard(1).save_committed(Some(id(1, 4))).unwrap();
    drop(node);
    let node = open(directory.path(), log_config());
    assert_eq!(node.shard(1).committed(), Some(id(1, 4)));
    assert_eq!(node.shard(1).state().last_purged, Some(id(1, 2)));
}

#[test]
fn an_entry_is_readable_when_append_returns() {
    let directory = scratch();
    let node = open(directory.path(), log_config());
    let log = node.shard(1);
    let mut outcomes = Vec::new();
    for index in 0..200 {
        let (done, outcome) = done();
        log.append(vec![entry(1, index, "now")], done).unwrap();
        assert_eq!(log.read(index..index + 1, 0).unwrap(), [entry(1, index, "now")]);
        assert_eq!(log.entry_id(index).unwrap(), Some(id(1, index)));
        outcomes.push(outcome);
    }
    for outcome in outcomes {
        assert_eq!(outcome.recv_timeout(PATIENCE).unwrap(), Ok(()));
    }
}

#[test]
fn callbacks_come_in_the_order_of_the_calls_over_all_shards() {
    let directory = scratch();
    let node = open(directory.path(), log_config());
    let (sender, receiver) = channel();
    for number in 0..600u64 {
        let sender = sender.clone();
        let done = Box::new(move |outcome: Result<(), StorageError>| sender.send((number, outcome)).unwrap());
        let log = node.shard((number % 3) as u32);
        match number % 7 {
            6 => log.save_vote(vote(number, 1), done).unwrap(),
            _ => {
                let next = log.state().last.map_or(0, |last| last.index + 1);
                log.append(vec![entry(1, next, "x")], done).unwrap();
            }
        }
    }
    for number in 0..600 {
        assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), (number, Ok(())));
    }
}

#[test]
fn entries_that_left_the_cache_are_read_from_disk() {
    let directory = scratch();
    let node = open(directory.path(), LogConfig { cache_bytes: 20_000, ..log_config() });
    let log = node.shard(1);
    let all = entries(1, 0..=299, &[9; 900]);
    for chunk in all.chunks(10) {
        append(&log, chunk.to_vec());
    }
    assert_eq!(log.read(0..300, usize::MAX).unwrap(), all);
    assert_eq!(indexes(&log.read(5..300, 5_000).unwrap()), [5, 6, 7, 8, 9]);
    // Over the border between disk and cache, and below any bound.
    for start in (0..300).step_by(7) {
        let read = log.read(start..300, 3_000).unwrap();
        assert_eq!(read, all[start as usize..][..read.len()]);
        assert!(!read.is_empty());
        assert_eq!(indexes(&log.read(start..300, 0).unwrap()), [start]);
        assert_eq!(log.entry_id(start).unwrap(), Some(id(1, start)));
    }
    assert_eq!(log.entry_id(300).unwrap(), None);
    assert_eq!(log.read(300..400, 100).unwrap(), []);
}

#[test]
fn truncated_entries_are_gone_at_once_from_cache_and_disk() {
    let directory = scratch();
    let node = open(directory.path(), LogConfig { cache_bytes: 0, ..log_config() });
    let log = node.shard(1);
    append(&log, entries(1, 0..=9, b"old"));
    log.truncate_after(Some(id(1, 4))).unwrap();
    assert_eq!(indexes(&log.read(0..100, usize::MAX).unwrap()), [0, 1, 2, 3, 4]);
    assert_eq!(log.entry_id(5).unwrap(), None);
    append(&log, entries(2, 5..=6, b"new"));
    let expected: Vec<_> = entries(1, 0..=4, b"old").into_iter().chain(entries(2, 5..=6, b"new")).collect();
    assert_eq!(log.read(0..100, usize::MAX).unwrap(), expected);
    drop((log, node));
    assert_eq!(open(directory.path(), log_config()).shard(1).read(0..100, usize::MAX).unwrap(), expected);
}

#[test]
fn after_a_snapshot_the_log_continues_past_its_end() {
    let directory = scratch();
    let node = open(directory.path(), log_config());
    let log = node.shard(1);
    append(&log, entries(1, 0..=3, b"x"));
    log.purge(id(5, 100)).unwrap();
    assert_eq!(log.state(), LogState { last_purged: Some(id(5, 100)), last: Some(id(5, 100)) });
    assert_eq!(log.entry_id(100).unwrap(), Some(id(5, 100)));
    append(&log, entries(5, 101..=102, b"y"));
    drop((log, node));
    let log = open(directory.path(), log_config()).shard(1);
    assert_eq!(log.read(0..200, usize::MAX).unwrap(), entries(5, 101..=102, b"y"));
}

#[test]
fn what_does_not_continue_the_log_is_refused_and_changes_nothing() {
    let directory = scratch();
    let node = open(directory.path(), log_config());
    let log = node.shard(1);
    append(&log, entries(2, 0..=3, b"x"));
    log.purge(id(2, 1)).unwrap();
    let before = (log.state(), log.read(0..9, usize::MAX).unwrap());
    let (callback, outcome) = done();
    assert!(matches!(log.append(entries(2, 5..=5, b"gap"), callback), Err(StorageError::Refused(_))));
    assert!(outcome.recv_timeout(PATIENCE).is_err(), "the callback is dropped uncalled");
    let (callback, _outcome) = done();
    assert!(matches!(log.append(entries(1, 4..=4, b"older term"), callback), Err(StorageError::Refused(_))));
    assert!(matches!(log.truncate_after(Some(id(2, 0))), Err(StorageError::Refused(_))));
    assert_eq!((log.state(), log.read(0..9, usize::MAX).unwrap()), before);
    append(&log, entries(2, 4..=4, b"x"));
}

#[test]
fn a_closed_log_refuses_changes_and_still_reads() {
    let directory = scratch();
    let node = open(directory.path(), log_config());
    let log = node.shard(1);
    append(&log, entries(1, 0..=1, b"x"));
    node.close();
    let (callback, _outcome) = done();
    assert_eq!(log.append(entries(1, 2..=2, b"x"), callback), Err(StorageError::Closed));
    assert_eq!(log.save_committed(None), Err(StorageError::Closed));
    assert_eq!(node.failure(), None);
    assert_eq!(log.read(0..9, usize::MAX).unwrap().len(), 2);
}

#[test]
fn a_callback_may_drop_the_last_handle() {
    let directory = scratch();
    let node = open(directory.path(), log_config());
    let log = node.shard(1);
    drop(node);
    let (sender, receiver) = channel();
    let held = log.clone();
    let done = Box::new(move |outcome| {
        drop(held);
        sender.send(outcome).unwrap();
    });
    log.append(entries(1, 0..=0, b"x"), done).unwrap();
    drop(log);
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), Ok(()));
}

#[test]
fn a_panicking_callback_fails_the_log_instead_of_hanging_it() {
    let directory = scratch();
    let node = open(directory.path(), log_config());
    let log = node.shard(1);
    log.append(entries(1, 0..=0, b"x"), Box::new(|_| panic!("planted"))).unwrap();
    eventually(|| node.failure().is_some());
    assert!(matches!(wait(|done| log.save_vote(vote(1, 1), done)), Err(StorageError::Failed(_))));
}

#[test]
fn a_full_queue_makes_callers_wait_and_loses_nothing() {
    let directory = scratch();
    let config = LogConfig { queue_bytes_max: 2_000, batch_bytes_max: 1_000, ..log_config() };
    let node = open(directory.path(), config);
    std::thread::scope(|scope| {
        for shard_id in 0..4 {
            let log = node.shard(shard_id);
            scope.spawn(move || {
                for index in 0..100 {
                    // Some are larger than the whole queue.
                    let size = if index % 10 == 0 { 5_000 } else { 300 };
                    let (callback, _outcome) = done();
                    log.append(vec![entry(1, index, vec![1; size])], callback).unwrap();
                }
                wait(|done| log.save_vote(vote(1, 1), done)).unwrap();
            });
        }
    });
    drop(node);
    let node = open(directory.path(), log_config());
    for shard_id in 0..4 {
        assert_eq!(node.shard(shard_id).read(0..1_000, usize::MAX).unwrap().len(), 100);
    }
}

#[test]
fn readers_never_see_a_gap_while_the_log_is_appended_truncated_and_purged() {
    let directory = scratch();
    let node = open(directory.path(), LogConfig { cache_bytes: 2_000, ..log_config() });
    let log = node.shard(1);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let log = log.clone();
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let read = log.read(0..u64::MAX, 4_000).unwrap();
                    for pair in read.windows(2) {
                        assert_eq!(pair[0].index + 1, pair[1].index);
                        assert!(pair[0].term <= pair[1].term);
                    }
                }
            });
        }
        let mut term = 1;
        for round in 0..150u64 {
            let last = log.state().last.map_or(0, |last| last.index);
            append(&log, entries(term, last + 1..=last + 10, &[5; 100]));
            if round % 3 == 0 {
                let to = last + 6;
                log.truncate_after(log.entry_id(to).unwrap()).unwrap();
                term += 1;
            }
            if round % 5 == 4 {
                log.purge(log.entry_id(last.saturating_sub(15).max(1)).unwrap().unwrap_or(id(1, 1))).unwrap();
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
