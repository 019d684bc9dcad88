//! The keys of `TABLE_SESSIONS`; the table in [`super`] shows them.

use bytes::{BufMut, Bytes, BytesMut};
use cirrus_proto::Failure;

const SESSION: u8 = 1;
const REPLY: u8 = 2;
const IDLE: u8 = 3;

const MINUTE_MS: u64 = 60_000;

/// The minute of a time, so that a busy session moves its idle index entry once a minute and not with every request.
pub(super) fn minute(time_ms: u64) -> u64 {
    time_ms / MINUTE_MS
}

pub(super) fn session_key(client_id: &[u8]) -> Bytes {
    client_key(SESSION, client_id, 0).freeze()
}

/// The client's replies lie side by side, in order of their sequences: the id's length comes before it.
pub(super) fn reply_key(client_id: &[u8], sequence: u64) -> Bytes {
    let mut key = client_key(REPLY, client_id, 8);
    key.put_u64(sequence);
    key.freeze()
}

pub(super) fn idle_key(minute: u64, client_id: &[u8]) -> Bytes {
    let mut key = BytesMut::with_capacity(9 + client_id.len());
    key.put_u8(IDLE);
    key.put_u64(minute);
    key.put_slice(client_id);
    key.freeze()
}

/// The minute and the client id of an idle index entry.
pub(super) fn decode_idle_key(key: &[u8]) -> Result<(u64, &[u8]), Failure> {
    match key.split_first_chunk::<9>() {
        Some(([IDLE, minute @ ..], client_id)) => Ok((u64::from_be_bytes(*minute), client_id)),
        _ => Err(Failure::internal(format!("a session idle key of {} bytes does not decode", key.len()))),
    }
}

fn client_key(kind: u8, client_id: &[u8], more_bytes: usize) -> BytesMut {
    let mut key = BytesMut::with_capacity(2 + client_id.len() + more_bytes);
    key.put_u8(kind);
    // Client ids are at most 64 bytes: checked before anything is looked up.
    key.put_u8(client_id.len() as u8);
    key.put_slice(client_id);
    key
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn client() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 1..=64)
    }

    proptest! {
        #[test]
        fn idle_keys_survive_their_encoding_and_sort_by_minute(
            first: u64, second: u64, client in client(), other in client(),
        ) {
            let key = idle_key(first, &client);
            prop_assert_eq!(decode_idle_key(&key).unwrap(), (first, &client[..]));
            prop_assert_eq!(key.cmp(&idle_key(second, &other)), (first, &client).cmp(&(second, &other)));
        }

        #[test]
        fn replies_of_a_client_sort_by_sequence_and_no_two_ids_share_a_key(
            first: u64, second: u64, client in client(), other in client(),
        ) {
            prop_assert_eq!(reply_key(&client, first).cmp(&reply_key(&client, second)), first.cmp(&second));
            prop_assert_eq!(reply_key(&client, first) == reply_key(&other, second), (&client, first) == (&other, second));
            prop_assert_eq!(session_key(&client) == session_key(&other), client == other);
        }
    }

    #[test]
    fn other_keys_are_no_idle_keys() {
        assert!(decode_idle_key(&session_key(b"client")).is_err());
        assert!(decode_idle_key(&[IDLE, 0]).is_err());
    }
}
