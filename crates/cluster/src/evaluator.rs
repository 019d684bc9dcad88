//! What a shard's executor runs: key-value commands, procedure calls, and on shard 0 the catalog's commands,
//! all under request ids.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cirrus_engine::sessions::{self, Admission};
use cirrus_engine::{Transaction, evaluate};
use cirrus_procedures::{CallControl, CallOutcome, Invocation, KeyScope, LibrarySource, Runtime, Trace};
use cirrus_proto::internal::v1::command::Kind;
use cirrus_proto::internal::v1::{self as pb, Command, Reply, reply};
use cirrus_proto::limits::Limits;
use cirrus_proto::routing::{routing_key, shard_of_key};
use cirrus_proto::v1::{CallEffect, CallRequest, CallResponse, CallStep, DryRun};
use cirrus_proto::{Failure, Reason};
use cirrus_replication::{Evaluated, Evaluator};

use crate::call_metrics::CallMetrics;
use crate::catalog::{self, Committed, Reads};
use crate::catalog_view::CatalogHandle;
use crate::library_catalog;
use crate::procedure_name::ProcedureName;

/// The catalog's shard.
pub const CATALOG_SHARD: u32 = 0;

/// How long a call waits for this node's catalog to catch up. The shard evaluates nothing meanwhile.
const CATALOG_WAIT: Duration = Duration::from_millis(500);

/// One shard's evaluator. It owns the shard's Luau VMs.
pub(crate) struct ShardEvaluator {
    shard_id: u32,
    runtime: Runtime,
    catalog: Arc<CatalogHandle>,
    metrics: CallMetrics,
}

impl ShardEvaluator {
    pub(crate) fn new(shard_id: u32, limits: Limits, catalog: Arc<CatalogHandle>, metrics: CallMetrics) -> Self {
        ShardEvaluator { shard_id, runtime: Runtime::new(limits, rand::random()), catalog, metrics }
    }

    /// Watches the call that it runs.
    pub(crate) fn control(&self) -> Arc<CallControl> {
        self.runtime.control()
    }

    fn run(&mut self, command: &Command, transaction: &mut Transaction<'_>) -> Result<Evaluated, Failure> {
        let kind = match (&command.kind, self.shard_id) {
            (Some(Kind::Call(request)), shard) if shard != CATALOG_SHARD => return self.call(request, transaction),
            (Some(Kind::RequireCatalog(request)), _) => {
                transaction.require_catalog(request.catalog_index);
                reply::Kind::Done(pb::Done {})
            }
            (Some(Kind::CreateCluster(request)), CATALOG_SHARD) => catalog::create_cluster(request, transaction)?,
            (Some(Kind::RegisterNode(request)), CATALOG_SHARD) => catalog::register_node(request, transaction)?,
            (Some(Kind::UploadLibrary(request)), CATALOG_SHARD) => library_catalog::upload(request, transaction)?,
            (Some(Kind::DeleteLibrary(request)), CATALOG_SHARD) => library_catalog::delete(request, transaction)?,
            (Some(Kind::ActivateLibrary(request)), CATALOG_SHARD) => library_catalog::activate(request, transaction)?,
            (Some(Kind::RollbackLibrary(request)), CATALOG_SHARD) => library_catalog::rollback(request, transaction)?,
            _ => return Ok(Evaluated { reply: evaluate(command, transaction)?, procedure: None }),
        };
        Ok(Evaluated { reply: Reply { kind: Some(kind) }, procedure: None })
    }

    fn call(&mut self, request: &CallRequest, transaction: &mut Transaction<'_>) -> Result<Evaluated, Failure> {
        let trace = request.trace.then(Trace::begin);
        let (version, outcome) = self.invoke(request, trace.as_ref(), transaction)?;
        let response = CallResponse { steps: trace.map(steps).unwrap_or_default(), ..call_response(version, outcome?) };
        Ok(Evaluated {
            reply: Reply { kind: Some(reply::Kind::Call(response)) },
            procedure: Some((request.procedure.clone(), version)),
        })
    }

    /// Evaluates a call and says what it would write.
    fn dry_run(&mut self, request: &CallRequest, transaction: &mut Transaction<'_>) -> Result<Evaluated, Failure> {
        let before = transaction.savepoint();
        let trace = Trace::begin();
        let (version, outcome) = self.invoke(request, Some(&trace), transaction)?;
        let written = match &outcome {
            Ok(_) => transaction.values_written_after(before)?,
            Err(_) => Vec::new(),
        };
        transaction.rollback_to(before);
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
        let reply = reply::Kind::Call(CallResponse { steps: steps(trace), dry_run, ..response });
        Ok(Evaluated { reply: Reply { kind: Some(reply) }, procedure: None })
    }

    /// Runs the procedure. The version that ran, and how that ended; what fails before it runs fails this.
    fn invoke(
        &mut self,
        request: &CallRequest,
        trace: Option<&Trace>,
        transaction: &mut Transaction<'_>,
    ) -> Result<(u64, Result<CallOutcome, Failure>), Failure> {
        let procedure = ProcedureName::parse(&request.procedure)?;
        let (state, shard_count) = self.catalog.at_least(transaction.head().catalog_index, CATALOG_WAIT)?;
        let view = cirrus_replication::StateView(&state);
        let (library, required) = chosen(&Committed(&view), &procedure, &request.key)?;
        let scope = ShardScope { shard_id: self.shard_id, shard_count };
        let invocation = Invocation {
            library: &library,
            required: &required,
            function: procedure.function,
            key: &request.key,
            args: &request.args,
            trace,
            dry_run: request.dry_run,
        };
        let began = Instant::now();
        let outcome = self.runtime.call(invocation, transaction, &scope);
        let named = (procedure.library, procedure.function);
        self.metrics.record(named, request, &outcome, began.elapsed(), transaction.write_set_bytes());
        Ok((library.version, outcome))
    }
}

fn call_response(library_version: u64, outcome: CallOutcome) -> CallResponse {
    CallResponse {
        result: outcome.result,
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

impl Evaluator for ShardEvaluator {
    fn evaluate(&mut self, command: &Command, transaction: &mut Transaction<'_>) -> Result<Evaluated, Failure> {
        if let Some(Kind::Call(request)) = &command.kind
            && request.dry_run
            && self.shard_id != CATALOG_SHARD
        {
            return self.dry_run(request, transaction);
        }
        if let Admission::Repeat(reply) = sessions::admit(transaction, command)? {
            return Ok(Evaluated { reply, procedure: None });
        }
        let before = transaction.savepoint();
        let evaluated = match self.run(command, transaction) {
            Ok(evaluated) => evaluated,
            // What a procedure answered, an error as well, is the answer to its request id.
            Err(failure) if is_procedures_answer(&failure) && sessions::request_id(command).is_some() => {
                transaction.rollback_to(before);
                Evaluated { reply: failure_reply(failure), procedure: None }
            }
            Err(failure) => return Err(failure),
        };
        sessions::remember(transaction, command, &evaluated.reply)?;
        Ok(evaluated)
    }

    fn may_run_long(&self, command: &Command) -> bool {
        matches!(command.kind, Some(Kind::Call(_)))
    }
}

fn is_procedures_answer(failure: &Failure) -> bool {
    matches!(failure.reason, Reason::ProcedureFailed | Reason::ProcedureReturnedNothing)
}

fn failure_reply(failure: Failure) -> Reply {
    Reply {
        kind: Some(reply::Kind::Failure(pb::CommandFailure {
            reason: failure.reason.as_str().to_owned(),
            message: failure.message,
            metadata: failure.metadata.into_iter().collect(),
        })),
    }
}

/// The version that a call runs, and what that requires.
fn chosen(
    reads: &dyn Reads,
    procedure: &ProcedureName<'_>,
    key: &[u8],
) -> Result<(LibrarySource, Vec<LibrarySource>), Failure> {
    let library = match procedure.version {
        Some(version) => library_catalog::version(reads, procedure.library, version)?,
        None => library_catalog::running(reads, procedure.library, key)?,
    };
    let library = library.into_source();
    let required = library_catalog::required(reads, &library)?;
    Ok((library, required))
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
