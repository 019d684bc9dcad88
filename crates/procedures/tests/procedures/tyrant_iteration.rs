//! Tokyo Tyrant's functions over all keys of the shard, those that call back, and its stash.

use cirrus_proto::Reason;
use cirrus_proto::limits::Limits;

use crate::shard::{Shard, answers, failed, misuses};

const FIVE: &str = "for i = 1, 5 do _put('k' .. i, 'v' .. i) end return 1";

#[test]
fn keys_are_iterated_in_order_with_the_calls_own_writes() {
    answers(&[
        (FIVE, "1"),
        ("return tostring(_iternext())", "nil"),
        ("return tostring(_iterinit())", "true"),
        (
            "_iterinit() local s = '' for k in function() return _iternext() end do s = s .. k end return s",
            "k1k2k3k4k5",
        ),
        ("_iterinit() _iternext() _put('k11', 'x') return _iternext()", "k11"),
        ("_iterinit() _iternext() _out('k11') _out('k2') return _iternext()", "k3"),
        ("_iterinit() for i = 1, 9 do _iternext() end return tostring(_iternext())", "nil"),
        ("_iterinit() _iternext() _iterinit() return _iternext()", "k1"),
        ("return _rnum()", "4"),
        ("return _size()", "16"),
        (
            "local s = '' local ok = _foreach(function(k, v) s = s .. k .. v return true end) return s .. tostring(ok)",
            "k1v1k3v3k4v4k5v5true",
        ),
        ("local n = 0 local ok = _foreach(function() n = n + 1 return n < 2 end) return n .. tostring(ok)", "2true"),
        ("local n = 0 _foreach(function() n = n + 1 end) return n", "1"),
        (
            "local s = '' _foreach(function(k) s = s .. k _out('k3') _put('k31', 1) return true end) return s",
            "k1k31k4k5",
        ),
        ("local n = 0 _foreach(function() return _foreach(function() n = n + 1 return true end) end) return n", "16"),
        ("for i = 1, 1000 do _put(string.format('z%04d', i), i) end return _rnum()", "1004"),
        ("local n = 0 _foreach(function() n = n + 1 return true end) return n", "1004"),
        ("local n = 0 _foreach(function(k) n = n + 1 return _out(k) end) return n .. ' ' .. _rnum()", "1004 0"),
        ("_put('a', 1) _put('b', 2) return tostring(_vanish()) .. _rnum() .. _size()", "true00"),
    ]);
}

#[test]
fn pages_keep_large_values_apart() {
    let mut shard = Shard::new();
    for key in [b"a", b"b", b"c"] {
        shard.put(key, &[7; 300_000]);
    }
    let total = shard.run("local n = 0 _foreach(function(k, v) n = n + #v return true end) return n");
    assert_eq!(total.as_deref(), Ok("900000"));
}

#[test]
fn what_does_not_fit_in_one_call_is_not_removed_at_all() {
    let mut shard = Shard::with_limits(Limits { write_set_bytes: 4000, ..Limits::DEFAULT });
    for round in 0..20 {
        shard
            .run(&format!("for i = 1, 20 do _put(string.rep('x', 20) .. {round} .. '-' .. i, i) end return 1"))
            .unwrap();
    }
    assert_eq!(failed(shard.run("_vanish() return 1")).0, Reason::WriteSetTooLarge);
    assert_eq!(shard.run("return tostring(pcall(_vanish)) .. _rnum()").as_deref(), Ok("false400"));
}

#[test]
fn map_and_reduce() {
    let count = |keys: &str| {
        format!(
            "local s = ''
             local ok = _mapreduce(
                 function(k, v, emit) for w in v:gmatch('%w+') do emit(w, k) end return true end,
                 function(k, vs) s = s .. k .. '=' .. table.concat(vs, '+') .. ' ' return true end{keys})
             return s .. tostring(ok)"
        )
    };
    answers(&[
        ("_put('d1', 'the cat the') _put('d2', 'a cat') return 1", "1"),
        (&count(""), "a=d2 cat=d1+d2 the=d1+d1 true"),
        (&count(", 'd2'"), "a=d2 cat=d2 true"),
        (&count(", {'d2', 'none', 'd1'}"), "a=d2 cat=d2+d1 the=d1+d1 true"),
        (&count(", {}"), "true"),
        ("return tostring(_mapreduce(function() return false end, function() return true end))", "false"),
        ("return tostring(_mapreduce(function() end, function() return true end))", "true"),
        ("return tostring(_mapreduce(function(k, v, e) e(k, v) end, function() return false end))", "false"),
        ("return tostring(_mapreduce(function(k, v, e) e(k, v) end, function() end))", "false"),
        (
            "local s _mapreduce(function(k, v, e) e(1, 2) end, function(k, vs) s = type(k) .. type(vs[1]) return true end) return s",
            "stringstring",
        ),
        ("local s _mapreduce(function(k, v, e) s = tostring(e(k, v)) end, function() end) return s", "true"),
    ]);
}

#[test]
fn functions_that_call_back_check_their_arguments() {
    misuses(&[
        ("_foreach()", "_foreach: expected 1 argument, a function"),
        ("_foreach(1)", "_foreach: expected 1 argument, a function"),
        ("_stashforeach({})", "_stashforeach: expected 1 argument, a function"),
        ("_mapreduce(print)", "_mapreduce: expected 2 functions, a mapper and a reducer, and perhaps keys"),
        ("_iterinit(1)", "_iterinit: expected 0 arguments, got 1"),
        ("_iternext('x')", "_iternext: expected 0 arguments, got 1"),
        ("_rnum(1)", "_rnum: expected 0 arguments, got 1"),
        ("_vanish(1)", "_vanish: expected 0 arguments, got 1"),
        ("_size(1)", "_size: expected 0 arguments, got 1"),
    ]);
}

#[test]
fn an_error_of_a_callback_fails_the_call() {
    let mut shard = Shard::new();
    shard.put(b"a", b"1");
    let (reason, message) = failed(shard.run("_foreach(function(k) error('no ' .. k) end) return 1"));
    assert_eq!((reason, &*message), (Reason::ProcedureFailed, "lib:2: no a"));
}

#[test]
fn the_stash_is_shared_by_calls() {
    answers(&[
        ("return tostring(_stashget('a'))", "nil"),
        ("return tostring(_stashput('a', 1))", "true"),
        ("return _stashget('a')", "1"),
        ("return tostring(_stashputkeep('a', 2))", "false"),
        ("return tostring(_stashputkeep('b', 2))", "true"),
        ("return tostring(_stashputcat('a', '\\0+'))", "true"),
        ("return #_stashget('a')", "3"),
        ("local s = '' _stashforeach(function(k, v) s = s .. k .. #v return true end) return s", "a3b1"),
        ("local n = 0 _stashforeach(function(k, v) n = n + 1 return false end) return n", "1"),
        (
            "local s = '' _stashforeach(function(k) s = s .. k _stashout('b') _stashput('c', 1) return true end) return s",
            "ac",
        ),
        ("return tostring(_stashout('a')) .. tostring(_stashout('a'))", "truefalse"),
        ("for i = 1, 300 do _stashput(i, i) end return 1", "1"),
        ("local n = 0 _stashforeach(function() n = n + 1 return true end) return n", "301"),
        ("_stashvanish() local n = 0 _stashforeach(function() n = n + 1 return true end) return n", "0"),
    ]);
    misuses(&[
        ("_stashput('a')", "_stashput: expected 2 arguments, got 1"),
        ("_stashputkeep('a')", "_stashputkeep: expected 2 arguments, got 1"),
        ("_stashputcat('a', {})", "_stashputcat: value must be a string or a number, got table"),
        ("_stashget()", "_stashget: expected 1 argument, got 0"),
        ("_stashout()", "_stashout: expected 1 argument, got 0"),
        ("_stashvanish(1)", "_stashvanish: expected 0 arguments, got 1"),
    ]);
}

#[test]
fn a_failed_call_leaves_the_stash_as_it_was() {
    let mut shard = Shard::new();
    let list = "local s = '' _stashforeach(function(k, v) s = s .. k .. '=' .. v .. ' ' return true end) return s";
    shard.run("_stashput('a', 1) _stashput('b', 2) return 1").unwrap();
    let writes =
        "_stashput('a', 9) _stashputcat('a', 9) _stashout('b') _stashput('c', 3) _stashout('c') _stashput('d', 4)";
    for body in [
        format!("{writes} error('x')"),
        format!("{writes} return nil"),
        format!("{writes} _stashvanish() _stashput('e', 5) _stashput('b', 7) error('x')"),
        format!("{writes} while true do end"),
        format!("{writes} local t = {{}} while true do t[#t + 1] = ('x'):rep(1000000) .. #t end"),
    ] {
        shard.run(&body).unwrap_err();
        assert_eq!(shard.run(list).as_deref(), Ok("a=1 b=2 "), "{body}");
    }
}

#[test]
fn a_dry_run_leaves_the_stash_as_it_was() {
    let mut shard = Shard::new();
    assert_eq!(shard.run("_stashput('a', 1) return 'ok'").as_deref(), Ok("ok"));
    shard.dry_run = true;
    assert_eq!(shard.run("_stashput('a', 2) _stashput('b', 2) return _stashget('a')").as_deref(), Ok("2"));
    shard.dry_run = false;
    assert_eq!(shard.run("return _stashget('a') .. tostring(_stashget('b'))").as_deref(), Ok("1nil"));
}
