//! `_pack` and `_unpack`: arrays of numbers as bytes.
//!
//! | format | bytes |
//! | --- | --- |
//! | `c` `C` | an 8-bit integer, signed and unsigned |
//! | `s` `S`, `i` `I`, `l` `L` | of 16, 32 and 64 bits, little-endian |
//! | `f`, `d` | a single and a double, little-endian |
//! | `n`, `N`, `M` | unsigned of 16, 32 and 64 bits, in network byte order |
//! | `w` | unsigned of up to 64 bits in BER: seven bits a byte, the highest first, all but the last marked |
//!
//! A format may be followed by a count, or by `*` for all that is left. As in Tokyo Tyrant, where values or bytes run
//! out, what was made so far is the result, and a format that is none of these takes a value and makes nothing.
//! Numbers are doubles, so that integers beyond 2^53 are rounded.

use mlua::{Lua, Table, Value};

use super::number;
use super::output::Output;
use crate::api::{Access, Answer, MANY, Operation, Raised, check_budget, expect_text, one, string};

pub(super) const OPERATIONS: &[Operation] =
    &[Operation::global("_pack", 1..=MANY, pack), Operation::global("_unpack", 2..=2, unpack)];

/// Values between two looks at the clock.
const CHECK_VALUES: usize = 4096;

/// `_pack(format, …)`: a string made of numbers, and of the numbers in arrays. What is neither counts as 0.
fn pack(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let format = expect_text(lua, "format", &arguments[0])?;
    let mut numbers = Vec::new();
    for argument in &arguments[1..] {
        match argument {
            Value::Table(array) => {
                for index in 1..=array.raw_len() {
                    if index % CHECK_VALUES == 0 {
                        check_budget(access.budget)?;
                    }
                    numbers.push(number(&array.raw_get::<Value>(index)?).unwrap_or(0.0));
                }
            }
            other => numbers.push(number(other).unwrap_or(0.0)),
        }
    }
    let mut out = Output::new(access);
    let mut left = &*numbers;
    for (letter, count) in formats(&format) {
        check_budget(access.budget)?;
        let (now, later) = left.split_at(count.min(left.len()));
        for &number in now {
            put(&mut out, letter, number)?;
        }
        left = later;
        if left.is_empty() {
            break;
        }
    }
    one(string(lua, out.bytes())?)
}

fn put(out: &mut Output<'_>, letter: u8, number: f64) -> Result<(), Raised> {
    let bits = wrapped(number);
    match letter {
        b'c' | b'C' => out.push(bits as u8),
        b's' | b'S' => out.extend(&(bits as u16).to_le_bytes()),
        b'i' | b'I' => out.extend(&(bits as u32).to_le_bytes()),
        b'l' | b'L' => out.extend(&bits.to_le_bytes()),
        b'f' | b'F' => out.extend(&(number as f32).to_le_bytes()),
        b'd' | b'D' => out.extend(&number.to_le_bytes()),
        b'n' => out.extend(&(bits as u16).to_be_bytes()),
        b'N' => out.extend(&(bits as u32).to_be_bytes()),
        b'M' => out.extend(&bits.to_be_bytes()),
        b'w' | b'W' => {
            let groups = bits.max(1).ilog2() / 7;
            for group in (0..=groups).rev() {
                let mark = if group > 0 { 0x80 } else { 0 };
                out.push((bits >> (7 * group)) as u8 & 0x7f | mark)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The whole number in 64 bits: below zero in two's complement, beyond the last as the last.
fn wrapped(number: f64) -> u64 {
    if number < 0.0 { number as i64 as u64 } else { number as u64 }
}

/// `_unpack(format, bytes)`: an array of numbers; empty for nil, which `_get` gives where there is no value.
fn unpack(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let format = expect_text(lua, "format", &arguments[0])?;
    let bytes = match &arguments[1] {
        Value::Nil => Default::default(),
        bytes => expect_text(lua, "bytes", bytes)?,
    };
    let numbers = lua.create_table()?;
    let mut left = &*bytes;
    for (letter, count) in formats(&format) {
        check_budget(access.budget)?;
        if take_all(access, &numbers, letter, count, &mut left)?.is_none() {
            break;
        }
    }
    one(Value::Table(numbers))
}

/// Takes `count` numbers off `left`; `None`: there were not enough bytes.
fn take_all(
    access: &Access<'_, '_>,
    numbers: &Table,
    letter: u8,
    count: usize,
    left: &mut &[u8],
) -> Result<Option<()>, Raised> {
    if !b"cCsSiIlLfFdDnNMwW".contains(&letter) {
        return Ok(Some(()));
    }
    for index in 0..count {
        if index % CHECK_VALUES == 0 {
            check_budget(access.budget)?;
        }
        match take(letter, left) {
            Some(number) => numbers.raw_push(number)?,
            None => return Ok(None),
        }
    }
    Ok(Some(()))
}

fn take(letter: u8, left: &mut &[u8]) -> Option<f64> {
    Some(match letter {
        b'c' => f64::from(i8::from_le_bytes(bytes(left)?)),
        b'C' => f64::from(u8::from_le_bytes(bytes(left)?)),
        b's' => f64::from(i16::from_le_bytes(bytes(left)?)),
        b'S' => f64::from(u16::from_le_bytes(bytes(left)?)),
        b'i' => f64::from(i32::from_le_bytes(bytes(left)?)),
        b'I' => f64::from(u32::from_le_bytes(bytes(left)?)),
        b'l' => i64::from_le_bytes(bytes(left)?) as f64,
        b'L' => u64::from_le_bytes(bytes(left)?) as f64,
        b'f' | b'F' => f64::from(f32::from_le_bytes(bytes(left)?)),
        b'd' | b'D' => f64::from_le_bytes(bytes(left)?),
        b'n' => f64::from(u16::from_be_bytes(bytes(left)?)),
        b'N' => f64::from(u32::from_be_bytes(bytes(left)?)),
        b'M' => u64::from_be_bytes(bytes(left)?) as f64,
        _ => {
            let mut number: u64 = 0;
            loop {
                let [byte] = bytes(left)?;
                number = number << 7 | u64::from(byte & 0x7f);
                if byte < 0x80 || left.is_empty() {
                    break number as f64;
                }
            }
        }
    })
}

fn bytes<const N: usize>(left: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = left.split_first_chunk()?;
    *left = rest;
    Some(*first)
}

/// The letters of a format, each with its count.
fn formats(mut format: &[u8]) -> impl Iterator<Item = (u8, usize)> {
    std::iter::from_fn(move || {
        let (&letter, rest) = format.split_first()?;
        if let Some(rest) = rest.strip_prefix(b"*") {
            format = rest;
            return Some((letter, usize::MAX));
        }
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let count = rest[..digits]
            .iter()
            .fold(0_usize, |count, digit| count.saturating_mul(10).saturating_add(usize::from(digit - b'0')));
        format = &rest[digits..];
        Some((letter, if digits == 0 { 1 } else { count }))
    })
}
