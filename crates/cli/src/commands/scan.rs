//! `cirrus scan`

use std::io::{self, Write as _};
use std::process::ExitCode;

use cirrus_client::v1::{KeyValuePair, ScanRequest};
use futures::StreamExt as _;
use serde_json::{Map, Value};

use super::Outcome;
use crate::arguments::{Format, Global, ScanArgs};
use crate::output::{self, argument_bytes, cell, insert_bytes};

/// Pairs that a table is laid out for at a time, so that a scan of any length needs bounded memory.
const TABLE_ROWS: usize = 1000;

pub(crate) async fn run(global: &Global, args: ScanArgs) -> Outcome {
    let bytes = |argument: Option<std::ffi::OsString>| argument.map(argument_bytes).unwrap_or_default();
    let request = ScanRequest {
        start: bytes(args.start),
        end: bytes(args.end),
        prefix: bytes(args.prefix),
        limit: args.limit.unwrap_or(0),
        keys_only: args.keys_only,
        ..Default::default()
    };
    let pairs = global.client().await?.scan(request);
    match global.output {
        Format::Table => print_tables(pairs, args.keys_only).await,
        Format::Json => print_array(pairs, args.keys_only).await,
    }
}

async fn print_tables(mut pairs: cirrus_client::Scan, keys_only: bool) -> Outcome {
    let mut rows = Vec::new();
    let mut printed = false;
    loop {
        let next = pairs.next().await.transpose();
        let more = matches!(next, Ok(Some(_)));
        if let Ok(Some(pair)) = &next {
            rows.push(row(pair, keys_only));
        }
        if rows.len() == TABLE_ROWS || (!more && !rows.is_empty()) {
            let header = if keys_only { vec!["KEY", "VERSION"] } else { vec!["KEY", "VERSION", "VALUE"] };
            let mut table = output::table(if printed { vec![] } else { header });
            table.add_rows(std::mem::take(&mut rows));
            output::print_table(&table)?;
            printed = true;
        }
        if next?.is_none() {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn row(pair: &KeyValuePair, keys_only: bool) -> Vec<String> {
    let mut row = vec![cell(&pair.key), pair.version.to_string()];
    if !keys_only {
        row.push(cell(&pair.value));
    }
    row
}

/// One array, an element a line, as the pairs come. After an error it is left unfinished.
async fn print_array(mut pairs: cirrus_client::Scan, keys_only: bool) -> Outcome {
    let mut stdout = io::BufWriter::new(io::stdout());
    let mut separator = "[\n";
    while let Some(pair) = pairs.next().await {
        write!(stdout, "{separator}{}", object(&pair?, keys_only))?;
        separator = ",\n";
    }
    let end = if separator == "[\n" { "[]\n" } else { "\n]\n" };
    stdout.write_all(end.as_bytes())?;
    stdout.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn object(pair: &KeyValuePair, keys_only: bool) -> Value {
    let mut object = Map::new();
    insert_bytes(&mut object, "key", &pair.key);
    if !keys_only {
        insert_bytes(&mut object, "value", &pair.value);
    }
    object.insert("version".to_owned(), Value::from(pair.version));
    object.insert("expires_at_ms".to_owned(), Value::from(pair.expires_at_ms));
    object.insert("flags".to_owned(), Value::from(pair.flags));
    Value::from(object)
}
