//! `[storage]`: memory for the shards' states.

use cirrus_storage::StorageConfig;
use serde::{Deserialize, Serialize};

/// `[storage]`: memory for the shards' states.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StorageSection {
    /// Block cache of all RocksDB instances, MiB.
    pub block_cache_mib: usize,
    /// Write buffers of all RocksDB instances, MiB.
    pub write_buffer_mib: usize,
    /// What each replica gathers before it writes to its RocksDB, MiB.
    pub state_buffer_mib: usize,
}

impl StorageSection {
    /// What storage is opened with.
    pub fn storage(&self) -> StorageConfig {
        StorageConfig {
            block_cache_bytes: self.block_cache_mib << 20,
            write_buffer_bytes: self.write_buffer_mib << 20,
            state_buffer_bytes: self.state_buffer_mib << 20,
            ..StorageConfig::default()
        }
    }
}

impl Default for StorageSection {
    fn default() -> Self {
        let storage = StorageConfig::default();
        StorageSection {
            block_cache_mib: storage.block_cache_bytes >> 20,
            write_buffer_mib: storage.write_buffer_bytes >> 20,
            state_buffer_mib: storage.state_buffer_bytes >> 20,
        }
    }
}
