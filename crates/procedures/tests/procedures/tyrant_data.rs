//! Tokyo Tyrant's functions on numbers, bytes and text.

use crate::shard::{Shard, answers, misuses};

/// Defines `hex`, and `list`, which joins an array.
fn with_output(cases: &[(&str, &str)]) {
    let mut shard = Shard::new();
    for (expression, expected) in cases {
        let body = format!(
            "local function hex(s) return (s:gsub('.', function(c) return ('%02x'):format(c:byte()) end)) end
             local function list(t) return table.concat(t, ' ') end
             return tostring({expression})"
        );
        assert_eq!(shard.run(&body).as_deref(), Ok(*expected), "{expression}");
    }
}

#[test]
fn numbers_are_packed() {
    with_output(&[
        ("hex(_pack('c', -1))", "ff"),
        ("hex(_pack('C2', 1, 258))", "0102"),
        ("hex(_pack('s', -2))", "feff"),
        ("hex(_pack('SiI', 1, -1, 4294967295))", "0100ffffffffffffffff"),
        ("hex(_pack('lL', -2, 1))", "feffffffffffffff0100000000000000"),
        ("hex(_pack('f', 1.5))", "0000c03f"),
        ("hex(_pack('d', -0.5))", "000000000000e0bf"),
        ("hex(_pack('nNM', 1, 2, 3))", "0001000000020000000000000003"),
        ("hex(_pack('n*', {1, 2}, 3))", "000100020003"),
        ("hex(_pack('w', 127))", "7f"),
        ("hex(_pack('w3', 0, 128, 16384))", "008100818000"),
        ("hex(_pack('w', 2^63))", "81808080808080808000"),
        ("hex(_pack('C', '7'))", "07"),
        ("hex(_pack('C3', 'x', true, {}))", "0000"),
        ("hex(_pack('C2C0C', 1, 2, 3))", "010203"),
        ("hex(_pack('C', 1, 2))", "01"),
        ("hex(_pack('C9', 1))", "01"),
        ("hex(_pack('CxC', 1, 2, 3))", "0103"),
        ("hex(_pack('C'))", ""),
        ("hex(_pack('', 1))", ""),
        ("hex(_pack('C', 0/0))", "00"),
    ]);
}

#[test]
fn bytes_are_unpacked() {
    with_output(&[
        ("list(_unpack('cC', '\\255\\255'))", "-1 255"),
        ("list(_unpack('sS', '\\254\\255\\254\\255'))", "-2 65534"),
        ("list(_unpack('iI', _pack('ii', -5, -5)))", "-5 4294967291"),
        ("list(_unpack('l', _pack('l', -5)))", "-5"),
        ("list(_unpack('L', _pack('L', 2^53)))", "9007199254740992"),
        ("list(_unpack('fd', _pack('fd', 0.25, 0.1)))", "0.25 0.1"),
        ("list(_unpack('nNM', _pack('nNM', 1, 2, 3)))", "1 2 3"),
        ("list(_unpack('w*', _pack('w*', {0, 1, 127, 128, 300, 2^40})))", "0 1 127 128 300 1099511627776"),
        ("list(_unpack('C*', 'abc'))", "97 98 99"),
        ("list(_unpack('C2', 'abc'))", "97 98"),
        ("list(_unpack('i', 'abc'))", ""),
        ("list(_unpack('Ci', 'abc'))", "97"),
        ("list(_unpack('xC', 'abc'))", "97"),
        ("list(_unpack('C0C', 'abc'))", "97"),
        ("#_unpack('i', nil)", "0"),
        ("list(_unpack('w', '\\129'))", "1"),
    ]);
    misuses(&[
        ("_pack()", "_pack: expected at least 1 argument, got 0"),
        ("_pack({})", "_pack: format must be a string or a number, got table"),
        ("_unpack('C')", "_unpack: expected 2 arguments, got 1"),
        ("_unpack('C', {})", "_unpack: bytes must be a string or a number, got table"),
    ]);
}

#[test]
fn text_is_encoded_and_decoded() {
    with_output(&[
        ("_codec('url', 'a b/c~\\255')", "a%20b%2Fc~%FF"),
        ("_codec('~url', 'a+b%2fc%zz')", "a b/c%zz"),
        ("_codec('base', 'abcd')", "YWJjZA=="),
        ("_codec('~base', 'YWJj\\r\\nZA==')", "abcd"),
        ("_codec('~base', 'YWJjZA')", "abcd"),
        ("#_codec('~base', _codec('base', ('x'):rep(200000)))", "200000"),
        ("_codec('quote', 'a=b\\255\\n')", "a=3Db=FF\n"),
        ("_codec('~quote', 'a=3Db=\\r\\nc=')", "a=bc"),
        ("_codec('~quote', 'a=3')", "nil"),
        ("_codec('hex', 'a\\0\\255')", "6100ff"),
        ("hex(_codec('~hex', '61 00FF'))", "6100ff"),
        ("_codec('~hex', '6')", "nil"),
        ("_codec('~hex', 'zz')", "nil"),
        ("_codec('xml', '<a b=\"&\">')", "&lt;a b=&quot;&amp;&quot;&gt;"),
        ("_codec('~xml', '&lt;&amp;lt;&quot;&gt;&apos;&')", "<&lt;\">&apos;&"),
        ("_codec('HEX', 'a')", "61"),
        ("_codec('rot13', 'a')", "nil"),
        ("_codec('hex', 12)", "3132"),
        ("hex(_codec('pack', ''))", ""),
        ("hex(_codec('pack', 'a'))", "0161"),
        ("hex(_codec('pack', 'aab'))", "02610162"),
        ("hex(_codec('pack', 'abcc'))", "fe61620263"),
        ("hex(_codec('pack', 'abccd'))", "fe616202630164"),
        ("hex(_codec('pack', 'xyzzyyyx'))", "fe7879027a03790178"),
        ("_codec('~pack', '\\3a\\254bc\\0d')", "aaabc"),
        ("_codec('~pack', '\\3')", "nil"),
        ("_codec('~pack', '\\254b')", "nil"),
    ]);
    misuses(&[("_codec('hex')", "_codec: expected 2 arguments, got 1")]);
}

/// What Tokyo Cabinet 1.4.47 itself makes of these.
#[test]
fn block_sorting_makes_tokyo_cabinets_bytes() {
    with_output(&[
        ("hex(_codec('tcbs', ''))", "03"),
        ("_codec('~tcbs', _codec('~hex', '03'))", ""),
        ("hex(_codec('tcbs', 'a'))", "1a1801"),
        ("_codec('~tcbs', _codec('~hex', '1a1801'))", "a"),
        ("hex(_codec('tcbs', 'abracadabra'))", "b4803330032606663e300b"),
        ("_codec('~tcbs', _codec('~hex', 'b4803330032606663e300b'))", "abracadabra"),
        ("hex(_codec('tcbs', ('a'):rep(20)))", "1d18fdff1f"),
        ("_codec('~tcbs', _codec('~hex', '1d18fdff1f'))", "aaaaaaaaaaaaaaaaaaaa"),
        (
            "hex(_codec('tcbs', 'the quick brown fox jumps over the lazy dog; the quick brown fox'))",
            "01ab804de0051c022f6005dc14b8016160079c40133816701c783a70051e03cf0438978157e04a70815be0414204ee8127812ae015784178e00dbc01",
        ),
        (
            "_codec('~tcbs', _codec('~hex', '01ab804de0051c022f6005dc14b8016160079c40133816701c783a70051e03cf0438978157e04a70815be0414204ee8127812ae015784178e00dbc01'))",
            "the quick brown fox jumps over the lazy dog; the quick brown fox",
        ),
        ("hex(_codec('tcbs', 'aab'))", "181803e300"),
        ("_codec('~tcbs', _codec('~hex', '181803e300'))", "aab"),
        ("hex(_codec('tcbs', 'abcc'))", "1f9800630113"),
        ("_codec('~tcbs', _codec('~hex', '1f9800630113'))", "abcc"),
        ("hex(_codec('tcbs', 'abccd'))", "1a98026360024c03"),
        ("_codec('~tcbs', _codec('~hex', '1a98026360024c03'))", "abccd"),
        ("hex(_codec('tcbs', 'xyzzyyyx'))", "958017f052e06d19"),
        ("_codec('~tcbs', _codec('~hex', '958017f052e06d19'))", "xyzzyyyx"),
        (
            "(function() local t = {} for i = 0, 19999 do t[i + 1] = string.char(97 + i * i // 7 % 5) end return _hash('md5', _codec('tcbs', table.concat(t))) end)()",
            "8c79b1b5ccd76fa0157556edb5ed28cb",
        ),
    ]);
}

#[test]
fn every_codec_restores_what_it_made() {
    let mut shard = Shard::with_limits(cirrus_proto::limits::Limits { call_cpu_ms: 20_000, ..Default::default() });
    for mode in ["url", "base", "quote", "hex", "pack", "tcbs", "deflate", "gzip", "bzip"] {
        let body = format!(
            "local texts = {{'', 'a', 'aa', 'ab', 'abab', ('a'):rep(127), ('a'):rep(128), ('ab'):rep(130), ('a'):rep(20000)}}
             for i = 0, 255 do texts[#texts + 1] = string.char(i) .. '!' .. string.char(i, i) end
             local all = table.concat(texts)
             texts[#texts + 1] = all
             local noise = {{}}
             for i = 1, 30000 do noise[i] = string.char(math.random(0, 255)) end
             texts[#texts + 1] = table.concat(noise)
             for _, text in ipairs(texts) do
                 if _codec('~{mode}', _codec('{mode}', text)) ~= text then return #text end
             end
             return 'same'"
        );
        assert_eq!(shard.run(&body).as_deref(), Ok("same"), "{mode}");
    }
}

#[test]
fn damaged_compressed_data_is_nil() {
    with_output(&[
        ("_codec('~deflate', 'nonsense')", "nil"),
        ("_codec('~gzip', 'nonsense')", "nil"),
        ("_codec('~bzip', 'nonsense')", "nil"),
        ("_codec('~tcbs', '')", "nil"),
        ("_codec('~gzip', _codec('gzip', ('abc'):rep(99)):sub(1, 20))", "nil"),
        ("_codec('~deflate', _codec('deflate', ('abc'):rep(99)):sub(1, 9))", "nil"),
        ("hex(_codec('gzip', 'a'):sub(1, 3))", "1f8b08"),
        ("hex(_codec('deflate', 'a'):sub(1, 2))", "789c"),
        ("_codec('bzip', 'a'):sub(1, 4)", "BZh9"),
    ]);
}

#[test]
fn hashes_and_bits() {
    with_output(&[
        ("_hash('md5', 'abc')", "900150983cd24fb0d6963f7d28e17f72"),
        ("hex(_hash('MD5RAW', 'abc'))", "900150983cd24fb0d6963f7d28e17f72"),
        ("_hash('crc32', '123456789')", "3421780262"),
        ("_hash('crc32', '')", "0"),
        ("_hash('sha1', '')", "nil"),
        ("_bit('and', 12, 10)", "8"),
        ("_bit('or', 12, 10)", "14"),
        ("_bit('xor', 12, 10)", "6"),
        ("_bit('not', 0)", "4294967295"),
        ("_bit('left', 1, 31)", "2147483648"),
        ("_bit('left', 3, 31)", "2147483648"),
        ("_bit('right', 2147483648, 31)", "1"),
        ("_bit('right', 1, 32)", "0"),
        ("_bit('AND', -1, 255)", "255"),
        ("_bit('and', '6', '3')", "2"),
    ]);
    misuses(&[
        ("_bit('nand', 1)", "_bit: the mode must be and, or, xor, not, left or right"),
        ("_bit('and')", "_bit: expected 2 to 3 arguments, got 1"),
        ("_bit('and', 'x')", "_bit: expected a number, got string"),
        ("_hash('md5')", "_hash: expected 2 arguments, got 1"),
    ]);
}

#[test]
fn text_is_split_and_searched() {
    with_output(&[
        ("table.concat(_split('a\\0b\\0\\0c'), ',')", "a,b,,c"),
        ("table.concat(_split('a,b c', ', '), '|')", "a|b|c"),
        ("#_split('')", "1"),
        ("#_split(',', ',')", "2"),
        ("#_split('abc', '')", "1"),
        ("#_split('abc', nil)", "1"),
        ("_strstr('hello', 'l')", "3"),
        ("_strstr('hello', 'x')", "0"),
        ("_strstr('hello', '')", "1"),
        ("_strstr('hello', 'l', 'LL')", "heLLLLo"),
        ("_strstr('hello', '', 'x')", "hello"),
        ("_strstr('hello', 'l', '')", "heo"),
        ("_strstr('a\\0b', 'b')", "3"),
        ("list(_ucs('aé€'))", "97 233 8364"),
        ("list(_ucs('😀'))", "55357 56832"),
        ("_ucs({97, 233, 8364, 55357, 56832})", "aé€😀"),
        ("list(_ucs('\\255a'))", "65533 97"),
        ("#_ucs('')", "0"),
        ("_dist('kitten', 'sitting')", "3"),
        ("_dist('', 'abc')", "3"),
        ("_dist('abc', 'abc')", "0"),
        ("_dist('é', 'e')", "2"),
        ("_dist('é', 'e', true)", "1"),
    ]);
    misuses(&[
        ("_split()", "_split: expected 1 to 2 arguments, got 0"),
        ("_strstr('a')", "_strstr: expected 2 to 3 arguments, got 1"),
        ("_ucs()", "_ucs: expected 1 argument, got 0"),
        ("_ucs(true)", "_ucs: text must be a string or a number, got boolean"),
        ("_dist('a')", "_dist: expected 2 to 3 arguments, got 1"),
        ("_dist('a', ('b'):rep(70000))", "_dist: b has 70000 bytes, more than 65536"),
    ]);
}

#[test]
fn regular_expressions_are_posix() {
    with_output(&[
        ("_regex('hello', 'l+o$')", "true"),
        ("_regex('hello', '^e')", "false"),
        ("_regex('HELLO', 'hello')", "false"),
        ("_regex('HELLO', '*hello')", "true"),
        ("_regex('a\\nb', 'a.b')", "true"),
        ("_regex('a\\nb', '^b')", "false"),
        ("_regex('ab12', '^[[:alpha:]]{2}[[:digit:]]+$')", "true"),
        ("_regex('a]b', 'a[]]b')", "true"),
        ("_regex('a-b', '[x-]')", "true"),
        ("_regex('m', '[a-z]')", "true"),
        ("_regex('M', '[^a-z]')", "true"),
        ("_regex('a\\\\b', 'a[\\\\]b')", "true"),
        ("_regex('[', '[[]')", "true"),
        ("_regex('a&&b', '[&&]')", "true"),
        ("_regex('a.b', 'a\\\\.b')", "true"),
        ("_regex('axb', 'a\\\\.b')", "false"),
        ("_regex('\\255', '\\255')", "true"),
        ("_regex('a\\0b', 'b')", "true"),
        ("_regex('x', '')", "true"),
        ("_regex(' #', ' #')", "true"),
        ("_regex('cat', 'dog|cat')", "true"),
        ("_regex('hello world', 'o', '[&]')", "hell[o] w[o]rld"),
        ("_regex('hello world', '(l+)(o)', '<\\\\2\\\\1>')", "he<oll> world"),
        ("_regex('HeLLo', '*l', '\\\\&')", "He&&o"),
        ("_regex('abc', 'x*', '-')", "-abc"),
        ("_regex('abc', 'z', '-')", "abc"),
        ("_regex('aaa', '^a', 'b')", "baa"),
        ("_regex('', 'a*', 'b')", ""),
        ("_regex('abc', '', '-')", "abc"),
        ("_regex('aXbXc', 'X*', '-')", "-aXbXc"),
    ]);
    misuses(&[
        ("_regex('a')", "_regex: expected 2 to 3 arguments, got 1"),
        ("_regex('a', '(')", "_regex: the pattern is invalid: unclosed group"),
        ("_regex('a', '[a')", "_regex: the pattern is invalid: a set is not closed"),
        ("_regex('a', '(?i)a')", "_regex: the pattern is invalid: ( is followed by ?"),
        ("_regex('aa', '(a)\\\\1')", "_regex: a pattern cannot refer back to a group"),
        ("_regex('a', ('a'):rep(5000))", "_regex: a pattern of 5000 bytes is longer than 4096"),
    ]);
}

#[test]
fn patterns_search_texts_as_large_as_values() {
    let mut shard = Shard::with_limits(cirrus_proto::limits::Limits { call_cpu_ms: 20_000, ..Default::default() });
    let found = shard.run(
        "local text = ('word '):rep(200000) .. 'user@example.org'
         return tostring(_regex(text, '[[:alnum:]]+@[[:alnum:].]+')) .. #_regex(text, 'w(or)d', '\\\\1')",
    );
    assert_eq!(found.as_deref(), Ok("true600016"));
}

#[test]
fn arrays_are_sets() {
    with_output(&[
        ("list(_union({'a', 'b'}, {'b', 'c'}))", "a b c"),
        ("list(_union({{'a', 'b'}, {'b', 'c'}}))", "a b c"),
        ("list(_union({1, 2}, {'2', 3}))", "1 2 3"),
        ("list(_union({'a', 'a'}))", "a"),
        ("#_union()", "0"),
        ("list(_isect({'a', 'b', 'c'}, {'c', 'b'}))", "b c"),
        ("list(_isect({{'a', 'b'}, {'b', 'c'}}))", "b"),
        ("list(_isect({'a', 'b'}, {'b'}, {'b', 'a'}))", "b"),
        ("list(_isect({1, 2}, {'2'}))", "2"),
        ("list(_isect({'a', 'a'}, {'a', 'a'}))", "a"),
        ("#_isect({'a'}, {})", "0"),
        ("list(_isect({'b', 'a', 'b'}))", "b a"),
        ("#_isect({'a'}, {'b'}, {'a'})", "0"),
    ]);
}

#[test]
fn doubles_are_added() {
    answers(&[
        ("return _adddouble('d', 1.5)", "1.5"),
        ("return _adddouble('d', '-2')", "-0.5"),
        ("return _unpack('d', _get('d'))[1] .. ' ' .. _vsiz('d')", "-0.5 8"),
        ("_put('d', 'x') return tostring(_adddouble('d', 1))", "nil"),
        ("_put('e', _pack('d', math.huge)) return tostring(_adddouble('e', -math.huge))", "nil"),
        ("return _get('d')", "x"),
    ]);
    misuses(&[
        ("_adddouble('a')", "_adddouble: expected 2 arguments, got 1"),
        ("_adddouble('a', {})", "_adddouble: expected a number, got table"),
    ]);
}
