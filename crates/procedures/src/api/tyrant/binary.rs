//! Tokyo Tyrant's `_pack` and `_unpack`: numbers as bytes, by formats like Perl's.
//!
//! | format | a number as |
//! | --- | --- |
//! | `c` `C`, `s` `S`, `i` `I`, `l` `L` | an integer of 1, 2, 4, 8 bytes, signed and unsigned, little-endian |
//! | `f`, `d` | a float of 4, 8 bytes, little-endian |
//! | `n`, `N`, `M` | an unsigned integer of 2, 4, 8 bytes, big-endian |
//! | `w` | a BER compressed integer: 7 bits a byte, the highest first, all but the last with the top bit |
//!
//! Behind a format stands how often, or `*` for all that is left. Integers wrap as C's do; what a double does not
//! hold exactly is lost, as in Tokyo Tyrant.

use mlua::{Lua, Value};

use super::super::pure::{Context, PureFunction, Returned};
use super::super::{Raised, expect_text};
use crate::text::type_name;

pub(in super::super) const FUNCTIONS: &[PureFunction] = &[
    PureFunction { table: None, name: "_pack", arguments: 1..=usize::MAX, run: pack },
    PureFunction { table: None, name: "_unpack", arguments: 2..=2, run: unpack },
];

#[derive(Clone, Copy)]
struct Format {
    letter: u8,
    /// `usize::MAX`: all that is left.
    times: usize,
}

fn formats(text: &[u8]) -> Result<Vec<Format>, Raised> {
    let mut formats = Vec::new();
    let mut rest = text.iter().copied().peekable();
    while let Some(letter) = rest.next() {
        if letter.is_ascii_whitespace() {
            continue;
        }
        if !b"cCsSiIlLfdnNMw".contains(&letter) {
            return Err(Raised::Misuse(format!("{:?} is no format", char::from(letter))));
        }
        let mut times = 1;
        if rest.next_if_eq(&b'*').is_some() {
            times = usize::MAX;
        } else if rest.peek().is_some_and(u8::is_ascii_digit) {
            times = 0;
            while let Some(digit) = rest.next_if(u8::is_ascii_digit) {
                times = times.saturating_mul(10).saturating_add(usize::from(digit - b'0'));
            }
        }
        formats.push(Format { letter, times });
    }
    Ok(formats)
}

/// `_pack(format, number…)`: stops where the numbers end.
fn pack(context: &Context, lua: &Lua, arguments: &[Value]) -> Result<Returned, Raised> {
    let formats = formats(&expect_text(lua, "format", &arguments[0])?)?;
    let mut numbers = arguments[1..].iter();
    let mut bytes = Vec::new();
    for Format { letter, times } in formats {
        for value in numbers.by_ref().take(times) {
            let number = match value {
                Value::Integer(number) => *number as f64,
                Value::Number(number) => *number,
                Value::String(text) => text
                    .to_str()
                    .ok()
                    .and_then(|text| text.trim().parse().ok())
                    .ok_or_else(|| Raised::Misuse("expected numbers, got a string".to_owned()))?,
                other => return Err(Raised::Misuse(format!("expected numbers, got {}", type_name(other)))),
            };
            push(&mut bytes, letter, number);
        }
    }
    context.check_budget()?;
    Ok(Returned::Value(Value::String(lua.create_string(bytes)?)))
}

fn push(bytes: &mut Vec<u8>, letter: u8, number: f64) {
    // The cast drops a fraction, and saturates beyond 128 bits; cutting off the high bits wraps.
    let whole = number as i128;
    match letter {
        b'c' | b'C' => bytes.push(whole as u8),
        b's' | b'S' => bytes.extend((whole as u16).to_le_bytes()),
        b'i' | b'I' => bytes.extend((whole as u32).to_le_bytes()),
        b'l' | b'L' => bytes.extend((whole as u64).to_le_bytes()),
        b'f' => bytes.extend((number as f32).to_le_bytes()),
        b'd' => bytes.extend(number.to_le_bytes()),
        b'n' => bytes.extend((whole as u16).to_be_bytes()),
        b'N' => bytes.extend((whole as u32).to_be_bytes()),
        b'M' => bytes.extend((whole as u64).to_be_bytes()),
        _ => {
            let mut rest = whole as u64;
            let mut reversed = vec![(rest & 0x7f) as u8];
            while rest > 0x7f {
                rest >>= 7;
                reversed.push((rest & 0x7f) as u8 | 0x80);
            }
            bytes.extend(reversed.iter().rev());
        }
    }
}

/// `_unpack(format, bytes)`: an array of numbers; stops where the bytes end.
fn unpack(context: &Context, lua: &Lua, arguments: &[Value]) -> Result<Returned, Raised> {
    let formats = formats(&expect_text(lua, "format", &arguments[0])?)?;
    let bytes = expect_text(lua, "the bytes", &arguments[1])?;
    let mut rest = &bytes[..];
    let numbers = lua.create_table()?;
    for Format { letter, times } in formats {
        for turn in 0..times {
            let Some(number) = take(&mut rest, letter) else { break };
            numbers.raw_push(number)?;
            if turn % 1024 == 0 {
                context.check_budget()?;
            }
        }
    }
    Ok(Returned::Value(Value::Table(numbers)))
}

fn take(rest: &mut &[u8], letter: u8) -> Option<f64> {
    fn array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
        let (first, others) = rest.split_first_chunk::<N>()?;
        *rest = others;
        Some(*first)
    }
    Some(match letter {
        b'c' => f64::from(i8::from_le_bytes(array(rest)?)),
        b'C' => f64::from(u8::from_le_bytes(array(rest)?)),
        b's' => f64::from(i16::from_le_bytes(array(rest)?)),
        b'S' => f64::from(u16::from_le_bytes(array(rest)?)),
        b'i' => f64::from(i32::from_le_bytes(array(rest)?)),
        b'I' => f64::from(u32::from_le_bytes(array(rest)?)),
        b'l' => i64::from_le_bytes(array(rest)?) as f64,
        b'L' => u64::from_le_bytes(array(rest)?) as f64,
        b'f' => f64::from(f32::from_le_bytes(array(rest)?)),
        b'd' => f64::from_le_bytes(array(rest)?),
        b'n' => f64::from(u16::from_be_bytes(array(rest)?)),
        b'N' => f64::from(u32::from_be_bytes(array(rest)?)),
        b'M' => u64::from_be_bytes(array(rest)?) as f64,
        _ => {
            let mut number: u64 = 0;
            loop {
                let [byte] = array(rest)?;
                number = number << 7 | u64::from(byte & 0x7f);
                if byte < 0x80 {
                    break number as f64;
                }
            }
        }
    })
}
