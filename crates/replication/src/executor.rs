//! The shard executor: one task that evaluates the shard's commands in order and proposes their effects.
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
//! effects in flight, and only a commit shows that this node still led when it looked. One that says nothing of
//! what the command saw, as that of a killed call, leaves at once.
//!
//! When leadership is lost, the overlay is dropped and every waiting client told. When one proposal is
//! rejected or its outcome unknown, those evaluated on top of it are void: apply skips them, since their
//! sequence no longer follows (see `state_machine`). The executor waits until all in flight have ended, then
//! begins again from what is applied.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use cirrus_engine::{Overlay, ShardHead};
use cirrus_proto::internal::v1 as pb;
use cirrus_proto::{Failure, Reason};
use cirrus_storage::ShardState;
use openraft::errors::ClientWriteError;
use prost::Message as _;

use crate::evaluation::{Batch, Evaluation, Evaluator, Leadership, PendingReply, Turn};
use crate::mailbox::{Envelope, Executed, Inbox, Mailbox, Message, Settlement};
use crate::state_machine::read_fence;
use crate::state_view::StateView;
use crate::types::{ApplyOutcome, Completion, Group, ProposalBytes, WriteResult};

/// Proposals under way at once.
pub(crate) const IN_FLIGHT_MAX: usize = 2;

/// Everything one executor needs.
pub(crate) struct Executor<E> {
    pub(crate) shard_id: u32,
    pub(crate) group: Group,
    pub(crate) state: Arc<ShardState>,
    pub(crate) evaluation: Evaluation<E>,
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

impl<E: Evaluator> Executor<E> {
    /// Runs until it is told to stop.
    pub(crate) async fn run(mut self) {
        let mut waiting: VecDeque<Envelope> = VecDeque::new();
        let mut leadership: Option<Leadership> = None;
        while let Some(message) = self.inbox.wait().await {
            // Everything else that is ready runs first, with one look at the sockets: commands that arrive
            // together are evaluated together.
            tokio::task::yield_now().await;
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
            match leadership.take() {
                None => self.turn_away(&mut waiting, &not_leader(self.shard_id)),
                Some(leading) => (leadership, waiting) = self.propose_waiting(leading, waiting).await,
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

    /// Proposes what waits, as far as the bound on proposals under way lets it.
    async fn propose_waiting(
        &mut self,
        mut leading: Leadership,
        mut waiting: VecDeque<Envelope>,
    ) -> (Option<Leadership>, VecDeque<Envelope>) {
        while !waiting.is_empty() && !leading.broken && leading.in_flight < IN_FLIGHT_MAX {
            let turn = Turn { leading, waiting };
            let (turn, batch) = match self.evaluation.evaluate(turn).await {
                Ok(evaluated) => evaluated,
                Err(failure) => {
                    tracing::error!(shard = self.shard_id, %failure, "cannot lead any more");
                    return (None, VecDeque::new());
                }
            };
            Turn { leading, waiting } = turn;
            if batch.replies.is_empty() {
                continue;
            }
            self.meters.batch_commands.record(batch.replies.len() as f64);
            self.meters.evaluate_seconds.record(batch.evaluated_in.as_secs_f64());
            self.propose(&mut leading, batch).await;
        }
        (Some(leading), waiting)
    }

    async fn propose(&mut self, leading: &mut Leadership, batch: Batch) {
        let (term, sequence) = (leading.term, leading.sequence + 1);
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
        let _ = write.await;
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
