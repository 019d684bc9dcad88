//! What concurrent clients did and saw, in an order that the checker can trust.
//!
//! Every operation takes one tick of a shared counter before it is sent and one after its answer has
//! arrived. So `a.returned < b.invoked` holds only where `a` had really ended before `b` began, and the
//! counter, unlike a clock, never gives two events the same moment.
//!
//! An operation whose outcome the client does not know (its connection broke, its time ran out) has no
//! return: it may take effect at any later moment, or never. An operation that was certainly refused is
//! not part of the history at all.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What was asked of one key. Values are decimal numbers, so that one key can be put, compared and added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Read the value.
    Get,
    /// Store a value.
    Put(i64),
    /// Remove the value.
    Delete,
    /// Store `new` where the value is `expected` (`None`: where there is no value).
    Cas {
        /// What must be found.
        expected: Option<i64>,
        /// What is stored then.
        new: i64,
    },
    /// Add to the value (no value counts as 0): `Increment`, or a procedure that does the same.
    Add(i64),
}

/// What the client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Of a get: what was found.
    Value(Option<i64>),
    /// Of a put: stored.
    Stored,
    /// Of a delete: whether there was something to delete.
    Deleted(bool),
    /// Of a compare-and-swap that stored.
    Swapped,
    /// Of a compare-and-swap that did not: what it found instead.
    Found(Option<i64>),
    /// Of an addition: the sum.
    Sum(i64),
}

/// One operation on one key, as its client saw it.
#[derive(Clone, Debug)]
pub struct Event {
    /// Who asked. For people; the checker does not use it.
    pub client: usize,
    /// What was asked.
    pub operation: Operation,
    /// Tick before the request was sent.
    pub invoked: u64,
    /// Tick after the answer arrived, and the answer. `None`: the outcome is unknown.
    pub returned: Option<(u64, Outcome)>,
    /// When the request was sent, since the recorder's start. For people and for measuring outages.
    pub at: Duration,
    /// When it ended for its client.
    pub ended: Duration,
}

impl Event {
    /// Whether it was acknowledged and wrote.
    pub fn is_acknowledged_write(&self) -> bool {
        match self.returned {
            None | Some((_, Outcome::Value(_) | Outcome::Found(_) | Outcome::Deleted(false))) => false,
            Some((_, Outcome::Stored | Outcome::Deleted(true) | Outcome::Swapped | Outcome::Sum(_))) => true,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at_ms = self.at.as_millis();
        write!(f, "{at_ms:>7} ms  client {:<3} [{}, ", self.client, self.invoked)?;
        match &self.returned {
            Some((tick, outcome)) => write!(f, "{tick}] {:?} -> {outcome:?}", self.operation),
            None => write!(f, "?] {:?} -> unknown", self.operation),
        }
    }
}

/// A whole history, by key.
pub type History = BTreeMap<String, Vec<Event>>;

/// Collects events from many clients at once.
pub struct Recorder {
    started: Instant,
    ticks: AtomicU64,
    events: Mutex<History>,
}

/// An operation that is under way.
#[derive(Debug)]
pub struct Invocation {
    client: usize,
    key: String,
    operation: Operation,
    invoked: u64,
    at: Duration,
}

/// How an operation ended, for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was answered.
    Answered(Outcome),
    /// It certainly did not happen.
    Refused,
    /// It may have happened, or may still happen.
    Unknown,
}

impl Default for Recorder {
    fn default() -> Self {
        Recorder { started: Instant::now(), ticks: AtomicU64::new(1), events: Mutex::new(History::new()) }
    }
}

impl Recorder {
    /// An empty history that starts now.
    pub fn new() -> Self {
        Self::default()
    }

    /// Time since the start, on the clock of [`Event::at`].
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Notes that a request is about to be sent.
    pub fn invoke(&self, client: usize, key: &str, operation: Operation) -> Invocation {
        Invocation {
            client,
            key: key.to_owned(),
            operation,
            at: self.started.elapsed(),
            invoked: self.ticks.fetch_add(1, Ordering::SeqCst),
        }
    }

    /// Notes how it ended. Dropping an [`Invocation`] instead would lose an operation that may have
    /// happened, so every path through a client must end here.
    pub fn finish(&self, invocation: Invocation, ending: Ending) {
        let tick = self.ticks.fetch_add(1, Ordering::SeqCst);
        let returned = match ending {
            Ending::Answered(outcome) => Some((tick, outcome)),
            Ending::Refused => return,
            Ending::Unknown => None,
        };
        let Invocation { client, key, operation, invoked, at } = invocation;
        let event = Event { client, operation, invoked, returned, at, ended: self.started.elapsed() };
        self.events.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().push(event);
    }

    /// How many operations are recorded, and how many of them have an unknown outcome.
    pub fn counts(&self) -> (usize, usize) {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let unknown = |events: &Vec<Event>| events.iter().filter(|event| event.returned.is_none()).count();
        (events.values().map(Vec::len).sum(), events.values().map(unknown).sum())
    }

    /// How long after `from` the first write was acknowledged that was both sent and answered after it, on
    /// any key that `on` selects. `None`: none was.
    pub fn first_write_after(&self, from: Duration, on: impl Fn(&str) -> bool) -> Option<Duration> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let writes = events.iter().filter(|(key, _)| on(key)).flat_map(|(_, events)| events);
        writes.filter(|event| event.at >= from && event.is_acknowledged_write()).map(|event| event.ended - from).min()
    }

    /// The history so far.
    pub fn history(&self) -> History {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
