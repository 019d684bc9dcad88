//! Which calls a node lets run, beside what each may use:
//! - procedures whose calls are killed again and again are suspended for a while ([`breaker`]);
//! - a library with limits gets a number of calls at once, and a share of CPU time ([`token_bucket`](crate::token_bucket)).
//!
//! A call that runs out of time holds its shard up until it is killed. So what is suspended, or has used up its share,
//! is refused twice: as it arrives at the shard's leader ([`admission`]), without waiting behind the calls that do
//! harm; and by the evaluator, which knows for certain.
//!
//! All of it is this node's own and in memory: another leader finds out by itself, within a few kills.
//! Nothing is kept of procedures that are well and libraries without limits, and their calls take no lock here
//! while there are no others.

mod admission;
mod breaker;
mod library;
mod refusal;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cirrus_procedures::CallOutcome;
use cirrus_proto::v1::{LibraryActivation, LibraryLimits, SuspendedProcedure};
use cirrus_proto::{Failure, Reason};
use parking_lot::Mutex;

use self::breaker::{Change, Ended, Pass};
use self::library::{Library, PROCEDURES_MAX, Refusal};
use crate::call_metrics::KnownProcedures;

pub use self::breaker::SuspensionSettings;

/// Libraries that are kept in mind before those are forgotten of which there is nothing to say. Of libraries without
/// limits, no more.
const LIBRARIES_MAX: usize = 256;

const TIDY_INTERVAL: Duration = Duration::from_secs(10);

/// What a call runs, as the catalog has it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Called<'a> {
    pub(crate) library: &'a str,
    pub(crate) version: u64,
    pub(crate) function: &'a str,
    pub(crate) terms: Terms,
}

/// What the catalog says of a library's calls. The default, of one that was never activated, is older than any other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// When what the calls run was last changed.
    activated_at_ms: u64,
    /// When the limits were.
    limited_at_ms: u64,
    /// 0: no limit.
    concurrency: u32,
    /// 0: no limit.
    cpu_percent: u32,
}

impl Terms {
    pub(crate) fn of(activation: &LibraryActivation, limits: Option<&LibraryLimits>) -> Self {
        let (concurrency, cpu_percent) = limits.map_or((0, 0), |limits| (limits.concurrency, limits.cpu_percent));
        let limited_at_ms = limits.map_or(0, |limits| limits.set_at_ms);
        Terms { activated_at_ms: activation.activated_at_ms, limited_at_ms, concurrency, cpu_percent }
    }

    fn is_limited(&self) -> bool {
        self.concurrency > 0 || self.cpu_percent > 0
    }
}

/// What the calls of a node may.
pub(crate) struct Governor {
    settings: SuspensionSettings,
    known: Arc<KnownProcedures>,
    libraries: Mutex<HashMap<String, Library>>,
    /// How many libraries are kept in mind.
    engaged: AtomicUsize,
}

/// A call that may run. It ends with [`Permit::end`].
pub(crate) struct Permit<'a> {
    governor: &'a Governor,
    called: Called<'a>,
    /// `None`: its library was not kept in mind.
    pass: Option<Pass>,
    ended: bool,
}

impl Governor {
    pub(crate) fn new(settings: SuspensionSettings, known: Arc<KnownProcedures>) -> Self {
        Governor { settings, known, libraries: Mutex::default(), engaged: AtomicUsize::new(0) }
    }

    /// Whether a call of the library might be refused as it arrives.
    fn suspects(&self, library: &str, now: Instant) -> bool {
        self.engaged.load(Ordering::Relaxed) > 0
            && self.libraries.lock().get_mut(library).is_some_and(|library| library.refuses_some(now))
    }

    /// Whether a call that arrives may go on to its shard.
    fn admit(&self, called: &Called<'_>, now: Instant) -> Result<(), Failure> {
        self.ask(called, now, |library| library.admit(called, now)).map(drop)
    }

    /// Whether a call may run.
    ///
    /// # Errors
    /// PROCEDURE_SUSPENDED, LIBRARY_BUSY, LIBRARY_BUDGET_EXCEEDED.
    pub(crate) fn begin<'a>(&'a self, called: Called<'a>, now: Instant) -> Result<Permit<'a>, Failure> {
        let pass = self.ask(&called, now, |library| library.begin(&called, now))?;
        Ok(Permit { governor: self, called, pass, ended: false })
    }

    /// Asks what is known of the library, if anything is, and learns of its limits.
    fn ask<T>(
        &self,
        called: &Called<'_>,
        now: Instant,
        question: impl FnOnce(&mut Library) -> Result<T, Refusal>,
    ) -> Result<Option<T>, Failure> {
        if !called.terms.is_limited() && self.engaged.load(Ordering::Relaxed) == 0 {
            return Ok(None);
        }
        let mut libraries = self.libraries.lock();
        let library = match libraries.get_mut(called.library) {
            Some(library) => library,
            None if called.terms.is_limited() => {
                make_room(&mut libraries, called, now);
                self.engaged.store(libraries.len() + 1, Ordering::Relaxed);
                libraries.entry(called.library.to_owned()).or_default()
            }
            None => return Ok(None),
        };
        library.learn(called, now);
        let answer = question(library);
        drop(libraries);
        answer.map(Some).map_err(|refusal| {
            self.known.count_refused(called.library, called.function, refusal.reason());
            refusal.into_failure(called)
        })
    }

    fn end(&self, called: &Called<'_>, pass: Option<Pass>, ended: Ended, cpu: Duration, now: Instant) {
        let killed = ended == Ended::Killed && self.settings.kills > 0;
        if !killed && self.engaged.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut libraries = self.libraries.lock();
        if killed {
            make_room(&mut libraries, called, now);
        }
        let has_room = libraries.len() < LIBRARIES_MAX;
        let library = match libraries.get_mut(called.library) {
            Some(library) => library,
            None if killed && has_room => libraries.entry(called.library.to_owned()).or_default(),
            None => return,
        };
        library.learn(called, now);
        library.charge(cpu, now);
        if pass.is_some() {
            library.release();
        }
        let change = match ended {
            Ended::Killed if !killed => Change::None,
            _ => library.end(called, pass.unwrap_or(Pass::Ordinary), ended, self.settings, now),
        };
        if library.is_carefree() {
            libraries.remove(called.library);
        }
        self.engaged.store(libraries.len(), Ordering::Relaxed);
        self.tell(called, change, &libraries, now);
    }

    /// Tells operators what changed.
    fn tell(&self, called: &Called<'_>, change: Change, libraries: &HashMap<String, Library>, now: Instant) {
        let Called { library, version, function, .. } = *called;
        match change {
            Change::None => return,
            Change::Suspended(pause) => {
                self.known.count_suspended(library, function);
                let pause_ms = pause.as_millis() as u64;
                tracing::warn!(library, function, version, pause_ms, "suspended: its calls are killed again and again");
            }
            Change::Resumed => tracing::info!(library, function, version, "no longer suspended"),
        }
        set_suspended_gauge(libraries, now);
    }

    /// What is suspended now, by name.
    pub(crate) fn suspended(&self, node_id: u64, now: Instant) -> Vec<SuspendedProcedure> {
        self.tidy(now);
        let mut suspended = Vec::new();
        for (name, library) in &*self.libraries.lock() {
            let procedures = library.suspended(now).map(|(library_version, function, suspension)| SuspendedProcedure {
                node_id,
                procedure: format!("{name}.{function}"),
                library_version,
                kills: suspension.kills,
                remaining_ms: suspension.remaining.as_millis() as u64,
            });
            suspended.extend(procedures);
        }
        suspended.sort_by(|a, b| (&a.procedure, a.library_version).cmp(&(&b.procedure, b.library_version)));
        suspended
    }

    /// Forgets what there is nothing to say of any more, as nobody may ever call it again.
    fn tidy(&self, now: Instant) {
        let mut libraries = self.libraries.lock();
        forget_idle(&mut libraries, now);
        set_suspended_gauge(&libraries, now);
        self.engaged.store(libraries.len(), Ordering::Relaxed);
    }
}

/// Tidies up for as long as the node runs.
pub(crate) async fn tidy_up(governor: Arc<Governor>) {
    loop {
        tokio::time::sleep(TIDY_INTERVAL).await;
        governor.tidy(Instant::now());
    }
}

fn set_suspended_gauge(libraries: &HashMap<String, Library>, now: Instant) {
    let suspended: usize = libraries.values().map(|library| library.suspended(now).count()).sum();
    metrics::gauge!("cirrus_procedures_suspended").set(suspended as f64);
}

/// Forgets what is idle where there is little room for another library, or another procedure of this one.
fn make_room(libraries: &mut HashMap<String, Library>, called: &Called<'_>, now: Instant) {
    let procedures = libraries.get(called.library).map_or(0, Library::procedures);
    if libraries.len() >= LIBRARIES_MAX || procedures >= PROCEDURES_MAX {
        forget_idle(libraries, now);
    }
}

fn forget_idle(libraries: &mut HashMap<String, Library>, now: Instant) {
    libraries.retain(|_, library| !library.is_idle(now));
}

impl Permit<'_> {
    /// The call did not come to its end here, and runs again elsewhere.
    pub(crate) fn give_up(mut self, cpu: Duration, now: Instant) {
        self.ended = true;
        self.governor.end(&self.called, self.pass, Ended::Unknown, cpu, now);
    }

    /// The call has ended so, after that much CPU time.
    pub(crate) fn end(mut self, outcome: &Result<CallOutcome, Failure>, cpu: Duration, now: Instant) {
        self.ended = true;
        self.governor.end(&self.called, self.pass, how_it_ended(outcome), cpu, now);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.governor.end(&self.called, self.pass, Ended::Unknown, Duration::ZERO, Instant::now());
        }
    }
}

/// Whether a call that failed so did not run, since it may not.
pub(crate) fn is_refusal(reason: Reason) -> bool {
    matches!(reason, Reason::ProcedureSuspended | Reason::LibraryBusy | Reason::LibraryBudgetExceeded)
}

fn how_it_ended(outcome: &Result<CallOutcome, Failure>) -> Ended {
    match outcome.as_ref().map_err(|failure| failure.reason) {
        Err(Reason::CallTimeout | Reason::CallMemory) => Ended::Killed,
        // Somebody ended it, or the node is at fault.
        Err(Reason::CallKilled | Reason::Internal) => Ended::Unknown,
        _ => Ended::ByItself,
    }
}

#[cfg(test)]
mod tests;
