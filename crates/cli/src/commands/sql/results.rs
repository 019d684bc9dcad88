//! Results of statements, as tables or JSON.

use std::io;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cirrus_client::ClientError;
use cirrus_client::v1::{SqlCell, SqlColumn, SqlQueryStreamResponse, SqlResult, SqlRow, sql_cell};
use comfy_table::Table;
use futures::{Stream, StreamExt as _};
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

/// Prints a query's results as they come. What was printed before an error is not all; in JSON, it is no object.
pub(super) async fn print_parts(
    format: Format,
    mut parts: impl Stream<Item = Result<SqlQueryStreamResponse, ClientError>> + Unpin,
) -> io::Result<Result<(), ClientError>> {
    let mut printer = Printer { format, widths: Vec::new(), begun: None };
    while let Some(part) = parts.next().await {
        match part {
            Ok(part) => printer.part(part)?,
            Err(error) => return Ok(Err(error)),
        }
    }
    printer.end()?;
    Ok(Ok(()))
}

/// Parts of results as [`print`] prints whole ones, but for the widths of columns: a part knows those before it, and not
/// those that follow.
struct Printer {
    format: Format,
    /// Of the statement's columns so far, in the table.
    widths: Vec<u16>,
    /// The statement whose result is being printed, and its rows so far.
    begun: Option<(u32, usize)>,
}

impl Printer {
    fn part(&mut self, part: SqlQueryStreamResponse) -> io::Result<()> {
        match self.format {
            Format::Json => output::bytes(self.json(&part).as_bytes(), false),
            Format::Table => self.table(part),
        }
    }

    fn end(&self) -> io::Result<()> {
        match (self.format, self.begun) {
            (Format::Table, _) => Ok(()),
            (Format::Json, Some(_)) => output::line("]}"),
            (Format::Json, None) => print(self.format, &[]),
        }
    }

    /// The next text of the object.
    fn json(&mut self, part: &SqlQueryStreamResponse) -> String {
        let mut text = String::new();
        if self.begun.is_none_or(|(statement, _)| statement != part.statement) {
            text.push_str(if self.begun.is_none() { "{\"results\":[" } else { "," });
            let columns: Vec<Value> = part.columns.iter().map(json_column).collect();
            text.push_str(&format!("{{\"columns\":{},\"rows\":[", Value::from(columns)));
            self.begun = Some((part.statement, 0));
        }
        for row in &part.rows {
            let rows = self.begun.get_or_insert((part.statement, 0));
            if rows.1 > 0 {
                text.push(',');
            }
            rows.1 += 1;
            text.push_str(&json_row(row).to_string());
        }
        if part.last {
            text.push_str("],\"affected_rows\":0,\"last_insert_rowid\":0}");
        }
        text
    }

    fn table(&mut self, part: SqlQueryStreamResponse) -> io::Result<()> {
        let begins = self.begun.is_none_or(|(statement, _)| statement != part.statement);
        self.begun = Some((part.statement, 0));
        let mut result = SqlResult { columns: part.columns, rows: part.rows, ..Default::default() };
        if begins {
            if result.columns.is_empty() {
                return print(self.format, &[result]);
            }
            let table = table(&result);
            self.widths = table.column_max_content_widths();
            return output::print_table(&table);
        }
        if result.rows.is_empty() {
            return Ok(());
        }
        // A first line holds the columns as far apart as they are above, and is not printed.
        let name = |width: &u16| SqlColumn { name: "x".repeat(usize::from(*width)), ..Default::default() };
        result.columns = self.widths.iter().map(name).collect();
        let table = table(&result);
        self.widths = table.column_max_content_widths();
        let text = output::table_text(&table);
        output::line(text.split_once('\n').map_or("", |(_, rows)| rows))
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
    json!({
        "columns": result.columns.iter().map(json_column).collect::<Vec<_>>(),
        "rows": result.rows.iter().map(json_row).collect::<Vec<_>>(),
        "affected_rows": result.affected_rows,
        "last_insert_rowid": result.last_insert_rowid,
    })
}

fn json_column(column: &SqlColumn) -> Value {
    json!({ "name": column.name, "declared_type": column.declared_type })
}

fn json_row(row: &SqlRow) -> Value {
    row.cells.iter().map(json_cell).collect()
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
    use cirrus_client::v1::SqlNull;

    #[test]
    fn json_in_parts_is_json_as_a_whole() {
        let row = |n| SqlRow { cells: vec![SqlCell { kind: Some(sql_cell::Kind::Int64(n)) }] };
        let columns = vec![SqlColumn { name: "a\"b".to_owned(), declared_type: "INT".to_owned() }];
        let part = |statement, columns: &[SqlColumn], rows: &[i64], last| SqlQueryStreamResponse {
            statement,
            columns: columns.to_vec(),
            rows: rows.iter().copied().map(row).collect(),
            last,
        };
        let parts = [
            part(0, &columns, &[1, 2], false),
            part(0, &[], &[3], true),
            part(1, &columns, &[], true),
            part(2, &[], &[], true),
        ];
        let mut printer = Printer { format: Format::Json, widths: Vec::new(), begun: None };
        let text: String = parts.iter().map(|part| printer.json(part)).collect();
        let whole = [
            SqlResult { columns: columns.clone(), rows: vec![row(1), row(2), row(3)], ..Default::default() },
            SqlResult { columns, ..Default::default() },
            SqlResult::default(),
        ];
        let whole = json!({ "results": whole.iter().map(object).collect::<Vec<_>>() });
        assert_eq!(text + "]}", whole.to_string());
    }

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
