//! The closed loop: clients that ask, wait, note and ask again, for a measured while.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::arguments::KvArgs;
use crate::driver::cirrus::CirrusDriver;
use crate::driver::{Answer, Driver, PipelinedSession, ServerTime, Session, perform};
use crate::format;
use crate::processor;
use crate::recorder::{OperationError, Recorder, Window};
use crate::workload::{KeySpace, Operation, RequestSource, ValuePool};

/// The work, the same for every target.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    operation: Operation,
    get_percent: u8,
    clients: usize,
    warmup: Duration,
    length: Duration,
    keys: KeySpace,
    values: ValuePool,
    /// How long to wait for the target to become ready.
    pub(crate) patience: Duration,
}

impl Plan {
    pub(crate) fn new(args: &KvArgs) -> anyhow::Result<Plan> {
        anyhow::ensure!(args.seconds > 0.0, "--seconds must be above 0");
        Ok(Plan {
            operation: args.operation,
            get_percent: args.get_percent,
            clients: args.clients,
            warmup: Duration::from_secs_f64(args.warmup_seconds),
            length: Duration::from_secs_f64(args.seconds),
            keys: KeySpace::new(args.operation, args.keys),
            values: ValuePool::new(args.value_bytes),
            patience: Duration::from_secs_f64(args.connect_seconds),
        })
    }

    fn source(&self, client: usize) -> RequestSource {
        RequestSource::new(self.operation, self.get_percent, self.keys, self.values.clone(), client)
    }
}

/// What a run found.
#[derive(Clone, Debug)]
pub(crate) struct Measurement {
    pub(crate) notes: Recorder,
    pub(crate) length: Duration,
    /// Processor time that this process used while it measured.
    pub(crate) processor_time: Option<Duration>,
    /// The same of the servers.
    pub(crate) server_time: Option<ServerTime>,
}

/// Clients with one request in flight each.
pub(crate) async fn run<D: Driver>(driver: &D, plan: &Plan) -> anyhow::Result<Measurement> {
    prepare(driver, plan).await?;
    let sessions = sessions(driver, plan.clients).await?;
    drive(driver, plan, sessions, ask_one_by_one).await
}

/// Clients with `in_flight` requests each, over streams.
pub(crate) async fn run_pipelined(driver: &CirrusDriver, plan: &Plan, in_flight: usize) -> anyhow::Result<Measurement> {
    prepare(driver, plan).await?;
    let sessions = (0..plan.clients).map(|client| driver.pipeline(client, in_flight)).collect();
    drive(driver, plan, sessions, move |session, work| ask_by_window(session, work, in_flight)).await
}

async fn prepare<D: Driver>(driver: &D, plan: &Plan) -> anyhow::Result<()> {
    driver.prepare(plan.operation).await.context("preparing the target")?;
    if plan.operation.reads_values() {
        store_all(driver, plan).await.context("storing the keys that will be read")?;
    }
    Ok(())
}

/// Connects this many at a time.
const CONNECTS_AT_ONCE: usize = 64;

async fn sessions<D: Driver>(driver: &D, count: usize) -> anyhow::Result<Vec<D::Session>> {
    futures::stream::iter(0..count)
        .map(|client| driver.session(client))
        .buffered(CONNECTS_AT_ONCE)
        .try_collect()
        .await
        .context("connecting the clients")
}

/// Enough for group commit to pay, whatever the number of clients to measure.
const STORING_SESSIONS: usize = 64;
/// A put that stores a key for later reads is tried this often: the target may still be settling.
const STORE_ATTEMPTS: u32 = 50;

async fn store_all<D: Driver>(driver: &D, plan: &Plan) -> anyhow::Result<()> {
    let progress = progress_line();
    progress.set_message(format!("storing {} keys", format::thousands(plan.keys.count() as f64)));
    let sessions = sessions(driver, STORING_SESSIONS).await?;
    let stores = sessions.into_iter().enumerate().map(|(number, mut session)| {
        let (mut source, key_count) = (plan.source(number), plan.keys.count());
        async move {
            for index in (number as u64..key_count).step_by(STORING_SESSIONS) {
                let (key, value) = source.put_of(index);
                let mut attempt = 1;
                while let Err(error) = session.put(key.clone(), value.clone()).await {
                    if attempt == STORE_ATTEMPTS {
                        anyhow::bail!("{}: {}", error.kind, error.message);
                    }
                    attempt += 1;
                    tokio::time::sleep(pause_after(&error).max(Duration::from_millis(50))).await;
                }
            }
            Ok(())
        }
    });
    let outcome = futures::future::try_join_all(stores).await.map(drop);
    progress.finish_and_clear();
    outcome
}

/// What one client needs.
struct Work {
    source: RequestSource,
    value_bytes: usize,
    window: Window,
    notes: Arc<Mutex<Recorder>>,
}

async fn ask_one_by_one<S: Session>(mut session: S, mut work: Work) {
    let mut began = Instant::now();
    while began < work.window.end {
        let outcome = perform(&mut session, work.source.next_request(), work.value_bytes).await;
        let ended = Instant::now();
        work.notes.lock().note(&work.window, began, ended, outcome.as_ref().copied());
        began = match outcome {
            Ok(()) => ended,
            Err(error) => {
                tokio::time::sleep(pause_after(&error)).await;
                Instant::now()
            }
        };
    }
}

async fn ask_by_window<P: PipelinedSession>(mut session: P, mut work: Work, in_flight: usize) {
    let mut began = Vec::with_capacity(in_flight);
    for id in 0..in_flight {
        began.push(Instant::now());
        session.submit(id, work.source.next_request());
    }
    let mut waiting = in_flight;
    let mut failed_in_a_row = 0;
    while waiting > 0 {
        let (id, outcome) = session.completion().await;
        let outcome = outcome.and_then(|answer: Answer| answer.check(work.value_bytes));
        let ended = Instant::now();
        work.notes.lock().note(&work.window, began[id], ended, outcome.as_ref().copied());
        if ended >= work.window.end {
            waiting -= 1;
            continue;
        }
        began[id] = ended;
        match outcome {
            Ok(()) => failed_in_a_row = 0,
            Err(error) => {
                // One refused request does not hold up its neighbours; a window of them does.
                failed_in_a_row += 1;
                if failed_in_a_row >= in_flight {
                    failed_in_a_row = 0;
                    tokio::time::sleep(pause_after(&error)).await;
                    began[id] = Instant::now();
                }
            }
        }
        session.submit(id, work.source.next_request());
    }
}

/// Keeps clients from hammering a target that refuses.
pub(crate) fn pause_after(error: &OperationError) -> Duration {
    error.retry_after.unwrap_or(Duration::from_millis(5)).min(Duration::from_secs(1))
}

/// How long clients may take, after the end, to get the answers that they wait for.
const GRACE: Duration = Duration::from_secs(5);

async fn drive<D, S, F, R>(driver: &D, plan: &Plan, sessions: Vec<S>, client: F) -> anyhow::Result<Measurement>
where
    D: Driver,
    F: Fn(S, Work) -> R,
    R: Future<Output = ()> + Send + 'static,
{
    let window = Window::after(plan.warmup, plan.length);
    let mut notes = Vec::with_capacity(sessions.len());
    let mut clients = Vec::with_capacity(sessions.len());
    for (number, session) in sessions.into_iter().enumerate() {
        let own = Arc::new(Mutex::new(Recorder::new()));
        notes.push(Arc::clone(&own));
        let (source, value_bytes) = (plan.source(number), plan.values.value_bytes());
        clients.push(tokio::spawn(client(session, Work { source, value_bytes, window, notes: own })));
    }
    let progress = progress_line();
    let title = format!("{} · {} clients", plan.operation.name(), plan.clients);
    watch(&progress, &format!("{title} · warming up"), &notes, window.start).await;
    let (processor_before, server_before) = (processor::time_used(), driver.processor_time().await);
    watch(&progress, &title, &notes, window.end).await;
    let processor_time = processor_before.and_then(|before| processor::time_used()?.checked_sub(before));
    let server_after = driver.processor_time().await;
    let server_time = server_after.zip(server_before).and_then(|(after, before)| after.since(before));
    progress.set_message(format!("{title} · waiting for the last answers"));
    let unanswered = finish(clients).await?;
    progress.finish_and_clear();

    let mut merged = Recorder::new();
    for own in &notes {
        merged.merge(&own.lock());
    }
    for _ in 0..unanswered {
        let message = format!("a client got no answer within {} s of the end", GRACE.as_secs());
        merged.note_error(&OperationError::new("NO_ANSWER", message));
    }
    Ok(Measurement { notes: merged, length: plan.length, processor_time, server_time })
}

/// Waits for the clients to end by themselves, and tells how many did not.
pub(crate) async fn finish(clients: Vec<JoinHandle<()>>) -> anyhow::Result<usize> {
    let deadline = tokio::time::Instant::now() + GRACE;
    let mut unanswered = 0;
    for mut client in clients {
        match tokio::time::timeout_at(deadline, &mut client).await {
            Ok(outcome) => outcome.context("a client of the load generator died")?,
            Err(_) => {
                client.abort();
                unanswered += 1;
            }
        }
    }
    Ok(unanswered)
}

const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// Shows the throughput of the last second until `end`.
pub(crate) async fn watch(progress: &ProgressBar, title: &str, notes: &[Arc<Mutex<Recorder>>], end: Instant) {
    let began = Instant::now();
    let total_s = end.saturating_duration_since(began).as_secs_f64();
    let mut samples = std::collections::VecDeque::from([(began, succeeded(notes))]);
    loop {
        let next = (Instant::now() + PROGRESS_INTERVAL).min(end);
        tokio::time::sleep_until(next.into()).await;
        let now = Instant::now();
        if now >= end {
            return;
        }
        if progress.is_hidden() {
            continue;
        }
        let done = succeeded(notes);
        let (since, before) = samples[0];
        let rate = (done - before) as f64 / (now - since).as_secs_f64().max(1e-9);
        let errors: u64 = notes.iter().map(|own| own.lock().error_count()).sum();
        progress.set_message(format!(
            "{title} · {:.0} of {total_s:.0} s · {} ops/s · {errors} errors",
            (now - began).as_secs_f64(),
            format::thousands(rate),
        ));
        progress.tick();
        samples.push_back((now, done));
        if samples.len() > 4 {
            samples.pop_front();
        }
    }
}

fn succeeded(notes: &[Arc<Mutex<Recorder>>]) -> u64 {
    notes.iter().map(|own| own.lock().succeeded()).sum()
}

/// On standard error, and only where that is a terminal.
pub(crate) fn progress_line() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {msg}").expect("the constant template is valid");
    ProgressBar::new_spinner().with_style(style)
}
