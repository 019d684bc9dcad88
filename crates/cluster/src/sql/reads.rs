//! Reads of databases: each sees one moment of its shard's state, on any replica, beside the shard's executor.
//!
//! They run on a thread for what blocks, with databases of a bounded pool. An open database is known by the generation
//! of its pages, so that one which was opened for an earlier moment, or as another shard's, is never taken for another.

use std::sync::Arc;
use std::time::Instant;

use cirrus_engine::{ShardHead, View, named_database};
use cirrus_proto::internal::v1::{SqlShardList, SqlShardListResult, query, query_result};
use cirrus_proto::limits::SqlLimits;
use cirrus_proto::v1::SqlQueryResponse;
use cirrus_proto::{Failure, Reason};
use cirrus_replication::{Shard, SnapshotView, wall_clock};
use cirrus_sql::{Databases, ListFilter, Request};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::commands::CATALOG_WAIT;
use super::messages::{database_id, database_message, description_message, info_message, results, statements};
use crate::catalog_view::CatalogHandle;

/// Reads that run at once for each of the machine's cores. Two, so that one that waits for the disk leaves its core to
/// another.
const READS_PER_CORE: usize = 2;

/// This node's reads of databases.
pub(crate) struct SqlReads {
    limits: SqlLimits,
    catalog: Arc<CatalogHandle>,
    places: Arc<Semaphore>,
    /// Those that run nothing now: never more than there are places.
    idle: Arc<Mutex<Vec<Databases>>>,
}

impl SqlReads {
    pub(crate) fn new(limits: SqlLimits, catalog: Arc<CatalogHandle>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        SqlReads { limits, catalog, places: Arc::new(Semaphore::new(cores * READS_PER_CORE)), idle: Arc::default() }
    }

    /// Answers a query of SQL from the newest state of this node's replica. Waits for its turn until the deadline.
    ///
    /// # Errors
    /// DEADLINE_EXCEEDED; the query's own.
    pub(crate) async fn run(
        &self,
        shard: &Shard,
        query: query::Kind,
        deadline: Instant,
    ) -> Result<query_result::Kind, Failure> {
        let late = || Failure::new(Reason::DeadlineExceeded, "the deadline passed while the query waited for its turn");
        let waiting = tokio::time::timeout_at(deadline.into(), self.places.clone().acquire_owned());
        let place = waiting.await.map_err(|_| late())?.map_err(Failure::internal)?;
        let kept = self.idle.lock().pop();
        let (limits, catalog, state, idle) =
            (self.limits, self.catalog.clone(), shard.state().clone(), self.idle.clone());
        let answered = tokio::task::spawn_blocking(move || {
            let _place = place;
            let mut databases = match kept {
                Some(databases) => databases,
                None => Databases::new(limits)?,
            };
            let pinned = state.pin();
            let outcome = pinned.snapshot().map_err(Failure::internal).and_then(|snapshot| {
                let view = SnapshotView(snapshot);
                answer(&mut databases, &catalog, &view, &query)
            });
            idle.lock().push(databases);
            outcome
        });
        answered.await.map_err(|error| Failure::internal(format!("a query: {error}")))?
    }
}

fn answer(
    databases: &mut Databases,
    catalog: &CatalogHandle,
    view: &dyn View,
    query: &query::Kind,
) -> Result<query_result::Kind, Failure> {
    match query {
        query::Kind::SqlQuery(request) => {
            let id = database_id(named_database(request.database.as_ref())?);
            let statements = statements(&request.statements, false)?;
            let mut head = ShardHead::load(view)?;
            head.advance_to(wall_clock());
            let schema = catalog.schema(&id.dbname, head.catalog_index, CATALOG_WAIT, databases.limits())?;
            let request = Request { schema: schema.as_deref(), ..Request::new(&id, &statements) };
            let found = databases.query(view, head.clock_ms, request)?;
            Ok(query_result::Kind::SqlQuery(SqlQueryResponse { results: results(found) }))
        }
        query::Kind::SqlDescribe(request) => {
            let id = database_id(named_database(request.database.as_ref())?);
            Ok(query_result::Kind::SqlDescribe(description_message(databases.describe(view, &id)?)))
        }
        query::Kind::SqlList(request) => Ok(query_result::Kind::SqlList(list(view, request, databases.limits())?)),
        _ => Err(Failure::internal("the query is none of SQL's")),
    }
}

fn list(view: &dyn View, list: &SqlShardList, limits: &SqlLimits) -> Result<SqlShardListResult, Failure> {
    let filter = list.request.as_ref().map_or_else(ListFilter::default, |request| ListFilter {
        dbfile: request.dbfile,
        user_prefix: request.user_prefix.clone(),
        dbname: request.dbname.clone(),
    });
    let after = list.after.as_ref().map(database_id);
    let page = cirrus_sql::list(view, &filter, after.as_ref(), list.count_max as usize, limits)?;
    Ok(SqlShardListResult {
        databases: page.databases.into_iter().map(info_message).collect(),
        next_after: page.next.as_ref().map(database_message),
    })
}
