//! Cuts the power between any two bytes that the log writes, and looks at what is left.
//!
//! After each operation was acknowledged, the disk is photographed. Between two photographs lies one fsync, and then
//! what happened to whole files, one after the other: whatever part of it had reached the disk when the power went,
//! recovery must find exactly the log as acknowledged, or, where its record had, the log after the operation that was
//! under way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cirrus_proto::internal::v1::{LogId, Vote};
use cirrus_storage::{EncodedEntry, LogConfig, LogState, NodeLog, SharedResources};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::fixture::*;
use crate::log_format::*;

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

    /// The steps between photographs in which one file that was there before was written to.
    fn steps(&self) -> Vec<Step<'_>> {
        let pairs = self.history.windows(2);
        let steps = pairs.filter_map(|pair| {
            let [(image, before), (image_after, after)] = pair else { return None };
            let changed = image.changed(image_after);
            let mut written =
                changed.iter().filter(|file| image.0.contains_key(*file) && image_after.0.contains_key(*file));
            let file = written.next().filter(|_| written.next().is_none())?;
            let (old, new) = (&image.0[file], &image_after.0[file]);
            Some(Step { image, image_after, file: file.clone(), old, new, before, after })
        });
        steps.collect()
    }
}

struct Step<'recorder> {
    image: &'recorder DiskImage,
    image_after: &'recorder DiskImage,
    file: PathBuf,
    old: &'recorder [u8],
    new: &'recorder [u8],
    before: &'recorder Contents,
    after: &'recorder Contents,
}

impl Step<'_> {
    /// Where the record that was written lies, without its padding.
    fn record(&self) -> std::ops::Range<usize> {
        let changed = difference(self.old, self.new).start;
        let records = records(self.new);
        records.into_iter().find(|record| record.contains(&changed)).expect("a record was written")
    }

    /// What must be found if the file had become `file`.
    fn expected(&self, file: &[u8]) -> &Contents {
        let record = self.record();
        if file.get(record.clone()) == Some(&self.new[record]) { self.after } else { self.before }
    }

    /// Opens the log with `file` in place of what was written.
    fn check(&self, file: Vec<u8>, directory: &Path, resources: &SharedResources, what: &str) {
        let expected = self.expected(&file);
        self.image.with(&self.file, file).restore(directory);
        assert_eq!(&Contents::recovered(directory, resources), expected, "{what}");
    }

    /// Cuts the power at every byte.
    fn cut_everywhere(&self, resources: &SharedResources) {
        let directory = scratch();
        let changed = difference(self.old, self.new);
        for cut in changed.start..=changed.end {
            let what = format!("cut at {cut} of {changed:?}");
            self.check(torn(self.old, self.new, cut), directory.path(), resources, &what);
            if cut % 8 == 0 {
                go_on(directory.path(), resources, &what);
            }
        }
        assert!(changed.len() > 30);
    }

    /// Lets any of the record's sectors arrive.
    fn lose_sectors(&self, rounds: u64, resources: &SharedResources) {
        let directory = scratch();
        let mut random = StdRng::seed_from_u64(7);
        let record = self.record();
        for round in 0..rounds {
            let share = random.random_range(0.0..1.0);
            let mut file = self.new.to_vec();
            for start in record.clone().step_by(SECTOR) {
                let end = (start + SECTOR).min(file.len());
                if random.random_bool(share) {
                    file[start..end].fill(0);
                    if let Some(old) = self.old.get(start..end) {
                        file[start..end].copy_from_slice(old);
                    }
                }
            }
            // If the file grew, it may have any length.
            if self.new.len() > self.old.len() && round % 2 == 0 {
                file.truncate(random.random_range(self.old.len()..=self.new.len()));
            }
            let what = format!("round {round}");
            self.check(file, directory.path(), resources, &what);
            go_on(directory.path(), resources, &what);
        }
    }

    /// Cuts the power between any two of the changes to whole files that came after the record.
    fn cut_between_files(&self, resources: &SharedResources) -> usize {
        let directory = scratch();
        let mut image = self.image.with(&self.file, self.new.to_vec());
        let changed = self.image.changed(self.image_after);
        let mut cuts = 0;
        let mut check = |image: &DiskImage| {
            image.restore(directory.path());
            assert_eq!(&Contents::recovered(directory.path(), resources), self.after);
            cuts += 1;
        };
        check(&image);
        // Names sort by number, and the oldest is freed first. Then the next one is made.
        for removed in changed.iter().filter(|file| !self.image_after.0.contains_key(*file)) {
            let contents = image.0.remove(removed).expect("it was there");
            check(&image);
            // Or it has become a spare.
            let spare = removed.with_extension("spare");
            if removed.extension().is_some_and(|kind| kind == "segment") {
                image.0.insert(spare, contents);
                check(&image);
            }
        }
        let mut image = self.image_after.clone();
        for added in changed.iter().filter(|file| !self.image.0.contains_key(*file)) {
            image.0.insert(PathBuf::from("prepared.tmp"), vec![0; 5_000]);
            image.0.remove(added);
            check(&image);
        }
        cuts
    }
}

/// A log that was cut takes entries, and has them after the next start.
fn go_on(directory: &Path, resources: &SharedResources, what: &str) {
    let node = Arc::new(NodeLog::open(directory, resources, log_config()).unwrap());
    let log = node.shard(77);
    let next = log.state().last.map_or(0, |last| last.index + 1);
    wait(|done| log.append(entries(9, next..=next, b"after the cut"), done)).unwrap();
    let expected = Contents::of(&node);
    drop((log, node));
    assert_eq!(Contents::recovered(directory, resources), expected, "after {what}");
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
        assert_eq!(step.record().start % SECTOR, 0);
        assert_eq!(step.new.len(), step.old.len(), "the file was as large before");
        step.cut_everywhere(&resources);
    }
}

#[test]
fn a_cut_at_any_byte_of_a_recycled_file_does_not_bring_back_what_was_in_it() {
    let mut recorder = Recorder::new(LogConfig { segment_bytes: 16 << 10, ..log_config() });
    let log = recorder.node.shard(1);
    let mut index = 0;
    while segments(recorder.directory.path())[0] < 4 {
        assert!(index < 4_000, "no file was freed");
        for _ in 0..3 {
            // Leftovers in each sector that a later record may begin at.
            recorder.append(1, entries(1, index..=index, b"leftover"));
            index += 1;
        }
        log.purge(id(1, index - 2)).unwrap();
        recorder.append(1, entries(1, index..=index, b"small"));
        index += 1;
    }
    let resources = resources();
    let steps = recorder.steps();
    let overwritten = steps.iter().filter(|step| step.old[step.record().start..].starts_with(b"CLOG"));
    assert_eq!(overwritten.take(3).map(|step| step.cut_everywhere(&resources)).count(), 3);
}

#[test]
fn sectors_that_arrive_in_any_order_leave_what_was_acknowledged() {
    let mut recorder = Recorder::new(log_config());
    recorder.append(1, entries(1, 0..=3, b"acknowledged"));
    recorder.append(1, entries(1, 4..=24, &[b'y'; 2_000]));
    let steps = recorder.steps();
    let [step] = &steps[..] else { panic!("one step") };
    assert!(step.record().len() > 40_000);
    step.lose_sectors(100, &resources());
}

#[test]
fn sectors_of_a_batch_larger_than_a_segment_may_arrive_in_any_order() {
    let mut recorder = Recorder::new(LogConfig { segment_bytes: 8 << 10, ..log_config() });
    // A quarter of a segment, so that the next one is made.
    recorder.append(1, entries(1, 0..=3, &[b'a'; 1_000]));
    eventually(|| segments(recorder.directory.path()).len() == 2);
    recorder.photograph();
    recorder.append(1, entries(1, 4..=24, &[b'y'; 2_000]));
    recorder.append(1, entries(1, 25..=25, b"in the segment after it"));
    let steps = recorder.steps();
    let step = steps.iter().find(|step| step.new.len() > step.old.len()).unwrap();
    assert_eq!(step.record().start, 0);
    step.lose_sectors(100, &resources());
    let resources = resources();
    for (image, contents) in &recorder.history {
        let directory = scratch();
        image.restore(directory.path());
        assert_eq!(&Contents::recovered(directory.path(), &resources), contents);
    }
}

#[test]
fn a_cut_between_any_two_writes_of_a_relocation_loses_no_entry_of_an_idle_shard() {
    let config = LogConfig { segment_bytes: 8 << 10, cache_bytes: 0, ..log_config() };
    let mut recorder = Recorder::new(config);
    let idle = entries(1, 0..=9, &[b'i'; 300]);
    recorder.vote(1, vote(3, 1));
    recorder.append(1, idle.clone());
    let log = recorder.node.shard(2);
    let mut index = 0;
    // Twice around, so that what was relocated is relocated again.
    let mut first = 1;
    while first < 40 {
        assert!(index < 4_000, "the oldest segments are never freed");
        recorder.append(2, entries(1, index..=index, &[b'b'; 700]));
        log.purge(id(1, index)).unwrap();
        recorder.append(2, entries(1, index + 1..=index + 1, b"busy"));
        index += 2;
        first = segments(recorder.directory.path())[0];
    }
    assert_eq!(recorder.node.shard(1).read(0..100, usize::MAX).unwrap(), idle);

    let resources = resources();
    let directory = scratch();
    let mut cuts = 0;
    let mut freed = 0;
    for step in recorder.steps() {
        let record = step.record();
        for cut in record.clone().step_by(SECTOR).chain([record.end]) {
            step.check(torn(step.old, step.new, cut), directory.path(), &resources, "a sector of a record");
        }
        let files = step.cut_between_files(&resources);
        cuts += files;
        freed += usize::from(files > 1);
    }
    assert!(freed > 10 && cuts > 100, "{freed} {cuts}");
}
