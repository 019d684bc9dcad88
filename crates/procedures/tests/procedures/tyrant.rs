//! Tokyo Tyrant's API and LightCloud's script.

use cirrus_proto::Reason;

use crate::shard::{Shard, failed};

#[test]
fn each_function_answers_as_tokyo_tyrant_does() {
    let cases = [
        ("return tostring(_get('a'))", "nil"),
        ("return tostring(_put('a', 'one'))", "true"),
        ("return _get('a')", "one"),
        ("return tostring(_putkeep('a', 'two'))", "false"),
        ("return tostring(_putkeep('b', 'two'))", "true"),
        ("return _get('a') .. _get('b')", "onetwo"),
        ("return tostring(_putcat('a', '+'))", "true"),
        ("return tostring(_putcat('c', 'new'))", "true"),
        ("return _get('a') .. _get('c')", "one+new"),
        ("return _vsiz('a')", "4"),
        ("return _vsiz('none')", "-1"),
        ("return tostring(_out('a'))", "true"),
        ("return tostring(_out('a'))", "false"),
        // Numbers are taken as strings, whole ones without a fraction.
        ("_put(1, 2) return _get('1')", "2"),
        ("_put('n', 4 / 2) return _get('n')", "2"),
        ("_put('n', 2.5) return _get('n')", "2.5"),
        ("_put('n', 12345678901234567) return _get('n')", "12345678901234568"),
        // Strings are bytes.
        ("_put('z\\0', '\\0\\255\\r\\n') return #_get('z\\0') .. ' ' .. _vsiz('z\\0')", "4 4"),
        // A little-endian 32-bit integer.
        ("return _addint('i', 5)", "5"),
        ("return _addint('i', '-7')", "-2"),
        ("return string.byte(_get('i'), 1) .. ' ' .. _vsiz('i')", "254 4"),
        ("return _addint('i', 2.9)", "0"),
        ("return _addint('i', 2147483647)", "2147483647"),
        ("return _addint('i', 1)", "-2147483648"),
        ("_put('i', 'abc') return tostring(_addint('i', 1))", "nil"),
        ("return _get('i')", "abc"),
        // Keys that begin with a prefix.
        ("for _, k in ipairs({'p2', 'p1', 'q', 'p3'}) do _put(k, 1) end return 'ok'", "ok"),
        ("return table.concat(_fwmkeys('p'), ' ')", "p1 p2 p3"),
        ("return table.concat(_fwmkeys('p', 2), ' ')", "p1 p2"),
        ("return table.concat(_fwmkeys('p', -1), ' ')", "p1 p2 p3"),
        ("return #_fwmkeys('p', 0)", "0"),
        ("return #_fwmkeys('x')", "0"),
    ];
    let mut shard = Shard::new();
    for (body, expected) in cases {
        assert_eq!(shard.run(body).as_deref(), Ok(expected), "{body}");
    }
}

#[test]
fn a_wrong_argument_count_or_type_is_an_error() {
    let cases = [
        ("_get()", "_get: expected 1 argument, got 0"),
        ("_get('a', 'b')", "_get: expected 1 argument, got 2"),
        ("_put('a')", "_put: expected 2 arguments, got 1"),
        ("_put('a', 1, 2)", "_put: expected 2 arguments, got 3"),
        ("_putkeep('a')", "_putkeep: expected 2 arguments, got 1"),
        ("_putcat('a')", "_putcat: expected 2 arguments, got 1"),
        ("_out()", "_out: expected 1 argument, got 0"),
        ("_vsiz()", "_vsiz: expected 1 argument, got 0"),
        ("_addint('a')", "_addint: expected 2 arguments, got 1"),
        ("_fwmkeys()", "_fwmkeys: expected 1 to 2 arguments, got 0"),
        ("_put('a', nil)", "_put: value must be a string or a number, got nil"),
        ("_get({})", "_get: key must be a string or a number, got table"),
        ("_addint('a', 'x')", "_addint: expected a number, got string"),
        ("_addint('a', 4294967296)", "_addint: the number 4294967296 does not fit in 32 bits"),
        ("_fwmkeys('a', 'x')", "_fwmkeys: max must be a whole number, got string"),
    ];
    let mut shard = Shard::new();
    for (body, expected) in cases {
        assert_eq!(failed(shard.run(body)), (Reason::ProcedureFailed, format!("lib:2: {expected}")), "{body}");
    }
}

#[test]
fn appending_and_adding_keep_expiry_and_flags() {
    let mut shard = Shard::new();
    shard
        .run("kv.put('a', 'x', {ttl_ms = 9, flags = 3}) kv.put('i', '\\1\\0\\0\\0', {ttl_ms = 9, flags = 3}) return 1")
        .unwrap();
    shard.run("_putcat('a', 'y') _addint('i', 1) return 1").unwrap();
    for key in [b"a", b"i"] {
        let value = shard.value(key).unwrap();
        assert_eq!((value.expires_at_ms, value.flags), (1_000_009, 3));
    }
}

const LIGHTCLOUD: &str = "
function incr(key, i)
    i = tonumber(i)
    if not i then
        return nil
    end
    local old = tonumber(_get(key))
    if old then
        i = old + i
    end
    if not _put(key, i) then
        return nil
    end
    return i
end
";

#[test]
fn lightclouds_own_script_runs_unchanged() {
    let mut shard = Shard::new();
    let mut incr = |value: &[u8]| shard.call(LIGHTCLOUD, "incr", &[value]).map(|result| result.to_vec());
    assert_eq!(incr(b"2").unwrap(), b"2");
    assert_eq!(incr(b"40").unwrap(), b"42");
    assert_eq!(incr(b"-50").unwrap(), b"-8");
    assert_eq!(incr(b"x").unwrap_err().reason, Reason::ProcedureReturnedNothing);
    assert_eq!(incr(b"9007199254740000").unwrap(), b"9007199254739992", "not 9.0071992547400e+15");
    assert_eq!(shard.text(b"k").as_deref(), Some("9007199254739992"));
}
