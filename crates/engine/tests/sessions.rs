//! Exactly-once: what repeated, reused, acknowledged and forgotten request ids do.

#![allow(clippy::unwrap_used)]

mod shard;

use std::collections::{BTreeMap, HashMap};

use cirrus_engine::sessions::{self, Admission};
use cirrus_engine::{ShardHead, Transaction, evaluate};
use cirrus_proto::Reason;
use cirrus_proto::internal::v1::command::Kind;
use cirrus_proto::internal::v1::{Command, CommandFailure, Reply, StoredReply, StoredSession, Table, reply};
use cirrus_proto::limits::Limits;
use cirrus_proto::v1::{BatchRequest, CallRequest, IncrementRequest, PutRequest, WriteOperation, write_operation};
use proptest::prelude::*;
use prost::Message;
use shard::{Shard, bytes, increment, pairs, put, request_id};

fn incr(client: &str, sequence: u64, acknowledged_below: u64) -> Kind {
    Kind::Increment(IncrementRequest {
        request_id: request_id(client, sequence, acknowledged_below),
        ..increment("n", 1)
    })
}

/// The replies that a shard keeps, and the sequences that its sessions say it keeps.
fn kept(shard: &Shard) -> (usize, Vec<u64>) {
    let (mut replies, mut sequences) = (0, Vec::new());
    for (key, stored) in pairs(&shard.view, Table::Sessions) {
        match key[0] {
            1 => sequences.extend(StoredSession::decode(stored).unwrap().kept_sequences),
            2 => {
                assert_eq!(StoredReply::decode(stored).unwrap().fingerprint.len(), 32);
                replies += 1;
            }
            _ => {}
        }
    }
    (replies, sequences)
}

#[test]
fn a_repeated_request_gets_the_first_reply_and_changes_nothing() {
    let mut shard = Shard::new();
    let first = shard.run(incr("c", 1, 0)).unwrap();
    shard.run(incr("c", 2, 0)).unwrap();
    assert_eq!(shard.run(incr("c", 1, 0)).unwrap(), first);
    assert!(shard.effects.is_empty());
    assert_eq!(shard.text("n").as_deref(), Some("2"));
    shard.run(incr("another", 1, 0)).unwrap();
    assert_eq!(shard.text("n").as_deref(), Some("3"), "ids of different clients are different");
}

#[test]
fn what_is_acknowledged_meanwhile_does_not_make_a_request_another_one() {
    let mut shard = Shard::new();
    shard.run(incr("c", 1, 0)).unwrap();
    let first = shard.run(incr("c", 2, 0)).unwrap();
    assert_eq!(shard.run(incr("c", 2, 2)).unwrap(), first);
}

#[test]
fn an_id_with_other_contents_is_refused() {
    let mut shard = Shard::new();
    shard.run(incr("c", 1, 0)).unwrap();
    let other = IncrementRequest { request_id: request_id("c", 1, 0), ..increment("n", 2) };
    assert_eq!(shard.reason(Kind::Increment(other)), Reason::RequestIdReused);
    let other = PutRequest { request_id: request_id("c", 1, 0), ..put("n", "1") };
    assert_eq!(shard.reason(Kind::Put(other)), Reason::RequestIdReused);
    assert_eq!(shard.text("n").as_deref(), Some("1"));
}

#[test]
fn an_acknowledged_reply_is_forgotten_and_its_id_never_evaluated_again() {
    let mut shard = Shard::new();
    for sequence in 1..=3 {
        shard.run(incr("c", sequence, 0)).unwrap();
    }
    shard.run(incr("c", 4, 3)).unwrap();
    assert_eq!(kept(&shard), (2, vec![3, 4]));
    for sequence in [1, 2] {
        assert_eq!(shard.reason(incr("c", sequence, 0)), Reason::RequestIdExpired);
    }
    assert_eq!(shard.text("n").as_deref(), Some("4"));
    assert_eq!(shard.evaluated, 4);
    shard.run(incr("c", 3, 0)).unwrap();
    assert_eq!(shard.evaluated, 4);
}

#[test]
fn a_session_keeps_a_bounded_number_of_replies() {
    let mut shard = Shard::new();
    shard.limits.session_replies = 100;
    for sequence in 1..=100 {
        shard.run(incr("c", sequence, 0)).unwrap();
    }
    assert_eq!(shard.reason(incr("c", 101, 0)), Reason::SessionFull);
    assert_eq!(shard.reason(incr("c", 101, 1)), Reason::SessionFull, "acknowledging nothing frees nothing");
    shard.run(incr("c", 50, 0)).unwrap();
    shard.run(incr("c", 101, 2)).unwrap();
    // One request drops a bounded number; a few more drop the rest.
    shard.run(incr("c", 102, 102)).unwrap();
    let (after_one, _) = kept(&shard);
    assert!((50..100).contains(&after_one), "{after_one} kept");
    assert_eq!(shard.reason(incr("c", 90, 0)), Reason::RequestIdExpired, "even while its reply is still there");
    for sequence in 103..=120 {
        shard.run(incr("c", sequence, sequence)).unwrap();
    }
    assert_eq!(kept(&shard), (1, vec![120]));
    assert_eq!(shard.text("n").as_deref(), Some("120"));
}

#[test]
fn a_failed_command_is_not_remembered() {
    let mut shard = Shard::new();
    shard.run(Kind::Put(put("n", "text"))).unwrap();
    assert_eq!(shard.reason(incr("c", 1, 0)), Reason::NotANumber);
    assert_eq!(shard.view.count(Table::Sessions), 0);
    shard.run(Kind::Put(put("n", "1"))).unwrap();
    shard.run(incr("c", 1, 0)).unwrap();
    assert_eq!(shard.text("n").as_deref(), Some("2"));
}

#[test]
fn a_procedures_own_error_is_remembered_like_any_reply() {
    let mut view = cirrus_engine::MemoryView::new();
    let call = CallRequest {
        procedure: "l.f".into(),
        key: bytes("k"),
        args: vec![],
        request_id: request_id("c", 1, 0),
        ..Default::default()
    };
    let command = Command { kind: Some(Kind::Call(call)) };
    let metadata = HashMap::from([("line".to_owned(), "3".to_owned())]);
    let failure = CommandFailure { reason: "PROCEDURE_FAILED".into(), message: "no".into(), metadata };
    let reply = Reply { kind: Some(reply::Kind::Failure(failure)) };
    let mut tx = Transaction::new(&view, ShardHead::default(), &Limits::DEFAULT);
    assert_eq!(sessions::admit(&mut tx, &command).unwrap(), Admission::New);
    let savepoint = tx.savepoint();
    tx.put(bytes("k"), bytes("half done"), 0, 0).unwrap();
    tx.rollback_to(savepoint);
    sessions::remember(&mut tx, &command, &reply).unwrap();
    let (effects, head) = tx.finish();
    view.apply(&effects);
    assert_eq!(view.count(Table::Data), 0);
    let mut tx = Transaction::new(&view, head, &Limits::DEFAULT);
    assert_eq!(sessions::admit(&mut tx, &command).unwrap(), Admission::Repeat(Box::new(reply)));
}

#[test]
fn a_reply_can_be_remembered_in_another_transaction_than_the_admitting_one() {
    let view = cirrus_engine::MemoryView::new();
    let command = Command { kind: Some(incr("c", 1, 0)) };
    let mut tx = Transaction::new(&view, ShardHead::default(), &Limits::DEFAULT);
    assert_eq!(sessions::admit(&mut tx, &command).unwrap(), Admission::New);
    let mut tx = Transaction::new(&view, ShardHead::default(), &Limits::DEFAULT);
    let reply = evaluate(&command, &mut tx).unwrap();
    sessions::remember(&mut tx, &command, &reply).unwrap();
    assert_eq!(sessions::admit(&mut tx, &command).unwrap(), Admission::Repeat(Box::new(reply)));
}

#[test]
fn a_command_at_the_write_set_limit_succeeds_with_an_id_as_without() {
    let mut shard = Shard::new();
    shard.limits.write_set_bytes = 1024;
    let value = "v".repeat(1000);
    let operations = vec![WriteOperation { operation: Some(write_operation::Operation::Put(put("key", &value))) }];
    shard.run(Kind::Batch(BatchRequest { operations, request_id: request_id("c", 1, 0) })).unwrap();
    assert_eq!(shard.text("key"), Some(value));
}

#[test]
fn a_busy_session_writes_its_idle_index_entry_once_a_minute() {
    let mut shard = Shard::new();
    shard.now_ms = 60_000 * 100;
    let idle_writes = |shard: &Shard| {
        shard.effects.iter().filter(|effect| effect.table() == Table::Sessions && effect.key[0] == 3).count()
    };
    shard.run(incr("c", 1, 0)).unwrap();
    assert_eq!(idle_writes(&shard), 1);
    shard.now_ms += 59_999;
    shard.run(incr("c", 2, 0)).unwrap();
    assert_eq!(idle_writes(&shard), 0);
    shard.now_ms += 1;
    shard.run(incr("c", 3, 0)).unwrap();
    assert_eq!(idle_writes(&shard), 2, "out of the old minute, into the new one");
    assert_eq!(pairs(&shard.view, Table::Sessions).iter().filter(|(key, _)| key[0] == 3).count(), 1);
}

#[test]
fn an_idle_session_is_swept_and_a_busy_one_is_kept() {
    let mut shard = Shard::new();
    shard.run(incr("idle", 1, 0)).unwrap();
    shard.run(incr("busy", 1, 0)).unwrap();
    shard.now_ms += shard.limits.session_idle_ms - 1;
    let first = shard.run(incr("busy", 2, 0)).unwrap();
    assert_eq!(shard.sweep(100).removed, 0, "not idle for long enough");
    shard.now_ms += 60_001;
    assert_eq!(shard.sweep(100).removed, 2, "one reply and one session");
    assert_eq!(kept(&shard), (2, vec![1, 2]));
    assert_eq!(shard.run(incr("busy", 2, 0)).unwrap(), first);
    shard.now_ms += shard.limits.session_idle_ms + 60_000;
    shard.sweep(100);
    assert_eq!(shard.view.count(Table::Sessions), 0);
}

#[test]
fn a_session_swept_in_part_refuses_what_it_forgot() {
    let mut shard = Shard::new();
    for sequence in 1..=5 {
        shard.run(incr("c", sequence, 0)).unwrap();
    }
    shard.now_ms += shard.limits.session_idle_ms + 60_000;
    let outcome = shard.sweep(3);
    assert_eq!((outcome.removed, outcome.more), (3, true));
    assert_eq!(kept(&shard), (2, vec![4, 5]));
    for sequence in 1..=3 {
        assert_eq!(shard.reason(incr("c", sequence, 0)), Reason::RequestIdExpired);
    }
    shard.run(incr("c", 4, 0)).unwrap();
    assert_eq!(shard.evaluated, 6, "five increments and a sweep");
    let rest: Vec<_> = (0..2).map(|_| shard.sweep(2)).map(|outcome| (outcome.removed, outcome.more)).collect();
    assert_eq!(rest, [(2, true), (1, false)]);
    assert_eq!(shard.view.count(Table::Sessions), 0);
}

#[test]
fn malformed_ids_are_refused() {
    let mut shard = Shard::new();
    let long = "c".repeat(65);
    for (client, sequence, acknowledged_below) in [("", 1, 0), (&long[..], 1, 0), ("c", 0, 0), ("c", 1, 2)] {
        assert_eq!(shard.reason(incr(client, sequence, acknowledged_below)), Reason::InvalidField);
    }
    shard.run(incr(&"c".repeat(64), 1, 1)).unwrap();
}

proptest! {
    /// Clients send, repeat and acknowledge in any order while the shard's sweep and clock go on: a
    /// sequence changes the counter at most once, and each answer to it is the same. (200 steps of at
    /// most 2.9 s: no session becomes idle.)
    #[test]
    fn no_sequence_is_evaluated_twice(
        steps in proptest::collection::vec((0usize..3, 1u64..40, 0u64..40, 0u64..2_900, any::<bool>()), 1..200),
    ) {
        let mut shard = Shard::new();
        shard.limits.session_replies = 8;
        let clients = ["a", "bb", "ccc"];
        let mut answers: BTreeMap<(usize, u64), Reply> = BTreeMap::new();
        for (client, sequence, acknowledged_below, pause_ms, sweep) in steps {
            shard.now_ms += pause_ms;
            let evaluated = shard.evaluated;
            match shard.run(incr(clients[client], sequence, acknowledged_below.min(sequence))) {
                Ok(reply) => {
                    let first = answers.entry((client, sequence)).or_insert_with(|| reply.clone());
                    prop_assert_eq!(first, &reply);
                }
                Err(failure) => {
                    let refused = [Reason::RequestIdExpired, Reason::SessionFull];
                    prop_assert!(refused.contains(&failure.reason), "{}", failure);
                    prop_assert_eq!(shard.evaluated, evaluated);
                }
            }
            if sweep {
                shard.sweep(2);
                shard.evaluated -= 1;
            }
            let (replies, sequences) = kept(&shard);
            prop_assert_eq!(replies, sequences.len());
        }
        prop_assert_eq!(shard.text("n").map(|text| text.parse::<usize>().unwrap()), Some(shard.evaluated));
    }
}
