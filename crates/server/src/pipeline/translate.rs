//! Between a pipeline's messages and what a shard evaluates.

use cirrus_proto::Failure;
use cirrus_proto::internal::v1::{Command, command, reply};
use cirrus_proto::v1::pipeline_request::Request;
use cirrus_proto::v1::pipeline_response::Response;
use cirrus_proto::v1::{
    GetRequest, ReadConsistency, TransactOperation, TransactRequest, TransactResponse, transact_operation,
    transact_result,
};

use super::lane::Access;

/// A pipeline's request, once it is known to be one.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Get(GetRequest),
    Command(Command),
}

impl Operation {
    pub(super) fn of(request: Option<Request>) -> Result<Operation, Failure> {
        let kind = match request {
            Some(Request::Get(get)) => return Ok(Operation::Get(get)),
            Some(Request::Put(put)) => command::Kind::Put(put),
            Some(Request::Delete(delete)) => command::Kind::Delete(delete),
            Some(Request::Increment(increment)) => command::Kind::Increment(increment),
            Some(Request::Batch(batch)) => command::Kind::Batch(batch),
            Some(Request::Transact(transact)) => command::Kind::Transact(transact),
            None => return Err(Failure::invalid_field("request", "one must be set")),
        };
        Ok(Operation::Command(Command { kind: Some(kind) }))
    }

    /// The message again, to be sent on.
    pub(super) fn into_request(self) -> Option<Request> {
        match self {
            Operation::Get(get) => Some(Request::Get(get)),
            Operation::Command(command) => match command.kind? {
                command::Kind::Put(put) => Some(Request::Put(put)),
                command::Kind::Delete(delete) => Some(Request::Delete(delete)),
                command::Kind::Increment(increment) => Some(Request::Increment(increment)),
                command::Kind::Batch(batch) => Some(Request::Batch(batch)),
                command::Kind::Transact(transact) => Some(Request::Transact(transact)),
                _ => None,
            },
        }
    }

    /// How it touches its shard; none for a read that asks for no order.
    pub(super) fn access(&self) -> Option<Access> {
        match self {
            Operation::Get(get) if get.consistency == ReadConsistency::Stale as i32 => None,
            Operation::Get(_) => Some(Access::Read),
            Operation::Command(_) => Some(Access::Write),
        }
    }

    /// What it keeps in memory while it is under way, bytes; about.
    pub(super) fn size(&self) -> usize {
        match self {
            Operation::Get(get) => get.key.len(),
            Operation::Command(Command { kind: Some(command::Kind::Put(put)) }) => put.key.len() + put.value.len(),
            Operation::Command(command) => prost::Message::encoded_len(command),
        }
    }

    /// The index of its metrics in [`KINDS`].
    pub(super) fn kind(&self) -> usize {
        match self {
            Operation::Get(_) => 0,
            Operation::Command(command) => match &command.kind {
                Some(command::Kind::Put(_)) => 1,
                Some(command::Kind::Delete(_)) => 2,
                Some(command::Kind::Increment(_)) => 3,
                Some(command::Kind::Batch(_)) => 4,
                _ => 5,
            },
        }
    }
}

/// What a pipeline's requests are called in metrics and spans.
pub(super) const KINDS: [&str; 6] = [
    "KeyValue/Pipeline/Get",
    "KeyValue/Pipeline/Put",
    "KeyValue/Pipeline/Delete",
    "KeyValue/Pipeline/Increment",
    "KeyValue/Pipeline/Batch",
    "KeyValue/Pipeline/Transact",
];

/// A read that the executor evaluates, after the writes before it.
pub(super) fn ordered_read(get: GetRequest) -> Command {
    let get = GetRequest { consistency: ReadConsistency::Unspecified as i32, ..get };
    let operation = TransactOperation { operation: Some(transact_operation::Operation::Get(get)) };
    let transact = TransactRequest { success: vec![operation], ..TransactRequest::default() };
    Command { kind: Some(command::Kind::Transact(transact)) }
}

/// The answer to an [`ordered_read`].
pub(super) fn response_of_ordered_read(reply: reply::Kind) -> Option<Response> {
    let reply::Kind::Transact(TransactResponse { mut results, .. }) = reply else { return None };
    match results.pop()?.result? {
        transact_result::Result::Get(get) => Some(Response::Get(get)),
        _ => None,
    }
}

/// The answer to a command.
pub(super) fn response_of_reply(reply: reply::Kind) -> Option<Response> {
    match reply {
        reply::Kind::Put(put) => Some(Response::Put(put)),
        reply::Kind::Delete(delete) => Some(Response::Delete(delete)),
        reply::Kind::Increment(increment) => Some(Response::Increment(increment)),
        reply::Kind::Batch(batch) => Some(Response::Batch(batch)),
        reply::Kind::Transact(transact) => Some(Response::Transact(transact)),
        _ => None,
    }
}

/// A failed request's answer.
pub(super) fn response_of_failure(failure: Failure) -> Response {
    Response::Failure(failure.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use cirrus_proto::Reason;
    use cirrus_proto::v1::{GetResponse, TransactResult};

    use super::*;
    use cirrus_proto::v1;

    #[test]
    fn a_request_survives_the_way_to_a_command_and_back() {
        let requests = [
            Request::Get(GetRequest { key: "k".into(), consistency: 2 }),
            Request::Put(v1::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() }),
            Request::Delete(v1::DeleteRequest { key: "k".into(), ..Default::default() }),
            Request::Increment(v1::IncrementRequest { key: "k".into(), delta: -1, ..Default::default() }),
            Request::Batch(v1::BatchRequest::default()),
            Request::Transact(v1::TransactRequest::default()),
        ];
        for (kind, request) in requests.into_iter().enumerate() {
            let operation = Operation::of(Some(request.clone())).unwrap();
            assert_eq!(operation.kind(), kind);
            assert_eq!(operation.into_request(), Some(request));
        }
        assert_eq!(Operation::of(None).unwrap_err().reason, Reason::InvalidField);
    }

    #[test]
    fn only_a_stale_read_asks_for_no_order() {
        let access = |consistency| Operation::Get(GetRequest { key: "k".into(), consistency }).access();
        assert_eq!(access(ReadConsistency::Unspecified as i32), Some(Access::Read));
        assert_eq!(access(ReadConsistency::Lease as i32), Some(Access::Read));
        assert_eq!(access(ReadConsistency::Stale as i32), None);
    }

    #[test]
    fn an_ordered_read_answers_like_a_get() {
        let command = ordered_read(GetRequest { key: "k".into(), consistency: 2 });
        assert!(matches!(command.kind, Some(command::Kind::Transact(transact)) if transact.success.len() == 1));
        let get = GetResponse { found: true, value: "v".into(), ..GetResponse::default() };
        let results = vec![TransactResult { result: Some(transact_result::Result::Get(get.clone())) }];
        let reply = reply::Kind::Transact(TransactResponse { succeeded: true, results });
        assert_eq!(response_of_ordered_read(reply), Some(Response::Get(get)));
    }

    #[test]
    fn a_failure_keeps_its_reason_code_and_delay() {
        let failure = Failure::new(Reason::MailboxFull, "full").retry_after(Duration::from_millis(20));
        let Response::Failure(failure) = response_of_failure(failure) else { unreachable!("a failure") };
        assert_eq!((failure.code, &*failure.reason, failure.retry_after_ms), (8, "MAILBOX_FULL", 20));
    }
}
