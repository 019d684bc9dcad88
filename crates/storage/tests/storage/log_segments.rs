//! How the log uses its files: few, bounded, used again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use cirrus_proto::internal::v1::{LogId, Vote};
use cirrus_storage::{EncodedEntry, LogConfig, NodeLog, StorageError};
use proptest::prelude::*;

use crate::fixture::*;
use crate::log_format::*;

fn open(directory: &Path, config: &LogConfig) -> Arc<NodeLog> {
    Arc::new(NodeLog::open(directory, &resources(), config.clone()).unwrap())
}

fn files(directory: &Path, kind: &str) -> usize {
    let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == kind)).count()
}

fn small() -> LogConfig {
    LogConfig { segment_bytes: 8 << 10, cache_bytes: 0, ..log_config() }
}

#[test]
fn a_log_that_is_purged_takes_a_few_files_and_no_more() {
    let directory = scratch();
    let node = open(directory.path(), &small());
    let log = node.shard(1);
    for index in 0..400 {
        wait(|done| log.append(entries(1, index..=index, &[1; 600]), done)).unwrap();
        log.purge(id(1, index)).unwrap();
        assert!(files(directory.path(), "spare") <= 2);
    }
    drop((log, node));
    // The writer has ended, and its helper with it.
    assert!(segments(directory.path())[0] > 20);
    assert!(files(directory.path(), "segment") <= 3, "{:?}", segments(directory.path()));
    assert_eq!(open(directory.path(), &small()).shard(1).state().last_purged, Some(id(1, 399)));
}

#[test]
fn an_idle_shard_does_not_keep_the_files_of_the_others() {
    let directory = scratch();
    let node = open(directory.path(), &small());
    let idle = entries(1, 0..=29, &[3; 300]);
    wait(|done| node.shard(1).append(idle.clone(), done)).unwrap();
    let log = node.shard(2);
    let mut most = 0;
    for index in 0..1_000 {
        wait(|done| log.append(entries(1, index..=index, &[4; 600]), done)).unwrap();
        log.purge(id(1, index)).unwrap();
        if index % 100 == 0 {
            assert_eq!(node.shard(1).read(0..30, usize::MAX).unwrap(), idle);
            most = most.max(segments(directory.path()).len());
        }
    }
    drop((log, node));
    most = most.max(segments(directory.path()).len());
    // 10 KB are live: four times that, and some for what is under way.
    assert!(most <= 10, "{most} segments");
    assert!(segments(directory.path())[0] > 50);
    assert_eq!(open(directory.path(), &small()).shard(1).read(0..30, usize::MAX).unwrap(), idle);
}

#[test]
fn readers_notice_nothing_of_segments_that_are_freed_and_used_again() {
    let directory = scratch();
    let node = open(directory.path(), &small());
    let idle = entries(1, 0..=19, &[3; 300]);
    wait(|done| node.shard(1).append(idle.clone(), done)).unwrap();
    let log = node.shard(2);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers = [(); 2].map(|()| {
            let log = node.shard(1);
            let (stop, idle) = (&stop, &idle);
            scope.spawn(move || {
                let mut reads = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(&log.read(0..20, usize::MAX).unwrap(), idle);
                    reads += 1;
                }
                reads
            })
        });
        let mut index = 0;
        while index < 1_000 {
            wait(|done| log.append(entries(1, index..=index, &[4; 600]), done)).unwrap();
            log.purge(id(1, index)).unwrap();
            index += 1;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(readers.into_iter().all(|reader| reader.join().unwrap() > 0));
    });
    assert!(segments(directory.path())[0] > 50);
}

#[test]
fn votes_alone_do_not_fill_the_disk_while_a_shard_is_idle() {
    let directory = scratch();
    let node = open(directory.path(), &small());
    let idle = entries(1, 0..=4, &[3; 300]);
    wait(|done| node.shard(1).append(idle.clone(), done)).unwrap();
    for term in 1..300 {
        wait(|done| node.shard(2).save_vote(vote(term, 1), done)).unwrap();
    }
    drop(node);
    assert!(segments(directory.path()).len() <= 7);
    let node = open(directory.path(), &small());
    assert_eq!(node.shard(1).read(0..30, usize::MAX).unwrap(), idle);
    assert_eq!(node.shard(2).vote(), Some(vote(299, 1)));
}

#[test]
fn a_batch_larger_than_a_segment_gets_one_of_its_own() {
    let directory = scratch();
    let node = open(directory.path(), &small());
    let log = node.shard(1);
    let mut all = entries(1, 0..=3, b"before");
    all.extend(entries(1, 4..=30, &[8; 2_000]));
    all.extend(entries(1, 31..=33, b"after"));
    for batch in [&all[..4], &all[4..31], &all[31..]] {
        wait(|done| log.append(batch.to_vec(), done)).unwrap();
    }
    assert_eq!(log.read(0..100, usize::MAX).unwrap(), all);
    drop((log, node));
    let node = open(directory.path(), &small());
    let log = node.shard(1);
    assert_eq!(log.read(0..100, usize::MAX).unwrap(), all);
    // It is of no use for anything else, so it is not kept.
    log.purge(id(1, 33)).unwrap();
    for index in 34..80 {
        wait(|done| log.append(entries(1, index..=index, &[1; 600]), done)).unwrap();
    }
    drop((log, node));
    for file in std::fs::read_dir(directory.path()).unwrap() {
        assert!(file.unwrap().metadata().unwrap().len() <= 8 << 10);
    }
}

#[test]
fn the_log_is_opened_once_at_a_time() {
    let directory = scratch();
    let node = open(directory.path(), &small());
    let second = NodeLog::open(directory.path(), &resources(), small());
    assert!(matches!(second, Err(StorageError::Failed(_))));
    drop(node);
    open(directory.path(), &small());
}

#[derive(Clone, Debug)]
enum Step {
    Append { shard_id: u32, count: u64, bytes: usize },
    Truncate { shard_id: u32, count: u64 },
    Purge { shard_id: u32, count: u64 },
    PurgePastTheEnd { shard_id: u32 },
    Vote { shard_id: u32 },
    Committed { shard_id: u32 },
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let shard = 0..3u32;
    let step = prop_oneof![
        8 => (shard.clone(), 1..6u64, 0..1_500usize)
            .prop_map(|(shard_id, count, bytes)| Step::Append { shard_id, count, bytes }),
        2 => (shard.clone(), 0..4u64).prop_map(|(shard_id, count)| Step::Truncate { shard_id, count }),
        // One shard is never purged.
        3 => (1..3u32, 1..20u64).prop_map(|(shard_id, count)| Step::Purge { shard_id, count }),
        1 => (1..3u32).prop_map(|shard_id| Step::PurgePastTheEnd { shard_id }),
        1 => shard.clone().prop_map(|shard_id| Step::Vote { shard_id }),
        1 => shard.prop_map(|shard_id| Step::Committed { shard_id }),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 20..120)
}

#[derive(Default)]
struct Model {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, Arc<EncodedEntry>>,
    term: u64,
}

impl Model {
    fn last(&self) -> Option<LogId> {
        self.entries.values().next_back().map(|entry| entry.log_id()).or(self.purged)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// With files so small that they are freed, relocated from and used again all the time.
    #[test]
    fn the_log_is_what_was_asked_of_it_before_and_after_a_restart(steps in steps(), segment_kib in 4..12usize) {
        let directory = scratch();
        let config = LogConfig { segment_bytes: segment_kib << 10, cache_bytes: 2_000, ..log_config() };
        let resources = resources();
        let open = || Arc::new(NodeLog::open(directory.path(), &resources, config.clone()).unwrap());
        let mut node = open();
        let mut models: BTreeMap<u32, Model> = BTreeMap::new();
        for step in steps.iter().chain([&Step::Reopen]) {
            match *step {
                Step::Append { shard_id, count, bytes } => {
                    let model = models.entry(shard_id).or_default();
                    let next = model.last().map_or(0, |last| last.index + 1);
                    let new = entries(model.term, next..=next + count - 1, &vec![bytes as u8; bytes]);
                    model.entries.extend(new.iter().map(|entry| (entry.index, entry.clone())));
                    wait(|done| node.shard(shard_id).append(new, done)).unwrap();
                }
                Step::Truncate { shard_id, count } => {
                    let model = models.entry(shard_id).or_default();
                    for _ in 0..count {
                        model.entries.pop_last();
                    }
                    model.term = model.term.max(model.last().map_or(0, |last| last.term)) + 1;
                    node.shard(shard_id).truncate_after(model.last()).unwrap();
                }
                Step::Purge { shard_id, count } => {
                    let model = models.entry(shard_id).or_default();
                    for _ in 0..count {
                        if let Some((_, entry)) = model.entries.pop_first() {
                            model.purged = Some(entry.log_id());
                        }
                    }
                    if let Some(purged) = model.purged {
                        node.shard(shard_id).purge(purged).unwrap();
                    }
                }
                Step::PurgePastTheEnd { shard_id } => {
                    let model = models.entry(shard_id).or_default();
                    let purged = id(model.term, model.last().map_or(0, |last| last.index) + 50);
                    model.entries.clear();
                    model.purged = Some(purged);
                    node.shard(shard_id).purge(purged).unwrap();
                }
                Step::Vote { shard_id } => {
                    let model = models.entry(shard_id).or_default();
                    let term = model.vote.map_or(1, |vote| vote.term + 1);
                    model.vote = Some(vote(term, 1));
                    wait(|done| node.shard(shard_id).save_vote(vote(term, 1), done)).unwrap();
                }
                Step::Committed { shard_id } => {
                    let model = models.entry(shard_id).or_default();
                    model.committed = model.last();
                    node.shard(shard_id).save_committed(model.last()).unwrap();
                }
                Step::Reopen => {
                    drop(node);
                    node = open();
                }
            }
            for (shard_id, model) in &models {
                let log = node.shard(*shard_id);
                prop_assert_eq!(log.state().last, model.last());
                prop_assert_eq!(log.state().last_purged, model.purged);
                prop_assert_eq!((log.vote(), log.committed()), (model.vote, model.committed));
                let read = log.read(0..u64::MAX, usize::MAX).unwrap();
                prop_assert!(read.iter().eq(model.entries.values()));
            }
        }
    }
}
