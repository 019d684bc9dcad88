//! What requests use of their limits.

use std::ops::AddAssign;
use std::time::Duration;

/// What was used of the limits that hold for a request as a whole, or for several that are parts of a larger one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// CPU time of statements.
    pub cpu: Duration,
    /// CPU time of bringing databases to their schemas' versions.
    pub upgrade: Duration,
    /// Rows of results.
    pub rows: usize,
    /// Bytes of results.
    pub bytes: usize,
}

impl AddAssign for Spent {
    fn add_assign(&mut self, more: Spent) {
        self.cpu += more.cpu;
        self.upgrade += more.upgrade;
        self.rows += more.rows;
        self.bytes += more.bytes;
    }
}
