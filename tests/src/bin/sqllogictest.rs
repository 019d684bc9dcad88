//! `scripts/sqllogictest`: folders of SQL logic tests on a cluster and on plain SQLite side by side.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cirrus_client::{Client, ClientConfig};
use cirrus_proto::v1::SqlDatabase;
use cirrus_tests::cluster::{ClusterOptions, TestCluster};
use cirrus_tests::sql_logic::{CirrusDatabase, Note, Report, find_files, run_file};
use clap::Parser;
use tokio::runtime::Runtime;

/// What the started cluster grants beyond the defaults: these files are to be answered, and not to be bounded. Of a request's
/// time, what a client may wait for at most.
const CONFIG: &str = "
[limits]
deadline_default_ms = 60000
write_set_bytes = 8388608

[sql]
cpu_ms = 50000
value_bytes = 8388608
memory_bytes = 1073741824
database_bytes = 1073741824
reply_rows = 10000000
reply_bytes = 8388608
";

/// How often a line tells how far it has come.
const PROGRESS: Duration = Duration::from_secs(10);

/// Runs SQL logic tests on a Cirrus cluster over gRPC and on plain SQLite side by side, and tells what differs.
///
/// Exit status: 0 where no record differs, 1 where one does, 2 where something could not be run.
#[derive(Debug, Parser)]
#[command(name = "sqllogictest")]
struct Arguments {
    /// Folders, of whose files all that are named *.test are run, and single files.
    #[arg(required = true, value_name = "DIR|FILE")]
    paths: Vec<PathBuf>,
    /// Nodes of a running cluster, with its own limits. Without it, one of three nodes is started for this run, with generous ones.
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',')]
    endpoints: Vec<String>,
    /// Files at a time.
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u64).range(1..=256))]
    jobs: u64,
    /// Differences that are shown in full.
    #[arg(long, value_name = "N", default_value_t = 20)]
    show: usize,
    /// Leave the files' databases on the running cluster.
    #[arg(long, requires = "endpoints")]
    keep: bool,
}

struct Job {
    path: PathBuf,
    name: String,
    bytes: u64,
}

type Done = (Job, Duration, Result<Report>);

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            say(&mut io::stderr(), &format!("error: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn say(out: &mut impl io::Write, line: &str) {
    // Whoever reads may have gone, which the exit status survives.
    let _ = writeln!(out, "{line}");
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let jobs = jobs(&arguments.paths)?;
    ensure!(!jobs.is_empty(), "there is no file *.test in {:?}", arguments.paths);
    let runtime = Runtime::new()?;
    let cluster = match arguments.endpoints.is_empty() {
        true => Some(runtime.block_on(start_cluster())?),
        false => None,
    };
    let endpoints = cluster.as_ref().map_or_else(|| arguments.endpoints.clone(), TestCluster::endpoints);
    let config = ClientConfig {
        timeout: Duration::from_secs(60),
        attempt_timeout: Duration::from_secs(60),
        ..ClientConfig::new(endpoints)
    };
    let client = runtime.block_on(Client::connect(config))?;

    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    runtime.spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stopped.store(true, Ordering::Relaxed);
        }
    });
    let started = Instant::now();
    let done = run_all(arguments, jobs, &runtime, &client, &stop);
    let code = tell(arguments, done, started.elapsed());
    drop(cluster);
    Ok(if stop.load(Ordering::Relaxed) { ExitCode::from(130) } else { code })
}

async fn start_cluster() -> Result<TestCluster> {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let options = ClusterOptions {
        config: CONFIG.to_owned(),
        shards: 8,
        worker_threads: Some((processors / 3).max(1)),
        ..ClusterOptions::default()
    };
    say(&mut io::stderr(), "Starting three nodes");
    TestCluster::start(options).await
}

/// The files, the largest last, which is taken first. Names are told below the folder that was given.
fn jobs(paths: &[PathBuf]) -> Result<Vec<Job>> {
    let named = |path: PathBuf| {
        let below = paths.iter().filter(|folder| folder.is_dir()).find_map(|folder| path.strip_prefix(folder).ok());
        let name = below.unwrap_or(&path).display().to_string();
        let bytes = std::fs::metadata(&path).with_context(|| path.display().to_string())?.len();
        Ok(Job { path, name, bytes })
    };
    let mut jobs = find_files(paths)?.into_iter().map(named).collect::<Result<Vec<Job>>>()?;
    jobs.sort_by_key(|job| job.bytes);
    Ok(jobs)
}

fn run_all(arguments: &Arguments, jobs: Vec<Job>, runtime: &Runtime, client: &Client, stop: &AtomicBool) -> Vec<Done> {
    let total = jobs.len();
    let run_id: u64 = rand::random();
    let queue = Mutex::new(jobs);
    let records = AtomicU64::new(0);
    let (sender, receiver) = mpsc::channel::<Done>();
    let work = |sender: mpsc::Sender<Done>| {
        loop {
            let (job, left) = {
                let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
                match queue.pop() {
                    Some(job) if !stop.load(Ordering::Relaxed) => (job, queue.len()),
                    _ => return,
                }
            };
            let user = format!("sqllogictest-{run_id:016x}-{left}").into_bytes();
            let database = SqlDatabase { dbfile: 0, user: user.into(), dbname: "sqllogictest".to_owned() };
            let database = CirrusDatabase::new(runtime.handle().clone(), client.clone(), database);
            let started = Instant::now();
            let report = run_file(&job.path, &job.name, database, arguments.keep, &records, stop);
            if sender.send((job, started.elapsed(), report)).is_err() {
                return;
            }
        }
    };
    let mut done = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.min(total as u64) {
            let sender = sender.clone();
            scope.spawn(|| work(sender));
        }
        drop(sender);
        let mut told = Instant::now();
        loop {
            match receiver.recv_timeout(PROGRESS.saturating_sub(told.elapsed())) {
                Ok(one) => done.push(one),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let (records, different) = (records.load(Ordering::Relaxed), total_different(&done));
                    let line = format!("{} of {total} files, {records} records, {different} different", done.len());
                    say(&mut io::stderr(), &line);
                    told = Instant::now();
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
    });
    done.sort_by(|(one, ..), (other, ..)| one.name.cmp(&other.name));
    done
}

fn total_different(done: &[Done]) -> u64 {
    done.iter().filter_map(|(.., report)| report.as_ref().ok()).map(|report| report.different.count).sum()
}

/// The table, what differs, and the totals.
fn tell(arguments: &Arguments, done: Vec<Done>, took: Duration) -> ExitCode {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let width = done.iter().map(|(job, ..)| job.name.len()).max().unwrap_or(0).max("FILE".len());
    say(&mut out, &format!("{:width$}  RECORDS  DIFFERENT  NOT AS THE FILE SAYS  NOT COMPARED  SECONDS", "FILE"));
    let mut all = Totals::default();
    for (job, took, report) in done {
        let name = &job.name;
        match report {
            Ok(report) => {
                let line = format!(
                    "{name:width$}  {:7}  {:9}  {:20}  {:12}  {:7.1}",
                    report.records,
                    report.different.count,
                    report.unexpected.count,
                    report.not_compared.count,
                    took.as_secs_f64()
                );
                say(&mut out, &line);
                all.add(report);
            }
            Err(error) => {
                say(&mut out, &format!("{name:width$}  FAILED: {error:#}"));
                all.failed += 1;
            }
        }
    }
    let titles = ["Different:", "Alike, and not as the file says:", "Not compared:"];
    // Last, and so first to be seen, what matters most.
    for ((title, notes), shown) in titles.iter().zip(&all.notes).zip([arguments.show, 5, 5]).rev() {
        show(&mut out, title, notes, shown);
    }
    let Totals { files, records, counts: [different, unexpected, not_compared], failed, .. } = all;
    let total = format!(
        "\n{files} files, {records} records: {different} different, {unexpected} alike and not as the file says, \
         {not_compared} not compared; {failed} files failed; {:.0} s",
        took.as_secs_f64()
    );
    say(&mut out, &total);
    match (different, failed) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}

/// One difference leads to more in the same file, so the files share what is shown.
fn show(out: &mut impl io::Write, title: &str, notes: &[Vec<Note>], shown: usize) {
    if notes.is_empty() || shown == 0 {
        return;
    }
    say(out, &format!("\n{title}"));
    let share = shown.div_ceil(notes.len());
    let of_files = notes.iter().flat_map(|of_file| of_file.iter().take(share));
    of_files.take(shown).for_each(|note| say(out, &note.to_string()));
    if notes.len() > shown || notes.iter().any(|of_file| of_file.len() > share) {
        say(out, "and others");
    }
}

#[derive(Default)]
struct Totals {
    files: u64,
    failed: u64,
    records: u64,
    /// Different, unexpected, not compared.
    counts: [u64; 3],
    /// The same, of each file that has any.
    notes: [Vec<Vec<Note>>; 3],
}

impl Totals {
    fn add(&mut self, report: Report) {
        let Report { records, different, unexpected, not_compared } = report;
        self.files += 1;
        self.records += records;
        for (count, notes) in self.counts.iter_mut().zip([&different, &unexpected, &not_compared]) {
            *count += notes.count;
        }
        for (all, notes) in self.notes.iter_mut().zip([different, unexpected, not_compared]) {
            all.extend((!notes.first.is_empty()).then_some(notes.first));
        }
    }
}
