//! Bringing a database to a schema's version.

use cirrus_proto::{Failure, Reason};

use super::ddl::quoted;
use super::{Migration, Schema, Table};
use crate::gate::Mode;
use crate::session::Session;

impl Session<'_> {
    /// Makes the database what the schema says, as a transaction and without foreign keys, as SQLite advises for changes of
    /// a schema. `migrated` is the last migration that it ran.
    ///
    /// Fails with `SCHEMA_UPGRADE_FAILED`.
    pub(crate) fn upgrade(&self, schema: &Schema, migrated: u64) -> Result<(), Failure> {
        let enforced = self.rows("PRAGMA foreign_keys", [], |row| row.get::<_, bool>(0))?;
        self.internal("PRAGMA foreign_keys = OFF")?;
        self.transaction(|| schema.bring(self, migrated))?;
        if enforced.contains(&true) { self.internal("PRAGMA foreign_keys = ON") } else { Ok(()) }
    }
}

impl Schema {
    /// Makes the database what the schema says. `migrated` is the last migration that it ran. Within a transaction.
    ///
    /// Fails with `SCHEMA_UPGRADE_FAILED`.
    pub(super) fn bring(&self, session: &Session<'_>, migrated: u64) -> Result<(), Failure> {
        let is_new = session.rows("SELECT 1 FROM sqlite_schema LIMIT 1", [], |_| Ok(()))?.is_empty();
        if is_new { self.create(session) } else { self.upgrade(session, migrated) }
    }

    /// Makes a new database.
    pub(super) fn create(&self, session: &Session<'_>) -> Result<(), Failure> {
        for table in &self.tables {
            self.step(session, &format!("table {}", table.name), &table.sql)?;
        }
        for object in &self.others {
            self.step(session, &format!("{} {}", object.kind, object.name), &object.sql)?;
        }
        self.migrate(session, self.migrations.iter().filter(|migration| migration.on_new))
    }

    fn upgrade(&self, session: &Session<'_>, migrated: u64) -> Result<(), Failure> {
        for table in &self.tables {
            if has(session, "table", &table.name)? {
                self.add_columns(session, table)?;
            } else {
                self.step(session, &format!("table {}", table.name), &table.sql)?;
            }
        }
        self.migrate(session, self.migrations.iter().filter(|migration| migration.number > migrated))?;
        for object in &self.others {
            if !has(session, &object.kind, &object.name)? {
                self.step(session, &format!("{} {}", object.kind, object.name), &object.sql)?;
            }
        }
        Ok(())
    }

    fn add_columns(&self, session: &Session<'_>, table: &Table) -> Result<(), Failure> {
        if table.columns.is_empty() {
            return Ok(());
        }
        let sql = "SELECT name FROM pragma_table_xinfo(?1)";
        let present = session.rows(sql, [&table.name], |row| row.get::<_, String>(0))?;
        for column in &table.columns {
            if !present.iter().any(|present| present.eq_ignore_ascii_case(&column.name)) {
                let step = format!("column {}.{}", table.name, column.name);
                let sql = format!("ALTER TABLE {} ADD COLUMN {}", quoted(&table.name), column.text);
                self.step(session, &step, &sql)?;
            }
        }
        Ok(())
    }

    fn migrate<'m>(
        &self,
        session: &Session<'_>,
        migrations: impl Iterator<Item = &'m Migration>,
    ) -> Result<(), Failure> {
        for migration in migrations {
            self.step(session, &migration.step(), &migration.sql)?;
        }
        Ok(())
    }

    fn step(&self, session: &Session<'_>, step: &str, sql: &str) -> Result<(), Failure> {
        session.batch(sql, Mode::Migration).map_err(|failure| {
            if failure.reason == Reason::Internal {
                return failure;
            }
            let message = format!("{step} of schema version {} failed: {}", self.version, failure.message);
            let cause = failure.reason.as_str();
            Failure { reason: Reason::SchemaUpgradeFailed, message, ..failure }
                .with("schema_version", self.version)
                .with("step", step)
                .with("cause", cause)
        })
    }
}

fn has(session: &Session<'_>, kind: &str, name: &str) -> Result<bool, Failure> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type = ?1 AND name = ?2 COLLATE NOCASE";
    Ok(!session.rows(sql, [kind, name], |_| Ok(()))?.is_empty())
}
