//! Results that are handed over as they are found.

use std::ops::ControlFlow;
use std::time::Duration;

use cirrus_proto::limits::SqlLimits;
use cirrus_proto::{Failure, Reason};
use cirrus_sql::{Cell, Part, Request, Statement};

use crate::shard::{Shard, book};

/// Counts to `n`.
fn numbers(n: u32) -> Statement {
    let sql = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < ?) SELECT n, 'row' AS v FROM c";
    Statement::with_parameters(sql, [Cell::Integer(i64::from(n))])
}

fn shard(limits: SqlLimits) -> Shard {
    let mut shard = Shard::with_limits(limits);
    shard.sql(&book(), "CREATE TABLE t(id INTEGER PRIMARY KEY, v)").unwrap();
    shard
}

fn streamed(
    shard: &mut Shard,
    statements: &[Statement],
    parts: &mut dyn FnMut(Part) -> ControlFlow<()>,
) -> Result<(), Failure> {
    shard.databases.stream(&shard.state, shard.head.clock_ms, Request::new(&book(), statements), parts)
}

#[test]
fn all_parts_come_in_order_beyond_the_limits_of_a_reply() {
    let mut shard = shard(SqlLimits { reply_rows: 10, reply_bytes: 1000, ..SqlLimits::DEFAULT });
    let statements = [Statement::new("SELECT id FROM t"), numbers(5_000), Statement::new("PRAGMA user_version")];
    let mut shape = Vec::new();
    let mut next = 0;
    streamed(&mut shard, &statements, &mut |part| {
        match part {
            Part::Columns(columns) => shape.push(columns.iter().map(|column| column.name.clone()).collect()),
            Part::Row(cells) if cells.len() == 2 => {
                next += 1;
                assert_eq!(cells, [Cell::Integer(next), Cell::Text("row".to_owned())]);
            }
            Part::Row(cells) => assert_eq!(cells, [Cell::Integer(0)]),
            Part::End => shape.push("end".to_owned()),
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(shape, ["id", "end", "nv", "end", "user_version", "end"]);
    assert_eq!(next, 5_000);
    // What is collected is bounded as before.
    let failure = shard.query(&book(), "SELECT 1 UNION SELECT 2 UNION SELECT 3").map(|result| result.rows.len());
    assert_eq!(failure.unwrap(), 3);
}

#[test]
fn it_ends_where_nobody_takes_the_rows_and_at_an_error_midway() {
    let mut shard = shard(SqlLimits::DEFAULT);
    let mut rows = 0;
    let failure = streamed(&mut shard, &[numbers(1_000_000)], &mut |part| {
        rows += u32::from(matches!(part, Part::Row(_)));
        if rows == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((failure.unwrap_err().reason, rows), (Reason::DeadlineExceeded, 3));

    let (mut rows, mut ended) = (0, false);
    let sql =
        "WITH c(n) AS (VALUES (1), (2), (3)) SELECT CASE n WHEN 3 THEN abs(-9223372036854775808) ELSE n END FROM c";
    let failure = streamed(&mut shard, &[Statement::new(sql)], &mut |part| {
        rows += u32::from(matches!(part, Part::Row(_)));
        ended |= part == Part::End;
        ControlFlow::Continue(())
    });
    assert_eq!((failure.unwrap_err().reason, rows, ended), (Reason::SqlInvalid, 2, false));

    let refused = streamed(&mut shard, &[Statement::new("DELETE FROM t")], &mut |_| ControlFlow::Continue(()));
    assert_eq!(refused.unwrap_err().reason, Reason::SqlReadOnly);
    shard.sql(&book(), "INSERT INTO t(v) VALUES (1)").unwrap();
}

#[test]
fn whoever_takes_the_rows_may_be_slow_and_the_query_may_not() {
    let mut shard = shard(SqlLimits { cpu_ms: 30, ..SqlLimits::DEFAULT });
    let mut rows = 0;
    streamed(&mut shard, &[numbers(10)], &mut |part| {
        if matches!(part, Part::Row(_)) {
            rows += 1;
            std::thread::sleep(Duration::from_millis(40));
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(rows, 10);
    let sql = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c";
    let failure = streamed(&mut shard, &[Statement::new(sql)], &mut |_| ControlFlow::Continue(()));
    assert_eq!(failure.unwrap_err().reason, Reason::SqlTimeout);
}
