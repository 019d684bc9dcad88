//! Compare, then one of two lists of operations, as etcd's Txn.
//!
//! A put or delete inside may have a condition of its own; where that does not hold, its result says so
//! and the others still happen: what must hold for all belongs into `compare`.

use std::cmp::Ordering;

use cirrus_proto::v1::compare::{Operator, Target};
use cirrus_proto::v1::transact_operation::Operation;
use cirrus_proto::v1::transact_result::Result as OneResult;
use cirrus_proto::v1::{Compare, TransactOperation, TransactRequest, TransactResponse, TransactResult};
use cirrus_proto::{Failure, Reason};

use crate::batch::at_operation;
use crate::{Transaction, commands};

/// Fails at the first operation that fails; the caller rolls back.
pub(crate) fn transact(request: &TransactRequest, tx: &mut Transaction<'_>) -> Result<TransactResponse, Failure> {
    let mut succeeded = true;
    for (index, compare) in request.compare.iter().enumerate() {
        if !compare_holds(compare, tx).map_err(|failure| at_operation("compare", index, failure))? {
            succeeded = false;
            break;
        }
    }
    let (list, operations) = if succeeded { ("success", &request.success) } else { ("failure", &request.failure) };
    let mut read_bytes = 0;
    let mut results = Vec::with_capacity(operations.len());
    for (index, operation) in operations.iter().enumerate() {
        let result = run(operation, tx, &mut read_bytes).map_err(|failure| at_operation(list, index, failure))?;
        results.push(TransactResult { result: Some(result) });
    }
    Ok(TransactResponse { succeeded, results })
}

fn compare_holds(compare: &Compare, tx: &Transaction<'_>) -> Result<bool, Failure> {
    let found = tx.get(&compare.key)?;
    let ordering = match (&compare.target, &found) {
        (Some(Target::Version(version)), found) => found.as_ref().map_or(0, |value| value.version).cmp(version),
        (Some(Target::Value(value)), Some(found)) => found.value.cmp(value),
        (Some(Target::Value(_)), None) => return Ok(compare.operator() == Operator::NotEqual),
        (None, _) => return Err(Failure::invalid_field("target", "neither version nor value is set")),
    };
    match compare.operator() {
        Operator::Equal => Ok(ordering == Ordering::Equal),
        Operator::NotEqual => Ok(ordering != Ordering::Equal),
        Operator::Less => Ok(ordering == Ordering::Less),
        Operator::Greater => Ok(ordering == Ordering::Greater),
        Operator::Unspecified => Err(Failure::invalid_field("operator", "none is set")),
    }
}

fn run(operation: &TransactOperation, tx: &mut Transaction<'_>, read_bytes: &mut usize) -> Result<OneResult, Failure> {
    Ok(match &operation.operation {
        Some(Operation::Get(get)) => {
            let response = commands::get_response(tx.get(&get.key)?);
            // A few bytes of request could otherwise ask for gigabytes of reply.
            *read_bytes += response.value.len();
            let limit = tx.limits().call_reply_bytes;
            if *read_bytes > limit {
                return Err(Failure::too_large(Reason::ResultTooLarge, "what the gets read", *read_bytes, limit));
            }
            OneResult::Get(response)
        }
        Some(Operation::Put(put)) => OneResult::Put(commands::put(put, tx)?),
        Some(Operation::Delete(delete)) => OneResult::Delete(commands::delete(delete, tx)?.0),
        Some(Operation::Increment(increment)) => OneResult::Increment(commands::increment(increment, tx)?),
        None => return Err(Failure::invalid_field("operation", "none is set")),
    })
}
