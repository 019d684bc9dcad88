//! `cirrus sql …`

mod databases;
mod dump;
mod input;
mod results;
mod schemas;
mod shell;

use std::process::ExitCode;

use cirrus_client::v1::{SqlDatabase, SqlQueryStreamRequest, SqlStatement};

use super::Outcome;
use crate::arguments::{Global, SqlCommand};

pub(super) async fn run(global: &Global, command: SqlCommand) -> Outcome {
    match command {
        SqlCommand::Exec { database, statements } => {
            let client = global.client().await?;
            let answer = client.execute_sql(database.into(), statements.into_iter().map(statement).collect()).await?;
            results::print(global.output, &answer.results)?;
            Ok(ExitCode::SUCCESS)
        }
        SqlCommand::Query { database, statements, consistency } => {
            let request = SqlQueryStreamRequest {
                database: Some(SqlDatabase::from(database)),
                statements: statements.into_iter().map(statement).collect(),
                consistency: cirrus_client::v1::ReadConsistency::from(consistency).into(),
            };
            let parts = global.client().await?.stream_sql(request);
            results::print_parts(global.output, parts).await??;
            Ok(ExitCode::SUCCESS)
        }
        SqlCommand::List { dbfile, user_prefix, dbname, limit } => {
            databases::list(global, dbfile, user_prefix, dbname, limit).await
        }
        SqlCommand::Describe { database } => databases::describe(global, database.into()).await,
        SqlCommand::Remove { database } => databases::remove(global, database.into()).await,
        SqlCommand::Export { database, file, consistency } => {
            databases::export(global, database.into(), &file, consistency).await
        }
        SqlCommand::Import { database, file } => databases::import(global, database.into(), &file).await,
        SqlCommand::Shell { database } => shell::run(global, database.into()).await,
        SqlCommand::Schema(command) => schemas::run(global, command).await,
    }
}

fn statement(sql: String) -> SqlStatement {
    SqlStatement { sql, ..Default::default() }
}
