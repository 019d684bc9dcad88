//! Tokyo Tyrant's `_misc`, its view of the server, its hooks, and `_eval`.

use std::time::{Duration, Instant};

use cirrus_proto::Reason;

use crate::shard::{Shard, answers, failed, misuses};

#[test]
fn calls_by_name() {
    let misc = |arguments: &str| {
        format!("local r = _misc({arguments}) return r and #r .. ':' .. table.concat(r, ' ') or 'none'")
    };
    let cases = [
        ("'put', 'a', 1", "0:"),
        ("'$put', {'b', 2}", "0:"),
        ("'putkeep', 'a', 9", "none"),
        ("'putkeep', 'c', 3", "0:"),
        ("'putcat', 'a', 'x'", "0:"),
        ("'get', 'a'", "1:1x"),
        ("'get', 'none'", "none"),
        ("'getlist', 'a', 'none', {'b', 'c'}", "6:a 1x b 2 c 3"),
        ("'putlist', 'd', 'def', 'e'", "0:"),
        ("'getlist', {'d', 'e'}", "2:d def"),
        ("'getpart', 'd', 1, 1", "1:e"),
        ("'getpart', 'd', 1", "1:ef"),
        ("'getpart', 'd'", "1:def"),
        ("'getpart', 'd', 3", "none"),
        ("'getpart', 'none'", "none"),
        ("'out', 'e'", "none"),
        ("'out', 'b'", "0:"),
        ("'outlist', 'c', 'none'", "0:"),
        ("'iternext'", "none"),
        ("'iterinit'", "0:"),
        ("'regex', '^[ab]'", "2:a 1x"),
        ("'regex', '.', 1", "2:a 1x"),
        ("'range'", "4:a 1x d def"),
        ("'range', 'b'", "2:d def"),
        ("'range', 'a', 1", "2:a 1x"),
        ("'range', 'a', 0, 'd'", "2:a 1x"),
        ("'range', 'z', 0, 'a'", "0:"),
        ("'sync'", "0:"),
        ("'optimize', 'x'", "0:"),
        ("'defrag'", "0:"),
        ("'cacheclear'", "0:"),
        ("'error'", "1:0: success"),
        ("'search', 'addcond'", "none"),
        ("'genuid'", "none"),
        ("'put', 'a'", "none"),
        ("'get'", "none"),
        ("'vanish'", "0:"),
        ("'range'", "0:"),
    ];
    let mut shard = Shard::new();
    for (arguments, expected) in cases {
        assert_eq!(shard.run(&misc(arguments)).as_deref(), Ok(expected), "{arguments}");
    }
    answers(&[(
        "_put('a', 1) _put('b', 2) _put('c', 3) _misc('iterinit', 'b')
         return table.concat(_misc('iternext'), '=') .. ' ' .. _iternext() .. tostring(_misc('iternext'))",
        "b=2 cnil",
    )]);
    misuses(&[("_misc()", "_misc: expected at least 1 argument, got 0")]);
}

#[test]
fn other_shards_keys_are_refused() {
    let mut shard = Shard::new();
    for body in [
        "_misc('put', 'elsewhere', 1)",
        "_misc('getlist', 'elsewhere')",
        "_adddouble('elsewhere', 1)",
        "_mapreduce(print, print, 'elsewhere')",
    ] {
        assert_eq!(failed(shard.run(body)).0, Reason::CrossShard, "{body}");
    }
}

#[test]
fn the_server_as_a_script_sees_it() {
    answers(&[
        ("return _version", "1.1.41"),
        ("return type(_pid) .. type(_sid) .. _thnum .. _thid", "numbernumber11"),
        ("return tostring(_time() > 1.7e9 and _time() < 1e11)", "true"),
        ("return tostring(_lock('a')) .. tostring(_unlock('a'))", "truetrue"),
        ("return tostring(_log('hello')) .. tostring(_log('careful', 2)) .. tostring(_log(1, 0))", "nilnilnil"),
        ("return tostring(_sleep(0)) .. tostring(_sleep(-1)) .. tostring(_sleep('0.001'))", "truefalsetrue"),
        ("local t = _time() _sleep(0.02) return tostring(_time() - t >= 0.019)", "true"),
    ]);
    misuses(&[
        ("_stat('/')", "_stat: refused: a procedure cannot touch the server's files"),
        ("_glob('/*')", "_glob: refused: a procedure cannot touch the server's files"),
        ("_remove('/')", "_remove: refused: a procedure cannot touch the server's files"),
        ("_mkdir('/x')", "_mkdir: refused: a procedure cannot touch the server's files"),
        ("_time(1)", "_time: expected 0 arguments, got 1"),
        ("_sleep('x')", "_sleep: expected a number, got string"),
        ("_sleep()", "_sleep: expected 1 argument, got 0"),
        ("_log()", "_log: expected 1 to 2 arguments, got 0"),
        ("_log({})", "_log: message must be a string or a number, got table"),
        ("_lock()", "_lock: expected 1 argument, got 0"),
        ("_unlock()", "_unlock: expected 1 argument, got 0"),
        ("_eval()", "_eval: expected 1 argument, got 0"),
        ("_eval(1)", "_eval: the chunk must be a string, got number"),
    ]);
}

#[test]
fn sources_are_evaluated_in_the_calls_environment() {
    answers(&[
        ("return tostring(_eval('x = 7')) .. x", "true7"),
        ("return tostring(x)", "nil"),
        ("y = 1 _eval('y = y + 1') return y", "2"),
        ("_eval('function twice(n) return n * 2 end') return twice(21)", "42"),
        ("_eval('t = {n = 1} function f() return t.n end') t = {n = 2} return f()", "2"),
        ("_eval('_put([[k]], 5)') return _get('k')", "5"),
        (
            "local ok, why = _eval('x =') return tostring(ok) .. why",
            "falseeval:1: Expected identifier when parsing expression, got <eof>",
        ),
        ("local ok, why = _eval('\\nerror([[no]])') return tostring(ok) .. why", "falseeval:2: no"),
        ("local ok, why = _eval('error({})') return tostring(ok) .. why", "falsea table"),
        ("return tostring(_eval('return _eval([[z = 3]])')) .. z", "true3"),
        ("return tostring(_eval('return getfenv or loadstring or io'))", "true"),
        ("_eval('string.rep = nil') return tostring(string.rep ~= nil)", "true"),
    ]);
}

#[test]
fn hooks_run_around_the_function() {
    let mut shard = Shard::new();
    let source = "
        function _begin() opened = (opened or 0) + 1 _put('hooks', 'begun') end
        function _end() _putcat('hooks', ' ended') end
        function main() _putcat('hooks', ' ran') return opened end
        function fail() error('x') end";
    assert_eq!(shard.call(source, "main", &[]).unwrap(), "1");
    assert_eq!(shard.text(b"hooks").as_deref(), Some("begun ran ended"));
    assert_eq!(shard.call(source, "main", &[]).unwrap(), "1");
    shard.call(source, "fail", &[]).unwrap_err();
    assert_eq!(shard.call(source, "_begin", &[]).unwrap_err().reason, Reason::FunctionNotFound);
    let source = "function _begin() error('closed') end function main() return 1 end";
    assert_eq!(failed(shard.main(source, &[])).1, "lib:1: closed");
    let source = "function _end() error('late') end function main() _put('l', 1) return 1 end";
    assert_eq!(failed(shard.main(source, &[])).1, "lib:1: late");
    assert_eq!(shard.text(b"l"), None);
    let source = "function _begin() a = 1 end return {main = function() return a end}";
    assert_eq!(shard.main(source, &[]).as_deref(), Ok("1"));
}

#[test]
fn sleeping_ends_with_the_elapsed_limit() {
    let mut shard = Shard::new();
    let start = Instant::now();
    assert_eq!(failed(shard.run("_sleep(1e9) return 1")).0, Reason::CallTimeout);
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(shard.run("return 1").as_deref(), Ok("1"));
}
