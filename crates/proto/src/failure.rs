//! A failed request: the reason, a message for people, and details for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{Advice, PROCEDURE_CODES, Reason, code_name};

/// The `domain` of every failure's ErrorInfo.
pub const ERROR_DOMAIN: &str = "cirrus";

/// Why a request failed. It is made where the request fails and reaches the client unchanged, as a gRPC
/// status with `google.rpc` ErrorInfo, and BadRequest or RetryInfo where they apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The API.
    pub reason: Reason,
    /// For people: names the field, the limit and the actual value.
    pub message: String,
    /// For programs: `field`, `limit`, `actual`, `line`, `leader`, …
    pub metadata: BTreeMap<String, String>,
    /// How long to wait before trying again, where waiting helps.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure without details.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Failure { reason, message: message.into(), metadata: BTreeMap::new(), retry_after: None }
    }

    /// A field that is missing or malformed.
    pub fn invalid_field(field: &str, problem: impl fmt::Display) -> Self {
        Failure::new(Reason::InvalidField, format!("{field}: {problem}")).with("field", field)
    }

    /// A size above its limit: "value is 2097152 bytes, above the limit of 1048576".
    pub fn too_large(reason: Reason, field: &str, actual: usize, limit: usize) -> Self {
        Failure::new(reason, format!("{field} is {actual} bytes, above the limit of {limit}"))
            .with("field", field)
            .with("actual", actual)
            .with("limit", limit)
    }

    /// The node's own fault.
    pub fn internal(message: impl fmt::Display) -> Self {
        Failure::new(Reason::Internal, message.to_string())
    }

    /// Adds a detail for programs.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.metadata.insert(name.to_owned(), value.to_string());
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// The gRPC status code: that of the reason, but of a procedure's error the one that the procedure chose,
    /// which is its metadata `code`.
    pub fn code(&self) -> Code {
        let chosen = match (self.reason, self.metadata.get("code")) {
            (Reason::ProcedureFailed, Some(name)) => PROCEDURE_CODES.iter().find(|code| code_name(**code) == name),
            _ => None,
        };
        chosen.copied().unwrap_or_else(|| self.reason.code())
    }

    /// What the sender should do.
    pub fn advice(&self) -> Advice {
        self.reason.advice()
    }

    /// Reads back what [`Failure`] put into a status; `None` for a status of another origin.
    pub fn from_status(status: &Status) -> Option<Failure> {
        let details = status.get_error_details();
        let info = details.error_info()?;
        if info.domain != ERROR_DOMAIN {
            return None;
        }
        Some(Failure {
            reason: Reason::parse(&info.reason)?,
            message: status.message().to_owned(),
            metadata: info.metadata.clone().into_iter().collect(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.as_str(), self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Status {
        let code = failure.code();
        let mut details = ErrorDetails::new();
        if let Some(delay) = failure.retry_after {
            details.set_retry_info(Some(delay));
        }
        if let Some(field) = failure.metadata.get("field") {
            details.add_bad_request_violation(field.clone(), failure.message.clone());
        }
        let metadata: std::collections::HashMap<String, String> = failure.metadata.into_iter().collect();
        details.set_error_info(failure.reason.as_str(), ERROR_DOMAIN, metadata);
        Status::with_error_details(code, failure.message, details)
    }
}

/// As a message of its own, where one answer carries many outcomes.
impl From<Failure> for crate::v1::Failure {
    fn from(failure: Failure) -> Self {
        crate::v1::Failure {
            code: failure.code().into(),
            message: failure.message,
            reason: failure.reason.as_str().to_owned(),
            retry_after_ms: failure.retry_after.map_or(0, |delay| delay.as_millis() as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_survives_the_wire() {
        let failure = Failure::too_large(Reason::ValueTooLarge, "value", 10, 5).retry_after(Duration::from_millis(20));
        let status = Status::from(failure.clone());
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert_eq!(Failure::from_status(&status), Some(failure));
    }

    #[test]
    fn a_procedure_chooses_its_code_and_only_among_some() {
        let chosen = Failure::new(Reason::ProcedureFailed, "x").with("code", "NOT_FOUND");
        let status = Status::from(chosen.clone());
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(Failure::from_status(&status), Some(chosen));
        for other in ["UNAVAILABLE", "OK", "", "not_found"] {
            assert_eq!(Failure::new(Reason::ProcedureFailed, "x").with("code", other).code(), Code::Aborted);
        }
        assert_eq!(Failure::new(Reason::KeyEmpty, "x").with("code", "NOT_FOUND").code(), Code::InvalidArgument);
    }

    #[test]
    fn every_reason_reads_back_from_its_name() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
        }
    }
}
