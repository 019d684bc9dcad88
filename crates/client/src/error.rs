//! A request that failed for good.

use std::fmt;

use cirrus_proto::{Failure, Reason};
use tonic::Code;

/// Why a request failed, after all its attempts.
#[derive(Clone, Debug)]
pub struct ClientError {
    /// What the cluster answered; `None` where no node did, or where the answer came from elsewhere.
    pub failure: Option<Failure>,
    /// The gRPC status code.
    pub code: Code,
    /// For people.
    pub message: String,
    /// The request may have taken effect, or may still do so. Never set for reads.
    pub outcome_unknown: bool,
}

impl ClientError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        ClientError { failure: None, code, message: message.into(), outcome_unknown: false }
    }

    /// The reason that the cluster gave.
    pub fn reason(&self) -> Option<Reason> {
        self.failure.as_ref().map(|failure| failure.reason)
    }

    /// The name of the reason, or of the status code where there is no reason: `KEY_TOO_LARGE`, `UNAVAILABLE`.
    pub fn reason_name(&self) -> &'static str {
        match &self.failure {
            Some(failure) => failure.reason.as_str(),
            None if self.outcome_unknown => Reason::OutcomeUnknown.as_str(),
            None => cirrus_proto::code_name(self.code),
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason_name(), self.message)?;
        if self.outcome_unknown {
            write!(f, " (the request may have taken effect)")?;
        }
        Ok(())
    }
}

impl std::error::Error for ClientError {}

impl From<Failure> for ClientError {
    fn from(failure: Failure) -> Self {
        ClientError {
            code: failure.code(),
            message: failure.message.clone(),
            outcome_unknown: false,
            failure: Some(failure),
        }
    }
}
