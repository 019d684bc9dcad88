//! Digests, checksums and encodings of bytes: `crypto.*`; and `uuid`.
//!
//! | call | result |
//! | --- | --- |
//! | `crypto.sha256(s)`, `sha512`, `sha1`, `md5` | the digest, in lowercase hex |
//! | `crypto.hmac_sha256(key, s)` | the authentication code, in lowercase hex |
//! | `crypto.crc32(s)` | the CRC-32 of zip and PNG, a number |
//! | `crypto.base64_encode(s)`, `base64_decode(text)` | by the standard alphabet, with padding |
//! | `crypto.hex_encode(s)`, `hex_decode(text)` | encoded in lowercase; decoded from either case |
//! | `uuid()` | a random UUID, version 4, by the operating system's generator; in tests it follows from their seed |
//!
//! All take strings or numbers. Decoding refuses what it would not have encoded, apart from uppercase hex.
//! SHA-1 and MD5 are for what others have hashed; neither withstands an attacker.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hmac::{Hmac, Mac as _};
use md5::Md5;
use mlua::{Lua, Value};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};
use uuid::{Builder, Uuid};

use super::pure::{Context, PureFunction, Returned};
use super::{Raised, expect_text, hex_value, in_pieces, string};

pub(super) const FUNCTIONS: &[PureFunction] = &[
    PureFunction { table: Some("crypto"), name: "sha256", arguments: 1..=1, run: digest::<Sha256> },
    PureFunction { table: Some("crypto"), name: "sha512", arguments: 1..=1, run: digest::<Sha512> },
    PureFunction { table: Some("crypto"), name: "sha1", arguments: 1..=1, run: digest::<Sha1> },
    PureFunction { table: Some("crypto"), name: "md5", arguments: 1..=1, run: digest::<Md5> },
    PureFunction { table: Some("crypto"), name: "hmac_sha256", arguments: 2..=2, run: hmac_sha256 },
    PureFunction { table: Some("crypto"), name: "crc32", arguments: 1..=1, run: crc32 },
    PureFunction { table: Some("crypto"), name: "base64_encode", arguments: 1..=1, run: base64_encode },
    PureFunction { table: Some("crypto"), name: "base64_decode", arguments: 1..=1, run: base64_decode },
    PureFunction { table: Some("crypto"), name: "hex_encode", arguments: 1..=1, run: hex_encode },
    PureFunction { table: Some("crypto"), name: "hex_decode", arguments: 1..=1, run: hex_decode },
    PureFunction { table: None, name: "uuid", arguments: 0..=0, run: uuid },
];

fn digest<D: Digest>(context: &Context, lua: &Lua, arguments: &[Value]) -> Result<Returned, Raised> {
    let bytes = expect_text(lua, "the argument", &arguments[0])?;
    let mut digest = D::new();
    in_pieces(context.budget(), &bytes, |piece| digest.update(piece))?;
    returned(lua, &hex(&digest.finalize()))
}

fn hmac_sha256(context: &Context, lua: &Lua, arguments: &[Value]) -> Result<Returned, Raised> {
    let key = expect_text(lua, "key", &arguments[0])?;
    let bytes = expect_text(lua, "the message", &arguments[1])?;
    // A key longer than a block stands for its digest; here it is made in pieces.
    let key = if key.len() > 64 {
        let mut digest = Sha256::new();
        in_pieces(context.budget(), &key, |piece| digest.update(piece))?;
        Bytes::copy_from_slice(&digest.finalize())
    } else {
        key
    };
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes keys of any length");
    in_pieces(context.budget(), &bytes, |piece| mac.update(piece))?;
    returned(lua, &hex(&mac.finalize().into_bytes()))
}

fn crc32(context: &Context, lua: &Lua, arguments: &[Value]) -> Result<Returned, Raised> {
    let bytes = expect_text(lua, "the argument", &arguments[0])?;
    let mut hasher = crc32fast::Hasher::new();
    in_pieces(context.budget(), &bytes, |piece| hasher.update(piece))?;
    Ok(Returned::Value(Value::Integer(i64::from(hasher.finalize()))))
}

fn base64_encode(context: &Context, lua: &Lua, arguments: &[Value]) -> Result<Returned, Raised> {
    let bytes = expect_text(lua, "the argument", &arguments[0])?;
    context.check_memory(bytes.len().div_ceil(3).saturating_mul(4))?;
    returned(lua, BASE64.encode(&bytes).as_bytes())
}

fn base64_decode(_: &Context, lua: &Lua, arguments: &[Value]) -> Result<Returned, Raised> {
    let text = expect_text(lua, "the argument", &arguments[0])?;
    let bytes = BASE64.decode(&text).map_err(|problem| Raised::Misuse(format!("not base64: {problem}")))?;
    returned(lua, &bytes)
}

fn hex_encode(context: &Context, lua: &Lua, arguments: &[Value]) -> Result<Returned, Raised> {
    let bytes = expect_text(lua, "the argument", &arguments[0])?;
    context.check_memory(bytes.len().saturating_mul(2))?;
    let mut text = Vec::with_capacity(bytes.len() * 2);
    in_pieces(context.budget(), &bytes, |piece| text.extend_from_slice(&hex(piece)))?;
    returned(lua, &text)
}

fn hex_decode(context: &Context, lua: &Lua, arguments: &[Value]) -> Result<Returned, Raised> {
    let text = expect_text(lua, "the argument", &arguments[0])?;
    if !text.len().is_multiple_of(2) {
        return Err(Raised::Misuse(format!("not hex: {} digits, an odd number", text.len())));
    }
    let mut bytes = Vec::with_capacity(text.len() / 2);
    let mut stray = None;
    in_pieces(context.budget(), &text, |piece| {
        for pair in piece.chunks_exact(2) {
            match (hex_value(pair[0]), hex_value(pair[1])) {
                (Some(high), Some(low)) => bytes.push(high << 4 | low),
                (high, _) => {
                    stray.get_or_insert(bytes.len() * 2 + if high.is_none() { 1 } else { 2 });
                    break;
                }
            }
        }
    })?;
    match stray {
        Some(place) => Err(Raised::Misuse(format!("not hex: byte {place} is no digit"))),
        None => returned(lua, &bytes),
    }
}

fn uuid(context: &Context, lua: &Lua, _: &[Value]) -> Result<Returned, Raised> {
    let uuid = match context.surroundings() {
        staged if staged.are_staged() => {
            let bytes = (u128::from(staged.random()) << 64 | u128::from(staged.random())).to_be_bytes();
            Builder::from_random_bytes(bytes).into_uuid()
        }
        _ => Uuid::new_v4(),
    };
    returned(lua, uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes())
}

fn returned(lua: &Lua, bytes: &[u8]) -> Result<Returned, Raised> {
    Ok(Returned::Value(string(lua, bytes)?))
}

fn hex(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]).collect()
}
