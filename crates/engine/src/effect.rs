//! Making and reading effects: one put or delete in one table.

use bytes::Bytes;
use cirrus_proto::internal::v1::effect::Change;
use cirrus_proto::internal::v1::{Effect, Table};

/// Stores a value under a key.
pub fn put(table: Table, key: Bytes, value: Bytes) -> Effect {
    Effect { table: table.into(), key, change: Some(Change::Put(value)) }
}

/// Removes a key.
pub fn delete(table: Table, key: Bytes) -> Effect {
    Effect { table: table.into(), key, change: Some(Change::Delete(true)) }
}

/// What the key holds once the effect is applied; `None` where it holds nothing.
pub fn value_after(effect: &Effect) -> Option<&Bytes> {
    match &effect.change {
        Some(Change::Put(value)) => Some(value),
        Some(Change::Delete(_)) | None => None,
    }
}
