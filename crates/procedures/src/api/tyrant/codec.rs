//! `_codec`: encodings of text and compressed forms.
//!
//! | mode | form |
//! | --- | --- |
//! | `url` | percent encoding; `~url` takes `+` for a space |
//! | `base` | Base64; `~base` skips what is not of its alphabet and stops at `=` |
//! | `quote` | quoted-printable, without breaking lines |
//! | `hex` | two lower-case digits a byte; `~hex` skips spaces |
//! | `xml` | `&amp;`, `&lt;`, `&gt;`, `&quot;` |
//! | `pack` | Tokyo Cabinet's PackBits |
//! | `tcbs` | Tokyo Cabinet's block-sorting form (`tcbs.rs`) |
//! | `deflate`, `gzip`, `bzip` | zlib's format (RFC 1950), gzip's, bzip2's |
//!
//! Source: Tokyo Cabinet's `tcutil.h`. Modes are the same in upper case. An unknown mode, and data that is not of
//! the form to decode, answer nil. A result beyond the call's memory fails the call.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use mlua::{Lua, Value};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

use super::output::Output;
use super::tcbs;
use crate::api::{Access, Answer, Operation, PIECE_BYTES, Raised, expect_text, hex_value, one, string};

pub(super) const OPERATIONS: &[Operation] = &[Operation::global("_codec", 2..=2, codec)];

/// What `url` encodes.
const URL: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'_')
    .remove(b'-')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

/// Decodes what is left of Base64 without its padding, also where its last bits were not cleared.
const BASE: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

const ENTITIES: [(u8, &[u8]); 4] = [(b'&', b"&amp;"), (b'<', b"&lt;"), (b'>', b"&gt;"), (b'"', b"&quot;")];

/// Longest run that `pack` notes at once.
const PACK_RUN_MAX: usize = 127;

/// zlib's and gzip's level of compression, and bzip2's, as Tokyo Cabinet has them.
const DEFLATE_LEVEL: u32 = 6;
const BZIP_LEVEL: u32 = 9;

/// `_codec(mode, text)`: the text encoded or, where the mode begins with `~`, decoded; or nil.
fn codec(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let mode = expect_text(lua, "mode", &arguments[0])?;
    let data = expect_text(lua, "text", &arguments[1])?;
    let mode = String::from_utf8_lossy(&mode).to_ascii_lowercase();
    let mut out = Output::new(access);
    let done = match &*mode {
        "url" => encode_url(&data, &mut out)?,
        "~url" => decode_url(&data, &mut out)?,
        "base" => encode_base(&data, &mut out)?,
        "~base" => decode_base(&data, &mut out)?,
        "quote" => encode_quoted(&data, &mut out)?,
        "~quote" => decode_quoted(&data, &mut out)?,
        "hex" => encode_hex(&data, &mut out)?,
        "~hex" => decode_hex(&data, &mut out)?,
        "xml" => encode_xml(&data, &mut out)?,
        "~xml" => decode_xml(&data, &mut out)?,
        "pack" => encode_pack(&data, &mut out)?,
        "~pack" => decode_pack(&data, &mut out)?,
        "tcbs" => tcbs::encode(&data, access.budget, &mut out)?,
        "~tcbs" => tcbs::decode(&data, access.budget, &mut out)?,
        "deflate" => {
            out.read_from(flate2::read::ZlibEncoder::new(pieces(&data), flate2::Compression::new(DEFLATE_LEVEL)))?
        }
        "~deflate" => out.read_from(flate2::read::ZlibDecoder::new(&*data))?,
        "gzip" => {
            out.read_from(flate2::read::GzEncoder::new(pieces(&data), flate2::Compression::new(DEFLATE_LEVEL)))?
        }
        "~gzip" => out.read_from(flate2::read::GzDecoder::new(&*data))?,
        "bzip" => out.read_from(bzip2::read::BzEncoder::new(pieces(&data), bzip2::Compression::new(BZIP_LEVEL)))?,
        "~bzip" => out.read_from(bzip2::read::BzDecoder::new(&*data))?,
        _ => false,
    };
    if done { one(string(lua, out.bytes())?) } else { one(None) }
}

type Coded = Result<bool, Raised>;

fn encode_url(data: &[u8], out: &mut Output<'_>) -> Coded {
    for text in percent_encode(data, URL) {
        out.extend(text.as_bytes())?;
    }
    Ok(true)
}

fn decode_url(data: &[u8], out: &mut Output<'_>) -> Coded {
    for (index, part) in data.split(|&byte| byte == b'+').enumerate() {
        if index > 0 {
            out.push(b' ')?;
        }
        for byte in percent_decode(part) {
            out.push(byte)?;
        }
    }
    Ok(true)
}

fn encode_base(data: &[u8], out: &mut Output<'_>) -> Coded {
    // Whole groups of three bytes, so that only the last piece is padded.
    for piece in data.chunks(PIECE_BYTES / 3 * 3) {
        out.extend(base64::engine::general_purpose::STANDARD.encode(piece).as_bytes())?;
    }
    Ok(true)
}

fn decode_base(data: &[u8], out: &mut Output<'_>) -> Coded {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let mut digits: Vec<u8> = data.iter().copied().take_while(|&byte| byte != b'=').filter(is_digit).collect();
    if digits.len() % 4 == 1 {
        digits.pop();
    }
    match BASE.decode(digits) {
        Ok(decoded) => out.extend(&decoded).map(|()| true),
        Err(_) => Ok(false),
    }
}

fn encode_quoted(data: &[u8], out: &mut Output<'_>) -> Coded {
    for &byte in data {
        match byte {
            b'\r' | b'\n' | b'\t' => out.push(byte)?,
            b'=' | 0..0x20 | 0x7f.. => out.extend(format!("={byte:02X}").as_bytes())?,
            _ => out.push(byte)?,
        }
    }
    Ok(true)
}

fn decode_quoted(mut data: &[u8], out: &mut Output<'_>) -> Coded {
    while let Some((&byte, rest)) = data.split_first() {
        data = match (byte, rest) {
            (b'=', [b'\r', b'\n', rest @ ..] | [b'\n', rest @ ..] | [b'\r', rest @ ..] | rest @ []) => rest,
            (b'=', [high, low, rest @ ..]) => match (hex_value(*high), hex_value(*low)) {
                (Some(high), Some(low)) => {
                    out.push(high << 4 | low)?;
                    rest
                }
                _ => return Ok(false),
            },
            (b'=', _) => return Ok(false),
            (byte, rest) => {
                out.push(byte)?;
                rest
            }
        };
    }
    Ok(true)
}

fn encode_hex(data: &[u8], out: &mut Output<'_>) -> Coded {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for &byte in data {
        out.extend(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]])?;
    }
    Ok(true)
}

fn decode_hex(data: &[u8], out: &mut Output<'_>) -> Coded {
    let mut digits = data.iter().copied().filter(|&byte| byte > b' ');
    while let Some(high) = digits.next() {
        match (hex_value(high), digits.next().and_then(hex_value)) {
            (Some(high), Some(low)) => out.push(high << 4 | low)?,
            _ => return Ok(false),
        }
    }
    Ok(true)
}

fn encode_xml(data: &[u8], out: &mut Output<'_>) -> Coded {
    for &byte in data {
        match ENTITIES.iter().find(|(plain, _)| *plain == byte) {
            Some((_, entity)) => out.extend(entity)?,
            None => out.push(byte)?,
        }
    }
    Ok(true)
}

fn decode_xml(mut data: &[u8], out: &mut Output<'_>) -> Coded {
    while let Some(&byte) = data.first() {
        let (plain, length) = match ENTITIES.iter().find(|(_, entity)| data.starts_with(entity)) {
            Some((plain, entity)) => (*plain, entity.len()),
            None => (byte, 1),
        };
        out.push(plain)?;
        data = &data[length..];
    }
    Ok(true)
}

/// A run of equal bytes is its length and the byte; other bytes are their negative number, then they.
fn encode_pack(mut data: &[u8], out: &mut Output<'_>) -> Coded {
    while let Some(&first) = data.first() {
        let limit = data.len().min(PACK_RUN_MAX);
        let equal = data[..limit].iter().take_while(|&&byte| byte == first).count();
        if equal > 1 || data.len() == 1 {
            out.extend(&[equal as u8, first])?;
            data = &data[equal..];
            continue;
        }
        // Up to where the next run begins.
        let differing = (1..limit).find(|&at| data.get(at + 1) == Some(&data[at])).unwrap_or(limit);
        match differing {
            1 => out.extend(&[1, first])?,
            _ => {
                out.push((differing as u8).wrapping_neg())?;
                out.extend(&data[..differing])?;
            }
        }
        data = &data[differing..];
    }
    Ok(true)
}

fn decode_pack(mut data: &[u8], out: &mut Output<'_>) -> Coded {
    while let Some((&length, rest)) = data.split_first() {
        let length = length as i8;
        if length >= 0 {
            let Some((&byte, rest)) = rest.split_first() else { return Ok(false) };
            out.extend(&[byte; PACK_RUN_MAX][..usize::from(length.unsigned_abs())])?;
            data = rest;
        } else {
            let Some((plain, rest)) = rest.split_at_checked(usize::from(length.unsigned_abs())) else {
                return Ok(false);
            };
            out.extend(plain)?;
            data = rest;
        }
    }
    Ok(true)
}

/// Hands out a piece at a time, so that a compressor answers between two.
fn pieces(data: &[u8]) -> impl std::io::Read {
    std::io::BufReader::with_capacity(PIECE_BYTES, data)
}
