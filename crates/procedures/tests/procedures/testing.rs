//! Test files against shards in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use cirrus_procedures::testing::{TYPES, TestFailure, TestFile, TestReport, TestSettings, run_tests};
use cirrus_procedures::{Linker, Warning, lint, lint_test};
use cirrus_proto::limits::Limits;

const STOCK: &str = "
function reserve(item, wanted)
    local left = tonumber(kv.get(item)) or 0
    local count = tonumber(wanted)
    if count > left then
        error('FAILED_PRECONDITION', 'sold out', 'SOLD_OUT')
    end
    kv.put(item, left - count)
    log.info('left', left - count)
    return left - count
end
function fails(item) kv.put(item, 'x') local t = nil; return t.x end
function across(item) return kv.get('elsewhere') end
function dice(item) return math.random(1000000) .. ' ' .. uuid() .. ' ' .. os.time() .. ' ' .. _time() end
function count(item) local n = 0 _foreach(function() n += 1 return true end) return n end
function spin(item) while true do end end

--- Adds exactly, and says what it was given.
---@procedure add
---@param amount integer
---@param note string?
---@limit cpu_ms 20
function add(item, amount, note) return {sum = kv.incr(item, amount), note = note or json.null, kinds = {type(amount)}} end
---@procedure peek
---@read_only
function peek(item, write) if write then kv.put(item, 1) end return kv.get(item) end
function same(item, ...) return ... end
function both(one, two) return {one, two} end
function lend(item) kv.put(item, 'lent', {ttl_ms = 1000}) return 'lent' end
";

fn run_with(settings: &TestSettings, source: &str, wanted: &str) -> Result<Vec<TestReport>, Box<TestFailure>> {
    let library = |name: &str, source: &'static str| (name.to_owned(), Bytes::from_static(source.as_bytes()));
    let sources = BTreeMap::from([
        library("stock", STOCK),
        library("titles", "local stock = require('stock') function upper(text) return string.upper(text) end"),
        library("broken", "function f(\n"),
    ]);
    let linker = Linker::new(&sources, &Limits::DEFAULT);
    let mut reports = Vec::new();
    let file = TestFile { name: "stock_test.lua", source: source.as_bytes() };
    let count = run_tests(file, &linker, settings, &|name| name.contains(wanted), &mut |report| reports.push(report))?;
    assert_eq!(count, reports.len());
    Ok(reports)
}

fn run(source: &str) -> Vec<TestReport> {
    run_with(&TestSettings::default(), source, "").unwrap()
}

/// Runs the body as one test that passes.
fn passes(body: &str) -> TestReport {
    let mut reports = run(&format!("function test_it() {body}\nend"));
    let report = reports.remove(0);
    assert_eq!(report.failure, None, "{body}");
    report
}

/// Runs the body, which begins on line 2, as one test that fails.
fn fails(body: &str) -> (TestFailure, TestReport) {
    let mut reports = run(&format!("function test_it()\n{body}\nend"));
    let report = reports.remove(0);
    let failure = report.failure.clone().unwrap_or_else(|| panic!("{body} passes"));
    (*failure, report)
}

#[test]
fn a_call_runs_as_on_a_server() {
    passes(
        "kv.put('shoes', 3)
        expect.equal(call('stock.reserve', 'shoes', 2), 1)
        expect.equal(call_text('stock.reserve', 'shoes', 0), '1')
        expect.equal(kv.get('shoes'), '1')
        local problem = expect.error('SOLD_OUT', call, 'stock.reserve', 'shoes', 2)
        expect.equal(problem.reason, 'PROCEDURE_FAILED')
        expect.equal(problem.code, 'FAILED_PRECONDITION')
        expect.equal(problem.message, 'sold out')
        expect.equal(problem.line, 6)
        expect.equal(kv.get('shoes'), '1')
        expect.error('FAILED_PRECONDITION', function() call('stock.reserve', 'shoes', 2) end)",
    );
    passes(
        "local ok, problem = pcall(call, 'stock.fails', 'shoes')
        assert(not ok)
        expect.equal(problem.reason, 'PROCEDURE_FAILED')
        expect.equal(problem.line, 12)
        expect.match(tostring(problem), '^PROCEDURE_FAILED: stock:12: attempt to index nil')
        expect.equal(kv.get('shoes'), nil, 'a call that fails writes nothing')",
    );
    passes("expect.error('CROSS_SHARD', call, 'stock.across', 'shoes')");
    passes("expect.error('CALL_TIMEOUT', call, 'stock.spin', 'shoes')");
    passes("expect.error('KEY_EMPTY', call, 'stock.reserve', '', 1)");
    passes("expect.error('LIBRARY_NOT_FOUND', call, 'nowhere.f', 'k')");
    passes("expect.error('LIBRARY_INVALID', call, 'broken.f', 'k')");
    passes("expect.error('FUNCTION_NOT_FOUND', call, 'stock.f', 'k')");
    passes("expect.error('INVALID_FIELD', call, 'stock', 'k')");
    passes("expect.error('INVALID_FIELD', call, 'stock@0.f', 'k')");
}

#[test]
fn values_have_types_both_ways() {
    passes(
        "for _, value in {1, -1.5, true, false, 'text', '\\0\\255', {1, 2, {x = 'y'}}, {a = {b = false}}, {}, 2 ^ 53} do
            expect.equal(call('stock.same', 'k', value), value)
        end
        expect.equal(call('stock.same', 'k', nil), nil)
        local large = integer.fromstring('9007199254740993')
        assert(call('stock.same', 'k', large) == large)
        expect.equal(call('stock.same', 'k', json.array({})), {})
        local ok, problem = pcall(call, 'stock.same', 'k', {[1] = 1, x = 2})
        assert(not ok and type(problem) == 'string', problem)",
    );
    passes(
        "expect.equal(call('stock.add', 'n', 2, 'x'), {sum = 2, note = 'x', kinds = {'number'}})
        expect.equal(call('stock.add', 'n', 2).note, json.null)
        local problem = expect.error('INVALID_FIELD', call, 'stock.add', 'n', 'two')
        expect.match(problem.message, 'amount')
        expect.error('INVALID_FIELD', call, 'stock.add', 'n')
        expect.error('INVALID_FIELD', call_text, 'stock.add', 'n', 'two')
        expect.equal(kv.get('n'), '4')
        expect.equal(call('stock.peek', 'n'), '4')
        expect.error('READ_ONLY', call, 'stock.peek', 'n', true)
        expect.error('PROCEDURE_RETURNED_NOTHING', call_text, 'stock.peek', 'none')
        expect.equal(call('stock.peek', 'none'), nil)
        expect.equal(call('stock.both', {'{a}1', '{a}2'}), {'{a}1', '{a}2'})
        expect.error('CROSS_SHARD', call, 'stock.both', {'shoes', 'elsewhere'})",
    );
}

#[test]
fn each_call_sees_its_shard_and_the_test_sees_all() {
    passes(
        "for i = 1, 100 do kv.put('key' .. i, i) end
        expect.equal(#kv.scan('key'), 100)
        local seen = tonumber(call('stock.count', 'key1'))
        assert(seen > 0 and seen < 50, seen)
        kv.put('{key1}.more', 1)
        expect.equal(tonumber(call('stock.count', 'key1')), seen + 1)
        _iterinit()
        expect.equal(_iternext(), 'key1')
        expect.equal(_iternext(), 'key10')",
    );
    let one = TestSettings { shard_count: 1, ..TestSettings::default() };
    let source = "function test_it() kv.put('elsewhere', 7) expect.equal(call('stock.across', 'shoes'), '7') end";
    assert_eq!(run_with(&one, source, "").unwrap()[0].failure, None);
}

#[test]
fn the_clock_moves_when_the_test_says_so() {
    passes(
        "local began = now()
        expect.equal(began, 1767225600000)
        expect.equal(os.date('!%Y-%m-%d'), '2026-01-01')
        call('stock.lend', 'book')
        expect.equal(kv.ttl('book'), 1000)
        expect.equal(advance(999), began + 999)
        expect.equal(kv.get('book'), 'lent')
        advance(1)
        expect.equal(kv.get('book'), nil)
        advance(3600000)
        expect.equal(os.time(), 1767225600 + 3601)
        expect.match(call('stock.dice', 'book'), ' 1767229201 1767229201$')
        expect.error(nil, advance, -1)",
    );
}

#[test]
fn each_test_begins_anew_and_repeats() {
    let source = "
        local lines = {}
        runs = (runs or 0) + 1
        kv.put('at the top', runs)
        function test_b() table.insert(lines, 1) kv.put('b', 1) expect.equal(#lines, 1) expect.equal(runs, 1) advance(5) end
        local tests = {}
        function tests.test_a()
            expect.equal(#lines, 0)
            expect.equal(kv.get('b'), nil)
            expect.equal(kv.get('at the top'), '1')
            expect.equal(now(), 1767225600000)
        end
        function tests.test_stash() expect.equal(_stashget('x'), nil) _stashput('x', 1) end
        function tests.test_stash_again() expect.equal(_stashget('x'), nil) end
        tests.testing = 3
        function tests.helper() error('not a test') end
        return tests";
    let reports = run(source);
    let names: Vec<_> = reports.iter().map(|report| report.name.as_str()).collect();
    assert_eq!(names, ["test_b", "test_a", "test_stash", "test_stash_again"], "in the order of the source");
    for report in &reports {
        assert_eq!(report.failure, None, "{}", report.name);
    }
    let some = run_with(&TestSettings::default(), source, "stash").unwrap();
    assert_eq!(some.len(), 2);

    let random = "function test_one() print(math.random(1000000), uuid(), call('stock.dice', 'k')) end
        function test_two() print(math.random(1000000), uuid(), call('stock.dice', 'k')) end";
    let output = |seed: u64, wanted: &str| {
        let settings = TestSettings { seed, ..TestSettings::default() };
        run_with(&settings, random, wanted).unwrap().pop().unwrap().output
    };
    assert_eq!(output(7, "test_"), output(7, "test_two"), "alone as among others");
    assert_eq!(output(7, ""), output(7, ""));
    assert_ne!(output(7, ""), output(8, ""));
}

#[test]
fn a_failure_says_what_where_and_why() {
    let (failure, report) = fails("kv.put('shoes', 3)\nexpect.equal(call('stock.reserve', 'shoes', 2), 2, 'left')");
    assert_eq!((failure.message.as_str(), failure.line), ("left: not equal", Some(3)));
    assert_eq!((failure.expected.as_deref(), failure.actual.as_deref()), (Some("2"), Some("1")));
    let call = report.last_call.unwrap();
    assert_eq!((call.procedure.as_str(), call.outcome), ("stock.reserve", Ok("1".to_owned())));
    assert_eq!(call.arguments, ["\"shoes\"", "2"]);
    let operations: Vec<_> = call.steps.iter().map(|step| step.operation.as_str()).collect();
    assert_eq!(operations, ["kv.get", "kv.put", "log.info"]);
    assert_eq!((&*call.writes[0].key, call.writes[0].value.as_deref()), (&b"shoes"[..], Some(&b"1"[..])));
    assert_eq!(report.output, ["stock.reserve: left 1"]);

    let (failure, report) = fails("print('before')\nlocal function deep()\ncall('stock.fails', 'k')\nend\ndeep()");
    assert_eq!(failure.reason.as_deref(), Some("PROCEDURE_FAILED"));
    assert!(failure.message.starts_with("PROCEDURE_FAILED: stock:12: attempt to index nil"), "{}", failure.message);
    assert_eq!(failure.line, Some(4));
    let lines: Vec<_> = failure.stack.iter().map(|frame| (frame.line, frame.function.as_deref())).collect();
    assert_eq!(lines, [(4, Some("deep")), (6, Some("test_it"))]);
    assert_eq!(report.last_call.unwrap().steps.len(), 1);
    assert_eq!(report.output, ["before"]);

    for (body, message, line) in [
        ("\nassert(false)", "assertion failed!", 3),
        ("assert(false, 'so')", "so", 2),
        ("error('plain')", "plain", 2),
        ("error({1, x = 2})", "the error {1, x = 2} was raised", 2),
        ("local t = nil; t.x = 1", "attempt to index nil with 'x'", 2),
        ("kv.get('')", "KEY_EMPTY: key is empty", 2),
        ("kv.put('k')", "put: expected 2 to 3 arguments, got 1", 2),
        ("call('stock.f')", "call: the key must be a string, a number or a table of them, got nothing", 2),
        ("call('stock.f', {})", "call: the key must be a string, a number or a table of them, got nothing", 2),
        ("call('stock.f', true)", "call: a key must be a string or a number, got boolean", 2),
        ("call(1)", "call: the procedure must be a string, got number", 2),
        ("call('stock.f', 'k', 1, {print})", "call: argument 2 has no form: $[1]: a function is no result", 2),
        ("call_text('stock.f', 'k', 1, {})", "call_text: argument 2 must be a string or a number, got table", 2),
        ("advance('soon')", "advance takes milliseconds, a whole number from 0, got string", 2),
        ("require('nowhere')", "LIBRARY_NOT_FOUND: there is no library nowhere", 2),
        (
            "expect.equal(1)",
            "expect.equal takes the actual value, the expected one, and perhaps a message; got 1 arguments",
            2,
        ),
        (
            "expect.error('X', 1)",
            "expect.error takes a reason, or nil for any, and a function, perhaps with arguments",
            2,
        ),
        ("expect.equal({a = {1}}, {a = {2}})", "not equal at .a[1]", 2),
        ("expect.error('SOLD_OUT', function() end)", "no error was raised", 2),
        ("expect.error('SOLD_OUT', error, 'other')", "another error was raised", 2),
        ("expect.error(nil, function()\nexpect.equal(1, 2) end)", "not equal", 3),
        ("expect.match('abc', '^b')", "no match", 2),
        ("coroutine.wrap(function() error('within') end)()", "within", 2),
        ("local function f() return f() + 1 end f()", "stack overflow", 2),
    ] {
        let (failure, _) = fails(body);
        assert!(failure.message.contains(message), "{body}: {failure:?}");
        assert_eq!(failure.line, Some(line), "{body}: {failure:?}");
    }
    passes("expect.error('KEY_EMPTY', kv.get, '') expect.error('KEY_EMPTY', function() kv.get('') end)");
    passes("expect.error(nil, function() error('any') end) expect.error('so', error, 'so: and so')");
}

#[test]
fn lint_and_editors_know_what_tests_find() {
    let source = "function test_it()
        call_text('stock.reserve', 'k', advance(1))
        expect.equal(call('stock.left', 'k'), 1)
        expect.error(nil, call)
        expect.match('a', 'a')
        expect.equals(1, 1)
        exspect.equal(1, 1)
    end";
    let found = |warnings: Vec<Warning>| warnings.into_iter().map(|warning| warning.message).collect::<Vec<_>>();
    assert_eq!(
        found(lint_test(source.as_bytes())),
        ["expect has no equals; did you mean equal?", "there is no global variable exspect; did you mean expect?"]
    );
    assert!(found(lint(source.as_bytes())).len() > 4, "libraries do not find it");
    for name in ["call", "call_text", "advance"] {
        assert!(TYPES.contains(&format!("\ndeclare function {name}(")), "{name}");
        passes(&format!("assert(type({name}) == 'function')"));
    }
    passes(
        "local names = {} for name in expect do table.insert(names, name) end
        table.sort(names) expect.equal(names, {'equal', 'error', 'match'})",
    );
    for name in ["equal", "error", "match"] {
        assert!(TYPES.contains(&format!("\n    {name}: (")), "{name}");
    }
}

#[test]
fn a_test_finds_libraries_itself() {
    passes(
        "local titles = require('titles')
        expect.equal(titles.upper('a'), 'A')
        assert(require('titles') == titles)
        local stock = require('stock')
        kv.put('shoes', 2)
        expect.equal(stock.reserve('shoes', 1), 1)
        expect.equal(kv.get('shoes'), '1')",
    );
    let (failure, _) = fails("kv.put('shoes', 0)\nrequire('stock').reserve('shoes', 1)");
    assert!(failure.message.contains("sold out"), "{failure:?}");
    assert_eq!(failure.line, Some(3));
    assert_eq!(failure.stack[0].source, "stock");
}

#[test]
fn a_test_ends() {
    let settings = TestSettings { test_cpu_ms: 50, test_memory_bytes: 8 << 20, ..TestSettings::default() };
    let source = "function test_loop()
            while true do pcall(function() while true do end end) end
        end
        function test_memory() local t = {} while true do table.insert(t, ('x'):rep(100000) .. #t) end end
        function test_print() for i = 1, 5000 do print(i) end end
        function test_fine() expect.equal(1, 1) end";
    let reports = run_with(&settings, source, "").unwrap();
    let failure = |index: usize| reports[index].failure.clone().map(|failure| (failure.message, failure.line));
    assert_eq!(failure(0), Some(("it used more than 50 ms of CPU time and was killed".to_owned(), Some(2))));
    assert_eq!(failure(1), Some(("it used more than 8388608 bytes of memory".to_owned(), Some(4))));
    assert!(reports[2].output.len() <= 1001);
    assert_eq!(failure(3), None);
}

#[test]
fn a_file_that_cannot_run_says_why() {
    for (source, message, line) in [
        ("function test_it(\n", "Expected identifier", Some(2)),
        ("\nerror('at the top')", "at the top", Some(2)),
        ("return 5", "it returns a number; a test file returns a table of functions, or nothing", None),
        ("while true do end", "it used more than 100 ms of CPU time and was killed", Some(1)),
    ] {
        let settings = TestSettings { test_cpu_ms: 100, ..TestSettings::default() };
        let failure = run_with(&settings, source, "").unwrap_err();
        assert!(failure.message.contains(message), "{failure:?}");
        assert_eq!(failure.line, line, "{failure:?}");
    }
    assert_eq!(run("function helper() end").len(), 0);
}
