//! Scripts that try to hold the shard or fill the node through Tokyo Tyrant's functions.

use std::time::{Duration, Instant};

use cirrus_proto::Reason;

use crate::shard::{Shard, failed};

/// Ample for the 100 ms of CPU and the second that a call has, on a machine that is busy with other tests.
const BOUND: Duration = Duration::from_secs(15);

fn each_fails(reasons: &[Reason], bodies: &[&str]) {
    let mut shard = Shard::new();
    shard.put(b"a", b"1");
    for body in bodies {
        let start = Instant::now();
        let (reason, message) = failed(shard.run(&format!("_put('b', 1) _stashput('b', 1) {body}")));
        let elapsed = start.elapsed();
        assert!(reasons.contains(&reason), "{body}: {reason:?} {message}");
        assert!(elapsed < BOUND, "{body}: took {elapsed:?}");
        let left = shard.run("return tostring(_get('b')) .. tostring(_stashget('b'))");
        assert_eq!(left.as_deref(), Ok("nilnil"), "{body}: no effect is left");
    }
}

#[test]
fn endless_work_is_killed() {
    each_fails(
        &[Reason::CallTimeout],
        &[
            "_foreach(function() while true do end end)",
            "while true do _foreach(function() return true end) end",
            "while true do pcall(_foreach, function() while true do end end) end",
            "_stashforeach(function(k) while true do end end)",
            "_mapreduce(function() while true do end end, function() end)",
            "_mapreduce(function(k, v, emit) emit(k, v) end, function() while true do end end)",
            "_iterinit() while true do _iternext() end",
            "_eval('while true do end')",
            "while true do _eval('while true do end') end",
            "while true do _eval('x =') end",
            "while true do _eval(('a()'):rep(60000)) end",
            "_eval('function f() return _eval(\"f()\") end') while true do f() end",
            "_sleep(1e9)",
            "_sleep(math.huge)",
            "while true do pcall(_sleep, 1e9) end",
            "for i = 1, 1e9 do _sleep(0.0001) end",
            "while true do _time() _lock('x') _unlock('x') end",
            "while true do _rnum() _size() end",
            "while true do _regex('aaaaaaaaaaaaaaaaaaaaaaaaa', '(a*)*b') end",
            "while true do pcall(_regex, 'a', 'a{1000}{1000}') end",
            "local a, b = ('a'):rep(65000), ('b'):rep(65000) return _dist(a, b)",
            "local a = ('ab'):rep(30000) while true do _codec('tcbs', a) end",
            "local a = {} for i = 1, 1000 do a[i] = i end while true do _union(a, a) _isect(a, a) end",
            "while true do _misc('getlist', {'a', 'b', 'c'}) end",
        ],
    );
}

#[test]
fn heavy_work_on_large_data_ends() {
    each_fails(
        &[Reason::CallTimeout, Reason::CallMemory, Reason::ProcedureFailed, Reason::WriteSetTooLarge],
        &[
            // Each visit puts the next key.
            "_foreach(function(k) _put(k .. 'x', 1) _out(k) return true end)",
            "local a = ('a'):rep(20000000) for i = 1, 100 do _codec('gzip', a) end",
            "local a = ('a'):rep(20000000) for i = 1, 100 do _codec('bzip', a) end",
            "local a = ('a'):rep(20000000) for i = 1, 100 do _codec('tcbs', a) end",
            "local a = ('a'):rep(20000000) for i = 1, 100 do _codec('url', a .. i) _codec('quote', a) end",
            "local a = ('a'):rep(20000000) for i = 1, 1000 do _hash('md5', a) _hash('crc32', a) end",
            "local a = ('ab'):rep(1000000) return _dist(a, a)",
            "local a = ('ab'):rep(9000000) return #_split(a, 'a')",
            "local a = ('ab'):rep(9000000) return #_unpack('C*', a)",
            "local a = ('ab'):rep(9000000) return #_ucs(a)",
            "return tostring(_regex(('a'):rep(20000000), '(a|aa)*c'))",
            "return tostring(_regex(('a'):rep(1000000), '(a|b|ab)*c'):rep(2)) .. nil",
            "return _regex('a', '(((((a{99}){99}){99}){99}){99})')",
            "return _regex('a', ('('):rep(4000))",
            "return _regex('a', ('[a-z]{9}'):rep(500))",
            "return tostring(_regex(('a'):rep(60000), ('a?'):rep(200) .. ('a'):rep(200))) .. nil",
            "return _strstr(('a'):rep(1000000), 'a', ('b'):rep(1000000))",
            "return _regex(('a'):rep(1000000), 'a', ('&b'):rep(100000))",
            "return _eval(('x'):rep(1000000)) .. ''",
            "local function f() return _foreach(f) end f()",
            "local function f() return _eval('f()') end _G.f = f f() while true do end",
            "local t = {} while true do _mapreduce(function(k, v, e) while true do e(k, ('x'):rep(100000) .. #t) t[#t + 1] = 1 end end, print) end",
        ],
    );
}

#[test]
fn bombs_are_stopped_by_the_calls_memory() {
    each_fails(
        &[Reason::CallMemory, Reason::CallTimeout],
        &[
            // A gigabyte of zeros, compressed twice.
            "local a = _codec('deflate', ('\\0'):rep(4000000)) local b = _codec('~pack', (string.char(127) .. 'x'):rep(2000000)) return #b .. #a",
            "return #_codec('~pack', (string.char(127, 0)):rep(1000000))",
            "local a = _codec('bzip', ('\\0'):rep(1000000)) return #_codec('~bzip', a:rep(1)) .. #_codec('~pack', (string.char(127, 0)):rep(1000000))",
            "return #_codec('~tcbs', ('\\255'):rep(20000000))",
            "return #_codec('url', ('%'):rep(30000000))",
            "return #_codec('xml', ('\"'):rep(20000000))",
            "return #_pack('l*', table.create(1000000, 1), table.create(1000000, 1), table.create(1000000, 1), table.create(1000000, 1), table.create(1000000, 1), table.create(1000000, 1), table.create(1000000, 1), table.create(1000000, 1), table.create(1000000, 1)) .. nil",
        ],
    );
}

#[test]
fn a_small_bomb_is_stopped_as_it_grows() {
    let mut shard = Shard::new();
    // 100 MB of zeros in about 100 kB, made here so that the call has all its time for decoding.
    for (mode, data) in [("~gzip", zeros_in_gzip()), ("~deflate", zeros_in_zlib()), ("~bzip", zeros_in_bzip())] {
        shard.put(b"bomb", &data);
        let (reason, message) = failed(shard.run(&format!("return #_codec('{mode}', _get('bomb'))")));
        assert!(matches!(reason, Reason::CallMemory | Reason::CallTimeout), "{mode}: {reason:?} {message}");
    }
}

const ZEROS: usize = 100_000_000;

fn all_of(mut reader: impl std::io::Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).unwrap();
    bytes
}

fn zeros() -> impl std::io::Read {
    use std::io::Read as _;
    std::io::repeat(0).take(ZEROS as u64)
}

fn zeros_in_gzip() -> Vec<u8> {
    all_of(flate2::read::GzEncoder::new(zeros(), flate2::Compression::fast()))
}

fn zeros_in_zlib() -> Vec<u8> {
    all_of(flate2::read::ZlibEncoder::new(zeros(), flate2::Compression::fast()))
}

fn zeros_in_bzip() -> Vec<u8> {
    all_of(bzip2::read::BzEncoder::new(zeros(), bzip2::Compression::fast()))
}

#[test]
fn the_stash_is_bounded() {
    let mut shard = Shard::with_limits(cirrus_proto::limits::Limits { call_cpu_ms: 20_000, ..Default::default() });
    for body in [
        "for i = 1, 100 do _stashput(i, ('x'):rep(1000000)) end return 1",
        "for i = 1, 100 do _stashputcat('a', ('x'):rep(1000000)) end return 1",
        "for i = 1, 100000 do _stashput(i, '') end return 1",
        "for i = 1, 1000000 do _stashput(i, '') _stashout(i) end return 1",
        "for i = 1, 100 do _stashput(i .. ('x'):rep(1000000), '') _stashvanish() end return 1",
    ] {
        let (reason, message) = failed(shard.run(body));
        assert_eq!(reason, Reason::WriteSetTooLarge, "{body}: {message}");
        assert!(message.contains("the stash would hold"), "{message}");
        let left = shard.run("local n = 0 _stashforeach(function() n = n + 1 return true end) return n");
        assert_eq!(left.as_deref(), Ok("0"), "{body}");
    }
    // The script may catch it and go on, and a full stash can be emptied.
    let full = "local n = 0 while pcall(_stashput, n, ('x'):rep(1000000)) do n = n + 1 end return n";
    assert_eq!(shard.run(full).as_deref(), Ok("16"));
    assert_eq!(shard.run("return tostring(_stashvanish())").as_deref(), Ok("true"));
    assert_eq!(shard.run(full).as_deref(), Ok("16"));
}

#[test]
fn nothing_leaks_through_globals_or_the_prelude() {
    let mut shard = Shard::new();
    for body in [
        "_version = 'mine' _get = nil _foreach = nil",
        "_G._mapreduce = print x = 1",
        "_eval('_union = nil y = 1')",
        "pcall(_foreach, function() error('x') end)",
    ] {
        shard.run(&format!("{body} return 1")).unwrap();
        let after = "return tostring(x) .. tostring(y) .. _version .. type(_get) .. type(_foreach) .. type(_mapreduce) .. type(_union)";
        assert_eq!(shard.run(after).as_deref(), Ok("nilnil1.1.41functionfunctionfunctionfunction"), "{body}");
    }
    // The operations below the prelude have no names in a script.
    let hidden = "return tostring(page) .. tostring(load) .. tostring(text) .. tostring(generation) .. tostring(_G['(internal)'])";
    assert_eq!(shard.run(hidden).as_deref(), Ok("nilnilnilnilnil"));
}
