//! Why a request failed, and what its sender should do about it.

use tonic::Code;

/// What a failed request's sender should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// The same request will fail again: change it.
    FixRequest,
    /// Nothing happened; the same node may accept the request after a pause.
    Retry,
    /// Nothing happened; another node may accept the request now.
    RetryElsewhere,
    /// The request may have taken effect, or may still do so. Only a request with a request id may be sent again blindly.
    OutcomeUnknown,
    /// The node itself is at fault; tell its operator.
    Report,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $code:ident, $advice:ident;)*) => {
        /// The `reason` of a failure's `google.rpc.ErrorInfo` (domain "cirrus"). The name is the API; messages are for people.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// The name on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$variant => $name,)* }
            }

            /// The gRPC status code that goes with it.
            pub const fn code(self) -> Code {
                match self { $(Reason::$variant => Code::$code,)* }
            }

            /// What the sender should do.
            pub const fn advice(self) -> Advice {
                match self { $(Reason::$variant => Advice::$advice,)* }
            }

            /// The reason of that name.
            pub fn parse(name: &str) -> Option<Reason> {
                match name { $($name => Some(Reason::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    /// A field is missing, malformed or out of range; the failure's `field` metadata names it.
    InvalidField = "INVALID_FIELD", InvalidArgument, FixRequest;
    /// The key is empty.
    KeyEmpty = "KEY_EMPTY", InvalidArgument, FixRequest;
    /// The key is longer than the limit.
    KeyTooLarge = "KEY_TOO_LARGE", InvalidArgument, FixRequest;
    /// The value is longer than the limit.
    ValueTooLarge = "VALUE_TOO_LARGE", InvalidArgument, FixRequest;
    /// The command's writes are larger than the limit.
    WriteSetTooLarge = "WRITE_SET_TOO_LARGE", InvalidArgument, FixRequest;
    /// A batch or transaction has more operations than the limit.
    TooManyOperations = "TOO_MANY_OPERATIONS", InvalidArgument, FixRequest;
    /// Keys of one atomic request lie in different shards.
    CrossShard = "CROSS_SHARD", InvalidArgument, FixRequest;
    /// An increment met a value that is not a decimal signed 64-bit number.
    NotANumber = "NOT_A_NUMBER", FailedPrecondition, FixRequest;
    /// An increment's sum does not fit in a signed 64-bit number.
    IntegerOverflow = "INTEGER_OVERFLOW", OutOfRange, FixRequest;
    /// A condition inside a batch did not hold.
    ConditionFailed = "CONDITION_FAILED", FailedPrecondition, FixRequest;
    /// The request id was used before, for a request with other contents.
    RequestIdReused = "REQUEST_ID_REUSED", InvalidArgument, FixRequest;
    /// The request id's reply was acknowledged and forgotten.
    RequestIdExpired = "REQUEST_ID_EXPIRED", FailedPrecondition, FixRequest;
    /// The client session holds too many unacknowledged replies.
    SessionFull = "SESSION_FULL", ResourceExhausted, FixRequest;
    /// The library's source is longer than the limit.
    LibraryTooLarge = "LIBRARY_TOO_LARGE", InvalidArgument, FixRequest;
    /// The library's source does not compile or exports nothing.
    LibraryInvalid = "LIBRARY_INVALID", InvalidArgument, FixRequest;
    /// There is no such library.
    LibraryNotFound = "LIBRARY_NOT_FOUND", NotFound, FixRequest;
    /// The version or library is active, has a canary's share, or is required by another library.
    LibraryInUse = "LIBRARY_IN_USE", FailedPrecondition, FixRequest;
    /// The library has as many versions as the limit.
    LibraryVersionsFull = "LIBRARY_VERSIONS_FULL", FailedPrecondition, FixRequest;
    /// No version was active before the one that is, and there is no canary.
    NothingToRollBack = "NOTHING_TO_ROLL_BACK", FailedPrecondition, FixRequest;
    /// There is another schedule of that name.
    ScheduleExists = "SCHEDULE_EXISTS", AlreadyExists, FixRequest;
    /// The cluster has as many schedules as the limit.
    SchedulesFull = "SCHEDULES_FULL", FailedPrecondition, FixRequest;
    /// The library has no such function.
    FunctionNotFound = "FUNCTION_NOT_FOUND", NotFound, FixRequest;
    /// The procedure raised an error.
    ProcedureFailed = "PROCEDURE_FAILED", Aborted, FixRequest;
    /// The procedure returned nil or false.
    ProcedureReturnedNothing = "PROCEDURE_RETURNED_NOTHING", Aborted, FixRequest;
    /// A procedure that is declared read-only tried to write, or to use the stash.
    ReadOnly = "READ_ONLY", Aborted, FixRequest;
    /// The request asks for what only a procedure that is declared read-only can do.
    NotReadOnly = "NOT_READ_ONLY", FailedPrecondition, FixRequest;
    /// The procedure used more CPU time than the limit and was killed.
    CallTimeout = "CALL_TIMEOUT", Aborted, FixRequest;
    /// Somebody killed the call.
    CallKilled = "CALL_KILLED", Aborted, FixRequest;
    /// The procedure used more memory than the limit and was killed.
    CallMemory = "CALL_MEMORY", Aborted, FixRequest;
    /// The procedure's result is longer than the limit.
    ResultTooLarge = "RESULT_TOO_LARGE", Aborted, FixRequest;
    /// Calls of the procedure were killed again and again on this node, which answers them itself for a while.
    ProcedureSuspended = "PROCEDURE_SUSPENDED", ResourceExhausted, Retry;
    /// As many calls of the library run on the node as its limits allow.
    LibraryBusy = "LIBRARY_BUSY", ResourceExhausted, Retry;
    /// The library's calls have used up their share of the node's CPU time.
    LibraryBudgetExceeded = "LIBRARY_BUDGET_EXCEEDED", ResourceExhausted, Retry;
    /// SQLite refuses the statement: its syntax, a name that is not there, a value of the wrong kind.
    SqlInvalid = "SQL_INVALID", InvalidArgument, FixRequest;
    /// A constraint of the database refuses what the statement would store.
    SqlConstraint = "SQL_CONSTRAINT", FailedPrecondition, FixRequest;
    /// The statement does what no request may do to a database.
    SqlNotAllowed = "SQL_NOT_ALLOWED", InvalidArgument, FixRequest;
    /// A query has a statement that writes.
    SqlReadOnly = "SQL_READ_ONLY", InvalidArgument, FixRequest;
    /// The statements used more CPU time than the limit and were stopped.
    SqlTimeout = "SQL_TIMEOUT", Aborted, FixRequest;
    /// Somebody killed the request.
    SqlKilled = "SQL_KILLED", Aborted, FixRequest;
    /// The statements used more memory than the limit and were stopped.
    SqlMemory = "SQL_MEMORY", Aborted, FixRequest;
    /// A string, blob or row is longer than the limit, or a statement more complex than one.
    SqlTooLarge = "SQL_TOO_LARGE", InvalidArgument, FixRequest;
    /// The results have more rows or bytes than the limit.
    SqlReplyTooLarge = "SQL_REPLY_TOO_LARGE", Aborted, FixRequest;
    /// The client took nothing of a stream for longer than the limit.
    StreamIdle = "STREAM_IDLE", Aborted, FixRequest;
    /// The database would be larger than the limit.
    DatabaseTooLarge = "DATABASE_TOO_LARGE", FailedPrecondition, FixRequest;
    /// There is no such database.
    DatabaseNotFound = "DATABASE_NOT_FOUND", NotFound, FixRequest;
    /// The database is there already.
    DatabaseExists = "DATABASE_EXISTS", AlreadyExists, FixRequest;
    /// The database is being imported or removed, which takes several steps.
    DatabaseBusy = "DATABASE_BUSY", Unavailable, Retry;
    /// The file to import is no sound SQLite database.
    DatabaseInvalid = "DATABASE_INVALID", InvalidArgument, FixRequest;
    /// SQLite finds the stored database damaged.
    DatabaseDamaged = "DATABASE_DAMAGED", DataLoss, Report;
    /// There is no schema of that dbname.
    SchemaNotFound = "SCHEMA_NOT_FOUND", NotFound, FixRequest;
    /// A schema's DDL or migrations cannot be declared as they are.
    SchemaInvalid = "SCHEMA_INVALID", InvalidArgument, FixRequest;
    /// The database could not be brought to its schema's version, and stays as it was.
    SchemaUpgradeFailed = "SCHEMA_UPGRADE_FAILED", FailedPrecondition, FixRequest;
    /// The shard's mailbox is full.
    MailboxFull = "MAILBOX_FULL", ResourceExhausted, Retry;
    /// The node holds too many connections or requests.
    TooManyRequests = "TOO_MANY_REQUESTS", ResourceExhausted, Retry;
    /// The shard has no leader that this node knows, or its leader has no quorum.
    NoLeader = "NO_LEADER", Unavailable, Retry;
    /// This node does not lead the shard and may not forward; `leader` metadata names the leader where known.
    NotLeader = "NOT_LEADER", Unavailable, RetryElsewhere;
    /// The node is stopping.
    ShuttingDown = "SHUTTING_DOWN", Unavailable, RetryElsewhere;
    /// The node has not joined a cluster yet.
    NotReady = "NOT_READY", Unavailable, Retry;
    /// The request may or may not have taken effect.
    OutcomeUnknown = "OUTCOME_UNKNOWN", Unavailable, OutcomeUnknown;
    /// The deadline passed before the request was evaluated; nothing happened.
    DeadlineExceeded = "DEADLINE_EXCEEDED", DeadlineExceeded, Retry;
    /// A node with that id and another address is in the cluster already, or the node belongs to another cluster.
    NodeConflict = "NODE_CONFLICT", AlreadyExists, FixRequest;
    /// The node's own fault: storage or a broken invariant.
    Internal = "INTERNAL", Internal, Report;
}

/// The status codes that a procedure may fail with: those that speak of the request, and not of the service.
pub const PROCEDURE_CODES: &[Code] = &[
    Code::InvalidArgument,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unimplemented,
    Code::Unauthenticated,
];

/// The code's name as google.rpc.Code spells it.
pub const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
