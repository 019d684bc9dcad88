//! What every request goes through on its way in and out: admission, deadline, validation, routing, a span,
//! metrics, and the translation of failures.

use std::sync::Arc;
use std::time::Instant;

use cirrus_cluster::{ClusterNode, Routed};
use cirrus_proto::internal::v1::{Command, CommandFailure, Query, Reply, command, query, query_result, reply};
use cirrus_proto::limits::Limits;
use cirrus_proto::v1::{ReadConsistency, RequestId};
use cirrus_proto::{FORWARDED_METADATA, Failure, LEADER_METADATA, Reason};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::admission::Admission;
use crate::deadline::DeadlinePolicy;
use crate::observation::Rpc;
use crate::routing;

/// Shared by all services.
pub(crate) struct Edge {
    pub(crate) node: Arc<ClusterNode>,
    pub(crate) limits: Limits,
    pub(crate) deadlines: DeadlinePolicy,
    pub(crate) requests: Admission,
}

/// What a request says about itself beside its message.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) deadline: Instant,
    /// A node forwarded it here, so it goes no further.
    pub(crate) forwarded: bool,
}

impl Edge {
    /// Reads a request's metadata.
    pub(crate) fn arrival(&self, now: Instant, metadata: &MetadataMap) -> Result<Arrival, Failure> {
        let deadline = self.deadlines.deadline(now, metadata)?;
        Ok(Arrival { deadline, forwarded: is_forwarded(metadata) })
    }

    /// Serves a unary request: `handle` runs it once it is admitted and its deadline is known.
    pub(crate) async fn unary<T, R, F>(
        &self,
        rpc: &Rpc,
        request: Request<T>,
        handle: impl FnOnce(Arrival, T) -> F,
    ) -> Result<Response<R>, Status>
    where
        F: Future<Output = Result<Routed<R>, Failure>>,
    {
        let observation = rpc.begin();
        let outcome = async {
            let _admitted = self.requests.admit()?;
            let arrival = self.arrival(observation.started(), request.metadata())?;
            handle(arrival, request.into_inner()).await
        }
        .await;
        observation.answer(code_of(&outcome));
        respond(outcome?)
    }

    /// Serves a unary request that is a command to the shard of its keys.
    pub(crate) async fn command<T, R>(
        &self,
        rpc: &Rpc,
        request: Request<T>,
        wrap: impl FnOnce(T) -> command::Kind,
        unwrap: impl FnOnce(reply::Kind) -> Option<R>,
    ) -> Result<Response<R>, Status> {
        self.unary(rpc, request, |arrival, message| async move {
            let command = Command { kind: Some(wrap(message)) };
            let shard_id = self.route(&command)?;
            let span = request_span(rpc.name(), shard_id, &command);
            let routed =
                self.node.command(shard_id, command, arrival.deadline, !arrival.forwarded).instrument(span).await?;
            let value = unwrap(reply_kind(routed.value)?).ok_or_else(mismatched_reply)?;
            Ok(Routed { value, leader_address: routed.leader_address })
        })
        .await
    }

    /// Validates a command and finds its shard.
    pub(crate) fn route(&self, command: &Command) -> Result<u32, Failure> {
        cirrus_engine::validate(command, &self.limits)?;
        routing::shard_of_command(command, |key| self.node.shard_of(key))
    }

    /// Reads from one shard.
    pub(crate) async fn query(
        &self,
        shard_id: u32,
        kind: query::Kind,
        consistency: i32,
        arrival: Arrival,
    ) -> Result<Routed<query_result::Kind>, Failure> {
        let query = Query { kind: Some(kind), consistency };
        let routed = self.node.query(shard_id, query, arrival.deadline, !arrival.forwarded).await?;
        let value = routed.value.kind.ok_or_else(mismatched_reply)?;
        Ok(Routed { value, leader_address: routed.leader_address })
    }
}

/// Whether a node forwarded the request here.
pub(crate) fn is_forwarded(metadata: &MetadataMap) -> bool {
    metadata.contains_key(FORWARDED_METADATA)
}

/// Refuses numbers that name no consistency.
pub(crate) fn check_consistency(consistency: i32) -> Result<(), Failure> {
    match ReadConsistency::try_from(consistency) {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::invalid_field("consistency", format!("{consistency} is not a ReadConsistency"))),
    }
}

/// What a reply says, or the failure that it carries.
pub(crate) fn reply_kind(reply: Reply) -> Result<reply::Kind, Failure> {
    match reply.kind {
        Some(reply::Kind::Failure(failure)) => Err(command_failure(failure)),
        Some(kind) => Ok(kind),
        None => Err(mismatched_reply()),
    }
}

/// A shard's answer that does not fit what was asked of it.
pub(crate) fn mismatched_reply() -> Failure {
    Failure::internal("the shard's reply does not fit the request")
}

/// A failure that a shard kept as a command's reply.
fn command_failure(failure: CommandFailure) -> Failure {
    match Reason::parse(&failure.reason) {
        Some(reason) => Failure {
            reason,
            message: failure.message,
            metadata: failure.metadata.into_iter().collect(),
            retry_after: None,
        },
        // A newer node kept it; its message is all that this version can pass on.
        None => Failure::internal(format!("{}: {}", failure.reason, failure.message)),
    }
}

/// The status code that an outcome is answered with.
pub(crate) fn code_of<T>(outcome: &Result<T, Failure>) -> Code {
    match outcome {
        Ok(_) => Code::Ok,
        Err(failure) => failure.code(),
    }
}

/// The span of a request. Disabled at the default filter: no request pays for a span that nobody reads.
pub(crate) fn request_span(rpc: &'static str, shard_id: u32, command: &Command) -> Span {
    let span = tracing::debug_span!("request", rpc, shard = shard_id, request_id = Empty);
    if !span.is_disabled()
        && let Some(id) = cirrus_engine::sessions::request_id(command)
    {
        span.record("request_id", tracing::field::display(RequestIdText(id)));
    }
    span
}

/// The span of a read.
pub(crate) fn read_span(rpc: &'static str, shard_id: u32) -> Span {
    tracing::debug_span!("request", rpc, shard = shard_id)
}

pub(crate) fn respond<R>(routed: Routed<R>) -> Result<Response<R>, Status> {
    let mut response = Response::new(routed.value);
    if let Some(address) = routed.leader_address {
        let address = address.parse().map_err(|_| Failure::internal("the leader's address is not ASCII"))?;
        response.metadata_mut().insert(LEADER_METADATA, address);
    }
    Ok(response)
}

/// "0a1b…/7": the client in hexadecimal, then the sequence.
struct RequestIdText<'a>(&'a RequestId);

impl std::fmt::Display for RequestIdText<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in &self.0.client_id {
            write!(f, "{byte:02x}")?;
        }
        write!(f, "/{}", self.0.sequence)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn kept(reason: &str) -> Reply {
        let metadata = [("line".to_owned(), "3".to_owned())].into();
        let failure = CommandFailure { reason: reason.to_owned(), message: "went wrong".to_owned(), metadata };
        Reply { kind: Some(reply::Kind::Failure(failure)) }
    }

    #[test]
    fn a_kept_failure_reaches_the_client_as_it_was() {
        let failure = reply_kind(kept("PROCEDURE_FAILED")).unwrap_err();
        assert_eq!(failure.reason, Reason::ProcedureFailed);
        assert_eq!(failure.message, "went wrong");
        assert_eq!(failure.metadata["line"], "3");
        let status = Status::from(failure.clone());
        assert_eq!(status.code(), Code::Aborted);
        assert_eq!(Failure::from_status(&status), Some(failure));
    }

    #[test]
    fn a_reason_of_a_newer_version_keeps_its_message() {
        let failure = reply_kind(kept("FROM_THE_FUTURE")).unwrap_err();
        assert_eq!(failure.reason, Reason::Internal);
        assert!(failure.message.contains("FROM_THE_FUTURE: went wrong"));
    }

    #[test]
    fn an_empty_reply_is_the_nodes_fault() {
        assert_eq!(reply_kind(Reply { kind: None }).unwrap_err().reason, Reason::Internal);
    }

    #[test]
    fn only_known_consistencies_pass() {
        for consistency in 0..=3 {
            assert!(check_consistency(consistency).is_ok());
        }
        assert_eq!(check_consistency(4).unwrap_err().metadata["field"], "consistency");
    }

    #[test]
    fn a_response_names_the_leader_where_it_was_forwarded() {
        let response = respond(Routed { value: 1, leader_address: Some("node-2:7100".to_owned()) }).unwrap();
        assert_eq!(response.metadata().get(LEADER_METADATA).unwrap(), "node-2:7100");
        let response = respond(Routed { value: 1, leader_address: None }).unwrap();
        assert!(response.metadata().is_empty());
    }

    #[test]
    fn a_request_id_reads_as_hexadecimal_and_a_number() {
        let id = RequestId { client_id: vec![0x0a, 0xff].into(), sequence: 7, acknowledged_below: 0 };
        assert_eq!(RequestIdText(&id).to_string(), "0aff/7");
    }
}
