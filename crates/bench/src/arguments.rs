//! The command line of `cirrus bench`.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use serde::{Deserialize, Serialize};

use crate::target::Target;
use crate::workload::Operation;

/// Measures throughput and latency.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub(crate) command: BenchCommand,
}

#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum BenchCommand {
    /// Puts, gets or calls from many clients at once, against Cirrus or another system.
    Kv(KvArgs),
    /// Fills a cluster with databases and measures their size, reads and writes; beside plain files of SQLite, where asked.
    Sql(SqlArgs),
    /// Puts the JSON results of several runs side by side, with ratios to etcd.
    #[command(hide = true)]
    Table(TableArgs),
}

/// The arguments of `cirrus bench kv`.
#[derive(Clone, Debug, clap::Args)]
pub struct KvArgs {
    /// What every client does, over and over.
    #[arg(long = "op", value_enum, default_value_t = Operation::Put)]
    pub operation: Operation,
    /// Clients, each with one request in flight (or with a window of them, in pipeline mode).
    #[arg(long, default_value_t = 64, value_parser = RangedU64ValueParser::<usize>::new().range(1..=100_000))]
    pub clients: usize,
    /// How long to measure, seconds.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub seconds: f64,
    /// How long to run before measuring starts, seconds.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub warmup_seconds: f64,
    /// Size of each value, bytes.
    #[arg(long, default_value_t = 256)]
    pub value_bytes: usize,
    /// How many different keys are used, each equally often.
    #[arg(long, default_value_t = 10_000, value_parser = RangedU64ValueParser::<u64>::new().range(1..=1_000_000_000_000))]
    pub keys: u64,
    /// The share of gets in `--op mixed`, percent.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub get_percent: u8,
    /// The system to measure: cirrus://, etcd://, redis:// or memcached://, then host:port,…
    /// [default: Cirrus at --endpoints]
    #[arg(long)]
    pub target: Option<Target>,
    /// One request per call, or many over one stream (Cirrus only).
    #[arg(long, value_enum, default_value_t = Mode::Unary)]
    pub mode: Mode,
    /// Requests that each client keeps in flight in pipeline mode.
    #[arg(long, default_value_t = 256, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    pub window: usize,
    /// gRPC connections to each endpoint of Cirrus or etcd, shared by all clients.
    #[arg(long, default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000))]
    pub connections: usize,
    /// Threads of the load generator. One disturbs the measured system least where both share a machine.
    #[arg(long, default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub threads: usize,
    /// How long to wait for the target to become ready, seconds.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub connect_seconds: f64,
}

/// How a client sends its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One call per request, one request at a time.
    Unary,
    /// `KeyValue.Pipeline`: a window of requests in flight over streams.
    Pipeline,
}

/// The arguments of `cirrus bench sql`.
#[derive(Clone, Debug, clap::Args)]
pub struct SqlArgs {
    /// Databases to create, each an address book of a user's.
    #[arg(long, default_value_t = 100_000, value_parser = RangedU64ValueParser::<u32>::new().range(1..=100_000_000))]
    pub databases: u32,
    /// Contacts in each to begin with.
    #[arg(long, default_value_t = 10, value_parser = RangedU64ValueParser::<u32>::new().range(1..=1000))]
    pub rows: u32,
    /// Clients that fill and write, each with one request in flight. Reads are made one at a time.
    #[arg(long, default_value_t = 64, value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000))]
    pub clients: usize,
    /// Of how many databases one is written to at random; several numbers are measured one after the other.
    #[arg(long, value_delimiter = ',', value_name = "N,…", default_value = "100,10000,100000",
        value_parser = RangedU64ValueParser::<u32>::new().range(1..))]
    pub active: Vec<u32>,
    /// How long to measure each kind of reads and each number of active databases, seconds.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub seconds: f64,
    /// How long to write before measuring starts, seconds.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pub warmup_seconds: f64,
    /// Measure a three-node cluster of the bench's own, not the one at --endpoints. It is started again once it is full, so that
    /// all is on disk and no database is open.
    #[arg(long, requires = "scratch_dir")]
    pub dev: bool,
    /// Measure these databases as well, in the same run.
    #[arg(long, value_enum, requires = "scratch_dir")]
    pub compare: Option<Peer>,
    /// Where the data of --dev and --compare goes, in a folder of its own that is removed at the end. Must be on a disk.
    #[arg(long, value_name = "DIR")]
    pub scratch_dir: Option<PathBuf>,
    /// gRPC connections to each node, shared by all clients.
    #[arg(long, default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000))]
    pub connections: usize,
    /// Threads of the load generator, beside one for each client of plain SQLite.
    #[arg(long, default_value_t = 1, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub threads: usize,
    /// How long to wait for the cluster to become ready, seconds.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    pub connect_seconds: f64,
}

/// What databases are held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    /// One file of plain SQLite for each user, with synchronous=FULL.
    Sqlite,
}

/// The arguments of `cirrus bench table`.
#[derive(Clone, Debug, clap::Args)]
pub struct TableArgs {
    /// Files that `cirrus bench kv -o json` printed. Runs of the same work on the same system count as
    /// rounds, and their medians are shown.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        Ok(_) => Err("must be from 0 to 86400".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
