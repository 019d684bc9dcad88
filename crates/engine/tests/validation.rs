//! What is refused before it takes a place in the mailbox, and which keys a command routes by.

#![allow(clippy::unwrap_used)]

mod shard;

use bytes::Bytes;
use cirrus_engine::{databases, keys, routing_key, validate};
use cirrus_proto::Reason;
use cirrus_proto::internal::v1::command::Kind;
use cirrus_proto::internal::v1::{Command, RunSchedule, SweepExpired};
use cirrus_proto::limits::Limits;
use cirrus_proto::v1::compare::{Operator, Target};
use cirrus_proto::v1::write_condition::Kind as Condition;
use cirrus_proto::v1::{
    BatchRequest, CallRequest, Compare, DeleteLibraryRequest, DeleteRequest, DeleteScheduleRequest, GetRequest,
    LibraryPin, PutRequest, ScheduleProcedureRequest, SetLibraryLimitsRequest, SqlDatabase, SqlExecuteRequest,
    SqlStatement, TransactOperation, TransactRequest, UploadLibraryRequest, WriteCondition, WriteOperation,
    transact_operation, write_operation,
};
use shard::{bytes, condition, delete, increment, put, request_id};

fn command(kind: Kind) -> Command {
    Command { kind: Some(kind) }
}

fn write(operation: write_operation::Operation) -> WriteOperation {
    WriteOperation { operation: Some(operation) }
}

fn batch(operations: Vec<WriteOperation>) -> Kind {
    Kind::Batch(BatchRequest { operations, request_id: None })
}

fn operation(operation: transact_operation::Operation) -> TransactOperation {
    TransactOperation { operation: Some(operation) }
}

fn compare(key: &str) -> Compare {
    Compare { key: bytes(key), operator: Operator::Equal.into(), target: Some(Target::Version(0)) }
}

fn call(procedure: &str) -> CallRequest {
    CallRequest { procedure: procedure.into(), key: bytes("k"), ..CallRequest::default() }
}

fn pinned(pins: &[(&str, u64)]) -> UploadLibraryRequest {
    let pins = pins.iter().map(|&(name, version)| LibraryPin { name: name.to_owned(), version });
    UploadLibraryRequest { pins: pins.collect(), ..library("l", 1) }
}

fn schedule(every_ms: u64) -> ScheduleProcedureRequest {
    ScheduleProcedureRequest { procedure: "l@2.f".into(), key: bytes("k"), every_ms, ..Default::default() }
}

fn library(name: &str, source_bytes: usize) -> UploadLibraryRequest {
    UploadLibraryRequest { name: name.into(), source: vec![b' '; source_bytes].into(), ..Default::default() }
}

fn limits(name: &str, concurrency: Option<u32>, cpu_percent: Option<u32>) -> Kind {
    let name = name.to_owned();
    Kind::SetLibraryLimits(SetLibraryLimitsRequest { name, concurrency, cpu_percent, ..Default::default() })
}

fn sql(user: &str, text: &str) -> SqlExecuteRequest {
    let database = SqlDatabase { user: bytes(user), dbname: "d".to_owned(), ..SqlDatabase::default() };
    let statements = vec![SqlStatement { sql: text.to_owned(), ..SqlStatement::default() }];
    SqlExecuteRequest { database: Some(database), statements, request_id: None }
}

#[test]
fn what_is_right_passes() {
    use write_operation::Operation::{Delete, Increment, Put, Sql};
    let largest = PutRequest { key: vec![b'k'; 4096].into(), value: vec![0; 1024 * 1024].into(), ..put("", "") };
    let right = [
        Kind::Put(largest),
        Kind::Put(PutRequest { condition: Some(WriteCondition { kind: None }), ..put("k", "") }),
        Kind::Delete(DeleteRequest { condition: condition(Condition::IfVersion(0)), ..delete("k") }),
        batch(vec![write(Put(put("a", "x"))), write(Delete(delete("b"))), write(Increment(increment("c", 1)))]),
        batch(vec![write(Sql(sql("u", "SELECT 1"))), write(Put(put("a", "x")))]),
        Kind::Transact(TransactRequest { compare: vec![compare("k")], ..TransactRequest::default() }),
        Kind::Call(call("library.function")),
        Kind::UploadLibrary(library("Lib_1-x", 256 * 1024)),
        Kind::UploadLibrary(pinned(&[("a", 1), ("b", 7)])),
        limits("l", Some(0), None),
        limits("l", Some(1024), Some(10_000)),
        Kind::SweepExpired(SweepExpired { limit: 1 }),
        Kind::ScheduleProcedure(schedule(100)),
        Kind::ScheduleProcedure(ScheduleProcedureRequest {
            name: "x".repeat(64),
            args: vec![vec![b'x'; 64].into(); 64],
            ..schedule(366 * 86_400_000)
        }),
        Kind::RunSchedule(RunSchedule { name: "s".into(), ..Default::default() }),
    ];
    for kind in right {
        validate(&command(kind), &Limits::DEFAULT).unwrap();
    }
}

#[test]
fn what_is_wrong_is_refused_with_its_reason_and_field() {
    use write_operation::Operation::{Delete, Increment, Put, Sql};
    let long_key = || Bytes::from(vec![b'k'; 4097]);
    let long_value = || Bytes::from(vec![0; 1024 * 1024 + 1]);
    let with_id = || PutRequest { request_id: request_id("c", 1, 0), ..put("k", "") };
    let megabyte = || write(Put(PutRequest { value: vec![0; 1024 * 1024].into(), ..put("k", "") }));
    let transact =
        |compare, success| Kind::Transact(TransactRequest { compare, success, ..TransactRequest::default() });
    let deletes = |count| (0..count).map(|_| write(Delete(delete("k")))).collect();
    let cases = [
        (Kind::Put(put("", "x")), Reason::KeyEmpty, "key"),
        (Kind::Put(PutRequest { key: long_key(), ..put("", "x") }), Reason::KeyTooLarge, "key"),
        (Kind::Put(PutRequest { value: long_value(), ..put("k", "") }), Reason::ValueTooLarge, "value"),
        (
            Kind::Put(PutRequest { condition: condition(Condition::IfAbsent(false)), ..put("k", "") }),
            Reason::InvalidField,
            "condition.if_absent",
        ),
        (
            Kind::Put(PutRequest { condition: condition(Condition::IfPresent(false)), ..put("k", "") }),
            Reason::InvalidField,
            "condition.if_present",
        ),
        (
            Kind::Put(PutRequest { request_id: request_id("", 1, 0), ..put("k", "") }),
            Reason::InvalidField,
            "request_id.client_id",
        ),
        (Kind::Delete(delete("")), Reason::KeyEmpty, "key"),
        (
            Kind::Delete(DeleteRequest { condition: condition(Condition::IfAbsent(true)), ..delete("k") }),
            Reason::InvalidField,
            "condition.if_absent",
        ),
        (Kind::Increment(increment("", 1)), Reason::KeyEmpty, "key"),
        (batch(vec![]), Reason::InvalidField, "operations"),
        (batch(vec![write(Sql(sql("", "x")))]), Reason::InvalidField, "operations[0].database.user"),
        (
            batch(vec![write(Put(put("k", ""))), write(Sql(SqlExecuteRequest { statements: vec![], ..sql("u", "") }))]),
            Reason::InvalidField,
            "operations[1].statements",
        ),
        (
            batch(vec![write(Sql(SqlExecuteRequest { request_id: request_id("c", 1, 0), ..sql("u", "x") }))]),
            Reason::InvalidField,
            "operations[0].request_id",
        ),
        (batch(deletes(4097)), Reason::TooManyOperations, "operations"),
        (batch(vec![WriteOperation { operation: None }]), Reason::InvalidField, "operations[0].operation"),
        (
            batch(vec![write(Put(put("k", ""))), write(Increment(increment("", 1)))]),
            Reason::KeyEmpty,
            "operations[1].key",
        ),
        (batch(vec![write(Put(with_id()))]), Reason::InvalidField, "operations[0].request_id"),
        (batch((0..4).map(|_| megabyte()).collect()), Reason::WriteSetTooLarge, "write set"),
        (transact(vec![], vec![]), Reason::InvalidField, "success"),
        (transact(vec![compare("")], vec![]), Reason::KeyEmpty, "compare[0].key"),
        (
            transact(vec![compare("k"), Compare { operator: 0, ..compare("k") }], vec![]),
            Reason::InvalidField,
            "compare[1].operator",
        ),
        (transact(vec![Compare { operator: 99, ..compare("k") }], vec![]), Reason::InvalidField, "compare[0].operator"),
        (transact(vec![Compare { target: None, ..compare("k") }], vec![]), Reason::InvalidField, "compare[0].target"),
        (
            transact(vec![Compare { target: Some(Target::Value(long_value())), ..compare("k") }], vec![]),
            Reason::ValueTooLarge,
            "compare[0].value",
        ),
        (
            transact(vec![], vec![operation(transact_operation::Operation::Put(with_id()))]),
            Reason::InvalidField,
            "success[0].request_id",
        ),
        (
            transact(vec![], vec![operation(transact_operation::Operation::Get(GetRequest::default()))]),
            Reason::KeyEmpty,
            "success[0].key",
        ),
        (transact((0..4097).map(|_| compare("k")).collect(), vec![]), Reason::TooManyOperations, "operations"),
        (Kind::Call(CallRequest { key: Bytes::new(), ..call("l.f") }), Reason::KeyEmpty, "key"),
        (Kind::Call(call("nodot")), Reason::InvalidField, "procedure"),
        (Kind::Call(call(".f")), Reason::InvalidField, "procedure"),
        (Kind::Call(CallRequest { args: vec![vec![0; 5 << 20].into()], ..call("l.f") }), Reason::InvalidField, "args"),
        (Kind::UploadLibrary(library("", 1)), Reason::InvalidField, "name"),
        (Kind::UploadLibrary(library("spa ce", 1)), Reason::InvalidField, "name"),
        (Kind::UploadLibrary(library("l", 256 * 1024 + 1)), Reason::LibraryTooLarge, "source"),
        (Kind::UploadLibrary(pinned(&[("a", 0)])), Reason::InvalidField, "pins[0].version"),
        (Kind::UploadLibrary(pinned(&[("a", 1), ("b c", 1)])), Reason::InvalidField, "pins[1].name"),
        (Kind::UploadLibrary(pinned(&[("a", 1), ("a", 2)])), Reason::InvalidField, "pins[1].name"),
        (Kind::UploadLibrary(pinned(&[("a", 1); 17])), Reason::InvalidField, "pins"),
        (
            Kind::DeleteLibrary(DeleteLibraryRequest { name: "x".repeat(65), ..Default::default() }),
            Reason::InvalidField,
            "name",
        ),
        (limits("", Some(1), None), Reason::InvalidField, "name"),
        (limits("l", None, None), Reason::InvalidField, "concurrency"),
        (limits("l", Some(1025), None), Reason::InvalidField, "concurrency"),
        (limits("l", Some(1), Some(10_001)), Reason::InvalidField, "cpu_percent"),
        (Kind::SweepExpired(SweepExpired { limit: 0 }), Reason::InvalidField, "limit"),
        (Kind::ScheduleProcedure(schedule(99)), Reason::InvalidField, "every_ms"),
        (Kind::ScheduleProcedure(schedule(366 * 86_400_000 + 1)), Reason::InvalidField, "every_ms"),
        (
            Kind::ScheduleProcedure(ScheduleProcedureRequest { key: Bytes::new(), ..schedule(100) }),
            Reason::KeyEmpty,
            "key",
        ),
        (
            Kind::ScheduleProcedure(ScheduleProcedureRequest { name: "a/b".into(), ..schedule(100) }),
            Reason::InvalidField,
            "name",
        ),
        (
            Kind::ScheduleProcedure(ScheduleProcedureRequest { procedure: "nodot".into(), ..schedule(100) }),
            Reason::InvalidField,
            "procedure",
        ),
        (
            Kind::ScheduleProcedure(ScheduleProcedureRequest {
                procedure: format!("l.{}", "f".repeat(255)),
                ..schedule(100)
            }),
            Reason::InvalidField,
            "procedure",
        ),
        (
            Kind::ScheduleProcedure(ScheduleProcedureRequest { args: vec![Bytes::new(); 65], ..schedule(100) }),
            Reason::InvalidField,
            "args",
        ),
        (
            Kind::ScheduleProcedure(ScheduleProcedureRequest { args: vec![vec![0; 4097].into()], ..schedule(100) }),
            Reason::InvalidField,
            "args",
        ),
        (
            Kind::ScheduleProcedure(ScheduleProcedureRequest { missed_ticks: 3, ..schedule(100) }),
            Reason::InvalidField,
            "missed_ticks",
        ),
        (
            Kind::ScheduleProcedure(ScheduleProcedureRequest { created_by: "x".repeat(129), ..schedule(100) }),
            Reason::InvalidField,
            "created_by",
        ),
        (Kind::DeleteSchedule(DeleteScheduleRequest::default()), Reason::InvalidField, "name"),
        (Kind::RunSchedule(RunSchedule::default()), Reason::InvalidField, "name"),
    ];
    for (kind, reason, field) in cases {
        let failure = validate(&command(kind), &Limits::DEFAULT).unwrap_err();
        assert_eq!((failure.reason, failure.metadata["field"].as_str()), (reason, field), "{failure}");
    }
    assert_eq!(validate(&Command { kind: None }, &Limits::DEFAULT).unwrap_err().reason, Reason::InvalidField);
}

#[test]
fn a_batchs_databases_are_all_that_it_names() {
    use write_operation::Operation::{Put, Sql};
    let command = command(batch(vec![write(Sql(sql("a", "x"))), write(Put(put("b", ""))), write(Sql(sql("c", "x")))]));
    let users: Vec<&[u8]> = databases(&command).map(|database| &database.user[..]).collect();
    assert_eq!(users, [&b"a"[..], b"c"]);
    assert_eq!(keys(&command).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_commands_keys_are_all_that_it_names() {
    use write_operation::Operation::{Delete, Increment, Put};
    let transact = TransactRequest {
        compare: vec![compare("a")],
        success: vec![operation(transact_operation::Operation::Get(GetRequest {
            key: bytes("b"),
            ..GetRequest::default()
        }))],
        failure: vec![operation(transact_operation::Operation::Delete(delete("c")))],
        request_id: None,
    };
    let cases = [
        (Kind::Put(put("a", "")), vec!["a"]),
        (Kind::Delete(delete("a")), vec!["a"]),
        (Kind::Increment(increment("a", 1)), vec!["a"]),
        (Kind::Call(call("l.f")), vec!["k"]),
        (
            batch(vec![write(Put(put("a", ""))), write(Delete(delete("b"))), write(Increment(increment("c", 1)))]),
            vec!["a", "b", "c"],
        ),
        (Kind::Transact(transact), vec!["a", "b", "c"]),
        (Kind::SweepExpired(SweepExpired { limit: 1 }), vec![]),
    ];
    for (kind, expected) in cases {
        let command = command(kind);
        assert_eq!(keys(&command).map(|key| std::str::from_utf8(key).unwrap()).collect::<Vec<_>>(), expected);
        assert_eq!(routing_key(&command), expected.first().map(|key| key.as_bytes()));
    }
    assert_eq!(routing_key(&command(Kind::Put(put("{user}.name", "")))), Some(&b"user"[..]));
}
