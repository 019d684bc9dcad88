//! From a command to the one shard that all its keys are in.

use bytes::Bytes;
use cirrus_proto::internal::v1::Command;
use cirrus_proto::limits::Limits;
use cirrus_proto::{Failure, Reason};

/// The shard of a command's keys. `shard_of` maps one key.
///
/// Fails with CROSS_SHARD where two keys are in different shards, and with INVALID_FIELD where there is no key.
pub(crate) fn shard_of_command(
    command: &Command,
    shard_of: impl Fn(&[u8]) -> Result<u32, Failure>,
) -> Result<u32, Failure> {
    let mut keys = cirrus_engine::keys(command);
    let Some(first_key) = keys.next() else {
        return Err(Failure::invalid_field("operations", "must name a key"));
    };
    let shard_id = shard_of(first_key)?;
    for key in keys {
        let other_id = shard_of(key)?;
        if other_id != shard_id {
            return Err(cross_shard((first_key, shard_id), (key, other_id)));
        }
    }
    Ok(shard_id)
}

/// What [`cirrus_engine::validate`] checks of a command's key, for reads.
pub(crate) fn check_key(key: &Bytes, limits: &Limits) -> Result<(), Failure> {
    if key.is_empty() {
        return Err(Failure::new(Reason::KeyEmpty, "key is empty").with("field", "key"));
    }
    if key.len() > limits.key_bytes {
        return Err(Failure::too_large(Reason::KeyTooLarge, "key", key.len(), limits.key_bytes));
    }
    Ok(())
}

fn cross_shard(first: (&Bytes, u32), other: (&Bytes, u32)) -> Failure {
    let (first_key, other_key) = (first.0.escape_ascii(), other.0.escape_ascii());
    let message = format!(
        "keys \"{first_key}\" (shard {}) and \"{other_key}\" (shard {}) are in different shards; keys of one \
         atomic request need a common hash tag: the same text in braces, as in \"{{user1}}.name\" and \"{{user1}}.mail\"",
        first.1, other.1
    );
    Failure::new(Reason::CrossShard, message)
        .with("key", first_key)
        .with("other_key", other_key)
        .with("shard", first.1)
        .with("other_shard", other.1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use cirrus_proto::internal::v1::command::Kind;
    use cirrus_proto::routing::shard_of_key;
    use cirrus_proto::v1::{
        BatchRequest, Compare, GetRequest, PutRequest, TransactOperation, TransactRequest, WriteOperation,
        transact_operation, write_operation,
    };

    use super::*;

    fn shard(kind: Kind) -> Result<u32, Failure> {
        shard_of_command(&Command { kind: Some(kind) }, |key| Ok(shard_of_key(key, 8)))
    }

    fn batch(keys: &[&'static str]) -> Kind {
        let operation = |key: &&'static str| {
            let put = PutRequest { key: Bytes::from_static(key.as_bytes()), ..PutRequest::default() };
            WriteOperation { operation: Some(write_operation::Operation::Put(put)) }
        };
        Kind::Batch(BatchRequest { operations: keys.iter().map(operation).collect(), request_id: None })
    }

    #[test]
    fn a_tagged_batch_goes_to_the_shard_of_its_tag() {
        assert_eq!(shard(batch(&["{u1}.a", "{u1}.b", "u1"])).unwrap(), shard_of_key(b"u1", 8));
    }

    #[test]
    fn keys_of_two_shards_are_refused_with_both_named() {
        let failure = shard(batch(&["foo", "bar"])).unwrap_err();
        assert_eq!(failure.reason, Reason::CrossShard);
        assert_eq!((&*failure.metadata["key"], &*failure.metadata["other_key"]), ("foo", "bar"));
        assert!(failure.message.contains("hash tag"), "{}", failure.message);
    }

    #[test]
    fn a_transaction_compares_and_writes_in_one_shard() {
        let get = GetRequest { key: Bytes::from_static(b"bar"), ..GetRequest::default() };
        let transact = |compared: &'static [u8]| {
            Kind::Transact(TransactRequest {
                compare: vec![Compare { key: Bytes::from_static(compared), ..Compare::default() }],
                failure: vec![TransactOperation { operation: Some(transact_operation::Operation::Get(get.clone())) }],
                ..TransactRequest::default()
            })
        };
        assert_eq!(shard(transact(b"{bar}1")).unwrap(), shard_of_key(b"bar", 8));
        assert_eq!(shard(transact(b"foo")).unwrap_err().reason, Reason::CrossShard);
    }

    #[test]
    fn a_request_without_keys_goes_nowhere() {
        for empty in [batch(&[]), Kind::Transact(TransactRequest::default())] {
            assert_eq!(shard(empty).unwrap_err().reason, Reason::InvalidField);
        }
    }

    #[test]
    fn a_read_needs_a_key_within_the_limit() {
        let limits = Limits::DEFAULT;
        assert_eq!(check_key(&Bytes::new(), &limits).unwrap_err().reason, Reason::KeyEmpty);
        let long = Bytes::from(vec![b'k'; limits.key_bytes + 1]);
        assert_eq!(check_key(&long, &limits).unwrap_err().reason, Reason::KeyTooLarge);
        assert!(check_key(&long.slice(1..), &limits).is_ok());
    }
}
