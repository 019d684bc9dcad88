//! Which ticks of a schedule run, and what is remembered of them.
#![allow(clippy::unwrap_used)]

use cirrus_engine::schedules::{self, BACKLOG_MAX, Next, Tick};
use cirrus_engine::{MemoryView, Moment, ShardHead, Transaction};
use cirrus_proto::limits::Limits;
use cirrus_proto::v1::{Failure, LuaValue, MissedTicks, Schedule, ScheduleProgress, ScheduleRun};
use proptest::prelude::*;

const CREATED_AT_MS: u64 = 10_000;
const EVERY_MS: u64 = 500;

fn schedule(missed_ticks: MissedTicks) -> Schedule {
    Schedule {
        name: "flush".to_owned(),
        id: 3,
        every_ms: EVERY_MS,
        missed_ticks: missed_ticks.into(),
        created_at_ms: CREATED_AT_MS,
        ..Default::default()
    }
}

fn after(tick: u64) -> Option<ScheduleProgress> {
    let last_run = Some(ScheduleRun { tick, ..Default::default() });
    (tick > 0).then_some(ScheduleProgress { last_run, ..Default::default() })
}

fn at(intervals: u64) -> u64 {
    CREATED_AT_MS + intervals * EVERY_MS
}

#[test]
fn a_tick_is_due_an_interval_after_the_one_before() {
    use MissedTicks::{CatchUp, Skip, Unspecified};
    let run = |number, skipped| Next::Run(Tick { number, due_at_ms: at(number), skipped });
    let wait = |number| Next::Wait(Tick { number, due_at_ms: at(number), skipped: 0 });
    let cases = [
        (Skip, 0, at(0), wait(1), "just created"),
        (Skip, 0, at(1) - 1, wait(1), "a moment before"),
        (Skip, 0, at(1), run(1, 0), "due"),
        (Skip, 1, at(1), wait(2), "it ran"),
        (Skip, 1, at(2) + 7, run(2, 0), "late by less than an interval"),
        (Skip, 1, at(5) + 7, run(5, 3), "only the newest"),
        (Unspecified, 1, at(5), run(5, 3), "to skip is the default"),
        (CatchUp, 1, at(5), run(2, 0), "one after the other"),
        (CatchUp, 4, at(5), run(5, 0), "the last one missed"),
        (CatchUp, 5, at(5), wait(6), "it caught up"),
        (CatchUp, 0, at(BACKLOG_MAX), run(1, 0), "as many as may be"),
        (CatchUp, 0, at(BACKLOG_MAX + 3), run(4, 3), "the oldest are skipped"),
        (CatchUp, 0, 0, wait(1), "this shard's clock is behind the catalog's"),
        (Skip, 9, at(3), wait(10), "its leader's clock was set back"),
    ];
    for (missed_ticks, last, now_ms, expected, why) in cases {
        assert_eq!(schedules::next(&schedule(missed_ticks), after(last).as_ref(), now_ms), expected, "{why}");
    }
}

#[test]
fn the_end_of_time_is_survived() {
    for (created_at_ms, every_ms, last, now_ms) in
        [(0, 1, u64::MAX, u64::MAX), (u64::MAX, u64::MAX, 0, u64::MAX), (0, 0, 0, u64::MAX), (0, u64::MAX, 1, 0)]
    {
        for missed_ticks in [MissedTicks::Skip, MissedTicks::CatchUp] {
            let schedule = Schedule { created_at_ms, every_ms, ..schedule(missed_ticks) };
            let tick = schedules::next(&schedule, after(last).as_ref(), now_ms).tick();
            assert!(tick.number >= last);
        }
    }
}

proptest! {
    /// However the clock moves, ticks only grow; to catch up leaves none out, and to skip runs none that is stale.
    #[test]
    fn no_tick_runs_twice(steps in proptest::collection::vec(0u64..5000, 1..200), catch_up: bool) {
        let schedule = schedule(if catch_up { MissedTicks::CatchUp } else { MissedTicks::Skip });
        let (mut now_ms, mut ran, mut skipped) = (CREATED_AT_MS, Vec::new(), 0);
        for step in steps {
            now_ms += step;
            let last = ran.last().copied().unwrap_or(0);
            if let Next::Run(tick) = schedules::next(&schedule, after(last).as_ref(), now_ms) {
                prop_assert!(tick.number > last && tick.due_at_ms <= now_ms);
                prop_assert!(catch_up || now_ms - tick.due_at_ms < EVERY_MS);
                skipped += tick.skipped;
                ran.push(tick.number);
            }
        }
        let last = ran.last().copied().unwrap_or(0);
        prop_assert_eq!(ran.len() as u64 + skipped, last, "each tick ran or was skipped");
        prop_assert!(!catch_up || skipped == 0);
    }
}

#[test]
fn a_tick_gets_its_number_and_time_behind_the_arguments() {
    let tick = Tick { number: 7, due_at_ms: 123, skipped: 0 };
    let strings = Schedule { args: vec!["a".into()], more_keys: vec!["k2".into()], ..schedule(MissedTicks::Skip) };
    let call = schedules::call_at(&strings, tick);
    assert_eq!((call.args, call.more_keys), (vec!["a".into(), "7".into(), "123".into()], strings.more_keys));
    assert!(call.values.is_empty() && call.typed_result);
    let typed = Schedule { values: vec![LuaValue::nil()], ..schedule(MissedTicks::Skip) };
    let call = schedules::call_at(&typed, tick);
    assert_eq!(call.values, [LuaValue::nil(), LuaValue::from(7), LuaValue::from(123)]);
    assert!(call.args.is_empty());
}

/// A shard in memory.
#[derive(Default)]
struct Shard {
    view: MemoryView,
}

impl Shard {
    fn change<T>(&mut self, change: impl FnOnce(&mut Transaction<'_>) -> T) -> T {
        let mut head = ShardHead::load(&self.view).unwrap();
        head.advance_to(Moment { now_ms: CREATED_AT_MS });
        // No room for a single write of a command.
        let limits = Limits { write_set_bytes: 0, ..Limits::DEFAULT };
        let mut tx = Transaction::new(&self.view, head, &limits);
        let outcome = change(&mut tx);
        let (effects, _) = tx.finish();
        self.view.apply(&effects);
        outcome
    }

    fn record(&mut self, schedule: &Schedule, number: u64, skipped: u64, run: ScheduleRun) {
        self.change(|tx| {
            let before = schedules::progress_in(tx, schedule).unwrap();
            let tick = Tick { number, due_at_ms: at(number), skipped };
            schedules::record(tx, schedule, before, tick, ScheduleRun { tick: number, ..run });
        });
    }
}

#[test]
fn runs_are_counted_and_the_last_one_is_kept() {
    let (mut shard, schedule) = (Shard::default(), schedule(MissedTicks::Skip));
    assert_eq!(schedules::progress(&shard.view, &schedule).unwrap(), None);
    let result = |bytes| Some(LuaValue::from(vec![b'x'; bytes]));
    shard.record(&schedule, 1, 0, ScheduleRun { result: result(2000), ..Default::default() });
    let progress = schedules::progress(&shard.view, &schedule).unwrap().unwrap();
    assert_eq!(progress.last_run.unwrap().result, None, "too large to be kept");
    let message = "ü".repeat(1000);
    let failure = Some(Failure { message, reason: "PROCEDURE_FAILED".to_owned(), ..Default::default() });
    shard.record(&schedule, 5, 3, ScheduleRun { failure, ..Default::default() });
    let progress = schedules::progress(&shard.view, &schedule).unwrap().unwrap();
    assert_eq!((progress.runs, progress.failures, progress.skipped), (2, 1, 3));
    let run = progress.last_run.unwrap();
    assert_eq!((run.tick, run.failure.unwrap().message), (5, "ü".repeat(512)));
    shard.record(&schedule, 6, 0, ScheduleRun { result: result(1000), ..Default::default() });
    let progress = schedules::progress(&shard.view, &schedule).unwrap().unwrap();
    assert_eq!((progress.runs, progress.failures, progress.skipped), (3, 1, 3));
    assert_eq!(progress.last_run.unwrap().result, result(1000));
}

#[test]
fn a_schedule_of_an_earlier_ones_name_starts_anew() {
    let (mut shard, old) = (Shard::default(), schedule(MissedTicks::CatchUp));
    let new = Schedule { id: 4, ..old.clone() };
    shard.record(&old, 1, 0, ScheduleRun::default());
    assert_eq!(schedules::progress(&shard.view, &new).unwrap(), None);
    shard.record(&new, 1, 0, ScheduleRun::default());
    assert_eq!(schedules::progress(&shard.view, &new).unwrap().unwrap().runs, 1);
    assert_eq!(schedules::progress(&shard.view, &old).unwrap(), None);

    let other = Schedule { name: "other".to_owned(), id: 9, ..old };
    shard.record(&other, 1, 0, ScheduleRun::default());
    let recorded = schedules::recorded(&shard.view).unwrap();
    assert_eq!(recorded, [("flush".to_owned(), 4), ("other".to_owned(), 9)]);
    let forgotten = shard.change(|tx| schedules::forget(tx, "flush").unwrap());
    assert_eq!(forgotten.unwrap().schedule_id, 4);
    assert_eq!(shard.change(|tx| schedules::forget(tx, "flush").unwrap()), None);
    assert_eq!(schedules::recorded(&shard.view).unwrap(), [("other".to_owned(), 9)]);
}
