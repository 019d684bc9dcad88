//! `cirrus proc test`

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cirrus_procedures::LibrarySources;

use super::Outcome;
use crate::arguments::{Format, Global, TestArguments};
use crate::failure::CommandError;
use crate::library_directory::LibraryDirectory;
use crate::library_tests::{self, Progress, TestOptions};
use crate::output::{self, at};

/// Exit status 1 where a test fails.
pub(super) fn run(global: &Global, arguments: &TestArguments) -> Outcome {
    let files = files(&arguments.paths)?;
    let directories: BTreeMap<&Path, LibraryDirectory> =
        files.iter().map(|file| (file.as_path(), LibraryDirectory::of_file(file))).collect();
    let sources = |file: &Path| -> &dyn LibrarySources { &directories[file] };
    let for_people = global.output == Format::Table;
    let options = TestOptions {
        filter: arguments.filter.as_deref().unwrap_or(""),
        seed: arguments.seed,
        progress: if for_people { Progress::Every } else { Progress::None },
        show_output: arguments.show_output,
        coloured: output::is_coloured(&io::stdout()),
    };
    let run = library_tests::run(&files, sources, options, &mut |text| output::line(text))?;
    if run.passed() + run.failed() == 0 {
        return Err(CommandError::local(match &arguments.filter {
            Some(filter) => format!("no test has a name that contains {filter:?}"),
            None => "there is no test: a test is a function whose name begins with test".to_owned(),
        }));
    }
    match global.output {
        Format::Table => output::line(run.summary(options.coloured))?,
        Format::Json => output::json(&run.object())?,
    }
    Ok(if run.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The test files that the paths name, each once.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, CommandError> {
    let mut files: Vec<PathBuf> = Vec::new();
    for path in paths {
        let found = if path.is_dir() {
            let found = LibraryDirectory::new(path).test_files()?;
            if found.is_empty() {
                let problem = "no test files, which are named *_test.lua, *_tests.lua, test.lua or tests.lua, or .luau";
                return Err(CommandError::local(at(path, problem)));
            }
            found
        } else {
            vec![path.clone()]
        };
        for file in found {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    Ok(files)
}
