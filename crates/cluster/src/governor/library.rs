//! What a node keeps in mind of one library: its limits, what they leave, and which of its procedures were killed.

use std::time::{Duration, Instant};

use super::breaker::{Breaker, Change, Ended, Pass, Suspension, SuspensionSettings};
use super::{Called, Terms};
use crate::token_bucket::TokenBucket;

/// Most procedures of one library that are kept in mind.
pub(super) const PROCEDURES_MAX: usize = 64;

#[derive(Default)]
pub(super) struct Library {
    terms: Terms,
    /// Calls that began while the library was kept in mind, and have not ended.
    running: u32,
    /// Seconds of CPU time, where they are limited.
    cpu: Option<TokenBucket>,
    procedures: Vec<Procedure>,
}

/// One function of one version, some of whose calls were killed lately.
struct Procedure {
    version: u64,
    function: String,
    breaker: Breaker,
}

/// Why a call may not run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Suspended(Suspension),
    /// As many calls run as may.
    Busy {
        limit: u32,
    },
    /// CPU time was used up; there is some again after this time.
    Spent {
        limit_percent: u32,
        wait: Duration,
    },
}

impl Library {
    /// Learns what a call found in the catalog, unless that is older than what is known. What was activated begins
    /// anew: its calls were changed, or somebody wants to see them run.
    pub(super) fn learn(&mut self, called: &Called<'_>, now: Instant) {
        let (terms, known) = (called.terms, self.terms);
        let activated = terms.activated_at_ms > known.activated_at_ms;
        let limited = terms.activated_at_ms == known.activated_at_ms && terms.limited_at_ms > known.limited_at_ms;
        if activated {
            self.procedures.clear();
        }
        if activated || limited {
            self.terms = terms;
            let cores = f64::from(terms.cpu_percent) / 100.0;
            match &mut self.cpu {
                _ if terms.cpu_percent == 0 => self.cpu = None,
                Some(bucket) => bucket.set_rate(cores, now),
                none => *none = Some(TokenBucket::new(cores, now)),
            }
        }
    }

    /// Whether a call that arrives may go on to its shard. How many run is known once it is about to.
    pub(super) fn admit(&mut self, called: &Called<'_>, now: Instant) -> Result<(), Refusal> {
        self.check_cpu(now)?;
        self.procedure(called).map_or(Ok(()), |one| one.breaker.admit(now)).map_err(Refusal::Suspended)
    }

    /// Whether a call may begin. Its [`Library::end`] must follow.
    pub(super) fn begin(&mut self, called: &Called<'_>, now: Instant) -> Result<Pass, Refusal> {
        let limit = self.terms.concurrency;
        if limit > 0 && self.running >= limit {
            return Err(Refusal::Busy { limit });
        }
        self.check_cpu(now)?;
        let pass = self.procedure(called).map_or(Ok(Pass::Ordinary), |one| one.breaker.begin(now));
        let pass = pass.map_err(Refusal::Suspended)?;
        self.running += 1;
        Ok(pass)
    }

    fn check_cpu(&mut self, now: Instant) -> Result<(), Refusal> {
        let wait = self.cpu.as_mut().map_or(Duration::ZERO, |bucket| bucket.wait(now));
        if wait.is_zero() {
            return Ok(());
        }
        Err(Refusal::Spent { limit_percent: self.terms.cpu_percent, wait })
    }

    /// A call that had begun has ended.
    pub(super) fn release(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// Takes note of what a call has used.
    pub(super) fn charge(&mut self, cpu: Duration, now: Instant) {
        if let Some(bucket) = &mut self.cpu {
            bucket.take(cpu.as_secs_f64(), now);
        }
    }

    /// Takes note of how a call ended. A procedure is kept in mind from its first kill until it is well.
    pub(super) fn end(
        &mut self,
        called: &Called<'_>,
        pass: Pass,
        ended: Ended,
        settings: SuspensionSettings,
        now: Instant,
    ) -> Change {
        let place = match self.place(called) {
            Some(place) => place,
            None if ended == Ended::Killed && self.procedures.len() < PROCEDURES_MAX => {
                let (function, breaker) = (called.function.to_owned(), Breaker::new(settings));
                self.procedures.push(Procedure { version: called.version, function, breaker });
                self.procedures.len() - 1
            }
            None => return Change::None,
        };
        let change = self.procedures[place].breaker.end(pass, ended, now);
        if self.procedures[place].breaker.is_idle(now) {
            self.procedures.swap_remove(place);
        }
        change
    }

    fn place(&self, called: &Called<'_>) -> Option<usize> {
        let is_it = |one: &Procedure| one.version == called.version && one.function == called.function;
        self.procedures.iter().position(is_it)
    }

    fn procedure(&mut self, called: &Called<'_>) -> Option<&mut Procedure> {
        self.place(called).map(|place| &mut self.procedures[place])
    }

    /// How many procedures are kept in mind.
    pub(super) fn procedures(&self) -> usize {
        self.procedures.len()
    }

    /// What is suspended: version, function, and for how long.
    pub(super) fn suspended(&self, now: Instant) -> impl Iterator<Item = (u64, &str, Suspension)> {
        self.procedures.iter().filter_map(move |one| Some((one.version, &*one.function, one.breaker.suspension(now)?)))
    }

    /// Whether some of its calls would be refused as they arrive.
    pub(super) fn refuses_some(&mut self, now: Instant) -> bool {
        self.check_cpu(now).is_err() || self.suspended(now).next().is_some()
    }

    /// Whether it need not be kept in mind between two calls.
    pub(super) fn is_carefree(&self) -> bool {
        !self.terms.is_limited() && self.running == 0 && self.procedures.is_empty()
    }

    /// Whether a new one would do as well.
    pub(super) fn is_idle(&mut self, now: Instant) -> bool {
        self.procedures.retain(|procedure| !procedure.breaker.is_idle(now));
        let has_all_its_time = self.cpu.as_mut().is_none_or(|bucket| bucket.is_full(now));
        self.running == 0 && self.procedures.is_empty() && has_all_its_time
    }
}
