//! Whether the calls of one procedure are worth running. Pure: time is a value.
//!
//! ```text
//!           half of its latest calls were killed            the pause is over, one call is let through
//!   closed ──────────────────────────────────────► open ────────────────────────────────────────────► probing
//!     ▲                                             ▲    the pause doubles                             │   │
//!     │                                             └───────────────── it was killed ──────────────────┘   │
//!     └──────────────────────────────── it ended in another way ───────────────────────────────────────────┘
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a call that was let through to the shard may take until it begins. After that another one is.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// When to ask again while a probe is on its way: a call ends within about this time.
const PROBE_DELAY: Duration = Duration::from_millis(100);

/// When a procedure is suspended, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuspensionSettings {
    /// So many of twice as many calls in a row must have been killed; 0: none is ever suspended.
    pub kills: u32,
    /// Kills that are longer ago do not count.
    pub window: Duration,
    /// The first pause.
    pub pause: Duration,
    /// The longest pause.
    pub pause_max: Duration,
}

impl Default for SuspensionSettings {
    fn default() -> Self {
        SuspensionSettings {
            kills: 5,
            window: Duration::from_secs(60),
            pause: Duration::from_secs(10),
            pause_max: Duration::from_secs(300),
        }
    }
}

/// How a call ended, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It exceeded its limit of time or memory.
    Killed,
    /// By itself, whether it succeeded or not.
    ByItself,
    /// Nobody knows how it would have ended.
    Unknown,
}

/// What a call that may run is to its breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    Ordinary,
    Probe,
}

/// Why a call may not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suspension {
    /// How many calls were killed since the procedure was last well.
    pub(crate) kills: u64,
    /// Until a call is let through; zero where the next one is.
    pub(crate) remaining: Duration,
}

/// What a call's end changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// The procedure is suspended from now on, for this long.
    Suspended(Duration),
    Resumed,
}

/// The calls of one procedure on one node.
#[derive(Debug)]
pub(crate) struct Breaker {
    settings: SuspensionSettings,
    state: State,
    kills: u64,
}

#[derive(Debug)]
enum State {
    /// When the latest calls ended, and whether they were killed.
    Closed(VecDeque<(Instant, bool)>),
    Open {
        until: Instant,
        pause: Duration,
        /// When a call was let through to the shard, which may become the probe.
        admitted: Option<Instant>,
    },
    Probing {
        pause: Duration,
    },
}

impl Breaker {
    pub(crate) fn new(settings: SuspensionSettings) -> Self {
        Breaker { settings, state: State::Closed(VecDeque::new()), kills: 0 }
    }

    /// Whether a call that arrives may go on to its shard. Of those that come when a pause is over, one may.
    pub(crate) fn admit(&mut self, now: Instant) -> Result<(), Suspension> {
        match &mut self.state {
            State::Closed(_) => Ok(()),
            State::Open { until, admitted, .. } if now >= *until => {
                if admitted.is_some_and(|at| now < at + PROBE_PATIENCE) {
                    return Err(Suspension { kills: self.kills, remaining: PROBE_DELAY });
                }
                *admitted = Some(now);
                Ok(())
            }
            State::Open { until, .. } => Err(Suspension { kills: self.kills, remaining: *until - now }),
            State::Probing { .. } => Err(Suspension { kills: self.kills, remaining: PROBE_DELAY }),
        }
    }

    /// Whether a call may begin. Its [`Breaker::end`] must follow.
    pub(crate) fn begin(&mut self, now: Instant) -> Result<Pass, Suspension> {
        match self.state {
            State::Closed(_) => Ok(Pass::Ordinary),
            State::Open { until, pause, .. } if now >= until => {
                self.state = State::Probing { pause };
                Ok(Pass::Probe)
            }
            State::Open { until, .. } => Err(Suspension { kills: self.kills, remaining: until - now }),
            State::Probing { .. } => Err(Suspension { kills: self.kills, remaining: PROBE_DELAY }),
        }
    }

    /// A call that had begun has ended.
    pub(crate) fn end(&mut self, pass: Pass, ended: Ended, now: Instant) -> Change {
        if ended == Ended::Killed {
            self.kills += 1;
        }
        match (&mut self.state, pass, ended) {
            (State::Closed(_), _, Ended::Unknown) => Change::None,
            (State::Closed(latest), _, _) => {
                let needed = self.settings.kills as usize;
                latest.push_back((now, ended == Ended::Killed));
                if latest.len() > 2 * needed {
                    latest.pop_front();
                }
                if needed == 0 || recent_kills(latest, self.settings.window, now) < needed {
                    return Change::None;
                }
                self.open(self.settings.pause, now)
            }
            (State::Probing { pause }, Pass::Probe, Ended::Killed) => {
                let pause = *pause * 2;
                self.open(pause, now)
            }
            (State::Probing { .. }, Pass::Probe, Ended::ByItself) => {
                *self = Breaker::new(self.settings);
                Change::Resumed
            }
            (State::Probing { pause }, Pass::Probe, Ended::Unknown) => {
                self.state = State::Open { until: now, pause: *pause, admitted: None };
                Change::None
            }
            // It began before the procedure was suspended, and says nothing that is not known.
            (State::Open { .. } | State::Probing { .. }, _, _) => Change::None,
        }
    }

    fn open(&mut self, pause: Duration, now: Instant) -> Change {
        let pause = pause.min(self.settings.pause_max);
        self.state = State::Open { until: now + pause, pause, admitted: None };
        Change::Suspended(pause)
    }

    /// What it is suspended for; `None` where it is not.
    pub(crate) fn suspension(&self, now: Instant) -> Option<Suspension> {
        match self.state {
            State::Closed(_) => None,
            State::Open { until, .. } => {
                Some(Suspension { kills: self.kills, remaining: until.saturating_duration_since(now) })
            }
            State::Probing { .. } => Some(Suspension { kills: self.kills, remaining: Duration::ZERO }),
        }
    }

    /// Whether a new breaker would do as well: no kill counts any more, or nobody has called for long.
    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        match &self.state {
            State::Closed(latest) => recent_kills(latest, self.settings.window, now) == 0,
            State::Open { until, .. } => now >= *until + self.settings.pause_max,
            State::Probing { .. } => false,
        }
    }
}

fn recent_kills(latest: &VecDeque<(Instant, bool)>, window: Duration, now: Instant) -> usize {
    latest.iter().filter(|(at, killed)| *killed && now.saturating_duration_since(*at) < window).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: SuspensionSettings = SuspensionSettings {
        kills: 3,
        window: Duration::from_secs(60),
        pause: Duration::from_secs(10),
        pause_max: Duration::from_secs(35),
    };

    /// A breaker with a clock in seconds.
    struct Run {
        breaker: Breaker,
        start: Instant,
    }

    impl Run {
        fn new() -> Self {
            Run { breaker: Breaker::new(SETTINGS), start: Instant::now() }
        }

        fn at(&self, seconds: f64) -> Instant {
            self.start + Duration::from_secs_f64(seconds)
        }

        /// A call at that second that ends so.
        fn call(&mut self, seconds: f64, ended: Ended) -> Result<Change, Duration> {
            let now = self.at(seconds);
            self.breaker.admit(now).map_err(|refused| refused.remaining)?;
            let pass = self.breaker.begin(now).map_err(|refused| refused.remaining)?;
            Ok(self.breaker.end(pass, ended, now))
        }
    }

    fn suspended(seconds: u64) -> Result<Change, Duration> {
        Ok(Change::Suspended(Duration::from_secs(seconds)))
    }

    #[test]
    fn half_of_the_latest_calls_must_have_been_killed() {
        // K killed, o by itself, ? unknown; the last one suspends, or none does.
        for (calls, suspends) in [
            ("KKK", true),
            ("KoKoK", true),
            ("KoKooK", true),
            ("oooooooKKK", true),
            ("KK?K", true),
            ("KooKooK", false),
            ("KKooooK", false),
            ("KK???", false),
            ("oooooo", false),
        ] {
            let mut run = Run::new();
            let mut last = Ok(Change::None);
            for (second, call) in calls.chars().enumerate() {
                assert_eq!(last, Ok(Change::None), "{calls}: too early");
                let ended = match call {
                    'K' => Ended::Killed,
                    'o' => Ended::ByItself,
                    _ => Ended::Unknown,
                };
                last = run.call(second as f64, ended);
            }
            assert_eq!(last, if suspends { suspended(10) } else { Ok(Change::None) }, "{calls}");
        }
    }

    #[test]
    fn kills_count_for_the_length_of_the_window() {
        for (third_at, suspends) in [(59.0, true), (60.0, false)] {
            let mut run = Run::new();
            assert_eq!(run.call(0.0, Ended::Killed), Ok(Change::None));
            assert_eq!(run.call(30.0, Ended::Killed), Ok(Change::None));
            let last = run.call(third_at, Ended::Killed);
            assert_eq!(last, if suspends { suspended(10) } else { Ok(Change::None) }, "{third_at}");
        }
    }

    #[test]
    fn a_pause_doubles_to_its_bound_until_a_probe_ends_by_itself() {
        let mut run = Run::new();
        for _ in 0..3 {
            let _ = run.call(0.0, Ended::Killed);
        }
        // The second, how the call would end, and what happens.
        let steps = [
            (4.0, Ended::ByItself, Err(Duration::from_secs(6))),
            (9.5, Ended::ByItself, Err(Duration::from_millis(500))),
            (10.0, Ended::Killed, suspended(20)),
            (11.0, Ended::ByItself, Err(Duration::from_secs(19))),
            (30.0, Ended::Unknown, Ok(Change::None)),
            (30.0, Ended::Killed, suspended(35)),
            (65.0, Ended::Killed, suspended(35)),
            (100.0, Ended::ByItself, Ok(Change::Resumed)),
            (100.0, Ended::Killed, Ok(Change::None)),
            (100.0, Ended::Killed, Ok(Change::None)),
            (100.0, Ended::Killed, suspended(10)),
        ];
        for (seconds, ended, expected) in steps {
            assert_eq!(run.call(seconds, ended), expected, "at {seconds}");
        }
    }

    #[test]
    fn one_call_is_let_through_as_a_probe() {
        let mut run = Run::new();
        for _ in 0..3 {
            let _ = run.call(0.0, Ended::Killed);
        }
        let (first, second) = (run.at(10.0), run.at(10.5));
        assert_eq!(run.breaker.admit(first), Ok(()));
        assert_eq!(run.breaker.admit(second).map_err(|refused| refused.remaining), Err(PROBE_DELAY));
        // The first one never began, as one whose client gave up; so another is let through.
        let third = run.at(11.0);
        assert_eq!(run.breaker.admit(third), Ok(()));
        assert_eq!(run.breaker.begin(third), Ok(Pass::Probe));
        for refused in [run.breaker.admit(run.at(13.0)), run.breaker.begin(run.at(13.0)).map(drop)] {
            assert_eq!(refused, Err(Suspension { kills: 3, remaining: PROBE_DELAY }));
        }
        assert_eq!(run.breaker.end(Pass::Probe, Ended::Killed, third), Change::Suspended(Duration::from_secs(20)));
        let told = run.breaker.suspension(run.at(30.0));
        assert_eq!(told, Some(Suspension { kills: 4, remaining: Duration::from_secs(1) }));
    }

    #[test]
    fn calls_that_began_before_change_nothing() {
        let mut run = Run::new();
        for _ in 0..3 {
            let _ = run.call(0.0, Ended::Killed);
        }
        let now = run.at(1.0);
        for ended in [Ended::Killed, Ended::ByItself, Ended::Unknown] {
            assert_eq!(run.breaker.end(Pass::Ordinary, ended, now), Change::None);
        }
        assert_eq!(run.breaker.suspension(now).map(|told| told.remaining), Some(Duration::from_secs(9)));
        let due = run.at(10.0);
        assert_eq!(run.breaker.begin(due), Ok(Pass::Probe));
        assert_eq!(run.breaker.end(Pass::Ordinary, Ended::ByItself, due), Change::None, "only the probe tells");
        assert_eq!(run.breaker.end(Pass::Probe, Ended::ByItself, due), Change::Resumed);
    }

    #[test]
    fn what_says_nothing_any_more_is_idle() {
        let mut run = Run::new();
        assert!(run.breaker.is_idle(run.at(0.0)));
        let _ = run.call(0.0, Ended::Killed);
        assert!(!run.breaker.is_idle(run.at(59.0)));
        assert!(run.breaker.is_idle(run.at(60.0)));
        let _ = run.call(60.0, Ended::Killed);
        let _ = run.call(60.0, Ended::Killed);
        let _ = run.call(60.0, Ended::Killed);
        assert!(!run.breaker.is_idle(run.at(70.0)), "its pause is over, and nobody knows whether it is well");
        assert!(!run.breaker.is_idle(run.at(104.0)));
        assert!(run.breaker.is_idle(run.at(105.0)));
    }

    #[test]
    fn none_is_suspended_where_the_setting_says_so() {
        let mut breaker = Breaker::new(SuspensionSettings { kills: 0, ..SETTINGS });
        let now = Instant::now();
        for _ in 0..100 {
            assert_eq!(breaker.begin(now), Ok(Pass::Ordinary));
            assert_eq!(breaker.end(Pass::Ordinary, Ended::Killed, now), Change::None);
        }
    }
}
