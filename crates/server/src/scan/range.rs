//! The range of keys that a scan asks for.

use bytes::Bytes;
use cirrus_proto::limits::Limits;
use cirrus_proto::v1::ScanRequest;
use cirrus_proto::{Failure, Reason};

/// Keys from `start`, inclusive, to `end`, exclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyRange {
    pub(crate) start: Bytes,
    /// Empty: to the last key.
    pub(crate) end: Bytes,
}

impl KeyRange {
    /// The request's [start, end), narrowed to its prefix.
    pub(crate) fn of(request: &ScanRequest, limits: &Limits) -> Result<KeyRange, Failure> {
        for (field, bound) in [("start", &request.start), ("end", &request.end), ("prefix", &request.prefix)] {
            // The successor of the longest key, where a scan goes on after it, is one byte longer.
            if bound.len() > limits.key_bytes + 1 {
                return Err(Failure::too_large(Reason::KeyTooLarge, field, bound.len(), limits.key_bytes + 1));
            }
        }
        let start = request.start.clone().max(request.prefix.clone());
        let end = match (request.end.is_empty(), prefix_successor(&request.prefix)) {
            (true, successor) => successor.unwrap_or_default(),
            (false, None) => request.end.clone(),
            (false, Some(successor)) => request.end.clone().min(successor),
        };
        Ok(KeyRange { start, end })
    }

    /// Whether no key can be in it.
    pub(crate) fn is_empty(&self) -> bool {
        !self.end.is_empty() && self.start >= self.end
    }
}

/// The first key after all that begin with `prefix`. None where there is no such key: the prefix is empty, or
/// all its bytes are 0xFF.
pub(crate) fn prefix_successor(prefix: &[u8]) -> Option<Bytes> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut successor = prefix[..=last].to_vec();
    successor[last] += 1;
    Some(Bytes::from(successor))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn range(start: &'static str, end: &'static str, prefix: &'static str) -> KeyRange {
        let request = ScanRequest { start: start.into(), end: end.into(), prefix: prefix.into(), ..Default::default() };
        KeyRange::of(&request, &Limits::DEFAULT).unwrap()
    }

    #[test]
    fn a_prefix_narrows_the_range() {
        let cases = [
            (("", "", ""), ("", "")),
            (("b", "d", ""), ("b", "d")),
            (("", "", "user:"), ("user:", "user;")),
            (("user:5", "", "user:"), ("user:5", "user;")),
            (("a", "z", "user:"), ("user:", "user;")),
            (("", "user:7", "user:"), ("user:", "user:7")),
        ];
        for ((start, end, prefix), (first, last)) in cases {
            let expected = KeyRange { start: first.into(), end: last.into() };
            assert_eq!(range(start, end, prefix), expected, "{start:?} {end:?} {prefix:?}");
        }
    }

    #[test]
    fn a_range_that_misses_its_prefix_is_empty() {
        assert!(range("v", "", "user:").is_empty());
        assert!(range("", "a", "user:").is_empty());
        assert!(range("b", "b", "").is_empty());
        assert!(!range("b", "", "").is_empty());
    }

    #[test]
    fn a_prefix_of_the_last_byte_has_no_successor() {
        assert_eq!(prefix_successor(b""), None);
        assert_eq!(prefix_successor(b"\xff\xff"), None);
        assert_eq!(prefix_successor(b"a\xff").unwrap(), "b");
        assert_eq!(prefix_successor(b"a").unwrap(), "b");
    }

    #[test]
    fn a_bound_beyond_any_key_is_refused_by_name() {
        let request = ScanRequest { end: vec![b'k'; Limits::DEFAULT.key_bytes + 2].into(), ..Default::default() };
        let failure = KeyRange::of(&request, &Limits::DEFAULT).unwrap_err();
        assert_eq!((failure.reason, &*failure.metadata["field"]), (Reason::KeyTooLarge, "end"));
    }

    proptest! {
        #[test]
        fn the_range_of_a_prefix_holds_exactly_the_keys_that_begin_with_it(
            prefix in prop::collection::vec(250u8.., 0..4),
            key in prop::collection::vec(250u8.., 0..6),
        ) {
            let request = ScanRequest { prefix: prefix.clone().into(), ..Default::default() };
            let range = KeyRange::of(&request, &Limits::DEFAULT).unwrap();
            let inside = key[..] >= range.start[..] && (range.end.is_empty() || key[..] < range.end[..]);
            prop_assert_eq!(inside, key.starts_with(&prefix));
        }
    }
}
