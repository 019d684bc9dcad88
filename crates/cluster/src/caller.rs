//! One runtime's calls: what a call runs by the catalog, on which keys, and what it answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cirrus_engine::Transaction;
use cirrus_procedures::{Arguments, CallControl, CallOutcome, CallResult, Invocation, Runtime, ShardScope, Trace};
use cirrus_proto::limits::Limits;
use cirrus_proto::name::ProcedureName;
use cirrus_proto::v1::{CallEffect, CallRequest, CallResponse, CallStep, DatabaseEffect, DryRun, ProcedureDeclaration};
use cirrus_proto::{Failure, Reason};
use cirrus_replication::{Place, Stopped};
use cirrus_sql::changed_databases;

use crate::call_metrics::{CallMetrics, KnownProcedures};
use crate::catalog_view::{CATALOG_WAIT, CatalogHandle, Found};
use crate::governor::{Governor, is_refusal};
use crate::log_book::{CallerLines, LogBook};
use crate::quick_procedures::QuickProcedures;
use crate::sql::{CallDatabases, SqlCommands, database_message};

/// After so long, a call that was thought to be quick gives up the runtime's thread.
const SHARED_TIME: Duration = Duration::from_millis(2);

/// What the callers of a node share.
#[derive(Clone)]
pub(crate) struct Calling {
    pub(crate) limits: Limits,
    pub(crate) catalog: Arc<CatalogHandle>,
    pub(crate) procedures: Arc<KnownProcedures>,
    pub(crate) governor: Arc<Governor>,
    pub(crate) log_book: Arc<LogBook>,
}

/// A runtime, and what its calls need beside the shard's state.
pub(crate) struct Caller {
    shard_id: u32,
    runtime: Runtime,
    lines: Arc<CallerLines>,
    catalog: Arc<CatalogHandle>,
    governor: Arc<Governor>,
    metrics: CallMetrics,
    quick: QuickProcedures,
}

impl Caller {
    pub(crate) fn new(shard_id: u32, calling: &Calling) -> Self {
        let lines = calling.log_book.lines(shard_id);
        Caller {
            shard_id,
            runtime: Runtime::new(calling.limits, rand::random()).with_log(lines.clone()),
            lines,
            catalog: calling.catalog.clone(),
            governor: calling.governor.clone(),
            metrics: CallMetrics::new(calling.procedures.clone()),
            quick: QuickProcedures::default(),
        }
    }

    /// The next calls are for another shard: a runtime keeps nothing of a shard but Tokyo Tyrant's stash, which
    /// read-only calls cannot use.
    pub(crate) fn serve(&mut self, shard_id: u32) {
        self.shard_id = shard_id;
        self.lines.serve(shard_id);
    }

    /// Watches the call that it runs.
    pub(crate) fn control(&self) -> Arc<CallControl> {
        self.runtime.control()
    }

    /// Whether calls of the procedure have been so quick lately that this one may run on a thread that others wait for.
    pub(crate) fn is_quick(&self, request: &CallRequest) -> bool {
        self.quick.contains(&request.procedure)
    }

    /// The answer, and the version that ran.
    pub(crate) fn call(
        &mut self,
        request: &CallRequest,
        transaction: &mut Transaction<'_>,
        place: Place,
        sql: &mut SqlCommands,
    ) -> Result<(CallResponse, u64), Stopped> {
        let chosen = self.chosen(request, transaction, place)?;
        self.answer(request, &chosen, transaction, place, sql)
    }

    /// As [`call`](Self::call), of a procedure that must be declared read-only.
    pub(crate) fn read(
        &mut self,
        request: &CallRequest,
        transaction: &mut Transaction<'_>,
        sql: &mut SqlCommands,
    ) -> Result<CallResponse, Stopped> {
        let chosen = self.chosen(request, transaction, Place::Own)?;
        if !chosen.declaration().is_some_and(|declaration| declaration.read_only) {
            let problem = format!("{} is not declared read-only, and runs on the shard's leader", request.procedure);
            return Err(Failure::new(Reason::NotReadOnly, problem).with("field", "consistency").into());
        }
        Ok(self.answer(request, &chosen, transaction, Place::Own, sql)?.0)
    }

    fn answer(
        &mut self,
        request: &CallRequest,
        chosen: &Chosen<'_>,
        transaction: &mut Transaction<'_>,
        place: Place,
        sql: &mut SqlCommands,
    ) -> Result<(CallResponse, u64), Stopped> {
        let trace = request.trace.then(Trace::begin);
        let outcome = self.invoke(request, chosen, trace.as_ref(), transaction, place, sql)?;
        let version = chosen.found.runnable.source.version;
        let steps = trace.map(steps).unwrap_or_default();
        Ok((CallResponse { steps, ..call_response(version, outcome) }, version))
    }

    /// As [`call`](Self::call), of a schedule's tick, on the shard's own thread: the version that ran, and how that
    /// ended. What fails before it runs fails this.
    pub(crate) fn tick(
        &mut self,
        request: &CallRequest,
        transaction: &mut Transaction<'_>,
        sql: &mut SqlCommands,
    ) -> Result<(u64, Result<CallResponse, Failure>), Stopped> {
        let chosen = self.chosen(request, transaction, Place::Own)?;
        let outcome = match self.answer(request, &chosen, transaction, Place::Own, sql) {
            Ok((response, _)) => Ok(response),
            Err(Stopped::Failed(failure)) if failure.reason != Reason::NotReady => Err(failure),
            Err(stopped) => return Err(stopped),
        };
        Ok((chosen.found.runnable.source.version, outcome))
    }

    /// Evaluates a call and says what it would write.
    pub(crate) fn dry_run(
        &mut self,
        request: &CallRequest,
        transaction: &mut Transaction<'_>,
        place: Place,
        sql: &mut SqlCommands,
    ) -> Result<CallResponse, Stopped> {
        let chosen = self.chosen(request, transaction, place)?;
        let before = transaction.savepoint();
        let trace = Trace::begin();
        let outcome = match self.invoke(request, &chosen, Some(&trace), transaction, place, sql) {
            Ok(outcome) => Ok(outcome),
            // One that may not run fails as such: the procedure has done nothing.
            Err(Stopped::Failed(failure)) if !is_refusal(failure.reason) => Err(failure),
            Err(stopped) => return Err(stopped),
        };
        let (written, changed) = match &outcome {
            Ok(_) => (transaction.values_written_after(before)?, changed_databases(transaction, before)),
            Err(_) => Default::default(),
        };
        transaction.rollback_to(before);
        let version = chosen.found.runnable.source.version;
        let (response, failure) = match outcome {
            Ok(outcome) => (call_response(version, outcome), None),
            Err(failure) if failure.reason == Reason::Internal => return Err(failure.into()),
            Err(failure) => (CallResponse { library_version: version, ..Default::default() }, Some(failure.into())),
        };
        let effects = written.into_iter().map(|(key, value)| match value {
            Some(value) => CallEffect { key, deleted: false, value: value.value, expires_at_ms: value.expires_at_ms },
            None => CallEffect { key, deleted: true, ..Default::default() },
        });
        let databases = changed.into_iter().map(|(id, change)| DatabaseEffect {
            database: Some(database_message(&id)),
            pages: change.pages as u64,
            bytes: change.bytes as u64,
        });
        let dry_run = Some(DryRun { effects: effects.collect(), failure, databases: databases.collect() });
        Ok(CallResponse { steps: steps(trace), dry_run, ..response })
    }

    fn chosen<'r>(
        &mut self,
        request: &'r CallRequest,
        transaction: &Transaction<'_>,
        place: Place,
    ) -> Result<Chosen<'r>, Stopped> {
        let procedure = ProcedureName::parse(&request.procedure)?;
        let index = transaction.head().catalog_index;
        let wait = if place == Place::Own { CATALOG_WAIT } else { Duration::ZERO };
        match self.catalog.runnable(&procedure, &request.key, index, wait) {
            Err(failure) if failure.reason == Reason::NotReady && place == Place::Shared => {
                self.quick.record(&request.procedure, None);
                Err(Stopped::TooLong)
            }
            Err(failure) => Err(failure.into()),
            Ok(found) => Ok(Chosen { procedure, found }),
        }
    }

    fn invoke(
        &mut self,
        request: &CallRequest,
        chosen: &Chosen<'_>,
        trace: Option<&Trace>,
        transaction: &mut Transaction<'_>,
        place: Place,
        sql: &mut SqlCommands,
    ) -> Result<CallOutcome, Stopped> {
        let scope = ShardScope::new(self.shard_id, chosen.found.shard_count, &request.key);
        let ProcedureName { library, function, .. } = chosen.procedure;
        let invocation = Invocation {
            library: &chosen.found.runnable.source,
            required: &chosen.found.runnable.required,
            function,
            declaration: chosen.declaration(),
            key: &request.key,
            more_keys: &request.more_keys,
            arguments: match request.values.is_empty() {
                true => Arguments::Strings(&request.args),
                false => Arguments::Values(&request.values),
            },
            typed_result: request.typed_result,
            trace,
            dry_run: request.dry_run,
            patience: (place == Place::Shared).then_some(SHARED_TIME),
        };
        let began = Instant::now();
        let permit = self.governor.begin(chosen.found.called(function), began)?;
        let mut databases = CallDatabases::new(sql);
        let outcome = self.runtime.call(invocation, transaction, &scope, Some(&mut databases));
        let (took, cpu) = (began.elapsed(), self.runtime.cpu_of_last_call());
        if place == Place::Shared && matches!(&outcome, Err(failure) if failure.reason == Reason::CallTimeout) {
            permit.give_up(cpu, began + took);
            self.quick.record(&request.procedure, None);
            return Err(Stopped::TooLong);
        }
        permit.end(&outcome, cpu, began + took);
        match databases.was_used() {
            true => self.quick.record_sql(&request.procedure),
            false => self.quick.record(&request.procedure, Some(took)),
        }
        self.metrics.record((library, function), request, &outcome, took, transaction.write_set_bytes());
        Ok(outcome?)
    }
}

/// What a call runs.
struct Chosen<'r> {
    procedure: ProcedureName<'r>,
    found: Found,
}

impl Chosen<'_> {
    fn declaration(&self) -> Option<&ProcedureDeclaration> {
        self.found.runnable.declaration(self.procedure.function)
    }
}

fn call_response(library_version: u64, outcome: CallOutcome) -> CallResponse {
    let (result, value) = match outcome.result {
        CallResult::Bytes(bytes) => (bytes, None),
        CallResult::Value(value) => (Default::default(), Some(value)),
    };
    CallResponse {
        result,
        value,
        library_version,
        cpu_us: outcome.cpu.as_micros() as u64,
        memory_bytes: outcome.memory_bytes as u64,
        ..Default::default()
    }
}

fn steps(trace: Trace) -> Vec<CallStep> {
    let steps = trace.into_steps().into_iter().map(|step| CallStep {
        operation: step.operation,
        key: step.key,
        at_us: step.at.as_micros() as u64,
        took_us: step.took.as_micros() as u64,
        text: step.text,
    });
    steps.collect()
}
