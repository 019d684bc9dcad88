//! The shard executor: one thread that evaluates the shard's commands in order and proposes their effects.
//!
//! ```text
//! mailbox ─► evaluate each waiting command against state ⊕ overlay ─► one proposal a batch ─► Raft
//!    ▲                                                                                         │
//!    └───────────── settled: overlay entry dropped ◄── applied, replies left ◄────────────────┘
//! ```
//!
//! It does not wait for a commit before it evaluates the next batch: effects in flight sit in the overlay.
//! Up to [`IN_FLIGHT_MAX`] proposals are under way; while they are, commands gather, so batches grow with
//! load and a lone command leaves at once.
//!
//! Every reply leaves after a commit, that of a command without effects as well: what it saw may rest on
//! effects in flight, and only a commit shows that this node still led when it looked.
//!
//! When leadership is lost, the overlay is dropped and every waiting client told. When one proposal is
//! rejected or its outcome unknown, those evaluated on top of it are void: apply skips them, since their
//! sequence no longer follows (see `state_machine`). The executor waits until all in flight have ended, then
//! begins again from what is applied.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cirrus_engine::{Overlay, ShardHead, Transaction};
use cirrus_proto::internal::v1 as pb;
use cirrus_proto::internal::v1::{Command, Reply};
use cirrus_proto::limits::Limits;
use cirrus_proto::{Failure, Reason};
use cirrus_storage::ShardState;
use openraft::errors::ClientWriteError;
use prost::Message as _;
use tokio::sync::oneshot;

use crate::clock::wall_clock;
use crate::mailbox::{CommandResult, Envelope, Executed, Inbox, Mailbox, Message, Settlement};
use crate::state_machine::read_fence;
use crate::state_view::StateView;
use crate::types::{ApplyOutcome, Completion, Group, ProposalBytes, WriteResult};

/// Proposals under way at once.
pub(crate) const IN_FLIGHT_MAX: usize = 2;
/// Commands in one proposal.
const BATCH_COMMANDS_MAX: usize = 512;
/// Bytes of effects after which a batch takes no further command.
const BATCH_BYTES_TARGET: usize = 1024 * 1024;

/// What runs commands. It owns whatever lives next to the data (Luau VMs, SQLite connections).
pub trait Evaluator: Send + 'static {
    /// Runs one command. On an error the executor discards the transaction: no effect remains.
    /// Returns the reply, and which procedure made the effects if one did.
    fn evaluate(&mut self, command: &Command, transaction: &mut Transaction<'_>) -> Result<Evaluated, Failure>;
}

impl Evaluator for Box<dyn Evaluator> {
    fn evaluate(&mut self, command: &Command, transaction: &mut Transaction<'_>) -> Result<Evaluated, Failure> {
        (**self).evaluate(command, transaction)
    }
}

/// A command's outcome before it is proposed.
#[derive(Debug)]
pub struct Evaluated {
    /// What the client gets, once committed.
    pub reply: Reply,
    /// Which procedure and version ran, for the audit trail.
    pub procedure: Option<(String, u64)>,
}

/// Everything one executor needs.
pub(crate) struct Executor<E> {
    pub(crate) shard_id: u32,
    pub(crate) group: Group,
    pub(crate) state: Arc<ShardState>,
    pub(crate) limits: Limits,
    pub(crate) evaluator: E,
    pub(crate) mailbox: Mailbox,
    pub(crate) inbox: Inbox,
    pub(crate) meters: Meters,
}

/// What an executor counts.
pub(crate) struct Meters {
    pub(crate) batch_commands: metrics::Histogram,
    pub(crate) evaluate_seconds: metrics::Histogram,
    pub(crate) commit_seconds: metrics::Histogram,
}

impl Meters {
    pub(crate) fn new(shard_id: u32) -> Self {
        let shard = shard_id.to_string();
        Meters {
            batch_commands: metrics::histogram!("cirrus_batch_commands", "shard" => shard.clone()),
            evaluate_seconds: metrics::histogram!("cirrus_evaluate_seconds", "shard" => shard.clone()),
            commit_seconds: metrics::histogram!("cirrus_commit_seconds", "shard" => shard),
        }
    }
}

/// A term that this replica leads, from the executor's side.
struct Leadership {
    term: u64,
    head: ShardHead,
    overlay: Overlay,
    /// Of the last proposal handed to Raft.
    sequence: u64,
    /// Proposals that have not ended yet.
    in_flight: usize,
    /// A proposal did not take effect: nothing is evaluated until all in flight have ended.
    broken: bool,
}

/// Commands evaluated for one proposal.
struct Batch {
    effects: Vec<pb::Effect>,
    provenance: Vec<pb::Provenance>,
    replies: Vec<PendingReply>,
    bytes: usize,
}

/// A reply that leaves once its batch is applied.
struct PendingReply {
    reply_to: oneshot::Sender<CommandResult>,
    result: Result<Reply, Failure>,
    span: tracing::Span,
}

impl<E: Evaluator> Executor<E> {
    /// Runs until it is told to stop.
    pub(crate) fn run(mut self) {
        let mut waiting: VecDeque<Envelope> = VecDeque::new();
        let mut leadership: Option<Leadership> = None;
        while let Some(message) = self.inbox.wait() {
            let mut next = Some(message);
            while let Some(message) = next {
                match message {
                    Message::Command(envelope) => waiting.push_back(*envelope),
                    Message::Lead { term } => leadership = self.begin(term),
                    Message::Follow { term } if leadership.as_ref().is_some_and(|leading| leading.term == term) => {
                        leadership = None;
                    }
                    Message::Follow { .. } => {}
                    Message::Settled { term, sequence, outcome } => {
                        leadership = match leadership {
                            Some(leading) if leading.term == term => self.settle(leading, sequence, outcome),
                            other => other,
                        };
                    }
                    Message::Stop => {
                        let failure = Failure::new(Reason::ShuttingDown, "the node is stopping");
                        return self.turn_away(&mut waiting, &failure);
                    }
                }
                next = self.inbox.poll();
            }
            match &mut leadership {
                None => self.turn_away(&mut waiting, &not_leader(self.shard_id)),
                Some(leading) => {
                    while !waiting.is_empty() && !leading.broken && leading.in_flight < IN_FLIGHT_MAX {
                        self.propose_batch(leading, &mut waiting);
                    }
                }
            }
        }
    }

    /// Begins to lead, or begins again, from what is applied.
    fn begin(&self, term: u64) -> Option<Leadership> {
        let loaded = ShardHead::load(&StateView(&self.state)).and_then(|head| {
            let fence = read_fence(&self.state).map_err(Failure::internal)?;
            Ok((head, if fence.term == term { fence.sequence } else { 0 }))
        });
        match loaded {
            Ok((head, sequence)) => {
                Some(Leadership { term, head, overlay: Overlay::new(), sequence, in_flight: 0, broken: false })
            }
            Err(failure) => {
                tracing::error!(shard = self.shard_id, term, %failure, "cannot lead: the state is unreadable");
                None
            }
        }
    }

    fn settle(&self, mut leading: Leadership, sequence: u64, outcome: Settlement) -> Option<Leadership> {
        leading.in_flight -= 1;
        match outcome {
            Settlement::Applied => leading.overlay.settle(sequence),
            Settlement::Rejected | Settlement::Unknown => leading.broken = true,
        }
        if leading.broken && leading.in_flight == 0 { self.begin(leading.term) } else { Some(leading) }
    }

    fn turn_away(&self, waiting: &mut VecDeque<Envelope>, failure: &Failure) {
        self.inbox.release(waiting.len());
        for envelope in waiting.drain(..) {
            envelope.answer(Err(failure.clone()));
        }
    }

    fn propose_batch(&mut self, leading: &mut Leadership, waiting: &mut VecDeque<Envelope>) {
        let started = Instant::now();
        let sequence = leading.sequence + 1;
        let batch = self.evaluate_batch(leading, waiting, sequence);
        if batch.replies.is_empty() {
            return;
        }
        self.meters.batch_commands.record(batch.replies.len() as f64);
        self.meters.evaluate_seconds.record(started.elapsed().as_secs_f64());
        self.propose(leading, batch, sequence);
    }

    fn evaluate_batch(&mut self, leading: &mut Leadership, waiting: &mut VecDeque<Envelope>, sequence: u64) -> Batch {
        let mut batch = Batch { effects: Vec::new(), provenance: Vec::new(), replies: Vec::new(), bytes: 0 };
        let now = Instant::now();
        leading.head.advance_to(wall_clock());
        while batch.replies.len() < BATCH_COMMANDS_MAX && batch.bytes < BATCH_BYTES_TARGET {
            let Some(envelope) = waiting.pop_front() else { break };
            self.inbox.release(1);
            if !envelope.claim() {
                // Its client gave up while it waited, and was told so.
                continue;
            }
            if envelope.deadline <= now {
                let text = "the deadline passed while the request waited for the shard";
                envelope.answer(Err(Failure::new(Reason::DeadlineExceeded, text)));
                continue;
            }
            let result = self.evaluate_one(leading, &envelope, sequence, &mut batch);
            batch.replies.push(PendingReply { reply_to: envelope.reply_to, result, span: envelope.span });
        }
        if !batch.effects.is_empty() {
            batch.effects.push(leading.head.effect());
        }
        batch
    }

    fn evaluate_one(
        &mut self,
        leading: &mut Leadership,
        envelope: &Envelope,
        sequence: u64,
        batch: &mut Batch,
    ) -> Result<Reply, Failure> {
        let _evaluating = envelope.span.enter();
        tracing::debug!("evaluate");
        let base = StateView(&self.state);
        let view = leading.overlay.over(&base);
        let mut transaction = Transaction::new(&view, leading.head, &self.limits);
        let evaluated = self.evaluator.evaluate(&envelope.command, &mut transaction)?;
        let (effects, head) = transaction.finish();
        leading.head = head;
        if let Some((procedure, library_version)) = evaluated.procedure {
            let effect_count = effects.len() as u32;
            batch.provenance.push(pb::Provenance { procedure, library_version, effect_count });
        }
        leading.overlay.push(sequence, &effects);
        batch.bytes += effects.iter().map(effect_bytes).sum::<usize>();
        batch.effects.extend(effects);
        Ok(evaluated.reply)
    }

    fn propose(&self, leading: &mut Leadership, batch: Batch, sequence: u64) {
        let term = leading.term;
        let proposal = pb::Proposal { term, sequence, effects: batch.effects, provenance: batch.provenance };
        for pending in &batch.replies {
            tracing::debug!(parent: &pending.span, sequence, "propose");
        }
        let completion = self.completion(term, sequence, batch.replies);
        leading.sequence = sequence;
        leading.in_flight += 1;
        let write = self
            .group
            .write(ProposalBytes(Bytes::from(proposal.encode_to_vec())))
            .with_leader(term)
            .responder(completion);
        // Sending only waits while openraft's queue is full. A group that stopped drops the completion,
        // which answers the clients and tells this executor.
        let _ = futures::executor::block_on(write.into_future());
    }

    /// Lets the batch's replies leave, on the thread that applied it, then tells the executor.
    fn completion(&self, term: u64, sequence: u64, replies: Vec<PendingReply>) -> Completion<WriteResult> {
        let (mailbox, shard_id) = (self.mailbox.clone(), self.shard_id);
        let (commit_seconds, proposed) = (self.meters.commit_seconds.clone(), Instant::now());
        Completion::new(move |result| {
            let (outcome, index) = ending(&result);
            commit_seconds.record(proposed.elapsed().as_secs_f64());
            for pending in replies {
                tracing::debug!(parent: &pending.span, ?outcome, index, "applied");
                let result = match outcome {
                    Settlement::Applied => pending.result.map(|reply| Executed { reply, applied_index: index }),
                    Settlement::Rejected => Err(not_leader(shard_id)),
                    Settlement::Unknown => Err(outcome_unknown(shard_id)),
                };
                // A client that gave up no longer waits.
                let _ = pending.reply_to.send(result);
            }
            mailbox.tell(Message::Settled { term, sequence, outcome });
        })
    }
}

/// How a proposal ended, and at which index if it was applied.
fn ending(result: &Option<WriteResult>) -> (Settlement, u64) {
    match result {
        Some(Ok(response)) => match response.data {
            ApplyOutcome::Applied => (Settlement::Applied, response.log_id.index),
            ApplyOutcome::Skipped => (Settlement::Rejected, 0),
        },
        // Never appended.
        Some(Err(ClientWriteError::ForwardToLeader(_))) => (Settlement::Rejected, 0),
        Some(Err(_)) | None => (Settlement::Unknown, 0),
    }
}

pub(crate) fn not_leader(shard_id: u32) -> Failure {
    Failure::new(Reason::NotLeader, format!("this node does not lead shard {shard_id}"))
}

pub(crate) fn outcome_unknown(shard_id: u32) -> Failure {
    let text = format!("the leader of shard {shard_id} changed before the request was known to be committed");
    Failure::new(Reason::OutcomeUnknown, text)
}

fn effect_bytes(effect: &pb::Effect) -> usize {
    effect.key.len() + if let Some(pb::effect::Change::Put(value)) = &effect.change { value.len() } else { 0 }
}
