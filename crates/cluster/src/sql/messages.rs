//! Between messages and what `cirrus-sql` speaks.

use cirrus_proto::v1::{
    SqlCell, SqlColumn, SqlDatabase, SqlDatabaseInfo, SqlDescribeResponse, SqlNull, SqlResult, SqlRow, SqlSchemaObject,
    SqlStatement, SqlUpgradeFailure, sql_cell,
};
use cirrus_proto::{Failure, internal::v1 as pb};
use cirrus_sql::{Cell, Column, DatabaseId, DatabaseInfo, Description, ImportPart, Parameters, ResultSet, Statement};

/// The database that a message names.
pub fn database_id(database: &SqlDatabase) -> DatabaseId {
    DatabaseId::new(database.dbfile, database.user.clone(), database.dbname.clone())
}

pub(crate) fn database_message(id: &DatabaseId) -> SqlDatabase {
    SqlDatabase { dbfile: id.dbfile, user: id.user.clone(), dbname: id.dbname.clone() }
}

/// The statements of a request that `cirrus_engine::validate` let pass.
pub(super) fn statements(statements: &[SqlStatement], scripts: bool) -> Result<Vec<Statement>, Failure> {
    statements.iter().map(|one| statement(one, scripts)).collect()
}

fn statement(statement: &SqlStatement, script: bool) -> Result<Statement, Failure> {
    let parameters = if statement.named_parameters.is_empty() {
        Parameters::Positional(statement.parameters.iter().map(cell).collect::<Result<_, _>>()?)
    } else {
        let named = statement.named_parameters.iter().map(|parameter| {
            let value = parameter.value.as_ref().ok_or_else(no_kind)?;
            Ok((parameter.name.clone(), cell(value)?))
        });
        Parameters::Named(named.collect::<Result<_, Failure>>()?)
    };
    Ok(Statement { sql: statement.sql.clone(), parameters, script })
}

fn no_kind() -> Failure {
    Failure::invalid_field("parameters", "has a cell without a kind")
}

fn cell(cell: &SqlCell) -> Result<Cell, Failure> {
    Ok(match cell.kind.as_ref().ok_or_else(no_kind)? {
        sql_cell::Kind::Null(SqlNull {}) => Cell::Null,
        sql_cell::Kind::Int64(integer) => Cell::Integer(*integer),
        sql_cell::Kind::Double(real) => Cell::Real(*real),
        sql_cell::Kind::Text(text) => Cell::Text(text.clone()),
        sql_cell::Kind::Blob(blob) => Cell::Blob(blob.clone()),
    })
}

fn cell_message(cell: Cell) -> SqlCell {
    let kind = match cell {
        Cell::Null => sql_cell::Kind::Null(SqlNull {}),
        Cell::Integer(integer) => sql_cell::Kind::Int64(integer),
        Cell::Real(real) => sql_cell::Kind::Double(real),
        Cell::Text(text) => sql_cell::Kind::Text(text),
        Cell::Blob(blob) => sql_cell::Kind::Blob(blob),
    };
    SqlCell { kind: Some(kind) }
}

pub(super) fn column_message(column: Column) -> SqlColumn {
    SqlColumn { name: column.name, declared_type: column.declared_type.unwrap_or_default() }
}

pub(super) fn row_message(cells: Vec<Cell>) -> SqlRow {
    SqlRow { cells: cells.into_iter().map(cell_message).collect() }
}

pub(super) fn results(results: Vec<ResultSet>) -> Vec<SqlResult> {
    let message = |result: ResultSet| SqlResult {
        columns: result.columns.into_iter().map(column_message).collect(),
        rows: result.rows.into_iter().map(row_message).collect(),
        affected_rows: result.affected_rows,
        last_insert_rowid: result.last_insert_rowid,
    };
    results.into_iter().map(message).collect()
}

/// The results of an answer, as they were before they became messages.
///
/// # Errors
/// INVALID_FIELD for a cell of a kind that this version does not know.
pub fn result_sets(results: Vec<SqlResult>) -> Result<Vec<ResultSet>, Failure> {
    let result_set = |result: SqlResult| {
        let column = |column: SqlColumn| Column {
            name: column.name,
            declared_type: Some(column.declared_type).filter(|declared| !declared.is_empty()),
        };
        Ok(ResultSet {
            columns: result.columns.into_iter().map(column).collect(),
            rows: result
                .rows
                .into_iter()
                .map(|row| row.cells.iter().map(cell).collect())
                .collect::<Result<_, Failure>>()?,
            affected_rows: result.affected_rows,
            last_insert_rowid: result.last_insert_rowid,
        })
    };
    results.into_iter().map(result_set).collect()
}

pub(super) fn info_message(info: DatabaseInfo) -> SqlDatabaseInfo {
    SqlDatabaseInfo {
        database: Some(database_message(&info.id)),
        size_bytes: info.bytes,
        stored_bytes: info.stored_bytes,
        created_at_ms: info.created_at_ms,
        changed_at_ms: info.changed_at_ms,
        schema_version: info.schema_version,
        upgrade_failure: info.upgrade_failure.map(|failure| SqlUpgradeFailure {
            schema_version: failure.schema_version,
            step: failure.step,
            message: failure.message,
            failed_at_ms: failure.failed_at_ms,
        }),
        busy: info.busy,
    }
}

pub(super) fn description_message(description: Description) -> SqlDescribeResponse {
    let object = |object: cirrus_sql::SchemaObject| SqlSchemaObject {
        kind: object.kind,
        name: object.name,
        table: object.table,
        sql: object.sql,
    };
    SqlDescribeResponse {
        info: Some(info_message(description.info)),
        objects: description.objects.into_iter().map(object).collect(),
    }
}

pub(super) fn import_part(command: &pb::SqlImport) -> ImportPart {
    ImportPart {
        token: command.token,
        page_bytes: command.page_bytes,
        page_count: command.page_count,
        first_page: command.first_page,
        pages: command.pages.clone(),
        schema_version: command.schema_version,
        migration: command.migration,
    }
}
