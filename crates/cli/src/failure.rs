//! How a command fails: what standard error says, and the exit code.

use std::io::{self, Write as _};
use std::process::ExitCode;

use cirrus_client::ClientError;
use serde_json::{Map, Value, json};

use crate::arguments::Format;
use crate::output;

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct CommandError {
    /// A reason of the API, the name of a gRPC status code, or `LOCAL` for this process's own trouble.
    reason: String,
    message: String,
    outcome_unknown: bool,
    /// Names and values.
    metadata: Vec<(String, String)>,
    /// Whoever read standard output has gone: nothing to report.
    reader_gone: bool,
    /// It answers the question that was asked: exit 1, as in every output format.
    answer: bool,
}

/// The reason of failures that no node is part of.
const LOCAL: &str = "LOCAL";

/// The exit code of every failure. 1 is an answer: no value, or a condition that did not hold.
const TROUBLE: u8 = 2;

impl CommandError {
    pub(crate) fn local(message: impl Into<String>) -> Self {
        CommandError {
            reason: LOCAL.to_owned(),
            message: message.into(),
            outcome_unknown: false,
            metadata: Vec::new(),
            reader_gone: false,
            answer: false,
        }
    }

    /// Says more in its message.
    pub(crate) fn map_message(self, more: impl FnOnce(String) -> String) -> Self {
        CommandError { message: more(self.message), ..self }
    }

    /// Adds a detail for programs.
    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.metadata.push((name.to_owned(), value.into()));
        self
    }

    /// Whether the request may have taken effect.
    pub(crate) fn is_outcome_unknown(&self) -> bool {
        self.outcome_unknown
    }

    /// Marks it as the answer to the question that was asked, such as a condition that did not hold.
    pub(crate) fn into_answer(mut self) -> Self {
        self.answer = true;
        self
    }

    /// Tells standard error.
    pub(crate) fn report(&self, format: Format) -> ExitCode {
        if !self.reader_gone {
            let mut stderr = io::stderr().lock();
            // Standard error may be closed, which leaves nobody to tell.
            let _ = match format {
                Format::Table => {
                    let coloured = output::is_coloured(&stderr);
                    writeln!(stderr, "{}", self.for_people(coloured))
                }
                Format::Json => writeln!(stderr, "{}", self.for_programs()),
            };
        }
        if self.answer { ExitCode::FAILURE } else { ExitCode::from(TROUBLE) }
    }

    fn for_people(&self, coloured: bool) -> String {
        let label = if coloured { "\x1b[1;31merror:\x1b[0m" } else { "error:" };
        let mut text = if self.reason == LOCAL {
            format!("{label} {}", self.message)
        } else {
            format!("{label} {}: {}", self.reason, self.message)
        };
        if self.outcome_unknown {
            text.push_str(" (the request may have taken effect)");
        }
        text
    }

    fn for_programs(&self) -> Value {
        let metadata: Map<String, Value> =
            self.metadata.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
        json!({ "error": {
            "reason": self.reason,
            "message": self.message,
            "outcome_unknown": self.outcome_unknown,
            "metadata": metadata,
        }})
    }
}

impl From<ClientError> for CommandError {
    fn from(error: ClientError) -> Self {
        CommandError {
            reason: error.reason_name().to_owned(),
            outcome_unknown: error.outcome_unknown,
            metadata: error.failure.into_iter().flat_map(|failure| failure.metadata).collect(),
            message: error.message,
            reader_gone: false,
            answer: false,
        }
    }
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        let reader_gone = error.kind() == io::ErrorKind::BrokenPipe;
        CommandError { reader_gone, ..CommandError::local(error.to_string()) }
    }
}

impl From<anyhow::Error> for CommandError {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<ClientError>() {
            Ok(error) => error.into(),
            Err(error) => CommandError::local(format!("{error:#}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cirrus_client::{Failure, Reason};

    #[test]
    fn people_read_a_line_and_programs_an_object() {
        let failure = Failure::too_large(Reason::KeyTooLarge, "key", 5000, 4096);
        let error = CommandError::from(ClientError::from(failure));
        assert_eq!(error.for_people(false), "error: KEY_TOO_LARGE: key is 5000 bytes, above the limit of 4096");
        let object = error.for_programs();
        assert_eq!(object["error"]["reason"], "KEY_TOO_LARGE");
        assert_eq!(object["error"]["metadata"]["limit"], "4096");
        assert_eq!(object["error"]["outcome_unknown"], false);
    }

    #[test]
    fn an_unknown_outcome_is_said_aloud() {
        let mut error = ClientError::from(Failure::new(Reason::OutcomeUnknown, "deposed"));
        error.outcome_unknown = true;
        let line = CommandError::from(error).for_people(false);
        assert_eq!(line, "error: OUTCOME_UNKNOWN: deposed (the request may have taken effect)");
    }

    #[test]
    fn local_trouble_has_no_reason_for_people() {
        assert_eq!(CommandError::local("no such file").for_people(false), "error: no such file");
        assert!(CommandError::from(io::Error::from(io::ErrorKind::BrokenPipe)).reader_gone);
    }
}
