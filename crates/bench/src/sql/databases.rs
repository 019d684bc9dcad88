//! What clients do to databases, whatever system holds them: one loop, so that all do the same work, timed alike.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use parking_lot::Mutex;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use tokio::task::JoinHandle;

use super::address_book::{Write, Writes};
use crate::driver::ServerTime;
use crate::format::thousands;
use crate::load::{finish, pause_after, progress_line, watch};
use crate::processor;
use crate::recorder::{OperationError, Recorder, Window};

/// A system that holds databases, numbered from 0.
pub(crate) trait Databases: Clone + Send + Sync + 'static {
    /// Runs a client: as a task where it waits for a server, on a thread of its own where it works itself.
    fn spawn(&self, client: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()>;

    /// Creates the database with its rows; whether it was not there before.
    fn fill(&self, database: u32) -> impl Future<Output = Result<bool, OperationError>> + Send;

    /// Reads one row, and checks that it is there.
    fn read(&self, database: u32, id: u32) -> impl Future<Output = Result<(), OperationError>> + Send;

    /// Changes one row, durably.
    fn write(&self, database: u32, write: Write) -> impl Future<Output = Result<(), OperationError>> + Send;

    /// What its servers have used so far; `None` where it has none.
    fn processor_time(&self) -> impl Future<Output = Option<ServerTime>> + Send {
        async { None }
    }
}

/// What filling found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filled {
    pub(crate) took: Duration,
    /// Databases that were not there before.
    pub(crate) created: u32,
}

/// A request that fills a database is tried this often: the system may still be settling.
const FILL_ATTEMPTS: u32 = 50;

/// Creates databases 0 to `count`, `clients` at a time.
pub(crate) async fn fill<D: Databases>(
    databases: &D,
    title: &str,
    count: u32,
    clients: usize,
) -> anyhow::Result<Filled> {
    let (next, created, done) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU64::new(0)));
    let failure = Arc::new(Mutex::new(None));
    let began = Instant::now();
    let workers: Vec<_> = (0..clients)
        .map(|_| {
            let (own, next, created) = (databases.clone(), next.clone(), created.clone());
            let (done, failure) = (done.clone(), failure.clone());
            databases.spawn(async move {
                loop {
                    let database = next.fetch_add(1, Relaxed);
                    if database >= count || failure.lock().is_some() {
                        return;
                    }
                    let mut attempt = 1;
                    let outcome = loop {
                        match own.fill(database).await {
                            Err(error) if attempt < FILL_ATTEMPTS => {
                                attempt += 1;
                                tokio::time::sleep(pause_after(&error).max(Duration::from_millis(50))).await;
                            }
                            outcome => break outcome,
                        }
                    };
                    match outcome {
                        Ok(new) => created.fetch_add(new.into(), Relaxed),
                        Err(error) => {
                            failure.lock().get_or_insert(error);
                            return;
                        }
                    };
                    done.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    let progress = progress_line();
    let shown = async {
        loop {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let done = done.load(Relaxed) as f64;
            let rate = done / began.elapsed().as_secs_f64();
            progress.set_message(format!(
                "{title} · {} of {} databases · {}/s",
                thousands(done),
                thousands(count.into()),
                thousands(rate)
            ));
            progress.tick();
        }
    };
    tokio::select! {
        ended = futures::future::try_join_all(workers) => ended.map(drop).context("a client of the load generator died")?,
        () = shown => {}
    }
    progress.finish_and_clear();
    if let Some(error) = failure.lock().take() {
        anyhow::bail!("{title}: {}: {}", error.kind, error.message);
    }
    Ok(Filled { took: began.elapsed(), created: created.load(Relaxed) })
}

/// Databases that are read again and again to see what an open one takes.
const OPEN_DATABASES: u32 = 100;
/// How often each of them is read before: a system may keep several of one open, such as for each of its threads.
const OPENING_READS: u32 = 16;

/// Reads databases in random order, each once, one at a time: none of them is open, where nobody used them before.
pub(crate) async fn read_each_once<D: Databases>(
    databases: &D,
    title: &str,
    count: u32,
    rows: u32,
    length: Duration,
) -> anyhow::Result<Recorder> {
    let mut order: Vec<u32> = (0..count).collect();
    order.shuffle(&mut StdRng::seed_from_u64(1));
    read(databases, title, order.into_iter(), rows, length).await
}

/// Reads a few databases over and over, one at a time: all of them are open.
pub(crate) async fn read_open<D: Databases>(
    databases: &D,
    title: &str,
    count: u32,
    rows: u32,
    length: Duration,
) -> anyhow::Result<Recorder> {
    let few = OPEN_DATABASES.min(count);
    for _ in 0..OPENING_READS {
        let notes = read(databases, title, 0..few, rows, length).await?;
        anyhow::ensure!(notes.error_count() == 0, "{title}: {:?}", notes.errors());
    }
    read(databases, title, (0..few).cycle(), rows, length).await
}

async fn read<D: Databases>(
    databases: &D,
    title: &str,
    order: impl Iterator<Item = u32> + Send + 'static,
    rows: u32,
    length: Duration,
) -> anyhow::Result<Recorder> {
    let window = Window::after(Duration::ZERO, length);
    let notes = Arc::new(Mutex::new(Recorder::new()));
    let (own, noted) = (databases.clone(), notes.clone());
    let mut client = databases.spawn(async move {
        for database in order {
            let began = Instant::now();
            if began >= window.end {
                return;
            }
            let outcome = own.read(database, 1 + database % rows).await;
            noted.lock().note(&window, began, Instant::now(), outcome.as_ref().copied());
            if let Err(error) = outcome {
                tokio::time::sleep(pause_after(&error)).await;
            }
        }
    });
    let progress = progress_line();
    let all = [notes.clone()];
    tokio::select! {
        ended = &mut client => ended.context("a client of the load generator died")?,
        // Once the time is over, the last answer is waited for.
        () = watch(&progress, title, &all, window.end) => {
            let unanswered = finish(vec![client]).await?;
            anyhow::ensure!(unanswered == 0, "{title}: a read got no answer in time");
        }
    }
    progress.finish_and_clear();
    let notes = notes.lock().clone();
    Ok(notes)
}

/// What writing found.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) notes: Recorder,
    pub(crate) length: Duration,
    pub(crate) processor_time: Option<Duration>,
    pub(crate) server_time: Option<ServerTime>,
}

/// How the databases are written to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WritePlan {
    /// The first so many databases.
    pub(crate) active: u32,
    pub(crate) rows: u32,
    pub(crate) clients: usize,
    pub(crate) warmup: Duration,
    pub(crate) length: Duration,
}

/// Clients that each change one row at a time, over and over.
pub(crate) async fn write<D: Databases>(databases: &D, title: &str, plan: WritePlan) -> anyhow::Result<Written> {
    let window = Window::after(plan.warmup, plan.length);
    let notes: Vec<_> = (0..plan.clients).map(|_| Arc::new(Mutex::new(Recorder::new()))).collect();
    let clients = notes.iter().enumerate().map(|(number, notes)| {
        let (own, notes) = (databases.clone(), notes.clone());
        databases.spawn(async move {
            let mut writes = Writes::new(plan.active, plan.rows, number);
            let mut began = Instant::now();
            while began < window.end {
                let (database, write) = writes.next();
                let outcome = own.write(database, write).await;
                let ended = Instant::now();
                notes.lock().note(&window, began, ended, outcome.as_ref().copied());
                if let Err(error) = outcome {
                    tokio::time::sleep(pause_after(&error)).await;
                }
                began = Instant::now();
            }
        })
    });
    let clients = clients.collect();
    let progress = progress_line();
    watch(&progress, &format!("{title} · warming up"), &notes, window.start).await;
    let (own_before, servers_before) = (processor::time_used(), databases.processor_time().await);
    watch(&progress, title, &notes, window.end).await;
    let processor_time = own_before.and_then(|before| processor::time_used()?.checked_sub(before));
    let servers_after = databases.processor_time().await;
    let server_time = servers_after.zip(servers_before).and_then(|(after, before)| after.since(before));
    let unanswered = finish(clients).await?;
    progress.finish_and_clear();
    let mut merged = Recorder::new();
    for own in &notes {
        merged.merge(&own.lock());
    }
    for _ in 0..unanswered {
        merged.note_error(&OperationError::new("NO_ANSWER", "a client got no answer in time"));
    }
    Ok(Written { notes: merged, length: plan.length, processor_time, server_time })
}
