//! `_hash` and `_bit`: arithmetic on bytes and bits.

use md5::{Digest as _, Md5};
use mlua::{Lua, Value};

use super::expect_number;
use crate::api::{Access, Answer, Operation, Raised, expect_text, in_pieces, one, string};

pub(super) const OPERATIONS: &[Operation] =
    &[Operation::global("_hash", 2..=2, hash), Operation::global("_bit", 2..=3, bit)];

/// `_hash(mode, text)`: `md5` in 32 hexadecimal digits, `md5raw` in 16 bytes, `crc32` (zlib's) as a number. Upper case
/// is the same; nil for another mode.
fn hash(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let mode = expect_text(lua, "mode", &arguments[0])?.to_ascii_lowercase();
    let data = expect_text(lua, "text", &arguments[1])?;
    match &*mode {
        b"md5" | b"md5raw" => {
            let mut digest = Md5::new();
            in_pieces(access.budget, &data, |piece| digest.update(piece))?;
            let digest = digest.finalize();
            match &*mode {
                b"md5raw" => one(string(lua, &digest)?),
                _ => one(string(lua, format!("{digest:x}").as_bytes())?),
            }
        }
        b"crc32" => {
            let mut sum = crc32fast::Hasher::new();
            in_pieces(access.budget, &data, |piece| sum.update(piece))?;
            one(Value::Number(f64::from(sum.finalize())))
        }
        _ => one(None),
    }
}

/// `_bit(mode, number[, other])`: `and`, `or`, `xor`, `not`, `left`, `right` on unsigned 32-bit numbers. Upper case is
/// the same; another mode is an error. A shift by 32 or more leaves 0.
fn bit(_access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let mode = expect_text(lua, "mode", &arguments[0])?.to_ascii_lowercase();
    let number = low_bits(expect_number(&arguments[1])?);
    let other = match arguments.get(2) {
        None | Some(Value::Nil) => 0,
        Some(other) => low_bits(expect_number(other)?),
    };
    let result = match &*mode {
        b"and" => number & other,
        b"or" => number | other,
        b"xor" => number ^ other,
        b"not" => !number,
        b"left" => number.checked_shl(other).unwrap_or(0),
        b"right" => number.checked_shr(other).unwrap_or(0),
        _ => return Err(Raised::Misuse("the mode must be and, or, xor, not, left or right".to_owned())),
    };
    one(Value::Number(f64::from(result)))
}

/// Below zero in two's complement.
fn low_bits(number: f64) -> u32 {
    number as i64 as u32
}
