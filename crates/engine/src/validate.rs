//! What can be refused without looking at any state, before a command takes a place in the mailbox.

use std::ops::RangeInclusive;

use bytes::Bytes;
use cirrus_proto::internal::v1::command::Kind;
use cirrus_proto::internal::v1::{Command, SqlExecute, SqlRemove};
use cirrus_proto::limits::Limits;
use cirrus_proto::name::is_name;
use cirrus_proto::v1::compare::{Operator, Target};
use cirrus_proto::v1::{
    ActivateLibraryRequest, BatchRequest, CallRequest, Compare, DeleteRequest, IncrementRequest, LibraryPin,
    MissedTicks, PutRequest, ReadConsistency, RequestId, ScheduleProcedureRequest, SetLibraryLimitsRequest, SqlCell,
    SqlDatabase, SqlExecuteRequest, SqlPutSchemaRequest, SqlStatement, TransactOperation, TransactRequest,
    WriteCondition, WriteOperation, transact_operation, write_condition, write_operation,
};
use cirrus_proto::value::VALUE_DEPTH_MAX;
use cirrus_proto::{Failure, Reason};
use prost::Message;

use crate::batch::at_operation;
use crate::bounds::{check_key, check_value, check_write_set};
use crate::{schedules, sessions};

/// Longest name of who uploads or activates, bytes.
const AUTHOR_BYTES_MAX: usize = 128;

/// Most versions that an upload pins: as many as a library may require.
const PINS_MAX: usize = 16;

/// Most keys and arguments of a call behind its first key.
const ARGUMENTS_MAX: usize = 1000;

/// As many as a node may have shards.
const CONCURRENCY_MAX: u32 = 1024;

/// A hundred cores.
const CPU_PERCENT_MAX: u32 = 10_000;

/// Shortest and longest interval of a schedule, milliseconds.
const EVERY_MS: RangeInclusive<u64> = 100..=366 * 24 * 60 * 60 * 1000;
/// Longest name of a schedule's procedure, bytes. A schedule is one of many in the catalog, so it is kept small.
const SCHEDULE_PROCEDURE_BYTES_MAX: usize = 256;
/// A schedule's keys and arguments behind its first key, and their bytes in all.
const SCHEDULE_ARGUMENTS_MAX: usize = 64;
const SCHEDULE_ARGUMENT_BYTES_MAX: usize = 4096;

/// Checks everything about a command that needs no state: fields that are missing or contradict each
/// other, sizes, counts. Failures name the field, the limit and the actual size. Whether all
/// [`keys`](crate::keys) lie in one shard is the router's to check.
pub fn validate(command: &Command, limits: &Limits) -> Result<(), Failure> {
    if let Some(id) = sessions::request_id(command) {
        sessions::check_request_id(id)?;
    }
    match &command.kind {
        Some(Kind::Put(request)) => put(request, limits),
        Some(Kind::Delete(request)) => delete(request, limits),
        Some(Kind::Increment(request)) => increment(request, limits),
        Some(Kind::Batch(request)) => batch(request, limits),
        Some(Kind::Transact(request)) => transact(request, limits),
        Some(Kind::Call(request)) => call(request, limits),
        Some(Kind::UploadLibrary(request)) => {
            name(&request.name)?;
            let (actual, limit) = (request.source.len(), limits.library_bytes);
            if actual > limit {
                return Err(Failure::too_large(Reason::LibraryTooLarge, "source", actual, limit));
            }
            pins(&request.pins)?;
            author("uploaded_by", &request.uploaded_by)
        }
        Some(Kind::DeleteLibrary(request)) => name(&request.name),
        Some(Kind::ActivateLibrary(request)) => activate(request),
        Some(Kind::RollbackLibrary(request)) => {
            name(&request.name)?;
            author("activated_by", &request.activated_by)
        }
        Some(Kind::ScheduleProcedure(request)) => schedule(request, limits),
        Some(Kind::DeleteSchedule(request)) => name(&request.name),
        Some(Kind::RunSchedule(request)) => name(&request.name),
        Some(Kind::SetLibraryLimits(request)) => library_limits(request),
        Some(Kind::SqlExecute(SqlExecute { request: Some(request), .. })) => {
            named_database(request.database.as_ref())?;
            statements(&request.statements, limits)
        }
        Some(Kind::SqlRemove(SqlRemove { request: Some(request), .. })) => {
            named_database(request.database.as_ref()).map(drop)
        }
        Some(Kind::SqlImport(command)) => {
            named_database(command.database.as_ref())?;
            check_write_set(command.pages.len(), limits)
        }
        Some(Kind::SqlUpgrade(command)) => named_database(command.database.as_ref()).map(drop),
        Some(Kind::SqlPutSchema(request)) => schema(request, limits),
        Some(Kind::SqlPutSphivedbSettings(request)) if request.first_dbfile > request.last_dbfile => {
            let problem = format!("{} is below first_dbfile, {}", request.last_dbfile, request.first_dbfile);
            Err(Failure::invalid_field("last_dbfile", problem))
        }
        Some(Kind::SqlPutSphivedbSettings(_)) => Ok(()),
        Some(Kind::SqlExecute(_) | Kind::SqlRemove(_)) => Err(Failure::invalid_field("request", "must be set")),
        Some(Kind::SweepExpired(request)) if request.limit == 0 => {
            Err(Failure::invalid_field("limit", "must be at least 1"))
        }
        Some(Kind::SweepExpired(_) | Kind::RegisterNode(_) | Kind::CreateCluster(_) | Kind::RequireCatalog(_)) => {
            Ok(())
        }
        None => Err(Failure::invalid_field("kind", "no command is set")),
    }
}

fn put(request: &PutRequest, limits: &Limits) -> Result<(), Failure> {
    check_key(&request.key, limits)?;
    check_value(&request.value, limits)?;
    condition(request.condition.as_ref())
}

fn delete(request: &DeleteRequest, limits: &Limits) -> Result<(), Failure> {
    check_key(&request.key, limits)?;
    if let Some(write_condition::Kind::IfAbsent(_)) = request.condition.as_ref().and_then(|condition| condition.kind) {
        return Err(Failure::invalid_field("condition.if_absent", "a delete of an absent key does nothing"));
    }
    condition(request.condition.as_ref())
}

fn increment(request: &IncrementRequest, limits: &Limits) -> Result<(), Failure> {
    check_key(&request.key, limits)
}

/// A flag that is set to false says neither "only if" nor "only if not"; guessing would be a silent wrong write.
fn condition(condition: Option<&WriteCondition>) -> Result<(), Failure> {
    match condition.and_then(|condition| condition.kind) {
        Some(write_condition::Kind::IfAbsent(false)) => {
            Err(Failure::invalid_field("condition.if_absent", "must be true where it is set"))
        }
        Some(write_condition::Kind::IfPresent(false)) => {
            Err(Failure::invalid_field("condition.if_present", "must be true where it is set"))
        }
        _ => Ok(()),
    }
}

fn batch(request: &BatchRequest, limits: &Limits) -> Result<(), Failure> {
    if request.operations.is_empty() {
        return Err(Failure::invalid_field("operations", "a batch needs at least one"));
    }
    operation_count(request.operations.len(), limits)?;
    let mut write_bytes = 0;
    for (index, operation) in request.operations.iter().enumerate() {
        write_bytes +=
            batch_operation(operation, limits).map_err(|failure| at_operation("operations", index, failure))?;
    }
    check_write_set(write_bytes, limits)
}

/// Bytes that the operation writes at least.
fn batch_operation(operation: &WriteOperation, limits: &Limits) -> Result<usize, Failure> {
    match &operation.operation {
        Some(write_operation::Operation::Put(request)) => nested_put(request, limits),
        Some(write_operation::Operation::Delete(request)) => nested_delete(request, limits),
        Some(write_operation::Operation::Increment(request)) => nested_increment(request, limits),
        Some(write_operation::Operation::Sql(request)) => nested_sql(request, limits),
        None => Err(Failure::invalid_field("operation", "none is set")),
    }
}

fn transact(request: &TransactRequest, limits: &Limits) -> Result<(), Failure> {
    let count = request.compare.len() + request.success.len() + request.failure.len();
    if count == 0 {
        return Err(Failure::invalid_field("success", "a transaction needs at least one comparison or operation"));
    }
    operation_count(count, limits)?;
    for (index, one) in request.compare.iter().enumerate() {
        compare(one, limits).map_err(|failure| at_operation("compare", index, failure))?;
    }
    for (list, operations) in [("success", &request.success), ("failure", &request.failure)] {
        let mut write_bytes = 0;
        for (index, operation) in operations.iter().enumerate() {
            write_bytes +=
                transact_operation(operation, limits).map_err(|failure| at_operation(list, index, failure))?;
        }
        check_write_set(write_bytes, limits)?;
    }
    Ok(())
}

/// Bytes that the operation writes at least.
fn transact_operation(operation: &TransactOperation, limits: &Limits) -> Result<usize, Failure> {
    match &operation.operation {
        Some(transact_operation::Operation::Get(request)) => check_key(&request.key, limits).map(|()| 0),
        Some(transact_operation::Operation::Put(request)) => nested_put(request, limits),
        Some(transact_operation::Operation::Delete(request)) => nested_delete(request, limits),
        Some(transact_operation::Operation::Increment(request)) => nested_increment(request, limits),
        None => Err(Failure::invalid_field("operation", "none is set")),
    }
}

fn nested_put(request: &PutRequest, limits: &Limits) -> Result<usize, Failure> {
    no_request_id(request.request_id.as_ref())?;
    put(request, limits)?;
    // One with a condition may write nothing.
    Ok(if request.condition.is_some() { 0 } else { request.key.len() + request.value.len() })
}

fn nested_delete(request: &DeleteRequest, limits: &Limits) -> Result<usize, Failure> {
    no_request_id(request.request_id.as_ref())?;
    delete(request, limits)?;
    Ok(0)
}

fn nested_increment(request: &IncrementRequest, limits: &Limits) -> Result<usize, Failure> {
    no_request_id(request.request_id.as_ref())?;
    increment(request, limits)?;
    Ok(request.key.len())
}

/// What statements write shows where they run.
fn nested_sql(request: &SqlExecuteRequest, limits: &Limits) -> Result<usize, Failure> {
    no_request_id(request.request_id.as_ref())?;
    named_database(request.database.as_ref())?;
    statements(&request.statements, limits)?;
    Ok(0)
}

fn no_request_id(id: Option<&RequestId>) -> Result<(), Failure> {
    match id {
        None => Ok(()),
        Some(_) => Err(Failure::invalid_field("request_id", "belongs to the whole request, not to one operation")),
    }
}

fn compare(compare: &Compare, limits: &Limits) -> Result<(), Failure> {
    check_key(&compare.key, limits)?;
    if !matches!(Operator::try_from(compare.operator), Ok(operator) if operator != Operator::Unspecified) {
        return Err(Failure::invalid_field("operator", format!("{} is no operator", compare.operator)));
    }
    match &compare.target {
        Some(Target::Version(_)) => Ok(()),
        Some(Target::Value(value)) => check_value(value, limits),
        None => Err(Failure::invalid_field("target", "neither version nor value is set")),
    }
}

fn call(request: &CallRequest, limits: &Limits) -> Result<(), Failure> {
    check_key(&request.key, limits)?;
    procedure(&request.procedure)?;
    for (index, key) in request.more_keys.iter().enumerate() {
        check_key(key, limits).map_err(|failure| at_operation("more_keys", index, failure))?;
    }
    if ReadConsistency::try_from(request.consistency).is_err() {
        let problem = format!("{} is not a ReadConsistency", request.consistency);
        return Err(Failure::invalid_field("consistency", problem));
    }
    call_arguments(request, limits)
}

/// Checks that a database is named. Its lengths are checked where SQL runs.
pub fn named_database(database: Option<&SqlDatabase>) -> Result<&SqlDatabase, Failure> {
    match database {
        None => Err(Failure::invalid_field("database", "must be set")),
        Some(database) if database.user.is_empty() => Err(Failure::invalid_field("database.user", "must not be empty")),
        Some(database) if database.dbname.is_empty() => {
            Err(Failure::invalid_field("database.dbname", "must not be empty"))
        }
        Some(database) => Ok(database),
    }
}

/// What is wrong with the texts shows where SQL runs.
fn schema(request: &SqlPutSchemaRequest, limits: &Limits) -> Result<(), Failure> {
    if request.dbname.is_empty() {
        return Err(Failure::invalid_field("dbname", "must not be empty"));
    }
    // It is stored as one value, so it must leave room in a write set.
    let (bytes, limit) = (request.encoded_len(), limits.write_set_bytes / 2);
    if bytes > limit {
        let problem = format!("the schema is {bytes} bytes in all, above the limit of {limit}");
        return Err(Failure::invalid_field("ddl", problem).with("actual", bytes).with("limit", limit));
    }
    Ok(())
}

/// Checks what statements say, whether they write or read. What SQL itself bounds is checked where it runs.
pub fn statements(statements: &[SqlStatement], limits: &Limits) -> Result<(), Failure> {
    if statements.is_empty() {
        return Err(Failure::invalid_field("statements", "a request needs at least one"));
    }
    for (index, statement) in statements.iter().enumerate() {
        let refused =
            |field: &str, problem: &str| Failure::invalid_field(&format!("statements[{index}].{field}"), problem);
        if !statement.parameters.is_empty() && !statement.named_parameters.is_empty() {
            return Err(refused("parameters", "are given by position or by name, not both"));
        }
        if statement.parameters.iter().any(|cell| cell.kind.is_none()) {
            return Err(refused("parameters", "has a cell without a kind"));
        }
        let has_kind = |cell: &Option<SqlCell>| cell.as_ref().is_some_and(|cell| cell.kind.is_some());
        if !statement.named_parameters.iter().all(|parameter| has_kind(&parameter.value)) {
            return Err(refused("named_parameters", "has a cell without a kind"));
        }
    }
    let (bytes, limit) = (statements.iter().map(Message::encoded_len).sum::<usize>(), limits.write_set_bytes);
    if bytes > limit {
        let problem = format!("{bytes} bytes in all, above the limit of {limit}");
        return Err(Failure::invalid_field("statements", problem).with("actual", bytes).with("limit", limit));
    }
    Ok(())
}

fn call_arguments(request: &CallRequest, limits: &Limits) -> Result<(), Failure> {
    if !request.args.is_empty() && !request.values.is_empty() {
        return Err(Failure::invalid_field("values", "arguments are given as `args` or as `values`, not as both"));
    }
    let count = request.more_keys.len() + request.args.len() + request.values.len();
    if count > ARGUMENTS_MAX {
        let problem = format!("{count} keys and arguments behind the first key, above the limit of {ARGUMENTS_MAX}");
        return Err(Failure::invalid_field("args", problem).with("actual", count).with("limit", ARGUMENTS_MAX));
    }
    for (index, value) in request.values.iter().enumerate() {
        let field = format!("values[{index}]");
        match value.depth() {
            None => return Err(Failure::invalid_field(&field, "has a value without a kind in it")),
            Some(depth) if depth > VALUE_DEPTH_MAX => {
                let problem = format!("is nested {depth} deep, above the limit of {VALUE_DEPTH_MAX}");
                return Err(Failure::invalid_field(&field, problem)
                    .with("actual", depth)
                    .with("limit", VALUE_DEPTH_MAX));
            }
            Some(_) => {}
        }
    }
    let (field, bytes) = match request.values.is_empty() {
        true => ("args", request.args.iter().map(Bytes::len).sum::<usize>()),
        false => ("values", request.values.iter().map(Message::encoded_len).sum()),
    };
    let limit = limits.write_set_bytes;
    if bytes > limit {
        return Err(Failure::invalid_field(field, format!("{bytes} bytes in all, above the limit of {limit}"))
            .with("actual", bytes)
            .with("limit", limit));
    }
    Ok(())
}

fn procedure(procedure: &str) -> Result<(), Failure> {
    let parts = procedure.split_once('.');
    match parts.is_some_and(|(library, function)| !library.is_empty() && !function.is_empty()) {
        true => Ok(()),
        false => {
            Err(Failure::invalid_field("procedure", "must be \"library.function\" or \"library@version.function\""))
        }
    }
}

fn schedule(request: &ScheduleProcedureRequest, limits: &Limits) -> Result<(), Failure> {
    if !request.name.is_empty() {
        name(&request.name)?;
    }
    let ScheduleProcedureRequest { procedure, more_keys, args, values, every_ms, missed_ticks, created_by, .. } =
        request;
    call(&schedules::call(request), limits)?;
    within("procedure", procedure.len(), "bytes", SCHEDULE_PROCEDURE_BYTES_MAX)?;
    within("args", more_keys.len() + args.len() + values.len(), "keys and arguments", SCHEDULE_ARGUMENTS_MAX)?;
    let bytes = more_keys.iter().chain(args).map(Bytes::len).chain(values.iter().map(Message::encoded_len)).sum();
    within("args", bytes, "bytes in all", SCHEDULE_ARGUMENT_BYTES_MAX)?;
    if !EVERY_MS.contains(every_ms) {
        let (least, most) = (EVERY_MS.start(), EVERY_MS.end());
        let problem = format!("must be {least} to {most} milliseconds, not {every_ms}");
        return Err(Failure::invalid_field("every_ms", problem).with("actual", every_ms));
    }
    if MissedTicks::try_from(*missed_ticks).is_err() {
        return Err(Failure::invalid_field("missed_ticks", format!("{missed_ticks} is no MissedTicks")));
    }
    author("created_by", created_by)
}

fn activate(request: &ActivateLibraryRequest) -> Result<(), Failure> {
    name(&request.name)?;
    if request.version == 0 {
        return Err(Failure::invalid_field("version", "must be a version's number, from 1"));
    }
    if request.canary_percent > 99 {
        let problem = format!("must be 1 to 99, or 0 for all calls, not {}", request.canary_percent);
        return Err(Failure::invalid_field("canary_percent", problem));
    }
    author("activated_by", &request.activated_by)
}

fn pins(pins: &[LibraryPin]) -> Result<(), Failure> {
    if pins.len() > PINS_MAX {
        let problem = format!("{} pins, above the limit of {PINS_MAX}", pins.len());
        return Err(Failure::invalid_field("pins", problem).with("actual", pins.len()).with("limit", PINS_MAX));
    }
    for (index, pin) in pins.iter().enumerate() {
        name(&pin.name).map_err(|failure| at_operation("pins", index, failure))?;
        if pin.version == 0 {
            return Err(at_operation("pins", index, Failure::invalid_field("version", "must be a number from 1")));
        }
        if pins[..index].iter().any(|other| other.name == pin.name) {
            let problem = Failure::invalid_field("name", format!("{} is pinned twice", pin.name));
            return Err(at_operation("pins", index, problem));
        }
    }
    Ok(())
}

fn library_limits(request: &SetLibraryLimitsRequest) -> Result<(), Failure> {
    name(&request.name)?;
    if request.concurrency.is_none() && request.cpu_percent.is_none() {
        return Err(Failure::invalid_field("concurrency", "it or cpu_percent must be set"));
    }
    for (field, value, most) in
        [("concurrency", request.concurrency, CONCURRENCY_MAX), ("cpu_percent", request.cpu_percent, CPU_PERCENT_MAX)]
    {
        if let Some(actual) = value.filter(|&value| value > most) {
            let problem = format!("must be 1 to {most}, or 0 for no limit, not {actual}");
            return Err(Failure::invalid_field(field, problem).with("actual", actual).with("limit", most));
        }
    }
    author("set_by", &request.set_by)
}

fn author(field: &'static str, author: &str) -> Result<(), Failure> {
    within(field, author.len(), "bytes", AUTHOR_BYTES_MAX)
}

fn within(field: &'static str, actual: usize, unit: &str, limit: usize) -> Result<(), Failure> {
    if actual > limit {
        let problem = format!("is {actual} {unit}, above the limit of {limit}");
        return Err(Failure::invalid_field(field, problem).with("actual", actual).with("limit", limit));
    }
    Ok(())
}

/// Of a library or a schedule.
fn name(name: &str) -> Result<(), Failure> {
    match is_name(name) {
        true => Ok(()),
        false => Err(Failure::invalid_field("name", "must be 1 to 64 letters, digits, '_' or '-'")),
    }
}

fn operation_count(count: usize, limits: &Limits) -> Result<(), Failure> {
    if count > limits.operations {
        return Err(Failure::new(
            Reason::TooManyOperations,
            format!("{count} operations, above the limit of {}", limits.operations),
        )
        .with("field", "operations")
        .with("actual", count)
        .with("limit", limits.operations));
    }
    Ok(())
}
