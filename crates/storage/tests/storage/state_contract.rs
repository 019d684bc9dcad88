//! What the state's calls do while the power stays on.

use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;
use cirrus_proto::internal::v1::{Effect, MemberNode, Membership, StoredMembership, Table};
use cirrus_storage::{ApplyBatch, Checkpoint, ShardState, StorageError, delete_checkpoints_except};

use crate::fixture::*;

type Pairs = Vec<(Bytes, Bytes)>;

fn scan(state: &ShardState, table: Table, start: &[u8], end: Option<&[u8]>) -> Pairs {
    let mut pairs = Pairs::new();
    state
        .scan(table, start, end, &mut |key, value| {
            pairs.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            ControlFlow::Continue(())
        })
        .unwrap();
    pairs
}

fn keys(pairs: &Pairs) -> Vec<&[u8]> {
    pairs.iter().map(|(key, _)| key.as_ref()).collect()
}

fn membership(index: u64) -> StoredMembership {
    let nodes = [(1, MemberNode { address: "a:1".to_owned(), http_address: "a:2".to_owned() })].into();
    StoredMembership { log_id: Some(id(1, index)), membership: Some(Membership { configurations: Vec::new(), nodes }) }
}

#[test]
fn effects_applied_id_and_membership_are_read_back() {
    let directory = scratch();
    let state = ShardState::open(directory.path(), &resources()).unwrap();
    assert_eq!(state.applied(), Default::default());
    let effects = vec![
        put(Table::Data, "a", "1"),
        put(Table::Data, "b", "2"),
        put(Table::Expiry, "b", ""),
        put(Table::Sessions, "s", "reply"),
        put(Table::Meta, "head", "h"),
        put(Table::Catalog, "c", "facts"),
        put(Table::Data, "a", "3"),
    ];
    state.apply(&ApplyBatch { effects, applied: id(1, 4), membership: Some(membership(3)) }).unwrap();
    state.apply(&batch(6, vec![delete(Table::Data, "b"), delete(Table::Data, "never there")])).unwrap();

    assert_eq!(state.get(Table::Data, b"a").unwrap(), Some("3".into()));
    assert_eq!(state.get(Table::Data, b"b").unwrap(), None);
    assert_eq!(state.get(Table::Expiry, b"b").unwrap(), Some("".into()));
    assert_eq!(state.get(Table::Sessions, b"s").unwrap(), Some("reply".into()));
    assert_eq!(state.get(Table::Meta, b"head").unwrap(), Some("h".into()));
    assert_eq!(state.get(Table::Catalog, b"c").unwrap(), Some("facts".into()));
    assert_eq!(state.applied().log_id, Some(id(1, 6)));
    assert_eq!(state.applied().membership, membership(3));
    drop(state);
    let state = ShardState::open(directory.path(), &resources()).unwrap();
    assert_eq!(state.applied().log_id, Some(id(1, 6)));
    assert_eq!(state.applied().membership, membership(3));
    assert_eq!(state.get(Table::Data, b"a").unwrap(), Some("3".into()));
}

#[test]
fn a_scan_gives_the_range_in_byte_order_until_told_to_stop() {
    let directory = scratch();
    let state = ShardState::open(directory.path(), &resources()).unwrap();
    let all: [&[u8]; 6] = [b"", b"a", b"a\0", b"ab", b"b", b"\xff\xff"];
    let effects = all.iter().rev().map(|key| put(Table::Data, key.to_vec(), "v")).collect();
    state.apply(&batch(1, effects)).unwrap();
    for flushed in [false, true] {
        if flushed {
            state.flush().unwrap();
        }
        assert_eq!(keys(&scan(&state, Table::Data, b"", None)), all);
        assert_eq!(keys(&scan(&state, Table::Data, b"a", Some(b"b"))), [&b"a"[..], b"a\0", b"ab"]);
        assert_eq!(keys(&scan(&state, Table::Data, b"aa", Some(b"ab\0"))), [b"ab"]);
        assert!(scan(&state, Table::Data, b"b", Some(b"a")).is_empty());
        assert!(scan(&state, Table::Data, b"b", Some(b"b")).is_empty());
        assert!(scan(&state, Table::Expiry, b"", None).is_empty());
        let mut visited = 0;
        state
            .scan(Table::Data, b"", None, &mut |_, _| {
                visited += 1;
                if visited == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
        assert_eq!(visited, 2);
    }
}

#[test]
fn a_snapshot_does_not_see_what_comes_later() {
    let directory = scratch();
    let state = ShardState::open(directory.path(), &resources()).unwrap();
    state.apply(&batch(1, vec![put(Table::Data, "k", "old")])).unwrap();
    let pinned = state.pin();
    let snapshot = pinned.snapshot().unwrap();
    state.apply(&batch(2, vec![put(Table::Data, "k", "new"), put(Table::Data, "l", "new")])).unwrap();
    state.flush().unwrap();
    assert_eq!(snapshot.get(Table::Data, b"k").unwrap(), Some("old".into()));
    assert_eq!(snapshot.applied().unwrap().log_id, Some(id(1, 1)));
    let mut seen = 0;
    snapshot
        .scan(Table::Data, b"", None, &mut |_, _| {
            seen += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, 1);
    assert_eq!(state.get(Table::Data, b"k").unwrap(), Some("new".into()));
}

#[test]
fn a_refused_batch_changes_nothing() {
    let directory = scratch();
    let state = ShardState::open(directory.path(), &resources()).unwrap();
    state.apply(&batch(5, vec![put(Table::Data, "k", "v")])).unwrap();
    let no_change = Effect { table: Table::Data.into(), key: "k".into(), change: None };
    let unknown_table = Effect { table: 77, ..put(Table::Data, "k", "x") };
    for wrong in [no_change, unknown_table, put(Table::Unspecified, "k", "x")] {
        let effects = vec![put(Table::Data, "k", "changed"), wrong];
        assert!(matches!(state.apply(&batch(6, effects)), Err(StorageError::Refused(_))));
    }
    for index in [4, 5] {
        let again = batch(index, vec![put(Table::Data, "k", "changed")]);
        assert!(matches!(state.apply(&again), Err(StorageError::Refused(_))));
    }
    assert_eq!(state.get(Table::Data, b"k").unwrap(), Some("v".into()));
    assert_eq!(state.applied().log_id, Some(id(1, 5)));
    assert!(matches!(state.get(Table::Unspecified, b"k"), Err(StorageError::Refused(_))));
}

#[test]
fn flushed_is_what_a_flush_has_covered() {
    let directory = scratch();
    let state = ShardState::open(directory.path(), &resources()).unwrap();
    state.apply(&batch(1, vec![put(Table::Data, "k", "v")])).unwrap();
    assert_eq!(state.flushed().unwrap(), None);
    assert!(state.unflushed_bytes() > 0);
    state.flush().unwrap();
    assert_eq!(state.flushed().unwrap(), Some(id(1, 1)));
    assert_eq!(state.unflushed_bytes(), 0);
    state.apply(&batch(2, vec![put(Table::Expiry, "k", "v")])).unwrap();
    assert_eq!(state.flushed().unwrap(), Some(id(1, 1)));
    drop(state);
    let state = ShardState::open(directory.path(), &resources()).unwrap();
    assert_eq!(state.flushed().unwrap(), state.applied().log_id);
}

#[test]
fn a_full_memtable_advances_flushed_by_itself() {
    let directory = scratch();
    let state = ShardState::open(directory.path(), &resources()).unwrap();
    let mut index = 0;
    eventually(|| {
        index += 1;
        state.apply(&batch(index, vec![put(Table::Data, index.to_be_bytes().to_vec(), vec![1; 50_000])])).unwrap();
        state.flushed().unwrap().is_some()
    });
    assert!(state.flushed().unwrap().unwrap().index <= index);
}

#[test]
fn a_checkpoint_holds_everything_applied_so_far() {
    let directory = scratch();
    let state = ShardState::open(&directory.path().join("a"), &resources()).unwrap();
    let effects = (0..100u8).map(|key| put(Table::Data, vec![key], vec![key; 100])).collect();
    state.apply(&ApplyBatch { effects, applied: id(3, 9), membership: Some(membership(2)) }).unwrap();
    let checkpoint = state.checkpoint(&directory.path().join("checkpoints/9")).unwrap();
    assert_eq!(checkpoint.applied, state.applied());
    assert_eq!(state.flushed().unwrap(), Some(id(3, 9)));
    assert!(checkpoint.files.iter().any(|file| file.name == "CURRENT"));
    for file in &checkpoint.files {
        let metadata = std::fs::metadata(checkpoint.directory.join(&file.name)).unwrap();
        assert_eq!(metadata.len(), file.bytes);
    }
    assert_eq!(checkpoint.total_bytes(), checkpoint.files.iter().map(|file| file.bytes).sum::<u64>());
    assert!(matches!(state.checkpoint(&checkpoint.directory), Err(StorageError::Refused(_))));

    // Copied file by file, as a transfer does, and installed elsewhere.
    let received = directory.path().join("received");
    std::fs::create_dir(&received).unwrap();
    for file in &checkpoint.files {
        std::fs::copy(checkpoint.directory.join(&file.name), received.join(&file.name)).unwrap();
    }
    let other = ShardState::open(&directory.path().join("b"), &resources()).unwrap();
    other.install(&received).unwrap();
    assert_eq!(other.applied(), state.applied());
    assert_eq!(other.flushed().unwrap(), Some(id(3, 9)));
    assert_eq!(scan(&other, Table::Data, b"", None), scan(&state, Table::Data, b"", None));
    other.apply(&batch(10, vec![put(Table::Data, "more", "x")])).unwrap();
}

#[test]
fn checkpoints_taken_while_effects_are_applied_stand_at_exactly_one_index() {
    let directory = scratch();
    let state = ShardState::open(&directory.path().join("state"), &resources()).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let checkpoints: Vec<_> = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut index = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                index += 1;
                let value = index.to_string();
                let effects = vec![
                    put(Table::Data, (index % 50).to_string(), value.clone()),
                    put(Table::Expiry, index.to_be_bytes().to_vec(), ""),
                    delete(Table::Expiry, index.saturating_sub(10).to_be_bytes().to_vec()),
                    put(Table::Meta, "last", value),
                ];
                state.apply(&batch(index, effects)).unwrap();
            }
        });
        let mut checkpoints = Vec::new();
        for number in 0..6 {
            let before = state.applied().log_id.unwrap_or_default().index;
            eventually(|| state.applied().log_id.unwrap_or_default().index > before + 100);
            checkpoints.push(state.checkpoint(&directory.path().join(format!("checkpoint-{number}"))).unwrap());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        checkpoints
    });
    for (number, checkpoint) in checkpoints.into_iter().enumerate() {
        let index = checkpoint.applied.log_id.unwrap().index;
        let other = ShardState::open(&directory.path().join(format!("other-{number}")), &resources()).unwrap();
        other.install(&checkpoint.directory).unwrap();
        assert_eq!(other.get(Table::Meta, b"last").unwrap(), Some(index.to_string().into()));
        assert_eq!(
            other.get(Table::Data, (index % 50).to_string().as_bytes()).unwrap(),
            Some(index.to_string().into())
        );
        let expiry = scan(&other, Table::Expiry, b"", None);
        let expected: Vec<_> = (index - 9..=index).map(|index| index.to_be_bytes()).collect();
        assert_eq!(keys(&expiry), expected);
    }
}

#[test]
fn an_install_replaces_everything_and_readers_keep_what_they_hold() {
    let directory = scratch();
    let source = ShardState::open(&directory.path().join("source"), &resources()).unwrap();
    source.apply(&batch(50, vec![put(Table::Data, "new", "1")])).unwrap();
    let checkpoint = source.checkpoint(&directory.path().join("checkpoint")).unwrap();

    let root = directory.path().join("target");
    let target = ShardState::open(&root, &resources()).unwrap();
    target.apply(&batch(7, vec![put(Table::Data, "old", "1")])).unwrap();
    let pinned = target.pin();
    let snapshot = pinned.snapshot().unwrap();
    target.install(&checkpoint.directory).unwrap();
    assert!(!checkpoint.directory.exists(), "the checkpoint was moved");
    assert_eq!(target.applied().log_id, Some(id(1, 50)));
    assert_eq!(target.get(Table::Data, b"old").unwrap(), None);
    assert_eq!(target.get(Table::Data, b"new").unwrap(), Some("1".into()));
    assert_eq!(snapshot.get(Table::Data, b"old").unwrap(), Some("1".into()));
    assert_eq!(snapshot.get(Table::Data, b"new").unwrap(), None);
    let generations = || std::fs::read_dir(&root).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count();
    assert_eq!(generations(), 2);
    drop(snapshot);
    drop(pinned);
    assert_eq!(generations(), 1, "the replaced state goes with its last reader");
    target.apply(&batch(51, vec![put(Table::Data, "more", "1")])).unwrap();
    drop(target);
    let target = ShardState::open(&root, &resources()).unwrap();
    assert_eq!(target.applied().log_id, Some(id(1, 51)));
}

#[test]
fn readers_during_an_install_see_the_old_state_or_the_new() {
    let directory = scratch();
    let target = ShardState::open(&directory.path().join("target"), &resources()).unwrap();
    let effects = |value: &str| (0..20u8).map(|key| put(Table::Data, vec![key], value.to_owned())).collect();
    target.apply(&batch(1, effects("1"))).unwrap();
    let source = ShardState::open(&directory.path().join("source"), &resources()).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut newest = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let pairs = scan(&target, Table::Data, b"", None);
                    assert_eq!(pairs.len(), 20);
                    assert!(pairs.iter().all(|(_, value)| *value == pairs[0].1));
                    let version: u64 = std::str::from_utf8(&pairs[0].1).unwrap().parse().unwrap();
                    assert!(version >= newest);
                    newest = version;
                }
            });
        }
        for version in 2..8 {
            source.apply(&batch(version, effects(&version.to_string()))).unwrap();
            let checkpoint = source.checkpoint(&directory.path().join("checkpoint")).unwrap();
            target.install(&checkpoint.directory).unwrap();
            assert_eq!(target.applied().log_id, Some(id(1, version)));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn a_broken_checkpoint_is_refused_and_changes_nothing() {
    let directory = scratch();
    let state = ShardState::open(&directory.path().join("state"), &resources()).unwrap();
    let empty = state.checkpoint(&directory.path().join("empty"));
    assert!(matches!(empty, Err(StorageError::Refused(_))), "nothing is applied yet");
    state.apply(&batch(3, vec![put(Table::Data, "k", vec![7; 2_000])])).unwrap();
    let checkpoint = state.checkpoint(&directory.path().join("good")).unwrap();
    let good = DiskImage::capture(&checkpoint.directory);
    let broken = directory.path().join("broken");
    let refused = |what: &str| {
        let outcome = state.install(&broken);
        assert!(matches!(outcome, Err(StorageError::Refused(_))), "{what}: {outcome:?}");
        assert_eq!(state.get(Table::Data, b"k").unwrap(), Some(vec![7; 2_000].into()), "{what}");
        assert_eq!(state.applied().log_id, Some(id(1, 3)));
    };
    refused("no directory");
    assert!(!broken.exists(), "checking creates nothing");
    std::fs::create_dir(&broken).unwrap();
    refused("empty directory");
    for file in checkpoint.files.iter().filter(|file| !file.name.starts_with("OPTIONS")) {
        let name = std::path::Path::new(&file.name);
        let mut missing = good.clone();
        missing.0.remove(name);
        missing.restore(&broken);
        refused(&format!("without {}", file.name));
        good.with(name, good.0[name][..good.0[name].len() / 2].to_vec()).restore(&broken);
        refused(&format!("with half of {}", file.name));
    }
    good.restore(&broken);
    std::fs::create_dir(broken.join("directory")).unwrap();
    refused("with a directory");
    good.restore(&broken);
    std::os::unix::fs::symlink("/etc/passwd", broken.join("link")).unwrap();
    refused("with a link");
    good.with(std::path::Path::new("000099.log"), Vec::new()).restore(&broken);
    refused("with a write-ahead log");
    good.restore(&broken);
    state.install(&broken).unwrap();
}

#[test]
fn old_checkpoints_are_deleted_whole_or_half() {
    let directory = scratch();
    let state = ShardState::open(&directory.path().join("state"), &resources()).unwrap();
    state.apply(&batch(1, vec![put(Table::Data, "k", "v")])).unwrap();
    let parent = directory.path().join("checkpoints");
    assert_eq!(delete_checkpoints_except(&parent, &[]).unwrap(), 0);
    let kept = state.checkpoint(&parent.join("kept")).unwrap();
    state.checkpoint(&parent.join("old")).unwrap();
    std::fs::create_dir_all(parent.join("half.removed")).unwrap();
    std::fs::create_dir_all(parent.join("unfinished.tmp")).unwrap();
    assert_eq!(delete_checkpoints_except(&parent, &[&kept.directory]).unwrap(), 3);
    assert_eq!(std::fs::read_dir(&parent).unwrap().count(), 1);
    kept.delete().unwrap();
    assert_eq!(std::fs::read_dir(&parent).unwrap().count(), 0);
    assert_eq!(state.get(Table::Data, b"k").unwrap(), Some("v".into()), "links, not the files, were deleted");
}

#[test]
fn reads_see_what_was_applied_wherever_it_is_on_its_way_to_rocksdb() {
    let directory = scratch();
    let state = ShardState::open(directory.path(), &resources()).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let mut model = std::collections::BTreeMap::new();
    std::thread::scope(|scope| {
        // Neither a full buffer's nor a scan's: writing back may come at any moment.
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                state.write_back().unwrap();
                std::thread::yield_now();
            }
        });
        for index in 1..=4_000u64 {
            let key = (index * index % 61).to_be_bytes().to_vec();
            let effect = if index % 5 == 0 {
                model.remove(&key);
                delete(Table::Data, key.clone())
            } else {
                let value = vec![index as u8; (index % 1_500) as usize];
                model.insert(key.clone(), value.clone());
                put(Table::Data, key.clone(), value)
            };
            state.apply(&batch(index, vec![effect])).unwrap();
            assert_eq!(state.get(Table::Data, &key).unwrap().as_deref(), model.get(&key).map(Vec::as_slice));
            if index % 97 == 0 {
                let scanned = scan(&state, Table::Data, b"", None);
                assert!(
                    scanned
                        .iter()
                        .map(|(key, value)| (key.as_ref(), value.as_ref()))
                        .eq(model.iter().map(|(key, value)| (key.as_slice(), value.as_slice())))
                );
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    state.flush().unwrap();
    assert_eq!(state.flushed().unwrap(), Some(id(1, 4_000)));
}

#[test]
fn a_buffer_that_nobody_writes_back_stays_bounded() {
    let directory = scratch();
    let state = ShardState::open(directory.path(), &resources()).unwrap();
    let buffer_bytes = resources().config().state_buffer_bytes as u64;
    let (mut was_due, mut largest) = (false, 0);
    for index in 1..=2_000u64 {
        state.apply(&batch(index, vec![put(Table::Data, index.to_be_bytes().to_vec(), vec![1; 500])])).unwrap();
        was_due |= state.is_write_back_due();
        largest = largest.max(state.buffered_bytes());
    }
    assert!(was_due, "a full buffer says so");
    assert!((buffer_bytes..3 * buffer_bytes).contains(&largest), "{largest} of {buffer_bytes}");
    assert_eq!(scan(&state, Table::Data, b"", None).len(), 2_000);
    assert_eq!(state.buffered_bytes(), 0, "a scan has everything written back");
}

#[test]
fn statistics_grow_with_the_state() {
    let directory = scratch();
    let state = ShardState::open(directory.path(), &resources()).unwrap();
    let effects = (0..1_000u32).map(|key| put(Table::Data, key.to_be_bytes().to_vec(), vec![1; 20])).collect();
    state.apply(&batch(1, effects)).unwrap();
    assert_eq!(state.statistics().disk_bytes, 0);
    state.flush().unwrap();
    assert!(state.statistics().disk_bytes > 0);
    assert_eq!(state.statistics().keys_estimate, 1_000);
}

/// A state, or a checkpoint, as a version wrote it that knew no databases.
fn without_databases(directory: &Path) {
    let options = rocksdb::Options::default();
    let families = rocksdb::DB::list_cf(&options, directory).unwrap();
    let mut db = rocksdb::DB::open_cf(&options, directory, families).unwrap();
    db.drop_cf("sql").unwrap();
    drop(db);
    assert!(!rocksdb::DB::list_cf(&options, directory).unwrap().contains(&"sql".to_owned()));
    // What opening it here began, with nothing in it.
    for path in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_some_and(|extension| extension == "log") {
            std::fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn a_state_of_before_there_were_databases_opens() {
    let directory = scratch();
    let live = |directory: &Path| {
        let mut entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        entries.find(|path| path.is_dir()).unwrap()
    };
    let state = ShardState::open(directory.path(), &resources()).unwrap();
    state.apply(&batch(3, vec![put(Table::Data, "a", "1")])).unwrap();
    let checkpoint = directory.path().join("checkpoint");
    state.flush().unwrap();
    drop(state);
    without_databases(&live(directory.path()));

    let state = ShardState::open(directory.path(), &resources()).unwrap();
    assert_eq!(state.get(Table::Data, b"a").unwrap(), Some("1".into()));
    state.apply(&batch(4, vec![put(Table::Sql, "page", "2")])).unwrap();
    state.checkpoint(&checkpoint).unwrap();
    assert_eq!(state.get(Table::Sql, b"page").unwrap(), Some("2".into()));

    // What an older node sends is taken as well.
    without_databases(&checkpoint);
    assert_eq!(Checkpoint::open(&checkpoint, &resources()).unwrap().applied.log_id, Some(id(1, 4)));
}
