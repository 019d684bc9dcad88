//! Why a library did not load or a call did not succeed, told to people and programs.

use std::time::Duration;

use cirrus_proto::{Failure, Reason};
use mlua::Error;

/// Longest message that is kept of a script's error, bytes. Scripts choose what they raise.
const MESSAGE_BYTES: usize = 1024;

/// The prelude's name in messages.
pub(crate) const PRELUDE: &str = "prelude";

/// What Luau says where an allocation failed, also where a coroutine's failure became a mere message.
const OUT_OF_MEMORY: &str = "not enough memory";

/// What a machine's work ends with where it has no result.
pub(crate) enum Trouble {
    /// Raised in Lua, or by mlua.
    Lua(Error),
    /// Found by this crate.
    Failure(Failure),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Lua(error)
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Trouble::Failure(failure)
    }
}

/// What an error raised in Lua means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    OutOfMemory,
    /// The script's own error, or one that Luau raised in it.
    Raised {
        /// Begins with `library:line: ` where that is known.
        message: String,
        line: Option<u32>,
    },
}

/// Reads an error that came out of a script of `library`.
pub(crate) fn meaning(error: &Error, library: &str) -> Meaning {
    match error {
        Error::CallbackError { cause, .. } | Error::WithContext { cause, .. } => meaning(cause, library),
        Error::MemoryError(_) => Meaning::OutOfMemory,
        Error::RuntimeError(text) => raised(text, library),
        other => raised(&other.to_string(), library),
    }
}

fn raised(text: &str, library: &str) -> Meaning {
    // mlua appends the stack to the message.
    let (message, stack) = text.split_once("\nstack traceback:").unwrap_or((text, ""));
    if message.ends_with(OUT_OF_MEMORY) {
        return Meaning::OutOfMemory;
    }
    // Luau's own errors say where they arose even where no line is known.
    let message = message.strip_prefix(PRELUDE).and_then(|rest| rest.strip_prefix(":0: ")).unwrap_or(message);
    let message = truncated(message);
    if let Some(line) = line_at(message, library) {
        return Meaning::Raised { message: message.to_owned(), line: Some(line) };
    }
    // An error raised below a function of the prelude, or without a position: name the library's innermost line.
    match stack.lines().find_map(|frame| line_at(frame.trim_start(), library)) {
        Some(line) => Meaning::Raised { message: format!("{library}:{line}: {message}"), line: Some(line) },
        None => Meaning::Raised { message: message.to_owned(), line: None },
    }
}

/// The line in text that begins with `library:line`.
fn line_at(text: &str, library: &str) -> Option<u32> {
    let rest = text.strip_prefix(library)?.strip_prefix(':')?;
    let digits = rest.find(|char: char| !char.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

fn truncated(message: &str) -> &str {
    let mut end = message.len().min(MESSAGE_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

/// The library's text cannot be used.
pub(crate) fn library_invalid(library: &str, message: impl Into<String>, line: Option<u32>) -> Failure {
    let message = message.into();
    let failure =
        Failure::new(Reason::LibraryInvalid, message.clone()).with("library", library).with("message", message);
    match line {
        Some(line) => failure.with("line", line),
        None => failure,
    }
}

/// The message of a syntax error, which begins with its line, as a failure.
pub(crate) fn syntax_error(library: &str, message: &str) -> Failure {
    let (line, problem) = match message.split_once(": ") {
        Some((line, problem)) => (line.parse().ok(), problem),
        None => (None, message),
    };
    match line {
        Some(line) => library_invalid(library, format!("{library}:{line}: {}", truncated(problem)), Some(line)),
        None => library_invalid(library, format!("{library}: {}", truncated(message)), None),
    }
}

/// The call used up its CPU time.
pub(crate) fn call_timeout(library: &str, function: &str, limit: Duration) -> Failure {
    let limit_ms = limit.as_millis();
    let message = format!("{library}.{function} used more than {limit_ms} ms of CPU time and was killed");
    Failure::new(Reason::CallTimeout, message)
        .with("library", library)
        .with("function", function)
        .with("limit", limit_ms)
}

/// The call used up its memory.
pub(crate) fn call_killed(library: &str, function: &str) -> Failure {
    Failure::new(Reason::CallKilled, format!("{library}.{function} was killed"))
        .with("library", library)
        .with("function", function)
}

pub(crate) fn call_memory(library: &str, function: &str, limit_bytes: usize) -> Failure {
    let message = format!("{library}.{function} used more than {limit_bytes} bytes of memory and was killed");
    Failure::new(Reason::CallMemory, message)
        .with("library", library)
        .with("function", function)
        .with("limit", limit_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> (String, Option<u32>) {
        match meaning(&Error::RuntimeError(text.to_owned()), "lib") {
            Meaning::Raised { message, line } => (message, line),
            Meaning::OutOfMemory => ("out of memory".to_owned(), None),
        }
    }

    #[test]
    fn a_message_names_the_librarys_line() {
        assert_eq!(message("lib:3: bad\nstack traceback:\nlib:3"), ("lib:3: bad".to_owned(), Some(3)));
        assert_eq!(message("bad\nstack traceback:\n[C] in ?\n  lib:7 in f\nlib:9"), ("lib:7: bad".to_owned(), Some(7)));
        assert_eq!(message("library:3: bad"), ("library:3: bad".to_owned(), None));
        assert_eq!(message("lib:3: not enough memory"), ("out of memory".to_owned(), None));
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        let (message, _) = message(&"é".repeat(MESSAGE_BYTES));
        assert_eq!(message.len(), MESSAGE_BYTES);
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let failure = syntax_error("lib", "12: Expected identifier: got 'end'");
        assert_eq!(failure.message, "lib:12: Expected identifier: got 'end'");
        assert_eq!(failure.metadata["line"], "12");
    }
}
