//! Numbers as procedures and memcached write them.

/// A signed 64-bit number in decimal text: an optional sign and digits, with white space around it, as
/// Lua's `tonumber` (C's `isspace`) reads it and memcached's `decr` pads it. Fractions, exponents,
/// hexadecimal, empty text and numbers out of range give `None`: an increment of those would not be exact.
///
/// Source: Lua 5.1 reference manual, `tonumber`; memcached `doc/protocol.txt`, "incr/decr".
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    let first = text.iter().position(|byte| !is_space(byte))?;
    let last = text.iter().rposition(|byte| !is_space(byte))?;
    let (negative, digits) = match &text[first..=last] {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0i64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| i64::from(byte - b'0'))?;
        // Downwards for negative numbers: the lowest i64 has no positive counterpart.
        let shifted = number.checked_mul(10)?;
        if negative { shifted.checked_sub(digit) } else { shifted.checked_add(digit) }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn integers_are_read_as_lua_and_memcached_write_them() {
        let cases: &[(&[u8], Option<i64>)] = &[
            (b"0", Some(0)),
            (b"5", Some(5)),
            (b"+5", Some(5)),
            (b"-5", Some(-5)),
            (b"-0", Some(0)),
            (b"007", Some(7)),
            (b"00000000000000000000000000000001", Some(1)),
            (b" \t\n\x0b\x0c\r42 \t\n\x0b\x0c\r", Some(42)),
            (b"99 ", Some(99)),
            (b"9223372036854775807", Some(i64::MAX)),
            (b"-9223372036854775808", Some(i64::MIN)),
            (b"9223372036854775808", None),
            (b"-9223372036854775809", None),
            (b"18446744073709551615", None),
            (b"", None),
            (b" ", None),
            (b"+", None),
            (b"-", None),
            (b"--5", None),
            (b"+-5", None),
            (b"- 5", None),
            (b"5 5", None),
            (b"1.5", None),
            (b"1.0", None),
            (b"1e3", None),
            (b"0x10", None),
            (b"1_000", None),
            (b"five", None),
            (b"5\0", None),
            ("٥".as_bytes(), None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_integer(text), *expected, "{:?}", String::from_utf8_lossy(text));
        }
    }

    proptest! {
        #[test]
        fn every_number_reads_back_from_its_text(number: i64, padding in "[ \t\n]{0,3}") {
            prop_assert_eq!(parse_integer(format!("{padding}{number}{padding}").as_bytes()), Some(number));
        }

        #[test]
        fn any_bytes_are_read_as_rust_reads_them_or_refused(text in "[-+0-9 .x]{0,22}") {
            let expected = text.trim_matches(' ').parse::<i64>().ok();
            prop_assert_eq!(parse_integer(text.as_bytes()), expected);
        }
    }
}
