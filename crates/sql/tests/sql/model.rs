//! Random requests to several databases, beside plain SQLite databases: the same answers, whatever is rolled back, given up
//! after it was evaluated, closed, or evaluated by another executor in between.

use cirrus_engine::Transaction;
use cirrus_proto::limits::{Limits, SqlLimits};
use cirrus_sql::{Cell, DatabaseId, Databases, Parameters, Request, Statement};
use proptest::prelude::*;
use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::shard::Shard;

#[derive(Clone, Debug)]
enum Step {
    Request {
        database: usize,
        executor: usize,
        statements: Vec<Statement>,
        fate: Fate,
    },
    /// Everything that an executor has open is closed, as when it is no longer the leader.
    Close {
        executor: usize,
    },
}

/// What becomes of a request that was evaluated.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Applied,
    /// The whole transaction is dropped: its proposal was lost.
    Dropped,
    /// The caller returns to a savepoint and goes on: an error that a procedure caught.
    RolledBack,
}

const DATABASES: usize = 4;
const EXECUTORS: usize = 2;

fn any_cell() -> impl Strategy<Value = Cell> {
    prop_oneof![
        Just(Cell::Null),
        (0i64..40).prop_map(Cell::Integer),
        (-2.0f64..2.0).prop_map(Cell::Real),
        "[a-d]{0,3}".prop_map(Cell::Text),
        // Long enough for pages of their own, and some for more than SQLite keeps in memory.
        prop_oneof![8 => 1usize..5000, 1 => 100_000usize..400_000]
            .prop_flat_map(|length| any::<u8>().prop_map(move |byte| Cell::Blob(vec![byte; length].into()))),
    ]
}

fn any_statement() -> impl Strategy<Value = Statement> {
    let table = 0usize..3;
    let plain = |sql: String| Statement::new(sql);
    prop_oneof![
        2 => table.clone().prop_map(move |t| plain(format!("CREATE TABLE IF NOT EXISTS t{t}(id INTEGER PRIMARY KEY, a, b UNIQUE)"))),
        1 => table.clone().prop_map(move |t| plain(format!("CREATE TABLE t{t}(id INTEGER PRIMARY KEY, b, a)"))),
        1 => table.clone().prop_map(move |t| plain(format!("DROP TABLE IF EXISTS t{t}"))),
        1 => (table.clone(), 0usize..3).prop_map(move |(t, c)| plain(format!("ALTER TABLE t{t} ADD COLUMN c{c} DEFAULT 'd{c}'"))),
        1 => table.clone().prop_map(move |t| plain(format!("CREATE INDEX IF NOT EXISTS i{t} ON t{t}(a, b)"))),
        1 => table.clone().prop_map(move |t| plain(format!(
            "CREATE TRIGGER IF NOT EXISTS tr{t} AFTER DELETE ON t{t} BEGIN UPDATE t{t} SET a = 'after'; END"
        ))),
        8 => (table.clone(), any_cell(), any_cell()).prop_map(|(t, a, b)| Statement::with_parameters(
            format!("INSERT INTO t{t}(a, b) VALUES (?, ?)"), [a, b]
        )),
        3 => (table.clone(), any_cell()).prop_map(|(t, b)| Statement::with_parameters(
            format!("INSERT OR REPLACE INTO t{t}(id, b) VALUES (1, ?)"), [b]
        )),
        2 => table.clone().prop_map(move |t| plain(format!(
            "INSERT OR IGNORE INTO t{t}(a, b) SELECT a || 'x', b || 'y' FROM t{t} LIMIT 20"
        ))),
        4 => (table.clone(), any_cell(), 0i64..10).prop_map(|(t, a, id)| Statement {
            parameters: Parameters::Named(vec![(":a".to_owned(), a), (":id".to_owned(), Cell::Integer(id))]),
            ..Statement::new(format!("UPDATE t{t} SET a = :a WHERE id % 10 = :id"))
        }),
        2 => (table.clone(), 0i64..10).prop_map(move |(t, id)| plain(format!("DELETE FROM t{t} WHERE id % 10 = {id}"))),
        1 => table.clone().prop_map(move |t| plain(format!("DELETE FROM t{t}"))),
        4 => table.prop_map(move |t| plain(format!("SELECT * FROM t{t} ORDER BY id"))),
        1 => Just(plain("SELECT count(*), sum(length(sql)) FROM sqlite_schema".to_owned())),
        1 => Just(plain("PRAGMA user_version = 7".to_owned())),
        1 => Just(plain("PRAGMA integrity_check".to_owned())),
        1 => Just(plain("SAVEPOINT s".to_owned())),
        1 => Just(plain("ROLLBACK TO s".to_owned())),
        1 => Just(plain("RELEASE s".to_owned())),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![4 => Just(Fate::Applied), 1 => Just(Fate::Dropped), 1 => Just(Fate::RolledBack)];
    let statements = proptest::collection::vec(any_statement(), 1..6);
    prop_oneof![
        20 => (0..DATABASES, prop_oneof![6 => Just(0), 1 => Just(1)], statements, fate)
            .prop_map(|(database, executor, statements, fate)| Step::Request { database, executor, statements, fate }),
        1 => (0..EXECUTORS).prop_map(|executor| Step::Close { executor }),
    ]
}

/// Rows and affected rows of a statement.
type Answered = (Vec<Vec<Cell>>, u64);
/// SQLite's code and message.
type Refused = (String, String);
type Answer = Result<Vec<Answered>, Refused>;

fn plain_request(connection: &Connection, statements: &[Statement], fate: Fate) -> Answer {
    connection.execute_batch("BEGIN").unwrap();
    let answer =
        statements.iter().map(|statement| plain_statement(connection, statement)).collect::<Result<Vec<_>, _>>();
    if !connection.is_autocommit() {
        let end = if answer.is_ok() && fate == Fate::Applied { "COMMIT" } else { "ROLLBACK" };
        connection.execute_batch(end).unwrap();
    }
    answer
}

fn plain_statement(connection: &Connection, statement: &Statement) -> Result<Answered, Refused> {
    let failed = |error: rusqlite::Error| {
        let code = error.sqlite_error().map_or(1, |error| error.extended_code & 0xff);
        let message = match &error {
            rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
            rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
            other => other.to_string(),
        };
        (code.to_string(), message)
    };
    let changes_before = connection.total_changes();
    let mut compiled = connection.prepare(&statement.sql).map_err(failed)?;
    match &statement.parameters {
        Parameters::Positional(cells) => {
            for (index, cell) in cells.iter().enumerate() {
                compiled.raw_bind_parameter(index + 1, cell).unwrap();
            }
        }
        Parameters::Named(cells) => {
            for (name, cell) in cells {
                let index = compiled.parameter_index(name).unwrap().unwrap();
                compiled.raw_bind_parameter(index, cell).unwrap();
            }
        }
    }
    let count = compiled.column_count();
    let mut found = Vec::new();
    let mut rows = compiled.raw_query();
    while let Some(row) = rows.next().map_err(failed)? {
        found.push((0..count).map(|index| cell(row.get_ref(index).unwrap())).collect());
    }
    drop(rows);
    let changed = connection.total_changes() != changes_before;
    Ok((found, if changed { connection.changes() } else { 0 }))
}

fn cell(value: ValueRef<'_>) -> Cell {
    match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(integer) => Cell::Integer(integer),
        ValueRef::Real(real) => Cell::Real(real),
        ValueRef::Text(text) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(blob) => Cell::Blob(blob.to_vec().into()),
    }
}

/// A new plain database, with what SQLite's defaults are where this build's are others.
fn plain() -> Connection {
    let connection = Connection::open_in_memory().unwrap();
    connection.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA page_size = 1024").unwrap();
    connection
}

fn run(steps: &[Step]) -> Result<(), TestCaseError> {
    // Two stay open, of four.
    let limits = SqlLimits { open_databases: 2, ..SqlLimits::DEFAULT };
    let mut shard = Shard::with_limits(limits);
    let mut other = Databases::new(limits).unwrap();
    let ids: Vec<DatabaseId> =
        (0..DATABASES as u32).map(|n| DatabaseId::new(n % 2, format!("user{}", n / 2), "d")).collect();
    let plains: Vec<Connection> = (0..DATABASES).map(|_| plain()).collect();
    for step in steps {
        match step {
            Step::Close { executor: 0 } => shard.databases.close_all(),
            Step::Close { .. } => other.close_all(),
            Step::Request { database, executor, statements, fate } => {
                let databases = if *executor == 0 { &mut shard.databases } else { &mut other };
                let mut transaction = Transaction::new(&shard.state, shard.head, &Limits::DEFAULT);
                let before = transaction.savepoint();
                let answer = databases.execute(&mut transaction, Request::new(&ids[*database], statements));
                if *fate == Fate::RolledBack {
                    transaction.rollback_to(before);
                }
                let expected = plain_request(&plains[*database], statements, *fate);
                let failed = answer.is_err();
                let answer: Answer = answer
                    .map(|executed| {
                        executed.results.into_iter().map(|result| (result.rows, result.affected_rows)).collect()
                    })
                    .map_err(|failure| {
                        (failure.metadata["sqlite_code"].clone(), failure.metadata["sqlite_message"].clone())
                    });
                prop_assert_eq!(answer, expected, "{:?}", step);
                let (effects, head) = transaction.finish();
                if failed || *fate == Fate::RolledBack {
                    prop_assert_eq!(&effects, &[]);
                }
                if *fate != Fate::Dropped {
                    shard.state.apply(&effects);
                    shard.head = head;
                }
                prop_assert!(databases.statistics().open <= 2);
            }
        }
    }
    // On a third executor, which has seen nothing.
    shard.databases = Databases::new(limits).unwrap();
    for (id, plain) in ids.iter().zip(&plains) {
        let dump = [
            "PRAGMA integrity_check",
            "SELECT type, name, sql FROM sqlite_schema ORDER BY name",
            "PRAGMA user_version",
        ];
        let tables =
            plain_statement(plain, &Statement::new("SELECT name FROM sqlite_schema WHERE type = 'table'")).unwrap().0;
        let tables = tables.iter().map(|row| match &row[0] {
            Cell::Text(name) => Statement::new(format!("SELECT * FROM {name} ORDER BY 1")),
            other => unreachable!("{other:?}"),
        });
        let statements: Vec<Statement> = dump.map(Statement::new).into_iter().chain(tables).collect();
        let dumped = shard.execute(id, &statements).unwrap();
        let dumped: Vec<_> = dumped.results.into_iter().map(|result| (result.rows, result.affected_rows)).collect();
        prop_assert_eq!(&dumped[0].0, &[[Cell::Text("ok".to_owned())]]);
        prop_assert_eq!(Ok(dumped), plain_request(plain, &statements, Fate::Applied), "{:?}", id);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn databases_answer_as_plain_sqlite_does(steps in proptest::collection::vec(any_step(), 1..60)) {
        cirrus_sql::initialize().unwrap();
        run(&steps)?;
    }
}
