//! Evaluating: waiting commands to one batch of effects, against the state under what is in flight.
//!
//! Key-value commands are evaluated where the executor runs. A batch with a command that may run for long
//! moves to a thread of the shard's own, with everything that evaluating needs, and comes back when it is done:
//! the runtime's threads also carry heartbeats, and must not wait for what users wrote. Moving costs more than most
//! such commands do, so one that is known to be quick stays; it is given up where it proves not to be, and evaluated
//! anew on the thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cirrus_engine::{Overlay, ShardHead, Transaction};
use cirrus_proto::internal::v1 as pb;
use cirrus_proto::internal::v1::{Command, Reply};
use cirrus_proto::limits::Limits;
use cirrus_proto::{Failure, Reason};
use cirrus_storage::ShardState;
use tokio::sync::oneshot;

use crate::clock::wall_clock;
use crate::mailbox::{CommandResult, Envelope, Places};
use crate::state_view::StateView;

/// Commands in one proposal.
const BATCH_COMMANDS_MAX: usize = 512;
/// Bytes of effects after which a batch takes no further command.
const BATCH_BYTES_TARGET: usize = 1024 * 1024;
/// How long a batch may keep one of the runtime's threads before it takes no further command.
const SHARED_TIME_TARGET: Duration = Duration::from_millis(2);

/// What runs commands. It owns whatever lives next to the data (Luau VMs, SQLite connections).
pub trait Evaluator: Send + 'static {
    /// Runs one command. Where it stops, the executor discards the transaction: no effect remains.
    /// Returns the reply, and which procedure made the effects if one did.
    fn evaluate(
        &mut self,
        command: &Command,
        transaction: &mut Transaction<'_>,
        place: Place,
    ) -> Result<Evaluated, Stopped>;

    /// Whether the command may take the processor for long, as what users wrote may, so that it should have a thread
    /// of its own.
    fn may_run_long(&self, command: &Command) -> bool;
}

impl Evaluator for Box<dyn Evaluator> {
    fn evaluate(
        &mut self,
        command: &Command,
        transaction: &mut Transaction<'_>,
        place: Place,
    ) -> Result<Evaluated, Stopped> {
        (**self).evaluate(command, transaction, place)
    }

    fn may_run_long(&self, command: &Command) -> bool {
        (**self).may_run_long(command)
    }
}

/// Where a command is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On one of the runtime's threads. A command that takes longer than a few milliseconds there must be
    /// [`Stopped::TooLong`].
    Shared,
    /// On the shard's own thread.
    Own,
}

/// Why a command was not evaluated to its end.
#[derive(Clone, Debug, PartialEq)]
pub enum Stopped {
    /// It failed.
    Failed(Failure),
    /// It takes too long for [`Place::Shared`], and is to be evaluated on the shard's own thread.
    /// [`may_run_long`](Evaluator::may_run_long) says so from now on.
    TooLong,
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Stopped::Failed(failure)
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

/// A term that this replica leads, from the executor's side.
pub(crate) struct Leadership {
    pub(crate) term: u64,
    pub(crate) head: ShardHead,
    pub(crate) overlay: Overlay,
    /// Of the last proposal handed to Raft.
    pub(crate) sequence: u64,
    /// Proposals that have not ended yet.
    pub(crate) in_flight: usize,
    /// A proposal did not take effect: nothing is evaluated until all in flight have ended.
    pub(crate) broken: bool,
}

/// Commands evaluated for one proposal.
pub(crate) struct Batch {
    pub(crate) effects: Vec<pb::Effect>,
    pub(crate) provenance: Vec<pb::Provenance>,
    pub(crate) replies: Vec<PendingReply>,
    bytes: usize,
    pub(crate) evaluated_in: Duration,
}

/// A reply that leaves once its batch is applied.
pub(crate) struct PendingReply {
    pub(crate) reply_to: oneshot::Sender<CommandResult>,
    pub(crate) result: Result<Reply, Failure>,
    pub(crate) span: tracing::Span,
}

/// What a batch is evaluated from. It travels to the thread that evaluates, and back.
pub(crate) struct Turn {
    pub(crate) leading: Leadership,
    pub(crate) waiting: VecDeque<Envelope>,
}

/// Evaluates a shard's batches, one at a time.
pub(crate) struct Evaluation<E> {
    shard_id: u32,
    /// Away while the shard's thread has it, and for good if that thread panicked.
    here: Option<Box<Bench<E>>>,
    /// Started by the first batch that may run long; ends when this is dropped.
    thread: Option<mpsc::Sender<Errand<E>>>,
}

/// What evaluating needs beside the turn.
struct Bench<E> {
    evaluator: E,
    state: Arc<ShardState>,
    limits: Limits,
    places: Places,
}

/// A turn for the shard's thread.
struct Errand<E> {
    bench: Box<Bench<E>>,
    turn: Turn,
    done: oneshot::Sender<(Box<Bench<E>>, Turn, Batch)>,
}

impl<E: Evaluator> Evaluation<E> {
    pub(crate) fn new(shard_id: u32, evaluator: E, state: Arc<ShardState>, limits: Limits, places: Places) -> Self {
        Evaluation { shard_id, here: Some(Box::new(Bench { evaluator, state, limits, places })), thread: None }
    }

    /// Evaluates waiting commands for the next proposal, in order. Their effects are in the overlay then.
    ///
    /// # Errors
    /// INTERNAL where the shard's thread could not be started, or has panicked.
    pub(crate) async fn evaluate(&mut self, mut turn: Turn) -> Result<(Turn, Batch), Failure> {
        let lost = |shard_id| Failure::internal(format!("the thread that evaluates for shard {shard_id} panicked"));
        let mut bench = self.here.take().ok_or_else(|| lost(self.shard_id))?;
        let may_run_long = |envelope: &Envelope| bench.evaluator.may_run_long(&envelope.command);
        if !turn.waiting.iter().take(BATCH_COMMANDS_MAX).any(may_run_long) {
            let batch = bench.batch(&mut turn, Place::Shared);
            self.here = Some(bench);
            return Ok((turn, batch));
        }
        let (done, evaluated) = oneshot::channel();
        let thread = match &self.thread {
            Some(thread) => thread,
            None => self.thread.insert(start_thread(self.shard_id)?),
        };
        thread.send(Errand { bench, turn, done }).map_err(|_| lost(self.shard_id))?;
        let (bench, turn, batch) = evaluated.await.map_err(|_| lost(self.shard_id))?;
        self.here = Some(bench);
        Ok((turn, batch))
    }
}

fn start_thread<E: Evaluator>(shard_id: u32) -> Result<mpsc::Sender<Errand<E>>, Failure> {
    let (sender, errands) = mpsc::channel::<Errand<E>>();
    std::thread::Builder::new()
        .name(format!("shard-{shard_id}"))
        .spawn(move || {
            for Errand { mut bench, mut turn, done } in errands {
                let batch = bench.batch(&mut turn, Place::Own);
                // An executor that is gone was stopped; dropping the batch tells its clients.
                let _ = done.send((bench, turn, batch));
            }
        })
        .map_err(|error| Failure::internal(format!("no thread for shard {shard_id}: {error}")))?;
    Ok(sender)
}

impl<E: Evaluator> Bench<E> {
    fn batch(&mut self, turn: &mut Turn, place: Place) -> Batch {
        let started = Instant::now();
        let Turn { leading, waiting } = turn;
        let mut batch = Batch::new();
        leading.head.advance_to(wall_clock());
        let catalog_index = leading.head.catalog_index;
        while batch.replies.len() < BATCH_COMMANDS_MAX && batch.bytes < BATCH_BYTES_TARGET {
            if place == Place::Shared && started.elapsed() > SHARED_TIME_TARGET {
                break;
            }
            let Some(envelope) = waiting.pop_front() else { break };
            self.places.release(1);
            if !envelope.claim() {
                // Its client gave up while it waited, and was told so.
                continue;
            }
            if envelope.deadline <= started {
                let text = "the deadline passed while the request waited for the shard";
                envelope.answer(Err(Failure::new(Reason::DeadlineExceeded, text)));
                continue;
            }
            let result = match self.command(leading, &envelope, &mut batch, place) {
                Ok(reply) => Ok(reply),
                Err(Stopped::TooLong) if place == Place::Shared => {
                    envelope.put_off();
                    self.places.take_back();
                    waiting.push_front(envelope);
                    break;
                }
                Err(Stopped::TooLong) => Err(Failure::internal("a command gave up its own thread")),
                Err(Stopped::Failed(failure)) if is_final(failure.reason) => {
                    envelope.answer(Err(failure));
                    continue;
                }
                Err(Stopped::Failed(failure)) => Err(failure),
            };
            batch.replies.push(PendingReply { reply_to: envelope.reply_to, result, span: envelope.span });
        }
        // What the shard requires of the catalog must outlive this leader; its clock alone is worth no write.
        if !batch.effects.is_empty() || leading.head.catalog_index != catalog_index {
            batch.effects.push(leading.head.effect());
        }
        batch.evaluated_in = started.elapsed();
        batch
    }

    fn command(
        &mut self,
        leading: &mut Leadership,
        envelope: &Envelope,
        batch: &mut Batch,
        place: Place,
    ) -> Result<Reply, Stopped> {
        let _evaluating = envelope.span.enter();
        tracing::debug!("evaluate");
        let base = StateView(&self.state);
        let view = leading.overlay.over(&base);
        let mut transaction = Transaction::new(&view, leading.head, &self.limits);
        let evaluated = self.evaluator.evaluate(&envelope.command, &mut transaction, place)?;
        let (effects, head) = transaction.finish();
        leading.head = head;
        if let Some((procedure, library_version)) = evaluated.procedure {
            let effect_count = effects.len() as u32;
            batch.provenance.push(pb::Provenance { procedure, library_version, effect_count });
        }
        leading.overlay.push(leading.sequence + 1, &effects);
        batch.bytes += effects.iter().map(effect_bytes).sum::<usize>();
        batch.effects.extend(effects);
        Ok(evaluated.reply)
    }
}

impl Batch {
    fn new() -> Self {
        Batch {
            effects: Vec::new(),
            provenance: Vec::new(),
            replies: Vec::new(),
            bytes: 0,
            evaluated_in: Duration::ZERO,
        }
    }
}

/// Whether the failure says nothing of the state, whatever the command read, so that its caller need not wait for a
/// commit: the call was killed, or did not run. Nor should it: where leadership was lost meanwhile, the command would be
/// sent on, and run once more.
fn is_final(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::CallKilled
            | Reason::CallTimeout
            | Reason::CallMemory
            | Reason::ProcedureSuspended
            | Reason::LibraryBusy
            | Reason::LibraryBudgetExceeded
    )
}

fn effect_bytes(effect: &pb::Effect) -> usize {
    effect.key.len() + if let Some(pb::effect::Change::Put(value)) = &effect.change { value.len() } else { 0 }
}
