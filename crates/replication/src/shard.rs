//! One replica of a shard on this node: its group, its state, its executor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cirrus_proto::internal::v1::Command;
use cirrus_proto::limits::Limits;
use cirrus_proto::{Failure, Reason};
use cirrus_storage::{NodeLog, ShardLog, ShardState};
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::Fatal;
use tokio::sync::{oneshot, watch};

use crate::completions::Completions;
use crate::convert::Node;
use crate::evaluation::{Evaluation, Evaluator};
use crate::executor::{Executor, Meters, outcome_unknown};
use crate::lease::confirm_lease;
use crate::links::Links;
use crate::log::LogStore;
use crate::mailbox::{CommandResult, Envelope, Mailbox, Message};
use crate::network::NetworkFactory;
use crate::read_index::{LedShard, ReadIndex};
use crate::state_hash::ApplyStops;
use crate::state_machine::StateMachine;
use crate::state_view::StateView;
use crate::timing::Timing;
use crate::types::Group;

/// A replica of one shard.
pub struct Shard {
    id: u32,
    node_id: u64,
    group: Group,
    state: Arc<ShardState>,
    mailbox: Mailbox,
    log: ShardLog,
    reads: Arc<ReadIndex>,
    applied_next: Arc<AtomicU64>,
    apply_stops: Arc<ApplyStops>,
    leader: watch::Receiver<LeaderView>,
    stopping: AtomicBool,
    executor: parking_lot::Mutex<Option<tokio::task::JoinHandle<()>>>,
}

/// Who leads the shard, as this replica knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderView {
    /// The term that this replica has seen.
    pub term: u64,
    /// The leader and where it is reached; `None` where none is known.
    pub leader: Option<(u64, Node)>,
}

/// What a replica reports of itself.
#[derive(Clone, Debug)]
pub struct ShardReport {
    /// "leader", "follower", "learner" or "candidate".
    pub role: &'static str,
    /// The newest term seen.
    pub term: u64,
    /// The leader's node id, where known.
    pub leader: Option<u64>,
    /// Members that vote.
    pub voters: BTreeSet<u64>,
    /// Members that do not.
    pub learners: BTreeSet<u64>,
    /// Where members are reached.
    pub nodes: BTreeMap<u64, Node>,
    /// Index of the last entry in the log.
    pub last_log_index: u64,
    /// Index of the last entry in the state.
    pub applied_index: u64,
    /// On the leader: how far each other member's log matches.
    pub matched: BTreeMap<u64, u64>,
}

/// What all replicas of a node share.
pub(crate) struct ShardContext {
    pub(crate) node_id: u64,
    pub(crate) log: Arc<NodeLog>,
    pub(crate) links: Arc<Links>,
    pub(crate) timing: Timing,
    pub(crate) limits: Limits,
    pub(crate) reads: Arc<ReadIndex>,
    pub(crate) completions: Completions,
}

impl Shard {
    /// Starts a replica over its opened state.
    pub(crate) async fn start(
        context: &ShardContext,
        shard_id: u32,
        state: Arc<ShardState>,
        snapshots: PathBuf,
        evaluator: Box<dyn Evaluator>,
    ) -> Result<Arc<Shard>, Failure> {
        std::fs::create_dir_all(&snapshots)
            .map_err(|error| Failure::internal(format!("{}: {error}", snapshots.display())))?;
        let applied_next = Arc::new(AtomicU64::new(0));
        let apply_stops = Arc::new(ApplyStops::default());
        let state_machine =
            StateMachine::open(shard_id, state.clone(), snapshots, applied_next.clone(), apply_stops.clone())
                .map_err(|error| Failure::internal(format!("shard {shard_id}: {error}")))?;
        let log = context.log.shard(shard_id);
        if let Some(purged) = log.state().last_purged
            && state.applied().log_id.is_none_or(|applied| applied.index < purged.index)
        {
            let text = format!("shard {shard_id}: entries up to {} are in neither the log nor the state", purged.index);
            return Err(Failure::internal(text));
        }
        let log_store = LogStore::new(log.clone(), state.clone(), context.completions.clone());
        let config =
            context.timing.raft_config(shard_id).map_err(|error| Failure::invalid_field("replication", error))?;
        let network = NetworkFactory { shard_id, links: context.links.clone() };
        let group = Group::new(context.node_id, config, network, log_store, state_machine)
            .await
            .map_err(|fatal| Failure::internal(format!("shard {shard_id} does not start: {fatal}")))?;
        let (mailbox, inbox) = Mailbox::new(context.limits.mailbox_commands);
        let executor = Executor {
            shard_id,
            group: group.clone(),
            state: state.clone(),
            evaluation: Evaluation::new(shard_id, evaluator, state.clone(), context.limits, inbox.places()),
            mailbox: mailbox.clone(),
            inbox,
            meters: Meters::new(shard_id),
        };
        let (leader_sender, leader) = watch::channel(LeaderView::default());
        let links = context.links.clone();
        tokio::spawn(follow_leadership(context.node_id, group.clone(), mailbox.clone(), links, leader_sender));
        Ok(Arc::new(Shard {
            id: shard_id,
            node_id: context.node_id,
            group,
            state,
            mailbox,
            log,
            reads: context.reads.clone(),
            applied_next,
            apply_stops,
            leader,
            stopping: AtomicBool::new(false),
            executor: parking_lot::Mutex::new(Some(tokio::spawn(executor.run()))),
        }))
    }

    /// The shard's id.
    pub fn id(&self) -> u32 {
        self.id
    }

    pub(crate) fn group(&self) -> &Group {
        &self.group
    }

    /// The shard's state, for reads that a barrier has vouched for, or that may be stale.
    pub fn state(&self) -> &Arc<ShardState> {
        &self.state
    }

    /// The newest state, as the engine reads it. Each read, a scan as well, sees one moment.
    pub fn view(&self) -> StateView<'_> {
        StateView(&self.state)
    }

    pub(crate) fn apply_stops(&self) -> &ApplyStops {
        &self.apply_stops
    }

    /// The last applied log index plus one; 0 where nothing was applied.
    pub fn applied_next(&self) -> u64 {
        self.applied_next.load(Ordering::Acquire)
    }

    /// Who leads, and news of it.
    pub fn leader(&self) -> watch::Receiver<LeaderView> {
        self.leader.clone()
    }

    /// Whether this replica leads, as far as it knows.
    pub fn leads(&self) -> bool {
        self.leader.borrow().leader.as_ref().is_some_and(|(id, _)| *id == self.node_id)
    }

    /// Commands that wait for the executor.
    pub fn mailbox_depth(&self) -> usize {
        self.mailbox.waiting()
    }

    /// Queues a command at once; commands of one caller are evaluated in the order of their calls to this.
    ///
    /// # Errors
    /// NOT_LEADER or NO_LEADER where this replica does not lead, MAILBOX_FULL past the bound.
    pub fn submit(&self, command: impl Into<Arc<Command>>, deadline: Instant) -> Result<Submitted, Failure> {
        if !self.leads() {
            return Err(self.elsewhere());
        }
        let (reply_to, reply) = oneshot::channel();
        let claimed = Arc::new(AtomicBool::new(false));
        let (command, span) = (command.into(), tracing::Span::current());
        self.mailbox.submit(Envelope { command, deadline, reply_to, span, claimed: claimed.clone() })?;
        Ok(Submitted { shard_id: self.id, reply, claimed, deadline })
    }

    /// Runs a command on this replica, which must lead, and waits until its effects are applied.
    ///
    /// # Errors
    /// Those of [`Shard::submit`] and of the command; DEADLINE_EXCEEDED where it was never evaluated,
    /// OUTCOME_UNKNOWN where it may have been committed.
    pub async fn execute(&self, command: impl Into<Arc<Command>>, deadline: Instant) -> CommandResult {
        let result = self.submit(command, deadline)?.outcome().await;
        result.map_err(|failure| if failure.reason == Reason::NotLeader { self.elsewhere() } else { failure })
    }

    /// Returns once reads of [`Shard::view`] are linearizable.
    ///
    /// # Errors
    /// NOT_LEADER, NO_LEADER (no quorum), MAILBOX_FULL, DEADLINE_EXCEEDED.
    pub async fn read_barrier(&self, deadline: Instant) -> Result<(), Failure> {
        self.bounded_read(deadline, self.reads.barrier(self.id)).await
    }

    /// Returns once the leader's lease vouches for reads. Cheaper than [`Shard::read_barrier`]; it trusts
    /// clocks to run at the same rate.
    ///
    /// # Errors
    /// As [`Shard::read_barrier`].
    pub async fn lease_barrier(&self, deadline: Instant) -> Result<(), Failure> {
        let confirmed = confirm_lease(self.id, &self.group, &self.applied_next);
        self.bounded_read(deadline, confirmed).await
    }

    async fn bounded_read(
        &self,
        deadline: Instant,
        barrier: impl Future<Output = Result<(), Failure>>,
    ) -> Result<(), Failure> {
        if !self.leads() {
            return Err(self.elsewhere());
        }
        match tokio::time::timeout_at(deadline.into(), barrier).await {
            Ok(Err(failure)) if failure.reason == Reason::NotLeader => Err(self.elsewhere()),
            Ok(result) => result,
            Err(_) => Err(Failure::new(
                Reason::DeadlineExceeded,
                format!("the leader of shard {} did not reach a quorum before the deadline", self.id),
            )),
        }
    }

    /// The term that this replica leads, with everything up to its own first entry applied, and whose votes it
    /// takes to show that it still does.
    pub(crate) fn led(&self) -> Option<LedShard> {
        let term = {
            let view = self.leader.borrow();
            view.leader.as_ref().filter(|(id, _)| *id == self.node_id).map(|_| view.term)?
        };
        let server = self.group.server_metrics();
        let voters = server.borrow_watched().membership_config.membership().get_joint_config().clone();
        Some(LedShard { term, voters })
    }

    /// Whether the newest vote of this replica, durable or on its way, is for `node_id` in `term`.
    pub(crate) fn holds_to(&self, node_id: u64, term: u64) -> bool {
        self.log.vote().is_some_and(|vote| vote.term == term && vote.node_id == node_id)
    }

    /// Where to go instead: NOT_LEADER with the leader's address, or NO_LEADER.
    pub fn elsewhere(&self) -> Failure {
        match &self.leader.borrow().leader {
            Some((id, node)) if *id != self.node_id => {
                Failure::new(Reason::NotLeader, format!("shard {} is led by node {id} at {}", self.id, node.address))
                    .with("leader", &node.address)
                    .with("leader_node_id", id)
            }
            _ => Failure::new(Reason::NoLeader, format!("shard {} has no leader at the moment", self.id))
                .retry_after(Duration::from_millis(50)),
        }
    }

    /// Waits until this replica has applied `index`.
    ///
    /// # Errors
    /// DEADLINE_EXCEEDED.
    pub async fn wait_applied(&self, index: u64, deadline: Instant) -> Result<(), Failure> {
        if self.applied_next() > index {
            return Ok(());
        }
        let bound = deadline.saturating_duration_since(Instant::now());
        self.group.wait(Some(bound)).applied_index_at_least(Some(index), "catch up").await.map_err(|error| {
            Failure::new(Reason::DeadlineExceeded, format!("shard {} has not applied entry {index}: {error}", self.id))
        })?;
        Ok(())
    }

    /// What this replica knows of its group.
    pub fn report(&self) -> ShardReport {
        let metrics = self.group.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        ShardReport {
            role: match metrics.state {
                ServerState::Leader => "leader",
                ServerState::Follower => "follower",
                ServerState::Learner => "learner",
                _ => "candidate",
            },
            term: metrics.current_term,
            leader: metrics.current_leader,
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            nodes: membership.nodes().map(|(id, node)| (*id, node.clone())).collect(),
            last_log_index: metrics.last_log_index.unwrap_or(0),
            applied_index: metrics.last_applied.map_or(0, |applied| applied.index),
            matched: metrics
                .replication
                .into_iter()
                .flatten()
                .filter_map(|(id, matched)| Some((id, matched?.index)))
                .collect(),
        }
    }

    /// Waits until the group or its executor ends, and tells why; `None` where it was stopped.
    pub(crate) async fn failed(&self) -> Option<String> {
        let mut server = self.group.server_metrics();
        // The core's end closes the channel, a panic as well.
        let core_ended = async { while server.changed().await.is_ok() {} };
        let executor_ended = self.mailbox.closed();
        let executor_alone = tokio::select! {
            () = core_ended => false,
            () = executor_ended => true,
        };
        if self.stopping.load(Ordering::Acquire) {
            return None;
        }
        if executor_alone {
            return Some("its executor panicked".to_owned());
        }
        match self.group.with_raft_state(|_| ()).await {
            Err(Fatal::Stopped) => None,
            Err(fatal) => Some(fatal.to_string()),
            Ok(()) => Some("its core fell silent".to_owned()),
        }
    }

    pub(crate) async fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.mailbox.tell(Message::Stop);
        let executor = self.executor.lock().take();
        if let Some(executor) = executor
            && let Err(error) = executor.await
        {
            tracing::error!(shard = self.id, %error, "the executor had panicked");
        }
        if let Err(error) = self.group.shutdown().await {
            tracing::error!(shard = self.id, %error, "the group did not stop cleanly");
        }
    }
}

/// A command that the executor has, or will evaluate.
pub struct Submitted {
    shard_id: u32,
    reply: oneshot::Receiver<CommandResult>,
    claimed: Arc<AtomicBool>,
    deadline: Instant,
}

impl Submitted {
    /// Waits for the reply, until the deadline.
    ///
    /// # Errors
    /// As [`Shard::execute`].
    pub async fn outcome(self) -> CommandResult {
        match tokio::time::timeout_at(self.deadline.into(), self.reply).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(outcome_unknown(self.shard_id)),
            Err(_) if self.claimed.swap(true, Ordering::AcqRel) => Err(Failure::new(
                Reason::OutcomeUnknown,
                format!("shard {} did not commit the request before its deadline; it may yet do so", self.shard_id),
            )),
            Err(_) => Err(Failure::new(
                Reason::DeadlineExceeded,
                format!("the deadline passed while the request waited for shard {}", self.shard_id),
            )),
        }
    }
}

/// Tells the executor when this replica may evaluate, and everybody else who leads.
async fn follow_leadership(
    node_id: u64,
    group: Group,
    mailbox: Mailbox,
    links: Arc<Links>,
    leader: watch::Sender<LeaderView>,
) {
    let mut server = group.server_metrics();
    let mut data = group.data_metrics();
    let mut leading: Option<u64> = None;
    let mut told = false;
    loop {
        let (now_leading, view) = {
            let metrics = server.borrow_watched();
            // A follower has its links up before it needs them: an election whose first votes wait for a
            // connection is lost, and costs another timeout.
            for (id, node) in metrics.membership_config.membership().nodes().filter(|(id, _)| **id != node_id) {
                links.to(*id, &node.address);
            }
            let term = metrics.vote.leader_id().term;
            let leads = metrics.state == ServerState::Leader && metrics.current_leader == Some(node_id);
            let known = metrics
                .current_leader
                .and_then(|id| Some((id, metrics.membership_config.membership().get_node(&id)?.clone())));
            (leads.then_some(term), LeaderView { term, leader: known })
        };
        if now_leading != leading {
            if let Some(term) = leading {
                mailbox.tell(Message::Follow { term });
            }
            (leading, told) = (now_leading, false);
        }
        // A new leader evaluates nothing until it has applied everything up to its own first entry.
        if let Some(term) = leading
            && !told
            && data.borrow_watched().last_applied.is_some_and(|applied| applied.leader_id.term == term)
        {
            mailbox.tell(Message::Lead { term });
            told = true;
        }
        // Requests are let in once the executor takes them.
        let announced = if leading.is_some() && !told { LeaderView { leader: None, ..view } } else { view };
        leader.send_if_modified(|current| {
            let changed = *current != announced;
            *current = announced;
            changed
        });
        let stopped = if leading.is_some() && !told {
            tokio::select! { changed = server.changed() => changed.is_err(), changed = data.changed() => changed.is_err() }
        } else {
            server.changed().await.is_err()
        };
        if stopped {
            return;
        }
    }
}
