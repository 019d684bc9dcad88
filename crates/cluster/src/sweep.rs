//! Giving back the room of what has expired: each shard's leader proposes the deletions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cirrus_engine::{Transaction, evaluate};
use cirrus_proto::internal::v1::command::Kind;
use cirrus_proto::internal::v1::{Command, SweepExpired, reply};
use cirrus_proto::{Advice, Failure};
use cirrus_replication::{Shard, head_now};

use crate::node::ClusterNode;

const TICK: Duration = Duration::from_millis(500);
/// Things that one sweep removes at most, so that it never holds a shard up for long.
const SWEEP_LIMIT: u32 = 1000;
const COMMAND_BOUND: Duration = Duration::from_secs(5);

/// Runs until the node stops.
pub(crate) async fn run(node: Arc<ClusterNode>) {
    loop {
        tokio::time::sleep(TICK).await;
        for (shard_id, shard) in node.replication.shards() {
            if !shard.leads() {
                continue;
            }
            match sweep(&node, &shard).await {
                Ok(()) => {}
                Err(failure) if failure.advice() == Advice::Report => {
                    tracing::error!(shard = shard_id, %failure, "sweep failed");
                }
                // Leadership moved, or the shard is busy: the next tick looks again.
                Err(failure) => tracing::debug!(shard = shard_id, %failure, "sweep put off"),
            }
        }
    }
}

async fn sweep(node: &ClusterNode, shard: &Shard) -> Result<(), Failure> {
    // An idle shard writes no log: the command is proposed only once there is something to remove.
    while is_due(node, shard)? {
        let outcome = shard.execute(sweep_command(SWEEP_LIMIT), Instant::now() + COMMAND_BOUND).await?;
        let Some(reply::Kind::Sweep(swept)) = outcome.reply.kind else {
            return Err(Failure::internal("a sweep answered with something else"));
        };
        metrics::counter!("cirrus_expired_total", "shard" => shard.id().to_string()).increment(swept.removed.into());
        if !swept.more {
            break;
        }
    }
    Ok(())
}

fn sweep_command(limit: u32) -> Command {
    Command { kind: Some(Kind::SweepExpired(SweepExpired { limit })) }
}

/// Evaluates a sweep of one thing against the applied state, and throws its effects away.
fn is_due(node: &ClusterNode, shard: &Shard) -> Result<bool, Failure> {
    let view = shard.view();
    let head = head_now(&view)?;
    let mut transaction = Transaction::new(&view, head, node.limits());
    let reply = evaluate(&sweep_command(1), &mut transaction)?;
    Ok(matches!(reply.kind, Some(reply::Kind::Sweep(outcome)) if outcome.removed > 0))
}
