//! The sizes that keys and values may have.

use cirrus_proto::limits::Limits;
use cirrus_proto::{Failure, Reason};

pub(crate) fn check_key(key: &[u8], limits: &Limits) -> Result<(), Failure> {
    if key.is_empty() {
        return Err(Failure::new(Reason::KeyEmpty, "key is empty").with("field", "key"));
    }
    if key.len() > limits.key_bytes {
        return Err(Failure::too_large(Reason::KeyTooLarge, "key", key.len(), limits.key_bytes));
    }
    Ok(())
}

pub(crate) fn check_value(value: &[u8], limits: &Limits) -> Result<(), Failure> {
    if value.len() > limits.value_bytes {
        return Err(Failure::too_large(Reason::ValueTooLarge, "value", value.len(), limits.value_bytes));
    }
    Ok(())
}

pub(crate) fn check_write_set(bytes: usize, limits: &Limits) -> Result<(), Failure> {
    if bytes > limits.write_set_bytes {
        return Err(Failure::too_large(Reason::WriteSetTooLarge, "write set", bytes, limits.write_set_bytes));
    }
    Ok(())
}
