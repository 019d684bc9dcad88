//! Transactions and overlays against maps that do the same the naive way.

#![allow(clippy::unwrap_used)]

mod shard;

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;

use bytes::Bytes;
use cirrus_engine::{MemoryView, Overlay, ShardHead, Transaction, View, effect};
use cirrus_proto::internal::v1::command::Kind;
use cirrus_proto::internal::v1::{Effect, Table};
use cirrus_proto::limits::Limits;
use cirrus_proto::v1::write_condition::Kind as Condition;
use cirrus_proto::v1::{DeleteRequest, PutRequest};
use proptest::collection::vec;
use proptest::prelude::*;
use shard::{Shard, bytes, condition, delete, increment, pairs, put};

type Model = BTreeMap<Bytes, Bytes>;

/// Few and short keys, so that they meet often; some are prefixes of others.
fn key() -> impl Strategy<Value = Bytes> {
    vec(0u8..3, 1..4).prop_map(Bytes::from)
}

fn change() -> impl Strategy<Value = Effect> {
    (key(), proptest::option::of(vec(any::<u8>(), 0..3))).prop_map(|(key, value)| match value {
        Some(value) => effect::put(Table::Data, key, value.into()),
        None => effect::delete(Table::Data, key),
    })
}

fn apply(model: &mut Model, effects: &[Effect]) {
    for applied in effects {
        match effect::value_after(applied) {
            Some(value) => model.insert(applied.key.clone(), value.clone()),
            None => model.remove(&applied.key),
        };
    }
}

/// A range that may be reversed or empty, and how many pairs to visit before stopping.
type Range = (Bytes, Option<Bytes>, usize);

fn scan_range() -> impl Strategy<Value = Range> {
    (vec(0u8..3, 0..4).prop_map(Bytes::from), proptest::option::of(key()), 1usize..40)
}

type Scan<'a> = &'a dyn Fn(&[u8], Option<&[u8]>, &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>);

fn check_scan(model: &Model, (start, end, count): &Range, scan: Scan<'_>) -> Result<(), TestCaseError> {
    let in_range = |key: &&Bytes| *key >= start && end.as_ref().is_none_or(|end| *key < end);
    let expected: Vec<_> = model.iter().filter(|(key, _)| in_range(key)).take(*count).collect();
    let mut found = Vec::new();
    scan(start, end.as_deref(), &mut |key, value| {
        found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        if found.len() == *count { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    prop_assert_eq!(found.iter().map(|(key, value)| (key, value)).collect::<Vec<_>>(), expected);
    Ok(())
}

#[derive(Clone, Debug)]
enum OverlayStep {
    Push { continues: bool, effects: Vec<Effect> },
    Settle { count: usize },
    Clear,
    Get(Bytes),
    Scan(Range),
}

fn overlay_step() -> impl Strategy<Value = OverlayStep> {
    prop_oneof![
        4 => (any::<bool>(), vec(change(), 0..6))
            .prop_map(|(continues, effects)| OverlayStep::Push { continues, effects }),
        3 => (1usize..3).prop_map(|count| OverlayStep::Settle { count }),
        1 => Just(OverlayStep::Clear),
        4 => key().prop_map(OverlayStep::Get),
        4 => scan_range().prop_map(OverlayStep::Scan),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever is pushed, settled and lost in between, reads through the overlay see the state with all
    /// in-flight effects applied, in order.
    #[test]
    fn an_overlay_reads_as_if_its_effects_were_applied(steps in vec(overlay_step(), 1..60)) {
        let mut base = MemoryView::new();
        let mut overlay = Overlay::new();
        let mut in_flight: VecDeque<(u64, Vec<Effect>)> = VecDeque::new();
        let mut proposal = 0;
        for step in steps {
            match &step {
                OverlayStep::Push { continues, effects } => {
                    if !(*continues && in_flight.back().is_some_and(|(last, _)| *last == proposal)) {
                        proposal += 1;
                        in_flight.push_back((proposal, Vec::new()));
                    }
                    overlay.push(proposal, effects);
                    in_flight.back_mut().unwrap().1.extend(effects.iter().cloned());
                }
                OverlayStep::Settle { count } => {
                    let settled: Vec<_> = in_flight.drain(..(*count).min(in_flight.len())).collect();
                    for (_, effects) in &settled {
                        base.apply(effects);
                    }
                    if let Some((last, _)) = settled.last() {
                        overlay.settle(*last);
                    }
                }
                OverlayStep::Clear => {
                    overlay.clear();
                    in_flight.clear();
                }
                OverlayStep::Get(_) | OverlayStep::Scan(_) => {}
            }
            let mut model: Model = pairs(&base, Table::Data).into_iter().collect();
            in_flight.iter().for_each(|(_, effects)| apply(&mut model, effects));
            let view = overlay.over(&base);
            match &step {
                OverlayStep::Get(key) => {
                    prop_assert_eq!(view.get(Table::Data, key).unwrap(), model.get(key).cloned());
                }
                OverlayStep::Scan(range) => check_scan(&model, range, &|start, end, visit| {
                    view.scan(Table::Data, start, end, visit).unwrap();
                })?,
                _ => prop_assert_eq!(pairs(&view, Table::Data), model.into_iter().collect::<Vec<_>>()),
            }
            prop_assert_eq!(overlay.is_empty(), in_flight.iter().all(|(_, effects)| effects.is_empty()));
            if overlay.is_empty() {
                prop_assert_eq!(overlay.bytes(), 0);
            }
        }
    }

    /// A transaction over an overlay over a state: its own writes, savepoints and rollbacks in any order,
    /// few enough to be searched one by one or so many that they are indexed.
    #[test]
    fn a_transaction_reads_its_own_writes_and_returns_to_its_savepoints(
        applied in vec(change(), 0..10),
        in_flight in vec(change(), 0..10),
        steps in vec(transaction_step(), 1..80),
    ) {
        let mut base = MemoryView::new();
        base.apply(&applied);
        let mut overlay = Overlay::new();
        overlay.push(1, &in_flight);
        let view = overlay.over(&base);
        let mut model: Model = pairs(&view, Table::Data).into_iter().collect();
        let mut tx = Transaction::new(&view, ShardHead::default(), &Limits::DEFAULT);
        let mut savepoints = Vec::new();
        for step in steps {
            match step {
                TransactionStep::Write(change) => {
                    match effect::value_after(&change) {
                        Some(value) => tx.write(Table::Data, change.key.clone(), value.clone()).unwrap(),
                        None => tx.remove(Table::Data, change.key.clone()).unwrap(),
                    }
                    apply(&mut model, &[change]);
                }
                TransactionStep::Savepoint => savepoints.push((tx.savepoint(), tx.write_set_bytes(), model.clone())),
                TransactionStep::Rollback { skip, keep } => {
                    savepoints.truncate(savepoints.len().saturating_sub(skip));
                    if let Some((savepoint, write_set_bytes, then)) = savepoints.last() {
                        tx.rollback_to(*savepoint);
                        prop_assert_eq!(tx.write_set_bytes(), *write_set_bytes);
                        model = then.clone();
                        if !keep {
                            savepoints.pop();
                        }
                    }
                }
                TransactionStep::Get(key) => {
                    prop_assert_eq!(tx.read(Table::Data, &key).unwrap(), model.get(&key).cloned());
                }
                TransactionStep::Scan(range) => check_scan(&model, &range, &|start, end, visit| {
                    tx.scan_table(Table::Data, start, end, visit).unwrap();
                })?,
            }
        }
        let (effects, _) = tx.finish();
        let mut keys: Vec<_> = effects.iter().map(|effect| effect.key.clone()).collect();
        keys.sort();
        keys.dedup();
        prop_assert_eq!(keys.len(), effects.len(), "one effect for each key");
        base.apply(&in_flight);
        base.apply(&effects);
        prop_assert_eq!(pairs(&base, Table::Data), model.into_iter().collect::<Vec<_>>());
    }

    /// Commands with and without expiry, conditions, sweeps and a clock that goes on (the shard's checks
    /// hold after each): visible values are those of a map that forgets on time, and versions only grow.
    #[test]
    fn commands_agree_with_a_map_that_forgets_on_time(steps in vec(command_step(), 1..80)) {
        let mut shard = Shard::new();
        let mut model: BTreeMap<String, Known> = BTreeMap::new();
        let mut last_version = 0;
        for step in steps {
            let now_ms = shard.now_ms;
            model.retain(|_, known| known.expires_at_ms == 0 || known.expires_at_ms > now_ms);
            match step {
                CommandStep::Pause(pause_ms) => shard.now_ms += pause_ms,
                CommandStep::Sweep => {
                    shard.sweep(3);
                }
                CommandStep::Put { key, value, ttl_ms, if_absent } => {
                    let wanted = if if_absent { condition(Condition::IfAbsent(true)) } else { None };
                    let expires_at_ms = if ttl_ms == 0 { 0 } else { now_ms + ttl_ms };
                    shard.run(Kind::Put(PutRequest { ttl_ms, condition: wanted, ..put(&key, &value) })).unwrap();
                    if !(if_absent && model.contains_key(&key)) {
                        model.insert(key, Known { text: value, expires_at_ms });
                    }
                }
                CommandStep::Delete { key, if_present } => {
                    let wanted = if if_present { condition(Condition::IfPresent(true)) } else { None };
                    shard.run(Kind::Delete(DeleteRequest { condition: wanted, ..delete(&key) })).unwrap();
                    model.remove(&key);
                }
                CommandStep::Increment { key, delta } => {
                    let outcome = shard.run(Kind::Increment(increment(&key, delta)));
                    let known = model.get(&key).cloned().unwrap_or(Known { text: "0".into(), expires_at_ms: 0 });
                    match known.text.parse::<i64>() {
                        Ok(number) => {
                            prop_assert!(outcome.is_ok());
                            model.insert(key, Known { text: (number + delta).to_string(), ..known });
                        }
                        Err(_) => prop_assert!(outcome.is_err()),
                    }
                }
            }
            let now_ms = shard.now_ms;
            model.retain(|_, known| known.expires_at_ms == 0 || known.expires_at_ms > now_ms);
            let request = cirrus_proto::internal::v1::ShardScan::default();
            let page = cirrus_engine::shard_scan(&shard.view, now_ms, &request, &shard.limits).unwrap();
            let found: Vec<_> = page.pairs.iter().map(|pair| (&pair.key[..], &pair.value[..], pair.expires_at_ms)).collect();
            let expected: Vec<_> = model
                .iter()
                .map(|(key, known)| (key.as_bytes(), known.text.as_bytes(), known.expires_at_ms))
                .collect();
            prop_assert_eq!(found, expected);
            let head = ShardHead::load(&shard.view).unwrap();
            let mut tx = Transaction::new(&shard.view, ShardHead { clock_ms: now_ms, ..head }, &shard.limits);
            let mut through_transaction = Vec::new();
            tx.scan(&[], None, &mut |key, value| {
                through_transaction.push((Bytes::copy_from_slice(key), value.version));
                ControlFlow::Continue(())
            }).unwrap();
            prop_assert_eq!(
                &through_transaction,
                &page.pairs.iter().map(|pair| (pair.key.clone(), pair.version)).collect::<Vec<_>>()
            );
            let next_version = tx.put(bytes("next"), Bytes::new(), 0, 0).unwrap();
            prop_assert!(page.pairs.iter().all(|pair| pair.version < next_version));
            prop_assert!(next_version > last_version);
            last_version = next_version - 1;
        }
    }
}

#[derive(Clone, Debug)]
enum TransactionStep {
    Write(Effect),
    Savepoint,
    Rollback { skip: usize, keep: bool },
    Get(Bytes),
    Scan(Range),
}

fn transaction_step() -> impl Strategy<Value = TransactionStep> {
    prop_oneof![
        6 => change().prop_map(TransactionStep::Write),
        2 => Just(TransactionStep::Savepoint),
        1 => (0usize..2, any::<bool>()).prop_map(|(skip, keep)| TransactionStep::Rollback { skip, keep }),
        3 => key().prop_map(TransactionStep::Get),
        3 => scan_range().prop_map(TransactionStep::Scan),
    ]
}

#[derive(Clone, Debug)]
struct Known {
    text: String,
    expires_at_ms: u64,
}

#[derive(Clone, Debug)]
enum CommandStep {
    Pause(u64),
    Sweep,
    Put { key: String, value: String, ttl_ms: u64, if_absent: bool },
    Delete { key: String, if_present: bool },
    Increment { key: String, delta: i64 },
}

fn command_step() -> impl Strategy<Value = CommandStep> {
    let key = || "[a-e]";
    let ttl_ms = prop_oneof![Just(0), 1u64..20];
    prop_oneof![
        2 => (1u64..15).prop_map(CommandStep::Pause),
        1 => Just(CommandStep::Sweep),
        6 => (key(), "(-?[0-9]{1,3}|x)", ttl_ms, any::<bool>()).prop_map(|(key, value, ttl_ms, if_absent)| {
            CommandStep::Put { key, value, ttl_ms, if_absent }
        }),
        2 => (key(), any::<bool>()).prop_map(|(key, if_present)| CommandStep::Delete { key, if_present }),
        4 => (key(), -5i64..5).prop_map(|(key, delta)| CommandStep::Increment { key, delta }),
    ]
}

#[test]
fn a_write_set_is_bounded_and_a_refused_write_changes_nothing() {
    let base = MemoryView::new();
    let limits = Limits { write_set_bytes: 100, ..Limits::DEFAULT };
    let mut tx = Transaction::new(&base, ShardHead::default(), &limits);
    let ten = Bytes::from_static(&[b'x'; 10]);
    for step in 0..1000u32 {
        tx.write(Table::Data, bytes("same"), ten.slice(..(step % 10) as usize)).unwrap();
    }
    assert_eq!(tx.write_set_bytes(), 4 + 9, "writing a key again replaces its write");
    let failure = tx.put(bytes("big"), Bytes::from(vec![0; 90]), 5, 0).unwrap_err();
    assert_eq!(failure.reason, cirrus_proto::Reason::WriteSetTooLarge);
    assert_eq!(failure.metadata["limit"], "100");
    assert_eq!(tx.head(), &ShardHead::default());
    assert_eq!(tx.get(b"big").unwrap(), None);
    assert_eq!(tx.finish().0.len(), 1);

    let mut tx = Transaction::new(&base, ShardHead::default(), &limits);
    let mut refused = false;
    for _ in 0..100 {
        tx.savepoint();
        refused |= tx.write(Table::Data, bytes("same"), ten.clone()).is_err();
    }
    assert!(refused && tx.write_set_bytes() <= 100, "what savepoints hold on to counts as well");
}

#[test]
fn a_rollback_returns_versions_and_expiries() {
    let base = MemoryView::new();
    let mut tx = Transaction::new(&base, ShardHead::default(), &Limits::DEFAULT);
    tx.put(bytes("kept"), bytes("1"), 100, 0).unwrap();
    let savepoint = tx.savepoint();
    let head = *tx.head();
    tx.put(bytes("kept"), bytes("2"), 200, 0).unwrap();
    tx.put(bytes("undone"), bytes("3"), 300, 0).unwrap();
    tx.delete(b"kept").unwrap();
    tx.require_catalog(9);
    tx.rollback_to(savepoint);
    assert_eq!(tx.head(), &head);
    assert_eq!(&tx.get(b"kept").unwrap().unwrap().value[..], b"1");
    let (effects, head) = tx.finish();
    assert_eq!(effects.iter().map(Effect::table).collect::<Vec<_>>(), [Table::Data, Table::Expiry]);
    assert_eq!((head.revision, head.expiring_values), (1, 1));
}

#[test]
fn a_failing_view_fails_the_read_as_the_nodes_own_fault() {
    struct Broken;
    impl View for Broken {
        fn get(&self, _: Table, _: &[u8]) -> Result<Option<Bytes>, cirrus_engine::ViewError> {
            Err(cirrus_engine::ViewError("disk on fire".into()))
        }
        fn scan(
            &self,
            _: Table,
            _: &[u8],
            _: Option<&[u8]>,
            _: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
        ) -> Result<(), cirrus_engine::ViewError> {
            Err(cirrus_engine::ViewError("disk on fire".into()))
        }
    }
    let tx = Transaction::new(&Broken, ShardHead::default(), &Limits::DEFAULT);
    let failure = tx.get(b"key").unwrap_err();
    assert_eq!(failure.reason, cirrus_proto::Reason::Internal);
    assert!(failure.message.contains("disk on fire"));
    assert!(tx.scan(&[], None, &mut |_, _| ControlFlow::Continue(())).is_err());
}
