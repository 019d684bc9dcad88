//! The wall clock, where evaluation and reads take it from outside.

use std::time::{SystemTime, UNIX_EPOCH};

use cirrus_engine::Moment;

/// Now. A clock before 1970 reads as 0: a shard's own clock never goes back.
pub fn wall_clock() -> Moment {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    Moment { now_ms: elapsed.map_or(0, |elapsed| elapsed.as_millis() as u64) }
}
