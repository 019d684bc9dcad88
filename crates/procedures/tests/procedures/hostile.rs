//! Scripts that try to hold the shard, fill the node, or fall through the sandbox.
//!
//! Each must fail for the right reason, within bounded time, leave no effect, and leave a runtime that
//! serves the next call.

use std::time::{Duration, Instant};

use cirrus_proto::Reason;
use cirrus_proto::limits::Limits;

use crate::shard::Shard;

/// Ample for the 100 ms of CPU that a call has, on a machine that is busy with other tests.
const BOUND: Duration = Duration::from_secs(10);

/// For scripts that work hard in good faith.
const AMPLE_CPU: Limits = Limits { call_cpu_ms: 20_000, ..Limits::DEFAULT };

fn each_fails(reasons: &[Reason], bodies: &[&str]) {
    let mut shard = Shard::new();
    for body in bodies {
        let start = Instant::now();
        let outcome = shard.run(&format!("kv.put('a', 1); {body}"));
        let elapsed = start.elapsed();
        let failure = outcome.expect_err(body);
        assert!(reasons.contains(&failure.reason), "{body}: {failure}");
        assert!(failure.message.len() < 2000, "{body}: a message of {} bytes", failure.message.len());
        assert!(elapsed < BOUND, "{body}: took {elapsed:?}");
        assert_eq!(shard.value(b"a"), None, "{body}: no effect is left");
        assert_eq!(shard.run("return kv.get('a') or 'fine'").as_deref(), Ok("fine"), "{body}: the next call");
    }
}

#[test]
fn endless_loops_are_killed() {
    each_fails(
        &[Reason::CallTimeout],
        &[
            "while true do end",
            "repeat until false",
            "for i = 1, math.huge do end",
            "for _ in function() return 1 end do end",
            "local function f() return f() end while true do pcall(f) end",
            "while true do pcall(function() while true do end end) end",
            "while true do pcall(error) end",
            "while true do pcall(kv.get, '') end",
            "while true do kv.get('a') end",
            "while true do pcall(kv.incr, 'n', 1) end",
            "pcall(function() while true do end end) while true do end",
            "pcall(pcall, pcall, pcall, function() while true do end end) while true do end",
            "xpcall(function() while true do end end, function() while true do end end) return 1",
            "local function again() xpcall(again, again) end again() while true do end",
            "local function f() pcall(f) pcall(f) end while true do f() end",
            "local co = coroutine.wrap(function() while true do coroutine.yield() end end) while true do co() end",
            "while true do coroutine.wrap(function() pcall(function() while true do end end) end)() end",
            "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
            "local t = setmetatable({}, {__index = function(t, k) while true do end end}) return t.x",
            "local t = setmetatable({}, {__tostring = function() while true do end end}) return tostring(t)",
            "local t = setmetatable({}, {__eq = function() while true do end end}) return t == setmetatable({}, getmetatable(t))",
            "error(setmetatable({}, {__tostring = function() while true do end end}))",
            "table.sort({1, 2, 3}, function() while true do end end)",
            "('x'):gsub('x', function() while true do end end)",
            "table.foreach({1}, function() while true do end end)",
            "return select(2, pcall(function() while true do end end))",
        ],
    );
}

#[test]
fn a_script_that_swallows_its_timeout_still_fails() {
    each_fails(&[Reason::CallTimeout], &["pcall(function() while true do end end) return 'survived'"]);
}

#[test]
fn expensive_library_functions_are_killed_or_refused() {
    each_fails(
        &[Reason::CallTimeout, Reason::ProcedureFailed, Reason::CallMemory],
        &[
            // Patterns that backtrack without end.
            "return ('a'):rep(40):find(('a?'):rep(40) .. ('a'):rep(40))",
            "return ('a'):rep(100000):match('.-.-.-.-.-.-.-b')",
            "return ('a'):rep(100000):find('.*.*.*.*b')",
            "return ('a'):rep(100000):gsub('.-.-.-.-b', '')",
            "for w in ('a'):rep(100000):gmatch('.-.-.-.-b') do end",
            "return ('('):rep(1000000):find('%b()')",
            // One step of a pattern that takes long.
            "return ('a'):rep(4000000):find('[' .. ('b'):rep(1000000) .. 'a]*c')",
            "return ('a'):rep(4000000):match('[' .. ('b'):rep(1000000) .. 'a]*c')",
            "return ('a'):rep(4000000):gsub('[' .. ('b'):rep(1000000) .. 'a]*c', '')",
            "return ('a'):rep(4000000):gmatch('[' .. ('b'):rep(1000000) .. 'a]*c')()",
            "return string.format('%d', {}):rep(1e9)",
            // Work in one native call.
            "local t = table.create(2000000, 0) for i = 1, #t do t[i] = -i end table.sort(t) table.sort(t) table.sort(t)",
            "table.move({}, 1, 2147483647, 2, {})",
            "local a, b = ('x'):rep(20000000) .. 'a', ('x'):rep(20000000) .. 'b' local t = {} for i = 1, 10000 do t[i] = i % 2 == 0 and a or b end table.sort(t)",
            "return unpack({}, 1, 100000000)",
            "return ('x'):rep(2147483647)",
            "return ('x'):rep(60000000):byte(1, -1)",
            "return string.rep('x', -1):rep(2147483647):rep(2147483647) .. {}",
        ],
    );
}

#[test]
fn searching_long_strings_is_linear() {
    let mut shard = Shard::with_limits(AMPLE_CPU);
    let start = Instant::now();
    // Luau's own search would compare megabytes at each of millions of positions.
    let found = shard.run(
        "local hay, needle = ('a'):rep(8000000), ('a'):rep(2000000) .. 'b'
         return tostring(hay:find(needle)) .. ' ' .. tostring(hay:find(needle, 1, true)) .. ' '
             .. tostring((hay .. 'b'):find(needle, 5, true)) .. ' ' .. #hay:split(needle) .. ' '
             .. #(needle .. needle):split(needle)",
    );
    assert_eq!(found.unwrap(), "nil nil 6000001 1 3");
    assert!(start.elapsed() < BOUND);
}

#[test]
fn wrapped_string_functions_answer_as_luaus_own() {
    let cases = [
        ("return table.concat({('hello'):find('l')}, ' ')", "3 3"),
        ("return table.concat({('hello'):find('l', -2)}, ' ')", "4 4"),
        ("return table.concat({('a.b'):find('.', 1, true)}, ' ')", "2 2"),
        ("return table.concat({('key=value'):find('(%w+)=(%w+)')}, ' ')", "1 9 key value"),
        ("return table.concat({('key=value'):match('(%w+)=(%w+)')}, ' ')", "key value"),
        ("return ('hello'):match('l+', 4)", "l"),
        ("return table.concat({('hello'):gsub('l', 'L')}, ' ')", "heLLo 2"),
        ("return table.concat({('hello'):gsub('l', {l = 1}, 1)}, ' ')", "he1lo 1"),
        ("return (('hello'):gsub('.', string.upper))", "HELLO"),
        ("local t = {} for w in ('a b c'):gmatch('%a') do t[#t + 1] = w end return table.concat(t)", "abc"),
        ("return table.concat(('a,b,,c'):split(','), '|')", "a|b||c"),
        ("return table.concat(('a,b'):split(), '|')", "a|b"),
        ("return table.concat(('abc'):split(''), '|')", "a|b|c"),
        ("return string.find(12345, 34)", "3"),
        ("return tostring(('x'):find('y'))", "nil"),
        ("local t = {3, 1, 2} table.sort(t) return table.concat(t)", "123"),
        ("local t = {3, 1, 2} table.sort(t, function(a, b) return a > b end) return table.concat(t)", "321"),
        ("return table.concat(table.move({1, 2, 3}, 2, 3, 1), ' ')", "2 3 3"),
        ("return collectgarbage() .. type(collectgarbage('count'))", "0number"),
    ];
    let mut shard = Shard::new();
    for (body, expected) in cases {
        assert_eq!(shard.run(body).as_deref(), Ok(expected), "{body}");
    }
}

#[test]
fn memory_is_bounded() {
    each_fails(
        &[Reason::CallMemory, Reason::CallTimeout],
        &[
            "return ('x'):rep(1000000000)",
            "local s = 'x' while true do s = s .. s end",
            "local t = {} while true do t[#t + 1] = {} end",
            "local t = {} for i = 1, math.huge do t[i] = ('x'):rep(100000) .. i end",
            "return #table.create(60000000, 1)",
            "return buffer.len(buffer.create(1000000000))",
            "return table.concat(table.create(1000000, ('x'):rep(1000)))",
            "return ('x'):rep(1000000):gsub('x', ('y'):rep(1000))",
            "return string.format(('%s'):rep(200), unpack(table.create(200, ('x'):rep(1000000))))",
            "local t = {} while true do t = {t, t, t, t} end",
            "local t = {} for i = 1, 10000000 do t['k' .. i] = i end",
            "local t = {} while true do t[#t + 1] = coroutine.create(print) end",
            "local t = {} while true do local x = #t t[x + 1] = function() return x end end",
            "local s = ('x'):rep(1000000) local t = {} while true do pcall(function() t[#t + 1] = s .. #t end) end",
        ],
    );
}

#[test]
fn memory_that_a_script_lets_go_does_not_count() {
    let mut shard = Shard::with_limits(AMPLE_CPU);
    let body = "local n = 0 for i = 1, 400 do local s = ('x'):rep(1000000) .. i n = n + #s end return n";
    assert_eq!(shard.run(body).unwrap(), "400001092");
    // A call may hold half of the limit and make garbage beside it.
    let body = "local kept = {} for i = 1, 30 do kept[i] = ('x'):rep(1000000) .. i end
        for i = 1, 200 do local s = ('y'):rep(500000) .. i end return #kept";
    for _ in 0..5 {
        assert_eq!(shard.run(body).unwrap(), "30");
    }
}

#[test]
fn a_caught_memory_error_leaves_a_sound_runtime() {
    let mut shard = Shard::new();
    let body = "local ok, err = pcall(string.rep, 'x', 1000000000) return tostring(ok) .. ' ' .. tostring(err)";
    assert_eq!(shard.run(body).unwrap(), "false not enough memory");
    assert_eq!(shard.run("return 1").unwrap(), "1");
}

#[test]
fn integer_arithmetic_does_not_trap() {
    let mut shard = Shard::new();
    for function in ["div", "idiv", "rem", "mod", "udiv", "urem"] {
        for divisor in [-1, 0] {
            // An error or a wrapped result, both are fine; the processor's trap would end the node.
            let least = "integer.fromstring('-9223372036854775808')";
            let body = format!("pcall(integer.{function}, {least}, integer.create({divisor})) return 'alive'");
            assert_eq!(shard.run(&body).unwrap(), "alive");
        }
    }
}

#[test]
fn deep_recursion_is_an_error() {
    each_fails(
        &[Reason::ProcedureFailed, Reason::CallMemory, Reason::CallTimeout],
        &[
            "local function f(n) return 1 + f(n + 1) end return f(1)",
            "local function f() return (pcall(f)) and f() + 1 end return f()",
            "local function f() pcall(f) error('deep') end f()",
            "local function f() return coroutine.wrap(f)() end return f()",
            "local function f(s) return s:gsub('.', f) .. {} end return f('x')",
            "local function f() table.sort({1, 2}, f) error('deep') end f()",
            "local t = setmetatable({}, {}) getmetatable(t).__index = function(t, k) return t[k + 1] end return t[1]",
            "local t = {} for i = 1, 200 do t = setmetatable({}, {__index = t}) end return t.x.y",
            "local t = setmetatable({}, {__tostring = function(t) return tostring(t) end}) return tostring(t)",
            "local t = setmetatable({}, {}) getmetatable(t).__concat = function(a, b) return a .. b end return t .. t",
            "local f f = function() return xpcall(f, f) and error('deep') end f() error('deep')",
            "return ('('):rep(40, '') :find(('('):rep(40))",
            "return ('x'):rep(100000):find(('.-'):rep(300))  .. {}",
            "return string.format('%s', setmetatable({}, {__tostring = function(t) return string.format('%s', t) end}))",
        ],
    );
}

#[test]
fn error_objects_do_no_harm() {
    each_fails(
        &[Reason::ProcedureFailed, Reason::CallMemory],
        &[
            "error(('x'):rep(30000000))",
            "error(('é'):rep(30000))",
            "error({})",
            "error(nil)",
            "error(error)",
            "error(coroutine.create(print))",
            "error(setmetatable({}, {__tostring = function() return ('x'):rep(10000000) end}))",
            "error(setmetatable({}, {__tostring = function() return 5 end}))",
            "error(setmetatable({}, {__tostring = function() error('again') end}))",
            "error(setmetatable({}, {__tostring = error}))",
            "error('\\0\\255\\254')",
            "error('x\\nstack traceback:\\nlib:999')",
            "assert(false)",
            "assert(nil, {})",
            "coroutine.wrap(function() error({}) end)()",
        ],
    );
}

#[test]
fn a_small_budget_is_kept_under_a_table_of_writes() {
    let limits = Limits { call_cpu_ms: 20, ..Limits::DEFAULT };
    let mut shard = Shard::with_limits(limits);
    let start = Instant::now();
    let failure = shard.run("local n = 0 while true do n = n + 1 kv.put(n % 1000, n) end").unwrap_err();
    assert_eq!(failure.reason, Reason::CallTimeout);
    assert_eq!(failure.metadata["limit"], "20");
    assert!(failure.message.starts_with("lib.main used more than 20 ms of CPU time"), "{}", failure.message);
    assert!(start.elapsed() < BOUND);
}

#[test]
fn scans_of_many_keys_are_bounded_too() {
    let limits = Limits { call_cpu_ms: 1, ..Limits::DEFAULT };
    let mut shard = Shard::with_limits(limits);
    for key in 0..200_000u32 {
        shard.put(&key.to_be_bytes(), b"value");
    }
    let failure = shard.run("return #_fwmkeys('')").unwrap_err();
    assert_eq!(failure.reason, Reason::CallTimeout);
}

#[test]
fn logging_is_bounded() {
    let mut shard = Shard::new();
    assert_eq!(shard.run("for i = 1, 1000 do log(('x'):rep(100000)) end return 'done'").unwrap(), "done");
}
