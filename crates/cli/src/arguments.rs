//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use cirrus_client::{Client, ClientConfig, ClientError};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// A strongly consistent key-value service: its nodes and its client.
#[derive(Debug, Parser)]
#[command(name = "cirrus", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// gRPC addresses of some nodes of the cluster, host:port, separated by commas.
    #[arg(
        long,
        global = true,
        env = "CIRRUS_ENDPOINTS",
        value_delimiter = ',',
        value_name = "HOST:PORT,…",
        default_value = "127.0.0.1:7100"
    )]
    pub(crate) endpoints: Vec<String>,
    /// The longest that a request may take, with all its attempts.
    #[arg(long, global = true, value_name = "MS", default_value_t = 10_000)]
    pub(crate) timeout_ms: u64,
    /// For people or for programs.
    #[arg(short = 'o', long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// How answers and errors look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Text for people.
    Table,
    /// JSON for programs.
    Json,
}

impl Global {
    /// A client of the cluster that the flags name.
    pub(crate) async fn client(&self) -> Result<Client, ClientError> {
        let timeout = Duration::from_millis(self.timeout_ms);
        let defaults = ClientConfig::new(self.endpoints.iter().cloned());
        Client::connect(ClientConfig {
            timeout,
            attempt_timeout: defaults.attempt_timeout.min(timeout),
            connect_timeout: defaults.connect_timeout.min(timeout),
            ..defaults
        })
        .await
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node. Without flags: a one-node cluster on loopback.
    Serve(ServeArgs),
    /// Run a local cluster, each node its own process, until Ctrl-C.
    Dev(DevArgs),
    /// Show the nodes and shards of the cluster.
    Status,
    /// Print a key's value; exit 1 where there is none.
    Get(GetArgs),
    /// Store a value.
    Put(PutArgs),
    /// Remove a key.
    Delete(DeleteArgs),
    /// Add to a number and print the sum.
    Incr(IncrementArgs),
    /// List keys and values in key order.
    Scan(ScanArgs),
    /// Lua procedures: upload, versions, activate, rollback, call.
    #[command(subcommand)]
    Proc(ProcedureCommand),
    /// Measure throughput and latency.
    Bench(cirrus_bench::BenchArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// This node's id, from 1; never reused in a cluster.
    #[arg(long)]
    pub(crate) node_id: Option<u64>,
    /// Where gRPC listens. [default: 127.0.0.1:7100]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,
    /// Where metrics and probes listen. [default: 127.0.0.1:7180]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) http_listen: Option<String>,
    /// The gRPC address that others reach this node at. [default: where it listens]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Option<String>,
    /// Holds everything that the node keeps. [default: ./cirrus-data]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Nodes whose cluster to join. Without it the node creates a cluster, if it has none yet.
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT,…")]
    pub(crate) join: Option<Vec<String>>,
    /// Data shards of a cluster that this node creates. [default: 8]
    #[arg(long)]
    pub(crate) shards: Option<u32>,
    /// Threads that serve requests and replicate; 0: one for each processor. [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) worker_threads: Option<usize>,
    /// A TOML file. CIRRUS_* variables win over it, flags win over both.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Stops when standard input ends, as it does when the parent process is gone.
    #[arg(long, hide = true)]
    pub(crate) exit_with_parent: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) nodes: u16,
    /// Holds a directory for each node. Started again on the same one, the same cluster comes back.
    #[arg(long, value_name = "DIR", default_value = ".cirrus-dev")]
    pub(crate) data_dir: PathBuf,
    /// Node i gets gRPC on this plus i, HTTP on this plus 80 plus i.
    #[arg(long, default_value_t = 7100, value_parser = clap::value_parser!(u16).range(1..=65_300))]
    pub(crate) base_port: u16,
    /// Data shards of a new cluster. [default: 8]
    #[arg(long)]
    pub(crate) shards: Option<u32>,
    /// How long to wait until the cluster is ready.
    #[arg(long, value_name = "MS", default_value_t = 60_000)]
    pub(crate) ready_timeout_ms: u64,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    pub(crate) key: OsString,
    /// How fresh the value must be.
    #[arg(long, value_enum, default_value_t = Consistency::Linearizable)]
    pub(crate) consistency: Consistency,
    /// Print no newline behind the value.
    #[arg(short = 'n', long)]
    pub(crate) no_newline: bool,
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Consistency {
    /// Every write acknowledged before is seen.
    Linearizable,
    /// The leader's word while its lease holds.
    Lease,
    /// What any replica has, however old.
    Stale,
}

impl From<Consistency> for cirrus_client::v1::ReadConsistency {
    fn from(consistency: Consistency) -> Self {
        match consistency {
            Consistency::Linearizable => Self::Linearizable,
            Consistency::Lease => Self::Lease,
            Consistency::Stale => Self::Stale,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    pub(crate) key: OsString,
    /// The value; `-` reads standard input, `@FILE` a file.
    #[arg(allow_hyphen_values = true)]
    pub(crate) value: OsString,
    /// Let it expire after this many milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub(crate) ttl_ms: u64,
    /// Only where the key has no value.
    #[arg(long, conflicts_with = "if_version")]
    pub(crate) if_absent: bool,
    /// Only where the value has this version.
    #[arg(long, value_name = "VERSION")]
    pub(crate) if_version: Option<u64>,
    /// 32 bits to keep beside the value.
    #[arg(long, default_value_t = 0)]
    pub(crate) flags: u32,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    pub(crate) key: OsString,
    /// Only where the value has this version.
    #[arg(long, value_name = "VERSION")]
    pub(crate) if_version: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct IncrementArgs {
    pub(crate) key: OsString,
    /// May be negative.
    #[arg(default_value_t = 1, allow_negative_numbers = true)]
    pub(crate) delta: i64,
    /// If this creates the key, let it expire after this many milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub(crate) ttl_ms: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ScanArgs {
    /// Only keys that begin with it.
    #[arg(long, conflicts_with_all = ["start", "end"])]
    pub(crate) prefix: Option<OsString>,
    /// From this key on.
    #[arg(long)]
    pub(crate) start: Option<OsString>,
    /// Up to this key, without it.
    #[arg(long)]
    pub(crate) end: Option<OsString>,
    /// At most this many.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// Leave the values out.
    #[arg(long)]
    pub(crate) keys_only: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ProcedureCommand {
    /// Store a version of a library and activate it. The library's name is the file's, without the extension.
    Upload {
        /// Luau or Lua 5.1 source.
        file: PathBuf,
        /// Leave the active version as it is; `proc activate` switches later.
        #[arg(long)]
        stage: bool,
        #[command(flatten)]
        author: Author,
    },
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
    /// List the calls that run now, on all nodes, the longest first.
    Running,
    /// End a running call; it leaves no effect.
    Kill {
        /// As `proc running` lists it.
        call: String,
    },
    /// Run a function and print its result.
    Call {
        /// library.function, or library@version.function
        #[arg(value_name = "LIB[@VERSION].FUNCTION")]
        procedure: String,
        /// Routes the call; the function's first argument.
        #[arg(long)]
        key: OsString,
        /// Say what the call would write, and write nothing.
        #[arg(long)]
        dry_run: bool,
        /// Say what the call did, step by step.
        #[arg(long)]
        trace: bool,
        /// The function's further arguments. Behind `--`, they may begin with a dash.
        #[arg(value_name = "ARG", allow_negative_numbers = true)]
        args: Vec<OsString>,
    },
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
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Cli {
        Cli::try_parse_from(std::iter::once("cirrus").chain(line.split_whitespace())).unwrap()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_anywhere() {
        for line in [
            "-o json --endpoints a:1,b:2 get k",
            "get k --endpoints a:1,b:2 -o json",
            "get -o json k --endpoints=a:1,b:2",
        ] {
            let cli = parse(line);
            assert_eq!(cli.global.output, Format::Json, "{line}");
            assert_eq!(cli.global.endpoints, ["a:1", "b:2"], "{line}");
        }
    }

    #[test]
    fn deltas_and_arguments_may_be_negative() {
        for (line, expected) in [("incr k", 1), ("incr k -5", -5), ("incr k -5 -o json", -5), ("incr -o json k 7", 7)] {
            let Command::Incr(args) = parse(line).command else { panic!("{line}") };
            assert_eq!((args.key.to_str().unwrap(), args.delta), ("k", expected), "{line}");
        }
        for line in ["proc call counters.incr --key hits -5 x", "proc call counters.incr -5 x --key hits"] {
            let Command::Proc(ProcedureCommand::Call { procedure, key, args, .. }) = parse(line).command else {
                panic!("{line}")
            };
            assert_eq!((procedure.as_str(), key.to_str().unwrap()), ("counters.incr", "hits"));
            assert_eq!(args, ["-5", "x"], "{line}");
        }
    }

    #[test]
    fn values_may_look_like_flags_and_flags_may_stand_before_them() {
        for (line, value, ttl_ms) in [
            ("put k -", "-", 0),
            ("put k -5", "-5", 0),
            ("put k --ttl-ms 9 v", "v", 9),
            ("put k -x --ttl-ms 9", "-x", 9),
        ] {
            let Command::Put(args) = parse(line).command else { panic!("{line}") };
            assert_eq!((args.value.to_str().unwrap(), args.ttl_ms), (value, ttl_ms), "{line}");
        }
    }

    #[test]
    fn a_version_stands_behind_the_librarys_name() {
        let Command::Proc(ProcedureCommand::Activate { library, canary, .. }) =
            parse("proc activate counters@3 --canary 5").command
        else {
            panic!()
        };
        assert_eq!(library, PinnedLibrary(LibraryName { name: "counters".to_owned(), version: 3 }));
        assert_eq!(canary, Some(5));
        for line in ["activate counters", "activate counters@0", "activate c@1 --canary 100", "show c@x"] {
            let words = ["cirrus", "proc"].into_iter().chain(line.split_whitespace());
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
    }

    #[test]
    fn conditions_exclude_each_other() {
        assert!(Cli::try_parse_from(["cirrus", "put", "k", "v", "--if-absent", "--if-version", "3"]).is_err());
        assert!(Cli::try_parse_from(["cirrus", "scan", "--prefix", "a", "--start", "b"]).is_err());
    }

    #[test]
    fn serve_takes_the_flags_that_scripts_rely_on() {
        let line = "serve --node-id 2 --listen a:1 --http-listen a:2 --data-dir d --join a:3,b:3 --shards 4 --config f";
        let Command::Serve(args) = parse(line).command else { panic!() };
        assert_eq!(args.join.unwrap(), ["a:3", "b:3"]);
        assert_eq!((args.node_id, args.shards), (Some(2), Some(4)));
    }
}
