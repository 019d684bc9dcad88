//! Which keys a command touches, for whoever routes it.

use bytes::Bytes;
use cirrus_proto::internal::v1::Command;
use cirrus_proto::internal::v1::command::Kind;
use cirrus_proto::routing;
use cirrus_proto::v1::transact_operation::Operation;
use cirrus_proto::v1::{SqlDatabase, TransactOperation, WriteOperation, write_operation};

/// Every key that the command names, in its order. All must lie in one shard; that is the router's to
/// check, since shards are not known here. A call names its routing key only: what its procedure touches
/// is checked as it runs. Commands of the catalog or of the shard itself name none, nor do those of SQL, which
/// [`databases`] routes.
pub fn keys(command: &Command) -> impl Iterator<Item = &Bytes> {
    let mut more_keys: &[Bytes] = &[];
    let (key, batch, transact) = match &command.kind {
        Some(Kind::Put(put)) => (Some(&put.key), None, None),
        Some(Kind::Delete(delete)) => (Some(&delete.key), None, None),
        Some(Kind::Increment(increment)) => (Some(&increment.key), None, None),
        Some(Kind::Call(call)) => {
            more_keys = &call.more_keys;
            (Some(&call.key), None, None)
        }
        Some(Kind::Batch(batch)) => (None, Some(batch), None),
        Some(Kind::Transact(transact)) => (None, None, Some(transact)),
        Some(
            Kind::UploadLibrary(_)
            | Kind::DeleteLibrary(_)
            | Kind::ActivateLibrary(_)
            | Kind::RollbackLibrary(_)
            | Kind::ScheduleProcedure(_)
            | Kind::DeleteSchedule(_)
            | Kind::RunSchedule(_)
            | Kind::SetLibraryLimits(_)
            | Kind::SqlExecute(_)
            | Kind::SqlRemove(_)
            | Kind::SqlImport(_)
            | Kind::SqlPutSchema(_)
            | Kind::SqlPutSphivedbSettings(_)
            | Kind::SqlUpgrade(_)
            | Kind::RegisterNode(_)
            | Kind::CreateCluster(_)
            | Kind::RequireCatalog(_)
            | Kind::SweepExpired(_),
        )
        | None => (None, None, None),
    };
    let batch = batch.into_iter().flat_map(|batch| &batch.operations).filter_map(write_key);
    let transact = transact.into_iter().flat_map(|transact| {
        let operations = transact.success.iter().chain(&transact.failure).filter_map(transact_key);
        transact.compare.iter().map(|compare| &compare.key).chain(operations)
    });
    key.into_iter().chain(more_keys).chain(batch).chain(transact)
}

/// Every database that the command names, whose users pick the shard: that of a SQL command, and those of a batch. All
/// must lie in one shard, as all [`keys`] must.
pub fn databases(command: &Command) -> impl Iterator<Item = &SqlDatabase> {
    let (one, batch) = match &command.kind {
        Some(Kind::SqlExecute(command)) => {
            (command.request.as_ref().and_then(|request| request.database.as_ref()), None)
        }
        Some(Kind::SqlRemove(command)) => {
            (command.request.as_ref().and_then(|request| request.database.as_ref()), None)
        }
        Some(Kind::SqlImport(command)) => (command.database.as_ref(), None),
        Some(Kind::SqlUpgrade(command)) => (command.database.as_ref(), None),
        Some(Kind::Batch(batch)) => (None, Some(batch)),
        _ => (None, None),
    };
    one.into_iter().chain(batch.into_iter().flat_map(|batch| &batch.operations).filter_map(write_database))
}

/// The part of the command's first key that picks its shard; `None` for a command without keys.
pub fn routing_key(command: &Command) -> Option<&[u8]> {
    keys(command).next().map(|key| routing::routing_key(key))
}

fn write_key(operation: &WriteOperation) -> Option<&Bytes> {
    Some(match operation.operation.as_ref()? {
        write_operation::Operation::Put(put) => &put.key,
        write_operation::Operation::Delete(delete) => &delete.key,
        write_operation::Operation::Increment(increment) => &increment.key,
        write_operation::Operation::Sql(_) => return None,
    })
}

fn write_database(operation: &WriteOperation) -> Option<&SqlDatabase> {
    match operation.operation.as_ref()? {
        write_operation::Operation::Sql(request) => request.database.as_ref(),
        _ => None,
    }
}

fn transact_key(operation: &TransactOperation) -> Option<&Bytes> {
    Some(match operation.operation.as_ref()? {
        Operation::Get(get) => &get.key,
        Operation::Put(put) => &put.key,
        Operation::Delete(delete) => &delete.key,
        Operation::Increment(increment) => &increment.key,
    })
}
