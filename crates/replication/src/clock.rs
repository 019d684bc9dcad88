//! The wall clock, where evaluation and reads take it from outside.

use std::time::{SystemTime, UNIX_EPOCH};

use cirrus_engine::{Moment, ShardHead, View};
use cirrus_proto::Failure;

/// Now. A clock before 1970 reads as 0: a shard's own clock never goes back.
pub fn wall_clock() -> Moment {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH);
    Moment { now_ms: elapsed.map_or(0, |elapsed| elapsed.as_millis() as u64) }
}

/// The head of a shard's state as a read sees it now: by this node's clock, but never behind what the shard has already
/// seen, so that what expired under one leader does not come back under another.
pub fn head_now(view: &dyn View) -> Result<ShardHead, Failure> {
    let mut head = ShardHead::load(view)?;
    head.advance_to(wall_clock());
    Ok(head)
}
