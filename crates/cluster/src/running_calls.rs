//! The calls that run now, on any node, and how one is killed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use cirrus_procedures::CallControl;
use cirrus_proto::Failure;
use cirrus_proto::internal::v1::{ExecuteRequest, execute_request, execute_response};
use cirrus_proto::routing::shard_of_key;
use cirrus_proto::v1::{
    KillCallRequest, KillCallResponse, ListRunningCallsRequest, ListRunningCallsResponse, RunningCall,
};
use parking_lot::Mutex;

use crate::node::ClusterNode;

/// One of a node's runtimes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RuntimeId {
    /// Of that shard's executor.
    Shard(u32),
    /// One of those for read-only calls.
    Reader(u32),
}

/// This node's runtimes.
#[derive(Default)]
pub(crate) struct CallControls(Mutex<HashMap<RuntimeId, Arc<CallControl>>>);

impl CallControls {
    pub(crate) fn register(&self, runtime: RuntimeId, control: Arc<CallControl>) {
        self.0.lock().insert(runtime, control);
    }

    fn running(&self, node_id: u64, shard_count: u32) -> Vec<RunningCall> {
        let controls = self.0.lock();
        let running = controls.iter().filter_map(|(&runtime, control)| Some((runtime, control.running()?)));
        let calls = running.map(|(runtime, call)| RunningCall {
            call_id: CallId { node_id, runtime, sequence: call.sequence }.to_string(),
            node_id,
            shard_id: match runtime {
                RuntimeId::Shard(shard_id) => shard_id,
                RuntimeId::Reader(_) => shard_of_key(&call.key, shard_count),
            },
            procedure: format!("{}.{}", call.library, call.function),
            library_version: call.version,
            key: call.key,
            running_us: call.began.elapsed().as_micros() as u64,
        });
        calls.collect()
    }

    fn kill(&self, id: &CallId) -> bool {
        self.0.lock().get(&id.runtime).is_some_and(|control| control.kill(id.sequence))
    }
}

/// Names a call in the cluster. A node numbers its calls from a random start, so that an id from before a restart
/// names none of those after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CallId {
    node_id: u64,
    runtime: RuntimeId,
    sequence: u64,
}

/// "1-5-9f" in shard 5's runtime, "1-r5-9f" in the fifth for read-only calls.
impl std::fmt::Display for CallId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, number) = match self.runtime {
            RuntimeId::Shard(shard_id) => ("", shard_id),
            RuntimeId::Reader(number) => ("r", number),
        };
        write!(f, "{}-{kind}{number}-{:x}", self.node_id, self.sequence)
    }
}

impl CallId {
    fn parse(text: &str) -> Result<Self, Failure> {
        let mut parts = text.split('-');
        let parsed = (|| {
            let node_id = parts.next()?.parse().ok()?;
            let runtime = parts.next()?;
            let runtime = match runtime.strip_prefix('r') {
                Some(number) => RuntimeId::Reader(number.parse().ok()?),
                None => RuntimeId::Shard(runtime.parse().ok()?),
            };
            let id = CallId { node_id, runtime, sequence: u64::from_str_radix(parts.next()?, 16).ok()? };
            parts.next().is_none().then_some(id)
        })();
        parsed.ok_or_else(|| {
            let text: String = text.chars().take(64).collect();
            Failure::invalid_field("call_id", format!("{text:?} is not what ListRunningCalls answers"))
        })
    }
}

impl ClusterNode {
    /// The calls that run on this node now, and what it has suspended.
    pub fn local_running_calls(&self) -> ListRunningCallsResponse {
        let node_id = self.config.node_id;
        // A node that belongs to no cluster runs no calls.
        let calls = self.membership.get().map(|cluster| self.calls.running(node_id, cluster.shard_count));
        ListRunningCallsResponse {
            calls: calls.unwrap_or_default(),
            unreachable_node_ids: Vec::new(),
            suspended: self.governor.suspended(node_id, Instant::now()),
        }
    }

    /// The calls that run on any node that answers before the deadline, the longest first, and what these nodes have
    /// suspended.
    pub async fn list_running_calls(&self, deadline: Instant) -> ListRunningCallsResponse {
        let asked = self.members().into_iter().map(|(id, node)| async move {
            if id == self.config.node_id {
                return (id, Some(self.local_running_calls()));
            }
            let kind = Some(execute_request::Kind::ListRunningCalls(ListRunningCallsRequest {}));
            match self.forwarder.execute(&node.address, ExecuteRequest { shard_id: 0, kind }, deadline).await {
                Ok(answer) => match answer.kind {
                    Some(execute_response::Kind::ListRunningCalls(response)) => (id, Some(response)),
                    _ => (id, None),
                },
                Err(failure) => {
                    tracing::debug!(node = id, %failure, "does not say which calls it runs");
                    (id, None)
                }
            }
        });
        let mut all = ListRunningCallsResponse::default();
        for (id, response) in futures::future::join_all(asked).await {
            match response {
                Some(response) => {
                    all.calls.extend(response.calls);
                    all.suspended.extend(response.suspended);
                }
                None => all.unreachable_node_ids.push(id),
            }
        }
        all.calls.sort_by_key(|call| std::cmp::Reverse(call.running_us));
        // Of one procedure, the nodes follow in the order in which they were asked.
        all.suspended.sort_by(|a, b| a.procedure.cmp(&b.procedure));
        all
    }

    /// Kills a call, on this node or, if `may_forward`, on another. It leaves no effect.
    ///
    /// # Errors
    /// INVALID_FIELD for an id that is none, or of a node that is not in the cluster; those of a forwarded request.
    pub async fn kill_call(
        &self,
        request: KillCallRequest,
        deadline: Instant,
        may_forward: bool,
    ) -> Result<KillCallResponse, Failure> {
        let id = CallId::parse(&request.call_id)?;
        if id.node_id == self.config.node_id {
            return Ok(KillCallResponse { killed: self.calls.kill(&id) });
        }
        let members = self.members();
        let Some(node) = members.get(&id.node_id).filter(|_| may_forward) else {
            return Err(Failure::invalid_field("call_id", format!("there is no node {}", id.node_id)));
        };
        let kind = Some(execute_request::Kind::KillCall(request));
        let answer = self.forwarder.execute(&node.address, ExecuteRequest { shard_id: 0, kind }, deadline).await?;
        match answer.kind {
            Some(execute_response::Kind::KillCall(response)) => Ok(response),
            other => Err(Failure::internal(format!("{} answered a kill with {other:?}", node.address))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_as_it_was_written() {
        for id in [
            CallId { node_id: 1, runtime: RuntimeId::Shard(0), sequence: 0 },
            CallId { node_id: 1, runtime: RuntimeId::Reader(3), sequence: 7 },
            CallId { node_id: u64::MAX, runtime: RuntimeId::Shard(u32::MAX), sequence: u64::MAX },
        ] {
            assert_eq!(CallId::parse(&id.to_string()), Ok(id));
        }
        for text in ["", "1-2", "1-2-x", "1-2-3-4", "a-2-3", "1-4294967296-3", "1-2-10000000000000000"] {
            assert!(CallId::parse(text).is_err(), "{text}");
        }
    }
}
