//! `cirrus bench sql`: a database for each of many users, in a cluster and, in the same run, in files of plain SQLite.
//!
//! ```text
//! fill ─► (own cluster: start again) ─► sizes on disk ─► reads, of databases not open, then open ─► writes, for each
//!                                                                                        number of active databases
//! ```
//!
//! Every system gets the same databases, rows, reads and writes, by the same loop (`databases.rs`). Differences that remain:
//!
//! | | Cirrus | plain SQLite |
//! | --- | --- | --- |
//! | where | over gRPC, on three nodes | in the bench's process, on one disk |
//! | a write is durable | on a quorum of the nodes | by `synchronous=FULL`, with a rollback journal and again with a write-ahead log |
//! | the fill | as all writes | not synced one by one; once at the end |
//! | first read | of a database that no node has open; linearizable | opens the file, reads, closes it; what the kernel has in memory stays there |
//! | open databases | what a shard keeps by default, for each shard | as many connections in all, unless the system allows fewer files |

mod address_book;
mod cirrus;
mod databases;
mod disk;
mod own_cluster;
mod plain;
mod report;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use cirrus_proto::limits::SqlLimits;
use tempfile::TempDir;

use self::cirrus::CirrusDatabases;
use self::databases::{Databases, Filled, WritePlan, fill, read_each_once, read_open, write};
use self::disk::ClusterDisk;
use self::own_cluster::OwnCluster;
use self::plain::{Journal, PlainFiles};
pub use self::report::{IdleSize, Reads, SqlReport, SystemReport, Writing};
use crate::arguments::{Peer, SqlArgs};
use crate::driver::cirrus::CirrusDriver;
use crate::target::Target;

/// How long RocksDB may be at its background work before sizes are taken as they are.
const SETTLE_BOUND: Duration = Duration::from_secs(60);

/// Measures what the arguments ask for. Ends early, with an error, where the program is interrupted.
/// The folder is removed when it is dropped, after the report is shown: that may take a minute or more.
pub(crate) async fn measure(args: &SqlArgs, endpoints: &[String]) -> anyhow::Result<(SqlReport, Option<TempDir>)> {
    check(args)?;
    let scratch = match &args.scratch_dir {
        Some(parent) => {
            std::fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
            let folder = tempfile::Builder::new().prefix("cirrus-bench-sql-").tempdir_in(parent);
            Some(folder.with_context(|| format!("creating a folder in {}", parent.display()))?)
        }
        None => None,
    };
    let path = scratch.as_ref().map(TempDir::path);
    tokio::select! {
        measured = measure_all(args, endpoints, path) => measured.map(|report| (report, scratch)),
        interrupted = tokio::signal::ctrl_c() => {
            interrupted?;
            anyhow::bail!("interrupted")
        }
    }
}

fn check(args: &SqlArgs) -> anyhow::Result<()> {
    anyhow::ensure!(args.seconds > 0.0, "--seconds must be above 0");
    for active in &args.active {
        let databases = args.databases;
        anyhow::ensure!(*active <= databases, "--active {active} is above --databases {databases}");
    }
    Ok(())
}

async fn measure_all(args: &SqlArgs, endpoints: &[String], scratch: Option<&Path>) -> anyhow::Result<SqlReport> {
    let mut own = match scratch.filter(|_| args.dev) {
        Some(scratch) => Some(OwnCluster::start(&scratch.join("cluster")).await?),
        None => None,
    };
    let endpoints = match &own {
        Some(own) => own.endpoints(),
        None => Target::cirrus(endpoints)?.endpoints,
    };
    let mut databases = connect(args, &endpoints).await?;
    let status = databases.client().status().await?;
    let (nodes, shards) = (status.nodes.len(), status.shards.len().saturating_sub(1));
    let mut report = SqlReport {
        nodes,
        shards,
        databases: args.databases,
        rows: args.rows,
        clients: args.clients,
        seconds: args.seconds,
        restarted: own.is_some(),
        systems: Vec::new(),
        endpoints: endpoints.clone(),
    };

    let mut cirrus = SystemReport::new("cirrus");
    let before = disk::of_cluster(databases.client()).await?;
    let filled = fill(&databases, "cirrus · filling", args.databases, args.clients).await?;
    cirrus.filled(filled, args.databases);
    if let Some(own) = &mut own {
        drop(databases);
        own.restart().await?;
        databases = connect(args, &endpoints).await?;
    }
    let after = disk::settled(databases.client(), SETTLE_BOUND).await?;
    cirrus.idle = idle_size(args, filled, before, after, replicas(&status));
    if let Some(idle) = &mut cirrus.idle {
        idle.uncompressed_bytes = Some(disk::stored_bytes_each(databases.client()).await?);
        if let Some(scratch) = scratch.filter(|_| own.is_some()) {
            let (log, snapshots) = disk::of_nodes(&scratch.join("cluster"))?;
            (idle.log_bytes, idle.snapshot_bytes) = (Some(log / nodes as u64), Some(snapshots / nodes as u64));
        }
    }
    measure_reads(args, &databases, &mut cirrus).await?;
    measure_writes(args, &databases, &mut cirrus).await?;
    report.systems.push(cirrus);
    drop(databases);
    if let Some(mut own) = own {
        own.stop().await?;
    }

    if let (Some(Peer::Sqlite), Some(scratch)) = (args.compare, scratch) {
        report.systems.extend(measure_plain(args, &scratch.join("sqlite"), shards).await?);
    }
    Ok(report)
}

async fn connect(args: &SqlArgs, endpoints: &[String]) -> anyhow::Result<CirrusDatabases> {
    let patience = Duration::from_secs_f64(args.connect_seconds);
    CirrusDatabases::new(CirrusDriver::connect(endpoints, args.connections, patience).await?, args.rows).await
}

/// Replicas of each data shard.
fn replicas(status: &cirrus_proto::v1::StatusResponse) -> usize {
    status.shards.iter().skip(1).map(|shard| shard.voters.len() + shard.learners.len()).max().unwrap_or(1).max(1)
}

/// What each of the databases added to each of its replicas' disks.
fn idle_size(
    args: &SqlArgs,
    filled: Filled,
    before: ClusterDisk,
    after: ClusterDisk,
    replicas: usize,
) -> Option<IdleSize> {
    // Of databases that were there before, nobody knows what they took.
    if filled.created < args.databases {
        return None;
    }
    let each = |bytes: u64| bytes as f64 / f64::from(args.databases) / replicas as f64;
    Some(IdleSize {
        disk_bytes: each(after.state_bytes.saturating_sub(before.state_bytes)),
        unflushed_memory_bytes: each(after.memory_bytes.saturating_sub(before.memory_bytes)),
        uncompressed_bytes: None,
        log_bytes: None,
        snapshot_bytes: None,
    })
}

async fn measure_reads<D: Databases>(args: &SqlArgs, databases: &D, report: &mut SystemReport) -> anyhow::Result<()> {
    let length = Duration::from_secs_f64(args.seconds);
    let title = format!("{} · first read of each database", report.system);
    let cold = read_each_once(databases, &title, args.databases, args.rows, length).await?;
    report.read_cold = Some(Reads::new(&cold));
    measure_open_reads(args, databases, report).await
}

async fn measure_open_reads<D: Databases>(
    args: &SqlArgs,
    databases: &D,
    report: &mut SystemReport,
) -> anyhow::Result<()> {
    let length = Duration::from_secs_f64(args.seconds);
    let title = format!("{} · reads of open databases", report.system);
    let open = read_open(databases, &title, args.databases, args.rows, length).await?;
    report.read_open = Some(Reads::new(&open));
    Ok(())
}

async fn measure_writes<D: Databases>(args: &SqlArgs, databases: &D, report: &mut SystemReport) -> anyhow::Result<()> {
    for &active in &args.active {
        let plan = WritePlan {
            active,
            rows: args.rows,
            clients: args.clients,
            warmup: Duration::from_secs_f64(args.warmup_seconds),
            length: Duration::from_secs_f64(args.seconds),
        };
        let title = format!("{} · writes in {active} databases", report.system);
        report.writes.push(Writing::new(active, &write(databases, &title, plan).await?));
    }
    Ok(())
}

/// Plain SQLite in files below `root`, with each kind of journal.
async fn measure_plain(args: &SqlArgs, root: &Path, shards: usize) -> anyhow::Result<[SystemReport; 2]> {
    let connections_max = SqlLimits::DEFAULT.open_databases * shards;
    let files = |connections_max, journal| PlainFiles::new(root, args.databases, args.rows, connections_max, journal);
    let synced = async || tokio::task::spawn_blocking(plain::sync).await.context("syncing the disk");

    let mut delete = SystemReport::new("sqlite");
    let unkept = files(0, Journal::Delete)?;
    let filled = fill(&unkept, "sqlite · filling", args.databases, args.clients).await?;
    synced().await?;
    delete.filled(filled, args.databases);
    let bytes = disk::of_directory(root, &|_| true)?;
    delete.idle = Some(IdleSize {
        disk_bytes: bytes as f64 / f64::from(args.databases),
        unflushed_memory_bytes: 0.0,
        uncompressed_bytes: None,
        log_bytes: None,
        snapshot_bytes: None,
    });
    let length = Duration::from_secs_f64(args.seconds);
    let title = "sqlite · first read of each database";
    delete.read_cold = Some(Reads::new(&read_each_once(&unkept, title, args.databases, args.rows, length).await?));
    let kept = files(connections_max, Journal::Delete)?;
    delete.connections_max = Some(kept.connections_max());
    measure_open_reads(args, &kept, &mut delete).await?;
    measure_writes(args, &kept, &mut delete).await?;
    drop(kept);

    let mut wal = SystemReport::new("sqlite wal");
    let _: Filled = fill(&files(0, Journal::Wal)?, "sqlite · write-ahead logs", args.databases, args.clients).await?;
    synced().await?;
    let kept = files(connections_max, Journal::Wal)?;
    wal.connections_max = Some(kept.connections_max());
    measure_open_reads(args, &kept, &mut wal).await?;
    measure_writes(args, &kept, &mut wal).await?;
    // To close them would move each log into its file, durably, and both are removed now.
    std::mem::forget(kept);
    Ok([delete, wal])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::arguments::{BenchArgs, BenchCommand};

    fn parse(line: &str) -> Result<SqlArgs, clap::Error> {
        #[derive(clap::Parser)]
        struct Program {
            #[command(flatten)]
            bench: BenchArgs,
        }
        let program =
            <Program as clap::Parser>::try_parse_from(["bench", "sql"].into_iter().chain(line.split_whitespace()))?;
        let BenchCommand::Sql(args) = program.bench.command else { panic!("another command") };
        Ok(args)
    }

    #[test]
    fn arguments_have_the_defaults_that_the_documentation_tells() {
        let args = parse("").unwrap();
        assert_eq!((args.databases, args.clients, &args.active[..]), (100_000, 64, &[100, 10_000, 100_000][..]));
        assert!(!args.dev && args.compare.is_none());
        check(&args).unwrap();
        let args = parse("--databases 500 --active 10,500 --compare sqlite --dev --scratch-dir /x").unwrap();
        assert_eq!((args.active, args.compare), (vec![10, 500], Some(Peer::Sqlite)));
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        for line in ["--dev", "--compare sqlite", "--databases 0", "--active 0", "--active 1,x", "--rows 0"] {
            assert!(parse(line).is_err(), "{line}");
        }
        let problem = check(&parse("--databases 500 --active 100,501").unwrap()).unwrap_err().to_string();
        assert_eq!(problem, "--active 501 is above --databases 500");
        assert!(check(&parse("--databases 5 --active 5 --seconds 0").unwrap()).is_err());
    }

    #[test]
    fn a_size_is_told_for_each_replica_and_only_of_databases_that_this_run_made() {
        let args = parse("--databases 1000 --active 1").unwrap();
        let (before, after) = (
            ClusterDisk { state_bytes: 5_000, memory_bytes: 0 },
            ClusterDisk { state_bytes: 6_005_000, memory_bytes: 3_000 },
        );
        let took = Duration::from_secs(1);
        let idle = idle_size(&args, Filled { took, created: 1000 }, before, after, 3).unwrap();
        assert_eq!((idle.disk_bytes, idle.unflushed_memory_bytes), (2000.0, 1.0));
        assert!(idle_size(&args, Filled { took, created: 999 }, before, after, 3).is_none());
    }
}
