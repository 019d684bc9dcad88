//! Lua values as the bytes that are stored and answered.
//!
//! Strings are bytes and pass unchanged. A number becomes what Lua's `tostring` makes of it, except
//! that a whole number below 2^63 is written out in full: 12345678901234568, not
//! 1.2345678901234568e+16 as Luau has it, nor 1.2345678901235e+16 as Lua 5.1 has it, which would lose
//! digits that the double still holds.

use bytes::Bytes;
use cirrus_engine::parse_integer;
use mlua::{Lua, Value};

/// Whole numbers up to this, and down to its negative, are exact in a Lua number, which is a double.
pub(crate) const EXACT_INTEGER_MAX: i64 = 1 << 53;

/// The bytes of a string or number; `None` for a value of another type.
pub(crate) fn text(lua: &Lua, value: &Value) -> mlua::Result<Option<Bytes>> {
    Ok(match value {
        Value::String(string) => Some(Bytes::copy_from_slice(&string.as_bytes())),
        Value::Integer(integer) => Some(Bytes::from(integer.to_string())),
        // Zero below zero is a double's own idea; a reader of the stored text has no use for it.
        Value::Number(0.0) => Some(Bytes::from_static(b"0")),
        Value::Number(_) => lua.coerce_string(value.clone())?.map(|string| Bytes::copy_from_slice(&string.as_bytes())),
        _ => None,
    })
}

/// A signed 64-bit number for Lua: a number where a double holds it exactly, else its decimal text.
pub(crate) fn exact_integer(lua: &Lua, integer: i64) -> mlua::Result<Value> {
    if (-EXACT_INTEGER_MAX..=EXACT_INTEGER_MAX).contains(&integer) {
        return Ok(Value::Integer(integer));
    }
    lua.create_string(integer.to_string()).map(Value::String)
}

/// The whole number that a Lua value stands for: a number without a fraction, or decimal text.
pub(crate) fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(integer) => Some(*integer),
        Value::Number(0.0) => Some(0),
        Value::String(string) => parse_integer(&string.as_bytes()),
        _ => None,
    }
}

/// A Lua value's type for a message: mlua tells whole numbers apart, Lua's users do not.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Integer(_) => "number",
        other => other.type_name(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_become_text_without_losing_digits() {
        let lua = Lua::new();
        for (source, expected) in [
            ("1", "1"),
            ("-7", "-7"),
            ("2^53", "9007199254740992"),
            ("12345678901234568", "12345678901234568"),
            ("-2^62", "-4611686018427387904"),
            ("1e15", "1000000000000000"),
            ("0.1", "0.1"),
            ("-1.5", "-1.5"),
            ("1e300", "1e+300"),
            ("-0", "0"),
            ("0/0 ~= 0/0 and 'nan'", "nan"),
            ("'a\\0b'", "a\0b"),
        ] {
            let value: Value = lua.load(format!("return {source}")).eval().unwrap();
            assert_eq!(text(&lua, &value).unwrap().unwrap(), expected.as_bytes(), "{source}");
        }
        assert_eq!(text(&lua, &Value::Nil).unwrap(), None);
    }

    #[test]
    fn sixty_four_bit_numbers_reach_lua_exactly() {
        let lua = Lua::new();
        for exact in [0, 1, -1, EXACT_INTEGER_MAX, -EXACT_INTEGER_MAX] {
            assert!(matches!(exact_integer(&lua, exact).unwrap(), Value::Integer(number) if number == exact));
        }
        for large in [EXACT_INTEGER_MAX + 1, i64::MAX, i64::MIN] {
            let value = exact_integer(&lua, large).unwrap();
            assert!(value.is_string());
            assert_eq!(integer(&value), Some(large), "and back");
        }
    }
}
