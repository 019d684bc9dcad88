//! The log in a process of its own, which is killed, or whose disk fails.
//!
//! The child is this test binary again, running one of the ignored tests below.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use cirrus_storage::{NodeLog, StorageError};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};

use crate::fixture::*;

const DIRECTORY: &str = "CIRRUS_STORAGE_TEST_DIRECTORY";

fn spawn(test: &str, directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The directory, if this process is a child.
fn directory() -> Option<PathBuf> {
    std::env::var_os(DIRECTORY).map(PathBuf::from)
}

#[test]
#[ignore = "run as a child of the test below"]
#[allow(clippy::print_stdout)]
fn child_that_appends_until_it_is_killed() {
    let Some(directory) = directory() else { return };
    let node = Arc::new(NodeLog::open(&directory, &resources(), log_config()).unwrap());
    std::thread::scope(|scope| {
        for shard_id in 0..3 {
            let log = node.shard(shard_id);
            scope.spawn(move || {
                loop {
                    let last = log.state().last.unwrap_or_default();
                    let term = last.term + u64::from(last.index % 16 == 15);
                    wait(|done| log.append(entries(term, last.index + 1..=last.index + 3, &[7; 300]), done)).unwrap();
                    println!("acknowledged {shard_id} {}", last.index + 3);
                    if last.index % 30 == 0 {
                        log.purge(last).unwrap();
                    }
                }
            });
        }
    });
}

#[test]
fn killing_the_process_loses_nothing_acknowledged() {
    let directory = scratch();
    for round in 1..=3 {
        let mut child = spawn("log_process::child_that_appends_until_it_is_killed", directory.path());
        let mut acknowledged: HashMap<u32, u64> = HashMap::new();
        let mut count = 0;
        let mut killed = false;
        // After the kill it reads on: what the child could still say before it died, it acknowledged.
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            // The harness's own text may stand before it.
            let line = line.unwrap();
            let Some((_, numbers)) = line.split_once("acknowledged ") else { continue };
            let Some((shard_id, index)) = numbers.split_once(' ') else { continue };
            acknowledged.insert(shard_id.parse().unwrap(), index.parse().unwrap());
            count += 1;
            if !killed && acknowledged.len() == 3 && count > 150 * round {
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        assert!(killed, "the child ended by itself");

        let node = Arc::new(NodeLog::open(directory.path(), &resources(), log_config()).unwrap());
        for (shard_id, index) in acknowledged {
            let log = node.shard(shard_id);
            assert!(log.state().last.unwrap().index >= index, "shard {shard_id} lost entry {index}");
            let first = log.state().last_purged.map_or(1, |purged| purged.index + 1);
            let read = log.read(0..u64::MAX, usize::MAX).unwrap();
            assert_eq!(read.first().map(|entry| entry.index), Some(first));
            assert!(read.iter().all(|read| *read == entry(read.term, read.index, vec![7; 300])));
        }
    }
}

#[test]
#[ignore = "run as a child of the test below"]
fn child_whose_disk_fails() {
    let Some(directory) = directory() else { return };
    // Beyond the limit a write fails with EFBIG, if the signal that goes with it is blocked. The log's thread
    // inherits the mask.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    signals.thread_block().unwrap();
    let node = Arc::new(NodeLog::open(&directory, &resources(), log_config()).unwrap());
    let log = node.shard(1);
    wait(|done| log.append(entries(1, 0..=9, &[1; 400]), done)).unwrap();
    let file_bytes_max = 64 << 10;
    setrlimit(Resource::RLIMIT_FSIZE, file_bytes_max, file_bytes_max).unwrap();

    let mut outcomes = Vec::new();
    let mut refused = None;
    for index in 10..400 {
        let (callback, outcome) = done();
        match log.append(entries(1, index..=index, &[2; 1_000]), callback) {
            Ok(()) => outcomes.push(outcome),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let outcomes: Vec<_> = outcomes.into_iter().map(|outcome| outcome.recv_timeout(PATIENCE).unwrap()).collect();
    let written = outcomes.iter().take_while(|outcome| outcome.is_ok()).count();
    assert!(written < outcomes.len(), "no write failed");
    let error = outcomes[written].clone().unwrap_err();
    assert!(matches!(error, StorageError::Failed(_)), "{error}");
    // Nothing after the failure is acknowledged, and everyone gets the same error.
    assert!(outcomes[written..].iter().all(|outcome| *outcome == Err(error.clone())));
    assert!(refused.is_none_or(|refused| refused == error));
    assert_eq!(node.failure(), Some(error.clone()));
    assert_eq!(wait(|done| node.shard(2).save_vote(vote(1, 1), done)), Err(error.clone()));
    assert_eq!(log.save_committed(Some(id(1, 3))), Err(error.clone()));
    assert_eq!(log.truncate_after(None), Err(error.clone()));
    assert_eq!(log.purge(id(1, 3)), Err(error));
    std::fs::write(directory.join("acknowledged"), (9 + written).to_string()).unwrap();
}

#[test]
fn after_an_io_error_every_call_fails_and_what_was_acknowledged_is_kept() {
    let directory = scratch();
    let status = spawn("log_process::child_whose_disk_fails", directory.path()).wait().unwrap();
    assert!(status.success());
    let acknowledged: u64 = std::fs::read_to_string(directory.path().join("acknowledged")).unwrap().parse().unwrap();
    let node = Arc::new(NodeLog::open(directory.path(), &resources(), log_config()).unwrap());
    let log = node.shard(1);
    assert!(log.state().last.unwrap().index >= acknowledged);
    assert!(log.state().last_purged.is_none());
    assert_eq!(log.read(0..u64::MAX, usize::MAX).unwrap().first().map(|entry| entry.index), Some(0));
}
