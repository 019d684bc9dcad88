//! `cirrus get`

use std::process::ExitCode;

use cirrus_client::v1::{GetRequest, ReadConsistency};
use serde_json::{Map, Value};

use super::Outcome;
use crate::arguments::{Format, GetArgs, Global};
use crate::output::{self, argument_bytes, insert_bytes};

pub(crate) async fn run(global: &Global, args: GetArgs) -> Outcome {
    let key = argument_bytes(args.key);
    let consistency = ReadConsistency::from(args.consistency);
    let request = GetRequest { key: key.clone(), consistency: consistency.into() };
    let answer = global.client().await?.get_with(request).await?;
    match global.output {
        Format::Table if answer.found => output::bytes(&answer.value, !args.no_newline)?,
        Format::Table => {}
        Format::Json => {
            let mut object = Map::new();
            insert_bytes(&mut object, "key", &key);
            object.insert("found".to_owned(), Value::from(answer.found));
            if answer.found {
                insert_bytes(&mut object, "value", &answer.value);
                object.insert("version".to_owned(), Value::from(answer.version));
                object.insert("expires_at_ms".to_owned(), Value::from(answer.expires_at_ms));
                object.insert("flags".to_owned(), Value::from(answer.flags));
            }
            output::json(&Value::from(object))?;
        }
    }
    Ok(if answer.found { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
