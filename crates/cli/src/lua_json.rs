//! Values with types, as JSON: what `proc call --json` takes and prints.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use cirrus_client::v1::LuaValue;
use cirrus_client::v1::lua_value::Kind;
use serde_json::{Map, Number, Value};

/// The one field of an object that stands for bytes which are not UTF-8.
const BASE64: &str = "base64";

/// A number with a fraction or an exponent is a double, any other a 64-bit number.
pub(crate) fn from_json(value: &Value) -> Result<LuaValue, String> {
    Ok(match value {
        Value::Null => LuaValue::nil(),
        Value::Bool(boolean) => (*boolean).into(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => integer.into(),
            (None, Some(double)) if number.is_f64() => double.into(),
            _ => return Err(format!("{number} does not fit in signed 64 bits")),
        },
        Value::String(text) => text.clone().into(),
        Value::Array(values) => values.iter().map(from_json).collect::<Result<_, _>>()?,
        Value::Object(fields) => match fields.get(BASE64) {
            Some(Value::String(text)) if fields.len() == 1 => {
                BASE64_STANDARD.decode(text).map_err(|error| format!("{BASE64}: {error}"))?.into()
            }
            _ => {
                let entries = fields.iter().map(|(name, value)| Ok((name.clone(), from_json(value)?)));
                entries.collect::<Result<Vec<(String, LuaValue)>, String>>()?.into_iter().collect()
            }
        },
    })
}

pub(crate) fn to_json(value: &LuaValue) -> Value {
    match &value.kind {
        None | Some(Kind::Nil(_)) => Value::Null,
        Some(Kind::Boolean(boolean)) => Value::from(*boolean),
        Some(Kind::Int64(integer)) => Value::from(*integer),
        // JSON has no infinities; their text says more than null.
        Some(Kind::Double(double)) => {
            Number::from_f64(*double).map_or_else(|| Value::from(double.to_string()), Value::Number)
        }
        Some(Kind::Bytes(bytes)) => text(bytes),
        Some(Kind::List(list)) => list.values.iter().map(to_json).collect(),
        Some(Kind::Map(map)) => {
            let value_of = |value: &Option<LuaValue>| value.as_ref().map_or(Value::Null, to_json);
            let entries = map.entries.iter();
            let fields =
                entries.map(|entry| (String::from_utf8_lossy(&entry.key).into_owned(), value_of(&entry.value)));
            Value::Object(fields.collect())
        }
    }
}

fn text(bytes: &Bytes) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => Value::Object(Map::from_iter([(BASE64.to_owned(), Value::from(BASE64_STANDARD.encode(bytes)))])),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_value_comes_back_as_it_was() {
        for text in [
            "null",
            "true",
            "9223372036854775807",
            "-9223372036854775808",
            "9007199254740993",
            "0.1",
            "1e+300",
            "\"grüß\"",
            "[]",
            "[1,[null,{}]]",
            r#"{"a":1,"b":{"c":[false]}}"#,
            r#"{"base64":"/wA="}"#,
            r#"{"base64":1}"#,
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(to_json(&from_json(&value).unwrap()), value, "{text}");
        }
    }

    #[test]
    fn what_has_no_type_is_refused() {
        for (text, problem) in [
            ("9223372036854775808", "does not fit"),
            (r#"{"base64":"?"}"#, "base64:"),
            ("[18446744073709551615]", "fit"),
        ] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert!(from_json(&value).unwrap_err().contains(problem), "{text}");
        }
    }
}
