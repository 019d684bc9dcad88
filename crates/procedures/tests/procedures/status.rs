//! `error(code, message[, reason])`, and `error` as Lua has it.

use cirrus_proto::{PROCEDURE_CODES, Reason, code_name};

use crate::shard::{Shard, failed};

#[test]
fn a_procedure_chooses_its_status_code() {
    let mut shard = Shard::new();
    for code in PROCEDURE_CODES {
        let name = code_name(*code);
        let failure = shard.run(&format!("kv.put('a', 1)\nerror('{name}', 'no such item')")).unwrap_err();
        assert_eq!((failure.reason, &*failure.message), (Reason::ProcedureFailed, "no such item"), "{name}");
        assert_eq!((&*failure.metadata["code"], &*failure.metadata["line"]), (name, "3"));
        assert_eq!(failure.code(), *code);
        assert!(!failure.metadata.contains_key("procedure_reason"));
        assert_eq!(shard.value(b"a"), None, "no effect is left");
    }
}

#[test]
fn a_reason_goes_along() {
    let mut shard = Shard::new();
    let failure = shard.run("error('NOT_FOUND', 'item 7', 'NO_SUCH_ITEM')").unwrap_err();
    assert_eq!(failure.metadata["procedure_reason"], "NO_SUCH_ITEM");
    assert_eq!((&*failure.metadata["library"], &*failure.metadata["function"]), ("lib", "main"));
}

#[test]
fn pcall_sees_a_text_that_fails_the_same_way_when_raised_again() {
    let mut shard = Shard::new();
    let body = "local ok, why = pcall(function() error('NOT_FOUND', 'item 7') end) return type(why) .. ' ' .. why";
    assert_eq!(shard.run(body).unwrap(), "string lib:2: NOT_FOUND: item 7");
}

#[test]
fn whatever_way_an_error_leaves_the_call_it_keeps_its_code() {
    let cases = [
        ("local ok, why = pcall(error, 'NOT_FOUND', 'x') error(why)", Some("NOT_FOUND")),
        ("local ok, why = pcall(error, 'NOT_FOUND', 'x') error(why, 0)", Some("NOT_FOUND")),
        ("coroutine.wrap(function() error('NOT_FOUND', 'x') end)()", Some("NOT_FOUND")),
        ("error('NOT_FOUND', ('é'):rep(5000))", Some("NOT_FOUND")),
        ("error('NOT_FOUND', '')", Some("NOT_FOUND")),
        ("error('NOT_FOUND', '\\255')", Some("NOT_FOUND")),
        ("error('NOT_FOUND', 'stack\\nstack traceback:\\nx')", None),
        ("pcall(error, 'NOT_FOUND', 'x') error('other')", None),
        ("pcall(error, 'NOT_FOUND', 'x') error('ABORTED', 'y')", Some("ABORTED")),
        ("error('x', 'NOT_FOUND')", None),
    ];
    let mut shard = Shard::new();
    for (body, code) in cases {
        let failure = shard.run(body).unwrap_err();
        assert_eq!(failure.reason, Reason::ProcedureFailed, "{body}");
        assert_eq!(failure.metadata.get("code").map(String::as_str), code, "{body}: {failure}");
        assert!(failure.message.len() <= 1024);
    }
}

#[test]
fn other_errors_are_as_in_lua() {
    let cases = [
        ("error('text')", "lib:2: text"),
        ("error('text', 1)", "lib:2: text"),
        ("error('text', '1')", "lib:2: text"),
        ("local function f() error('text', 2) end\n\nf()", "lib:4: text"),
        ("local function f() error('text', 0) end\n\nf()", "lib:2: text"),
        ("error('NOT_FOUND')", "lib:2: NOT_FOUND"),
        ("error('NOT_FOUND', 1)", "lib:2: NOT_FOUND"),
        ("error('text', {})", "lib:2: invalid argument #2 to 'error' (number expected, got table)"),
        ("error('text', 'warn')", "lib:2: error: \"text\" is no status code that a procedure may use"),
        ("error('UNAVAILABLE', 'x')", "lib:2: error: \"UNAVAILABLE\" is no status code that a procedure may use"),
        ("error('OK', 'x')", "lib:2: error: \"OK\" is no status code that a procedure may use"),
        ("error('NOT_FOUND', 'x', 'lower')", "lib:2: error: reason must be UPPER_SNAKE_CASE of up to 64 bytes"),
        ("error('NOT_FOUND', 'x', 7)", "lib:2: error: reason must be UPPER_SNAKE_CASE of up to 64 bytes"),
        ("error('NOT_FOUND', 'x', '')", "lib:2: error: reason must be UPPER_SNAKE_CASE of up to 64 bytes"),
    ];
    let mut shard = Shard::new();
    for (body, expected) in cases {
        assert_eq!(failed(shard.run(body)), (Reason::ProcedureFailed, expected.to_owned()), "{body}");
    }
    let body = "local t = {} local ok, caught = pcall(error, t) return tostring(ok) .. tostring(caught == t)";
    assert_eq!(shard.run(body).unwrap(), "falsetrue");
    assert_eq!(shard.run("return tostring(select(2, pcall(error, 'bare')))").unwrap(), "bare");
    assert_eq!(shard.run("return tostring(select(2, pcall(error)))").unwrap(), "nil");
}

#[test]
fn a_library_that_raises_while_it_loads_says_so() {
    let mut shard = Shard::new();
    let (reason, message) = failed(shard.main("error('NOT_FOUND', 'x') function main() end", &[]));
    assert_eq!((reason, &*message), (Reason::ProcedureFailed, "lib:1: NOT_FOUND: x"));
}
