//! The load generator: how fast is Cirrus, and how fast are other systems at the same work?
//!
//! Owns `cirrus bench`. `cirrus bench kv` is a closed loop of clients, each with one request in flight (or, with
//! `--mode pipeline`, a window of them), against one target. The target is named by URL, so that a ratio
//! between two systems is taken by one program, in one run, on one machine:
//!
//! | target | protocol | connections |
//! | --- | --- | --- |
//! | `cirrus://` | `cirrus.v1` gRPC, by `cirrus-client` | `--connections` to each node, shared by all clients; each request goes to the leader of its key's shard |
//! | `etcd://` | `etcdserverpb` gRPC, by tonic | `--connections` to each endpoint, clients dealt out over all of them |
//! | `redis://` | RESP | one for each client, as Redis clients do |
//! | `memcached://` | text | one for each client |
//!
//! Reads are linearizable, and writes are durable as far as the target is set up for it. No target gets
//! more connections than the other gRPC target, for etcd and Cirrus take the same `--connections`.
//!
//! Invariants:
//! - Every target gets the same work: keys uniform over the same fixed-width names, values of the same
//!   size with incompressible contents, the same number of clients. The mix of a client's requests
//!   depends on nothing but its number.
//! - A latency is measured from the moment at which the request is handed to the driver to the moment at
//!   which its decoded and checked answer is there. A read that finds no value is an error.
//! - No error is hidden: whatever a client's user would get as an error is counted by kind, warm-up
//!   included, and shown. The bench itself tries nothing twice.
//! - An operation counts if it ended inside the measured window, which starts after the warm-up.
//!
//! `cirrus bench sql` fills a cluster with databases and measures them, beside plain SQLite: see `sql.rs`.
//!
//! A request's path: [`workload`] makes it, [`load`] times it, a [`driver`] sends it, [`recorder`] notes
//! how long it took and [`report`] prints what all clients noted. Next stop: the target.

mod arguments;
mod comparison;
mod driver;
mod format;
mod load;
mod processor;
mod recorder;
mod report;
mod sql;
mod target;
mod workload;

use std::future::Future;
use std::io::Write as _;

use anyhow::Context as _;
use arguments::BenchCommand;
pub use arguments::{BenchArgs, KvArgs, Mode, Peer, SqlArgs, TableArgs};
use driver::cirrus::CirrusDriver;
use driver::etcd::EtcdDriver;
use driver::memcached::MemcachedDriver;
use driver::redis::RedisDriver;
pub use report::{ErrorTally, Latencies, Report};
pub use sql::{IdleSize, Reads, SqlReport, SystemReport, Writing};
pub use target::{System, Target};
pub use workload::Operation;

/// Runs `cirrus bench` and prints its result to standard output: a table, or JSON where `json` is set.
/// `endpoints` is the cluster to measure where the arguments name no other target.
///
/// # Errors
/// Where the target cannot be reached or prepared, where it does not offer the operation, and where not
/// one operation succeeded.
pub async fn run(args: BenchArgs, endpoints: Vec<String>, json: bool) -> anyhow::Result<()> {
    match args.command {
        BenchCommand::Kv(kv) => {
            let target = match &kv.target {
                Some(target) => target.clone(),
                None => Target::cirrus(&endpoints)?,
            };
            let report = measure(kv, target).await?;
            let text = if json { serde_json::to_string_pretty(&report)? } else { report.to_string() };
            print(&text)?;
            report.require_success()
        }
        BenchCommand::Sql(sql) => {
            let threads = sql.threads;
            let measuring = async move { sql::measure(&sql, &endpoints).await };
            let (report, _scratch) = on_own_threads(threads, measuring).await?;
            print(&if json { serde_json::to_string_pretty(&report)? } else { report.to_string() })?;
            report.require_success()
        }
        BenchCommand::Table(table) => {
            let mut reports = Vec::new();
            for path in &table.files {
                let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
                reports.extend(comparison::parse(&text).with_context(|| format!("in {}", path.display()))?);
            }
            let comparison = comparison::Comparison::of(&reports);
            print(&if json { serde_json::to_string_pretty(&comparison)? } else { comparison.to_string() })
        }
    }
}

async fn measure(args: KvArgs, target: Target) -> anyhow::Result<Report> {
    on_own_threads(args.threads, async move { measure_target(&args, target).await }).await
}

/// Measures on threads of its own, so that the result does not depend on the caller's runtime.
async fn on_own_threads<R: Send + 'static>(
    threads: usize,
    measuring: impl Future<Output = anyhow::Result<R>> + Send + 'static,
) -> anyhow::Result<R> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("bench".to_owned()).spawn(move || {
        let outcome = runtime(threads).and_then(|runtime| {
            let report = runtime.block_on(measuring);
            // Connections that still wait for a hung peer must not keep the program.
            runtime.shutdown_background();
            report
        });
        // The receiver is gone only where the whole run was given up.
        drop(sender.send(outcome));
    })?;
    receiver.await.context("the load generator's thread died")?
}

/// As many as there may be clients of databases, and a few more. They are made when they are needed.
const BLOCKING_THREADS: usize = 10_016;

fn runtime(threads: usize) -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads).thread_name("bench-worker");
    }
    // One for each client of plain SQLite, which works where it is called.
    builder.max_blocking_threads(BLOCKING_THREADS);
    builder.enable_all().build().context("starting the load generator's runtime")
}

async fn measure_target(args: &KvArgs, target: Target) -> anyhow::Result<Report> {
    target.system.require_support(args.operation, args.mode)?;
    let plan = load::Plan::new(args)?;
    let measurement = match target.system {
        System::Cirrus => {
            let driver = CirrusDriver::connect(&target.endpoints, args.connections, plan.patience).await?;
            match args.mode {
                Mode::Unary => load::run(&driver, &plan).await?,
                Mode::Pipeline => load::run_pipelined(&driver, &plan, args.window).await?,
            }
        }
        System::Etcd => {
            let driver = EtcdDriver::connect(&target.endpoints, args.connections, plan.patience).await?;
            load::run(&driver, &plan).await?
        }
        System::Redis => load::run(&RedisDriver::connect(&target.endpoints, plan.patience).await?, &plan).await?,
        System::Memcached => {
            load::run(&MemcachedDriver::connect(&target.endpoints, plan.patience).await?, &plan).await?
        }
    };
    Ok(Report::new(args, target, &measurement))
}

fn print(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout().lock(), "{}", text.trim_end()).context("writing to standard output")
}
