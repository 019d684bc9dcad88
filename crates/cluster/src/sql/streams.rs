//! Queries whose results are handed over as they are found.

use std::ops::ControlFlow;

use cirrus_engine::named_database;
use cirrus_proto::Failure;
use cirrus_proto::v1::{SqlQueryStreamRequest, SqlQueryStreamResponse, SqlRow};
use cirrus_replication::{Shard, SnapshotView, head_now};
use cirrus_sql::{Databases, Part, Request};
use prost::Message as _;

use super::messages::{column_message, database_id, row_message, statements};
use super::metrics::{Owner, RequestKind, Sizes, SqlMeters};
use crate::catalog_view::CATALOG_WAIT;
use crate::node::ClusterNode;

/// Bytes of rows in one message. One row may be larger.
const ROWS_BYTES: usize = 256 * 1024;

impl ClusterNode {
    /// Runs a query on this node's replica as it is now, and visits its results until `visit` breaks. Blocks.
    ///
    /// # Errors
    /// The query's own, with parts visited before.
    pub fn stream_query(
        &self,
        shard: &Shard,
        request: &SqlQueryStreamRequest,
        visit: &mut dyn FnMut(SqlQueryStreamResponse) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        let id = database_id(named_database(request.database.as_ref())?);
        let statements = statements(&request.statements, false)?;
        let pinned = shard.state().pin();
        let view = SnapshotView(pinned.snapshot().map_err(Failure::internal)?);
        let head = head_now(&view)?;
        let limits = self.sql_limits();
        let schema = self.catalog.schema(&id.dbname, head.catalog_index, CATALOG_WAIT, limits)?;
        let sizes = Sizes::of(request.database.as_ref(), &request.statements);
        let request = Request { schema: schema.as_deref(), ..Request::new(&id, &statements) };
        let mut messages = Messages { visit, next: SqlQueryStreamResponse::default(), bytes: 0 };
        // One of its own: what the pool of queries keeps open is for those that are short.
        let mut databases = Databases::new(*limits)?;
        let mut meters = SqlMeters::new(Owner::Queries);
        let outcome = databases.stream(&view, head.clock_ms, request, &mut |part| messages.take(part));
        // Its own time, without its client's.
        meters.record(RequestKind::Stream, databases.spent().cpu, &outcome, 0, sizes);
        meters.follow(&databases);
        outcome
    }
}

/// Gathers rows to messages.
struct Messages<'v> {
    visit: &'v mut dyn FnMut(SqlQueryStreamResponse) -> ControlFlow<()>,
    next: SqlQueryStreamResponse,
    /// Of the rows in `next`.
    bytes: usize,
}

impl Messages<'_> {
    fn take(&mut self, part: Part) -> ControlFlow<()> {
        match part {
            Part::Columns(columns) => {
                self.next.columns = columns.into_iter().map(column_message).collect();
                ControlFlow::Continue(())
            }
            Part::Row(cells) => {
                let row = row_message(cells);
                let bytes = encoded_bytes(&row);
                if self.bytes > 0 && self.bytes + bytes > ROWS_BYTES {
                    self.send(false)?;
                }
                self.bytes += bytes;
                self.next.rows.push(row);
                ControlFlow::Continue(())
            }
            Part::End => self.send(true),
        }
    }

    fn send(&mut self, last: bool) -> ControlFlow<()> {
        let statement = self.next.statement;
        let following = SqlQueryStreamResponse { statement: statement + u32::from(last), ..Default::default() };
        let message = std::mem::replace(&mut self.next, following);
        self.bytes = 0;
        (self.visit)(SqlQueryStreamResponse { last, ..message })
    }
}

/// With its tag and its length.
fn encoded_bytes(row: &SqlRow) -> usize {
    let bytes = row.encoded_len();
    1 + prost::length_delimiter_len(bytes) + bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use cirrus_sql::{Cell, Column};

    fn taken(parts: impl IntoIterator<Item = Part>) -> Vec<SqlQueryStreamResponse> {
        let mut sent = Vec::new();
        let mut visit = |message| {
            sent.push(message);
            ControlFlow::Continue(())
        };
        let mut messages = Messages { visit: &mut visit, next: SqlQueryStreamResponse::default(), bytes: 0 };
        for part in parts {
            assert!(messages.take(part).is_continue());
        }
        sent
    }

    fn columns() -> Part {
        Part::Columns(vec![Column { name: "a".to_owned(), declared_type: None }])
    }

    #[test]
    fn rows_are_gathered_and_each_statement_ends() {
        let row = |bytes: usize| Part::Row(vec![Cell::Text("x".repeat(bytes))]);
        let rows = [300_000, 1, 100_000, 100_000, 100_000].map(row);
        let parts = [columns()].into_iter().chain(rows).chain([Part::End, columns(), Part::End]);
        let sent = taken(parts);
        let shape = |message: &SqlQueryStreamResponse| {
            (message.statement, message.columns.len(), message.rows.len(), message.last)
        };
        let shapes: Vec<_> = sent.iter().map(shape).collect();
        assert_eq!(shapes, [(0, 1, 1, false), (0, 0, 3, false), (0, 0, 1, true), (1, 1, 0, true)]);
        assert!(sent[1].encoded_len() <= ROWS_BYTES + 16, "{}", sent[1].encoded_len());
    }
}
