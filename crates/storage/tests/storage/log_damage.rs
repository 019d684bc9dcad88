//! What was acknowledged and is broken or missing is an error, with its place, and never forgotten.

use std::sync::Arc;

use cirrus_proto::internal::v1::LogEntries;
use cirrus_proto::internal::v1::log_operation::Change;
use cirrus_storage::{LogConfig, NodeLog, StorageError};

use crate::fixture::*;
use crate::log_format::*;

fn open(directory: &std::path::Path) -> Result<Arc<NodeLog>, StorageError> {
    NodeLog::open(directory, &resources(), log_config()).map(Arc::new)
}

fn damage(image: &DiskImage) -> String {
    let directory = scratch();
    image.restore(directory.path());
    let Err(StorageError::Damaged(message)) = open(directory.path()) else { panic!("it is opened") };
    assert!(DiskImage::capture(directory.path()) == *image, "a damaged log is left as it is");
    message
}

#[test]
fn damage_to_acknowledged_data_is_an_error_and_not_forgotten() {
    let directory = scratch();
    let node = open(directory.path()).unwrap();
    wait(|done| node.shard(1).save_vote(vote(9, 1), done)).unwrap();
    for index in 0..5 {
        wait(|done| node.shard(1).append(entries(9, index..=index, b"acknowledged"), done)).unwrap();
    }
    let image = DiskImage::capture(directory.path());
    let file = segment_file(1);
    let records = records(&image.0[&file]);
    assert_eq!(records.len(), 6);
    for record in &records[..5] {
        for place in record.clone() {
            let mut damaged = image.0[&file].clone();
            damaged[place] ^= 1;
            if place % 7 == 0 || place - record.start < 32 {
                damage(&image.with(&file, damaged));
            }
        }
    }
}

/// A log of several segments with live entries in each.
fn several_segments() -> DiskImage {
    let directory = scratch();
    let config = LogConfig { segment_bytes: 4 << 10, ..log_config() };
    let node = Arc::new(NodeLog::open(directory.path(), &resources(), config).unwrap());
    for index in 0..40 {
        wait(|done| node.shard(6).append(entries(1, index..=index, &[7; 300]), done)).unwrap();
    }
    drop(node);
    DiskImage::capture(directory.path())
}

#[test]
fn a_missing_segment_is_noticed_and_an_old_ones_entries_are_named() {
    let image = several_segments();
    let count = image.0.keys().filter(|file| file.extension().is_some_and(|kind| kind == "segment")).count() as u64;
    assert!(count > 5);
    for number in 1..count - 1 {
        let mut missing = image.clone();
        missing.0.remove(&segment_file(number)).unwrap();
        let message = damage(&missing);
        if number == 1 {
            assert!(message.contains("shard 6, index 0"), "{message}");
        } else {
            assert!(message.contains(&format!("segment {number} is missing")), "{message}");
        }
    }
}

#[test]
fn any_broken_record_of_a_segment_that_has_a_successor_is_damage() {
    let image = several_segments();
    for number in 1..4 {
        let file = segment_file(number);
        for record in records(&image.0[&file]) {
            let mut damaged = image.0[&file].clone();
            damaged[record.end - 1] ^= 1;
            damage(&image.with(&file, damaged));
        }
        let mut cut = image.0[&file].clone();
        cut.truncate(700);
        damage(&image.with(&file, cut));
    }
}

#[test]
fn a_missing_or_misplaced_entry_on_disk_is_named() {
    let directory = scratch();
    {
        let node = open(directory.path()).unwrap();
        wait(|done| node.shard(6).append(entries(1, 0..=9, b"x"), done)).unwrap();
    }
    let good = DiskImage::capture(directory.path());
    let file = segment_file(1);
    let record = records(&good.0[&file])[0].clone();
    type Damage<'test> = &'test dyn Fn(&mut LogEntries);
    let damages: [(&str, Damage<'_>); 5] = [
        ("index 4", &|appended| drop(appended.entries.remove(4))),
        ("index 7", &|appended| appended.entries[7] = b"\xff\xffgarbage".as_slice().into()),
        ("index 8", &|appended| appended.entries[8] = appended.entries[2].clone()),
        ("index 5", &|appended| appended.entries[5] = entry(0, 5, "x").bytes.clone()),
        ("index 3", &|appended| appended.first_index = 3),
    ];
    for (named, change) in damages {
        let mut damaged = good.0[&file].clone();
        rewrite(&mut damaged, &record, |record| {
            let Some(Change::Append(appended)) = &mut record.operations[0].change else { panic!("an append") };
            change(appended);
        });
        let message = damage(&good.with(&file, damaged));
        assert!(message.contains("shard 6") && message.contains(named), "{message}");
    }
}

#[test]
fn a_segment_that_does_not_continue_the_one_before_is_damage() {
    let image = several_segments();
    let file = segment_file(3);
    let first = records(&image.0[&file])[0].clone();
    let mut damaged = image.0[&file].clone();
    rewrite(&mut damaged, &first, |record| record.shards[0].first_index += 1);
    let message = damage(&image.with(&file, damaged));
    assert!(message.contains("shard 6"), "{message}");
}

#[test]
fn an_entry_that_is_damaged_while_the_log_is_open_is_not_handed_out() {
    let directory = scratch();
    let config = LogConfig { cache_bytes: 0, ..log_config() };
    let node = Arc::new(NodeLog::open(directory.path(), &resources(), config).unwrap());
    let log = node.shard(6);
    wait(|done| log.append(entries(1, 0..=9, b"stored text"), done)).unwrap();
    // The cache lets them go after the callback of a batch that began once they were in it: the first vote's at the
    // latest, before the second is written.
    wait(|done| log.save_vote(vote(1, 1), done)).unwrap();
    wait(|done| log.save_vote(vote(1, 1), done)).unwrap();
    let path = directory.path().join(segment_file(1));
    let mut contents = std::fs::read(&path).unwrap();
    let text = b"stored text";
    let places: Vec<usize> =
        contents.windows(text.len()).enumerate().filter(|(_, w)| w == text).map(|(at, _)| at).collect();
    assert_eq!(places.len(), 10);
    contents[places[4]] ^= 1;
    std::fs::write(&path, contents).unwrap();
    for range in [0..10, 4..5] {
        let Err(StorageError::Damaged(message)) = log.read(range, usize::MAX) else { panic!("it is handed out") };
        assert!(message.contains("shard 6, index 4"), "{message}");
    }
    assert_eq!(log.read(0..4, usize::MAX).unwrap(), entries(1, 0..=3, b"stored text"));
    assert_eq!(log.read(5..10, usize::MAX).unwrap(), entries(1, 5..=9, b"stored text"));
}

#[test]
fn what_is_left_of_a_torn_record_is_never_taken_for_a_later_one() {
    let directory = scratch();
    let node = open(directory.path()).unwrap();
    wait(|done| node.shard(1).append(entries(1, 0..=0, b"acknowledged"), done)).unwrap();
    wait(|done| node.shard(1).append(entries(1, 1..=1, b"torn"), done)).unwrap();
    drop(node);
    let image = DiskImage::capture(directory.path());
    let file = segment_file(1);
    let mut contents = image.0[&file].clone();
    let torn = records(&contents)[1].clone();
    // Its first sector is lost, and what it carried in the next one looks like a record.
    contents.copy_within(torn.start..torn.start + SECTOR, torn.start + SECTOR);
    contents[torn.start..torn.start + SECTOR].fill(0);
    image.with(&file, contents).restore(directory.path());

    let node = open(directory.path()).unwrap();
    assert_eq!(node.shard(1).state().last, Some(id(1, 0)));
    wait(|done| node.shard(1).append(entries(2, 1..=1, b"new"), done)).unwrap();
    drop(node);
    assert_eq!(open(directory.path()).unwrap().shard(1).state().last, Some(id(2, 1)));
}

#[test]
fn the_log_of_an_earlier_version_is_refused() {
    let directory = scratch();
    std::fs::write(directory.path().join("CURRENT"), "MANIFEST-000005\n").unwrap();
    let Err(StorageError::Refused(message)) = open(directory.path()) else { panic!("it is opened") };
    assert!(message.contains("earlier version"), "{message}");
    assert!(segments(directory.path()).is_empty());
}
