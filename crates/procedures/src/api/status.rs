//! `error(code, message[, reason])`: fails the call with a gRPC status code of the procedure's own choice.
//!
//! The caller gets `PROCEDURE_FAILED` with the message as it is, under that code, and with metadata `code`,
//! `line` and, where it was given, `procedure_reason`. `pcall` sees the text `library:line: CODE: message`; raised again,
//! that text fails the call in the same way.
//!
//! The [codes](cirrus_proto::PROCEDURE_CODES) are those that speak of the request. The others, such as `UNAVAILABLE`, speak of the
//! service: a client would try again, or call the operator.

use cirrus_proto::{Failure, PROCEDURE_CODES, Reason, code_name};
use mlua::{Lua, Value};

use super::{Access, Answer, Operation, Raised, expect_text};

/// Longest message that is kept, bytes: below the bound for all errors of scripts, with room for its code and place.
const MESSAGE_BYTES: usize = 768;

/// Longest reason, bytes.
const REASON_BYTES: usize = 64;

pub(super) const OPERATIONS: &[Operation] = &[Operation::internal("error", 2..=3, 0, raise)];

fn raise(_: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let code = expect_text(lua, "code", &arguments[0])?;
    let Some(code) = PROCEDURE_CODES.iter().map(|&code| code_name(code)).find(|name| name.as_bytes() == &*code) else {
        let code: String = String::from_utf8_lossy(&code).chars().take(64).collect();
        return Err(Raised::Misuse(format!("{code:?} is no status code that a procedure may use")));
    };
    let message = expect_text(lua, "message", &arguments[1])?;
    let message = String::from_utf8_lossy(&message);
    let message = &message[..message.floor_char_boundary(MESSAGE_BYTES)];
    let mut failure = Failure::new(Reason::ProcedureFailed, message).with("code", code);
    match arguments.get(2) {
        None | Some(Value::Nil) => {}
        Some(Value::String(reason)) if is_reason(&reason.as_bytes()) => {
            failure = failure.with("procedure_reason", reason.to_string_lossy());
        }
        Some(_) => {
            let problem = format!("reason must be UPPER_SNAKE_CASE of up to {REASON_BYTES} bytes");
            return Err(Raised::Misuse(problem));
        }
    }
    Err(Raised::Status { text: format!("{code}: {message}"), failure })
}

fn is_reason(reason: &[u8]) -> bool {
    reason.len() <= REASON_BYTES
        && reason.first().is_some_and(u8::is_ascii_uppercase)
        && reason.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_')
}
