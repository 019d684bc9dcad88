//! Commands, what they answer and what they change.

#![allow(clippy::unwrap_used)]

mod shard;

use cirrus_engine::{ShardHead, Transaction, evaluate_batch, has_sql};
use cirrus_proto::internal::v1::command::Kind;
use cirrus_proto::internal::v1::effect::Change;
use cirrus_proto::internal::v1::{CreateCluster, Effect, SweepOutcome, Table, reply};
use cirrus_proto::limits::Limits;
use cirrus_proto::v1::compare::{Operator, Target};
use cirrus_proto::v1::write_condition::Kind as Condition;
use cirrus_proto::v1::{
    BatchRequest, BatchResponse, Compare, DeleteRequest, DeleteResponse, GetRequest, IncrementRequest,
    IncrementResponse, PutRequest, PutResponse, SqlDatabase, SqlExecuteRequest, SqlExecuteResponse, SqlStatement,
    TransactOperation, TransactRequest, TransactResponse, WriteOperation, transact_operation, transact_result,
    write_operation, write_result,
};
use cirrus_proto::{Failure, Reason};
use shard::{Shard, bytes, condition, delete, increment, pairs, put};

fn run_put(shard: &mut Shard, request: PutRequest) -> PutResponse {
    match shard.run(Kind::Put(request)).unwrap().kind {
        Some(reply::Kind::Put(response)) => response,
        other => panic!("a put was answered with {other:?}"),
    }
}

fn run_delete(shard: &mut Shard, request: DeleteRequest) -> DeleteResponse {
    match shard.run(Kind::Delete(request)).unwrap().kind {
        Some(reply::Kind::Delete(response)) => response,
        other => panic!("a delete was answered with {other:?}"),
    }
}

fn run_batch(shard: &mut Shard, operations: Vec<write_operation::Operation>) -> Result<BatchResponse, Failure> {
    let operations = operations.into_iter().map(|one| WriteOperation { operation: Some(one) }).collect();
    match shard.run(Kind::Batch(BatchRequest { operations, request_id: None }))?.kind {
        Some(reply::Kind::Batch(response)) => Ok(response),
        other => panic!("a batch was answered with {other:?}"),
    }
}

fn run_transact(
    shard: &mut Shard,
    compare: Vec<Compare>,
    success: Vec<transact_operation::Operation>,
    failure: Vec<transact_operation::Operation>,
) -> Result<TransactResponse, Failure> {
    let list = |operations: Vec<transact_operation::Operation>| {
        operations.into_iter().map(|one| TransactOperation { operation: Some(one) }).collect()
    };
    let request = TransactRequest { compare, success: list(success), failure: list(failure), request_id: None };
    match shard.run(Kind::Transact(request))?.kind {
        Some(reply::Kind::Transact(response)) => Ok(response),
        other => panic!("a transaction was answered with {other:?}"),
    }
}

fn compare(key: &str, operator: Operator, target: Target) -> Compare {
    Compare { key: bytes(key), operator: operator.into(), target: Some(target) }
}

/// The effects of the last command: table, key, and whether it was stored.
fn changes(shard: &Shard) -> Vec<(Table, String, bool)> {
    let stored = |change: &Option<Change>| matches!(change, Some(Change::Put(_)));
    let key = |effect: &Effect| match effect.table() {
        Table::Expiry => effect.key.slice(8..),
        _ => effect.key.clone(),
    };
    let text = |effect: &Effect| String::from_utf8(key(effect).to_vec()).unwrap();
    shard.effects.iter().map(|effect| (effect.table(), text(effect), stored(&effect.change))).collect()
}

#[test]
fn a_put_stores_value_and_flags_under_the_next_revision() {
    let mut shard = Shard::new();
    assert_eq!(run_put(&mut shard, put("a", "one")), PutResponse { applied: true, version: 1 });
    assert_eq!(changes(&shard), [(Table::Data, "a".into(), true)]);
    assert_eq!(run_put(&mut shard, PutRequest { flags: 7, ..put("b", "two") }).version, 2);
    assert_eq!(run_put(&mut shard, put("a", "three")).version, 3);
    let a = shard.get("a");
    assert_eq!((a.found, &a.value[..], a.version, a.flags), (true, &b"three"[..], 3, 0));
    assert_eq!(shard.get("b").flags, 7);
    assert!(!shard.get("c").found);
}

#[test]
fn a_put_happens_only_where_its_condition_holds() {
    let cases = [
        // condition, with no value, with a value of version 1, with an expired value
        (Condition::IfAbsent(true), true, false, true),
        (Condition::IfPresent(true), false, true, false),
        (Condition::IfVersion(1), false, true, false),
        (Condition::IfVersion(9), false, false, false),
        (Condition::IfVersion(0), true, false, true),
    ];
    for (kind, absent, present, expired) in cases {
        let conditional = PutRequest { condition: condition(kind), ..put("key", "new") };
        for (existing, expected) in [(None, absent), (Some(0), present), (Some(10), expired)] {
            let mut shard = Shard::new();
            if let Some(ttl_ms) = existing {
                run_put(&mut shard, PutRequest { ttl_ms, ..put("key", "old") });
                shard.now_ms += 10;
            }
            let response = run_put(&mut shard, conditional.clone());
            assert_eq!(response.applied, expected, "{kind:?} over {existing:?}");
            let before = (existing == Some(0)).then_some("old");
            let after = if expected { Some("new") } else { before };
            assert_eq!(shard.text("key").as_deref(), after, "{kind:?} over {existing:?}");
            let found = u64::from(before.is_some());
            if !expected {
                assert_eq!(response.version, found);
                assert!(shard.effects.is_empty(), "a refused put writes nothing");
            }
        }
    }
}

#[test]
fn a_delete_says_what_it_found_and_happens_only_where_its_condition_holds() {
    let mut shard = Shard::new();
    assert_eq!(run_delete(&mut shard, delete("a")), DeleteResponse { deleted: false, version: 0 });
    assert!(shard.effects.is_empty());
    run_put(&mut shard, put("a", "one"));
    let wrong = DeleteRequest { condition: condition(Condition::IfVersion(9)), ..delete("a") };
    assert_eq!(run_delete(&mut shard, wrong), DeleteResponse { deleted: false, version: 1 });
    let right = DeleteRequest { condition: condition(Condition::IfVersion(1)), ..delete("a") };
    assert_eq!(run_delete(&mut shard, right), DeleteResponse { deleted: true, version: 1 });
    assert_eq!(changes(&shard), [(Table::Data, "a".into(), false)]);
    assert_eq!(shard.text("a"), None);
}

#[test]
fn expired_values_are_absent_to_everything_and_swept_later() {
    let mut shard = Shard::new();
    run_put(&mut shard, PutRequest { ttl_ms: 10, ..put("gone", "5") });
    assert_eq!(changes(&shard), [(Table::Data, "gone".into(), true), (Table::Expiry, "gone".into(), true)]);
    shard.now_ms += 9;
    assert_eq!(shard.text("gone").as_deref(), Some("5"));
    assert_eq!(shard.sweep(10), SweepOutcome { removed: 0, more: false });
    shard.now_ms += 1;
    assert_eq!(shard.text("gone"), None, "a time to live of 10 ms has passed after 10 ms");
    assert_eq!(run_delete(&mut shard, delete("gone")), DeleteResponse { deleted: false, version: 0 });
    let absent = vec![compare("gone", Operator::Equal, Target::Version(0))];
    assert!(run_transact(&mut shard, absent, vec![], vec![]).unwrap().succeeded);
    assert_eq!(shard.view.count(Table::Data), 1);
    assert_eq!(shard.sweep(10), SweepOutcome { removed: 1, more: false });
    assert_eq!((shard.view.count(Table::Data), shard.view.count(Table::Expiry)), (0, 0));

    run_put(&mut shard, PutRequest { ttl_ms: 10, ..put("gone", "5") });
    shard.now_ms += 10;
    assert_eq!(shard.increment(increment("gone", 2)), 2, "an expired number counts as 0");
    assert_eq!(shard.get("gone").expires_at_ms, 0, "and its expiry went with it");
}

#[test]
fn an_overwrite_moves_the_expiry() {
    let mut shard = Shard::new();
    run_put(&mut shard, PutRequest { ttl_ms: 10, ..put("key", "one") });
    run_put(&mut shard, PutRequest { ttl_ms: 20, ..put("key", "two") });
    assert_eq!(shard.view.count(Table::Expiry), 1);
    shard.now_ms += 10;
    assert_eq!(shard.text("key").as_deref(), Some("two"));
    run_put(&mut shard, put("key", "three"));
    assert_eq!(shard.view.count(Table::Expiry), 0);
    shard.now_ms += 1_000_000;
    assert_eq!(shard.sweep(10).removed, 0);
    assert_eq!(shard.text("key").as_deref(), Some("three"));
    run_put(&mut shard, PutRequest { ttl_ms: 10, ..put("key", "four") });
    run_delete(&mut shard, delete("key"));
    assert_eq!(shard.view.count(Table::Expiry), 0);
}

#[test]
fn a_time_to_live_past_the_end_of_time_never_ends() {
    let mut shard = Shard::new();
    run_put(&mut shard, PutRequest { ttl_ms: u64::MAX, ..put("key", "kept") });
    assert_eq!(shard.get("key").expires_at_ms, u64::MAX);
    shard.now_ms = u64::MAX - 1;
    assert_eq!(shard.text("key").as_deref(), Some("kept"));
    shard.now_ms = u64::MAX;
    assert_eq!(shard.sweep(10).removed, 1, "a sweep at the last moment does not overflow");
}

#[test]
fn the_shards_clock_does_not_follow_a_slower_one() {
    let mut shard = Shard::new();
    run_put(&mut shard, PutRequest { ttl_ms: 10, ..put("gone", "x") });
    shard.now_ms += 10;
    run_put(&mut shard, put("other", "y"));
    shard.now_ms -= 10;
    assert_eq!(shard.text("gone"), None, "a read by a slower clock does not bring an expired value back");
    let absent = PutRequest { condition: condition(Condition::IfAbsent(true)), ..put("gone", "z") };
    assert!(run_put(&mut shard, absent).applied);
}

#[test]
fn a_sweep_removes_at_most_its_limit_and_says_whether_more_is_left() {
    let mut shard = Shard::new();
    for key in ["a", "b", "c", "d", "e"] {
        run_put(&mut shard, PutRequest { ttl_ms: 10, ..put(key, "x") });
    }
    run_put(&mut shard, PutRequest { ttl_ms: 1000, ..put("later", "x") });
    shard.now_ms += 10;
    let outcomes: Vec<_> = (0..3).map(|_| shard.sweep(2)).map(|outcome| (outcome.removed, outcome.more)).collect();
    assert_eq!(outcomes, [(2, true), (2, true), (1, false)]);
    assert_eq!(shard.view.count(Table::Data), 1);
}

#[test]
fn a_sweep_proposes_no_more_than_a_write_set() {
    let mut shard = Shard::new();
    for index in 0..10 {
        run_put(&mut shard, PutRequest { ttl_ms: 10, ..put(&format!("{index}{}", "k".repeat(99)), "x") });
    }
    shard.now_ms += 10;
    shard.limits.write_set_bytes = 500;
    let outcome = shard.sweep(100);
    assert!((1..10).contains(&outcome.removed) && outcome.more, "{outcome:?}");
    while shard.sweep(100).more {}
    assert_eq!(shard.view.count(Table::Data), 0);
}

#[test]
fn an_increment_is_exact_and_keeps_expiry_and_flags() {
    let mut shard = Shard::new();
    assert_eq!(shard.increment(increment("n", 5)), 5);
    assert_eq!(shard.increment(increment("n", -7)), -2);
    assert_eq!(shard.text("n").as_deref(), Some("-2"));
    assert_eq!(shard.get("n").version, 2);

    run_put(&mut shard, PutRequest { ttl_ms: 50, flags: 3, ..put("kept", " 41 ") });
    let expires_at_ms = shard.get("kept").expires_at_ms;
    assert_eq!(shard.increment(IncrementRequest { ttl_ms: 9999, ..increment("kept", 1) }), 42);
    let kept = shard.get("kept");
    assert_eq!((&kept.value[..], kept.flags, kept.expires_at_ms), (&b"42"[..], 3, expires_at_ms));

    assert_eq!(shard.increment(IncrementRequest { ttl_ms: 50, ..increment("fresh", 1) }), 1);
    assert_eq!(shard.get("fresh").expires_at_ms, shard.now_ms + 50);
}

#[test]
fn an_increment_refuses_what_is_no_number_or_does_not_fit() {
    let mut shard = Shard::new();
    for text in ["", "1.5", "0x10", "ten", "9223372036854775808"] {
        run_put(&mut shard, put("n", text));
        assert_eq!(shard.reason(Kind::Increment(increment("n", 1))), Reason::NotANumber, "{text:?}");
        assert_eq!(shard.text("n").as_deref(), Some(text));
    }
    for (start, delta) in [(i64::MAX, 1), (i64::MIN, -1), (-2, i64::MIN + 1)] {
        run_put(&mut shard, put("n", &start.to_string()));
        assert_eq!(shard.reason(Kind::Increment(increment("n", delta))), Reason::IntegerOverflow);
        assert_eq!(shard.text("n"), Some(start.to_string()));
    }
    run_put(&mut shard, put("n", &i64::MIN.to_string()));
    assert_eq!(shard.increment(increment("n", i64::MAX)), -1);
}

#[test]
fn later_operations_of_a_batch_see_the_earlier_ones() {
    use write_operation::Operation::{Delete, Increment, Put};
    let mut shard = Shard::new();
    let response = run_batch(
        &mut shard,
        vec![
            Put(put("n", "1")),
            Increment(increment("n", 1)),
            Put(put("gone", "x")),
            Delete(delete("gone")),
            Delete(delete("never there")),
            Put(PutRequest { condition: condition(Condition::IfAbsent(true)), ..put("gone", "y") }),
        ],
    )
    .unwrap();
    let results: Vec<_> = response.results.into_iter().map(|result| result.result.unwrap()).collect();
    assert_eq!(
        results,
        [
            write_result::Result::Put(PutResponse { applied: true, version: 1 }),
            write_result::Result::Increment(IncrementResponse { value: 2, version: 2 }),
            write_result::Result::Put(PutResponse { applied: true, version: 3 }),
            write_result::Result::Delete(DeleteResponse { deleted: true, version: 3 }),
            write_result::Result::Delete(DeleteResponse { deleted: false, version: 0 }),
            write_result::Result::Put(PutResponse { applied: true, version: 4 }),
        ]
    );
    assert_eq!(changes(&shard), [(Table::Data, "n".into(), true), (Table::Data, "gone".into(), true)]);
    assert_eq!(shard.text("n").as_deref(), Some("2"));
    assert_eq!(shard.text("gone").as_deref(), Some("y"));
}

#[test]
fn a_batch_with_a_failing_operation_writes_nothing_and_names_it() {
    use write_operation::Operation::{Delete, Increment, Put};
    let mut shard = Shard::new();
    run_put(&mut shard, put("text", "abc"));
    let unmet = condition(Condition::IfAbsent(true));
    let cases = [
        (Put(PutRequest { condition: unmet, ..put("text", "x") }), Reason::ConditionFailed, Some("1")),
        (
            Delete(DeleteRequest { condition: condition(Condition::IfVersion(9)), ..delete("text") }),
            Reason::ConditionFailed,
            Some("1"),
        ),
        (
            Delete(DeleteRequest { condition: condition(Condition::IfPresent(true)), ..delete("none") }),
            Reason::ConditionFailed,
            Some("0"),
        ),
        (Increment(increment("text", 1)), Reason::NotANumber, None),
    ];
    for (failing, reason, version) in cases {
        let before = pairs(&shard.view, Table::Data);
        let failure = run_batch(&mut shard, vec![Put(put("first", "x")), failing, Put(put("last", "x"))]).unwrap_err();
        assert_eq!(failure.reason, reason);
        assert_eq!(failure.metadata.get("operation").map(String::as_str), Some("1"));
        assert_eq!(failure.metadata.get("version").map(String::as_str), version);
        assert!(failure.message.starts_with("operations[1]: "), "{}", failure.message);
        assert_eq!(pairs(&shard.view, Table::Data), before);
    }
}

#[test]
fn operations_of_sql_are_run_in_their_places_by_whoever_knows_sql() {
    use write_operation::Operation::{Increment, Sql};
    let statement = |sql: &str| {
        let statements = vec![SqlStatement { sql: sql.to_owned(), ..SqlStatement::default() }];
        let database = Some(SqlDatabase { user: bytes("u"), dbname: "d".to_owned(), ..SqlDatabase::default() });
        Sql(SqlExecuteRequest { database, statements, request_id: None })
    };
    let operations =
        vec![Increment(increment("n", 1)), statement("first"), Increment(increment("n", 1)), statement("2")];
    let operations = operations.into_iter().map(|one| WriteOperation { operation: Some(one) }).collect();
    let request = BatchRequest { operations, request_id: None };
    assert!(has_sql(&request) && !has_sql(&BatchRequest::default()));

    let mut shard = Shard::new();
    let mut transaction = Transaction::new(&shard.view, ShardHead::default(), &Limits::DEFAULT);
    let mut seen = Vec::new();
    let response = evaluate_batch(&request, &mut transaction, &mut |execute, transaction| {
        let n = transaction.get(b"n")?.unwrap().value;
        seen.push(format!("{} at {}", execute.statements[0].sql, String::from_utf8_lossy(&n)));
        Ok(SqlExecuteResponse::default())
    });
    assert_eq!(seen, ["first at 1", "2 at 2"]);
    let results = response.unwrap().results;
    assert_eq!(results.len(), 4);
    assert_eq!(results[3].result, Some(write_result::Result::Sql(SqlExecuteResponse::default())));

    let mut fails = |_: &SqlExecuteRequest, _: &mut Transaction<'_>| {
        Err(Failure::new(Reason::SqlInvalid, "statements[2]: no such table: t").with("statement", 2))
    };
    let mut transaction = Transaction::new(&shard.view, ShardHead::default(), &Limits::DEFAULT);
    let failure = evaluate_batch(&request, &mut transaction, &mut fails).unwrap_err();
    assert_eq!((&*failure.metadata["operation"], &*failure.metadata["statement"]), ("1", "2"));
    assert_eq!(failure.message, "operations[1]: statements[2]: no such table: t");

    // Handing one in elsewhere is the caller's mistake, and leaves nothing.
    assert_eq!(shard.run(Kind::Batch(request)).unwrap_err().reason, Reason::Internal);
    assert_eq!(shard.text("n"), None);
}

#[test]
fn a_comparison_reads_versions_and_bytes_as_etcd_does() {
    use Operator::{Equal, Greater, Less, NotEqual};
    let mut shard = Shard::new();
    run_put(&mut shard, put("other", "x"));
    run_put(&mut shard, put("key", "mm"));
    let version = |version| Target::Version(version);
    let value = |text: &str| Target::Value(bytes(text));
    let cases = [
        ("key", Equal, version(2), true),
        ("key", Equal, version(1), false),
        ("key", NotEqual, version(1), true),
        ("key", Greater, version(1), true),
        ("key", Greater, version(2), false),
        ("key", Less, version(3), true),
        ("key", Equal, version(0), false),
        ("none", Equal, version(0), true),
        ("none", Less, version(1), true),
        ("none", NotEqual, version(0), false),
        ("key", Equal, value("mm"), true),
        ("key", NotEqual, value("mm"), false),
        ("key", Less, value("n"), true),
        ("key", Greater, value("m"), true),
        ("none", Equal, value(""), false),
        ("none", Less, value("a"), false),
        ("none", Greater, value(""), false),
        ("none", NotEqual, value(""), true),
    ];
    for (key, operator, target, expected) in cases {
        let one = compare(key, operator, target);
        let response = run_transact(&mut shard, vec![one.clone()], vec![], vec![]).unwrap();
        assert_eq!(response.succeeded, expected, "{one:?}");
    }
}

#[test]
fn a_transaction_runs_one_list_atomically() {
    use transact_operation::Operation::{Delete, Get, Increment, Put};
    let mut shard = Shard::new();
    let get = |key: &str| Get(GetRequest { key: bytes(key), ..GetRequest::default() });
    let absent = || vec![compare("lock", Operator::Equal, Target::Version(0))];
    let taken = || vec![Put(put("lock", "me")), Increment(increment("fence", 1)), get("lock"), Delete(delete("old"))];
    let first = run_transact(&mut shard, absent(), taken(), vec![get("lock")]).unwrap();
    assert!(first.succeeded);
    match first.results[2].result.as_ref().unwrap() {
        transact_result::Result::Get(response) => assert_eq!(&response.value[..], b"me", "a get sees earlier writes"),
        other => panic!("{other:?}"),
    }
    let second = run_transact(&mut shard, absent(), taken(), vec![get("lock")]).unwrap();
    assert!(!second.succeeded);
    assert_eq!(second.results.len(), 1);
    assert!(shard.effects.is_empty());
    assert_eq!(shard.text("fence").as_deref(), Some("1"));

    let broken = vec![Put(put("lock", "you")), Increment(increment("lock", 1))];
    let failure = run_transact(&mut shard, vec![], broken, vec![]).unwrap_err();
    assert_eq!(failure.reason, Reason::NotANumber);
    assert!(failure.message.starts_with("success[1]: "), "{}", failure.message);
    assert_eq!(shard.text("lock").as_deref(), Some("me"));

    let unmet = PutRequest { condition: condition(Condition::IfAbsent(true)), ..put("lock", "you") };
    let response = run_transact(&mut shard, vec![], vec![Put(unmet), Put(put("more", "x"))], vec![]).unwrap();
    let applied = response.results.iter().map(|result| match result.result.as_ref().unwrap() {
        transact_result::Result::Put(response) => response.applied,
        other => panic!("{other:?}"),
    });
    assert_eq!(applied.collect::<Vec<_>>(), [false, true], "a condition inside concerns its own operation only");
}

#[test]
fn a_transaction_cannot_ask_for_an_unbounded_reply() {
    let mut shard = Shard::new();
    shard.limits.call_reply_bytes = 25;
    run_put(&mut shard, put("key", "0123456789"));
    let get = || transact_operation::Operation::Get(GetRequest { key: bytes("key"), ..GetRequest::default() });
    assert_eq!(run_transact(&mut shard, vec![], vec![get(), get()], vec![]).unwrap().results.len(), 2);
    let failure = run_transact(&mut shard, vec![], vec![get(), get(), get()], vec![]).unwrap_err();
    assert_eq!(failure.reason, Reason::ResultTooLarge);
}

#[test]
fn a_command_of_another_crate_is_refused() {
    let mut shard = Shard::new();
    assert_eq!(shard.reason(Kind::CreateCluster(CreateCluster::default())), Reason::Internal);
}
