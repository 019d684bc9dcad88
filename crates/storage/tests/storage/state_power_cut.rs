//! Cuts the power while the state is written: what is left is the state at exactly one applied id, and at least the
//! one that it called flushed.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use cirrus_proto::internal::v1::{Effect, StoredMembership, Table};
use cirrus_storage::{ApplyBatch, ShardState, SharedResources};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::fixture::*;

const TABLES: [Table; 6] = [Table::Data, Table::Expiry, Table::Sessions, Table::Meta, Table::Catalog, Table::Sql];

/// What the effects up to an index leave, table by table.
pub(crate) type Model = BTreeMap<(i32, Vec<u8>), Vec<u8>>;

/// Entry `index`'s effects: every table changes, so that a mix of two indexes shows.
pub(crate) fn effects_of(index: u64) -> Vec<Effect> {
    let mut random = StdRng::seed_from_u64(index);
    let mut effects = Vec::new();
    for table in TABLES {
        effects.push(put(table, "every index", index.to_string()));
        let key = format!("key {}", random.random_range(0..30));
        if random.random_bool(0.3) {
            effects.push(delete(table, key));
        } else {
            effects.push(put(table, key, vec![index as u8; random.random_range(0..200)]));
        }
    }
    effects
}

pub(crate) fn model_of(index: u64) -> Model {
    use cirrus_proto::internal::v1::effect::Change;
    let mut model = Model::new();
    for effect in (1..=index).flat_map(effects_of) {
        match effect.change {
            Some(Change::Put(value)) => model.insert((effect.table, effect.key.to_vec()), value.to_vec()),
            _ => model.remove(&(effect.table, effect.key.to_vec())),
        };
    }
    model
}

pub(crate) fn contents(state: &ShardState) -> Model {
    let mut model = Model::new();
    for table in TABLES {
        state
            .scan(table, b"", None, &mut |key, value| {
                model.insert((table.into(), key.to_vec()), value.to_vec());
                ControlFlow::Continue(())
            })
            .unwrap();
    }
    model
}

pub(crate) fn apply(state: &ShardState, index: u64) {
    let membership = StoredMembership { log_id: Some(id(1, index)), membership: None };
    let batch = ApplyBatch { effects: effects_of(index), applied: id(1, index), membership: Some(membership) };
    state.apply(&batch).unwrap();
}

/// Opens what a power cut left and checks that it is whole. Returns its applied index.
fn recovered_index(directory: &Path, resources: &SharedResources) -> u64 {
    let state = ShardState::open(directory, resources).unwrap();
    let applied = state.applied();
    let index = applied.log_id.map_or(0, |log_id| log_id.index);
    assert_eq!(contents(&state), model_of(index), "at index {index}");
    assert_eq!(applied.membership.log_id, applied.log_id);
    assert_eq!(state.flushed().unwrap(), applied.log_id);
    index
}

fn flushed_index(state: &ShardState) -> u64 {
    state.flushed().unwrap().map_or(0, |log_id| log_id.index)
}

#[test]
fn a_cut_between_any_two_calls_leaves_the_state_at_what_was_flushed() {
    let (live, cut, resources) = (scratch(), scratch(), resources());
    let state = ShardState::open(live.path(), &resources).unwrap();
    let mut random = StdRng::seed_from_u64(3);
    let mut flushes = 0;
    for index in 1..=60 {
        apply(&state, index);
        if random.random_bool(0.2) {
            state.flush().unwrap();
            flushes += 1;
            assert_eq!(flushed_index(&state), index);
        }
        let flushed = flushed_index(&state);
        DiskImage::capture(live.path()).restore(cut.path());
        assert_eq!(recovered_index(cut.path(), &resources), flushed);
    }
    assert!(flushes > 5);
}

#[test]
fn a_cut_at_any_byte_of_a_flush_leaves_all_tables_at_one_index() {
    let (live, cut, resources) = (scratch(), scratch(), resources());
    let state = ShardState::open(live.path(), &resources).unwrap();
    (1..=3).for_each(|index| apply(&state, index));
    state.flush().unwrap();
    (4..=9).for_each(|index| apply(&state, index));
    let before = DiskImage::capture(live.path());
    state.flush().unwrap();
    let after = DiskImage::capture(live.path());

    let manifest = before
        .changed(&after)
        .into_iter()
        .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("MANIFEST"))
        .unwrap();
    let (old, new) = (&before.0[&manifest], &after.0[&manifest]);
    let changed = difference(old, new);
    assert!(changed.len() > 100, "{changed:?}");
    // The tables are written and fsynced before the manifest names them.
    for length in changed.start..=changed.end {
        after.with(&manifest, torn(old, new, length)).restore(cut.path());
        let expected = if length == changed.end { 9 } else { 3 };
        assert_eq!(recovered_index(cut.path(), &resources), expected, "cut at {length} of {changed:?}");
    }
    // And before that, any of them may be there in part.
    let tables: Vec<_> = before.changed(&after).into_iter().filter(|path| *path != manifest).collect();
    assert!(tables.len() >= 6);
    for table in tables {
        let Some(contents) = after.0.get(&table) else { continue };
        before.with(&table, contents[..contents.len() / 2].to_vec()).restore(cut.path());
        assert_eq!(recovered_index(cut.path(), &resources), 3);
    }
}

#[test]
fn cuts_during_background_flushes_and_compactions_leave_one_index() {
    let (live, cut, resources) = (scratch(), scratch(), resources());
    let state = ShardState::open(live.path(), &resources).unwrap();
    let mut cuts = 0;
    for index in 1..=200 {
        apply(&state, index);
        if index % 7 == 0 {
            state.flush().unwrap();
        }
        if index % 20 == 0 {
            let flushed = flushed_index(&state);
            DiskImage::capture(live.path()).restore(cut.path());
            assert!(recovered_index(cut.path(), &resources) >= flushed);
            cuts += 1;
        }
    }
    assert_eq!(cuts, 10);
}
