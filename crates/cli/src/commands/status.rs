//! `cirrus status`

use std::process::ExitCode;

use cirrus_client::v1::{ShardStatus, StatusResponse};
use serde_json::{Value, json};

use super::Outcome;
use crate::arguments::{Format, Global};
use crate::output;

pub(crate) async fn run(global: &Global) -> Outcome {
    let status = global.client().await?.status().await?;
    match global.output {
        Format::Json => output::json(&object(&status))?,
        Format::Table => print(&status)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print(status: &StatusResponse) -> std::io::Result<()> {
    if status.cluster_id.is_empty() {
        output::line(format!("node {} does not belong to a cluster yet", status.answering_node_id))?;
    } else {
        output::line(format!(
            "cluster {}, feature level {}, as node {} (version {}) sees it\n",
            status.cluster_id, status.feature_level, status.answering_node_id, status.version
        ))?;
    }
    let mut nodes = output::table(["NODE", "ADDRESS", "HTTP", "REACHABLE"]);
    for node in &status.nodes {
        let reachable = if node.reachable { "yes" } else { "no" };
        nodes.add_row([&node.node_id.to_string(), &node.address, &node.http_address, reachable]);
    }
    output::print_table(&nodes)?;
    output::line("")?;
    let mut shards =
        output::table(["SHARD", "SLOTS", "LEADER", "TERM", "VOTERS", "LEARNERS", "ROLE", "APPLIED", "LAST", "DISK"]);
    for shard in &status.shards {
        shards.add_row(shard_row(shard));
    }
    output::print_table(&shards)
}

fn shard_row(shard: &ShardStatus) -> [String; 10] {
    let slots: Vec<_> = shard.slots.iter().map(|range| format!("{}-{}", range.first, range.last)).collect();
    [
        shard.shard_id.to_string(),
        if slots.is_empty() { "catalog".to_owned() } else { slots.join(",") },
        if shard.leader_node_id == 0 { "none".to_owned() } else { shard.leader_node_id.to_string() },
        shard.term.to_string(),
        node_ids(&shard.voters),
        node_ids(&shard.learners),
        shard.role.clone(),
        shard.applied_index.to_string(),
        shard.last_log_index.to_string(),
        megabytes(shard.state_disk_bytes),
    ]
}

/// As "1.2 MB".
fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn node_ids(ids: &[u64]) -> String {
    if ids.is_empty() {
        return "-".to_owned();
    }
    ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

fn object(status: &StatusResponse) -> Value {
    let nodes = status.nodes.iter().map(|node| {
        json!({
            "node_id": node.node_id,
            "address": node.address,
            "http_address": node.http_address,
            "reachable": node.reachable,
        })
    });
    let shards = status.shards.iter().map(|shard| {
        let slots = shard.slots.iter().map(|range| json!({ "first": range.first, "last": range.last }));
        json!({
            "shard_id": shard.shard_id,
            "slots": slots.collect::<Vec<_>>(),
            "leader_node_id": shard.leader_node_id,
            "term": shard.term,
            "voters": shard.voters,
            "learners": shard.learners,
            "role": shard.role,
            "applied_index": shard.applied_index,
            "last_log_index": shard.last_log_index,
            "state_disk_bytes": shard.state_disk_bytes,
            "state_memory_bytes": shard.state_memory_bytes,
        })
    });
    json!({
        "cluster_id": status.cluster_id,
        "version": status.version,
        "feature_level": status.feature_level,
        "answering_node_id": status.answering_node_id,
        "nodes": nodes.collect::<Vec<_>>(),
        "shards": shards.collect::<Vec<_>>(),
    })
}
