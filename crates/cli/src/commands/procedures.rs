//! `cirrus proc`

use std::process::ExitCode;

use cirrus_client::v1::{Library, ListLibrariesResponse, UploadLibraryRequest};
use cirrus_client::{ClientError, Failure, Reason};
use cirrus_procedures::shipped;
use serde_json::{Map, Value, json};

use super::{Outcome, call, deploy, limits, lint, logs, new, running, schedules, test, versions};
use crate::arguments::{Author, Format, Global, LibraryName, ProcedureCommand};
use crate::failure::CommandError;
use crate::output::{self, insert_bytes};

pub(crate) async fn run(global: &Global, command: ProcedureCommand) -> Outcome {
    match command {
        ProcedureCommand::Upload { file, shipped, stage, author } => {
            let (name, source) = match (file, shipped) {
                (Some(file), _) => lint::read(&file)?,
                (None, shipped) => shipped_library(shipped.unwrap_or_default())?,
            };
            upload(global, name, source, stage, author).await
        }
        ProcedureCommand::Lint { files } => lint::run(global.output, &files),
        ProcedureCommand::Types => lint::types(),
        ProcedureCommand::New { name, dir } => new::run(global, &name, &dir),
        ProcedureCommand::Test(arguments) => test::run(global, &arguments),
        ProcedureCommand::Deploy(arguments) => deploy::run(global, arguments).await,
        ProcedureCommand::List => list(global).await,
        ProcedureCommand::Versions { library } => versions::list(global, library).await,
        ProcedureCommand::Activate { library, canary, author } => {
            versions::activate(global, library.0, canary, author).await
        }
        ProcedureCommand::Rollback { library, author } => versions::rollback(global, library, author).await,
        ProcedureCommand::Limit { library, concurrency, cpu_percent, none, author } => {
            let (concurrency, cpu_percent) = if none { (Some(0), Some(0)) } else { (concurrency, cpu_percent) };
            limits::run(global, library, concurrency, cpu_percent, author).await
        }
        ProcedureCommand::Diff { library, from, to } => versions::diff(global, library, from, to).await,
        ProcedureCommand::Show { library } => show(global, library).await,
        ProcedureCommand::Delete { library } => delete(global, library).await,
        ProcedureCommand::Logs(args) => logs::run(global, args).await,
        ProcedureCommand::Running => running::list(global).await,
        ProcedureCommand::Kill { call } => running::kill(global, call).await,
        ProcedureCommand::Schedule(arguments) => schedules::create(global, arguments).await,
        ProcedureCommand::Schedules => schedules::list(global).await,
        ProcedureCommand::Unschedule { name } => schedules::delete(global, name).await,
        ProcedureCommand::Call(arguments) => call::run(global, arguments).await,
    }
}

/// The name and the source of a library that comes with Cirrus.
fn shipped_library(name: String) -> Result<(String, Vec<u8>), CommandError> {
    match shipped::source(&name) {
        Some(source) => Ok((name, source.into())),
        None => Err(CommandError::local(format!("no library {name:?} comes with Cirrus"))),
    }
}

async fn upload(global: &Global, name: String, source: Vec<u8>, stage: bool, author: Author) -> Outcome {
    let request = UploadLibraryRequest {
        name,
        source: source.into(),
        stage_only: stage,
        uploaded_by: author.name(),
        ..Default::default()
    };
    let answer = global.client().await?.upload_library_with(request).await?;
    let library = answer.library.unwrap_or_default();
    let activation = answer.activation.unwrap_or_default();
    match global.output {
        Format::Table => {
            for warning in &answer.warnings {
                let place = lint::place(&library.name, warning.line, warning.column);
                output::explain(format!("warning: {place}: {}: {}", warning.code, warning.message));
            }
            let functions = library.functions.join(", ");
            output::line(format!("{} version {}: {functions}", library.name, library.version))?;
            if activation.active_version != library.version {
                let (name, version) = (&library.name, library.version);
                output::line(format!("staged; calls run version {}", activation.active_version))?;
                output::line(format!("to switch: cirrus proc activate {name}@{version}"))?;
            }
        }
        Format::Json => {
            let mut object = object(&library);
            object.insert("active_version".to_owned(), Value::from(activation.active_version));
            let warnings = answer.warnings.iter();
            let warnings =
                warnings.map(|found| lint::object(found.line, found.column, &found.code, &found.message)).collect();
            object.insert("warnings".to_owned(), warnings);
            output::json(&Value::from(object))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(global: &Global) -> Outcome {
    let ListLibrariesResponse { libraries, limits } = global.client().await?.list_libraries_with_limits().await?;
    match global.output {
        Format::Json => {
            let objects = libraries.iter().map(|library| {
                let mut object = object(library);
                object.insert("limits".to_owned(), limits.get(&library.name).map(limits::object).into());
                Value::from(object)
            });
            output::json(&json!({ "libraries": objects.collect::<Vec<_>>() }))?;
        }
        Format::Table => {
            let mut table = output::table(["LIBRARY", "VERSION", "BYTES", "CALLS", "CPU %", "FUNCTIONS"]);
            let number = |limit: u32| if limit == 0 { "-".to_owned() } else { limit.to_string() };
            for library in libraries {
                let Library { name, version, functions, source_bytes, .. } = library;
                let limits = limits.get(&name).cloned().unwrap_or_default();
                let (calls, cpu) = (number(limits.concurrency), number(limits.cpu_percent));
                table.add_row([name, version.to_string(), source_bytes.to_string(), calls, cpu, functions.join(" ")]);
            }
            output::print_table(&table)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn show(global: &Global, library: LibraryName) -> Outcome {
    let answer = global.client().await?.get_library(library.name, library.version).await?;
    match global.output {
        Format::Table => output::bytes(&answer.source, !answer.source.ends_with(b"\n"))?,
        Format::Json => {
            let mut object = object(&answer.library.unwrap_or_default());
            insert_bytes(&mut object, "source", &answer.source);
            output::json(&Value::from(object))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn delete(global: &Global, library: LibraryName) -> Outcome {
    let LibraryName { name, version } = library;
    let deleted = global.client().await?.delete_library(&name, version).await?;
    let what = if version == 0 { name } else { format!("{name} version {version}") };
    match global.output {
        Format::Json => output::json(&json!({ "deleted": deleted }))?,
        Format::Table if deleted => output::line(format!("deleted {what}"))?,
        Format::Table => {
            let failure = Failure::new(Reason::LibraryNotFound, format!("there is no library {what}"));
            return Err(CommandError::from(ClientError::from(failure)).into_answer());
        }
    }
    Ok(if deleted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) fn object(library: &Library) -> Map<String, Value> {
    let fields = [
        ("name", Value::from(library.name.as_str())),
        ("version", Value::from(library.version)),
        ("sha256", Value::from(library.sha256.as_str())),
        ("functions", Value::from(library.functions.clone())),
        ("uploaded_at_ms", Value::from(library.uploaded_at_ms)),
        ("source_bytes", Value::from(library.source_bytes)),
        ("uploaded_by", Value::from(library.uploaded_by.as_str())),
        ("requires", library.requires.iter().map(|pin| format!("{}@{}", pin.name, pin.version)).collect()),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
