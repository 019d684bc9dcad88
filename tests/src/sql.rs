//! SQLite databases, through one node.

use anyhow::{Context as _, Result, ensure};
use cirrus_proto::v1::{
    ReadConsistency, RequestId, SqlCell, SqlDatabase, SqlExecuteRequest, SqlExportRequest, SqlImportRequest,
    SqlNamedParameter, SqlNull, SqlQueryRequest, SqlResult, SqlStatement, sql_cell,
};
use tonic::Status;

use crate::node_client::NodeClient;

/// The database of a user, in dbfile 0.
pub fn database(user: &str, dbname: &str) -> SqlDatabase {
    SqlDatabase { dbfile: 0, user: user.as_bytes().to_vec().into(), dbname: dbname.to_owned() }
}

/// A statement with cells for `?`.
pub fn statement(sql: &str, parameters: impl IntoIterator<Item = SqlCell>) -> SqlStatement {
    SqlStatement { sql: sql.to_owned(), parameters: parameters.into_iter().collect(), named_parameters: Vec::new() }
}

/// A statement with cells for `:name`.
pub fn named(sql: &str, parameters: impl IntoIterator<Item = (&'static str, SqlCell)>) -> SqlStatement {
    let parameter = |(name, value): (&str, _)| SqlNamedParameter { name: name.to_owned(), value: Some(value) };
    SqlStatement {
        sql: sql.to_owned(),
        parameters: Vec::new(),
        named_parameters: parameters.into_iter().map(parameter).collect(),
    }
}

fn cell(kind: sql_cell::Kind) -> SqlCell {
    SqlCell { kind: Some(kind) }
}

/// NULL.
pub fn null() -> SqlCell {
    cell(sql_cell::Kind::Null(SqlNull {}))
}

/// An integer.
pub fn integer(value: i64) -> SqlCell {
    cell(sql_cell::Kind::Int64(value))
}

/// A double.
pub fn real(value: f64) -> SqlCell {
    cell(sql_cell::Kind::Double(value))
}

/// Text.
pub fn text(value: impl Into<String>) -> SqlCell {
    cell(sql_cell::Kind::Text(value.into()))
}

/// A blob.
pub fn blob(value: &[u8]) -> SqlCell {
    cell(sql_cell::Kind::Blob(value.to_vec().into()))
}

/// The rows of a result.
pub fn rows(result: &SqlResult) -> Vec<Vec<SqlCell>> {
    result.rows.iter().map(|row| row.cells.clone()).collect()
}

/// The one integer that a result consists of.
pub fn single_integer(result: &SqlResult) -> Result<i64> {
    let [row] = &result.rows[..] else { anyhow::bail!("{} rows, not one", result.rows.len()) };
    match row.cells.first().and_then(|cell| cell.kind.as_ref()) {
        Some(sql_cell::Kind::Int64(value)) => Ok(*value),
        other => anyhow::bail!("{other:?} is no integer"),
    }
}

impl NodeClient {
    /// Runs statements as one transaction.
    pub async fn execute_sql(
        &self,
        database: &SqlDatabase,
        statements: Vec<SqlStatement>,
        request_id: Option<RequestId>,
    ) -> Result<Vec<SqlResult>, Status> {
        let request = SqlExecuteRequest { database: Some(database.clone()), statements, request_id };
        Ok(self.sql.clone().execute(request).await?.into_inner().results)
    }

    /// Runs a statement that only reads.
    pub async fn query_sql(
        &self,
        database: &SqlDatabase,
        sql: &str,
        consistency: ReadConsistency,
    ) -> Result<SqlResult, Status> {
        let statements = vec![statement(sql, [])];
        let request = SqlQueryRequest { database: Some(database.clone()), statements, consistency: consistency.into() };
        let mut results = self.sql.clone().query(request).await?.into_inner().results;
        results.pop().ok_or_else(|| Status::data_loss("a query's response without a result"))
    }

    /// The database as a file.
    pub async fn export(&self, database: &SqlDatabase, consistency: ReadConsistency) -> Result<Vec<u8>, Status> {
        let request = SqlExportRequest { database: Some(database.clone()), consistency: consistency.into() };
        let mut chunks = self.sql.clone().export(request).await?.into_inner();
        let mut file = Vec::new();
        while let Some(next) = chunks.message().await? {
            file.extend_from_slice(&next.chunk);
        }
        Ok(file)
    }

    /// Stores a file as a database; its size.
    pub async fn import(&self, database: &SqlDatabase, file: &[u8]) -> Result<u64, Status> {
        let first = SqlImportRequest { database: Some(database.clone()), ..Default::default() };
        let rest = file.chunks(100_000).map(|chunk| SqlImportRequest { database: None, chunk: chunk.to_vec().into() });
        let messages: Vec<_> = std::iter::once(first).chain(rest).collect();
        Ok(self.sql.clone().import(futures::stream::iter(messages)).await?.into_inner().size_bytes)
    }
}

/// Opens an exported file with plain SQLite, which finds it sound.
pub fn open_exported(file: &[u8], directory: &std::path::Path) -> Result<rusqlite::Connection> {
    let path = directory.join(format!("exported-{}.sqlite", rand::random::<u64>()));
    std::fs::write(&path, file)?;
    let connection = rusqlite::Connection::open(&path).context("opening an export")?;
    let found: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    ensure!(found == "ok", "an exported database is damaged: {found}");
    Ok(connection)
}
