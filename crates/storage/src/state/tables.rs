//! A shard's tables as column families, and their settings.

use cirrus_proto::internal::v1::Table;
use rocksdb::{ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, Options};

use crate::{SharedResources, StorageError};

/// The applied id and the membership.
pub(super) const APPLIED: &str = "applied";
pub(super) const APPLIED_LOG_ID: &[u8] = b"log_id";
pub(super) const APPLIED_MEMBERSHIP: &[u8] = b"membership";

/// All column families of a state. Names are on disk.
pub(super) const COLUMN_FAMILIES: [&str; 7] = ["data", "expiry", "sessions", "meta", "catalog", "sql", APPLIED];

/// Those that states of older versions do not have. Opening such a state makes them.
pub(super) const NEWER: [&str; 1] = ["sql"];

/// All tables that effects may name.
pub(super) const TABLES: [Table; 6] =
    [Table::Data, Table::Expiry, Table::Sessions, Table::Meta, Table::Catalog, Table::Sql];

pub(super) fn table_name(table: Table) -> Result<&'static str, StorageError> {
    match table {
        Table::Data => Ok("data"),
        Table::Expiry => Ok("expiry"),
        Table::Sessions => Ok("sessions"),
        Table::Meta => Ok("meta"),
        Table::Catalog => Ok("catalog"),
        Table::Sql => Ok("sql"),
        Table::Unspecified => Err(StorageError::Refused("no table is named".to_owned())),
    }
}

pub(super) fn column_family<'db>(db: &'db DB, name: &str) -> Result<&'db ColumnFamily, StorageError> {
    db.cf_handle(name).ok_or_else(|| StorageError::Damaged(format!("the state has no column family {name}")))
}

pub(super) fn options(resources: &SharedResources) -> Options {
    let config = resources.config();
    let mut options = resources.options();
    // Without it a crash between the flushes of two tables would leave effects of different entries.
    options.set_atomic_flush(true);
    options.set_max_open_files(i32::from(config.state_open_files_max));
    options.set_write_buffer_size(config.state_memtable_bytes);
    options.set_max_write_buffer_number(3);
    // Most tables of most shards are nearly empty; the default would reserve 1 MiB for each.
    options.set_arena_block_size(64 << 10);
    options.set_avoid_unnecessary_blocking_io(true);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options
}

pub(super) fn column_families(resources: &SharedResources) -> Vec<ColumnFamilyDescriptor> {
    COLUMN_FAMILIES
        .iter()
        .map(|name| {
            let mut options = options(resources);
            // Tables that are read by key; expiry is only scanned.
            resources.set_table_format(&mut options, matches!(*name, "data" | "sessions" | "sql"));
            ColumnFamilyDescriptor::new(*name, options)
        })
        .collect()
}
