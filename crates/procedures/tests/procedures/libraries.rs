//! What an upload accepts.

use cirrus_procedures::inspect;
use cirrus_proto::limits::Limits;
use cirrus_proto::{Failure, Reason};

use crate::shard::Shard;

fn exports(source: &[u8]) -> Result<Vec<String>, Failure> {
    inspect("counters", source, &Limits::DEFAULT)
}

#[test]
fn exports_are_listed_sorted() {
    let cases: &[(&str, &[&str])] = &[
        ("function b() end function a() end local function c() end d = 5 function _e() end", &["a", "b"]),
        ("return {b = function() end, a = print, c = 5, _d = print, [1] = print, ['x y'] = print}", &["a", "b"]),
        ("function hidden() end return {shown = hidden}", &["shown"]),
        ("local M = {} function M.incr(key) return kv.incr(key) end return M", &["incr"]),
        ("_G.made = function() end", &["made"]),
        ("--[[ Lua 5.1 ]] function f(...) local t = {...} return #t end", &["f"]),
    ];
    for (source, expected) in cases {
        assert_eq!(exports(source.as_bytes()).unwrap(), *expected, "{source}");
    }
}

#[test]
fn a_syntax_error_names_line_and_problem() {
    let failure = exports(b"function incr(key)\n  return 1 +\nend").unwrap_err();
    assert_eq!(failure.reason, Reason::LibraryInvalid);
    assert_eq!(failure.metadata["line"], "3");
    assert!(failure.message.starts_with("counters:3: "), "{}", failure.message);
    assert!(failure.message.contains("'end'"), "{}", failure.message);
}

#[test]
fn broken_utf8_names_its_offset() {
    let failure = exports(b"function a() end\n-- \xff").unwrap_err();
    assert_eq!((failure.reason, &*failure.metadata["offset"]), (Reason::LibraryInvalid, "20"));
    assert_eq!(failure.message, "counters:2: the source is not UTF-8 at byte 20");
    let failure = exports(b"return '\xc3").unwrap_err();
    assert_eq!(failure.metadata["offset"], "8");
}

#[test]
fn unusable_libraries_are_refused() {
    let too_long = vec![b' '; Limits::DEFAULT.library_bytes + 1];
    let cases: &[(&[u8], Reason, &str)] = &[
        (&too_long, Reason::LibraryTooLarge, "source is 262145 bytes, above the limit of 262144"),
        (b"", Reason::LibraryInvalid, "counters exports nothing"),
        (b"local function a() end", Reason::LibraryInvalid, "counters exports nothing"),
        (b"function _a() end", Reason::LibraryInvalid, "counters exports nothing"),
        (b"return {}", Reason::LibraryInvalid, "counters exports nothing"),
        (b"return 5", Reason::LibraryInvalid, "counters returns a number"),
        (b"\n error('no')", Reason::LibraryInvalid, "counters:2: no"),
        (b"local x = nil + 1", Reason::LibraryInvalid, "counters:1: attempt to perform arithmetic"),
        (b"kv.put('a', 1)", Reason::LibraryInvalid, "counters:1: keys are not available while the library loads"),
        (b"x = _get('a')", Reason::LibraryInvalid, "counters:1: keys are not available while the library loads"),
        (b"while true do end", Reason::LibraryInvalid, "counters did not finish loading within 100ms"),
        (b"x = ('x'):rep(1e9)", Reason::LibraryInvalid, "counters uses up a call's memory"),
        (
            b"local t = {} while true do t[#t + 1] = ('x'):rep(1e6) .. #t end",
            Reason::LibraryInvalid,
            "counters uses up",
        ),
        (b"for i = 1, 2000 do _G['f' .. i] = print end", Reason::LibraryInvalid, "counters exports more than 1024"),
        (b"require('os')", Reason::LibraryInvalid, "counters:1: attempt to call a nil value"),
        (b"\x1bLua", Reason::LibraryInvalid, "counters:1: "),
    ];
    for (source, reason, message) in cases {
        let failure = exports(source).unwrap_err();
        let source = String::from_utf8_lossy(&source[..source.len().min(60)]);
        assert_eq!(failure.reason, *reason, "{source}: {failure}");
        assert!(failure.message.starts_with(message), "{source}: {}", failure.message);
    }
}

#[test]
fn deeply_nested_sources_are_refused_and_not_a_stack_overflow() {
    let nested = |open: &str, inner: &str, close: &str, depth: usize| {
        format!("return {}{inner}{}", open.repeat(depth), close.repeat(depth)).into_bytes()
    };
    let sources = [
        nested("(", "1", ")", 100_000),
        nested("{", "", "}", 100_000),
        nested("-", "1", "", 200_000),
        nested("not ", "1", "", 60_000),
        nested("function() return ", "1", " end", 10_000),
        nested("1 + ", "1", "", 60_000),
        nested("", "x", ".x", 100_000),
        nested("", "f", "()", 100_000),
        nested("'a' .. ", "'b'", "", 30_000),
        nested("2 ^ ", "1", "", 60_000),
        "do ".repeat(80_000).into_bytes(),
        "if x then ".repeat(20_000).into_bytes(),
        format!("if x then {} end", "elseif x then ".repeat(15_000)).into_bytes(),
    ];
    for source in sources {
        let failure = exports(&source).unwrap_err();
        let start = String::from_utf8_lossy(&source[..40]);
        assert_eq!(failure.reason, Reason::LibraryInvalid, "{start}: {failure}");
    }
}

#[test]
fn names_are_checked() {
    for name in ["", "a.b", "a b", "ä", &"x".repeat(65)] {
        let failure = inspect(name, b"function a() end", &Limits::DEFAULT).unwrap_err();
        assert_eq!(failure.reason, Reason::InvalidField, "{name:?}");
        assert_eq!(failure.metadata["field"], "name");
    }
    for name in ["a", "A-b_9", &"x".repeat(64)] {
        assert!(inspect(name, b"function a() end", &Limits::DEFAULT).is_ok(), "{name:?}");
    }
}

#[test]
fn versions_of_a_library_are_told_apart_and_many_are_kept_in_turn() {
    let mut shard = Shard::new();
    for round in 0..3 {
        for version in 0..100 {
            let source = format!("function main() return '{version}' end");
            assert_eq!(shard.main(&source, &[]).unwrap(), version.to_string(), "round {round}");
        }
    }
}

#[test]
fn a_call_of_a_source_that_does_not_compile_fails_alone() {
    let mut shard = Shard::new();
    assert_eq!(shard.main("function main(", &[]).unwrap_err().reason, Reason::LibraryInvalid);
    assert_eq!(shard.main("error('no')", &[]).unwrap_err().reason, Reason::ProcedureFailed);
    assert_eq!(shard.main("function main() return 1 end", &[]).unwrap(), "1");
}
