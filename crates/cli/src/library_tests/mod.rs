//! Test files of libraries: running them, and telling people and programs what became of them.

mod json;
mod text;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cirrus_cluster::sql::databases_in_memory;
use cirrus_procedures::testing::{TestFailure, TestFile, TestReport, TestSettings, run_tests};
use cirrus_procedures::{LibrarySources, Linker};
use serde_json::Value;

use crate::failure::CommandError;
use crate::output::at;

/// What became of a run.
pub(crate) struct TestRun {
    seed: u64,
    files: Vec<FileReport>,
    took: Duration,
}

struct FileReport {
    path: PathBuf,
    source: String,
    tests: Vec<TestReport>,
    /// The file itself cannot be run.
    failure: Option<Box<TestFailure>>,
    took: Duration,
}

/// Which tests run, and how it is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TestOptions<'a> {
    /// Only tests whose name contains it.
    pub(crate) filter: &'a str,
    pub(crate) seed: u64,
    /// As they run, for people.
    pub(crate) progress: Progress,
    /// Of tests that pass, too.
    pub(crate) show_output: bool,
    pub(crate) coloured: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Every,
    FailuresOnly,
    None,
}

/// Runs test files, each with the libraries of these sources. What is told meanwhile goes to `say`.
pub(crate) fn run<'s>(
    files: &[PathBuf],
    sources: impl Fn(&Path) -> &'s dyn LibrarySources,
    options: TestOptions<'_>,
    say: &mut dyn FnMut(String) -> std::io::Result<()>,
) -> Result<TestRun, CommandError> {
    let began = Instant::now();
    let settings = TestSettings { seed: options.seed, databases: Some(databases_in_memory), ..TestSettings::default() };
    let mut run = TestRun { seed: options.seed, files: Vec::new(), took: Duration::ZERO };
    for path in files {
        let source = std::fs::read(path).map_err(|error| CommandError::local(at(path, error)))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let linker = Linker::new(sources(path), &settings.limits);
        let mut file = FileReport {
            path: path.clone(),
            source: String::from_utf8_lossy(&source).into_owned(),
            tests: Vec::new(),
            failure: None,
            took: Duration::ZERO,
        };
        let file_began = Instant::now();
        let mut told = Ok(());
        let ran = run_tests(
            TestFile { name: &name, source: &source },
            &linker,
            &settings,
            &|test| test.contains(options.filter),
            &mut |report| {
                let title =
                    (file.tests.is_empty() && options.progress == Progress::Every).then(|| path.display().to_string());
                for text in title.into_iter().chain(text::progress(&file, &report, options)) {
                    if told.is_ok() {
                        told = say(text);
                    }
                }
                file.tests.push(report);
            },
        );
        told?;
        if let Err(failure) = ran {
            if options.progress != Progress::None {
                say(text::file_failure(&file, &failure, options.coloured))?;
            }
            file.failure = Some(failure);
        }
        file.took = file_began.elapsed();
        run.files.push(file);
    }
    run.took = began.elapsed();
    Ok(run)
}

impl TestRun {
    pub(crate) fn passed(&self) -> usize {
        self.tests().filter(|test| test.failure.is_none()).count()
    }

    /// Tests that failed, and files that could not be run.
    pub(crate) fn failed(&self) -> usize {
        let files = self.files.iter().filter(|file| file.failure.is_some()).count();
        self.tests().filter(|test| test.failure.is_some()).count() + files
    }

    fn tests(&self) -> impl Iterator<Item = &TestReport> {
        self.files.iter().flat_map(|file| &file.tests)
    }

    /// A table of the files, and one line in all.
    pub(crate) fn summary(&self, coloured: bool) -> String {
        text::summary(self, coloured)
    }

    /// "3 passed, 1 failed in 12 ms".
    pub(crate) fn total(&self) -> String {
        let ms = self.took.as_millis();
        match self.failed() {
            0 => format!("{} passed in {ms} ms", self.passed()),
            failed => format!("{} passed, {failed} failed in {ms} ms", self.passed()),
        }
    }

    pub(crate) fn object(&self) -> Value {
        json::run(self)
    }
}
