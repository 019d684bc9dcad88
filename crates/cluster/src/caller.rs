//! One runtime's calls: what a call runs by the catalog, on which keys, and what it answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cirrus_engine::Transaction;
use cirrus_procedures::{Arguments, CallControl, CallOutcome, CallResult, Invocation, KeyScope, Runtime, Trace};
use cirrus_proto::limits::Limits;
use cirrus_proto::routing::{routing_key, shard_of_key};
use cirrus_proto::v1::{CallEffect, CallRequest, CallResponse, CallStep, DryRun};
use cirrus_proto::{Failure, Reason};

use crate::call_metrics::CallMetrics;
use crate::catalog_view::CatalogHandle;
use crate::library_cache::Runnable;
use crate::procedure_name::ProcedureName;

/// How long a call waits for this node's catalog to catch up. The shard evaluates nothing meanwhile.
const CATALOG_WAIT: Duration = Duration::from_millis(500);

/// A runtime, and what its calls need beside the shard's state.
pub(crate) struct Caller {
    shard_id: u32,
    runtime: Runtime,
    catalog: Arc<CatalogHandle>,
    metrics: CallMetrics,
}

impl Caller {
    pub(crate) fn new(shard_id: u32, limits: Limits, catalog: Arc<CatalogHandle>, metrics: CallMetrics) -> Self {
        Caller { shard_id, runtime: Runtime::new(limits, rand::random()), catalog, metrics }
    }

    /// The next calls are for another shard: a runtime keeps nothing of a shard but Tokyo Tyrant's stash, which
    /// read-only calls cannot use.
    pub(crate) fn serve(&mut self, shard_id: u32) {
        self.shard_id = shard_id;
    }

    /// Watches the call that it runs.
    pub(crate) fn control(&self) -> Arc<CallControl> {
        self.runtime.control()
    }

    /// The answer, and the version that ran.
    pub(crate) fn call(
        &mut self,
        request: &CallRequest,
        transaction: &mut Transaction<'_>,
    ) -> Result<(CallResponse, u64), Failure> {
        let procedure = ProcedureName::parse(&request.procedure)?;
        let (runnable, shard_count) = self.chosen(&procedure, request, transaction)?;
        self.answer(request, &procedure, &runnable, shard_count, transaction)
    }

    /// As [`call`](Self::call), of a procedure that must be declared read-only.
    pub(crate) fn read(
        &mut self,
        request: &CallRequest,
        transaction: &mut Transaction<'_>,
    ) -> Result<CallResponse, Failure> {
        let procedure = ProcedureName::parse(&request.procedure)?;
        let (runnable, shard_count) = self.chosen(&procedure, request, transaction)?;
        if !runnable.declaration(procedure.function).is_some_and(|declaration| declaration.read_only) {
            let problem = format!("{} is not declared read-only, and runs on the shard's leader", request.procedure);
            return Err(Failure::new(Reason::NotReadOnly, problem).with("field", "consistency"));
        }
        Ok(self.answer(request, &procedure, &runnable, shard_count, transaction)?.0)
    }

    fn answer(
        &mut self,
        request: &CallRequest,
        procedure: &ProcedureName<'_>,
        runnable: &Runnable,
        shard_count: u32,
        transaction: &mut Transaction<'_>,
    ) -> Result<(CallResponse, u64), Failure> {
        let trace = request.trace.then(Trace::begin);
        let outcome = self.invoke(request, procedure, runnable, shard_count, trace.as_ref(), transaction)?;
        let version = runnable.source.version;
        let steps = trace.map(steps).unwrap_or_default();
        Ok((CallResponse { steps, ..call_response(version, outcome) }, version))
    }

    /// Evaluates a call and says what it would write.
    pub(crate) fn dry_run(
        &mut self,
        request: &CallRequest,
        transaction: &mut Transaction<'_>,
    ) -> Result<CallResponse, Failure> {
        let procedure = ProcedureName::parse(&request.procedure)?;
        let (runnable, shard_count) = self.chosen(&procedure, request, transaction)?;
        let before = transaction.savepoint();
        let trace = Trace::begin();
        let outcome = self.invoke(request, &procedure, &runnable, shard_count, Some(&trace), transaction);
        let written = match &outcome {
            Ok(_) => transaction.values_written_after(before)?,
            Err(_) => Vec::new(),
        };
        transaction.rollback_to(before);
        let version = runnable.source.version;
        let (response, failure) = match outcome {
            Ok(outcome) => (call_response(version, outcome), None),
            Err(failure) if failure.reason == Reason::Internal => return Err(failure),
            Err(failure) => (CallResponse { library_version: version, ..Default::default() }, Some(failure.into())),
        };
        let effects = written.into_iter().map(|(key, value)| match value {
            Some(value) => CallEffect { key, deleted: false, value: value.value, expires_at_ms: value.expires_at_ms },
            None => CallEffect { key, deleted: true, ..Default::default() },
        });
        let dry_run = Some(DryRun { effects: effects.collect(), failure });
        Ok(CallResponse { steps: steps(trace), dry_run, ..response })
    }

    fn chosen(
        &self,
        procedure: &ProcedureName<'_>,
        request: &CallRequest,
        transaction: &Transaction<'_>,
    ) -> Result<(Arc<Runnable>, u32), Failure> {
        self.catalog.runnable(procedure, &request.key, transaction.head().catalog_index, CATALOG_WAIT)
    }

    fn invoke(
        &mut self,
        request: &CallRequest,
        procedure: &ProcedureName<'_>,
        runnable: &Runnable,
        shard_count: u32,
        trace: Option<&Trace>,
        transaction: &mut Transaction<'_>,
    ) -> Result<CallOutcome, Failure> {
        let scope = ShardScope { shard_id: self.shard_id, shard_count };
        let invocation = Invocation {
            library: &runnable.source,
            required: &runnable.required,
            function: procedure.function,
            declaration: runnable.declaration(procedure.function),
            key: &request.key,
            more_keys: &request.more_keys,
            arguments: match request.values.is_empty() {
                true => Arguments::Strings(&request.args),
                false => Arguments::Values(&request.values),
            },
            typed_result: request.typed_result,
            trace,
            dry_run: request.dry_run,
        };
        let began = Instant::now();
        let outcome = self.runtime.call(invocation, transaction, &scope);
        let named = (procedure.library, procedure.function);
        self.metrics.record(named, request, &outcome, began.elapsed(), transaction.write_set_bytes());
        outcome
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

/// A call may touch keys of its own shard only.
struct ShardScope {
    shard_id: u32,
    shard_count: u32,
}

impl KeyScope for ShardScope {
    fn check(&self, key: &[u8]) -> Result<(), Failure> {
        let shard = shard_of_key(key, self.shard_count);
        if shard == self.shard_id {
            return Ok(());
        }
        let (key, tag) = (String::from_utf8_lossy(key), String::from_utf8_lossy(routing_key(key)));
        Err(Failure::new(
            Reason::CrossShard,
            format!(
                "key {key:?} is in shard {shard} (by {tag:?}), the call runs in shard {}; give keys that belong \
                 together one {{tag}}",
                self.shard_id
            ),
        )
        .with("key", key)
        .with("shard", shard))
    }
}
