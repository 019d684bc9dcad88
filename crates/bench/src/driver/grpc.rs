//! gRPC by tonic's own channel: etcd, and Cirrus' pipelines.

use std::time::Duration;

use anyhow::Context as _;
use cirrus_proto::Failure;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::recorder::OperationError;

/// HTTP/2 connections to one endpoint. Each is made when it is first used, and again after it broke.
pub(crate) fn connections(address: &str, count: usize) -> anyhow::Result<Vec<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .with_context(|| format!("{address} is not an address"))?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true);
    Ok((0..count).map(|_| endpoint.connect_lazy()).collect())
}

/// Counts a failed call under its reason, where it carries one, or else under its status code.
pub(crate) fn operation_error(status: &Status, failure: Option<Failure>) -> OperationError {
    match failure {
        Some(failure) => OperationError {
            kind: failure.reason.as_str().into(),
            message: failure.message,
            retry_after: failure.retry_after,
        },
        None => OperationError::new(cirrus_proto::code_name(status.code()), status.message()),
    }
}
