//! SPHiveDB's protocol: JSON-RPC over HTTP, whose clients work unchanged.
//!
//! ```text
//! body ─parse─► Incoming: calls, each of one database ─► executed, each on its shard ─► Incoming::answer ─► body
//! ```
//!
//! The HTTP status is 200 whatever the body says. What SPHiveDB did and is not done here: an empty SELECT has its columns'
//! names, and removing a database that is not there is an error. What it did not do: an array of requests is answered by an
//! array of answers in the same order, row ids are not cut to 32 bits, and a statement that gives rows without being a SELECT,
//! such as `INSERT … RETURNING`, is answered with them.

mod request;
mod response;

pub use request::{Call, Incoming, check_offered};
pub use response::Answer;

/// Most calls in one body.
pub const BATCH_CALLS_MAX: usize = 100;

/// The body is not JSON, or has no method or no params.
const INVALID_REQUEST: i64 = -32600;
/// There is no such method.
const METHOD_NOT_FOUND: i64 = -32601;
/// A parameter is missing, or of the wrong type.
const INVALID_PARAMS: i64 = -32602;
/// The call failed; `data` says why.
const INTERNAL_ERROR: i64 = -32603;
