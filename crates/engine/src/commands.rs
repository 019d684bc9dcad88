//! The commands on one key.

use cirrus_proto::v1::write_condition::Kind;
use cirrus_proto::v1::{
    DeleteRequest, DeleteResponse, GetResponse, IncrementRequest, IncrementResponse, PutRequest, PutResponse,
    WriteCondition,
};
use cirrus_proto::{Failure, Reason};

use crate::{Transaction, Value, parse_integer};

/// Whether a key's condition lets the write happen, where `version` was found (0: no value).
fn holds(condition: Option<&WriteCondition>, version: u64) -> bool {
    match condition.and_then(|condition| condition.kind.as_ref()) {
        None => true,
        Some(Kind::IfAbsent(_)) => version == 0,
        // 0 stands for "no value" here as in `PutResponse.version`, so that a compare-and-swap loop can
        // start from a key that it did not find.
        Some(Kind::IfVersion(expected)) => version == *expected,
        Some(Kind::IfPresent(_)) => version != 0,
    }
}

pub(crate) fn put(request: &PutRequest, tx: &mut Transaction<'_>) -> Result<PutResponse, Failure> {
    let expires_at_ms = tx.expiry_after(request.ttl_ms);
    let (key, value) = (request.key.clone(), request.value.clone());
    if request.condition.is_none() {
        let version = tx.put(key, value, expires_at_ms, request.flags)?;
        return Ok(PutResponse { applied: true, version });
    }
    let stored = tx.stored(&key)?;
    let found = live_version(stored.as_ref(), tx);
    if !holds(request.condition.as_ref(), found) {
        return Ok(PutResponse { applied: false, version: found });
    }
    let version = tx.put_over(stored.as_ref(), key, value, expires_at_ms, request.flags)?;
    Ok(PutResponse { applied: true, version })
}

/// The response, and whether the condition held: a key that was not there makes no difference to it.
pub(crate) fn delete(request: &DeleteRequest, tx: &mut Transaction<'_>) -> Result<(DeleteResponse, bool), Failure> {
    let found = tx.get(&request.key)?;
    let version = found.as_ref().map_or(0, |value| value.version);
    let held = holds(request.condition.as_ref(), version);
    let deleted = match &found {
        Some(value) if held => {
            tx.remove_value(request.key.clone(), value)?;
            true
        }
        _ => false,
    };
    Ok((DeleteResponse { deleted, version }, held))
}

pub(crate) fn increment(request: &IncrementRequest, tx: &mut Transaction<'_>) -> Result<IncrementResponse, Failure> {
    let stored = tx.stored(&request.key)?;
    let live = stored.as_ref().filter(|value| tx.is_live(value));
    let (number, expires_at_ms, flags) = match live {
        None => (0, tx.expiry_after(request.ttl_ms), 0),
        Some(live) => {
            let number = parse_integer(&live.value).ok_or_else(not_a_number)?;
            (number, live.expires_at_ms, live.flags)
        }
    };
    let sum = number.checked_add(request.delta).ok_or_else(|| {
        Failure::new(
            Reason::IntegerOverflow,
            format!("{number} plus {} does not fit in a signed 64-bit number", request.delta),
        )
    })?;
    let text = sum.to_string().into();
    let version = tx.put_over(stored.as_ref(), request.key.clone(), text, expires_at_ms, flags)?;
    Ok(IncrementResponse { value: sum, version })
}

pub(crate) fn get_response(value: Option<Value>) -> GetResponse {
    match value {
        None => GetResponse::default(),
        Some(Value { value, version, expires_at_ms, flags }) => {
            GetResponse { found: true, value, version, expires_at_ms, flags }
        }
    }
}

fn live_version(stored: Option<&Value>, tx: &Transaction<'_>) -> u64 {
    stored.filter(|value| tx.is_live(value)).map_or(0, |value| value.version)
}

/// Without the value itself: it may be long or secret, and the client can read it.
fn not_a_number() -> Failure {
    Failure::new(Reason::NotANumber, "the value is not a decimal signed 64-bit number")
}
