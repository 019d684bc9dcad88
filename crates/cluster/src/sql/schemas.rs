//! The schemas of dbnames, as shard 0 keeps them in TABLE_CATALOG.
//!
//! | key | value |
//! | --- | --- |
//! | `sql-schema/` + dbname | `SqlSchema`: the current version |
//! | `sphivedb` | `StoredSphivedbSettings` |
//!
//! A schema's migrations are kept with every version, so that a database of any earlier one can be brought to the
//! current one.

use bytes::Bytes;
use cirrus_engine::Transaction;
use cirrus_proto::internal::v1::{StoredSphivedbSettings, Table, reply};
use cirrus_proto::limits::SqlLimits;
use cirrus_proto::v1::{
    SqlMigration, SqlPutSchemaRequest, SqlPutSchemaResponse, SqlPutSphivedbSettingsRequest, SqlSchema,
};
use cirrus_proto::{Failure, Reason};
use cirrus_sql::{DatabaseId, Migration, Schema};
use prost::Message as _;

use crate::catalog::{Reads, decode};

/// Most dbnames that have a schema.
const SCHEMAS_MAX: usize = 1024;

const SCHEMA_PREFIX: &[u8] = b"sql-schema/";
const SPHIVEDB_KEY: &[u8] = b"sphivedb";

fn schema_key(dbname: &str) -> Bytes {
    [SCHEMA_PREFIX, dbname.as_bytes()].concat().into()
}

/// The current schema of a dbname, where it has one.
pub(crate) fn current(reads: &dyn Reads, dbname: &str) -> Result<Option<SqlSchema>, Failure> {
    reads.get(&schema_key(dbname))?.map(|stored| decode("schema", stored)).transpose()
}

/// As [`current`]. Fails with SCHEMA_NOT_FOUND.
pub(crate) fn required(reads: &dyn Reads, dbname: &str) -> Result<SqlSchema, Failure> {
    current(reads, dbname)?.ok_or_else(|| {
        Failure::new(Reason::SchemaNotFound, format!("there is no schema of dbname {dbname:?}")).with("dbname", dbname)
    })
}

/// All schemas by dbname, without their texts.
pub(crate) fn all(reads: &dyn Reads) -> Result<Vec<SqlSchema>, Failure> {
    let stored = reads.entries(SCHEMA_PREFIX)?.into_iter();
    let bare = |(_, value): (Vec<u8>, Bytes)| {
        let schema: SqlSchema = decode("schema", value)?;
        Ok(SqlSchema { ddl: String::new(), migrations: Vec::new(), ..schema })
    };
    stored.map(bare).collect()
}

/// Runs a schema's DDL, so that databases can be brought to it.
pub(crate) fn declared(schema: &SqlSchema, limits: &SqlLimits) -> Result<Schema, Failure> {
    let migration = |one: &SqlMigration| Migration { number: one.number, sql: one.sql.clone(), on_new: one.on_new };
    Schema::declare(schema.version, &schema.ddl, schema.migrations.iter().map(migration).collect(), limits)
}

/// Stores the next version of a schema, once it was run and the way from the version before was tried.
pub(crate) fn put(
    request: &SqlPutSchemaRequest,
    transaction: &mut Transaction<'_>,
    limits: &SqlLimits,
) -> Result<reply::Kind, Failure> {
    DatabaseId::new(0, "user", request.dbname.clone()).check(limits)?;
    let before = current(transaction, &request.dbname)?;
    if let Some(before) = &before
        && (&before.ddl, &before.migrations) == (&request.ddl, &request.migrations)
    {
        let response = SqlPutSchemaResponse { version: before.version, changed: false };
        return Ok(reply::Kind::SqlPutSchema(response));
    }
    if before.is_none() {
        let count = Reads::entries(transaction, SCHEMA_PREFIX)?.len();
        if count >= SCHEMAS_MAX {
            let problem = format!("{count} dbnames have a schema, the limit");
            return Err(Failure::invalid_field("dbname", problem).with("actual", count).with("limit", SCHEMAS_MAX));
        }
    }
    let schema = SqlSchema {
        dbname: request.dbname.clone(),
        version: before.as_ref().map_or(0, |before| before.version) + 1,
        ddl: request.ddl.clone(),
        migrations: request.migrations.clone(),
        created_at_ms: transaction.now_ms(),
    };
    let next = declared(&schema, limits)?;
    if let Some(before) = &before {
        let earlier = declared(before, limits)?;
        // A database that ran them would run none of the next version's with such numbers.
        if next.last_migration() < earlier.last_migration() {
            let (last, before) = (next.last_migration(), earlier.last_migration());
            let problem = format!("end at number {last}, and those of the version before at {before}");
            return Err(Failure::invalid_field("migrations", problem));
        }
        next.check_upgrade_from(&earlier, limits)?;
    }
    transaction.write(Table::Catalog, schema_key(&schema.dbname), schema.encode_to_vec().into())?;
    Ok(reply::Kind::SqlPutSchema(SqlPutSchemaResponse { version: schema.version, changed: true }))
}

/// What POST /sphivedb offers.
pub(crate) fn sphivedb_settings(reads: &dyn Reads) -> Result<StoredSphivedbSettings, Failure> {
    let stored = reads.get(SPHIVEDB_KEY)?;
    stored.map_or(Ok(StoredSphivedbSettings::default()), |stored| decode("settings of SPHiveDB's protocol", stored))
}

pub(crate) fn put_sphivedb_settings(
    request: &SqlPutSphivedbSettingsRequest,
    transaction: &mut Transaction<'_>,
) -> Result<reply::Kind, Failure> {
    let stored =
        StoredSphivedbSettings { is_set: true, first_dbfile: request.first_dbfile, last_dbfile: request.last_dbfile };
    transaction.write(Table::Catalog, Bytes::from_static(SPHIVEDB_KEY), stored.encode_to_vec().into())?;
    Ok(reply::Kind::Done(cirrus_proto::internal::v1::Done {}))
}
