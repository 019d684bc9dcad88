//! Databases that stay open between requests, the latest used first.

use hashlink::LinkedHashMap;
use rusqlite::Connection;

use crate::DatabaseId;

/// An open database.
pub(crate) struct Open {
    pub(crate) connection: Connection,
    /// Whose pages it has in memory. It is of use only while the stored database has this generation: a transaction that was
    /// given up, another node's writes, an import, all leave another.
    pub(crate) generation: u64,
    /// What SQLite holds for it, bytes.
    pub(crate) held_bytes: i64,
}

/// Bounded by how many there are, and by what they hold.
pub(crate) struct OpenDatabases {
    /// Those used least lately first.
    open: LinkedHashMap<DatabaseId, Open>,
    held_bytes: i64,
    count_max: usize,
    bytes_max: i64,
}

impl OpenDatabases {
    pub(crate) fn new(count_max: usize, bytes_max: usize) -> Self {
        let bytes_max = i64::try_from(bytes_max).unwrap_or(i64::MAX);
        OpenDatabases { open: LinkedHashMap::new(), held_bytes: 0, count_max, bytes_max }
    }

    /// Takes a database out, if it is open and of that generation. One of another generation is closed.
    pub(crate) fn take(&mut self, id: &DatabaseId, generation: u64) -> Option<Open> {
        let open = self.open.remove(id)?;
        self.held_bytes -= open.held_bytes;
        (open.generation == generation).then_some(open)
    }

    /// Keeps a database open, and closes those that were used least lately where there are too many.
    pub(crate) fn put(&mut self, id: &DatabaseId, database: Open) {
        self.held_bytes += database.held_bytes;
        if let Some(older) = self.open.insert(id.clone(), database) {
            self.held_bytes -= older.held_bytes;
        }
        while self.open.len() > self.count_max || self.held_bytes > self.bytes_max {
            let Some((_, closed)) = self.open.pop_front() else { break };
            self.held_bytes -= closed.held_bytes;
        }
    }

    /// Closes a database.
    pub(crate) fn close(&mut self, id: &DatabaseId) {
        if let Some(closed) = self.open.remove(id) {
            self.held_bytes -= closed.held_bytes;
        }
    }

    pub(crate) fn clear(&mut self) {
        self.open.clear();
        self.held_bytes = 0;
    }

    pub(crate) fn count(&self) -> usize {
        self.open.len()
    }

    pub(crate) fn held_bytes(&self) -> usize {
        usize::try_from(self.held_bytes).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(generation: u64, held_bytes: i64) -> Open {
        Open { connection: Connection::open_in_memory().unwrap(), generation, held_bytes }
    }

    fn id(number: u32) -> DatabaseId {
        DatabaseId::new(number, "u", "d")
    }

    #[test]
    fn the_least_lately_used_are_closed() {
        crate::initialize().unwrap();
        let mut databases = OpenDatabases::new(8, 1000);
        for number in 0..8 {
            databases.put(&id(number), open(1, 10));
        }
        let used = databases.take(&id(0), 1).unwrap();
        databases.put(&id(0), used);
        databases.put(&id(8), open(1, 10));
        assert_eq!((databases.count(), databases.held_bytes()), (8, 80));
        assert!(databases.take(&id(1), 1).is_none());
        assert!(databases.take(&id(0), 1).is_some() && databases.take(&id(2), 1).is_some());

        databases.put(&id(9), open(1, 990));
        assert_eq!((databases.count(), databases.held_bytes()), (2, 1000), "only as many are closed as it takes");
        databases.put(&id(10), open(1, 1001));
        assert_eq!((databases.count(), databases.held_bytes()), (0, 0), "one that holds too much is not kept");
    }

    #[test]
    fn another_generation_is_closed() {
        crate::initialize().unwrap();
        let mut databases = OpenDatabases::new(8, 1000);
        databases.put(&id(0), open(1, 10));
        databases.put(&id(0), open(2, 20));
        assert_eq!(databases.held_bytes(), 20);
        assert!(databases.take(&id(0), 1).is_none());
        assert_eq!((databases.count(), databases.held_bytes()), (0, 0));
    }
}
