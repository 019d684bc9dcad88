//! Tokyo Tyrant's functions beyond those on one record, and scripts in the shapes that its users ran.

use cirrus_proto::Reason;

use crate::shard::{Shard, failed};

/// In one shard, in turn.
fn check(cases: &[(&str, &str)]) {
    let mut shard = Shard::new();
    for (body, expected) in cases {
        assert_eq!(shard.run(body).as_deref(), Ok(*expected), "{body}");
    }
}

#[test]
fn records_are_iterated_counted_and_removed() {
    check(&[
        ("return tostring(_iternext())", "nil"),
        ("return _rnum() .. ' ' .. _size()", "0 0"),
        ("for _, k in ipairs({'b', 'a', 'c\\0', 'c'}) do _put(k, k .. k) end return _rnum()", "4"),
        ("return _size()", "15"),
        ("return tostring(_iterinit())", "true"),
        (
            "_iterinit() local s = '' for k in function() return _iternext() end do s = s .. #k .. k:sub(1, 1) end return s",
            "1a1b1c2c",
        ),
        ("_iterinit() _iternext() _iternext() _iterinit() return _iternext()", "a"),
        // The call's own writes are seen; an iterator ends with its call.
        ("_iterinit() _iternext() _out('b') _put('bb', 1) return _iternext()", "bb"),
        ("return tostring(_iternext())", "nil"),
        ("local s = '' _foreach(function(k, v) s = s .. k:sub(1, 1) .. #v return true end) return s", "a2b1c2c4"),
        ("local n = 0 return tostring(_foreach(function() n = n + 1 return n < 2 end)) .. n", "true2"),
        ("local n = 0 _foreach(function() n = n + 1 end) return n", "1"),
        ("_foreach(function(k) _out(k) return true end) return _rnum()", "0"),
        ("for i = 1, 2500 do _put('k' .. i, i) end return _rnum()", "2500"),
        ("local n = 0 _foreach(function(k, v) n = n + v return true end) return n", "3126250"),
        ("return tostring(_vanish())", "true"),
        ("return _rnum()", "0"),
        ("return tostring(_lock('a')) .. tostring(_unlock('a'))", "truetrue"),
    ]);
}

#[test]
fn doubles_are_added_to_their_bytes() {
    check(&[
        ("return _adddouble('d', 1.5)", "1.5"),
        ("return _adddouble('d', '-0.25')", "1.25"),
        ("return _vsiz('d')", "8"),
        ("return _unpack('d', _get('d'))[1]", "1.25"),
        ("_put('d', 'short') return tostring(_adddouble('d', 1))", "nil"),
        ("return _get('d')", "short"),
    ]);
}

#[test]
fn map_reduce_groups_by_key_in_order() {
    let count = "local s = '' local function map(k, v, emit) for w in v:gmatch('%a+') do emit(w, 1) end return true end
        local function reduce(w, values) s = s .. w .. #values .. ' ' return true end ";
    check(&[
        ("_put('1', 'b a b') _put('2', 'c a') return 'ok'", "ok"),
        (&format!("{count} return tostring(_mapreduce(map, reduce)) .. s"), "truea2 b2 c1 "),
        (&format!("{count} _mapreduce(map, reduce, {{'2', 'none'}}) return s"), "a1 c1 "),
        (&format!("{count} _mapreduce(map, reduce, {{}}) return s .. '.'"), "."),
        // Either can end it.
        (&format!("{count} return tostring(_mapreduce(function() return false end, reduce)) .. s"), "false"),
        (&format!("{count} return tostring(_mapreduce(map, function() end)) .. s"), "false"),
        (
            "local t = {} _mapreduce(function(k, v, e) return e(1, 2) end, function(k, v) t = v return true end) return type(t[1])",
            "string",
        ),
    ]);
}

#[test]
fn numbers_are_packed_and_unpacked() {
    let hex = "local function hex(s) return (s:gsub('.', function(c) return ('%02x'):format(c:byte()) end)) end ";
    for (call, expected) in [
        ("_pack('c', 1)", "01"),
        ("_pack('C', 255)", "ff"),
        ("_pack('c', -1)", "ff"),
        ("_pack('s', 258)", "0201"),
        ("_pack('S', 65536)", "0000"),
        ("_pack('i', -2)", "feffffff"),
        ("_pack('I', 4294967295)", "ffffffff"),
        ("_pack('l', 1)", "0100000000000000"),
        ("_pack('L', -1)", "ffffffffffffffff"),
        ("_pack('f', 1.5)", "0000c03f"),
        ("_pack('d', 1.5)", "000000000000f83f"),
        ("_pack('n', 258)", "0102"),
        ("_pack('N', 16909060)", "01020304"),
        ("_pack('M', 258)", "0000000000000102"),
        ("_pack('w', 127)", "7f"),
        ("_pack('w', 128)", "8100"),
        ("_pack('w', 16384)", "818000"),
        ("_pack('c2n', 1, 2, 3)", "01020003"),
        ("_pack('c*', 1, 2, 3)", "010203"),
        ("_pack('c5', 1, 2)", "0102"),
        ("_pack('cc', 1)", "01"),
        ("_pack('c', '7')", "07"),
        ("_pack('', 1)", ""),
    ] {
        let mut shard = Shard::new();
        assert_eq!(shard.run(&format!("{hex} return hex({call})")).as_deref(), Ok(expected), "{call}");
    }
    for (call, expected) in [
        ("_unpack('c*', '\\1\\255')", "1,-1"),
        ("_unpack('C*', '\\1\\255')", "1,255"),
        ("_unpack('s2', '\\2\\1\\255\\255')", "258,-1"),
        ("_unpack('S', '\\255\\255')", "65535"),
        ("_unpack('i', '\\254\\255\\255\\255')", "-2"),
        ("_unpack('I', '\\254\\255\\255\\255')", "4294967294"),
        ("_unpack('l', _pack('l', -5))", "-5"),
        ("_unpack('L', _pack('L', 2^40))", "1099511627776"),
        ("_unpack('f', _pack('f', 0.5))", "0.5"),
        ("_unpack('nNM', _pack('nNM', 1, 2, 3))", "1,2,3"),
        ("_unpack('w*', _pack('w*', 0, 127, 128, 1e9))", "0,127,128,1000000000"),
        ("_unpack('i', 'abc')", ""),
        ("_unpack('w', '\\255')", ""),
    ] {
        let mut shard = Shard::new();
        assert_eq!(shard.run(&format!("return table.concat({call}, ',')")).as_deref(), Ok(expected), "{call}");
    }
}

#[test]
fn strings_sets_and_bits() {
    check(&[
        ("return table.concat(_split('a\\0b\\0\\0c'), '|')", "a|b||c"),
        ("return table.concat(_split('a,b;c', ',;'), '|')", "a|b|c"),
        ("return #_split('')", "1"),
        ("return _hash('md5', 'abc')", "900150983cd24fb0d6963f7d28e17f72"),
        ("return #_hash('md5raw', 'abc')", "16"),
        ("return _hash('crc32', 'abc')", "891568578"),
        ("return _bit('and', 12, 10)", "8"),
        ("return _bit('or', 12, 10)", "14"),
        ("return _bit('xor', 12, 10)", "6"),
        ("return _bit('not', 0)", "4294967295"),
        ("return _bit('left', 1, 31)", "2147483648"),
        ("return _bit('left', 1, 32)", "0"),
        ("return _bit('right', 4294967295, 28)", "15"),
        ("return _bit('and', -1, 255)", "255"),
        ("return _strstr('hello', 'l')", "3"),
        ("return _strstr('hello', 'z')", "0"),
        ("return _strstr('hello', 'l', 'LL')", "heLLLLo"),
        ("return _strstr('a.b', '.', '')", "ab"),
        ("return _strstr('abc', '', 'x')", "abc"),
        ("return table.concat(_ucs('aé€'), ',')", "97,233,8364"),
        ("return _ucs({97, 233, 8364})", "aé€"),
        ("return #_ucs('')", "0"),
        ("return _dist('kitten', 'sitting')", "3"),
        ("return _dist('', 'abc')", "3"),
        ("return _dist('é', 'e')", "2"),
        ("return _dist('é', 'e', true)", "1"),
        ("return table.concat(_isect({'a', 'b', 'c', 'b'}, {'c', 'b'}), '')", "bc"),
        ("return #_isect({'a'}, {})", "0"),
        ("return table.concat(_union({'a', 'b'}, {'b', 'c', 1}), '')", "abc1"),
        ("return #_union()", "0"),
        ("return tostring(_time() > 1.7e9)", "true"),
        ("return tostring(_log('a line')) .. tostring(_log('a line', 2))", "nilnil"),
    ]);
}

#[test]
fn wrong_use_is_an_error() {
    let mut shard = Shard::new();
    for (call, expected) in [
        ("_iternext(1)", "_iternext: expected 0 arguments, got 1"),
        ("_rnum(1)", "_rnum: expected 0 arguments, got 1"),
        ("_adddouble('a', 'x')", "_adddouble: expected a number, got string"),
        ("_pack('x', 1)", "_pack: 'x' is no format"),
        ("_pack('c', {})", "_pack: expected numbers, got table"),
        ("_unpack('c')", "_unpack: expected 2 arguments, got 1"),
        ("_hash('sha', 'a')", "_hash: mode must be md5, md5raw or crc32, got \"sha\""),
        ("_bit('and', 1)", "_bit: expected 3 arguments, got 2"),
        ("_foreach()", "_foreach: expected 1 argument, a function"),
        ("_foreach(1)", "_foreach: expected 1 argument, a function"),
        ("_mapreduce(print)", "_mapreduce: expected 2 functions, a mapper and a reducer, and perhaps keys"),
        ("_mapreduce(print, 1)", "_mapreduce: expected 2 functions, a mapper and a reducer, and perhaps keys"),
        ("_glob('*')", "_glob: refused: a procedure cannot touch the server's files"),
        ("_mkdir('x')", "_mkdir: refused: a procedure cannot touch the server's files"),
        ("_bit('nand', 1, 2)", "_bit: mode must be and, or, xor, not, left or right, got \"nand\""),
    ] {
        let expected = (Reason::ProcedureFailed, format!("lib:2: {expected}"));
        assert_eq!(failed(shard.run(call)), expected, "{call}");
    }
}

#[test]
fn endless_work_is_killed() {
    let mut shard = Shard::new();
    for number in 0..50 {
        shard.put(format!("key{number}").as_bytes(), b"value");
    }
    for body in [
        "_foreach(function() while true do end end)",
        "while true do _foreach(function() return true end) end",
        "_mapreduce(function(k, v, emit) while true do emit(k, v) end end, print)",
        "while true do _iterinit() _iternext() end",
        "while true do _rnum() end",
        "_dist(string.rep('a', 1e6), string.rep('b', 1e6))",
    ] {
        let (reason, _) = failed(shard.run(body));
        assert!(matches!(reason, Reason::CallTimeout | Reason::CallMemory), "{body}: {reason:?}");
    }
}

/// The shapes of scripts that Tokyo Tyrant shipped and its users wrote.
#[test]
fn scripts_run_unchanged() {
    let script = r#"
function echo(key, value) return key .. "\t" .. value end

function listadd(key, value)
   local list = _get(key)
   if list then value = list .. "\0" .. value end
   return _put(key, value)
end
function listremove(key, value)
   local kept = {}
   for _, item in ipairs(_split(_get(key) or "")) do
      if item ~= value then table.insert(kept, item) end
   end
   return _put(key, table.concat(kept, "\0"))
end
function listget(key) return (string.gsub(_get(key), "%z", ",")) end

-- A queue under keys that sort by number.
function enqueue(key, value)
   local id = _adddouble("last:" .. key, 1)
   if not id then return nil end
   return _putkeep(string.format("%s:%012d", key, id), value)
end
function dequeue(key, max)
   max = tonumber(max) or 1
   local res = ""
   for _, name in ipairs(_fwmkeys(key .. ":", max)) do
      res = res .. _get(name) .. "\n"
      if not _out(name) then return nil end
   end
   return res
end

-- Values behind the time of their end.
function put_until(key, value) return _put("x:" .. key, _pack("N", tonumber(value)) .. key) end
function expire(key, now)
   local count = 0
   _foreach(function(name, value)
      if string.sub(name, 1, 2) == "x:" and _unpack("N", value)[1] < tonumber(now) then
         if not _out(name) then return false end
         count = count + 1
      end
      return true
   end)
   return count
end

function wordcount(key, value)
   local function mapper(name, text, mapemit)
      for word in string.gmatch(string.lower(text), "%w+") do mapemit(word, 1) end
      return true
   end
   local res = ""
   local function reducer(word, values)
      res = res .. word .. "\t" .. #values .. "\n"
      return true
   end
   if not _mapreduce(mapper, reducer, _split(value, ",")) then res = nil end
   return res
end

function common(key, value)
   local a, b = _split(_get(key), " "), _split(_get(value), " ")
   return table.concat(_isect(a, b), " ") .. "|" .. table.concat(_union(a, b), " ")
end
"#;
    let mut shard = Shard::new();
    let mut call = |function: &str, args: &[&str]| {
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        let result = shard.call(script, function, &args).unwrap();
        String::from_utf8_lossy(&result).into_owned()
    };
    for (function, args, expected) in [
        ("echo", &["v"][..], "k\tv"),
        ("listadd", &["one"], "true"),
        ("listadd", &["two"], "true"),
        ("listadd", &["three"], "true"),
        ("listremove", &["two"], "true"),
        ("listget", &[], "one,three"),
        ("enqueue", &["first"], "true"),
        ("enqueue", &["second"], "true"),
        ("enqueue", &["third"], "true"),
        ("dequeue", &["2"], "first\nsecond\n"),
        ("dequeue", &[], "third\n"),
        ("dequeue", &[], ""),
        ("put_until", &["100"], "true"),
        ("expire", &["100"], "0"),
        ("expire", &["101"], "1"),
        ("expire", &["101"], "0"),
    ] {
        assert_eq!(call(function, args), expected, "{function} {args:?}");
    }
    let mut shard = Shard::new();
    for (key, value) in [("k", "a b c"), ("other", "B c d")] {
        shard.put(key.as_bytes(), value.as_bytes());
    }
    for (function, args, expected) in
        [("wordcount", &["k,other"][..], "a\t1\nb\t2\nc\t2\nd\t1\n"), ("common", &["other"], "c|a b c B d")]
    {
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        assert_eq!(shard.call(script, function, &args).unwrap(), expected, "{function}");
    }
}
