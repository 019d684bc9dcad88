//! The shipped library `lightcloud`: what LightCloud did, without its bugs.

use bytes::Bytes;
use cirrus_procedures::{Arguments, lint, shipped};
use cirrus_proto::routing::routing_key;
use cirrus_proto::v1::LuaValue;
use cirrus_proto::{Failure, Reason};

use crate::shard::{ELSEWHERE, Shard};

/// The library in a shard, called with types.
struct Cloud {
    shard: Shard,
}

impl Cloud {
    fn new() -> Self {
        Cloud { shard: Shard::new() }
    }

    fn call(&mut self, function: &str, arguments: &[LuaValue]) -> Result<LuaValue, Failure> {
        let source = shipped::source("lightcloud").unwrap();
        self.shard.call_typed(source, function, Arguments::Values(arguments))
    }

    /// The answer must be this one.
    #[track_caller]
    fn gives(&mut self, function: &str, arguments: &[LuaValue], expected: impl Into<LuaValue>) {
        assert_eq!(self.call(function, arguments), Ok(expected.into()), "{function}({arguments:?})");
    }

    /// The status code, or the reason, and the message.
    #[track_caller]
    fn refuses(&mut self, function: &str, arguments: &[LuaValue], code: &str, message: &str) {
        let failure = self.call(function, arguments).unwrap_err();
        let actual = failure.metadata.get("code").cloned().unwrap_or_else(|| failure.reason.as_str().to_owned());
        assert_eq!(actual, code, "{function}({arguments:?}): {failure}");
        assert!(failure.message.contains(message), "{function}({arguments:?}): {failure}");
    }

    fn key(&mut self, key: &'static str) {
        self.shard.key = Bytes::from_static(key.as_bytes());
    }
}

fn list<const N: usize>(values: [&'static str; N]) -> LuaValue {
    values.into_iter().map(LuaValue::from).collect()
}

fn bytes<const N: usize>(values: [&[u8]; N]) -> LuaValue {
    values.into_iter().map(|value| LuaValue::from(value.to_vec())).collect()
}

fn counts<const N: usize>(days: [(&'static str, i64); N]) -> LuaValue {
    let entry = |(day, count): (&'static str, i64)| -> LuaValue {
        [("count", LuaValue::from(count)), ("day", LuaValue::from(day))].into_iter().collect()
    };
    days.into_iter().map(entry).collect()
}

#[test]
fn it_is_a_library_without_warnings() {
    for name in shipped::NAMES {
        let source = shipped::source(name).unwrap();
        assert_eq!(lint(source.as_bytes()), [], "{name}");
        Shard::new().call_typed(source, "get", Arguments::Values(&[])).unwrap();
    }
    assert_eq!(shipped::source("nothing"), None);
}

#[test]
fn values_are_set_read_and_deleted() {
    let mut cloud = Cloud::new();
    cloud.gives("get", &[], LuaValue::nil());
    cloud.gives("delete", &[], 0);
    cloud.gives("set", &["world".into()], true);
    cloud.gives("get", &[], "world");
    cloud.gives("set", &[vec![0, 0xff, b'~'].into()], true);
    cloud.gives("get", &[], vec![0, 0xff, b'~']);
    cloud.gives("set", &[i64::MAX.into()], true);
    cloud.gives("get", &[], "9223372036854775807");
    cloud.gives("delete", &[], 1);
    cloud.gives("get", &[], LuaValue::nil());
}

/// LightCloud's `incr` went through doubles: 12345678901234567 became 1.2345678901235e+16.
#[test]
fn incr_is_exact_in_64_bits() {
    let mut cloud = Cloud::new();
    cloud.gives("incr", &[2.into()], 2);
    cloud.gives("incr", &[], 3);
    cloud.gives("incr", &[(12_345_678_901_234_567_i64 - 3).into()], 12_345_678_901_234_567_i64);
    cloud.gives("get", &[], "12345678901234567");
    cloud.gives("incr", &[(-12_345_678_901_234_567_i64).into()], 0);
    cloud.gives("incr", &[i64::MAX.into()], i64::MAX);
    cloud.refuses("incr", &[1.into()], "INTEGER_OVERFLOW", "");
    cloud.gives("incr", &[i64::MIN.into()], -1);
    cloud.refuses("incr", &[0.5.into()], "INVALID_FIELD", "must be a whole number of 64 bits");
    cloud.gives("set", &["text".into()], true);
    cloud.refuses("incr", &[1.into()], "NOT_A_NUMBER", "");
}

#[test]
fn a_list_keeps_its_order() {
    let mut cloud = Cloud::new();
    cloud.gives("list_get", &[], list([]));
    cloud.gives("list_add", &[list(["1", "2", "3"])], 3);
    cloud.gives("list_add", &[list(["4"])], 4);
    cloud.gives("list_get", &[], list(["1", "2", "3", "4"]));
    cloud.gives("list_remove", &[list(["3"])], 1);
    cloud.gives("list_get", &[], list(["1", "2", "4"]));
    cloud.gives("list_remove", &[list(["3", "1", "9"])], 1);
    cloud.gives("list_set", &[list(["x", "y"])], 2);
    cloud.gives("list_get", &[], list(["x", "y"]));
    cloud.gives("list_init", &[], true);
    cloud.gives("list_get", &[], list([]));
    cloud.gives("list_varnish", &[], 1);
    cloud.gives("list_varnish", &[], 0);
    cloud.gives("list_remove", &[list(["1"])], 0);
    cloud.gives("list_get", &[], list([]));
}

/// Text clients give one element at a time.
#[test]
fn a_single_element_needs_no_list() {
    let mut cloud = Cloud::new();
    cloud.gives("list_add", &["a".into()], 1);
    cloud.gives("list_add", &["b".into(), 1.into()], 1);
    cloud.gives("list_get", &[], list(["b"]));
    cloud.gives("list_remove", &["b".into()], 1);
    cloud.gives("list_set", &[5.into()], 1);
    cloud.gives("list_get", &[], list(["5"]));
}

/// LightCloud joined lists by `~`: a value with it became several.
#[test]
fn elements_hold_any_bytes() {
    let mut cloud = Cloud::new();
    let elements: [&[u8]; 9] =
        [b"a~b", b"~", b"", b"\0", b"\xff\xfe", b"a|b", b"%d+.*[", b"\0\0\0\x01x", "grüß".as_bytes()];
    cloud.gives("list_add", &[bytes(elements)], 9);
    cloud.gives("list_get", &[], bytes(elements));
    cloud.gives("list_add", &[list(["a", "b"])], 11);
    cloud.gives("list_remove", &[bytes([b"a", b"%d+.*[", b"", b"\0"])], 4);
    cloud.gives("list_get", &[], bytes([b"a~b", b"~", b"\xff\xfe", b"a|b", b"\0\0\0\x01x", "grüß".as_bytes(), b"b"]));
    let long = vec![b'x'; 100_000];
    cloud.gives("list_set", &[bytes([&long])], 1);
    cloud.gives("list_get", &[], bytes([&long]));
}

/// LightCloud let a duplicate slip in where one of several new values was there already.
#[test]
fn no_duplicate_slips_in() {
    let mut cloud = Cloud::new();
    cloud.gives("list_add", &[list(["a", "b"])], 2);
    cloud.gives("list_add", &[list(["b", "c"])], 3);
    cloud.gives("list_get", &[], list(["a", "b", "c"]));
    cloud.gives("list_add", &[list(["d", "d", "a", "d"])], 4);
    cloud.gives("list_get", &[], list(["a", "b", "c", "d"]));
    cloud.gives("list_set", &[list(["x", "x", "y", "x"])], 2);
    cloud.gives("list_get", &[], list(["x", "y"]));
    // A number is its text.
    cloud.gives("list_set", &[[LuaValue::from(1), "1".into(), 1.0.into()].into_iter().collect::<LuaValue>()], 1);
    // Part of an element is another one.
    cloud.gives("list_set", &[list(["10", "1", "01"])], 3);
    cloud.gives("list_remove", &[list(["1"])], 1);
    cloud.gives("list_get", &[], list(["10", "01"]));
}

#[test]
fn numbers_keep_their_digits_in_lists() {
    let mut cloud = Cloud::new();
    let numbers: LuaValue =
        [LuaValue::from(i64::MAX), (1_i64 << 53).into(), 1e15.into(), (-7).into(), 0.5.into()].into_iter().collect();
    cloud.gives("list_add", &[numbers], 5);
    cloud.gives("list_get", &[], list(["9223372036854775807", "9007199254740992", "1000000000000000", "-7", "0.5"]));
}

#[test]
fn the_oldest_go_beyond_the_limit() {
    let mut cloud = Cloud::new();
    let numbered =
        |range: std::ops::Range<u32>| range.map(|number| LuaValue::from(number.to_string())).collect::<LuaValue>();
    cloud.gives("list_add", &[numbered(0..200)], 200);
    cloud.gives("list_add", &[list(["new"])], 200);
    let kept: Vec<LuaValue> = (1..200).map(|number| number.to_string().into()).chain(["new".into()]).collect();
    cloud.gives("list_get", &[], kept.into_iter().collect::<LuaValue>());
    cloud.gives("list_add", &[list(["x", "y"]), 3.into()], 3);
    cloud.gives("list_get", &[], list(["new", "x", "y"]));
    // More at once than there is room for: the last of them stay.
    cloud.gives("list_add", &[numbered(0..10), 2.into()], 2);
    cloud.gives("list_get", &[], list(["8", "9"]));
    // Nothing new, but a smaller limit.
    cloud.gives("list_add", &[list(["8"]), 1.into()], 1);
    cloud.gives("list_get", &[], list(["9"]));
    cloud.gives("list_add", &[numbered(0..300), 10_000.into()], 300);
}

#[test]
fn lists_have_bounds_that_they_name() {
    let mut cloud = Cloud::new();
    let many: LuaValue = (0..10_001).map(|number| LuaValue::from(number.to_string())).collect();
    let too_many = "values has 10001 elements, above the limit of 10000";
    cloud.refuses("list_set", std::slice::from_ref(&many), "INVALID_ARGUMENT", too_many);
    cloud.refuses("list_add", &[many, 10_000.into()], "INVALID_ARGUMENT", too_many);
    cloud.refuses("list_add", &["a".into(), 0.into()], "INVALID_ARGUMENT", "limit is 0, outside 1 to 10000");
    cloud.refuses("list_add", &["a".into(), 10_001.into()], "INVALID_ARGUMENT", "limit is 10001, outside");
    cloud.refuses("list_add", &["a".into(), "b".into()], "INVALID_FIELD", "limit");
    cloud.refuses("list_add", &[LuaValue::nil()], "INVALID_ARGUMENT", "values is missing");
    let nested: LuaValue = [LuaValue::from("a"), list(["b"])].into_iter().collect();
    cloud.refuses("list_add", &[nested], "INVALID_ARGUMENT", "values[2] must be a string or a number, got table");
    let map: LuaValue = [("a", LuaValue::from(1))].into_iter().collect();
    cloud.refuses("list_add", &[map], "INVALID_ARGUMENT", "values must be a list, got a map");
    let large = LuaValue::from(vec![b'x'; 700_000]);
    cloud.gives("list_add", std::slice::from_ref(&large), 1);
    let other = LuaValue::from(vec![b'y'; 700_000]);
    cloud.refuses("list_add", &[other], "VALUE_TOO_LARGE", "above the limit of 1048576");
    cloud.gives("list_get", &[], [large].into_iter().collect::<LuaValue>());
}

#[test]
fn what_is_no_list_and_no_counter_is_told_apart_from_none() {
    let mut cloud = Cloud::new();
    cloud.shard.put(b"lc.list.{k}", b"a~b~");
    cloud.refuses("list_get", &[], "FAILED_PRECONDITION", "lc.list.{k} does not hold a list");
    cloud.refuses("list_add", &["a".into()], "FAILED_PRECONDITION", "does not hold a list");
    cloud.shard.put(b"lc.counter.{k}", b"many");
    cloud.refuses("counter_get", &[], "FAILED_PRECONDITION", "lc.counter.{k} does not hold a counter");
    cloud.refuses("counter_incr", &[], "NOT_A_NUMBER", "");
}

/// A key that this shard does not hold, as an outage would, fails; it is no key without a value.
#[test]
fn a_key_that_cannot_be_reached_is_no_missing_key() {
    let mut cloud = Cloud::new();
    cloud.shard.key = Bytes::from_static(ELSEWHERE);
    cloud.refuses("get", &[], "CROSS_SHARD", "");
    cloud.refuses("delete", &[], "CROSS_SHARD", "");
    cloud.refuses("incr", &[], "CROSS_SHARD", "");
}

#[test]
fn values_lists_and_counters_of_one_name_do_not_meet() {
    let mut cloud = Cloud::new();
    cloud.gives("set", &["value".into()], true);
    cloud.gives("list_add", &["element".into()], 1);
    cloud.gives("counter_incr", &[5.into()], 5);
    cloud.gives("day_incr", &[7.into()], 7);
    cloud.gives("get", &[], "value");
    cloud.gives("list_get", &[], list(["element"]));
    cloud.gives("counter_get", &[], 5);
    cloud.gives("day_get", &[], counts([("1970-01-01", 7)]));
    cloud.gives("delete", &[], 1);
    cloud.gives("list_get", &[], list(["element"]));
    cloud.gives("counter_reset", &[], 1);
    cloud.gives("counter_reset", &[], 0);
    cloud.gives("counter_get", &[], 0);
    cloud.gives("day_get", &[], counts([("1970-01-01", 7)]));
}

/// All keys of a name must be in the shard of the call's key, and no two names may share one.
#[test]
fn keys_stay_in_the_calls_shard_and_apart() {
    let mut cloud = Cloud::new();
    for (key, stored) in [
        ("ada", "lc.list.{ada}"),
        ("{ada}", "lc.list:{ada}"),
        ("{ada}.todo", "lc.list:{ada}.todo"),
        ("x{ada}y", "lc.list:x{ada}y"),
        ("open{brace", "lc.list.{open{brace}"),
        ("two{{ada}}", "lc.list:two{{ada}}"),
    ] {
        cloud.key(key);
        cloud.gives("list_add", &[key.into()], 1);
        cloud.gives("list_get", &[], list([key]));
        assert!(cloud.shard.value(stored.as_bytes()).is_some(), "{stored}");
        assert_eq!(routing_key(stored.as_bytes()), routing_key(key.as_bytes()), "{stored}");
    }
    for key in ["close}brace", "{}empty", "}{"] {
        cloud.key(key);
        cloud.gives("set", &["fine".into()], true);
        cloud.refuses("list_add", &["a".into()], "INVALID_ARGUMENT", "a key with } needs a hash tag");
    }
    cloud.key("{ada}.2026-01-01");
    cloud.gives("counter_incr", &[], 1);
    cloud.key("{ada}");
    cloud.gives("day_get", &["2026-01-01".into(), "2026-01-01".into()], counts([("2026-01-01", 0)]));
}

#[test]
fn counters_are_exact() {
    let mut cloud = Cloud::new();
    cloud.gives("counter_get", &[], 0);
    cloud.gives("counter_incr", &[], 1);
    cloud.gives("counter_incr", &[((1_i64 << 53) - 1).into()], 1_i64 << 53);
    cloud.gives("counter_get", &[], 1_i64 << 53);
    cloud.gives("counter_incr", &[1.into()], (1_i64 << 53) + 1);
    cloud.gives("counter_get", &[], (1_i64 << 53) + 1);
    cloud.gives("counter_incr", &[(-(1_i64 << 53) - 2).into()], -1);
    cloud.gives("counter_incr", &[(i64::MIN + 1).into()], i64::MIN);
    cloud.gives("counter_get", &[], i64::MIN);
    cloud.refuses("counter_incr", &[(-1).into()], "INTEGER_OVERFLOW", "");
}

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

#[test]
fn a_day_ends_at_midnight_utc() {
    let mut cloud = Cloud::new();
    // The clock stands at 1970-01-01 00:16:40.
    cloud.gives("day_incr", &[], 1);
    cloud.shard.advance_clock(DAY_MS - 1_000_001);
    cloud.gives("day_incr", &[2.into()], 3);
    cloud.shard.advance_clock(1);
    cloud.gives("day_incr", &[10.into()], 10);
    cloud.gives("day_get", &[], counts([("1970-01-02", 10)]));
    cloud.gives("day_get", &["1970-01-01".into()], counts([("1970-01-01", 3), ("1970-01-02", 10)]));
    cloud.gives("day_get", &[LuaValue::nil(), "1970-01-01".into()], counts([("1970-01-01", 3)]));
}

#[test]
fn days_can_be_named() {
    let mut cloud = Cloud::new();
    cloud.gives("day_incr", &[5.into(), "2024-02-29".into()], 5);
    cloud.gives("day_incr", &[i64::MAX.into(), "2024-03-01".into()], i64::MAX);
    cloud.gives(
        "day_get",
        &["2024-02-28".into(), "2024-03-01".into()],
        counts([("2024-02-28", 0), ("2024-02-29", 5), ("2024-03-01", i64::MAX)]),
    );
    // Over the end of a year, and of summer time where there is one.
    cloud.gives("day_incr", &[1.into(), "2026-12-31".into()], 1);
    cloud.gives("day_incr", &[2.into(), "2027-01-01".into()], 2);
    cloud.gives("day_get", &["2026-12-31".into(), "2027-01-01".into()], counts([("2026-12-31", 1), ("2027-01-01", 2)]));
    let autumn = cloud.call("day_get", &["2026-10-24".into(), "2026-10-26".into()]).unwrap();
    assert_eq!(autumn, counts([("2026-10-24", 0), ("2026-10-25", 0), ("2026-10-26", 0)]));
    cloud.gives("day_reset", &["2024-02-01".into(), "2024-03-31".into()], 2);
    cloud.gives("day_get", &["2024-02-29".into(), "2024-02-29".into()], counts([("2024-02-29", 0)]));
}

#[test]
fn days_that_are_none_are_refused() {
    let mut cloud = Cloud::new();
    for day in
        ["2026-02-29", "2026-13-01", "2026-00-10", "2026-1-1", "26-01-01", "today", "", "1969-12-31", "2026-01-01 "]
    {
        cloud.refuses("day_incr", &[1.into(), day.into()], "INVALID_ARGUMENT", "day must be a day since 1970");
    }
    cloud.refuses(
        "day_get",
        &["2026-02-02".into(), "2026-02-01".into()],
        "INVALID_ARGUMENT",
        "from_day, 2026-02-02, is after to_day, 2026-02-01",
    );
    cloud.refuses(
        "day_get",
        &["2026-01-01".into(), "2027-01-02".into()],
        "INVALID_ARGUMENT",
        "from_day to to_day is 367 days, above the limit of 366",
    );
    let year = cloud.call("day_get", &["2024-01-01".into(), "2024-12-31".into()]).unwrap();
    assert_eq!(year, (0..366).map(year_day).collect::<LuaValue>());
}

/// A day of 2024 on which nothing was counted.
fn year_day(mut index: u32) -> LuaValue {
    let mut month = 1;
    for length in [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if index < length {
            break;
        }
        index -= length;
        month += 1;
    }
    let day = format!("2024-{month:02}-{:02}", index + 1);
    [("count", LuaValue::from(0)), ("day", LuaValue::from(day))].into_iter().collect()
}

/// What only reads is declared so, and runs on any replica.
#[test]
fn reading_is_declared_read_only() {
    let limits = cirrus_proto::limits::Limits::DEFAULT;
    let resolve = |_: &str, _| Err(Failure::new(Reason::LibraryNotFound, "nothing is required"));
    let source = shipped::source("lightcloud").unwrap();
    let inspected = cirrus_procedures::inspect("lightcloud", source.as_bytes(), &limits, &resolve).unwrap();
    let declared: Vec<&str> = inspected.declarations.iter().map(|declaration| declaration.name.as_str()).collect();
    assert_eq!(declared, inspected.functions, "every function is declared");
    let read_only = inspected.declarations.iter().filter(|declaration| declaration.read_only);
    let read_only: Vec<&str> = read_only.map(|declaration| declaration.name.as_str()).collect();
    assert_eq!(read_only, ["counter_get", "day_get", "get", "list_get"]);
    assert!(inspected.declarations.iter().all(|declaration| declaration.keys == ["key"]));
}
