//! The command line.

mod procedures;
mod sql;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use cirrus_client::{Client, ClientConfig, ClientError};
use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use procedures::{
    Author, CallArguments, DeployArguments, LibraryName, LogsArgs, ProcedureCommand, ScheduleArguments, TestArguments,
};
pub(crate) use sql::{SchemaCommand, SqlCommand};

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
    /// The cluster itself: compare replicas.
    #[command(subcommand)]
    Cluster(ClusterCommand),
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
    /// SQLite databases: statements, lists, files, schemas.
    #[command(subcommand)]
    Sql(SqlCommand),
    /// Measure throughput and latency.
    Bench(cirrus_bench::BenchArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Compare what all replicas of all shards hold, at the same log index each; exit 1 where some differ, 2 where some could
    /// not be compared. Replicas are read in full, while they serve.
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// A shard to compare the replicas of; may be given several times. [default: all]
    #[arg(long, value_name = "ID")]
    pub(crate) shard: Vec<u32>,
    /// What each replica reads in a second at most. [default: 64]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub(crate) rate_mib: Option<u64>,
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
    /// Threads that serve requests and replicate; 0: one on up to two processors, one for each on more. [default: 0]
    #[arg(long, value_name = "N")]
    pub(crate) worker_threads: Option<usize>,
    /// How the kernel schedules the node's threads; batch is for nodes that share their processors with each other
    /// alone. [default: normal]
    #[arg(long, value_enum, value_name = "POLICY")]
    pub(crate) scheduling: Option<SchedulingPolicy>,
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

/// How the kernel schedules a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchedulingPolicy {
    /// As any other process.
    Normal,
    /// Threads that wake interrupt none that run.
    Batch,
}

impl From<SchedulingPolicy> for cirrus_server::Scheduling {
    fn from(policy: SchedulingPolicy) -> Self {
        match policy {
            SchedulingPolicy::Normal => cirrus_server::Scheduling::Normal,
            SchedulingPolicy::Batch => cirrus_server::Scheduling::Batch,
        }
    }
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
            let Command::Proc(ProcedureCommand::Call(call)) = parse(line).command else { panic!("{line}") };
            assert_eq!(call.procedure, "counters.incr");
            assert_eq!(call.keys, ["hits"], "{line}");
            assert_eq!(call.args, ["-5", "x"], "{line}");
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
