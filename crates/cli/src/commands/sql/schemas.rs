//! `cirrus sql schema …`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cirrus_client::v1::{SqlMigrateDatabasesRequest, SqlMigration, SqlPutSchemaRequest};
use cirrus_client::{ClientError, Failure};
use cirrus_sql::SphivedbConfig;
use serde_json::{Value, json};

use super::databases;
use crate::arguments::{Format, Global, SchemaCommand};
use crate::commands::Outcome;
use crate::failure::CommandError;
use crate::output::{self, cell, time};

pub(super) async fn run(global: &Global, command: SchemaCommand) -> Outcome {
    match command {
        SchemaCommand::Set { dbname, ddl, migrations, migrations_on_new } => {
            set(global, dbname, &ddl, &migrations, &migrations_on_new).await
        }
        SchemaCommand::Show { dbname } => show(global, dbname).await,
        SchemaCommand::List => list(global).await,
        SchemaCommand::Import { file } => import(global, &file).await,
        SchemaCommand::Status { dbname } => status(global, dbname).await,
        SchemaCommand::Migrate { dbname, rate } => migrate(global, dbname, rate).await,
    }
}

async fn set(
    global: &Global,
    dbname: String,
    ddl: &Path,
    migrations: &[PathBuf],
    migrations_on_new: &[PathBuf],
) -> Outcome {
    let read_all = |paths: &[PathBuf], on_new: bool| -> Result<Vec<SqlMigration>, CommandError> {
        let one = |path: &PathBuf| Ok(SqlMigration { number: number(path)?, sql: text(path)?, on_new });
        paths.iter().map(one).collect()
    };
    let mut all = read_all(migrations, false)?;
    all.extend(read_all(migrations_on_new, true)?);
    all.sort_by_key(|migration| migration.number);
    let request = SqlPutSchemaRequest { dbname: dbname.clone(), ddl: text(ddl)?, migrations: all, request_id: None };
    let answer = global.client().await?.put_schema(request).await?;
    match global.output {
        Format::Json => output::json(&json!({ "version": answer.version, "changed": answer.changed }))?,
        Format::Table => output::line(set_line(&dbname, answer.version, answer.changed))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn set_line(dbname: &str, version: u64, changed: bool) -> String {
    let how = if changed { "is stored" } else { "says the same already" };
    format!("{dbname} version {version} {how}")
}

fn text(path: &Path) -> Result<String, CommandError> {
    std::fs::read_to_string(path).map_err(|error| CommandError::local(format!("{}: {error}", path.display())))
}

/// The number with which a migration's file begins.
fn number(path: &Path) -> Result<u64, CommandError> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let digits = name.split(|letter: char| !letter.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().map_err(|_| {
        CommandError::local(format!(
            "{}: a migration's file begins with its number, as in 3-split-names.sql",
            path.display()
        ))
    })
}

async fn show(global: &Global, dbname: String) -> Outcome {
    let schema = global.client().await?.get_schema(dbname).await?;
    match global.output {
        Format::Json => {
            let migrations = schema
                .migrations
                .iter()
                .map(|one| json!({ "number": one.number, "sql": one.sql, "on_new": one.on_new }));
            output::json(&json!({
                "dbname": schema.dbname,
                "version": schema.version,
                "created_at_ms": schema.created_at_ms,
                "ddl": schema.ddl,
                "migrations": migrations.collect::<Vec<Value>>(),
            }))?;
        }
        Format::Table => {
            output::line(format!("-- {} version {}, {}", schema.dbname, schema.version, time(schema.created_at_ms)))?;
            output::line(schema.ddl.trim_end())?;
            for one in &schema.migrations {
                let also = if one.on_new { ", on new databases as well" } else { "" };
                output::line(format!("-- migration {}{also}\n{}", one.number, one.sql.trim_end()))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(global: &Global) -> Outcome {
    let schemas = global.client().await?.list_schemas().await?;
    match global.output {
        Format::Json => {
            let schemas = schemas
                .iter()
                .map(|one| json!({ "dbname": one.dbname, "version": one.version, "created_at_ms": one.created_at_ms }));
            output::json(&json!({ "schemas": schemas.collect::<Vec<Value>>() }))?;
        }
        Format::Table => {
            let mut table = output::table(["DBNAME", "VERSION", "SINCE"]);
            for one in schemas {
                table.add_row([one.dbname, one.version.to_string(), time(one.created_at_ms)]);
            }
            output::print_table(&table)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn import(global: &Global, path: &Path) -> Outcome {
    let refused = |failure: Failure| CommandError::from(ClientError::from(failure));
    let config = SphivedbConfig::parse(&text(path)?).map_err(refused)?;
    let client = global.client().await?;
    let mut imported = Vec::new();
    for (dbname, ddl) in config.ddl {
        let request = SqlPutSchemaRequest { dbname: dbname.clone(), ddl, ..Default::default() };
        imported.push((dbname, client.put_schema(request).await?));
    }
    // Last: what is offered has its schema.
    client.put_sphivedb_settings(*config.dbfiles.start(), *config.dbfiles.end()).await?;
    match global.output {
        Format::Json => {
            let schemas = imported.iter().map(
                |(dbname, answer)| json!({ "dbname": dbname, "version": answer.version, "changed": answer.changed }),
            );
            output::json(&json!({
                "first_dbfile": config.dbfiles.start(),
                "last_dbfile": config.dbfiles.end(),
                "schemas": schemas.collect::<Vec<Value>>(),
            }))?;
        }
        Format::Table => {
            for (dbname, answer) in &imported {
                output::line(set_line(dbname, answer.version, answer.changed))?;
            }
            output::line(format!("dbfiles {} to {}", config.dbfiles.start(), config.dbfiles.end()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn status(global: &Global, dbname: String) -> Outcome {
    let status = global.client().await?.schema_status(dbname).await?;
    match global.output {
        Format::Json => {
            let versions =
                status.versions.iter().map(|one| json!({ "version": one.version, "databases": one.databases }));
            let failures = status.failures.iter().map(|info| Value::from(databases::object(info)));
            output::json(&json!({
                "current_version": status.current_version,
                "versions": versions.collect::<Vec<Value>>(),
                "failed": status.failed,
                "failures": failures.collect::<Vec<Value>>(),
            }))?;
        }
        Format::Table => {
            let mut table = output::table(["VERSION", "DATABASES", ""]);
            for one in &status.versions {
                let note = if one.version == status.current_version { "current" } else { "behind" };
                table.add_row([one.version.to_string(), one.databases.to_string(), note.to_owned()]);
            }
            output::print_table(&table)?;
            if status.failed > 0 {
                let mut table = output::table(["FAILED", "DBFILE", "STEP", "MESSAGE"]);
                for info in status.failures {
                    let (database, failure) =
                        (info.database.unwrap_or_default(), info.upgrade_failure.unwrap_or_default());
                    table.add_row([
                        cell(&database.user),
                        database.dbfile.to_string(),
                        failure.step,
                        cell(failure.message.as_bytes()),
                    ]);
                }
                output::print_table(&table)?;
                output::explain(format!("{} databases could not be upgraded", status.failed));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Exit status 1 where an upgrade failed.
async fn migrate(global: &Global, dbname: String, rate: u32) -> Outcome {
    let request = SqlMigrateDatabasesRequest { dbname, databases_per_second: rate };
    let made = global
        .client()
        .await?
        .migrate_databases(request, |so_far| {
            if global.output == Format::Table && !so_far.done {
                output::explain(format!("{} looked at, {} upgraded", so_far.examined, so_far.upgraded));
            }
        })
        .await?;
    let (examined, upgraded, failed) = (made.examined, made.upgraded, made.failed);
    match global.output {
        Format::Json => output::json(&json!({ "examined": examined, "upgraded": upgraded, "failed": failed }))?,
        Format::Table => output::line(format!("{examined} looked at, {upgraded} upgraded, {failed} failed"))?,
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_migrations_number_begins_its_files_name() {
        assert_eq!(number(Path::new("a/3-split-names.sql")).unwrap(), 3);
        assert_eq!(number(Path::new("0012.sql")).unwrap(), 12);
        for name in ["split.sql", "-3.sql", ""] {
            assert!(number(Path::new(name)).is_err(), "{name:?}");
        }
    }
}
