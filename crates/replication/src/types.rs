//! openraft's type parameters, and the application data that its entries carry.

use std::fmt;

use bytes::Bytes;
use openraft::raft::responder::Responder as RaftResponder;

use crate::convert::Node;

/// openraft's type parameters. One leader per term (`leader_id_std`), so that a term alone fences a proposal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig {}

type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;

impl openraft::RaftTypeConfig for TypeConfig {
    type D = ProposalBytes;
    type R = ApplyOutcome;
    type NodeId = u64;
    type Node = Node;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = openraft::impls::Vote<LeaderId>;
    type Payload = openraft::EntryPayload<ProposalBytes, u64, Node>;
    type Entry = openraft::Entry<<LeaderId as openraft::vote::RaftLeaderId>::Committed, Self::Payload>;
    type AsyncRuntime = openraft::impls::TokioRuntime;
    type Responder<T>
        = Completion<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// An encoded `cirrus.internal.v1.Proposal`. Only apply pays for decoding it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ProposalBytes(pub(crate) Bytes);

impl fmt::Debug for ProposalBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "proposal of {} bytes", self.0.len())
    }
}

impl fmt::Display for ProposalBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What applying an entry came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ApplyOutcome {
    /// Its effects, if it had any, are in the shard's state.
    Applied,
    /// It was fenced off: no replica took its effects.
    Skipped,
}

impl fmt::Display for ApplyOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Runs a closure with a write's result, on the thread that has it. Dropped without a result (the group
/// stopped), it runs the closure with `None`.
pub(crate) struct Completion<T>(Option<Box<dyn FnOnce(Option<T>) + Send>>);

impl<T> Completion<T> {
    /// Runs `closure` once.
    pub(crate) fn new(closure: impl FnOnce(Option<T>) + Send + 'static) -> Self {
        Completion(Some(Box::new(closure)))
    }
}

impl<T: Send + 'static> RaftResponder<TypeConfig, T> for Completion<T> {
    fn on_complete(mut self, result: T) {
        if let Some(closure) = self.0.take() {
            closure(Some(result));
        }
    }
}

impl<T> Drop for Completion<T> {
    fn drop(&mut self) {
        if let Some(closure) = self.0.take() {
            closure(None);
        }
    }
}

/// openraft's handle for one group.
pub(crate) type Group = openraft::Raft<TypeConfig, crate::state_machine::StateMachine>;
pub(crate) type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub(crate) type Payload = openraft::type_config::alias::PayloadOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type AppendRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
pub(crate) type StreamAppendResult = openraft::raft::StreamAppendResult<TypeConfig>;
pub(crate) type WriteResult = openraft::raft::ClientWriteResult<TypeConfig>;
