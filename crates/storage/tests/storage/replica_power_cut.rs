//! Log and state together, as a replica uses them: append, apply, flush now and then, purge what is flushed. After a
//! power cut the state and what the log still holds give back everything that was acknowledged.

use std::sync::Arc;

use cirrus_storage::{NodeLog, ShardState};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::fixture::*;
use crate::state_power_cut::{apply, contents, model_of};

#[test]
fn a_replica_gets_back_everything_acknowledged_by_replaying_its_log() {
    let (live, cut, resources) = (scratch(), scratch(), resources());
    let node = Arc::new(NodeLog::open(&live.path().join("log"), &resources, log_config()).unwrap());
    let log = node.shard(4);
    let state = ShardState::open(&live.path().join("state"), &resources).unwrap();
    let mut random = StdRng::seed_from_u64(11);
    let mut purges = 0;
    for index in 1..=60 {
        wait(|done| log.append(vec![entry(1, index, index.to_string())], done)).unwrap();
        apply(&state, index);
        if random.random_bool(0.2) {
            state.flush().unwrap();
        }
        if random.random_bool(0.3)
            && let Some(flushed) = state.flushed().unwrap()
        {
            log.purge(flushed).unwrap();
            purges += 1;
        }

        DiskImage::capture(live.path()).restore(cut.path());
        let node = Arc::new(NodeLog::open(&cut.path().join("log"), &resources, log_config()).unwrap());
        let log = node.shard(4);
        let state = ShardState::open(&cut.path().join("state"), &resources).unwrap();
        let applied = state.applied().log_id.map_or(0, |log_id| log_id.index);
        let purged = log.state().last_purged.map_or(0, |log_id| log_id.index);
        assert!(purged <= applied, "the log was purged past the state");
        let replayed = log.read(applied + 1..u64::MAX, usize::MAX).unwrap();
        assert_eq!(replayed.len() as u64, index - applied);
        for entry in replayed {
            apply(&state, entry.index);
        }
        assert_eq!(contents(&state), model_of(index));
    }
    assert!(purges > 5);
}
