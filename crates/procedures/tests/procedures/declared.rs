//! Procedures that declare what they take and do.

use bytes::Bytes;
use cirrus_procedures::Arguments;
use cirrus_proto::v1::LuaValue;
use cirrus_proto::{Failure, Reason};

use crate::shard::Shard;

const SOURCE: &str = "
--- Takes all kinds.
---@procedure take
---@param count integer
---@param ratio number?
---@param flag boolean?
---@param name string?
---@param list list?
---@param map map?
function take(key, ...)
    local taken = {...}
    for place = 1, select('#', ...) do
        if taken[place] == nil then taken[place] = json.null end
    end
    return json.array(taken)
end

---@procedure rest
---@key from
---@key to
---@param first integer
---@param ... any
function rest(from, to, ...) return select('#', ...) end

---@procedure read
---@read_only
function read(key, name, ...)
    local functions = {
        get = function() return kv.get(key) end,
        put = function() kv.put(key, 1) end,
        delete = function() return kv.delete(key) end,
        incr = function() return kv.incr(key) end,
        caught = function() return (pcall(kv.put, key, 1)) end,
        _put = function() _put(key, 1) end,
        _vanish = function() _vanish() end,
        _stashput = function() _stashput('a', 'b') end,
        _stashget = function() return _stashget('a') end,
        log = function() log('reading') return 1 end,
    }
    return functions[name](...)
end

---@procedure slow
---@limit cpu_ms 5
function slow() while true do end end

---@procedure large
---@limit memory_bytes 1000000
function large() return #string.rep('x', 2000000) end

---@procedure long
---@limit result_bytes 10
function long() return 'more than ten bytes' end

---@procedure generous
---@limit cpu_ms 100000000
function generous() while true do end end
";

fn strings(function: &str, arguments: &[&'static str]) -> Result<LuaValue, Failure> {
    let arguments: Vec<Bytes> = arguments.iter().map(|&text| text.into()).collect();
    let mut shard = Shard::new();
    shard.put(b"k", b"7");
    shard.call_typed(SOURCE, function, Arguments::Strings(&arguments))
}

fn values(function: &str, arguments: &[LuaValue]) -> Result<LuaValue, Failure> {
    Shard::new().call_typed(SOURCE, function, Arguments::Values(arguments))
}

fn refused(outcome: Result<LuaValue, Failure>) -> (String, String) {
    let failure = outcome.unwrap_err();
    assert_eq!(failure.reason, Reason::InvalidField, "{failure}");
    (failure.metadata["field"].clone(), failure.message)
}

#[test]
fn text_becomes_what_is_declared() {
    let taken: LuaValue = [LuaValue::from(i64::MAX), 0.5.into(), true.into(), "12".into()].into_iter().collect();
    assert_eq!(strings("take", &["9223372036854775807", "0.5", "true", "12"]), Ok(taken));
    for (arguments, field, problem) in [
        (&["1.5"][..], "args[0]", "take's argument count must be a whole number of 64 bits, got the text \"1.5\""),
        (&["x"], "args[0]", "whole number"),
        (&[""], "args[0]", "whole number"),
        (&["1", "inf"], "args[1]", "ratio must be a number"),
        (&["1", "2", "yes"], "args[2]", "flag must be true or false, got the text \"yes\""),
        (&["1", "2", "true", "n", "[]"], "args[4]", "list must be a list, given as a value with a type"),
        (&[], "args", "take takes 1 to 6 arguments behind its keys (count, ratio, flag, name, list, map), got 0"),
        (&["1", "2", "true", "n", "l", "m", "x"], "args", "got 7"),
    ] {
        let (actual, message) = refused(strings("take", arguments));
        assert_eq!(actual, field, "{arguments:?}");
        assert!(message.contains(problem), "{arguments:?}: {message}");
    }
}

#[test]
fn values_are_held_to_their_types() {
    let list: LuaValue = [LuaValue::from(1)].into_iter().collect();
    let empty: LuaValue = std::iter::empty::<LuaValue>().collect();
    let all = [i64::MIN.into(), 1.into(), false.into(), "n".into(), list.clone(), map()];
    assert_eq!(values("take", &all), Ok(all.into_iter().collect()));
    assert!(values("take", &[2.0.into(), LuaValue::nil(), LuaValue::nil(), "x".into(), empty, map()]).is_ok());
    for (arguments, field) in [
        (vec![LuaValue::from(1.5)], "values[0]"),
        (vec![LuaValue::nil()], "values[0]"),
        (vec!["1".into()], "values[0]"),
        (vec![1.into(), "x".into()], "values[1]"),
        (vec![1.into(), 1.into(), 1.into()], "values[2]"),
        (vec![1.into(), 1.into(), true.into(), 1.into()], "values[3]"),
        (vec![1.into(), 1.into(), true.into(), "n".into(), map()], "values[4]"),
        (vec![1.into(), 1.into(), true.into(), "n".into(), list.clone(), list], "values[5]"),
        (vec![], "values"),
    ] {
        assert_eq!(refused(values("take", &arguments)).0, field, "{arguments:?}");
    }
}

fn map() -> LuaValue {
    [("a", LuaValue::from(1))].into_iter().collect()
}

#[test]
fn keys_and_the_rest_are_counted() {
    let (field, message) = refused(strings("rest", &["1"]));
    assert_eq!((&*field, &*message), ("more_keys", "more_keys: rest takes 2 keys (from, to), got 1"));
    let mut shard = Shard::new();
    shard.more_keys = vec!["k2".into()];
    let mut rest = |arguments: &[LuaValue]| shard.call_typed(SOURCE, "rest", Arguments::Values(arguments));
    assert_eq!(rest(&[1.into()]), Ok(1.into()));
    assert_eq!(rest(&[1.into(), "a".into(), LuaValue::nil(), map()]), Ok(4.into()));
    assert!(refused(rest(&[])).1.contains("takes at least 1 arguments"));
}

#[test]
fn a_read_only_procedure_cannot_write() {
    assert_eq!(strings("read", &["get"]), Ok("7".into()));
    assert_eq!(strings("read", &["log"]), Ok(1.into()));
    assert_eq!(strings("read", &["caught"]), Ok(false.into()));
    for operation in ["put", "delete", "incr", "_put", "_vanish", "_stashput", "_stashget"] {
        let failure = strings("read", &[operation]).unwrap_err();
        assert_eq!(failure.reason, Reason::ReadOnly, "{operation}: {failure}");
        assert!(failure.metadata.contains_key("line"), "{operation}: {failure:?}");
    }
}

#[test]
fn declared_limits_are_below_the_nodes() {
    for (function, reason) in [
        ("slow", Reason::CallTimeout),
        ("large", Reason::CallMemory),
        ("long", Reason::ResultTooLarge),
        ("generous", Reason::CallTimeout),
    ] {
        let failure = strings(function, &[]).unwrap_err();
        assert_eq!(failure.reason, reason, "{function}: {failure}");
    }
    assert_eq!(strings("slow", &[]).unwrap_err().metadata["limit"], "5");
    assert_eq!(strings("generous", &[]).unwrap_err().metadata["limit"], "100");
}
