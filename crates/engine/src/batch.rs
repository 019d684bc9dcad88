//! Several writes, all or none.

use cirrus_proto::v1::write_operation::Operation;
use cirrus_proto::v1::{BatchRequest, BatchResponse, SqlExecuteRequest, SqlExecuteResponse, WriteResult, write_result};
use cirrus_proto::{Failure, Reason};

use crate::{Transaction, commands};

/// Runs an operation of SQL, which the engine does not know.
pub type RunSql<'a> = dyn FnMut(&SqlExecuteRequest, &mut Transaction<'_>) -> Result<SqlExecuteResponse, Failure> + 'a;

/// Whether a batch has an operation of SQL, which [`evaluate`](crate::evaluate) leaves to [`evaluate_batch`].
pub fn has_sql(request: &BatchRequest) -> bool {
    request.operations.iter().any(|operation| matches!(operation.operation, Some(Operation::Sql(_))))
}

/// Runs the operations of a batch in order, those of SQL by `sql`. Fails at the first operation that fails or whose
/// condition does not hold, and has then written some of it: discard the transaction, or roll it back.
pub fn evaluate_batch(
    request: &BatchRequest,
    tx: &mut Transaction<'_>,
    sql: &mut RunSql<'_>,
) -> Result<BatchResponse, Failure> {
    let mut results = Vec::with_capacity(request.operations.len());
    for (index, operation) in request.operations.iter().enumerate() {
        let at_index = |failure| at_operation("operations", index, failure);
        let result = match &operation.operation {
            Some(Operation::Put(put)) => {
                let response = commands::put(put, tx).map_err(at_index)?;
                if !response.applied {
                    return Err(condition_failed(index, response.version));
                }
                write_result::Result::Put(response)
            }
            Some(Operation::Delete(delete)) => {
                let (response, held) = commands::delete(delete, tx).map_err(at_index)?;
                if !held {
                    return Err(condition_failed(index, response.version));
                }
                write_result::Result::Delete(response)
            }
            Some(Operation::Increment(increment)) => {
                write_result::Result::Increment(commands::increment(increment, tx).map_err(at_index)?)
            }
            Some(Operation::Sql(statements)) => write_result::Result::Sql(sql(statements, tx).map_err(at_index)?),
            None => return Err(at_index(Failure::invalid_field("operation", "none is set"))),
        };
        results.push(WriteResult { result: Some(result) });
    }
    Ok(BatchResponse { results })
}

/// Says which operation of a list failed, in the message and as `operation` metadata.
pub(crate) fn at_operation(list: &str, index: usize, failure: Failure) -> Failure {
    let field = failure.metadata.get("field").map(|field| format!("{list}[{index}].{field}"));
    let message = format!("{list}[{index}]: {}", failure.message);
    let failure = Failure { message, ..failure }.with("operation", index);
    match field {
        Some(field) => failure.with("field", field),
        None => failure,
    }
}

fn condition_failed(index: usize, version: u64) -> Failure {
    let message = match version {
        0 => "the condition does not hold: the key has no value".to_owned(),
        version => format!("the condition does not hold: the key's version is {version}"),
    };
    at_operation("operations", index, Failure::new(Reason::ConditionFailed, message).with("version", version))
}
