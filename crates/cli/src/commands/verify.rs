//! `cirrus cluster verify`

use std::process::ExitCode;

use cirrus_client::v1::{VerifiedReplica, VerifyOutcome, VerifyRequest, VerifyResponse};
use serde_json::{Value, json};

use super::Outcome;
use crate::arguments::{Format, Global, VerifyArgs};
use crate::failure::CommandError;
use crate::output;

/// Digits of a hash that a table shows.
const HASH_DIGITS: usize = 16;

pub(crate) async fn run(global: &Global, args: VerifyArgs) -> Outcome {
    // 0 leaves the rate to the node.
    let request = VerifyRequest { shard_ids: args.shard, bytes_per_second: args.rate_mib.unwrap_or(0) << 20 };
    let mut shards = Vec::new();
    global.client().await?.verify(request, |shard| shards.push(shard)).await?;
    match global.output {
        Format::Json => output::json(&object(&shards))?,
        Format::Table => print(&shards)?,
    }
    verdict(&shards)
}

/// Exit 1 says that replicas differ, which is what was asked; where some could not be compared, nobody can say.
fn verdict(shards: &[VerifyResponse]) -> Outcome {
    let named = |outcome: VerifyOutcome| {
        let shards = shards.iter().filter(|shard| shard.outcome() == outcome).map(|shard| shard.shard_id.to_string());
        shards.collect::<Vec<_>>().join(", ")
    };
    let (different, incomplete) = (named(VerifyOutcome::Different), named(VerifyOutcome::Incomplete));
    if !different.is_empty() {
        let text = format!("the replicas of these shards differ: {different}");
        return Err(CommandError::local(text).with("shards", different).into_answer());
    }
    if !incomplete.is_empty() {
        let text = format!("not all replicas of these shards could be compared: {incomplete}");
        return Err(CommandError::local(text).with("shards", incomplete));
    }
    Ok(ExitCode::SUCCESS)
}

fn name(outcome: VerifyOutcome) -> &'static str {
    match outcome {
        VerifyOutcome::Identical => "identical",
        VerifyOutcome::Different => "different",
        VerifyOutcome::Incomplete => "incomplete",
        VerifyOutcome::Unspecified => "unknown",
    }
}

fn hexadecimal(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn print(shards: &[VerifyResponse]) -> std::io::Result<()> {
    let mut table = output::table(["SHARD", "OUTCOME", "INDEX", "NODE", "KEYS", "BYTES", "HASH"]);
    for shard in shards {
        for replica in &shard.replicas {
            table.add_row(row(shard, replica));
        }
    }
    output::print_table(&table)
}

fn row(shard: &VerifyResponse, replica: &VerifiedReplica) -> [String; 7] {
    let compared = replica.problem.is_empty();
    let number = |number: u64| if compared { number.to_string() } else { "-".to_owned() };
    [
        shard.shard_id.to_string(),
        name(shard.outcome()).to_owned(),
        number(shard.log_index),
        replica.node_id.to_string(),
        number(replica.keys),
        number(replica.bytes),
        if compared { hexadecimal(&replica.hash).chars().take(HASH_DIGITS).collect() } else { replica.problem.clone() },
    ]
}

fn object(shards: &[VerifyResponse]) -> Value {
    let replica = |replica: &VerifiedReplica| match replica.problem.is_empty() {
        true => json!({
            "node_id": replica.node_id,
            "hash": hexadecimal(&replica.hash),
            "keys": replica.keys,
            "bytes": replica.bytes,
        }),
        false => json!({ "node_id": replica.node_id, "problem": replica.problem }),
    };
    let shard = |shard: &VerifyResponse| {
        json!({
            "shard_id": shard.shard_id,
            "outcome": name(shard.outcome()),
            "log_index": shard.log_index,
            "replicas": shard.replicas.iter().map(replica).collect::<Vec<_>>(),
        })
    };
    let identical = shards.iter().all(|shard| shard.outcome() == VerifyOutcome::Identical);
    json!({ "identical": identical, "shards": shards.iter().map(shard).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shard(shard_id: u32, outcome: VerifyOutcome) -> VerifyResponse {
        let replica =
            VerifiedReplica { node_id: 1, hash: vec![0xab; 32].into(), keys: 2, bytes: 9, problem: String::new() };
        let lost = VerifiedReplica { node_id: 2, problem: "NO_LEADER: down".to_owned(), ..Default::default() };
        VerifyResponse { shard_id, outcome: outcome.into(), log_index: 7, replicas: vec![replica, lost] }
    }

    #[test]
    fn a_difference_is_an_answer_and_what_is_not_known_is_trouble() {
        let identical = shard(0, VerifyOutcome::Identical);
        assert!(verdict(std::slice::from_ref(&identical)).is_ok());
        let incomplete = [identical.clone(), shard(1, VerifyOutcome::Incomplete)];
        assert_eq!(verdict(&incomplete).unwrap_err().report(Format::Json), ExitCode::from(2));
        let different = [incomplete[1].clone(), shard(2, VerifyOutcome::Different), shard(3, VerifyOutcome::Different)];
        let error = verdict(&different).unwrap_err();
        assert!(format!("{error:?}").contains("differ: 2, 3"), "{error:?}");
        assert_eq!(error.report(Format::Table), ExitCode::from(1));
        assert_eq!(object(&different)["identical"], false);
        assert_eq!(object(&[identical])["identical"], true);
    }

    #[test]
    fn a_row_shows_a_hash_or_why_there_is_none() {
        let shard = shard(3, VerifyOutcome::Incomplete);
        let rows: Vec<_> = shard.replicas.iter().map(|replica| row(&shard, replica)).collect();
        assert_eq!(rows[0], ["3", "incomplete", "7", "1", "2", "9", "abababababababab"]);
        assert_eq!(rows[1], ["3", "incomplete", "-", "2", "-", "-", "NO_LEADER: down"]);
    }
}
