//! Messages, limits and reasons: everything that two processes must agree on.
//!
//! Owns the generated code of `proto/` ([`v1`] for clients, [`internal`] for nodes and disk), the
//! [`limits`] that every layer enforces, the [`routing`] rule from a key to its hash slot, and
//! [`Failure`], the one error type that travels from the place where a request fails to its client.
//!
//! Invariants:
//! - Fields of messages are only ever added.
//! - A [`Reason`]'s name never changes once released; clients match on it.
//! - The slot of a key never changes: data is placed by it.
//!
//! Next stop on a request's path: `cirrus-client` sends it, `cirrus-server` receives it.

mod codec;
pub mod failure;
pub mod limits;
pub mod name;
pub mod reason;
pub mod routing;
pub mod value;

pub use failure::Failure;
pub use reason::{Advice, PROCEDURE_CODES, Reason, code_name};

/// The public API, package `cirrus.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("cirrus.v1");
}

/// Node-to-node messages and disk formats, package `cirrus.internal.v1`.
pub mod internal {
    /// Version 1.
    #[allow(missing_docs, clippy::all, clippy::pedantic)]
    pub mod v1 {
        tonic::include_proto!("cirrus.internal.v1");
    }
}

/// The public API's descriptors, for server reflection.
pub const PUBLIC_FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cirrus_v1.bin"));

/// Metadata key of a request that a node already forwarded once; such a request is not forwarded again.
pub const FORWARDED_METADATA: &str = "cirrus-forwarded";

/// Metadata key in which a node names the gRPC address of the shard's leader, where it forwarded the request.
pub const LEADER_METADATA: &str = "cirrus-leader";

/// Metadata key in which a node that sends a snapshot gives its node id.
pub const NODE_ID_METADATA: &str = "cirrus-node-id";
