//! A shard with one replica: evaluates a command, applies its effects, and checks what must always hold.

// Each test file uses a part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::ops::ControlFlow;

use bytes::Bytes;
use cirrus_engine::sessions::{self, Admission};
use cirrus_engine::{MemoryView, Moment, ShardHead, Transaction, View, evaluate, validate};
use cirrus_proto::internal::v1::command::Kind;
use cirrus_proto::internal::v1::{Command, Effect, Reply, StoredValue, SweepExpired, SweepOutcome, Table, reply};
use cirrus_proto::limits::Limits;
use cirrus_proto::v1::{
    DeleteRequest, GetRequest, GetResponse, IncrementRequest, PutRequest, RequestId, WriteCondition, write_condition,
};
use cirrus_proto::{Failure, Reason};
use prost::Message;

pub struct Shard {
    pub view: MemoryView,
    pub limits: Limits,
    pub now_ms: u64,
    /// How often a command was evaluated, and not answered from its session.
    pub evaluated: usize,
    /// Of the last command.
    pub effects: Vec<Effect>,
}

impl Shard {
    pub fn new() -> Shard {
        Shard { view: MemoryView::new(), limits: Limits::DEFAULT, now_ms: 1_000_000, evaluated: 0, effects: vec![] }
    }

    pub fn run(&mut self, kind: Kind) -> Result<Reply, Failure> {
        let command = Command { kind: Some(kind) };
        validate(&command, &self.limits)?;
        let mut head = ShardHead::load(&self.view)?;
        head.advance_to(Moment { now_ms: self.now_ms });
        let mut tx = Transaction::new(&self.view, head, &self.limits);
        let reply = match sessions::admit(&mut tx, &command)? {
            Admission::Repeat(reply) => *reply,
            Admission::New => {
                let reply = evaluate(&command, &mut tx)?;
                sessions::remember(&mut tx, &command, &reply)?;
                self.evaluated += 1;
                reply
            }
        };
        let (effects, head) = tx.finish();
        self.view.apply(&effects);
        self.view.apply(&[head.effect()]);
        self.effects = effects;
        self.check_expiry_index();
        Ok(reply)
    }

    pub fn reason(&mut self, kind: Kind) -> Reason {
        self.run(kind).unwrap_err().reason
    }

    pub fn increment(&mut self, request: IncrementRequest) -> i64 {
        match self.run(Kind::Increment(request)).unwrap().kind {
            Some(reply::Kind::Increment(response)) => response.value,
            other => panic!("an increment was answered with {other:?}"),
        }
    }

    pub fn sweep(&mut self, limit: u32) -> SweepOutcome {
        match self.run(Kind::SweepExpired(SweepExpired { limit })).unwrap().kind {
            Some(reply::Kind::Sweep(outcome)) => outcome,
            other => panic!("a sweep was answered with {other:?}"),
        }
    }

    pub fn get(&self, key: &str) -> GetResponse {
        let request = GetRequest { key: bytes(key), ..GetRequest::default() };
        cirrus_engine::get(&self.view, self.now_ms, &request, &self.limits).unwrap()
    }

    pub fn text(&self, key: &str) -> Option<String> {
        let response = self.get(key);
        response.found.then(|| String::from_utf8(response.value.to_vec()).unwrap())
    }

    /// The expiry index names exactly the values with an expiry, and the head counts them.
    fn check_expiry_index(&self) {
        let mut expected = Vec::new();
        for (key, stored) in pairs(&self.view, Table::Data) {
            let stored = StoredValue::decode(stored).unwrap();
            if stored.expires_at_ms != 0 {
                expected.push([&stored.expires_at_ms.to_be_bytes()[..], &key].concat());
            }
        }
        expected.sort();
        let index: Vec<Vec<u8>> = pairs(&self.view, Table::Expiry).into_iter().map(|(key, _)| key.to_vec()).collect();
        assert_eq!(index, expected);
        assert_eq!(ShardHead::load(&self.view).unwrap().expiring_values, expected.len() as u64);
    }
}

pub fn pairs(view: &dyn View, table: Table) -> Vec<(Bytes, Bytes)> {
    let mut pairs = Vec::new();
    view.scan(table, &[], None, &mut |key, value| {
        pairs.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        ControlFlow::Continue(())
    })
    .unwrap();
    pairs
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: bytes(key), value: bytes(value), ..PutRequest::default() }
}

pub fn delete(key: &str) -> DeleteRequest {
    DeleteRequest { key: bytes(key), ..DeleteRequest::default() }
}

pub fn increment(key: &str, delta: i64) -> IncrementRequest {
    IncrementRequest { key: bytes(key), delta, ..IncrementRequest::default() }
}

pub fn condition(kind: write_condition::Kind) -> Option<WriteCondition> {
    Some(WriteCondition { kind: Some(kind) })
}

pub fn request_id(client: &str, sequence: u64, acknowledged_below: u64) -> Option<RequestId> {
    Some(RequestId { client_id: bytes(client), sequence, acknowledged_below })
}
