//! What a call answers.

use cirrus_proto::Reason;
use cirrus_proto::limits::Limits;

use crate::shard::{Shard, failed};

#[test]
fn results_become_bytes_by_tokyo_tyrants_rule() {
    let cases = [
        ("return 'text'", "text"),
        ("return ''", ""),
        ("return 42", "42"),
        ("return 12345678901234567", "12345678901234568"),
        ("return 2^53", "9007199254740992"),
        ("return 1.5", "1.5"),
        ("return -0.0", "0"),
        ("return true", "true"),
        ("return {'first', 'second'}", "first"),
        ("return {{7}}", "7"),
        ("return {true}", "true"),
        ("return 'one', 'two'", "one"),
        ("return setmetatable({'own'}, {__index = function() return 'inherited' end})", "own"),
    ];
    let mut shard = Shard::new();
    for (body, expected) in cases {
        assert_eq!(shard.run(body).as_deref(), Ok(expected), "{body}");
    }
}

#[test]
fn a_result_that_is_none_is_a_failure() {
    let cases = [
        ("", Reason::ProcedureReturnedNothing),
        ("return nil", Reason::ProcedureReturnedNothing),
        ("return false", Reason::ProcedureReturnedNothing),
        ("return {}", Reason::ProcedureReturnedNothing),
        ("return {false}", Reason::ProcedureReturnedNothing),
        ("return {x = 1}", Reason::ProcedureReturnedNothing),
        ("return print", Reason::ProcedureFailed),
        ("return coroutine.create(print)", Reason::ProcedureFailed),
        ("return vector.create(1, 2, 3)", Reason::ProcedureFailed),
        ("local t = {} t[1] = t return t", Reason::ProcedureFailed),
        ("return ('x'):rep(4194305)", Reason::ResultTooLarge),
        ("return {('x'):rep(4194305)}", Reason::ResultTooLarge),
        ("return coroutine.yield(1)", Reason::ProcedureFailed),
    ];
    let mut shard = Shard::new();
    for (body, reason) in cases {
        let failure = shard.run(&format!("kv.put('a', 1) {body}")).unwrap_err();
        assert_eq!(failure.reason, reason, "{body}: {failure}");
        assert_eq!(shard.value(b"a"), None, "no effect is left");
    }
    assert_eq!(shard.run("return ('x'):rep(4194304)").unwrap().len(), 4 << 20);
}

#[test]
fn arguments_arrive_as_strings_after_the_key() {
    let source = "function main(...) return select('#', ...) .. type(...) .. table.concat({...}, ',') end";
    let mut shard = Shard::new();
    assert_eq!(shard.main(source, &[]).unwrap(), "1stringk");
    assert_eq!(shard.main(source, &[b"", b"1", b"\0x"]).unwrap(), "4stringk,,1,\0x");
}

#[test]
fn an_error_names_library_and_line() {
    let cases = [
        ("error('own')", "lib:2: own"),
        ("\nlocal t = nil\nreturn t.x", "lib:4: attempt to index nil with 'x'"),
        ("\nerror('bare', 0)", "lib:3: bare"),
        ("return ('x'):find('[')", "lib:2: malformed pattern (missing ']')"),
        ("table.sort({1, 'x'})", "lib:2: attempt to compare string < number"),
        ("error()", "lib:2: nil"),
    ];
    let mut shard = Shard::new();
    for (body, expected) in cases {
        let failure = shard.run(body).unwrap_err();
        assert_eq!((failure.reason, &*failure.message), (Reason::ProcedureFailed, expected), "{body}");
        assert_eq!(format!("lib:{}", failure.metadata["line"]), expected[..5], "{body}");
    }
    let failure = shard.run("error({code = 7})").unwrap_err();
    assert_eq!(failure.reason, Reason::ProcedureFailed);
}

#[test]
fn only_exported_functions_can_be_called() {
    let globals = "function main() return 1 end  function _begin() return 1 end  value = 5";
    let module = "function hidden() return 1 end  return {main = function() return 2 end, _private = print}";
    let mut shard = Shard::new();
    assert_eq!(shard.main(globals, &[]).unwrap(), "1");
    assert_eq!(shard.main(module, &[]).unwrap(), "2");
    for (source, function) in [
        (globals, "_begin"),
        (globals, "value"),
        (globals, "print"),
        (globals, "_get"),
        (globals, "absent"),
        (globals, ""),
        (globals, "_G"),
        (globals, "main\0"),
        (module, "hidden"),
        (module, "_private"),
    ] {
        let failure = shard.call(source, function, &[]).unwrap_err();
        assert_eq!(failure.reason, Reason::FunctionNotFound, "{function}");
    }
}

#[test]
fn the_limits_are_the_nodes() {
    let limits = Limits { call_reply_bytes: 10, value_bytes: 5, scan_page_pairs: 2, ..Limits::DEFAULT };
    let mut shard = Shard::with_limits(limits);
    let (reason, message) = failed(shard.run("return ('x'):rep(11)"));
    assert_eq!((reason, &*message), (Reason::ResultTooLarge, "result is 11 bytes, above the limit of 10"));
    assert_eq!(failed(shard.run("_put('a', 'xxxxxx')")).0, Reason::ValueTooLarge);
    assert_eq!(shard.run("for i = 1, 3 do _put(i, i) end return #kv.scan('')").unwrap(), "2");
}
