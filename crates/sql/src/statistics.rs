//! What a shard's databases did.

/// What some databases hold, and what they did since [`Databases::new`](crate::Databases::new): what was evaluated, whether or
/// not it was committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Databases that are open.
    pub open: usize,
    /// What SQLite holds for them, bytes.
    pub open_bytes: usize,
    /// Requests for which a database was opened: it was not open, or as it had been before.
    pub opened: u64,
    /// Requests that found their database open.
    pub found_open: u64,
    /// Pages that statements and upgrades wrote or removed.
    pub pages_written: u64,
    /// Upgrades to a schema's version that were stored.
    pub upgrades: u64,
    /// Upgrades that failed, those of queries among them.
    pub failed_upgrades: u64,
}
