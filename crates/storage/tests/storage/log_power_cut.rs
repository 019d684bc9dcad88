//! Cuts the power between any two bytes that the log writes, and looks at what is left.
//!
//! After each operation was acknowledged, the disk is photographed. Between two photographs lies one fsync: whatever
//! part of the difference had reached the disk when the power went, recovery must find exactly the log as
//! acknowledged, or, where all of it had, the log after the operation that was under way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cirrus_proto::internal::v1::{LogId, Vote};
use cirrus_storage::{EncodedEntry, LogConfig, LogState, NodeLog, SharedResources, StorageError};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::fixture::*;

/// All that a log says about all its shards.
#[derive(Clone, Debug, PartialEq)]
struct Contents(BTreeMap<u32, ShardContents>);

type ShardContents = (LogState, Option<Vote>, Option<LogId>, Vec<Arc<EncodedEntry>>);

impl Contents {
    fn of(node: &Arc<NodeLog>) -> Self {
        let shard = |shard_id| {
            let log = node.shard(shard_id);
            (log.state(), log.vote(), log.committed(), log.read(0..u64::MAX, usize::MAX).unwrap())
        };
        Self(node.shard_ids().into_iter().map(|shard_id| (shard_id, shard(shard_id))).collect())
    }

    fn recovered(directory: &Path, resources: &SharedResources) -> Self {
        Self::of(&Arc::new(NodeLog::open(directory, resources, log_config()).unwrap()))
    }
}

/// A log under test, with what was acknowledged and what was then on disk.
struct Recorder {
    directory: tempfile::TempDir,
    node: Arc<NodeLog>,
    history: Vec<(DiskImage, Contents)>,
}

impl Recorder {
    fn new(config: LogConfig) -> Self {
        let directory = scratch();
        let node = Arc::new(NodeLog::open(directory.path(), &resources(), config).unwrap());
        Self { directory, node, history: Vec::new() }
    }

    fn photograph(&mut self) {
        self.history.push((DiskImage::capture(self.directory.path()), Contents::of(&self.node)));
    }

    fn append(&mut self, shard_id: u32, entries: Vec<Arc<EncodedEntry>>) {
        wait(|done| self.node.shard(shard_id).append(entries, done)).unwrap();
        self.photograph();
    }

    fn vote(&mut self, shard_id: u32, vote: Vote) {
        wait(|done| self.node.shard(shard_id).save_vote(vote, done)).unwrap();
        self.photograph();
    }

    /// The steps that changed one write-ahead log file and nothing else.
    fn steps(&self) -> Vec<Step<'_>> {
        let pairs = self.history.windows(2);
        let steps = pairs.filter_map(|pair| {
            let [(before, contents_before), (after, contents_after)] = pair else { return None };
            let [file] = &before.changed(after)[..] else { return None };
            (file.extension()? == "log").then(|| Step {
                image: before,
                old: &before.0[file],
                new: &after.0[file],
                file: file.clone(),
                before: contents_before,
                after: contents_after,
            })
        });
        steps.collect()
    }
}

struct Step<'recorder> {
    image: &'recorder DiskImage,
    file: PathBuf,
    old: &'recorder [u8],
    new: &'recorder [u8],
    before: &'recorder Contents,
    after: &'recorder Contents,
}

impl Step<'_> {
    /// Cuts the power at every byte.
    fn cut_everywhere(&self, resources: &SharedResources) {
        let directory = scratch();
        let changed = difference(self.old, self.new);
        for cut in changed.start..=changed.end {
            self.image.with(&self.file, torn(self.old, self.new, cut)).restore(directory.path());
            let expected = if cut == changed.end { self.after } else { self.before };
            assert_eq!(&Contents::recovered(directory.path(), resources), expected, "cut at {cut} of {changed:?}");
        }
    }
}

#[test]
fn a_cut_at_any_byte_leaves_what_was_acknowledged_and_no_part_of_what_was_not() {
    let mut recorder = Recorder::new(log_config());
    recorder.photograph();
    recorder.append(1, entries(1, 0..=2, b"a"));
    recorder.vote(1, vote(2, 3));
    recorder.append(2, entries(1, 0..=0, b"b"));
    let log = recorder.node.shard(1);
    log.save_committed(Some(id(1, 1))).unwrap();
    log.truncate_after(Some(id(1, 1))).unwrap();
    recorder.append(1, entries(2, 2..=3, b"c"));
    log.purge(id(1, 1)).unwrap();
    recorder.vote(2, vote(5, 1));
    log.purge(id(7, 70)).unwrap();
    recorder.append(1, entries(8, 71..=71, b"d"));

    let steps = recorder.steps();
    assert_eq!(steps.len(), 6);
    let resources = resources();
    for step in steps {
        assert!(step.new.len() > step.old.len());
        step.cut_everywhere(&resources);
    }
}

#[test]
fn a_cut_at_any_byte_of_a_recycled_file_does_not_bring_back_what_was_in_it() {
    let mut recorder = Recorder::new(LogConfig { memtable_bytes: 64 << 10, ..log_config() });
    let mut index = 0;
    // Overwritten files keep their length: then recycling has begun.
    let recycled =
        |recorder: &Recorder| recorder.steps().iter().filter(|step| step.old.len() == step.new.len()).count();
    while recycled(&recorder) < 3 {
        assert!(index < 4_000, "no file was recycled");
        for _ in 0..20 {
            let entries = entries(1, index..=index, &[b'x'; 4_000]);
            wait(|done| recorder.node.shard(1).append(entries, done)).unwrap();
            index += 1;
        }
        recorder.node.shard(1).purge(id(1, index - 2)).unwrap();
        for _ in 0..4 {
            recorder.append(1, entries(1, index..=index, b"small"));
            index += 1;
        }
    }
    let resources = resources();
    let mut tested = 0;
    for step in recorder.steps().iter().filter(|step| step.old.len() == step.new.len()).take(3) {
        step.cut_everywhere(&resources);
        tested += 1;
    }
    assert_eq!(tested, 3);
}

#[test]
fn sectors_that_arrive_in_any_order_leave_what_was_acknowledged() {
    const SECTOR: usize = 512;
    let mut recorder = Recorder::new(log_config());
    recorder.append(1, entries(1, 0..=3, b"acknowledged"));
    recorder.append(1, entries(1, 4..=40, &[b'y'; 2_000]));
    let steps = recorder.steps();
    let [step] = &steps[..] else { panic!("one step") };
    let changed = difference(step.old, step.new);
    assert!(changed.len() > 2 * 32_768, "several blocks of the file's format");

    let (resources, directory) = (resources(), scratch());
    let mut random = StdRng::seed_from_u64(7);
    for round in 0..150 {
        // The file may have any length, and any of its sectors may still be empty.
        let length = if round % 4 == 0 { step.new.len() } else { random.random_range(changed.clone()) };
        let share = random.random_range(0.0..1.0);
        let mut file = step.new[..length].to_vec();
        for start in (changed.start / SECTOR * SECTOR..length).step_by(SECTOR) {
            if random.random_bool(share) {
                let from = start.max(changed.start);
                file[from..(start + SECTOR).min(length)].fill(0);
            }
        }
        let whole = file == step.new;
        step.image.with(&step.file, file).restore(directory.path());
        let expected = if whole { step.after } else { step.before };
        assert_eq!(&Contents::recovered(directory.path(), &resources), expected, "round {round}");
    }
}

#[test]
fn damage_to_acknowledged_data_is_an_error_and_not_forgotten() {
    let mut recorder = Recorder::new(log_config());
    recorder.vote(1, vote(9, 1));
    for index in 0..5 {
        recorder.append(1, entries(9, index..=index, b"acknowledged"));
    }
    let (image, _) = recorder.history.last().unwrap();
    let (file, contents) = image.0.iter().find(|(path, _)| path.extension().is_some_and(|kind| kind == "log")).unwrap();
    let (resources, directory) = (resources(), scratch());
    let text = b"acknowledged";
    let places: Vec<usize> =
        contents.windows(text.len()).enumerate().filter(|(_, w)| w == text).map(|(at, _)| at).collect();
    assert_eq!(places.len(), 5);
    for place in &places[..4] {
        let mut damaged = contents.clone();
        damaged[*place] ^= 1;
        image.with(file, damaged).restore(directory.path());
        let opened = NodeLog::open(directory.path(), &resources, log_config());
        assert!(matches!(opened, Err(StorageError::Damaged(_))));
    }
}

#[test]
fn a_missing_or_misplaced_entry_on_disk_is_named() {
    let directory = scratch();
    {
        let node = Arc::new(NodeLog::open(directory.path(), &resources(), log_config()).unwrap());
        wait(|done| node.shard(6).append(entries(1, 0..=9, b"x"), done)).unwrap();
    }
    let key = |index: u64| [&6u32.to_be_bytes()[..], &index.to_be_bytes()[..]].concat();
    let good = DiskImage::capture(directory.path());
    type Damage<'test> = &'test dyn Fn(&rocksdb::DB);
    let damage: [(&str, Damage<'_>); 3] = [
        ("index 5", &|db| db.delete_cf(db.cf_handle("entries").unwrap(), key(4)).unwrap()),
        ("index 7", &|db| db.put_cf(db.cf_handle("entries").unwrap(), key(7), b"\xff\xffgarbage").unwrap()),
        ("index 8", &|db| {
            let other = db.get_cf(db.cf_handle("entries").unwrap(), key(2)).unwrap().unwrap();
            db.put_cf(db.cf_handle("entries").unwrap(), key(8), other).unwrap();
        }),
    ];
    for (named, damage) in damage {
        good.restore(directory.path());
        {
            let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), directory.path(), ["entries", "meta"]).unwrap();
            damage(&db);
        }
        let Err(StorageError::Damaged(message)) = NodeLog::open(directory.path(), &resources(), log_config()) else {
            panic!("{named} is opened");
        };
        assert!(message.contains("shard 6") && message.contains(named), "{message}");
    }
}
