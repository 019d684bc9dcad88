//! `cirrus proc …`

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use cirrus_client::v1::{LogLevel, MissedTicks};
use cirrus_procedures::shipped;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand, ValueEnum};

use super::Consistency;

#[derive(Debug, Subcommand)]
pub(crate) enum ProcedureCommand {
    /// Write a starting point for a library: NAME.lua, and NAME_test.lua, which passes.
    New {
        /// The library's name.
        name: String,
        /// Where to; made if it is not there.
        #[arg(long, value_name = "DIR", default_value = ".")]
        dir: PathBuf,
    },
    /// Run tests of libraries, without a server; exit 1 where one fails.
    Test(TestArguments),
    /// Test the libraries of a directory, store those that changed, and activate them.
    Deploy(DeployArguments),
    /// Store a version of a library and activate it. The library's name is the file's, without the extension.
    Upload {
        /// Luau or Lua 5.1 source.
        #[arg(required_unless_present = "shipped", conflicts_with = "shipped")]
        file: Option<PathBuf>,
        /// A library that comes with Cirrus, in place of a file.
        #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(shipped::NAMES))]
        shipped: Option<String>,
        /// Leave the active version as it is; `proc activate` switches later.
        #[arg(long)]
        stage: bool,
        #[command(flatten)]
        author: Author,
    },
    /// Look for what is probably a mistake in sources, without a server; exit 1 where there is something.
    Lint {
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Print what editors should know of the sandbox, as a definition file for luau-lsp.
    Types,
    /// List the libraries, each with its active version.
    List,
    /// List a library's versions: which is active, who uploaded it and when.
    Versions {
        /// The library's name.
        library: String,
    },
    /// Make a version the one that calls run.
    Activate {
        #[arg(value_name = "LIB@VERSION")]
        library: PinnedLibrary,
        /// Give it this share of the keys only, beside the active version.
        #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=99))]
        canary: Option<u32>,
        #[command(flatten)]
        author: Author,
    },
    /// Undo the last activation: end the canary, else go back to the version that was active before.
    Rollback {
        /// The library's name.
        library: String,
        #[command(flatten)]
        author: Author,
    },
    /// Bound what a library's calls may take of each node, or show the bounds.
    Limit {
        /// The library's name.
        library: String,
        /// Most calls that run at once on one node; 0: any number.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1024))]
        concurrency: Option<u32>,
        /// CPU time of its calls on one node, in percent of one core; 0: any.
        #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(..=10_000))]
        cpu_percent: Option<u32>,
        /// Remove both bounds.
        #[arg(long, conflicts_with_all = ["concurrency", "cpu_percent"])]
        none: bool,
        #[command(flatten)]
        author: Author,
    },
    /// Show what differs between two versions.
    Diff {
        /// The library's name.
        library: String,
        /// The older version. [default: the active one]
        from: Option<u64>,
        /// The newer version. [default: the last one uploaded]
        to: Option<u64>,
    },
    /// Print a version's source.
    Show {
        #[arg(value_name = "LIB[@VERSION]")]
        library: LibraryName,
    },
    /// Remove a version that nothing uses, or a whole library.
    Delete {
        #[arg(value_name = "LIB[@VERSION]")]
        library: LibraryName,
    },
    /// Print what calls log, on all nodes: the lines that the nodes kept, or, with --follow, each as it is written.
    Logs(LogsArgs),
    /// List the calls that run now, on all nodes, the longest first.
    Running,
    /// End a running call; it leaves no effect.
    Kill {
        /// As `proc running` lists it.
        call: String,
    },
    /// Have a function called again and again, each time once.
    Schedule(ScheduleArguments),
    /// List the schedules: when each runs next, and how it went.
    Schedules,
    /// End a schedule.
    Unschedule {
        /// As `proc schedules` lists it.
        name: String,
    },
    /// Run a function and print its result.
    Call(CallArguments),
}

#[derive(Debug, Args)]
pub(crate) struct TestArguments {
    /// Test files, such as stock_test.lua; of a directory, those named *_test.lua or tests.lua, or .luau. The
    /// libraries are found beside them.
    #[arg(value_name = "FILE|DIR", default_value = ".")]
    pub(crate) paths: Vec<PathBuf>,
    /// Only tests whose name contains it.
    #[arg(long, value_name = "TEXT")]
    pub(crate) filter: Option<String>,
    /// What is random follows from it.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Show what tests that pass print and log, too.
    #[arg(long)]
    pub(crate) show_output: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DeployArguments {
    /// Holds the libraries, and their tests.
    pub(crate) dir: PathBuf,
    /// Run the tests and say what would be deployed.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Run no tests.
    #[arg(long)]
    pub(crate) skip_tests: bool,
    #[command(flatten)]
    pub(crate) author: Author,
}

#[derive(Debug, Args)]
pub(crate) struct CallArguments {
    /// library.function, or library@version.function
    #[arg(value_name = "LIB[@VERSION].FUNCTION")]
    pub(crate) procedure: String,
    /// Routes the call; the function's first argument. Further keys are its next ones; all must be in one shard.
    #[arg(long = "key", value_name = "KEY", required = true)]
    pub(crate) keys: Vec<OsString>,
    /// The arguments are JSON, and so is the result: with types, and 64-bit numbers exact. Bytes that are not UTF-8
    /// are {"base64": "…"}.
    #[arg(long)]
    pub(crate) json: bool,
    /// How fresh the data must be, where the procedure is declared read-only.
    #[arg(long, value_enum)]
    pub(crate) consistency: Option<Consistency>,
    /// Say what the call would write, and write nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Say what the call did, step by step.
    #[arg(long)]
    pub(crate) trace: bool,
    /// The function's further arguments. Behind `--`, they may begin with a dash.
    #[arg(value_name = "ARG", allow_negative_numbers = true)]
    pub(crate) args: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct ScheduleArguments {
    /// library.function, or library@version.function
    #[arg(value_name = "LIB[@VERSION].FUNCTION")]
    pub(crate) procedure: String,
    /// The time from one call to the next, 100ms to 366days, such as 5s or "1h 30min".
    #[arg(long, value_name = "DURATION", value_parser = interval)]
    pub(crate) every: Duration,
    /// Routes the calls; the function's first argument. Further keys are its next ones; all must be in one shard.
    #[arg(long = "key", value_name = "KEY", required = true)]
    pub(crate) keys: Vec<OsString>,
    /// The arguments are JSON, with types, as in `proc call --json`.
    #[arg(long)]
    pub(crate) json: bool,
    /// Names the schedule. [default: made of procedure and key]
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// What becomes of calls that could not run in time, as in a failover.
    #[arg(long, value_enum, default_value_t = Missed::Skip)]
    pub(crate) missed: Missed,
    #[command(flatten)]
    pub(crate) author: Author,
    /// The function's further arguments; behind them it gets the tick's number and when it was due. Behind `--`, they
    /// may begin with a dash.
    #[arg(value_name = "ARG", allow_negative_numbers = true)]
    pub(crate) args: Vec<OsString>,
}

/// What becomes of missed calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Missed {
    /// Only the newest runs.
    Skip,
    /// Each runs, in order.
    CatchUp,
}

impl From<Missed> for MissedTicks {
    fn from(missed: Missed) -> Self {
        match missed {
            Missed::Skip => Self::Skip,
            Missed::CatchUp => Self::CatchUp,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Of this library's calls only.
    pub(crate) library: Option<String>,
    /// Go on with new lines, until Ctrl-C.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Lines of this level and above. [default: debug]
    #[arg(long)]
    pub(crate) level: Option<Level>,
    /// Begin with so many of the lines that the nodes kept. [default: all; with --follow, none]
    #[arg(long, value_name = "N")]
    pub(crate) last: Option<u32>,
}

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

impl From<Level> for LogLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error => LogLevel::Error,
        }
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match duration.subsec_nanos() % 1_000_000 {
        0 => Ok(duration),
        _ => Err("must be whole milliseconds".to_owned()),
    }
}

/// Who changes what calls run.
#[derive(Debug, Args)]
pub(crate) struct Author {
    /// Kept with the change, as it is given. [default: the user's name]
    #[arg(long, env = "CIRRUS_AUTHOR", value_name = "NAME")]
    author: Option<String>,
}

impl Author {
    pub(crate) fn name(self) -> String {
        self.author.or_else(|| std::env::var("USER").ok()).unwrap_or_default()
    }
}

/// A library, or one version of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LibraryName {
    pub(crate) name: String,
    /// 0: none is named.
    pub(crate) version: u64,
}

impl FromStr for LibraryName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((name, version)) = text.split_once('@') else {
            return Ok(LibraryName { name: text.to_owned(), version: 0 });
        };
        match version.parse() {
            Ok(version) if version > 0 => Ok(LibraryName { name: name.to_owned(), version }),
            _ => Err(format!("{version:?} is no version: versions are numbers from 1")),
        }
    }
}

/// One version of a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PinnedLibrary(pub(crate) LibraryName);

impl FromStr for PinnedLibrary {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let library: LibraryName = text.parse()?;
        match library.version {
            0 => Err(format!("name the version, as in {text}@3")),
            _ => Ok(PinnedLibrary(library)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::arguments::{Cli, Command};
    use clap::Parser as _;

    #[test]
    fn a_version_stands_behind_the_librarys_name() {
        let Command::Proc(ProcedureCommand::Activate { library, canary, .. }) =
            Cli::try_parse_from(["cirrus", "proc", "activate", "counters@3", "--canary", "5"]).unwrap().command
        else {
            panic!()
        };
        assert_eq!(library, PinnedLibrary(LibraryName { name: "counters".to_owned(), version: 3 }));
        assert_eq!(canary, Some(5));
        for line in ["upload --shipped lightcloud", "upload a.lua", "lint a.lua b.lua", "types"] {
            let words = ["cirrus", "proc"].into_iter().chain(line.split_whitespace());
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
        for line in ["upload", "upload a.lua --shipped lightcloud", "upload --shipped other", "lint"] {
            let words = ["cirrus", "proc"].into_iter().chain(line.split_whitespace());
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
        for line in ["activate counters", "activate counters@0", "activate c@1 --canary 100", "show c@x"] {
            let words = ["cirrus", "proc"].into_iter().chain(line.split_whitespace());
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }

    #[test]
    fn limits_are_given_or_removed() {
        for (line, expected) in [
            ("limit l", (None, None, false)),
            ("limit l --cpu-percent 250", (None, Some(250), false)),
            ("limit l --concurrency 0 --cpu-percent 5", (Some(0), Some(5), false)),
            ("limit l --none", (None, None, true)),
        ] {
            let words = ["cirrus", "proc"].into_iter().chain(line.split_whitespace());
            let Command::Proc(ProcedureCommand::Limit { concurrency, cpu_percent, none, .. }) =
                Cli::try_parse_from(words).unwrap().command
            else {
                panic!("{line}")
            };
            assert_eq!((concurrency, cpu_percent, none), expected, "{line}");
        }
        for line in ["limit", "limit l --concurrency 1025", "limit l --none --concurrency 1"] {
            let words = ["cirrus", "proc"].into_iter().chain(line.split_whitespace());
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }
}
