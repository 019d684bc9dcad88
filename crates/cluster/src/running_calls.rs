//! The calls that run now, on any node, and how one is killed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use cirrus_procedures::CallControl;
use cirrus_proto::Failure;
use cirrus_proto::internal::v1::{ExecuteRequest, execute_request, execute_response};
use cirrus_proto::v1::{
    KillCallRequest, KillCallResponse, ListRunningCallsRequest, ListRunningCallsResponse, RunningCall,
};
use parking_lot::Mutex;

use crate::node::ClusterNode;

/// This node's runtimes, by shard.
#[derive(Default)]
pub(crate) struct CallControls(Mutex<HashMap<u32, Arc<CallControl>>>);

impl CallControls {
    pub(crate) fn register(&self, shard_id: u32, control: Arc<CallControl>) {
        self.0.lock().insert(shard_id, control);
    }

    fn running(&self, node_id: u64) -> Vec<RunningCall> {
        let controls = self.0.lock();
        let running = controls.iter().filter_map(|(&shard_id, control)| Some((shard_id, control.running()?)));
        let calls = running.map(|(shard_id, call)| RunningCall {
            call_id: CallId { node_id, shard_id, sequence: call.sequence }.to_string(),
            node_id,
            shard_id,
            procedure: format!("{}.{}", call.library, call.function),
            library_version: call.version,
            key: call.key,
            running_us: call.began.elapsed().as_micros() as u64,
        });
        calls.collect()
    }

    fn kill(&self, id: &CallId) -> bool {
        self.0.lock().get(&id.shard_id).is_some_and(|control| control.kill(id.sequence))
    }
}

/// Names a call in the cluster. A node numbers its calls from a random start, so that an id from before a restart
/// names none of those after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CallId {
    node_id: u64,
    shard_id: u32,
    sequence: u64,
}

impl std::fmt::Display for CallId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}-{:x}", self.node_id, self.shard_id, self.sequence)
    }
}

impl CallId {
    fn parse(text: &str) -> Result<Self, Failure> {
        let mut parts = text.split('-');
        let parsed = (|| {
            let id = CallId {
                node_id: parts.next()?.parse().ok()?,
                shard_id: parts.next()?.parse().ok()?,
                sequence: u64::from_str_radix(parts.next()?, 16).ok()?,
            };
            parts.next().is_none().then_some(id)
        })();
        parsed.ok_or_else(|| {
            let text: String = text.chars().take(64).collect();
            Failure::invalid_field("call_id", format!("{text:?} is not what ListRunningCalls answers"))
        })
    }
}

impl ClusterNode {
    /// The calls that run on this node now.
    pub fn local_running_calls(&self) -> ListRunningCallsResponse {
        ListRunningCallsResponse { calls: self.calls.running(self.config.node_id), unreachable_node_ids: Vec::new() }
    }

    /// The calls that run on any node that answers before the deadline, the longest first.
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
                Some(response) => all.calls.extend(response.calls),
                None => all.unreachable_node_ids.push(id),
            }
        }
        all.calls.sort_by_key(|call| std::cmp::Reverse(call.running_us));
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
            CallId { node_id: 1, shard_id: 0, sequence: 0 },
            CallId { node_id: u64::MAX, shard_id: u32::MAX, sequence: u64::MAX },
        ] {
            assert_eq!(CallId::parse(&id.to_string()), Ok(id));
        }
        for text in ["", "1-2", "1-2-x", "1-2-3-4", "a-2-3", "1-4294967296-3", "1-2-10000000000000000"] {
            assert!(CallId::parse(text).is_err(), "{text}");
        }
    }
}
