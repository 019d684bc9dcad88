#![allow(clippy::unwrap_used)]
use cirrus_procedures::CallResult;
use cirrus_replication::wall_clock;

use super::*;

fn limits(concurrency: u32, cpu_percent: u32, limited_at_ms: u64) -> Terms {
    Terms { activated_at_ms: 1, limited_at_ms, concurrency, cpu_percent }
}

const UNLIMITED: Terms = Terms { activated_at_ms: 1, limited_at_ms: 0, concurrency: 0, cpu_percent: 0 };

fn governor() -> Governor {
    Governor::new(SuspensionSettings { kills: 2, ..Default::default() }, Arc::default())
}

fn called<'a>(library: &'a str, version: u64, function: &'a str) -> Called<'a> {
    Called { library, version, function, terms: UNLIMITED }
}

fn outcome() -> CallOutcome {
    CallOutcome { result: CallResult::Bytes(Default::default()), cpu: Duration::ZERO, memory_bytes: 0 }
}

fn run(governor: &Governor, called: Called<'_>, reason: Option<Reason>, now: Instant) -> Result<(), Failure> {
    governor.admit(&called, now)?;
    let outcome = match reason {
        None => Ok(outcome()),
        Some(reason) => Err(Failure::new(reason, "")),
    };
    governor.begin(called, now)?.end(&outcome, Duration::ZERO, now);
    Ok(())
}

#[test]
fn only_what_was_killed_for_its_limits_is_suspended_and_only_itself() {
    let now = Instant::now();
    let cases = [
        (Some(Reason::CallTimeout), true),
        (Some(Reason::CallMemory), true),
        (Some(Reason::CallKilled), false),
        (Some(Reason::ProcedureFailed), false),
        (Some(Reason::ProcedureReturnedNothing), false),
        (Some(Reason::Internal), false),
        (None, false),
    ];
    for (reason, suspends) in cases {
        let governor = governor();
        for _ in 0..2 {
            run(&governor, called("lib", 1, "f"), reason, now).unwrap();
        }
        let outcome = run(&governor, called("lib", 1, "f"), None, now);
        assert_eq!(outcome.is_err(), suspends, "{reason:?}: {outcome:?}");
        for other in [called("lib", 1, "g"), called("lib", 2, "f"), called("other", 1, "f")] {
            assert_eq!(run(&governor, other, None, now), Ok(()), "{reason:?}: {other:?}");
        }
        assert_eq!(governor.suspects("lib", now), suspends, "{reason:?}: nothing is kept of what is well");
    }
}

#[test]
fn a_refusal_says_what_when_and_why() {
    let (governor, now) = (governor(), Instant::now());
    for _ in 0..2 {
        run(&governor, called("lib", 3, "f"), Some(Reason::CallTimeout), now).unwrap();
    }
    let later = now + Duration::from_secs(4);
    let failure = run(&governor, called("lib", 3, "f"), None, later).unwrap_err();
    assert_eq!((failure.reason, failure.retry_after), (Reason::ProcedureSuspended, Some(Duration::from_secs(6))));
    for (name, value) in [("library", "lib"), ("function", "f"), ("version", "3"), ("kills", "2")] {
        assert_eq!(failure.metadata[name], value);
    }
    let until_ms: u64 = failure.metadata["until_ms"].parse().unwrap();
    assert!(until_ms.abs_diff(wall_clock().now_ms + 6_000) < 60_000, "{failure:?}");
    let listed = governor.suspended(7, later);
    let expected = SuspendedProcedure {
        node_id: 7,
        procedure: "lib.f".to_owned(),
        library_version: 3,
        kills: 2,
        remaining_ms: 6_000,
    };
    assert_eq!(listed, [expected]);
}

#[test]
fn an_activation_begins_anew_and_a_call_that_read_the_catalog_before_does_not_undo_that() {
    let (governor, now) = (governor(), Instant::now());
    let kill = |activated_at_ms| {
        let called = Called { terms: Terms { activated_at_ms, ..UNLIMITED }, ..called("lib", 1, "f") };
        run(&governor, called, Some(Reason::CallTimeout), now)
    };
    assert_eq!((kill(5), kill(5)), (Ok(()), Ok(())));
    assert!(kill(5).is_err());
    assert_eq!(kill(6), Ok(()), "it was activated again");
    assert_eq!(kill(5), Ok(()), "an older view of the catalog counts, and changes nothing else");
    assert!(kill(6).is_err());
}

#[test]
fn a_probe_that_never_ended_makes_way_for_the_next() {
    let (governor, now) = (governor(), Instant::now());
    for _ in 0..2 {
        run(&governor, called("lib", 1, "f"), Some(Reason::CallTimeout), now).unwrap();
    }
    let due = now + Duration::from_secs(10);
    let permit = governor.begin(called("lib", 1, "f"), due).unwrap();
    assert!(governor.begin(called("lib", 1, "f"), due).is_err());
    drop(permit);
    // Real time passed for the one that was dropped, but less than nothing for the test's clock.
    assert_eq!(run(&governor, called("lib", 1, "f"), None, due), Ok(()));
    assert!(!governor.suspects("lib", due));
}

#[test]
fn as_many_calls_of_a_library_run_at_once_as_its_limit_says() {
    let (governor, now, two) = (governor(), Instant::now(), limits(2, 0, 1));
    let limited = |function| Called { terms: two, ..called("lib", 1, function) };
    let first = governor.begin(limited("f"), now).unwrap();
    let second = governor.begin(limited("g"), now).unwrap();
    let refused = governor.begin(limited("f"), now).err().unwrap();
    assert_eq!((refused.reason, refused.metadata["limit"].as_str()), (Reason::LibraryBusy, "2"));
    assert!(refused.retry_after.is_some());
    assert_eq!(governor.admit(&limited("f"), now), Ok(()), "by the time it would run, others may have ended");
    assert_eq!(run(&governor, called("other", 1, "f"), None, now), Ok(()));
    second.end(&Err(Failure::new(Reason::CallKilled, "")), Duration::ZERO, now);
    let third = governor.begin(limited("g"), now).unwrap();
    drop(first);
    let fourth = governor.begin(limited("f"), now).unwrap();
    assert!(governor.begin(limited("f"), now).is_err());
    // The limit is removed while calls run, and set again.
    let (none, one) = (limits(0, 0, 2), limits(1, 0, 3));
    let free = Called { terms: none, ..called("lib", 1, "f") };
    governor.begin(free, now).unwrap().end(&Ok(outcome()), Duration::ZERO, now);
    assert!(governor.begin(Called { terms: one, ..free }, now).is_err());
    drop((third, fourth));
    assert!(governor.begin(Called { terms: one, ..free }, now).is_ok());
}

#[test]
fn a_library_gets_its_share_of_cpu_time_whatever_its_calls_end_with() {
    let (governor, start, half) = (governor(), Instant::now(), limits(0, 50, 1));
    let limited = |function| Called { terms: half, ..called("lib", 1, function) };
    let at = |ms| start + Duration::from_millis(ms);
    governor.begin(limited("f"), start).unwrap().end(&Ok(outcome()), Duration::from_millis(400), start);
    let killed = Err(Failure::new(Reason::CallTimeout, ""));
    governor.begin(limited("g"), start).unwrap().end(&killed, Duration::from_millis(200), start);
    for refused in [governor.admit(&limited("h"), start), governor.begin(limited("h"), start).map(drop)] {
        let refused = refused.unwrap_err();
        assert_eq!((refused.reason, refused.metadata["limit"].as_str()), (Reason::LibraryBudgetExceeded, "50"));
        let wait = refused.retry_after.unwrap();
        assert!((200..=202).contains(&wait.as_millis()), "{wait:?}");
    }
    assert!(governor.suspects("lib", start));
    assert_eq!(run(&governor, called("other", 1, "f"), None, start), Ok(()));
    assert_eq!(run(&governor, limited("f"), None, at(202)), Ok(()));
    assert!(!governor.suspects("lib", at(202)));
}

#[test]
fn the_newest_limits_hold_and_end_with_the_library() {
    let (governor, now) = (governor(), Instant::now());
    let (old, new) = (limits(1, 0, 1), limits(2, 0, 2));
    let called = |terms: Terms, activated_at_ms| {
        let terms = Terms { activated_at_ms, ..terms };
        Called { terms, ..called("lib", 1, "f") }
    };
    let first = governor.begin(called(old, 5), now).unwrap();
    assert!(governor.begin(called(old, 5), now).is_err());
    let second = governor.begin(called(new, 5), now).unwrap();
    drop(second);
    assert!(governor.begin(called(old, 5), now).is_ok(), "an older view of the catalog does not bring it back");
    // Deleted, and uploaded anew.
    let third = governor.begin(called(UNLIMITED, 6), now).unwrap();
    let fourth = governor.begin(called(UNLIMITED, 6), now).unwrap();
    drop((first, third, fourth));
    assert_eq!(governor.engaged.load(Ordering::Relaxed), 0, "nothing is kept of it");
}

#[test]
fn what_is_kept_in_mind_is_bounded() {
    let (governor, now, some) = (governor(), Instant::now(), limits(5, 0, 1));
    for number in 0..LIBRARIES_MAX + 10 {
        run(&governor, called(&format!("l{number}"), 1, "f"), Some(Reason::CallTimeout), now).unwrap();
        run(&governor, called("l0", 1, &format!("f{number}")), Some(Reason::CallTimeout), now).unwrap();
    }
    let sizes = |governor: &Governor| {
        let libraries = governor.libraries.lock();
        (libraries.len(), libraries.get("l0").map_or(0, Library::procedures))
    };
    assert_eq!(sizes(&governor), (LIBRARIES_MAX, PROCEDURES_MAX));
    // One with limits is always kept in mind while its calls run.
    let limited = Called { terms: some, ..called("limited", 1, "f") };
    let permit = governor.begin(limited, now).unwrap();
    assert_eq!(sizes(&governor), (LIBRARIES_MAX + 1, PROCEDURES_MAX));
    // Once these are long ago, there is room again.
    let later = now + Duration::from_secs(600);
    run(&governor, called("new", 1, "f"), Some(Reason::CallTimeout), later).unwrap();
    assert_eq!(sizes(&governor), (2, 0));
    drop(permit);
    governor.tidy(later + Duration::from_secs(600));
    assert_eq!(sizes(&governor), (0, 0));
}
