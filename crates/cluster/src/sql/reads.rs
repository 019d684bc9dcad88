//! Reads of databases: each sees one moment of its shard's state, on any replica, beside the shard's executor.
//!
//! They run with databases of a bounded pool. An open database is known by the generation
//! of its pages, so that one which was opened for an earlier moment, or as another shard's, is never taken for another.

use std::sync::Arc;
use std::time::Instant;

use cirrus_engine::{View, named_database};
use cirrus_proto::Failure;
use cirrus_proto::internal::v1::{SqlShardList, SqlShardListResult, query, query_result};
use cirrus_proto::limits::SqlLimits;
use cirrus_proto::v1::SqlQueryResponse;
use cirrus_replication::{Shard, SnapshotView, head_now};
use cirrus_sql::{Databases, ListFilter, Request};

use super::messages::{database_id, database_message, description_message, info_message, results, statements};
use super::metrics::{Owner, RequestKind, Sizes, SqlMeters};
use crate::catalog_view::{CATALOG_WAIT, CatalogHandle};
use crate::read_pool::ReadPool;

/// This node's reads of databases.
pub(crate) struct SqlReads {
    limits: SqlLimits,
    catalog: Arc<CatalogHandle>,
    pool: ReadPool<Reader>,
}

/// What a query is made with.
struct Reader {
    databases: Databases,
    meters: SqlMeters,
}

impl SqlReads {
    pub(crate) fn new(limits: SqlLimits, catalog: Arc<CatalogHandle>) -> Self {
        SqlReads { limits, catalog, pool: ReadPool::new("query") }
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
        let catalog = self.catalog.clone();
        let limits = self.limits;
        let make = || Ok(Reader { databases: Databases::new(limits)?, meters: SqlMeters::new(Owner::Queries) });
        let read = move |reader: &mut Reader, view: &SnapshotView<'_>| {
            let (kind, sizes) = asked(&query);
            let began = Instant::now();
            let outcome = answer(&mut reader.databases, &catalog, view, &query);
            reader.meters.record(kind, began.elapsed(), &outcome, 0, sizes);
            reader.meters.follow(&reader.databases);
            outcome
        };
        self.pool.run(shard, deadline, make, read).await
    }
}

/// What is asked for, and how much of it.
fn asked(query: &query::Kind) -> (RequestKind, Sizes<'_>) {
    match query {
        query::Kind::SqlQuery(request) => {
            (RequestKind::Query, Sizes::of(request.database.as_ref(), &request.statements))
        }
        query::Kind::SqlDescribe(request) => (RequestKind::Describe, Sizes::of(request.database.as_ref(), &[])),
        _ => (RequestKind::List, Sizes::default()),
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
            let head = head_now(view)?;
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
