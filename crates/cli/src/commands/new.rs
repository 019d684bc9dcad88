//! `cirrus proc new`

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use cirrus_procedures::check_library_name;
use serde_json::json;

use super::Outcome;
use crate::arguments::{Format, Global};
use crate::failure::CommandError;
use crate::library_directory::is_test;
use crate::output::{self, at};

const LIBRARY: &str = include_str!("new/library.lua");
const TESTS: &str = include_str!("new/library_test.lua");

/// What stands for the library's name in the templates.
const NAME: &str = "LIBRARY";

pub(super) fn run(global: &Global, name: &str, directory: &Path) -> Outcome {
    check_library_name(name).map_err(|failure| CommandError::local(failure.message))?;
    if is_test(name) {
        return Err(CommandError::local(format!("{name}.lua would be a test file, not a library")));
    }
    std::fs::create_dir_all(directory).map_err(|error| CommandError::local(at(directory, error)))?;
    let library = directory.join(format!("{name}.lua"));
    let tests = directory.join(format!("{name}_test.lua"));
    let others = ["luau", "lua"].map(|extension| directory.join(format!("{name}.{extension}")));
    if let Some(there) = others.iter().chain([&tests]).find(|file| file.symlink_metadata().is_ok()) {
        return Err(CommandError::local(at(there, "is there already; nothing was written")));
    }
    write_new(&library, &LIBRARY.replace(NAME, name))?;
    write_new(&tests, &TESTS.replace(NAME, name))?;
    match global.output {
        Format::Json => {
            output::json(&json!({ "library": library.display().to_string(), "tests": tests.display().to_string() }))?;
        }
        Format::Table => {
            output::line(format!("wrote {} and {}", library.display(), tests.display()))?;
            output::line(format!("to run the tests: cirrus proc test {}", tests.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Never over what is there.
fn write_new(file: &Path, text: &str) -> Result<(), CommandError> {
    let written =
        OpenOptions::new().write(true).create_new(true).open(file).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| CommandError::local(at(file, error)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use cirrus_procedures::Linker;
    use cirrus_procedures::testing::{TestFile, TestSettings, run_tests};

    #[test]
    fn what_is_written_passes_its_tests() {
        for name in ["stock", "a-b_1"] {
            let settings = TestSettings::default();
            let sources = BTreeMap::from([(name.to_owned(), Bytes::from(LIBRARY.replace(NAME, name)))]);
            let linker = Linker::new(&sources, &settings.limits);
            assert_eq!(linker.find(name, None).unwrap().inspected.declarations.len(), 2);
            let source = TESTS.replace(NAME, name);
            let mut names = Vec::new();
            let file = TestFile { name: "t", source: source.as_bytes() };
            run_tests(file, &linker, &settings, &|_| true, &mut |test| {
                assert_eq!(test.failure, None, "{}", test.name);
                names.push(test.name);
            })
            .unwrap();
            assert_eq!(names.len(), 3);
        }
    }
}
