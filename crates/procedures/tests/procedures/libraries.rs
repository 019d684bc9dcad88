//! What an upload accepts.

use bytes::Bytes;
use cirrus_procedures::{LibrarySource, Requirement, inspect};
use cirrus_proto::limits::Limits;
use cirrus_proto::{Failure, Reason};

use crate::shard::Shard;

fn exports(source: &[u8]) -> Result<Vec<String>, Failure> {
    inspect("counters", source, &Limits::DEFAULT, &nothing).map(|inspected| inspected.functions)
}

/// A catalog without libraries.
fn nothing(name: &str, _version: Option<u64>) -> Result<Vec<LibrarySource>, Failure> {
    Err(Failure::new(Reason::LibraryNotFound, format!("there is no library named {name:?}")))
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
        (b"local t = {} while true do t[#t + 1] = table.create(1e5) end", Reason::LibraryInvalid, "counters uses up"),
        (b"for i = 1, 2000 do _G['f' .. i] = print end", Reason::LibraryInvalid, "counters exports more than 1024"),
        (b"require('os')", Reason::LibraryInvalid, "counters requires \"os\": there is no library"),
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
        let failure = inspect(name, b"function a() end", &Limits::DEFAULT, &nothing).unwrap_err();
        assert_eq!(failure.reason, Reason::InvalidField, "{name:?}");
        assert_eq!(failure.metadata["field"], "name");
    }
    for name in ["a", "A-b_9", &"x".repeat(64)] {
        assert!(inspect(name, b"function a() end", &Limits::DEFAULT, &nothing).is_ok(), "{name:?}");
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

/// A catalog of these libraries, each with one version, which require nothing.
fn catalog(libraries: &[(&str, u64, &str)], name: &str, version: Option<u64>) -> Result<Vec<LibrarySource>, Failure> {
    let found =
        libraries.iter().rev().find(|(known, number, _)| *known == name && version.is_none_or(|v| v == *number));
    let &(name, version, source) = found.ok_or_else(|| {
        Failure::new(Reason::LibraryNotFound, format!("there is no library named {name:?} with that version"))
    })?;
    let source = Bytes::copy_from_slice(source.as_bytes());
    Ok(vec![LibrarySource { name: name.to_owned(), version, source, requires: Vec::new() }])
}

const LIBRARIES: &[(&str, u64, &str)] = &[
    ("text", 1, "function shout(s) return s:upper() end"),
    ("text", 2, "return {shout = function(s) return s:upper() .. '!' end}"),
    ("broken", 1, "\nerror('cannot load')"),
];

#[test]
fn what_a_library_requires_is_pinned_at_its_upload() {
    let resolve = |name: &str, version| catalog(LIBRARIES, name, version);
    let cases: &[(&str, &[(&str, u64)])] = &[
        ("function a() end", &[]),
        ("local text = require('text') function a(k) return text.shout(k) end", &[("text", 2)]),
        ("local text = require 'text@1' function a(k) return text.shout(k) end", &[("text@1", 1)]),
        (
            "local one, two, again = require('text@1'), require('text'), require('text') function a() end",
            &[("text@1", 1), ("text", 2)],
        ),
        // What is required only in a function was not found, and what is caught still is.
        ("function a(k) return require('text').shout(k) end", &[]),
        ("pcall(require, 'text') function a() end", &[("text", 2)]),
    ];
    for (source, expected) in cases {
        let inspected = inspect("counters", source.as_bytes(), &Limits::DEFAULT, &resolve).unwrap();
        let pins: Vec<_> = inspected.requires.iter().map(|pin| (pin.written.as_str(), pin.version)).collect();
        assert_eq!(pins, *expected, "{source}");
        assert_eq!(inspected.functions, ["a"], "{source}");
    }
}

#[test]
fn a_library_that_cannot_be_required_refuses_the_upload() {
    let resolve = |name: &str, version| catalog(LIBRARIES, name, version);
    let many: String = (0..20).map(|index| format!("require('text@1' .. ('{}'):rep(0))\n", index)).collect();
    for (source, expected) in [
        ("require('none')", "counters requires \"none\": there is no library named \"none\""),
        ("pcall(require, 'none')", "counters requires \"none\": there is no library named \"none\""),
        ("require('text@3')", "counters requires \"text@3\": there is no library"),
        ("require('text@0')", "counters requires \"text@0\": version: a version is a number from 1"),
        ("require('a b')", "counters requires \"a b\": "),
        ("require('broken')", "counters requires \"broken\": broken:2: cannot load"),
        ("\nrequire({})", "counters:2: require takes the name of a library"),
        ("\nrequire()", "counters:2: require takes the name of a library"),
        // The same text is one requirement.
        (&many, "counters exports nothing"),
    ] {
        let failure = inspect("counters", source.as_bytes(), &Limits::DEFAULT, &resolve).unwrap_err();
        assert_eq!(failure.reason, Reason::LibraryInvalid, "{source}");
        assert!(failure.message.starts_with(expected), "{source}: {}", failure.message);
    }
    // Every version of a library that has too many.
    let endless = "local i = 0 while true do i += 1 require('text@' .. i) end";
    let all = |name: &str, version: Option<u64>| {
        let source = Bytes::from_static(b"function f() end");
        Ok(vec![LibrarySource { name: name.to_owned(), version: version.unwrap_or(1), source, requires: Vec::new() }])
    };
    let failure = inspect("counters", endless.as_bytes(), &Limits::DEFAULT, &all).unwrap_err();
    assert!(failure.message.contains("requires more than 16 libraries"), "{}", failure.message);
}

#[test]
fn a_call_runs_what_its_library_pinned() {
    let text = catalog(LIBRARIES, "text", Some(1)).unwrap().remove(0);
    let newer = catalog(LIBRARIES, "text", Some(2)).unwrap().remove(0);
    let pin = |written: &str, version| Requirement { written: written.to_owned(), name: "text".to_owned(), version };
    let middle = LibrarySource {
        name: "middle".to_owned(),
        version: 1,
        source: Bytes::from_static(
            b"local text = require('text') state = 0
            function twice(s) state += 1 return text.shout(s) .. text.shout(s) .. state end",
        ),
        requires: vec![pin("text", 1)],
    };
    let library = LibrarySource {
        name: "top".to_owned(),
        version: 1,
        source: Bytes::from_static(
            b"local middle = require('middle')
            function main(key) return middle.twice(key) .. require('text').shout(key) end
            function unpinned() return require('other') end
            function bare() middle.twice = nil return 'ok' end",
        ),
        requires: vec![
            Requirement { written: "middle".to_owned(), name: "middle".to_owned(), version: 1 },
            pin("text", 2),
        ],
    };
    let mut shard = Shard::new();
    let required = [text, middle, newer];
    for _ in 0..2 {
        assert_eq!(shard.call_required(&library, &required, "main").unwrap(), "KK1K!");
        assert_eq!(shard.call_required(&library, &required, "bare").unwrap(), "ok");
    }
    let failure = shard.call_required(&library, &required, "unpinned").unwrap_err();
    let expected = "top:3: library other was not required when this library was uploaded; require it at the top";
    assert_eq!((failure.reason, failure.message.as_str()), (Reason::ProcedureFailed, expected));
    let failure = shard.call_required(&library, &required, "require").unwrap_err();
    assert_eq!(failure.reason, Reason::FunctionNotFound);
}
