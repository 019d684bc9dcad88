//! `cirrus proc deploy`: a directory's libraries, tested, stored and activated together.
//!
//! 1. [`sources`] reads the directory, and from the cluster what its libraries require and is not there;
//! 2. the tests run, and stop it where one fails;
//! 3. [`plan`] compares with what is active: what changed, and what requires that;
//! 4. [`rollout`] stores each as a staged version, pinned to those stored before it, then activates all. Where it
//!    fails, it undoes what it did.

mod plan;
mod rollout;
mod sources;

use std::io;
use std::process::ExitCode;

use cirrus_client::Client;
use cirrus_client::v1::Library;
use cirrus_procedures::Warning;
use serde_json::{Value, json};
use similar::{ChangeTag, TextDiff};

use super::{Outcome, lint};
use crate::arguments::{DeployArguments, Format, Global};
use crate::failure::CommandError;
use crate::library_directory::LibraryDirectory;
use crate::library_tests::{self, Progress, TestOptions, TestRun};
use crate::output;
use plan::{Change, Planned};
use rollout::Deployed;

pub(super) async fn run(global: &Global, arguments: DeployArguments) -> Outcome {
    let DeployArguments { dir, dry_run, skip_tests, author } = arguments;
    let directory = LibraryDirectory::new(dir);
    let client = global.client().await?;
    let local = sources::read(&directory, &client).await?;
    let tests = if skip_tests { None } else { test(global, &directory, &local.sources)? };
    if let Some(tests) = tests.as_ref().filter(|tests| tests.failed() > 0) {
        match global.output {
            Format::Json => output::json(&report("tests_failed", Some(tests), &[], None))?,
            Format::Table => {
                output::line(tests.summary(output::is_coloured(&io::stdout())))?;
                output::explain("nothing was deployed: tests failed");
            }
        }
        return Ok(ExitCode::FAILURE);
    }
    let active = client.list_libraries().await?;
    let plan = plan::plan(&local.libraries, &active);
    let counts = changed_lines(&client, &plan).await?;
    if global.output == Format::Table {
        match &tests {
            Some(tests) => output::line(tests.total())?,
            None if skip_tests => {}
            None => output::explain(format!("{} has no tests", directory.path().display())),
        }
    }
    if global.output == Format::Table {
        warn(&plan);
    }
    if dry_run || plan.iter().all(|library| library.change == Change::None) {
        match global.output {
            Format::Json => {
                let outcome = if dry_run { "planned" } else { "unchanged" };
                output::json(&report(outcome, tests.as_ref(), &planned(&plan, &counts), None))?;
            }
            Format::Table => tell_plan(&plan, &counts)?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let deployed = rollout::roll_out(&client, &plan, &active, &author.name()).await.map_err(CommandError::from)?;
    let undo = rollout::commands_to_undo(&deployed);
    match global.output {
        Format::Json => {
            let libraries: Vec<Value> = deployed.iter().map(|library| deployed_object(library, &plan)).collect();
            output::json(&report("deployed", tests.as_ref(), &libraries, Some(&undo)))?;
        }
        Format::Table => tell_deployed(&plan, &deployed, &undo)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the directory's tests; `None` where it has none.
fn test(
    global: &Global,
    directory: &LibraryDirectory,
    sources: &sources::Sources,
) -> Result<Option<TestRun>, CommandError> {
    let files = directory.test_files()?;
    if files.is_empty() {
        return Ok(None);
    }
    let for_people = global.output == Format::Table;
    let options = TestOptions {
        filter: "",
        seed: 1,
        progress: if for_people { Progress::FailuresOnly } else { Progress::None },
        show_output: false,
        coloured: output::is_coloured(&io::stdout()),
    };
    library_tests::run(&files, |_| sources, options, &mut |text| output::line(text)).map(Some)
}

/// Lines that each changed library gains and loses.
async fn changed_lines(client: &Client, plan: &[Planned]) -> Result<Vec<(usize, usize)>, CommandError> {
    let mut counts = Vec::with_capacity(plan.len());
    for library in plan {
        let old = match (&library.change, library.active) {
            (Change::Source, Some(version)) => client.get_library(&library.name, version).await?.source,
            (Change::New, _) => Default::default(),
            _ => library.source.clone(),
        };
        let (old, new) = (String::from_utf8_lossy(&old), String::from_utf8_lossy(&library.source));
        let diff = TextDiff::from_lines(&*old, &*new);
        let count = |tag: ChangeTag| diff.iter_all_changes().filter(|change| change.tag() == tag).count();
        counts.push((count(ChangeTag::Insert), count(ChangeTag::Delete)));
    }
    Ok(counts)
}

/// What lint finds in the libraries whose source changed.
fn warnings(library: &Planned) -> Vec<Warning> {
    match library.change {
        Change::New | Change::Source => cirrus_procedures::lint(&library.source),
        Change::Requires(_) | Change::None => Vec::new(),
    }
}

fn warn(plan: &[Planned]) {
    for library in plan {
        for Warning { line, column, code, message } in warnings(library) {
            let place = lint::place(&library.name, line, column.unwrap_or(0));
            output::explain(format!("warning: {place}: {code}: {message}"));
        }
    }
}

fn warning_objects(library: &Planned) -> Vec<Value> {
    let found = warnings(library).into_iter();
    found.map(|found| lint::object(found.line, found.column.unwrap_or(0), found.code, &found.message)).collect()
}

fn version_text(version: Option<u64>) -> String {
    version.map_or_else(|| "-".to_owned(), |version| version.to_string())
}

fn tell_plan(plan: &[Planned], counts: &[(usize, usize)]) -> Result<(), CommandError> {
    let mut table = output::table(["LIBRARY", "ACTIVE", "LINES", "CHANGE"]);
    for (library, (added, removed)) in plan.iter().zip(counts) {
        let lines = if (*added, *removed) == (0, 0) { String::new() } else { format!("+{added} -{removed}") };
        table.add_row([library.name.clone(), version_text(library.active), lines, library.change.to_string()]);
    }
    output::print_table(&table)?;
    let changed = plan.iter().filter(|library| library.change != Change::None).count();
    output::line(match changed {
        0 => "nothing to deploy: all of it is active already".to_owned(),
        changed => format!("would deploy {changed} of {} libraries", plan.len()),
    })?;
    Ok(())
}

fn tell_deployed(plan: &[Planned], deployed: &[Deployed], undo: &[String]) -> Result<(), CommandError> {
    let mut table = output::table(["LIBRARY", "WAS", "IS", "CHANGE"]);
    for library in plan {
        let now = deployed.iter().find(|deployed| deployed.name == library.name);
        let (was, is) = match now {
            Some(deployed) => (version_text(deployed.was), deployed.version.to_string()),
            None => (version_text(library.active), version_text(library.active)),
        };
        table.add_row([library.name.clone(), was, is, library.change.to_string()]);
    }
    output::print_table(&table)?;
    output::line(format!("deployed {} of {} libraries", deployed.len(), plan.len()))?;
    output::line("to undo:")?;
    for command in undo {
        output::line(format!("  {command}"))?;
    }
    Ok(())
}

fn planned(plan: &[Planned], counts: &[(usize, usize)]) -> Vec<Value> {
    let libraries = plan.iter().zip(counts).map(|(library, (added, removed))| {
        json!({
            "name": library.name,
            "active_version": library.active,
            "changed": library.change != Change::None,
            "change": library.change.to_string(),
            "lines_added": added,
            "lines_removed": removed,
            "warnings": warning_objects(library),
        })
    });
    libraries.collect()
}

fn deployed_object(deployed: &Deployed, plan: &[Planned]) -> Value {
    let planned = plan.iter().find(|planned| planned.name == deployed.name);
    json!({
        "name": deployed.name,
        "was_version": deployed.was,
        "version": deployed.version,
        "change": deployed.change.to_string(),
        "warnings": planned.map(warning_objects).unwrap_or_default(),
    })
}

fn report(outcome: &str, tests: Option<&TestRun>, libraries: &[Value], undo: Option<&[String]>) -> Value {
    json!({
        "outcome": outcome,
        "tests": tests.map(TestRun::object),
        "libraries": libraries,
        "undo": undo.unwrap_or_default(),
    })
}

/// The active version of a library, of those that the cluster listed.
fn active_version(active: &[Library], name: &str) -> Option<u64> {
    active.iter().find(|library| library.name == name).map(|library| library.version)
}
