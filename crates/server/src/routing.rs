//! From a command to the one shard that all its keys and databases are in.

use bytes::Bytes;
use cirrus_proto::internal::v1::Command;
use cirrus_proto::limits::Limits;
use cirrus_proto::routing::key_of_user;
use cirrus_proto::{Failure, Reason};

/// The shard of a command's keys and databases. `shard_of` maps one key.
///
/// Fails with CROSS_SHARD where two of them are in different shards, and with INVALID_FIELD where there is none.
pub(crate) fn shard_of_command(
    command: &Command,
    shard_of: impl Fn(&[u8]) -> Result<u32, Failure>,
) -> Result<u32, Failure> {
    let mut keys = cirrus_engine::keys(command);
    let mut databases = cirrus_engine::databases(command);
    // Of most commands one key is all: no other is made for a database.
    let (first, is_user) = match keys.next() {
        Some(key) => (key, false),
        None => match databases.next() {
            Some(database) => (&database.user, true),
            None => return Err(Failure::invalid_field("operations", "must name a key")),
        },
    };
    let shard_of_user = |user: &Bytes| shard_of(&key_of_user(user));
    let shard_id = if is_user { shard_of_user(first)? } else { shard_of(first)? };
    let other_keys = keys.map(|key| (key, false)).chain(databases.map(|database| (&database.user, true)));
    for (other, other_is_user) in other_keys {
        let other_id = if other_is_user { shard_of_user(other)? } else { shard_of(other)? };
        if other_id != shard_id {
            return Err(cross_shard((named(first, is_user), shard_id), (named(other, other_is_user), other_id)));
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

/// The key itself, or the user's hash tag.
fn named(key_or_user: &[u8], is_user: bool) -> String {
    match is_user {
        true => key_of_user(key_or_user).escape_ascii().to_string(),
        false => key_or_user.escape_ascii().to_string(),
    }
}

fn cross_shard((first_key, first_id): (String, u32), (other_key, other_id): (String, u32)) -> Failure {
    let message = format!(
        "keys \"{first_key}\" (shard {}) and \"{other_key}\" (shard {}) are in different shards; keys of one \
         atomic request need a common hash tag: the same text in braces, as in \"{{user1}}.name\" and \"{{user1}}.mail\"",
        first_id, other_id
    );
    Failure::new(Reason::CrossShard, message)
        .with("key", first_key)
        .with("other_key", other_key)
        .with("shard", first_id)
        .with("other_shard", other_id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use cirrus_proto::internal::v1::SqlExecute;
    use cirrus_proto::internal::v1::command::Kind;
    use cirrus_proto::routing::shard_of_key;
    use cirrus_proto::v1::{
        BatchRequest, Compare, GetRequest, PutRequest, SqlDatabase, SqlExecuteRequest, TransactOperation,
        TransactRequest, WriteOperation, transact_operation, write_operation,
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

    fn execute(user: &'static str) -> SqlExecuteRequest {
        let database =
            SqlDatabase { user: Bytes::from_static(user.as_bytes()), dbname: "d".to_owned(), ..SqlDatabase::default() };
        SqlExecuteRequest { database: Some(database), ..SqlExecuteRequest::default() }
    }

    fn mixed(users: &[&'static str], keys: &[&'static str]) -> Kind {
        let Kind::Batch(mut batch) = batch(keys) else { unreachable!("a batch") };
        let sql =
            |user: &&'static str| WriteOperation { operation: Some(write_operation::Operation::Sql(execute(user))) };
        batch.operations.extend(users.iter().map(sql));
        Kind::Batch(batch)
    }

    #[test]
    fn databases_lie_where_their_users_keys_lie() {
        for kind in [
            Kind::SqlExecute(SqlExecute { request: Some(execute("u1")), ..SqlExecute::default() }),
            mixed(&["u1"], &[]),
            mixed(&["u1", "u1"], &["{u1}.a", "u1"]),
        ] {
            assert_eq!(shard(kind).unwrap(), shard_of_key(b"u1", 8));
        }
        // In these braces stands another tag.
        assert_eq!(shard(mixed(&["a}b"], &["{a}"])).unwrap(), shard_of_key(b"a", 8));
        for (users, keys, named) in
            [(&["foo", "bar"][..], &[][..], ("{foo}", "{bar}")), (&["bar"][..], &["foo"][..], ("foo", "{bar}"))]
        {
            let failure = shard(mixed(users, keys)).unwrap_err();
            assert_eq!(failure.reason, Reason::CrossShard);
            assert_eq!((&*failure.metadata["key"], &*failure.metadata["other_key"]), named);
        }
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
