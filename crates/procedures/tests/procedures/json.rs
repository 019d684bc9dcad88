//! `json.*`.

use std::time::{Duration, Instant};

use cirrus_proto::Reason;
use cirrus_proto::limits::Limits;

use crate::shard::{Shard, failed};

#[test]
fn values_become_json() {
    let cases = [
        ("nil", "null"),
        ("json.null", "null"),
        ("true", "true"),
        ("false", "false"),
        ("0", "0"),
        ("-0", "0"),
        ("-7", "-7"),
        ("0.1", "0.1"),
        ("1.5e300", "1.5e+300"),
        ("2^53", "9007199254740992"),
        ("2^62", "4611686018427387904"),
        ("integer.fromstring('9223372036854775807')", "9223372036854775807"),
        ("integer.fromstring('-9223372036854775808')", "-9223372036854775808"),
        ("''", r#""""#),
        ("'é\"\\\\/\\n\\r\\t\\b\\f\\0\\31\\127'", "\"é\\\"\\\\/\\n\\r\\t\\b\\f\\u0000\\u001f\u{7f}\""),
        ("{}", "{}"),
        ("json.array({})", "[]"),
        ("json.array(json.array({1}))", "[1]"),
        ("{1, 'two', {3}}", "[1,\"two\",[3]]"),
        ("{json.null, json.null}", "[null,null]"),
        ("{b = 1, a = {}, c = {x = true}}", r#"{"a":{},"b":1,"c":{"x":true}}"#),
        ("{['1'] = 'text'}", r#"{"1":"text"}"#),
        ("setmetatable({a = 1}, {__index = {b = 2}, __pairs = error})", r#"{"a":1}"#),
        ("(function() local t = {} return {t, t} end)()", "[{},{}]"),
        ("(function() local t = {} for i = 3, 1, -1 do t[i] = i end return t end)()", "[1,2,3]"),
    ];
    let mut shard = Shard::new();
    for (value, expected) in cases {
        assert_eq!(shard.run(&format!("return json.encode({value})")).as_deref(), Ok(expected), "{value}");
    }
}

#[test]
fn json_becomes_values() {
    let cases = [
        ("null", "return tostring(v == json.null)", "true"),
        ("true", "return tostring(v)", "true"),
        (" [1 , 2] ", "return #v .. v[1] .. v[2]", "212"),
        ("[null]", "return #v .. tostring(v[1] == json.null)", "1true"),
        (r#"{"a":{"b":[{"c":"d"}]}}"#, "return v.a.b[1].c", "d"),
        (r#"{"a":1,"a":2}"#, "return v.a", "2"),
        (r#""\u00e9\ud83d\ude00\n""#, "return v", "é😀\n"),
        (r#""a\u0000b""#, "return #v", "3"),
        ("9007199254740992", "return type(v) .. v", "number9007199254740992"),
        ("9007199254740993", "return type(v) .. tostring(v)", "integer9007199254740993"),
        ("9223372036854775807", "return v", "9223372036854775807"),
        ("-9223372036854775808", "return v", "-9223372036854775808"),
        ("9223372036854775807", "kv.put('a', v) return kv.get('a')", "9223372036854775807"),
        ("9223372036854775806", "return integer.add(v, integer.create(1))", "9223372036854775807"),
        ("9223372036854775806", "kv.put('n', 1) return kv.incr('n', v)", "9223372036854775807"),
        ("1.0", "return v", "1"),
        ("1e2", "return v", "100"),
        ("100000000000000000000", "return json.encode(v)", "1e+20"),
    ];
    let mut shard = Shard::new();
    for (text, body, expected) in cases {
        let source = format!("function main(key, text) local v = json.decode(text) {body} end");
        assert_eq!(shard.main(&source, &[text.as_bytes()]).as_deref(), Ok(expected), "{text}: {body}");
    }
}

#[test]
fn what_was_decoded_encodes_to_the_same_text() {
    let texts = [
        "[]",
        "{}",
        "[[],{},[[]]]",
        "null",
        "9223372036854775807",
        "[9223372036854775807,-9223372036854775808,9007199254740993]",
        r#"{"id":1234567890123456789,"ids":[1234567890123456789,1]}"#,
        "[0.1,1e+300,-2.5e-7,5e-324,1.7976931348623157e+308,2.225073858507201e-308]",
        r#"{"":"","a b":"\u0001","é":[null,true,false]}"#,
    ];
    let mut shard = Shard::new();
    for text in texts {
        let source = "function main(key, text) return json.encode(json.decode(text)) end";
        assert_eq!(shard.main(source, &[text.as_bytes()]).as_deref(), Ok(text));
    }
    let nested = format!("{}{}", "[".repeat(64), "]".repeat(64));
    let source = "function main(key, text) return json.encode(json.decode(text)) end";
    assert_eq!(shard.main(source, &[nested.as_bytes()]), Ok(nested));
}

#[test]
fn what_has_no_json_form_is_refused_by_its_path() {
    let cases = [
        ("0/0", "$: NaN has no JSON form"),
        ("{a = {1, math.huge}}", "$.a[2]: inf has no JSON form"),
        ("{['a b'] = -math.huge}", "$[\"a b\"]: -inf has no JSON form"),
        ("print", "$: a function has no JSON form"),
        ("{x = {y = coroutine.create(print)}}", "$.x.y: a thread has no JSON form"),
        ("{buffer.create(1)}", "$[1]: a buffer has no JSON form"),
        ("{1, 2, x = 3}", "$: the table would be an array, but has the key \"x\""),
        ("{1, 2, nil, 4}", "$: the array has a hole: json.null can fill it"),
        ("{[3] = 1}", "$: the table would be an object, but has the key 3"),
        ("{a = {[1.5] = 1}}", "$.a: the table would be an object, but has the key 1.5"),
        ("{[true] = 1}", "$: the table would be an object, but has a key that is a boolean"),
        ("{a = {1, [{}] = 1}}", "$.a: the table would be an array, but has a key that is a table"),
        ("json.array({a = 1})", "$: the table would be an array, but has the key \"a\""),
        ("{a = 'x\\255'}", "$.a: the string is not UTF-8 at byte 2"),
        ("{['\\255'] = 1}", "$[\"\u{fffd}\"]: the string is not UTF-8 at byte 1"),
        ("(function() local t = {} t.a = {t} return t end)()", "$.a[1]: the table contains itself"),
        (
            "(function() local t = 1 for i = 1, 65 do t = {t} end return t end)()",
            &format!("${}: nested deeper than 64", "[1]".repeat(64)),
        ),
    ];
    let mut shard = Shard::new();
    for (value, expected) in cases {
        let outcome = shard.run(&format!("return json.encode({value})"));
        assert_eq!(failed(outcome), (Reason::ProcedureFailed, format!("lib:2: encode: {expected}")), "{value}");
        let caught = shard.run(&format!("return select(2, pcall(json.encode, {value}))"));
        assert_eq!(caught.as_deref(), Ok(&*format!("encode: {expected}")), "{value}");
    }
}

#[test]
fn what_is_no_json_is_refused_by_its_place() {
    let deep = "[".repeat(100_000);
    let cases = [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("{\n\"a\": x}", "expected value at line 2 column 6"),
        ("[1,]", "trailing comma at line 1 column 4"),
        ("1 2", "trailing characters at line 1 column 3"),
        ("{1: 2}", "key must be a string at line 1 column 2"),
        ("nul", "EOF while parsing a value at line 1 column 3"),
        ("NaN", "expected value at line 1 column 1"),
        ("1e999", "number out of range at line 1 column 5"),
        ("\"\\ud800\"", "unexpected end of hex escape at line 1 column 8"),
        (
            "[18446744073709551615]",
            "the number 18446744073709551615 does not fit in signed 64 bits at line 1 column 21",
        ),
        (&deep, "nested deeper than 64 at line 1 column 65"),
    ];
    let mut shard = Shard::new();
    let source = "function main(key, text) return json.decode(text) end";
    for (text, expected) in cases {
        let outcome = shard.main(source, &[text.as_bytes()]);
        assert_eq!(failed(outcome), (Reason::ProcedureFailed, format!("lib:1: decode: {expected}")));
    }
    let (_, message) = failed(shard.main(source, &[b"\"\xff\""]));
    assert!(message.starts_with("lib:1: decode: invalid unicode code point"), "{message}");
}

#[test]
fn misuse_is_an_error() {
    let cases = [
        ("json.encode()", "encode: expected 1 argument, got 0"),
        ("json.encode(1, 2)", "encode: expected 1 argument, got 2"),
        ("json.decode(1)", "decode: expected a string, got number"),
        ("json.decode(kv.get('none'))", "decode: expected a string, got nil"),
        ("json.array('x')", "array: expected a table, got string"),
        ("json.array(table.freeze({}))", "array: the table is read-only"),
        ("json.array(setmetatable({}, {}))", "array: the table has a metatable already"),
    ];
    let mut shard = Shard::new();
    for (body, expected) in cases {
        assert_eq!(failed(shard.run(body)), (Reason::ProcedureFailed, format!("lib:2: {expected}")), "{body}");
    }
}

#[test]
fn a_library_may_decode_while_it_loads_and_nothing_is_shared_between_calls() {
    let mut shard = Shard::new();
    let source = "local config = json.decode('{\"limit\": 5}') function main() return config.limit end";
    assert_eq!(shard.main(source, &[]).unwrap(), "5");
    for body in [
        "json.null = 1",
        "json.encode = 1",
        "json.null.x = 1",
        "getmetatable(json.array({})).x = 1",
        "getmetatable(json.decode('[]')).__index = kv",
    ] {
        assert_eq!(failed(shard.run(body)).0, Reason::ProcedureFailed, "{body}");
    }
}

#[test]
fn large_documents_are_bounded() {
    let killed = [Reason::CallTimeout, Reason::CallMemory];
    let bodies = [
        "local s = '[' .. ('0,'):rep(5000000) .. '0]' while true do pcall(json.decode, s) end",
        "local s = '\"' .. ('x'):rep(10000000) .. '\"' while true do pcall(json.decode, s) end",
        "local s = '\"' .. ('\\\\u0041'):rep(2000000) .. '\"' while true do pcall(json.decode, s) end",
        "local s = '{\"a\":[' .. ('{},'):rep(3000000) while true do pcall(json.decode, s) end",
        "return json.encode(('\\0'):rep(20000000))",
        "local t = table.create(1000000, 0) while true do pcall(json.encode, t) end",
        "local t = {} for i = 1, 300000 do t['k' .. i] = i end while true do pcall(json.encode, t) end",
        "local s = ('x'):rep(1000000) return json.encode(table.create(1000, s))",
        "local t = {} for i = 1, 60 do t = {t, t, t, t} end return json.encode(t)",
    ];
    for body in bodies {
        let mut shard = Shard::new();
        let start = Instant::now();
        let failure = shard.run(body).expect_err(body);
        assert!(killed.contains(&failure.reason), "{body}: {failure}");
        assert!(start.elapsed() < Duration::from_secs(5), "{body}: took {:?}", start.elapsed());
        assert_eq!(shard.run("return json.encode({1})").unwrap(), "[1]");
    }
    let mut shard = Shard::with_limits(Limits { call_cpu_ms: 20_000, ..Limits::DEFAULT });
    let body = "local s = '[\"' .. ('x'):rep(10000000) .. '\"]' return #json.encode(json.decode(s))";
    assert_eq!(shard.run(body).unwrap(), "10000004");
    let (_, message) = failed(shard.run("return json.decode((' '):rep(2 ^ 24 + 1))"));
    assert_eq!(message, "lib:2: decode: the text is 16777217 bytes, above the limit of 16777216");
    let body = "local ok, err = pcall(json.encode, ('\\0'):rep(20000000)) return tostring(ok) .. ' ' .. err";
    assert_eq!(shard.run(body).unwrap(), "false not enough memory");
}
