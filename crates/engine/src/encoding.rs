//! How values and the expiry index look in a shard's tables.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | data | the key | `StoredValue` {version, expires_at_ms, flags, value} |
//! | expiry | expires_at_ms, 8 bytes big-endian, then the key | empty |
//!
//! Big-endian, so that byte order is time order and the sweep reads the index from its start.

use bytes::{BufMut, Bytes, BytesMut};
use cirrus_proto::Failure;
use cirrus_proto::internal::v1::StoredValue;
use prost::Message;

use crate::Value;

/// Copies the value once, into the buffer that travels from here to the log and the state.
pub(crate) fn encode_value(value: Value) -> Bytes {
    let Value { value, version, expires_at_ms, flags } = value;
    StoredValue { version, expires_at_ms, flags, value }.encode_to_vec().into()
}

/// Copies nothing where `stored` is [`Bytes`]: the value is a slice of it.
pub(crate) fn decode_value(stored: impl bytes::Buf) -> Result<Value, Failure> {
    let StoredValue { version, expires_at_ms, flags, value } =
        StoredValue::decode(stored).map_err(|error| Failure::internal(format!("a stored value: {error}")))?;
    Ok(Value { value, version, expires_at_ms, flags })
}

/// A `StoredValue` without its value: decoding it skips the value's bytes instead of copying them.
#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct ValueHeader {
    #[prost(uint64, tag = "1")]
    pub(crate) version: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) expires_at_ms: u64,
    #[prost(uint32, tag = "3")]
    pub(crate) flags: u32,
}

pub(crate) fn decode_header(stored: &[u8]) -> Result<ValueHeader, Failure> {
    ValueHeader::decode(stored).map_err(|error| Failure::internal(format!("a stored value's header: {error}")))
}

/// Whether a value with this expiry (0: never) is gone at `now_ms`.
pub(crate) fn is_expired(expires_at_ms: u64, now_ms: u64) -> bool {
    expires_at_ms != 0 && expires_at_ms <= now_ms
}

pub(crate) fn expiry_key(expires_at_ms: u64, key: &[u8]) -> Bytes {
    let mut encoded = BytesMut::with_capacity(8 + key.len());
    encoded.put_u64(expires_at_ms);
    encoded.put_slice(key);
    encoded.freeze()
}

/// The expiry and the key of an index entry.
pub(crate) fn decode_expiry_key(encoded: &[u8]) -> Result<(u64, &[u8]), Failure> {
    match encoded.split_first_chunk::<8>() {
        Some((expires_at_ms, key)) => Ok((u64::from_be_bytes(*expires_at_ms), key)),
        None => Err(Failure::internal(format!("an expiry index key of {} bytes, below 8", encoded.len()))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn values_survive_their_encoding(
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
            version: u64,
            expires_at_ms: u64,
            flags: u32,
        ) {
            let value = Value { value: bytes.into(), version, expires_at_ms, flags };
            let encoded = encode_value(value.clone());
            prop_assert_eq!(decode_header(&encoded).unwrap(), ValueHeader { version, expires_at_ms, flags });
            prop_assert_eq!(decode_value(encoded).unwrap(), value);
        }

        #[test]
        fn expiry_keys_survive_their_encoding_and_sort_by_time_then_key(
            first: (u64, Vec<u8>),
            second: (u64, Vec<u8>),
        ) {
            let encoded = expiry_key(first.0, &first.1);
            prop_assert_eq!(decode_expiry_key(&encoded).unwrap(), (first.0, &first.1[..]));
            prop_assert_eq!(encoded.cmp(&expiry_key(second.0, &second.1)), first.cmp(&second));
        }
    }

    #[test]
    fn a_decoded_value_shares_the_stored_buffer() {
        let value = Value { value: Bytes::from_static(b"shared"), version: 1, expires_at_ms: 0, flags: 0 };
        let encoded = encode_value(value);
        let decoded = decode_value(encoded.clone()).unwrap();
        assert!(encoded.as_ptr_range().contains(&decoded.value.as_ptr()));
    }

    #[test]
    fn garbage_is_a_failure_and_no_panic() {
        assert!(decode_value(&[0xff, 0xff][..]).is_err());
        assert!(decode_header(&[0xff, 0xff]).is_err());
        assert!(decode_expiry_key(b"short").is_err());
    }
}
