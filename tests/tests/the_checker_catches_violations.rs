//! The linearizability checker accepts what a linearizable object can answer, and nothing else.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use cirrus_tests::checker::{Verdict, check};
use cirrus_tests::history::{Event, History, Operation, Outcome};
use proptest::prelude::*;

use Operation::{Add, Cas, Delete, Get, Put};

fn event(client: usize, invoked: u64, operation: Operation, returned: Option<(u64, Outcome)>) -> Event {
    Event { client, operation, invoked, returned, at: Duration::ZERO, ended: Duration::ZERO }
}

fn done(client: usize, invoked: u64, operation: Operation, returned: u64, outcome: Outcome) -> Event {
    event(client, invoked, operation, Some((returned, outcome)))
}

fn verdict(events: &[Event]) -> Verdict {
    check(&History::from([("key".to_owned(), events.to_vec())]))
}

#[track_caller]
fn accepts(events: &[Event]) {
    assert_eq!(verdict(events), Verdict::Linearizable, "{events:#?}");
}

#[track_caller]
fn rejects(events: &[Event]) {
    assert!(matches!(verdict(events), Verdict::Violated(_)), "accepted: {events:#?}");
}

#[test]
fn concurrent_operations_may_happen_in_either_order() {
    let put = done(1, 1, Put(7), 4, Outcome::Stored);
    accepts(&[put.clone(), done(2, 2, Get, 3, Outcome::Value(None))]);
    accepts(&[put.clone(), done(2, 2, Get, 3, Outcome::Value(Some(7)))]);
    accepts(&[put, done(2, 2, Get, 5, Outcome::Value(Some(7))), done(3, 3, Delete, 6, Outcome::Deleted(true))]);
}

#[test]
fn a_stale_read_is_caught() {
    let writes = [done(1, 1, Put(1), 2, Outcome::Stored), done(1, 3, Put(2), 4, Outcome::Stored)];
    let read = |value| [&writes[..], &[done(2, 5, Get, 6, Outcome::Value(value))]].concat();
    accepts(&read(Some(2)));
    rejects(&read(Some(1)));
    rejects(&read(None));
}

#[test]
fn reads_that_go_back_in_time_are_caught() {
    // The put runs all the while, so either answer is right alone; new and then old is not.
    let put = done(1, 1, Put(1), 10, Outcome::Stored);
    let reads = |first, second| {
        [put.clone(), done(2, 2, Get, 3, Outcome::Value(first)), done(3, 4, Get, 5, Outcome::Value(second))]
    };
    accepts(&reads(None, Some(1)));
    rejects(&reads(Some(1), None));
}

#[test]
fn a_lost_update_is_caught() {
    let swap = |client, invoked, returned| {
        done(client, invoked, Cas { expected: None, new: client as i64 }, returned, Outcome::Swapped)
    };
    rejects(&[swap(1, 1, 4), swap(2, 2, 3)]);
    rejects(&[
        done(1, 1, Add(1), 4, Outcome::Sum(1)),
        done(2, 2, Add(1), 5, Outcome::Sum(1)),
        done(3, 6, Get, 7, Outcome::Value(Some(1))),
    ]);
    // The write of a put that was acknowledged and then vanished.
    rejects(&[done(1, 1, Put(3), 2, Outcome::Stored), done(1, 3, Add(1), 4, Outcome::Sum(1))]);
}

#[test]
fn a_resurrected_delete_is_caught() {
    let deleted = [done(1, 1, Put(1), 2, Outcome::Stored), done(1, 3, Delete, 4, Outcome::Deleted(true))];
    let read = |value| [&deleted[..], &[done(2, 5, Get, 6, Outcome::Value(value))]].concat();
    accepts(&read(None));
    rejects(&read(Some(1)));
    rejects(&[&deleted[..], &[done(1, 5, Delete, 6, Outcome::Deleted(true))]].concat());
}

#[test]
fn an_increment_applied_twice_is_caught() {
    let first = done(1, 1, Add(1), 2, Outcome::Sum(1));
    accepts(&[first.clone(), done(2, 3, Add(1), 4, Outcome::Sum(2))]);
    rejects(&[first.clone(), done(2, 3, Add(1), 4, Outcome::Sum(3))]);
    rejects(&[first, done(2, 3, Get, 4, Outcome::Value(Some(2)))]);
}

#[test]
fn an_unknown_outcome_may_happen_late_or_never_but_only_once_and_not_early() {
    let unknown = event(1, 3, Add(5), None);
    let base = done(2, 1, Put(10), 2, Outcome::Stored);
    let reads = |values: &[i64]| {
        let mut events = vec![base.clone(), unknown.clone()];
        for (index, value) in values.iter().enumerate() {
            let invoked = 10 + 2 * index as u64;
            events.push(done(3, invoked, Get, invoked + 1, Outcome::Value(Some(*value))));
        }
        events
    };
    accepts(&reads(&[10, 10, 10]));
    accepts(&reads(&[10, 15, 15]));
    accepts(&reads(&[15]));
    rejects(&reads(&[10, 15, 20]));
    rejects(&reads(&[15, 10]));
    // Seen before it was sent.
    rejects(&[base.clone(), done(3, 3, Get, 4, Outcome::Value(Some(15))), event(1, 5, Add(5), None)]);
}

#[test]
fn a_put_of_the_same_value_is_not_taken_for_a_read() {
    // The second put of 5 must be placed after the delete, although it fits before it as well.
    accepts(&[
        done(1, 1, Put(5), 2, Outcome::Stored),
        done(2, 3, Put(5), 10, Outcome::Stored),
        done(3, 4, Delete, 9, Outcome::Deleted(true)),
        done(4, 11, Get, 12, Outcome::Value(Some(5))),
    ]);
}

/// Clients of a real linearizable register, interleaved by `choices`: each operation is invoked, takes effect at one
/// moment, and returns, with other clients' steps in between. Some never learn their outcome. The fewer `values`, the
/// more operations are alike.
fn real_history(client_count: usize, values: i64, choices: &[(u8, u8, i8)]) -> Vec<Event> {
    enum Client {
        Idle,
        Invoked(u64, Operation),
        Effective(u64, Operation, Outcome),
    }
    let mut clients: Vec<Client> = (0..client_count).map(|_| Client::Idle).collect();
    let mut lingering: Vec<Operation> = Vec::new();
    let mut events = Vec::new();
    let mut value: Option<i64> = None;
    for (tick, &(who, what, number)) in choices.iter().enumerate() {
        let tick = tick as u64 + 1;
        let who = usize::from(who) % client_count;
        let number = i64::from(number) % values;
        clients[who] = match std::mem::replace(&mut clients[who], Client::Idle) {
            Client::Idle => {
                let operation = match what % 6 {
                    0 | 1 => Get,
                    2 => Put(number),
                    3 => Delete,
                    4 => Cas { expected: (what >= 128).then_some(number), new: number + 1 },
                    _ => Add(number),
                };
                Client::Invoked(tick, operation)
            }
            Client::Invoked(invoked, operation) if what < 25 => {
                events.push(event(who, invoked, operation, None));
                lingering.push(operation);
                Client::Idle
            }
            Client::Invoked(invoked, operation) => {
                Client::Effective(invoked, operation, perform(&mut value, operation))
            }
            Client::Effective(invoked, operation, outcome) => {
                events.push(event(who, invoked, operation, (what >= 25).then_some((tick, outcome))));
                Client::Idle
            }
        };
        if what % 11 == 0
            && let Some(operation) = lingering.pop()
        {
            perform(&mut value, operation);
        }
    }
    for (who, client) in clients.into_iter().enumerate() {
        match client {
            Client::Idle => {}
            Client::Invoked(invoked, operation) | Client::Effective(invoked, operation, _) => {
                events.push(event(who, invoked, operation, None));
            }
        }
    }
    events
}

/// A register in the plainest words, apart from the checker's own.
fn perform(value: &mut Option<i64>, operation: Operation) -> Outcome {
    match operation {
        Get => Outcome::Value(*value),
        Put(new) => {
            *value = Some(new);
            Outcome::Stored
        }
        Delete => Outcome::Deleted(value.take().is_some()),
        Cas { expected, new } => {
            if *value == expected {
                *value = Some(new);
                Outcome::Swapped
            } else {
                Outcome::Found(*value)
            }
        }
        Add(delta) => {
            let sum = value.unwrap_or(0) + delta;
            *value = Some(sum);
            Outcome::Sum(sum)
        }
    }
}

/// Tries every order of every choice of the unknown operations. The definition itself; slow.
fn legal_order_exists(events: &[Event], used: u32, value: Option<i64>) -> bool {
    let waiting = |index: &usize| used & (1 << index) == 0;
    let must: Vec<usize> =
        (0..events.len()).filter(|index| events[*index].returned.is_some()).filter(waiting).collect();
    let Some(first_return) = must.iter().filter_map(|&index| events[index].returned.map(|(tick, _)| tick)).min() else {
        return true;
    };
    (0..events.len()).filter(waiting).filter(|&index| events[index].invoked < first_return).any(|index| {
        let mut after = value;
        let outcome = perform(&mut after, events[index].operation);
        events[index].returned.is_none_or(|(_, answer)| answer == outcome)
            && legal_order_exists(events, used | (1 << index), after)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn histories_of_a_real_register_are_accepted(
        client_count in 1usize..9,
        choices in prop::collection::vec(any::<(u8, u8, i8)>(), 0..300),
    ) {
        let events = real_history(client_count, 3, &choices);
        prop_assert_eq!(verdict(&events), Verdict::Linearizable, "{:#?}", events);
    }

    #[test]
    fn a_read_of_a_value_that_never_was_is_rejected(
        client_count in 1usize..9,
        choices in prop::collection::vec(any::<(u8, u8, i8)>(), 0..120),
        chosen in any::<prop::sample::Index>(),
    ) {
        let mut events = real_history(client_count, 3, &choices);
        let mut reads: Vec<&mut Event> = events
            .iter_mut()
            .filter(|event| matches!(event.returned, Some((_, Outcome::Value(_)))))
            .collect();
        prop_assume!(!reads.is_empty());
        let chosen = chosen.index(reads.len());
        reads[chosen].returned = reads[chosen].returned.map(|(tick, _)| (tick, Outcome::Value(Some(1_000_000))));
        prop_assert!(matches!(verdict(&events), Verdict::Violated(_)), "accepted: {:#?}", events);
    }

    /// Small histories with one answer changed at random: the checker and the definition agree, either way.
    #[test]
    fn the_checker_agrees_with_the_definition(
        client_count in 1usize..5,
        choices in prop::collection::vec(any::<(u8, u8, i8)>(), 4..26),
        chosen in any::<prop::sample::Index>(),
        answer in -3i64..6,
    ) {
        let mut events = real_history(client_count, 3, &choices);
        prop_assume!(!events.is_empty());
        let chosen = chosen.index(events.len());
        events[chosen].returned = events[chosen].returned.map(|(tick, outcome)| {
            let changed = match outcome {
                Outcome::Value(_) => Outcome::Value((answer > -3).then_some(answer)),
                Outcome::Found(_) | Outcome::Swapped if answer % 2 == 0 => Outcome::Found((answer > -3).then_some(answer)),
                Outcome::Found(_) | Outcome::Swapped => Outcome::Swapped,
                Outcome::Deleted(deleted) => Outcome::Deleted(!deleted),
                Outcome::Sum(_) => Outcome::Sum(answer),
                Outcome::Stored => Outcome::Stored,
            };
            (tick, changed)
        });
        let expected = legal_order_exists(&events, 0, None);
        prop_assert_eq!(verdict(&events) == Verdict::Linearizable, expected, "{:#?}", events);
    }
}

#[test]
fn ten_thousand_operations_on_one_key_are_checked_in_seconds() {
    // A fixed generator: the point is the size, and that a run can be repeated.
    let mut seed = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let choices: Vec<(u8, u8, i8)> = (0..32_000)
        .map(|_| {
            let bits = next();
            // A few operations end unknown, as many as a run with several faults leaves on one key.
            let what = if bits.is_multiple_of(4000) { 1 } else { 25 + ((bits >> 8) % 231) as u8 };
            ((bits >> 24) as u8, what, (bits >> 32) as i8)
        })
        .collect();
    let mut events = real_history(8, 127, &choices);
    let (answered, total) = (events.iter().filter(|event| event.returned.is_some()).count(), events.len());
    assert!(total > 10_000, "only {total} operations");

    let started = Instant::now();
    accepts(&events);
    let accepted_in = started.elapsed();

    // The last read sees what never was: a rejection has to look at every order of what came before it.
    let read = events.iter_mut().rfind(|event| matches!(event.returned, Some((_, Outcome::Value(_))))).unwrap();
    read.returned = read.returned.map(|(tick, _)| (tick, Outcome::Value(Some(1_000_000))));
    let started = Instant::now();
    let rejected = verdict(&events);
    let rejected_in = started.elapsed();
    eprintln!("{answered} answered of {total} operations: accepted in {accepted_in:?}, rejected in {rejected_in:?}");
    assert!(matches!(rejected, Verdict::Violated(_)), "{rejected:?}");
    assert!(accepted_in + rejected_in < Duration::from_secs(30), "took {accepted_in:?} and {rejected_in:?}");
}
