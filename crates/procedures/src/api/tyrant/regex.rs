//! `_regex`: POSIX extended regular expressions, on bytes, in linear time.
//!
//! They are translated for the crate `regex`. Of several matches at one place it takes the first alternative's, where
//! POSIX takes the longest; back references in a pattern are refused. A pattern's size is held to what its text can
//! be searched with in about a second at worst, since a search cannot be interrupted.

use bytes::Bytes;
use mlua::{Lua, Value};
use regex::bytes::{Captures, Regex, RegexBuilder};

use super::output::Output;
use crate::api::{Access, Answer, Operation, Raised, check_budget, expect_text, one, string};

pub(super) const OPERATIONS: &[Operation] = &[Operation::global("_regex", 2..=3, regex)];

/// Longest pattern, bytes.
const PATTERN_BYTES_MAX: usize = 4096;

/// How large a compiled pattern may be for a text of up to so many bytes. Longer texts are refused.
const SIZES: [(usize, usize); 3] = [(4 * 1024, 256 * 1024), (64 * 1024, 64 * 1024), (1024 * 1024, 16 * 1024)];

/// A compiled pattern.
pub(crate) struct Pattern {
    source: Bytes,
    /// Longest text that it may search.
    text_bytes_max: usize,
    regex: Regex,
}

/// `_regex(text, pattern)`: whether the pattern matches anywhere. `_regex(text, pattern, replacement)`: the text with
/// each match replaced; in the replacement `&` stands for the match, `\1` to `\9` for its groups. A pattern that
/// begins with `*` ignores the case of letters. One that is invalid is an error; Tokyo Tyrant finds nothing then.
fn regex(access: &mut Access<'_, '_>, lua: &Lua, arguments: &[Value]) -> Answer {
    let text = expect_text(lua, "text", &arguments[0])?;
    let source = expect_text(lua, "pattern", &arguments[1])?;
    let regex = compiled(access, &source, text.len())?;
    let Some(replacement) = arguments.get(2).filter(|value| !value.is_nil()) else {
        return one(Value::Boolean(regex.is_match(&text)));
    };
    let replacement = expect_text(lua, "replacement", replacement)?;
    let mut out = Output::new(access);
    let mut from = 0;
    let is_empty = source.strip_prefix(b"*").unwrap_or(&source).is_empty();
    while from < text.len() && !is_empty {
        check_budget(access.budget)?;
        let Some(captures) = regex.captures_at(&text, from) else { break };
        let found = captures.get_match();
        out.extend(&text[from..found.start()])?;
        replace(&captures, &replacement, &mut out)?;
        // As in Tokyo Cabinet, a match of nothing right here is the last one.
        let is_stuck = found.end() == from;
        from = found.end();
        if is_stuck {
            break;
        }
    }
    out.extend(&text[from..])?;
    one(string(lua, out.bytes())?)
}

fn replace(captures: &Captures<'_>, replacement: &[u8], out: &mut Output<'_>) -> Result<(), Raised> {
    let mut rest = replacement;
    loop {
        rest = match rest {
            [] => return Ok(()),
            [b'\\', digit @ b'0'..=b'9', rest @ ..] => {
                if let Some(group) = captures.get(usize::from(digit - b'0')) {
                    out.extend(group.as_bytes())?;
                }
                rest
            }
            [b'\\', byte, rest @ ..] => {
                out.push(*byte)?;
                rest
            }
            [b'\\'] => return Ok(()),
            [b'&', rest @ ..] => {
                out.extend(captures.get_match().as_bytes())?;
                rest
            }
            [byte, rest @ ..] => {
                out.push(*byte)?;
                rest
            }
        };
    }
}

/// The pattern for a text of that length. The latest one is kept: scripts search many texts for one.
pub(super) fn compiled(access: &mut Access<'_, '_>, source: &Bytes, text_bytes: usize) -> Result<Regex, Raised> {
    if let Some(pattern) = &access.pattern
        && pattern.source == source
        && text_bytes <= pattern.text_bytes_max
    {
        return Ok(pattern.regex.clone());
    }
    let Some((text_bytes_max, size_max)) = SIZES.into_iter().find(|(most, _)| text_bytes <= *most) else {
        return Err(Raised::Misuse(format!("a text of {text_bytes} bytes is too long to be searched")));
    };
    if source.len() > PATTERN_BYTES_MAX {
        let problem = format!("a pattern of {} bytes is longer than {PATTERN_BYTES_MAX}", source.len());
        return Err(Raised::Misuse(problem));
    }
    let (posix, ignores_case) = match source.strip_prefix(b"*") {
        Some(rest) => (rest, true),
        None => (&**source, false),
    };
    let compiled = RegexBuilder::new(&translated(posix)?)
        .unicode(false)
        .dot_matches_new_line(true)
        .case_insensitive(ignores_case)
        .size_limit(size_max)
        .dfa_size_limit(size_max)
        .build();
    let regex = match compiled {
        Ok(regex) => regex,
        Err(regex::Error::CompiledTooBig(_)) => {
            return Err(Raised::Misuse(format!("the pattern is too large for a text of {text_bytes} bytes")));
        }
        Err(error) => {
            // The last line says what is wrong; those above draw the translation.
            let text = error.to_string();
            let problem = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            return Err(Raised::Misuse(format!("the pattern is invalid: {problem}")));
        }
    };
    access.pattern = Some(Pattern { source: source.clone(), text_bytes_max, regex: regex.clone() });
    Ok(regex)
}

/// A POSIX extended expression in the syntax of the crate.
fn translated(mut posix: &[u8]) -> Result<String, Raised> {
    let mut out = String::new();
    loop {
        posix = match posix {
            [] => return Ok(out),
            [b'\\', b'1'..=b'9', ..] => {
                return Err(Raised::Misuse("a pattern cannot refer back to a group".to_owned()));
            }
            [b'\\', byte, rest @ ..] => {
                // These mean the same to GNU's library, and another letter means itself.
                if b"wWsSbB<>".contains(byte) {
                    out.push('\\');
                    out.push(char::from(*byte));
                } else {
                    literal(&mut out, *byte);
                }
                rest
            }
            [b'(', b'?', ..] => return Err(Raised::Misuse("the pattern is invalid: ( is followed by ?".to_owned())),
            [b'[', rest @ ..] => set(&mut out, rest)?,
            [
                byte @ (b'.' | b'*' | b'+' | b'?' | b'{' | b'}' | b'(' | b')' | b'|' | b'^' | b'$' | b'\\' | b','),
                rest @ ..,
            ] => {
                out.push(char::from(*byte));
                rest
            }
            [byte, rest @ ..] => {
                literal(&mut out, *byte);
                rest
            }
        };
    }
}

/// Translates a set whose `[` was read, and answers what follows it. In one, a backslash is a character.
fn set<'a>(out: &mut String, mut posix: &'a [u8]) -> Result<&'a [u8], Raised> {
    out.push('[');
    if let Some(rest) = posix.strip_prefix(b"^") {
        out.push('^');
        posix = rest;
    }
    let mut is_first = true;
    loop {
        posix = match posix {
            [] => return Err(Raised::Misuse("the pattern is invalid: a set is not closed".to_owned())),
            [b']', rest @ ..] if !is_first => {
                out.push(']');
                return Ok(rest);
            }
            [b'[', b':', rest @ ..] => {
                let length = rest.iter().take_while(|byte| byte.is_ascii_lowercase()).count();
                let (name, rest) = rest.split_at(length);
                let Some(rest) = rest.strip_prefix(b":]") else {
                    return Err(Raised::Misuse("the pattern is invalid: a class has no end".to_owned()));
                };
                out.push_str(&format!("[:{}:]", String::from_utf8_lossy(name)));
                rest
            }
            [b'[', kind @ (b'.' | b'='), byte, end, b']', rest @ ..] if kind == end => {
                literal(out, *byte);
                rest
            }
            [b'-', rest @ ..] if !is_first && rest.first() != Some(&b']') => {
                out.push('-');
                rest
            }
            [byte, rest @ ..] => {
                literal(out, *byte);
                rest
            }
        };
        is_first = false;
    }
}

fn literal(out: &mut String, byte: u8) {
    if byte.is_ascii_alphanumeric() {
        out.push(char::from(byte));
    } else {
        out.push_str(&format!("\\x{byte:02x}"));
    }
}
