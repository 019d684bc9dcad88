//! Whole databases.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use bytes::Bytes;
use cirrus_client::v1::{ReadConsistency, SqlDatabase, SqlDatabaseInfo, SqlExportRequest, SqlListRequest};
use serde_json::{Map, Value, json};

use crate::arguments::{Consistency, Format, Global};
use crate::commands::Outcome;
use crate::failure::CommandError;
use crate::output::{self, cell, insert_bytes, time};

pub(super) async fn list(
    global: &Global,
    dbfile: Option<u32>,
    user_prefix: String,
    dbname: Option<String>,
    limit: Option<u64>,
) -> Outcome {
    let client = global.client().await?;
    let mut request = SqlListRequest { dbfile, user_prefix: user_prefix.into(), dbname, ..Default::default() };
    let mut found: Vec<SqlDatabaseInfo> = Vec::new();
    let most = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    loop {
        let page = client.list_databases(request.clone()).await?;
        found.extend(page.databases);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() || found.len() >= most {
            break;
        }
    }
    found.truncate(most);
    match global.output {
        Format::Json => {
            output::json(&json!({ "databases": found.iter().map(object).map(Value::from).collect::<Vec<_>>() }))?;
        }
        Format::Table => {
            let mut table =
                output::table(["USER", "DBNAME", "DBFILE", "BYTES", "STORED", "SCHEMA", "CHANGED", "STATE"]);
            for info in &found {
                table.add_row(row(info));
            }
            output::print_table(&table)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(info: &SqlDatabaseInfo) -> [String; 8] {
    let database = info.database.clone().unwrap_or_default();
    let state = match (&info.upgrade_failure, info.busy) {
        (_, true) => "busy".to_owned(),
        (Some(failure), _) => cell(format!("failed: {}", failure.step).as_bytes()),
        (None, false) => "ok".to_owned(),
    };
    [
        cell(&database.user),
        database.dbname,
        database.dbfile.to_string(),
        info.size_bytes.to_string(),
        info.stored_bytes.to_string(),
        info.schema_version.to_string(),
        time(info.changed_at_ms),
        state,
    ]
}

pub(super) fn object(info: &SqlDatabaseInfo) -> Map<String, Value> {
    let database = info.database.clone().unwrap_or_default();
    let mut object = Map::new();
    object.insert("dbfile".to_owned(), database.dbfile.into());
    insert_bytes(&mut object, "user", &database.user);
    object.insert("dbname".to_owned(), database.dbname.into());
    object.insert("size_bytes".to_owned(), info.size_bytes.into());
    object.insert("stored_bytes".to_owned(), info.stored_bytes.into());
    object.insert("created_at_ms".to_owned(), info.created_at_ms.into());
    object.insert("changed_at_ms".to_owned(), info.changed_at_ms.into());
    object.insert("schema_version".to_owned(), info.schema_version.into());
    object.insert("busy".to_owned(), info.busy.into());
    if let Some(failure) = &info.upgrade_failure {
        let failure = json!({
            "schema_version": failure.schema_version,
            "step": failure.step,
            "message": failure.message,
            "failed_at_ms": failure.failed_at_ms,
        });
        object.insert("upgrade_failure".to_owned(), failure);
    }
    object
}

pub(super) async fn describe(global: &Global, database: SqlDatabase) -> Outcome {
    let answer = global.client().await?.describe_database(database).await?;
    let info = answer.info.unwrap_or_default();
    match global.output {
        Format::Json => {
            let mut object = object(&info);
            let objects = answer
                .objects
                .iter()
                .map(|one| json!({ "kind": one.kind, "name": one.name, "table": one.table, "sql": one.sql }));
            object.insert("objects".to_owned(), objects.collect());
            output::json(&Value::from(object))?;
        }
        Format::Table => {
            let mut table = output::table([]);
            table.add_row(["size".to_owned(), format!("{} bytes", info.size_bytes)]);
            table.add_row(["stored".to_owned(), format!("{} bytes", info.stored_bytes)]);
            table.add_row(["created".to_owned(), time(info.created_at_ms)]);
            table.add_row(["changed".to_owned(), time(info.changed_at_ms)]);
            table.add_row(["schema".to_owned(), format!("version {}", info.schema_version)]);
            if let Some(failure) = &info.upgrade_failure {
                let text = format!("to version {}: {}: {}", failure.schema_version, failure.step, failure.message);
                table.add_row(["failed".to_owned(), cell(text.as_bytes())]);
            }
            output::print_table(&table)?;
            for one in &answer.objects {
                match one.sql.is_empty() {
                    true => output::line(format!("-- {} {} of {}", one.kind, one.name, one.table))?,
                    false => output::line(format!("{};", one.sql))?,
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn remove(global: &Global, database: SqlDatabase) -> Outcome {
    let what = format!("{}/{}", cell(&database.user), database.dbname);
    global.client().await?.remove_database(database).await?;
    match global.output {
        Format::Json => output::json(&json!({ "removed": true }))?,
        Format::Table => output::line(format!("removed {what}"))?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn export(global: &Global, database: SqlDatabase, path: &Path, consistency: Consistency) -> Outcome {
    let consistency = ReadConsistency::from(consistency).into();
    let request = SqlExportRequest { database: Some(database), consistency };
    let file = global.client().await?.export_database(request).await?;
    // What is there already may be somebody's database.
    let written = std::fs::File::create_new(path).and_then(|mut to| {
        to.write_all(&file)?;
        to.sync_all()
    });
    written.map_err(|error| CommandError::local(format!("{}: {error}", path.display())))?;
    match global.output {
        Format::Json => output::json(&json!({ "file": path.to_string_lossy(), "size_bytes": file.len() }))?,
        Format::Table => output::line(format!("{} bytes in {}", file.len(), path.display()))?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn import(global: &Global, database: SqlDatabase, path: &Path) -> Outcome {
    let file = std::fs::read(path).map_err(|error| CommandError::local(format!("{}: {error}", path.display())))?;
    let answer = global.client().await?.import_database(database, Bytes::from(file)).await?;
    match global.output {
        Format::Json => output::json(&json!({ "size_bytes": answer.size_bytes }))?,
        Format::Table => output::line(format!("{} bytes stored", answer.size_bytes))?,
    }
    Ok(ExitCode::SUCCESS)
}
