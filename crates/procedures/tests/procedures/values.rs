//! Arguments and results with types.

use cirrus_procedures::Arguments;
use cirrus_proto::limits::Limits;
use cirrus_proto::v1::LuaValue;
use cirrus_proto::value::VALUE_DEPTH_MAX;
use cirrus_proto::{Failure, Reason};
use proptest::prelude::*;

use crate::shard::Shard;

const ECHO: &str = "function main(key, ...) return ... end";

fn list<const N: usize>(values: [LuaValue; N]) -> LuaValue {
    values.into_iter().collect()
}

fn map<const N: usize>(entries: [(&'static str, LuaValue); N]) -> LuaValue {
    entries.into_iter().collect()
}

/// What the body of a function of `key, a, b` returns.
fn run(shard: &mut Shard, body: &str, arguments: &[LuaValue]) -> Result<LuaValue, Failure> {
    shard.call_typed(&format!("function main(key, a, b)\n{body}\nend"), "main", Arguments::Values(arguments))
}

#[test]
fn values_come_back_as_they_were_given() {
    let mut shard = Shard::new();
    for value in [
        LuaValue::nil(),
        true.into(),
        false.into(),
        0.into(),
        (1_i64 << 53).into(),
        ((1_i64 << 53) + 1).into(),
        i64::MAX.into(),
        i64::MIN.into(),
        0.5.into(),
        1e300.into(),
        f64::INFINITY.into(),
        "".into(),
        vec![0, 0xff, b'\n'].into(),
        list([]),
        map([]),
        list([1.into(), LuaValue::nil(), i64::MAX.into(), list([]), map([("a", (i64::MAX - 1).into())])]),
        map([("", 1.into()), ("a", list(["x".into()])), ("b", LuaValue::nil()), ("c", false.into())]),
    ] {
        let back = shard.call_typed(ECHO, "main", Arguments::Values(std::slice::from_ref(&value)));
        assert_eq!(back, Ok(value));
    }
}

#[test]
fn a_whole_double_is_a_whole_number() {
    let mut shard = Shard::new();
    let mut echo = |value: f64| shard.call_typed(ECHO, "main", Arguments::Values(&[value.into()])).unwrap();
    assert_eq!(echo(3.0), 3.into());
    assert_eq!(echo(-1e18), (-1_000_000_000_000_000_000_i64).into());
    assert_eq!(echo(1e19), 1e19.into());
}

#[test]
fn large_integers_stay_exact_through_arithmetic_keys_and_json() {
    let mut shard = Shard::new();
    let large = (1_i64 << 53) + 1;
    for (body, expected) in [
        ("return integer.add(a, integer.create(1))", LuaValue::from(large + 1)),
        ("return json.encode(a)", "9007199254740993".into()),
        ("return json.decode(json.encode({a = a})).a", large.into()),
        ("kv.put(key, a) return kv.get(key)", "9007199254740993".into()),
        ("kv.put(key, 1) return kv.incr(key, a)", "9007199254740994".into()),
        ("return {a, b}", list([large.into(), i64::MIN.into()])),
        ("return a, b", large.into()),
    ] {
        assert_eq!(run(&mut shard, body, &[large.into(), i64::MIN.into()]), Ok(expected), "{body}");
    }
}

#[test]
fn a_nil_inside_is_json_null() {
    let mut shard = Shard::new();
    let holes = list([1.into(), LuaValue::nil()]);
    let body = "return {#a, a[2] == json.null, b == nil}";
    let expected = list([2.into(), true.into(), true.into()]);
    assert_eq!(run(&mut shard, body, &[holes]), Ok(expected));
    assert_eq!(run(&mut shard, "return json.null", &[]), Ok(LuaValue::nil()));
    assert_eq!(run(&mut shard, "return", &[]), Ok(LuaValue::nil()));
}

#[test]
fn what_is_no_value_is_refused_with_its_path() {
    let mut shard = Shard::new();
    for (body, problem) in [
        ("return print", "$: a function is no result"),
        ("return {a = {1, print}}", "$.a[2]: a function is no result"),
        ("return {1, nil, 3}", "the list has a hole"),
        ("return {[1] = 1, x = 2}", "$: the table would be a list, but has the key \"x\""),
        ("return {[1.5] = 1}", "$: the table would be a map, but has a key that is a number"),
        ("local t = {} t.t = t return t", "$.t: the table contains itself"),
        ("local t = {} for i = 1, 100 do t = {t} end return t", "nested deeper than 24"),
    ] {
        let failure = run(&mut shard, body, &[]).unwrap_err();
        assert_eq!(failure.reason, Reason::ProcedureFailed, "{body}");
        assert!(failure.message.contains(problem), "{body}: {}", failure.message);
    }
}

#[test]
fn a_result_is_bounded() {
    let mut shard = Shard::with_limits(Limits { call_reply_bytes: 1000, ..Limits::DEFAULT });
    for body in [
        "return string.rep('x', 1001)",
        "local t = {} for i = 1, 200 do t[i] = i end return t",
        "local t = {} for i = 1, 100 do t['key' .. i] = true end return t",
    ] {
        assert_eq!(run(&mut shard, body, &[]).unwrap_err().reason, Reason::ResultTooLarge, "{body}");
    }
    let body = "local t = {} for i = 1, 50 do t[i] = i end return t";
    assert!(run(&mut shard, body, &[]).is_ok());
}

#[test]
fn more_keys_come_before_the_arguments() {
    let mut shard = Shard::new();
    shard.more_keys = vec!["k2".into(), "k3".into()];
    let source = "function main(...) return {...} end";
    let values = shard.call_typed(source, "main", Arguments::Values(&[1.into()]));
    assert_eq!(values, Ok(list(["k".into(), "k2".into(), "k3".into(), 1.into()])));
    let strings = shard.call_typed(source, "main", Arguments::Strings(&["1".into()]));
    assert_eq!(strings, Ok(list(["k".into(), "k2".into(), "k3".into(), "1".into()])));
}

fn values() -> impl Strategy<Value = LuaValue> {
    let leaf = prop_oneof![
        Just(LuaValue::nil()),
        any::<bool>().prop_map(LuaValue::from),
        any::<i64>().prop_map(LuaValue::from),
        any::<f64>()
            .prop_filter("a whole number comes back as one", |number| number.fract() != 0.0)
            .prop_map(LuaValue::from),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(LuaValue::from),
    ];
    leaf.prop_recursive(VALUE_DEPTH_MAX as u32, 100, 8, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8).prop_map(|values| values.into_iter().collect()),
            proptest::collection::btree_map(proptest::collection::vec(any::<u8>(), 0..8), inner, 0..8)
                .prop_map(|entries| entries.into_iter().collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_value_survives(given in proptest::collection::vec(values(), 1..4)) {
        let mut shard = Shard::new();
        let source = "function main(key, ...) return json.array({...}) end";
        let result = shard.call_typed(source, "main", Arguments::Values(&given));
        // A nil at the end is no element of `{...}`.
        prop_assume!(!given.contains(&LuaValue::nil()));
        prop_assert_eq!(result, Ok(given.into_iter().collect()));
    }
}
