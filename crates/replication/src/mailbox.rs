//! The executor's bounded mailbox.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cirrus_proto::internal::v1::{Command, Reply};
use cirrus_proto::{Failure, Reason};
use tokio::sync::{mpsc, oneshot};

/// A command's answer: its reply once a quorum has fsynced it and this replica applied it.
pub type CommandResult = Result<Executed, Failure>;

/// A command that took effect.
#[derive(Clone, Debug)]
pub struct Executed {
    /// What the client gets.
    pub reply: Reply,
    /// The log index of the entry that carried its effects.
    pub applied_index: u64,
}

/// A command on its way to the executor.
pub(crate) struct Envelope {
    /// Shared with whoever may have to send it to another node.
    pub(crate) command: Arc<Command>,
    pub(crate) deadline: Instant,
    pub(crate) reply_to: oneshot::Sender<CommandResult>,
    pub(crate) span: tracing::Span,
    /// Whoever sets it first owns the command: the executor, to evaluate it, or its client, to give up
    /// knowing that nothing happened.
    pub(crate) claimed: Arc<AtomicBool>,
}

impl Envelope {
    /// Whether the executor may evaluate it.
    pub(crate) fn claim(&self) -> bool {
        !self.claimed.swap(true, Ordering::AcqRel)
    }

    /// Takes the claim back: the command will be evaluated later, and until then its client may give up.
    pub(crate) fn put_off(&self) {
        self.claimed.store(false, Ordering::Release);
    }

    /// Answers without evaluating. A client that gave up no longer waits.
    pub(crate) fn answer(self, result: CommandResult) {
        let _ = self.reply_to.send(result);
    }
}

/// What reaches the executor.
pub(crate) enum Message {
    Command(Box<Envelope>),
    /// This replica won an election and has applied everything up to its own first entry.
    Lead {
        term: u64,
    },
    /// Leadership of the term ended.
    Follow {
        term: u64,
    },
    /// A proposal came to its end.
    Settled {
        term: u64,
        sequence: u64,
        outcome: Settlement,
    },
    Stop,
}

/// How a proposal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settlement {
    Applied,
    /// It will never take effect.
    Rejected,
    /// It may take effect later, or not.
    Unknown,
}

/// The sending side. Only commands count against the bound: what else the executor is told is bounded
/// by its own proposals.
#[derive(Clone)]
pub(crate) struct Mailbox {
    sender: mpsc::UnboundedSender<Message>,
    waiting: Arc<AtomicUsize>,
    bound: usize,
}

impl Mailbox {
    pub(crate) fn new(bound: usize) -> (Mailbox, Inbox) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        (Mailbox { sender, waiting: waiting.clone(), bound }, Inbox { receiver, waiting })
    }

    /// Queues a command, or refuses it at once where the mailbox is full.
    pub(crate) fn submit(&self, envelope: Envelope) -> Result<(), Failure> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        if before >= self.bound {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Failure::new(
                Reason::MailboxFull,
                format!("{before} commands wait for the shard, the limit is {}", self.bound),
            )
            .with("limit", self.bound)
            .with("actual", before)
            .retry_after(Duration::from_millis(20)));
        }
        self.sender.send(Message::Command(Box::new(envelope))).map_err(|_| {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            Failure::new(Reason::ShuttingDown, "the shard's executor has stopped")
        })
    }

    /// Tells the executor something. One that stopped no longer needs to know.
    pub(crate) fn tell(&self, message: Message) {
        let _ = self.sender.send(message);
    }

    /// Waits until the executor is gone.
    pub(crate) async fn closed(&self) {
        self.sender.closed().await;
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// The receiving side.
pub(crate) struct Inbox {
    receiver: mpsc::UnboundedReceiver<Message>,
    waiting: Arc<AtomicUsize>,
}

impl Inbox {
    /// Waits for a message; `None` once every sender is gone.
    pub(crate) async fn wait(&mut self) -> Option<Message> {
        self.receiver.recv().await
    }

    /// The next message, if one is there.
    pub(crate) fn poll(&mut self) -> Option<Message> {
        self.receiver.try_recv().ok()
    }

    /// Frees the places of commands that left the mailbox.
    pub(crate) fn release(&self, commands: usize) {
        self.places().release(commands);
    }

    pub(crate) fn places(&self) -> Places {
        Places(self.waiting.clone())
    }
}

/// The places in a mailbox that commands take while they wait.
#[derive(Clone)]
pub(crate) struct Places(Arc<AtomicUsize>);

impl Places {
    pub(crate) fn release(&self, commands: usize) {
        self.0.fetch_sub(commands, Ordering::Relaxed);
    }

    /// A command that left waits once more, also where others have filled the mailbox meanwhile.
    pub(crate) fn take_back(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn envelope() -> Envelope {
        let (reply_to, _) = oneshot::channel();
        Envelope {
            command: Arc::default(),
            deadline: Instant::now(),
            reply_to,
            span: tracing::Span::none(),
            claimed: Arc::default(),
        }
    }

    #[test]
    fn a_full_mailbox_refuses_and_says_when_to_retry() {
        let (mailbox, inbox) = Mailbox::new(2);
        mailbox.submit(envelope()).unwrap();
        mailbox.submit(envelope()).unwrap();
        let failure = mailbox.submit(envelope()).unwrap_err();
        assert_eq!(failure.reason, Reason::MailboxFull);
        assert!(failure.retry_after.is_some());
        assert_eq!(mailbox.waiting(), 2);
        inbox.release(1);
        mailbox.submit(envelope()).unwrap();
    }
}
