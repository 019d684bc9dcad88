//! Running schedules: for each schedule whose key's shard this node leads, the runner proposes its ticks as they
//! become due.
//!
//! The runner decides when to look, and nothing else. Whether a tick runs is decided where it is evaluated, from the
//! shard's own record (`evaluator/scheduled.rs`). So a turn that is proposed twice, or by a node that was deposed, or
//! too early, runs nothing twice.
//!
//! A turn runs one tick: a schedule that catches up lets the shard's other commands in between.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cirrus_engine::schedules::{self, Next};
use cirrus_proto::internal::v1::command::Kind;
use cirrus_proto::internal::v1::{Command, RunSchedule, ScheduleTurn, reply};
use cirrus_proto::v1::Schedule;
use cirrus_proto::{Advice, Failure};
use cirrus_replication::{Shard, head_now};
use futures::StreamExt as _;
use tokio::task::JoinSet;

use crate::catalog::Committed;
use crate::evaluator::CATALOG_SHARD;
use crate::node::ClusterNode;
use crate::schedule_catalog;
use crate::schedule_metrics::ScheduleMetrics;

/// How often to look for new schedules, and for shards that this node leads now.
const POLL: Duration = Duration::from_millis(100);
/// How long a schedule is left alone at most: clocks may be set.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long a schedule is left alone after a turn that failed.
const BACKOFF: Duration = Duration::from_millis(200);
/// Turns of one shard under way at once.
const TURNS_PER_SHARD: usize = 16;
const COMMAND_BOUND: Duration = Duration::from_secs(5);
/// How long a shard keeps what it knows of a schedule that is gone, so that whoever deletes it can be told.
const KEEP_FORGOTTEN: Duration = Duration::from_secs(5);

/// Runs until the node stops.
pub(crate) async fn run(node: Arc<ClusterNode>) {
    Runner::new(node).run().await;
}

struct Runner {
    node: Arc<ClusterNode>,
    known: Known,
    /// When to look at a schedule again, by id.
    looks: HashMap<u64, Instant>,
    /// Rounds under way, one a shard.
    rounds: JoinSet<Round>,
    busy: HashSet<u32>,
    /// What was looked through for schedules that are gone, by shard.
    swept: HashMap<u32, Swept>,
    metrics: ScheduleMetrics,
}

/// The catalog's schedules, as this node's replica had them last.
#[derive(Default)]
struct Known {
    /// The replica's next index then.
    applied_next: u64,
    /// Grows with each change.
    edition: u64,
    /// By the shard of their keys.
    schedules: BTreeMap<u32, Vec<Arc<Schedule>>>,
}

impl Known {
    fn in_shard(&self, shard_id: u32) -> &[Arc<Schedule>] {
        self.schedules.get(&shard_id).map_or(&[], Vec::as_slice)
    }
}

/// Since when a shard is as it is, and whether it was swept since.
struct Swept {
    term: u64,
    edition: u64,
    since: Instant,
    done: bool,
}

/// What a round of one shard came to.
struct Round {
    shard_id: u32,
    turns: Vec<(Arc<Schedule>, Turn)>,
    /// Whether the shard was looked through for schedules that are gone.
    swept: Option<bool>,
}

struct Turn {
    look_again: Instant,
    done: Option<ScheduleTurn>,
}

impl Runner {
    fn new(node: Arc<ClusterNode>) -> Self {
        Runner {
            node,
            known: Known::default(),
            looks: HashMap::new(),
            rounds: JoinSet::new(),
            busy: HashSet::new(),
            swept: HashMap::new(),
            metrics: ScheduleMetrics::default(),
        }
    }

    async fn run(mut self) {
        loop {
            if let Err(failure) = self.refresh() {
                tracing::error!(%failure, "the catalog's schedules are unreadable");
            }
            let wake = self.begin_rounds();
            tokio::select! {
                Some(ended) = self.rounds.join_next() => match ended {
                    Ok(round) => self.end_round(round),
                    Err(error) => {
                        // Which shard's it was is not known; to look at one too often does no harm.
                        tracing::error!(%error, "a round of schedules panicked");
                        self.busy.clear();
                    }
                },
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }

    /// Reads the schedules again where the catalog has changed.
    fn refresh(&mut self) -> Result<(), Failure> {
        let Some(catalog) = self.node.replication.shard(CATALOG_SHARD) else { return Ok(()) };
        // Read first: what is applied meanwhile is looked at the next time.
        let applied_next = catalog.applied_next();
        if applied_next == self.known.applied_next || self.node.membership.get().is_none() {
            return Ok(());
        }
        let mut schedules: BTreeMap<u32, Vec<Arc<Schedule>>> = BTreeMap::new();
        for schedule in schedule_catalog::all(&Committed(&catalog.view()))? {
            schedules.entry(self.node.shard_of(&schedule.key)?).or_default().push(Arc::new(schedule));
        }
        self.known.applied_next = applied_next;
        if schedules != self.known.schedules {
            self.known.schedules = schedules;
            self.known.edition += 1;
            let ids: HashSet<u64> = self.known.schedules.values().flatten().map(|schedule| schedule.id).collect();
            self.looks.retain(|id, _| ids.contains(id));
            self.metrics.retain(|id| ids.contains(&id));
        }
        Ok(())
    }

    /// Begins a round for each shard that this node leads and where it has something to do. When to come back.
    fn begin_rounds(&mut self) -> Instant {
        let now = Instant::now();
        let mut wake = now + POLL;
        let leading = self.node.replication.shards().into_values();
        for shard in leading.filter(|shard| shard.id() != CATALOG_SHARD && shard.leads()) {
            if self.busy.contains(&shard.id()) {
                continue;
            }
            let mut due = Vec::new();
            for schedule in self.known.in_shard(shard.id()) {
                match self.looks.get(&schedule.id) {
                    Some(look) if *look > now => wake = wake.min(*look),
                    _ => due.push(schedule.clone()),
                }
            }
            let there = self.is_sweep_due(&shard, now).then(|| {
                let there = self.known.in_shard(shard.id()).iter();
                there.map(|schedule| schedule.id).collect()
            });
            if !due.is_empty() || there.is_some() {
                self.busy.insert(shard.id());
                self.rounds.spawn(round(shard, due, there));
            }
        }
        wake
    }

    fn end_round(&mut self, round: Round) {
        self.busy.remove(&round.shard_id);
        for (schedule, turn) in round.turns {
            self.looks.insert(schedule.id, turn.look_again);
            if let Some(done) = turn.done {
                self.metrics.record(&schedule, &done);
            }
        }
        if let (Some(done), Some(swept)) = (round.swept, self.swept.get_mut(&round.shard_id)) {
            swept.done = done;
            swept.since = Instant::now();
        }
    }

    /// Whether to look for schedules that are gone: some time after a change of schedules or of the leader, once.
    fn is_sweep_due(&mut self, shard: &Shard, now: Instant) -> bool {
        let (term, edition) = (shard.leader().borrow().term, self.known.edition);
        let anew = || Swept { term, edition, since: now, done: false };
        let swept = self.swept.entry(shard.id()).or_insert_with(anew);
        if (swept.term, swept.edition) != (term, edition) {
            *swept = anew();
        }
        !swept.done && now - swept.since >= KEEP_FORGOTTEN
    }
}

/// One turn of each schedule that may be due; then, given the ids of those that are there, an end to the others.
async fn round(shard: Arc<Shard>, due: Vec<Arc<Schedule>>, there: Option<HashSet<u64>>) -> Round {
    let turns = futures::stream::iter(due).map(|schedule| {
        let shard = shard.clone();
        async move {
            let turn = match take_turn(&shard, &schedule).await {
                Ok(turn) => turn,
                Err(failure) => {
                    report(&shard, &schedule.name, &failure);
                    Turn { look_again: Instant::now() + BACKOFF, done: None }
                }
            };
            (schedule, turn)
        }
    });
    let turns = turns.buffer_unordered(TURNS_PER_SHARD).collect().await;
    let swept = match there {
        None => None,
        Some(there) => Some(forget_gone(&shard, &there).await),
    };
    Round { shard_id: shard.id(), turns, swept }
}

/// Runs the tick that is due, if one is by what is applied here.
async fn take_turn(shard: &Shard, schedule: &Schedule) -> Result<Turn, Failure> {
    let mut done = None;
    if let Next::Run(_) = next(shard, schedule)?.0 {
        done = Some(propose(shard, &schedule.name, false).await?);
    }
    let (next, now_ms) = next(shard, schedule)?;
    let wait = match next {
        Next::Run(_) => Duration::ZERO,
        Next::Wait(tick) => Duration::from_millis(tick.due_at_ms.saturating_sub(now_ms)).min(LOOK_AGAIN),
    };
    Ok(Turn { look_again: Instant::now() + wait, done })
}

/// What the schedule does next, and the shard's time.
fn next(shard: &Shard, schedule: &Schedule) -> Result<(Next, u64), Failure> {
    let view = shard.view();
    let head = head_now(&view)?;
    let progress = schedules::progress(&view, schedule)?;
    Ok((schedules::next(schedule, progress.as_ref(), head.clock_ms), head.clock_ms))
}

async fn propose(shard: &Shard, name: &str, forget: bool) -> Result<ScheduleTurn, Failure> {
    let kind = Kind::RunSchedule(RunSchedule { name: name.to_owned(), catalog_index: 0, forget });
    let executed = shard.execute(Command { kind: Some(kind) }, Instant::now() + COMMAND_BOUND).await?;
    match executed.reply.kind {
        Some(reply::Kind::ScheduleTurn(turn)) => Ok(turn),
        _ => Err(Failure::internal("a turn of a schedule answered with something else")),
    }
}

/// Has the shard forget the schedules that it knows and that are not there any more; whether all are forgotten.
/// Usually none is left: whoever deletes a schedule has its shard forget it.
async fn forget_gone(shard: &Shard, there: &HashSet<u64>) -> bool {
    let gone = match schedules::recorded(&shard.view()) {
        Ok(recorded) => recorded.into_iter().filter(|(_, id)| !there.contains(id)),
        Err(failure) => {
            report(shard, "", &failure);
            return false;
        }
    };
    for (name, _) in gone {
        if let Err(failure) = propose(shard, &name, true).await {
            report(shard, &name, &failure);
            return false;
        }
    }
    true
}

fn report(shard: &Shard, schedule: &str, failure: &Failure) {
    match failure.advice() {
        Advice::Report => tracing::error!(shard = shard.id(), schedule, %failure, "a turn of a schedule failed"),
        // Leadership moved, or the shard is busy: the next turn comes soon.
        _ => tracing::debug!(shard = shard.id(), schedule, %failure, "a turn of a schedule is put off"),
    }
}
