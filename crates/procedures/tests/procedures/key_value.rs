//! The modern API.

use cirrus_proto::Reason;

use crate::shard::{Shard, failed};

#[test]
fn each_function_answers_as_documented() {
    // Each line runs as one call, on the state that the lines above left.
    let cases = [
        ("return tostring(kv.get('a'))", "nil"),
        ("return kv.put('a', 'one')", "true"),
        ("return kv.get('a')", "one"),
        ("return kv.put(7, 12345678901234568)", "true"),
        ("return kv.get('7')", "12345678901234568"),
        ("return kv.put('half', 0.5)", "true"),
        ("return kv.get('half')", "0.5"),
        ("return tostring(kv.delete('a'))", "true"),
        ("return tostring(kv.delete('a'))", "false"),
        ("return kv.incr('n', 5)", "5"),
        ("return kv.incr('n')", "6"),
        ("return kv.incr('n', -10)", "-4"),
        ("return kv.incr('n', '4')", "0"),
        ("return type(kv.incr('n', 1))", "number"),
        ("return kv.put('n', '12345678901234567')", "true"),
        ("return kv.incr('n', 1)", "12345678901234568"),
        ("return type(kv.incr('n', 1))", "string"),
        ("return kv.incr('n', '-12345678901234570')", "-1"),
        ("return now()", "1000000"),
        ("return select('#', kv.get('none')) .. select('#', _get('none'))", "11"),
        ("return tostring(log('one', 2, nil, {}, true))", "nil"),
        ("print('to the log'); return 'done'", "done"),
        ("kv.put('b', 'a\\0\\255') return #kv.get('b') .. string.byte(kv.get('b'), 3)", "3255"),
    ];
    let mut shard = Shard::new();
    for (body, expected) in cases {
        assert_eq!(shard.run(body).as_deref(), Ok(expected), "{body}");
    }
}

#[test]
fn a_call_reads_its_own_writes() {
    let mut shard = Shard::new();
    let body = "kv.put('a', 1) kv.incr('a', 2) kv.put('b', kv.get('a')) kv.delete('a') return kv.get('b')";
    assert_eq!(shard.run(body).unwrap(), "3");
    assert_eq!(shard.text(b"a"), None);
    assert_eq!(shard.text(b"b").as_deref(), Some("3"));
}

#[test]
fn options_set_expiry_and_flags() {
    let mut shard = Shard::new();
    shard.run("return kv.put('a', 1, {ttl_ms = 500, flags = 4294967295})").unwrap();
    let value = shard.value(b"a").unwrap();
    assert_eq!((value.expires_at_ms, value.flags), (1_000_500, u32::MAX));
    assert_eq!(shard.run("return kv.incr('a', 1)").unwrap(), "2", "an increment keeps both");
    assert_eq!(shard.value(b"a").unwrap().expires_at_ms, 1_000_500);
    shard.advance_clock(500);
    assert_eq!(shard.run("return tostring(kv.get('a'))").unwrap(), "nil");
    assert_eq!(shard.run("return #kv.scan('')").unwrap(), "0");
}

#[test]
fn conditions_decide_whether_something_is_stored() {
    let cases = [
        ("return tostring(kv.put('a', 1, {if_version = 7}))", "false"),
        ("return tostring(kv.get('a'))", "nil"),
        ("return kv.version('a')", "0"),
        ("return kv.put('a', 1, {if_absent = true})", "true"),
        ("return tostring(kv.put('a', 2, {if_absent = true}))", "false"),
        ("return tostring(kv.put('a', 2, {if_version = 0}))", "false"),
        ("return kv.get('a')", "1"),
        ("return kv.put('a', 2, {if_absent = false})", "true"),
        ("return kv.put('a', 3, {if_version = kv.version('a')})", "true"),
        ("return kv.put('a', 4, {if_version = tostring(kv.version('a')), if_absent = false})", "true"),
        ("return tostring(kv.put('a', 5, {if_version = kv.version('a'), if_absent = true}))", "false"),
        ("return tostring(kv.put('a', 5, {if_version = kv.version('a') + 1}))", "false"),
        ("local before = kv.version('a') kv.put('a', 5) return kv.version('a') - before", "1"),
        ("return kv.put('none', 1, {if_version = 0})", "true"),
        ("return tostring(kv.cas('a', 4, 6))", "false"),
        ("return tostring(kv.cas('a', nil, 6))", "false"),
        ("return kv.cas('a', 5, 6) and kv.get('a')", "6"),
        ("return kv.cas('b', nil, 'x') and kv.get('b')", "x"),
        ("return tostring(kv.cas('c', '', 'x'))", "false"),
        ("return kv.append('c', 'ab') .. kv.append('c', 12) .. kv.get('c')", "24ab12"),
        ("return tostring(kv.ttl('nothing'))", "nil"),
        ("return kv.ttl('a')", "-1"),
        ("kv.put('d', 1, {ttl_ms = 500}) return kv.ttl('d')", "500"),
        ("kv.put('d', 1, {ttl_ms = '9223372036854775807'}) return kv.ttl('d')", "9223372036854775807"),
        ("return type(kv.ttl('d'))", "string"),
        ("return tonumber(kv.get('a')) + select('#', kv.get('a')) + select('#', kv.version('a'))", "8"),
    ];
    let mut shard = Shard::new();
    for (body, expected) in cases {
        assert_eq!(shard.run(body).as_deref(), Ok(expected), "{body}");
    }
}

#[test]
fn what_is_stored_beside_a_value_stays_with_append_and_goes_with_cas() {
    let mut shard = Shard::new();
    shard.run("kv.put('a', 1, {ttl_ms = 500, flags = 7}) return kv.append('a', 2)").unwrap();
    let value = shard.value(b"a").unwrap();
    assert_eq!((&*value.value, value.expires_at_ms, value.flags), (&b"12"[..], 1_000_500, 7));
    shard.run("return kv.cas('a', '12', 3, {ttl_ms = 100, flags = 9})").unwrap();
    let value = shard.value(b"a").unwrap();
    assert_eq!((value.expires_at_ms, value.flags), (1_000_100, 9));
    shard.run("return kv.cas('a', 3, 4)").unwrap();
    let value = shard.value(b"a").unwrap();
    assert_eq!((value.expires_at_ms, value.flags), (0, 0));
    shard.run("return kv.put('a', 1, {ttl_ms = 500})").unwrap();
    shard.advance_clock(500);
    let body =
        "return tostring(kv.ttl('a')) .. kv.version('a') .. tostring(kv.cas('a', nil, 'new')) .. kv.append('a', '!')";
    assert_eq!(shard.run(body).unwrap(), "nil0true4", "what expired is not there");
}

#[test]
fn misuse_is_an_error_that_names_the_callers_line() {
    let cases = [
        ("kv.get()", "get: expected 1 argument, got 0"),
        ("kv.get('a', 'b')", "get: expected 1 argument, got 2"),
        ("kv.put('a')", "put: expected 2 to 3 arguments, got 1"),
        ("kv.get(nil)", "get: key must be a string or a number, got nil"),
        ("kv.get({})", "get: key must be a string or a number, got table"),
        ("kv.put('a', true)", "put: value must be a string or a number, got boolean"),
        ("kv.put('a', 1, 5)", "put: options must be a table, got number"),
        ("kv.put('a', 1, {tll_ms = 5})", "put: there is no option tll_ms"),
        ("kv.put('a', 1, {ttl_ms = 0.5})", "put: ttl_ms must be a whole number, got number"),
        ("kv.put('a', 1, {[1] = 0.5})", "put: an option's name is a number"),
        ("kv.incr('a', 0.5)", "incr: delta must be a whole number of 64 bits, got number"),
        ("kv.incr('a', {})", "incr: delta must be a whole number of 64 bits, got table"),
        ("kv.incr('a', '9223372036854775808')", "incr: delta must be a whole number of 64 bits, got string"),
        ("kv.scan()", "scan: expected 1 to 2 arguments, got 0"),
        ("kv.put('a', 1, {if_absent = 1})", "put: if_absent must be a boolean, got number"),
        ("kv.put('a', 1, {if_version = 'x'})", "put: if_version must be a whole number, got string"),
        ("kv.cas('a', 1)", "cas: expected 3 to 4 arguments, got 2"),
        ("kv.cas('a', {}, 1)", "cas: expected must be a string or a number, got table"),
        ("kv.cas('a', 1, nil)", "cas: value must be a string or a number, got nil"),
        ("kv.cas('a', 1, 2, {if_absent = true})", "cas: there is no option if_absent"),
        ("kv.append('a', nil)", "append: tail must be a string or a number, got nil"),
        ("kv.ttl(false)", "ttl: key must be a string or a number, got boolean"),
        ("now(1)", "now: expected 0 arguments, got 1"),
    ];
    let mut shard = Shard::new();
    for (body, expected) in cases {
        let outcome = shard.run(&format!("local line_two\n{body}"));
        assert_eq!(failed(outcome), (Reason::ProcedureFailed, format!("lib:3: {expected}")), "{body}");
    }
}

#[test]
fn a_failed_operation_keeps_its_reason_unless_it_is_caught() {
    let cases = [
        ("kv.get('')", Reason::KeyEmpty),
        ("kv.get(('k'):rep(4097))", Reason::KeyTooLarge),
        ("kv.put('a', ('v'):rep(1048577))", Reason::ValueTooLarge),
        ("for i = 1, 9 do kv.put(i, ('v'):rep(1000000)) end", Reason::WriteSetTooLarge),
        ("kv.put('a', 'x') kv.incr('a', 1)", Reason::NotANumber),
        ("kv.put('a', '9223372036854775807') kv.incr('a', 1)", Reason::IntegerOverflow),
        ("kv.put('a', 1, {flags = -1})", Reason::InvalidField),
        ("kv.put('a', 1, {if_version = -1})", Reason::InvalidField),
        ("kv.append('a', ('v'):rep(600000)) kv.append('a', ('v'):rep(600000))", Reason::ValueTooLarge),
        ("kv.cas('elsewhere', nil, 1)", Reason::CrossShard),
        ("kv.version('elsewhere')", Reason::CrossShard),
        ("kv.scan('', {limit = 1001})", Reason::InvalidField),
        ("kv.put('elsewhere', 1)", Reason::CrossShard),
        ("kv.get('elsewhere')", Reason::CrossShard),
        ("_out('elsewhere')", Reason::CrossShard),
        ("local ok, err = pcall(kv.get, '') error(err)", Reason::KeyEmpty),
        ("coroutine.wrap(function() kv.get('') end)()", Reason::KeyEmpty),
    ];
    for (body, reason) in cases {
        let mut shard = Shard::new();
        let failure = shard.run(body).unwrap_err();
        assert_eq!(failure.reason, reason, "{body}: {failure}");
        assert_eq!(failure.metadata["library"], "lib", "{body}");
        assert_eq!(failure.metadata["function"], "main", "{body}");
        assert_eq!(shard.value(b"a"), None, "no effect is left");

        let caught = format!("local ok, err = pcall(function() {body} end) return tostring(ok) .. ' ' .. err");
        let answer = shard.run(&caught).unwrap();
        assert!(answer.starts_with("false") && answer.contains(reason.as_str()), "{body}: {answer}");
    }
}

#[test]
fn an_error_of_the_scripts_own_is_not_mistaken_for_a_caught_one() {
    let mut shard = Shard::new();
    let outcome = shard.run("pcall(kv.get, '')\nerror('other')");
    assert_eq!(failed(outcome), (Reason::ProcedureFailed, "lib:3: other".to_owned()));
}

#[test]
fn scan_reads_a_prefix_or_a_range_in_pages() {
    let list = "
        function main(key, ...)
            local start, stop, limit, from = ...
            local pairs, next = kv.scan(start, {stop = stop, limit = limit, from = from})
            local keys = {}
            for _, pair in ipairs(pairs) do
                table.insert(keys, pair.key .. '=' .. pair.value)
            end
            return table.concat(keys, ' ') .. '|' .. tostring(next)
        end";
    let mut shard = Shard::new();
    for key in ["a", "b1", "b2", "b3", "c"] {
        shard.put(key.as_bytes(), key.to_uppercase().as_bytes());
    }
    let mut scan = |args: &[&[u8]]| shard.main(list, args).unwrap();
    assert_eq!(scan(&[b"b"]), "b1=B1 b2=B2 b3=B3|nil");
    assert_eq!(scan(&[b""]), "a=A b1=B1 b2=B2 b3=B3 c=C|nil");
    assert_eq!(scan(&[b"x"]), "|nil");
    assert_eq!(scan(&[b"a", b"b2"]), "a=A b1=B1|nil");
    assert_eq!(scan(&[b"b2", b"a"]), "|nil", "an empty range");
    assert_eq!(scan(&[b"", b"c", b"2"]), "a=A b1=B1|b2");
    assert_eq!(scan(&[b"", b"c", b"2", b"b2"]), "b2=B2 b3=B3|nil");
    // A page also ends after a megabyte.
    for key in ["d1", "d2", "d3"] {
        shard.put(key.as_bytes(), &vec![b'v'; 600_000]);
    }
    let body = "local pairs, next = kv.scan('d') return #pairs .. ' ' .. next";
    assert_eq!(shard.run(body).unwrap(), "1 d2");
}

#[test]
fn scan_sees_the_calls_own_writes() {
    let mut shard = Shard::new();
    shard.put(b"a", b"1");
    let body = "kv.put('b', 2) kv.delete('a') local p = kv.scan('') return #p .. p[1].key .. p[1].value";
    assert_eq!(shard.run(body).unwrap(), "1b2");
}

#[test]
fn a_read_only_call_has_no_effects() {
    let mut shard = Shard::new();
    shard.put(b"a", b"1");
    shard.run("return kv.get('a')").unwrap();
    assert_eq!(shard.effects, 0);
}
