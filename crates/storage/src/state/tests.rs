//! An install that a crash interrupts between any two of its steps.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use cirrus_proto::internal::v1::{Effect, LogId, Table, effect};

use super::{ApplyBatch, ShardState};
use crate::{SharedResources, StorageConfig};

fn apply(state: &ShardState, index: u64, value: &'static str) {
    let change = Some(effect::Change::Put(value.into()));
    let effects = vec![Effect { table: Table::Data.into(), key: "k".into(), change }];
    state.apply(&ApplyBatch { effects, applied: LogId { term: 1, index }, membership: None }).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { fs::copy(&path, &target).map(drop).unwrap() }
    }
}

#[test]
fn a_crash_between_any_two_steps_of_an_install_leaves_the_old_state_or_the_new() {
    let directory = tempfile::tempdir().unwrap();
    let resources = SharedResources::new(StorageConfig::default()).unwrap();
    let source = ShardState::open(&directory.path().join("source"), &resources).unwrap();
    apply(&source, 50, "new");
    let checkpoint = source.checkpoint(&directory.path().join("checkpoint")).unwrap();
    let root = directory.path().join("target");
    let target = ShardState::open(&root, &resources).unwrap();
    apply(&target, 7, "old");
    target.flush().unwrap();

    let mut crashes = Vec::new();
    target
        .install_observed(&checkpoint.directory, &mut |step| {
            let crashed = directory.path().join(format!("crashed-{step}"));
            copy(&root, &crashed);
            crashes.push((step.to_owned(), crashed));
        })
        .unwrap();

    let mut seen = Vec::new();
    for (step, crashed) in crashes {
        // A half-written pointer may lie beside any of them.
        fs::write(crashed.join("LIVE.tmp"), "state-0000").unwrap();
        let state = ShardState::open(&crashed, &resources).unwrap();
        let (index, value) = match step.as_str() {
            "verified" | "moved" | "opened" => (7, "old"),
            _ => (50, "new"),
        };
        assert_eq!(state.applied().log_id, Some(LogId { term: 1, index }), "{step}");
        assert_eq!(state.get(Table::Data, b"k").unwrap(), Some(value.into()), "{step}");
        let generations = fs::read_dir(&crashed).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
        assert_eq!(generations.count(), 1, "leftovers are removed after {step}");
        // It can be installed again.
        apply(&source, 51 + seen.len() as u64, "newer");
        let again = source.checkpoint(&directory.path().join("again")).unwrap();
        state.install(&again.directory).unwrap();
        assert_eq!(state.get(Table::Data, b"k").unwrap(), Some("newer".into()), "{step}");
        seen.push(step);
    }
    assert_eq!(seen, ["verified", "moved", "opened", "published", "removed"]);
}
