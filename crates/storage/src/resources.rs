//! What all RocksDB instances of a node share, and the settings that they have in common.

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, Env, InfoLogger, LogLevel, Options, WriteBufferManager};

use crate::StorageError;
use crate::log::LogConfig;

/// Budgets of a node's storage. They are totals over all shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageConfig {
    /// Blocks of table files kept in memory.
    pub block_cache_bytes: usize,
    /// Memtables of all instances together. Beyond it the instance that is being written to flushes early.
    pub write_buffer_bytes: usize,
    /// Buffer of what was applied last to one shard's state; when it is full, it is written to RocksDB in the background.
    pub state_buffer_bytes: usize,
    /// Memtable of one shard's state; when it is full, the state flushes in the background.
    pub state_memtable_bytes: usize,
    /// Flushes and compactions together write at most this much; flushes go first. The log's fsyncs are not limited.
    pub background_bytes_per_second: u64,
    /// Threads for flushes and for compactions, in one pool for the whole process.
    pub background_threads: u16,
    /// Table files that one shard's state keeps open.
    pub state_open_files_max: u16,
    /// The node's log.
    pub log: LogConfig,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            block_cache_bytes: 256 << 20,
            write_buffer_bytes: 256 << 20,
            state_buffer_bytes: 2 << 20,
            state_memtable_bytes: 16 << 20,
            background_bytes_per_second: 256 << 20,
            background_threads: 2,
            state_open_files_max: 128,
            log: LogConfig::default(),
        }
    }
}

/// One block cache, one write-buffer budget, one rate limiter and one thread pool for all instances of a node. Clones share
/// them.
#[derive(Clone)]
pub struct SharedResources {
    config: StorageConfig,
    block_cache: Cache,
    // Copies share the rate limiter, the write-buffer manager, the environment and the logger.
    options: Options,
}

impl SharedResources {
    /// Allocates the shared parts; opens no file.
    ///
    /// # Errors
    /// `Failed` if RocksDB has no environment on this platform.
    pub fn new(config: StorageConfig) -> Result<Self, StorageError> {
        let threads = i32::from(config.background_threads.max(1));
        let mut env = Env::new().map_err(StorageError::rocksdb("create the RocksDB environment"))?;
        env.set_low_priority_background_threads(threads);
        env.set_high_priority_background_threads(threads);

        let mut options = Options::default();
        options.set_env(&env);
        options.set_max_background_jobs(threads);
        // A stall would block one shard's apply on another's flush; the budget only triggers flushes.
        let write_buffers = WriteBufferManager::new_write_buffer_manager(config.write_buffer_bytes, false);
        options.set_write_buffer_manager(&write_buffers);
        let rate = i64::try_from(config.background_bytes_per_second.max(1 << 20)).unwrap_or(i64::MAX);
        options.set_ratelimiter(rate, 100_000, 10);

        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_paranoid_checks(true);
        options.set_is_fd_close_on_exec(true);
        // Every instance has one writing thread, so concurrent inserts and spinning before a write only cost.
        options.set_allow_concurrent_memtable_write(false);
        options.set_enable_write_thread_adaptive_yield(false);
        // Dozens of instances on one machine: no statistics threads, no log files, small manifests and tables.
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options.set_skip_stats_update_on_db_open(true);
        options.set_max_manifest_file_size(4 << 20);
        options.set_manifest_preallocation_size(64 << 10);
        options.set_max_file_opening_threads(1);
        options.set_table_cache_num_shard_bits(2);
        options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Warn, |level, message| match level {
            LogLevel::Error | LogLevel::Fatal => tracing::error!(target: "rocksdb", "{}", message.trim_end()),
            LogLevel::Warn => tracing::warn!(target: "rocksdb", "{}", message.trim_end()),
            _ => {}
        }));
        Ok(Self { block_cache: Cache::new_lru_cache(config.block_cache_bytes), config, options })
    }

    /// The budgets that these resources were made with.
    pub fn config(&self) -> &StorageConfig {
        &self.config
    }

    /// Bytes of table blocks now in memory, of all instances.
    pub fn block_cache_usage_bytes(&self) -> usize {
        self.block_cache.get_usage()
    }

    /// Settings that every instance and column family starts from.
    pub(crate) fn options(&self) -> Options {
        self.options.clone()
    }

    /// Sets the table format: blocks in the shared cache, cheap compression, a filter where keys are looked up.
    pub(crate) fn set_table_format(&self, options: &mut Options, filter: bool) {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.block_cache);
        table.set_block_size(8 << 10);
        table.set_format_version(5);
        // Indexes and filters count against the one budget too.
        table.set_cache_index_and_filter_blocks(true);
        table.set_cache_index_and_filter_blocks_with_high_priority(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        if filter {
            table.set_bloom_filter(10.0, false);
            table.set_optimize_filters_for_memory(true);
        }
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::Lz4);
    }
}
