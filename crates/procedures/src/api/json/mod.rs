//! `json.*`: Lua values as JSON text and back.
//!
//! | call | result |
//! | --- | --- |
//! | `json.encode(value)` | the text, without spaces, the fields of an object in byte order |
//! | `json.decode(text)` | the value |
//! | `json.array(table)` | the table, marked as an array |
//! | `json.null` | what stands for null, in both directions |
//!
//! | Lua | JSON |
//! | --- | --- |
//! | `json.null`, and nil as the whole value | null |
//! | boolean | true, false |
//! | number, or `integer` | number; a whole one below 2^63 with all its digits |
//! | string, in UTF-8 | string |
//! | table with the keys 1 to n, and one that is marked as an array | array |
//! | table whose keys are strings; one without keys | object |
//!
//! A whole number up to 2^53 is decoded as a Lua number. Beyond that, in signed 64 bits, a double would lose
//! digits: it is decoded as Luau's `integer`, for which there are the functions of the library `integer`, and
//! which encodes to the same digits. A number from 2^63 up to 2^64 is refused; larger ones, and those with a
//! fraction or an exponent, become the nearest double. Decoded arrays are marked, so that an empty one
//! stays one.
//!
//! Both go down to [`DEPTH_MAX`] levels. Metatables do not matter but for the mark. What has no JSON form
//! raises an error that names its path, as `$.items[3].price`, and what is no JSON one that names line and column.

mod decode;
mod encode;

use mlua::{Lua, Value};

use super::Raised;
use super::pure::{Context, PureFunction, Returned};
use crate::text::type_name;

/// Arrays and objects may be nested to this depth.
const DEPTH_MAX: usize = 64;

pub(super) const FUNCTIONS: &[PureFunction] = &[
    PureFunction { table: Some("json"), name: "encode", arguments: 1..=1, run: encode::encode },
    PureFunction { table: Some("json"), name: "decode", arguments: 1..=1, run: decode::decode },
    PureFunction { table: Some("json"), name: "array", arguments: 1..=1, run: array },
];

fn array(context: &Context, _lua: &Lua, arguments: &[Value]) -> Result<Returned, Raised> {
    let Value::Table(table) = &arguments[0] else {
        return Err(Raised::Misuse(format!("expected a table, got {}", type_name(&arguments[0]))));
    };
    match table.metatable() {
        None if table.is_readonly() => Err(Raised::Misuse("the table is read-only".to_owned())),
        None => {
            table.set_metatable(Some(context.array.clone()))?;
            Ok(Returned::Value(Value::Table(table.clone())))
        }
        Some(metatable) if metatable == context.array => Ok(Returned::Value(Value::Table(table.clone()))),
        Some(_) => Err(Raised::Misuse("the table has a metatable already".to_owned())),
    }
}
