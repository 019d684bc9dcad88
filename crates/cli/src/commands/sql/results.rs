//! Results of statements, as tables or JSON.

use std::io;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cirrus_client::v1::{SqlCell, SqlColumn, SqlResult, sql_cell};
use comfy_table::Table;
use serde_json::{Value, json};

use crate::arguments::Format;
use crate::output::{self, cell};

/// Prints what the statements of a request answered.
pub(super) fn print(format: Format, results: &[SqlResult]) -> io::Result<()> {
    match format {
        Format::Json => output::json(&json!({ "results": results.iter().map(object).collect::<Vec<_>>() })),
        Format::Table => {
            for result in results {
                if result.columns.is_empty() {
                    output::explain(changes(result));
                } else {
                    output::print_table(&table(result))?;
                }
            }
            Ok(())
        }
    }
}

fn changes(result: &SqlResult) -> String {
    let rows = if result.affected_rows == 1 { "row" } else { "rows" };
    format!("{} {rows} changed, last row id {}", result.affected_rows, result.last_insert_rowid)
}

fn table(result: &SqlResult) -> Table {
    let mut table = output::table([]);
    table.set_header(result.columns.iter().map(|column| cell(column.name.as_bytes())));
    for row in &result.rows {
        table.add_row(row.cells.iter().map(text));
    }
    table
}

/// NULL is empty, as in SQLite's own shell.
fn text(value: &SqlCell) -> String {
    match &value.kind {
        None | Some(sql_cell::Kind::Null(_)) => String::new(),
        Some(sql_cell::Kind::Int64(integer)) => integer.to_string(),
        Some(sql_cell::Kind::Double(real)) => real_text(*real),
        Some(sql_cell::Kind::Text(text)) => cell(text.as_bytes()),
        Some(sql_cell::Kind::Blob(blob)) => cell(blob),
    }
}

/// A double that is whole shows that it is a double.
fn real_text(real: f64) -> String {
    format!("{real:?}")
}

fn object(result: &SqlResult) -> Value {
    let column = |column: &SqlColumn| json!({ "name": column.name, "declared_type": column.declared_type });
    let row = |cells: &[SqlCell]| cells.iter().map(json_cell).collect::<Value>();
    json!({
        "columns": result.columns.iter().map(column).collect::<Vec<_>>(),
        "rows": result.rows.iter().map(|one| row(&one.cells)).collect::<Vec<_>>(),
        "affected_rows": result.affected_rows,
        "last_insert_rowid": result.last_insert_rowid,
    })
}

/// Blobs are {"base64": "…"}; doubles that JSON lacks are text.
fn json_cell(value: &SqlCell) -> Value {
    match &value.kind {
        None | Some(sql_cell::Kind::Null(_)) => Value::Null,
        Some(sql_cell::Kind::Int64(integer)) => Value::from(*integer),
        Some(sql_cell::Kind::Double(real)) if real.is_finite() => Value::from(*real),
        Some(sql_cell::Kind::Double(real)) => Value::from(real_text(*real)),
        Some(sql_cell::Kind::Text(text)) => Value::from(text.as_str()),
        Some(sql_cell::Kind::Blob(blob)) => json!({ "base64": BASE64_STANDARD.encode(blob) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cirrus_client::v1::{SqlNull, SqlRow};

    #[test]
    fn cells_keep_their_types() {
        let kinds = [
            sql_cell::Kind::Null(SqlNull {}),
            sql_cell::Kind::Int64(-7),
            sql_cell::Kind::Double(2.0),
            sql_cell::Kind::Text("a\nb".to_owned()),
            sql_cell::Kind::Blob(vec![0xff].into()),
        ];
        let cells = kinds.into_iter().map(|kind| SqlCell { kind: Some(kind) }).collect();
        let columns = ["n", "i", "d", "t", "b"].map(|name| SqlColumn { name: name.to_owned(), ..Default::default() });
        let result = SqlResult { columns: columns.into(), rows: vec![SqlRow { cells }], ..Default::default() };
        assert_eq!(object(&result)["rows"].to_string(), r#"[[null,-7,2.0,"a\nb",{"base64":"/w=="}]]"#);
        let lines = output::table_text(&table(&result));
        assert!(lines.ends_with("-7  2.0  a\\nb  \\xff"), "{lines}");
    }
}
