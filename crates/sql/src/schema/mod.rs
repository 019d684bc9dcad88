//! A dbname's schema: what all databases of one dbname have, whenever each was used last.
//!
//! A schema is a version, the DDL of a new database, and numbered migrations. A database has the version that its
//! entry records, and is brought to a later one in the same transaction as its next request:
//!
//! ```text
//! a new database:       the DDL, then the migrations that are declared for new databases too
//! one that is behind:   missing tables ─► missing columns ─► migrations not yet run ─► missing indexes, views, triggers
//! ```
//!
//! Nothing is dropped or retyped, but by a migration. Indexes come last, so that a migration can put in order what a
//! new unique index would refuse, and triggers, so that migrations do not set them off.

mod ddl;
mod upgrade;

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use cirrus_proto::limits::SqlLimits;
use cirrus_proto::{Failure, Reason};

use crate::budget::Budget;
use crate::connection::open_empty;
use crate::gate::Mode;
use crate::running::{Running, run};
use crate::session::Session;
use crate::trouble;
use ddl::{ColumnDefinition, column_definitions};
pub(crate) use ddl::{first_word, quoted, type_as_written};

/// One numbered step that DDL cannot say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// From 1. A database runs those above the last that it ran, in order.
    pub number: u64,
    /// Any number of statements.
    pub sql: String,
    /// Run on new databases as well, after the DDL: rows that every database begins with, for example. Otherwise a new
    /// database counts as migrated, since the DDL is what migrations lead to.
    pub on_new: bool,
}

/// A version of a dbname's schema that can be brought to databases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    version: u64,
    tables: Vec<Table>,
    /// Indexes, views and triggers, in the order in which the DDL creates them.
    others: Vec<Object>,
    migrations: Vec<Migration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Table {
    name: String,
    sql: String,
    /// Empty for a virtual table, whose columns stay as they are.
    columns: Vec<ColumnDefinition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Object {
    /// "index", "view" or "trigger".
    kind: String,
    name: String,
    sql: String,
}

impl Schema {
    /// A schema whose DDL runs on an empty database, creates nothing but tables, indexes, views and triggers, and whose
    /// migrations for new databases run after it. Versions count from 1.
    ///
    /// Fails with `SCHEMA_INVALID`, whose metadata `step` is "ddl" or "migration N", and with `INVALID_FIELD`.
    pub fn declare(version: u64, ddl: &str, migrations: Vec<Migration>, limits: &SqlLimits) -> Result<Schema, Failure> {
        crate::initialize()?;
        if version == 0 {
            return Err(Failure::invalid_field("version", "must be at least 1"));
        }
        if ddl.len() > limits.sql_bytes {
            return Err(Failure::too_large(Reason::SqlTooLarge, "ddl", ddl.len(), limits.sql_bytes));
        }
        let mut last = 0;
        for migration in &migrations {
            let (number, actual, limit) = (migration.number, migration.sql.len(), limits.sql_bytes);
            if number <= last {
                return Err(Failure::invalid_field("migrations", format!("number {number} does not follow {last}")));
            }
            if actual > limit {
                let field = format!("migration {number}");
                return Err(Failure::too_large(Reason::SqlTooLarge, &field, actual, limit));
            }
            last = number;
        }
        on_empty_database(limits, |session| {
            let (tables, others) = session
                .transaction(|| {
                    session.batch(ddl, Mode::Ddl)?;
                    Ok((tables(session)?, others(session)?))
                })
                .map_err(|failure| invalid("ddl", failure))?;
            let schema = Schema { version, tables, others, migrations };
            for migration in schema.migrations.iter().filter(|migration| migration.on_new) {
                session
                    .transaction(|| session.batch(&migration.sql, Mode::Migration))
                    .map_err(|failure| invalid(&migration.step(), failure))?;
            }
            Ok(schema)
        })
    }

    /// Tries the way from an earlier version on a database that has it, empty but for one row in each table where a row
    /// of ones can be stored. So a column that SQLite cannot add is found when it is declared, and not on every database.
    ///
    /// Fails with `SCHEMA_INVALID`.
    pub fn check_upgrade_from(&self, earlier: &Schema, limits: &SqlLimits) -> Result<(), Failure> {
        on_empty_database(limits, |session| {
            session.transaction(|| earlier.create(session))?;
            for table in &earlier.tables {
                let ones = vec!["1"; table.columns.len().max(1)].join(", ");
                // A constraint that refuses this row is none of the upgrade's business.
                let _ = session.transaction(|| {
                    session.batch(&format!("INSERT INTO {} VALUES ({ones})", quoted(&table.name)), Mode::Internal)
                });
            }
            let from = earlier.last_migration();
            session.transaction(|| self.bring(session, from)).map_err(|failure| {
                let step = failure.metadata.get("step").cloned().unwrap_or_default();
                invalid(&step, failure)
            })
        })
    }

    /// The version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The number of the last migration; 0: there is none.
    pub fn last_migration(&self) -> u64 {
        self.migrations.last().map_or(0, |migration| migration.number)
    }

    /// The tables' names, in the order in which the DDL creates them.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.tables.iter().map(|table| &table.name[..])
    }
}

impl Migration {
    fn step(&self) -> String {
        format!("migration {}", self.number)
    }
}

fn invalid(step: &str, failure: Failure) -> Failure {
    Failure { reason: Reason::SchemaInvalid, message: format!("{step}: {}", failure.message), ..failure }
        .with("step", step)
}

fn on_empty_database<R>(
    limits: &SqlLimits,
    work: impl FnOnce(&Session<'_>) -> Result<R, Failure>,
) -> Result<R, Failure> {
    let killed = AtomicBool::new(false);
    let running =
        Running::without_shard(Vec::new(), Budget::new(Duration::from_millis(limits.upgrade_cpu_ms), &killed));
    run(&running, || {
        let connection = open_empty(limits).map_err(|error| trouble::failure(&error, &running, limits))?;
        work(&Session::new(&connection, &running, limits))
    })
}

fn tables(session: &Session<'_>) -> Result<Vec<Table>, Failure> {
    let sql = "SELECT name, sql, (SELECT count(*) FROM pragma_table_xinfo(s.name)) FROM sqlite_schema s \
               WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
                 AND name NOT IN (SELECT name FROM pragma_table_list WHERE type = 'shadow') \
               ORDER BY rowid";
    let found = session.rows(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let table = |(name, sql, column_count): (String, String, u32)| {
        if sql.get(..14).is_some_and(|begin| begin.eq_ignore_ascii_case("CREATE VIRTUAL")) {
            return Ok(Table { name, sql, columns: Vec::new() });
        }
        let columns = column_definitions(&sql).unwrap_or_default();
        if columns.len() != column_count as usize {
            let problem = format!("the columns of table {name} cannot be told apart in its text");
            return Err(Failure::new(Reason::SchemaInvalid, problem));
        }
        Ok(Table { name, sql, columns })
    };
    found.into_iter().map(table).collect()
}

fn others(session: &Session<'_>) -> Result<Vec<Object>, Failure> {
    let sql = "SELECT type, name, sql FROM sqlite_schema WHERE type <> 'table' AND sql IS NOT NULL ORDER BY rowid";
    session.rows(sql, [], |row| Ok(Object { kind: row.get(0)?, name: row.get(1)?, sql: row.get(2)? }))
}
