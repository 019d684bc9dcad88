//! Reads of one shard, served from its replica here.

use std::time::Instant;

use cirrus_engine::{View, get, schedules, shard_scan};
use cirrus_proto::Failure;
use cirrus_proto::internal::v1::query::Kind;
use cirrus_proto::internal::v1::{Query, QueryResult, ScheduleList, ScheduleProgressResult, query_result};
use cirrus_proto::limits::Limits;
use cirrus_proto::v1::{GetLibraryResponse, ReadConsistency, SqlGetSchemaResponse, SqlListSchemasResponse};
use cirrus_replication::{Shard, head_now};

use crate::catalog::Committed;
use crate::evaluator::CATALOG_SHARD;
use crate::read_calls::ReadCalls;
use crate::sql::{SqlReads, schemas};
use crate::{library_catalog, schedule_catalog};

/// Waits for what the consistency asks for, then reads one moment of the state.
pub(crate) async fn run_query(
    shard: &Shard,
    query: &Query,
    limits: &Limits,
    (calls, sql): (&ReadCalls, &SqlReads),
    deadline: Instant,
) -> Result<QueryResult, Failure> {
    await_consistency(shard, query.consistency(), deadline).await?;
    match &query.kind {
        Some(Kind::Call(request)) if shard.id() != CATALOG_SHARD => {
            let response = calls.run(shard, request.clone(), deadline).await?;
            Ok(QueryResult { kind: Some(query_result::Kind::Call(response)) })
        }
        Some(kind @ (Kind::SqlQuery(_) | Kind::SqlDescribe(_) | Kind::SqlList(_))) if shard.id() != CATALOG_SHARD => {
            Ok(QueryResult { kind: Some(sql.run(shard, kind.clone(), deadline).await?) })
        }
        _ => read(shard, query, limits),
    }
}

/// Returns once the replica may be read at that consistency.
pub(crate) async fn await_consistency(
    shard: &Shard,
    consistency: ReadConsistency,
    deadline: Instant,
) -> Result<(), Failure> {
    match consistency {
        ReadConsistency::Unspecified | ReadConsistency::Linearizable => shard.read_barrier(deadline).await,
        ReadConsistency::Lease => shard.lease_barrier(deadline).await,
        ReadConsistency::Stale => Ok(()),
    }
}

fn read(shard: &Shard, query: &Query, limits: &Limits) -> Result<QueryResult, Failure> {
    let view = shard.view();
    let kind = match &query.kind {
        Some(Kind::Get(request)) => query_result::Kind::Get(get(&view, now_ms(&view)?, request, limits)?),
        Some(Kind::Scan(request)) => query_result::Kind::Scan(shard_scan(&view, now_ms(&view)?, request, limits)?),
        Some(Kind::ListLibraries(_)) if shard.id() == CATALOG_SHARD => {
            query_result::Kind::ListLibraries(library_catalog::libraries(&Committed(&view))?)
        }
        Some(Kind::GetLibrary(request)) if shard.id() == CATALOG_SHARD => {
            let (reads, name) = (Committed(&view), &request.name);
            let found = match request.version {
                0 => library_catalog::active(&reads, name)?.versioned,
                version => library_catalog::version(&reads, name, version)?,
            };
            query_result::Kind::GetLibrary(GetLibraryResponse { library: Some(found.header), source: found.source })
        }
        Some(Kind::ListLibraryVersions(request)) if shard.id() == CATALOG_SHARD => {
            query_result::Kind::ListLibraryVersions(library_catalog::versions(&Committed(&view), &request.name)?)
        }
        Some(Kind::ListSchedules(_)) if shard.id() == CATALOG_SHARD => {
            query_result::Kind::ListSchedules(ScheduleList { schedules: schedule_catalog::all(&Committed(&view))? })
        }
        Some(Kind::ScheduleProgress(request)) => {
            let mut result = ScheduleProgressResult::default();
            for name in &request.names {
                if let Some(stored) = schedules::load(&view, name)? {
                    result.progress.insert(name.clone(), stored);
                }
            }
            query_result::Kind::ScheduleProgress(result)
        }
        Some(Kind::SqlGetSchema(request)) if shard.id() == CATALOG_SHARD => {
            let schema = schemas::required(&Committed(&view), &request.dbname)?;
            query_result::Kind::SqlGetSchema(SqlGetSchemaResponse { schema: Some(schema) })
        }
        Some(Kind::SqlListSchemas(_)) if shard.id() == CATALOG_SHARD => {
            query_result::Kind::SqlListSchemas(SqlListSchemasResponse { schemas: schemas::all(&Committed(&view))? })
        }
        Some(Kind::SqlGetSphivedbSettings(_)) if shard.id() == CATALOG_SHARD => {
            query_result::Kind::SqlGetSphivedbSettings(schemas::sphivedb_settings(&Committed(&view))?)
        }
        _ => return Err(Failure::internal(format!("shard {} does not answer this query", shard.id()))),
    };
    Ok(QueryResult { kind: Some(kind) })
}

/// The shard's time.
fn now_ms(view: &dyn View) -> Result<u64, Failure> {
    Ok(head_now(view)?.clock_ms)
}
