//! Requests about schemas. Like an upload, a change is acknowledged once every shard demands a catalog that has it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cirrus_proto::internal::v1::command::Kind;
use cirrus_proto::internal::v1::{self as pb, Command, query, query_result, reply};
use cirrus_proto::v1::{
    SqlDatabase, SqlDatabaseInfo, SqlGetSchemaRequest, SqlGetSchemaResponse, SqlListRequest, SqlListSchemasRequest,
    SqlListSchemasResponse, SqlPutSchemaRequest, SqlPutSchemaResponse, SqlPutSphivedbSettingsRequest,
    SqlPutSphivedbSettingsResponse, SqlSchemaStatusResponse, SqlVersionCount,
};
use cirrus_proto::{Failure, Reason};
use futures::future::BoxFuture;

use super::schemas;
use crate::catalog_view::CatalogHandle;
use crate::node::ClusterNode;

/// Most failures in a schema's status.
const FAILURES_TOLD: usize = 100;

/// Bounds one step of a walk over the databases: a page of a list, or an upgrade.
const STEP_BOUND: Duration = Duration::from_secs(10);

/// How far a walk over the databases of a dbname has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MigrationProgress {
    /// Entries looked at.
    pub examined: u64,
    /// Databases that were behind, and are not any more.
    pub upgraded: u64,
    /// Databases whose upgrade failed.
    pub failed: u64,
}

impl ClusterNode {
    /// Stores the next version of a dbname's schema.
    ///
    /// # Errors
    /// SCHEMA_INVALID, INVALID_FIELD, and those of [`ClusterNode::command`].
    pub async fn put_schema(
        &self,
        request: SqlPutSchemaRequest,
        deadline: Instant,
    ) -> Result<SqlPutSchemaResponse, Failure> {
        match self.change_and_fence(Kind::SqlPutSchema(request), deadline).await? {
            Some(reply::Kind::SqlPutSchema(response)) => Ok(response),
            other => Err(unexpected(other)),
        }
    }

    /// The schema of a dbname.
    ///
    /// # Errors
    /// SCHEMA_NOT_FOUND, and those of [`ClusterNode::query`].
    pub async fn get_schema(
        &self,
        request: SqlGetSchemaRequest,
        deadline: Instant,
    ) -> Result<SqlGetSchemaResponse, Failure> {
        match self.ask_catalog(query::Kind::SqlGetSchema(request), deadline).await? {
            Some(query_result::Kind::SqlGetSchema(response)) => Ok(response),
            other => Err(unexpected(other)),
        }
    }

    /// All schemas, without their texts.
    ///
    /// # Errors
    /// Those of [`ClusterNode::query`].
    pub async fn list_schemas(&self, deadline: Instant) -> Result<SqlListSchemasResponse, Failure> {
        match self.ask_catalog(query::Kind::SqlListSchemas(SqlListSchemasRequest {}), deadline).await? {
            Some(query_result::Kind::SqlListSchemas(response)) => Ok(response),
            other => Err(unexpected(other)),
        }
    }

    /// How many databases of a dbname stand at which version. Looks at every entry of every shard.
    ///
    /// # Errors
    /// SCHEMA_NOT_FOUND, and those of [`ClusterNode::query`].
    pub async fn schema_status(&self, dbname: &str, deadline: Instant) -> Result<SqlSchemaStatusResponse, Failure> {
        let schema = self.get_schema(SqlGetSchemaRequest { dbname: dbname.to_owned() }, deadline).await?;
        let current_version = schema.schema.map_or(0, |schema| schema.version);
        let mut versions: BTreeMap<u64, u64> = BTreeMap::new();
        let mut status = SqlSchemaStatusResponse { current_version, ..Default::default() };
        let mut page_token = Bytes::new();
        loop {
            let page = self.list_databases(of_dbname(dbname, page_token), deadline).await?;
            for info in page.databases {
                *versions.entry(info.schema_version).or_default() += 1;
                if info.upgrade_failure.is_some() {
                    status.failed += 1;
                    if status.failures.len() < FAILURES_TOLD {
                        status.failures.push(info);
                    }
                }
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        let count = |(version, databases)| SqlVersionCount { version, databases };
        status.versions = versions.into_iter().map(count).collect();
        Ok(status)
    }

    /// Brings the databases of a dbname that are behind to its schema's version, at most so many in a second. `progress` is
    /// told how far it is, at least once for each page, and ends the walk where it answers false.
    ///
    /// # Errors
    /// SCHEMA_NOT_FOUND, and those of [`ClusterNode::query`]. A database whose upgrade fails is counted, and noted in its
    /// entry.
    pub async fn migrate_databases(
        &self,
        dbname: &str,
        databases_per_second: u32,
        progress: impl Fn(MigrationProgress) -> BoxFuture<'static, bool> + Send,
    ) -> Result<MigrationProgress, Failure> {
        let bound = || Instant::now() + STEP_BOUND;
        let schema = self.get_schema(SqlGetSchemaRequest { dbname: dbname.to_owned() }, bound()).await?;
        let current_version = schema.schema.map_or(0, |schema| schema.version);
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / databases_per_second.max(1));
        // What an upgrade that took long has missed is not made up for: the rate is a bound.
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told = Instant::now();
        let mut made = MigrationProgress::default();
        let mut page_token = Bytes::new();
        loop {
            let page = self.list_databases(of_dbname(dbname, page_token), bound()).await?;
            for SqlDatabaseInfo { database, schema_version, .. } in page.databases {
                made.examined += 1;
                let Some(database) = database.filter(|_| schema_version < current_version) else { continue };
                ticks.tick().await;
                match self.upgrade_database(database, bound()).await {
                    Ok(true) => made.upgraded += 1,
                    Ok(false) => {}
                    // Removed meanwhile; or being imported, after which its next request upgrades it.
                    Err(failure) if matches!(failure.reason, Reason::DatabaseNotFound | Reason::DatabaseBusy) => {}
                    Err(failure) => {
                        tracing::warn!(dbname, %failure, "a database was not upgraded");
                        made.failed += 1;
                    }
                }
                if told.elapsed() >= Duration::from_secs(1) {
                    told = Instant::now();
                    if !progress(made).await {
                        return Ok(made);
                    }
                }
            }
            page_token = page.next_page_token;
            if page_token.is_empty() || !progress(made).await {
                return Ok(made);
            }
        }
    }

    async fn upgrade_database(&self, database: SqlDatabase, deadline: Instant) -> Result<bool, Failure> {
        let shard_id = self.shard_of_user(&database.user)?;
        let upgrade = Kind::SqlUpgrade(pb::SqlUpgrade { database: Some(database) });
        let routed = self.command(shard_id, Command { kind: Some(upgrade) }, deadline, true).await?;
        match routed.value.kind {
            Some(reply::Kind::SqlUpgrade(outcome)) => Ok(outcome.upgraded),
            Some(reply::Kind::Failure(failure)) => {
                let reason = Reason::parse(&failure.reason).unwrap_or(Reason::Internal);
                Err(Failure::new(reason, failure.message))
            }
            other => Err(unexpected(other)),
        }
    }

    /// Says which dbfiles SPHiveDB's protocol offers.
    ///
    /// # Errors
    /// Those of [`ClusterNode::command`].
    pub async fn put_sphivedb_settings(
        &self,
        request: SqlPutSphivedbSettingsRequest,
        deadline: Instant,
    ) -> Result<SqlPutSphivedbSettingsResponse, Failure> {
        match self.change_and_fence(Kind::SqlPutSphivedbSettings(request), deadline).await? {
            Some(reply::Kind::Done(_)) => Ok(SqlPutSphivedbSettingsResponse {}),
            other => Err(unexpected(other)),
        }
    }

    /// Whether SPHiveDB's protocol offers a dbfile, and a dbname. Where this node's catalog says no, the catalog's leader is
    /// asked, which may know more.
    ///
    /// # Errors
    /// Those of [`ClusterNode::query`].
    pub async fn sphivedb_offers(&self, dbfile: u32, dbname: &str, deadline: Instant) -> Result<(bool, bool), Failure> {
        let in_range = |settings: &pb::StoredSphivedbSettings| {
            settings.is_set && (settings.first_dbfile..=settings.last_dbfile).contains(&dbfile)
        };
        let here = offered_here(&self.catalog, dbname, &in_range);
        if here == Ok((true, true)) {
            return here;
        }
        let settings = self.ask_catalog(query::Kind::SqlGetSphivedbSettings(pb::Done {}), deadline).await?;
        let Some(query_result::Kind::SqlGetSphivedbSettings(settings)) = settings else {
            return Err(unexpected(settings));
        };
        let schema = self.get_schema(SqlGetSchemaRequest { dbname: dbname.to_owned() }, deadline).await;
        match schema {
            Ok(_) => Ok((in_range(&settings), true)),
            Err(failure) if failure.reason == Reason::SchemaNotFound => Ok((in_range(&settings), false)),
            Err(failure) => Err(failure),
        }
    }
}

fn offered_here(
    catalog: &CatalogHandle,
    dbname: &str,
    in_range: &dyn Fn(&pb::StoredSphivedbSettings) -> bool,
) -> Result<(bool, bool), Failure> {
    catalog.read(|reads| {
        let settings = schemas::sphivedb_settings(reads)?;
        Ok((in_range(&settings), schemas::current(reads, dbname)?.is_some()))
    })
}

fn of_dbname(dbname: &str, page_token: Bytes) -> SqlListRequest {
    SqlListRequest { dbname: Some(dbname.to_owned()), page_token, ..Default::default() }
}

fn unexpected(answer: impl std::fmt::Debug) -> Failure {
    Failure::internal(format!("a request about schemas was answered with {answer:?}"))
}
