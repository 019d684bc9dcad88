//! Each tick of a schedule runs once, whatever leaders fail, sleep or are asked meanwhile; a schedule survives
//! everything but its deletion, and says how it went.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cirrus_client::Client;
use cirrus_proto::Reason;
use cirrus_proto::internal::v1::node_client::NodeClient as Internal;
use cirrus_proto::internal::v1::{Command, ExecuteRequest, RunSchedule, command, execute_request};
use cirrus_proto::v1::{
    DeleteScheduleRequest, ListSchedulesRequest, MissedTicks, ScheduleProcedureRequest, ScheduleStatus,
};
use cirrus_tests::cluster::{ClusterOptions, TestCluster};
use cirrus_tests::node_client::reason;
use cirrus_tests::outcome::TestResult;
use cirrus_tests::shards::keys_of_shard;
use cirrus_tests::wait::eventually;

/// `count` writes its tick down, and counts it; as the periodic functions of Tokyo Tyrant, it returns nothing.
const LIBRARY: &str = r#"
    function count(key, label, tick, due_ms)
        assert(label == "label" and tonumber(due_ms) <= now())
        kv.incr("{" .. key .. "}count")
        kv.append("{" .. key .. "}ticks", tick .. " ")
    end

    function fail(key, tick)
        kv.put("{" .. key .. "}written", tick)
        if tick == "1" then error("NOT_FOUND", "nothing to do at tick " .. tick, "IDLE") end
        while true do end
    end
"#;

const EVERY_MS: u64 = 200;
const WITHIN: Duration = Duration::from_secs(60);

fn schedule(name: &str, procedure: &str, key: &str, missed_ticks: MissedTicks) -> ScheduleProcedureRequest {
    ScheduleProcedureRequest {
        name: name.to_owned(),
        procedure: procedure.to_owned(),
        key: key.to_owned().into(),
        args: if procedure.ends_with("count") { vec!["label".into()] } else { Vec::new() },
        every_ms: EVERY_MS,
        missed_ticks: missed_ticks.into(),
        ..Default::default()
    }
}

/// The schedule, once its shard says how far it got.
async fn listed(client: &Client, name: &str) -> Result<ScheduleStatus> {
    let answer = client.list_schedules().await?;
    let named = |status: &ScheduleStatus| status.schedule.as_ref().is_some_and(|schedule| schedule.name == name);
    let status = answer.schedules.into_iter().find(named).with_context(|| format!("{name} is not listed"))?;
    ensure!(status.progress.is_some(), "its shard, {}, does not answer", status.shard_id);
    Ok(status)
}

/// Waits until the schedule has run so often in all.
async fn runs(client: &Client, name: &str, at_least: u64) -> Result<ScheduleStatus> {
    eventually(&format!("{name} ran {at_least} times"), WITHIN, async || {
        let status = listed(client, name).await?;
        let runs = status.progress.as_ref().unwrap().runs;
        ensure!(runs >= at_least, "it ran {runs} times");
        Ok(status)
    })
    .await
}

/// The ticks that the procedure wrote down, in its order, and how many it counted.
async fn ticks(client: &Client, key: &str) -> Result<(Vec<u64>, u64)> {
    let text = async |key: String| -> Result<String> { Ok(String::from_utf8(client.get(key).await?.value.to_vec())?) };
    let written = text(format!("{{{key}}}ticks")).await?;
    let count = text(format!("{{{key}}}count")).await?;
    let written: Result<Vec<u64>, _> = written.split_whitespace().map(str::parse).collect();
    Ok((written?, if count.is_empty() { 0 } else { count.parse()? }))
}

/// Asks every node for a turn of the schedules, again and again, as if each led their shard.
async fn ask_for_turns(endpoints: Vec<String>, shard_id: u32, names: Vec<String>) {
    let connect = |endpoint: &String| {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{endpoint}")).unwrap();
        Internal::new(endpoint.connect_lazy())
    };
    let nodes: Vec<_> = endpoints.iter().map(connect).collect();
    loop {
        for node in &nodes {
            for name in &names {
                let run = RunSchedule { name: name.clone(), ..Default::default() };
                let command = Command { kind: Some(command::Kind::RunSchedule(run)) };
                let kind = Some(execute_request::Kind::Command(command));
                let mut node = node.clone();
                // Most are refused; what is tested is that those that are not do no harm.
                let asked = node.execute(ExecuteRequest { shard_id, kind });
                let _ = tokio::time::timeout(Duration::from_millis(300), asked).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_leaders() -> TestResult {
    let mut cluster = TestCluster::start(ClusterOptions { shards: 2, ..ClusterOptions::default() }).await?;
    let client = cluster.client(true).await?;
    client.upload_library("ticks", LIBRARY).await?;
    let shard_id = cluster.shard_of("caught-up").await?;
    let skipping = keys_of_shard(&cluster.status().await?, shard_id, "skipping", 1).remove(0);
    let keys = [("all", "caught-up", MissedTicks::CatchUp), ("newest", skipping.as_str(), MissedTicks::Skip)];
    for (name, key, missed_ticks) in keys {
        let created = client.schedule_procedure(schedule(name, "ticks.count", key, missed_ticks)).await?;
        assert!(created.created);
    }
    let names = vec!["all".to_owned(), "newest".to_owned()];
    let asking = tokio::spawn(ask_for_turns(cluster.endpoints(), shard_id, names));

    for round in 0..3 {
        let before = runs(&client, "all", 8 * (round + 1)).await?.progress.unwrap();
        let leader = cluster.leader_of_shard(shard_id).await?;
        match round {
            // It wakes up deposed, and may be about to run a tick.
            1 => cluster.pause(leader)?,
            _ => cluster.kill9(leader).await?,
        }
        let next = cluster.next_leader_of_shard(shard_id, leader).await?;
        // More than were due in the meantime.
        let after = runs(&client, "all", before.runs + 8).await?.progress.unwrap();
        eprintln!("node {leader} led for {} runs, then node {next}; {} runs now", before.runs, after.runs);
        match round {
            1 => cluster.resume(leader)?,
            _ => cluster.restart(leader).await?,
        }
    }
    cluster.wait_ready().await?;
    let caught_up = eventually("it caught up", WITHIN, async || {
        let status = listed(&client, "all").await?;
        let run = status.progress.as_ref().and_then(|progress| progress.last_run.clone()).context("a run")?;
        ensure!(run.ran_at_ms - run.due_at_ms < 10 * EVERY_MS, "tick {} ran late", run.tick);
        Ok(status)
    })
    .await?;
    let (before, _) = ticks(&client, "caught-up").await?;
    let between = listed(&client, "all").await?;
    let (after, _) = ticks(&client, "caught-up").await?;
    let said = between.progress.unwrap().runs as usize;
    assert!(
        before.len() <= said && said <= after.len(),
        "{said} runs said, between {} and {}",
        before.len(),
        after.len()
    );
    assert!(between.next_tick >= caught_up.next_tick && between.next_due_at_ms > 0);
    asking.abort();

    // Every tick ran, in order, and once.
    let ended = client.delete_schedule("all").await?;
    assert!(ended.deleted);
    let progress = ended.progress.context("how far it got")?;
    let (all, all_count) = ticks(&client, "caught-up").await?;
    assert_eq!(all, (1..=all_count).collect::<Vec<u64>>(), "no gap, no tick twice");
    assert_eq!((progress.runs, progress.failures, progress.skipped), (all_count, 0, 0));
    assert_eq!(progress.last_run.unwrap().tick, all_count);

    // It runs no more, while the other one goes on in the same shard.
    let other = listed(&client, "newest").await?.progress.unwrap();
    runs(&client, "newest", other.runs + 5).await?;
    assert_eq!(ticks(&client, "caught-up").await?, (all, all_count));
    assert!(listed(&client, "all").await.is_err());
    assert!(!client.delete_schedule("all").await?.deleted);

    // The newest tick each time: some are left out, none runs twice.
    let progress = client.delete_schedule("newest").await?.progress.context("how far it got")?;
    let (written, count) = ticks(&client, &skipping).await?;
    assert!(written.is_sorted_by(|earlier, later| earlier < later), "{written:?}");
    assert_eq!((written.len() as u64, progress.runs, progress.failures), (count, count, 0));
    assert_eq!(written.last(), progress.last_run.as_ref().map(|run| &run.tick));
    assert_eq!(count + progress.skipped, *written.last().context("a tick")?, "each tick ran or was skipped");
    assert!(progress.skipped > 0, "an election takes longer than {EVERY_MS} ms");
    eprintln!("{all_count} ticks of one, all ran; of the other's {count} ran, {} were skipped", progress.skipped);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedules_outlive_their_nodes_and_a_name_may_come_back() -> TestResult {
    let mut cluster = TestCluster::start(ClusterOptions { shards: 2, ..ClusterOptions::default() }).await?;
    let client = cluster.client(true).await?;
    client.upload_library("ticks", LIBRARY).await?;
    let request = schedule("", "ticks.count", "k", MissedTicks::CatchUp);
    let created = client.schedule_procedure(request.clone()).await?.schedule.unwrap();
    assert_eq!(created.name, "ticks-count-k");
    runs(&client, &created.name, 3).await?;

    cluster.kill9_all().await?;
    for node_id in cluster.node_ids() {
        cluster.start_again(node_id)?;
    }
    cluster.wait_ready().await?;
    let client = cluster.client(true).await?;
    let before = listed(&client, &created.name).await?;
    assert_eq!(before.schedule, Some(created.clone()), "as it was");
    runs(&client, &created.name, before.progress.unwrap().runs + 3).await?;
    for node in cluster.all_nodes()? {
        let through_it = node.procedures.clone().list_schedules(ListSchedulesRequest {}).await?.into_inner();
        assert_eq!(through_it.schedules[0].schedule.as_ref(), Some(&created), "through {}", node.address);
    }

    // The same again changes nothing, another is refused, and what it calls stays.
    let again = client.schedule_procedure(request.clone()).await?;
    assert_eq!((again.created, again.schedule.as_ref()), (false, Some(&created)));
    let node = cluster.node(2)?;
    let other = ScheduleProcedureRequest { every_ms: 1000, name: created.name.clone(), ..request.clone() };
    let refused = node.procedures.clone().schedule_procedure(other).await.unwrap_err();
    assert_eq!(reason(&refused), Some(Reason::ScheduleExists), "{refused:?}");
    let unbounded = ScheduleProcedureRequest { every_ms: 99, ..request.clone() };
    let refused = node.procedures.clone().schedule_procedure(unbounded).await.unwrap_err();
    assert_eq!(reason(&refused), Some(Reason::InvalidField), "{refused:?}");
    let status = cluster.status().await?;
    let elsewhere = [1, 2].map(|shard_id| keys_of_shard(&status, shard_id, "key", 1).remove(0));
    let more_keys = elsewhere.into_iter().map(Into::into).collect();
    let scattered = ScheduleProcedureRequest { more_keys, ..request.clone() };
    let refused = node.procedures.clone().schedule_procedure(scattered).await.unwrap_err();
    assert_eq!(reason(&refused), Some(Reason::CrossShard), "{refused:?}");
    let in_use = client.delete_library("ticks", 0).await.unwrap_err();
    assert_eq!(in_use.reason_name(), "LIBRARY_IN_USE");

    // Through another node than the one that created it. Under its name another one begins at tick 1.
    let request_id = None;
    let deleted = DeleteScheduleRequest { name: created.name.clone(), request_id };
    let ended = node.procedures.clone().delete_schedule(deleted).await?.into_inner();
    let (written, count) = ticks(&client, "k").await?;
    assert_eq!((written, ended.progress.unwrap().runs), ((1..=count).collect(), count), "none was lost");
    let anew = client.schedule_procedure(request).await?.schedule.unwrap();
    assert!(anew.id > created.id);
    let status = runs(&client, &anew.name, 3).await?;
    client.delete_schedule(&anew.name).await?;
    let (written, _) = ticks(&client, "k").await?;
    let of_both: Vec<u64> = (1..=count).chain(1..=written.len() as u64 - count).collect();
    assert_eq!(written, of_both);
    assert!(status.progress.unwrap().runs <= written.len() as u64 - count);
    client.delete_library("ticks", 0).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_fails_says_why_and_goes_on() -> TestResult {
    let config = "[limits]\ncall_cpu_ms = 50\n".to_owned();
    let cluster = TestCluster::start(ClusterOptions { config, ..ClusterOptions::default() }).await?;
    let client = cluster.client(true).await?;
    client.upload_library("ticks", LIBRARY).await?;
    let created = client.schedule_procedure(schedule("fails", "ticks.fail", "f", MissedTicks::CatchUp)).await?;
    let mut seen = BTreeSet::new();
    let status = eventually("it failed in both ways", WITHIN, async || {
        let status = listed(&client, "fails").await?;
        let run = status.progress.as_ref().and_then(|progress| progress.last_run.clone()).context("a run")?;
        let failure = run.failure.context("a failure")?;
        if run.tick == 1 {
            ensure!(failure.message == "nothing to do at tick 1", "{failure:?}");
        }
        seen.insert(failure.reason);
        ensure!(seen.contains("CALL_TIMEOUT"), "only {seen:?}");
        Ok(status)
    })
    .await?;
    let progress = status.progress.unwrap();
    assert_eq!(progress.failures, progress.runs);
    assert!(!client.get("{f}written").await?.found, "a tick that fails leaves nothing");
    let leader = cluster.leader_of_shard(status.shard_id).await?;
    for metric in ["runs_total", "failures_total", "lateness_seconds_count"] {
        let name = format!("cirrus_schedule_{metric}");
        assert!(cluster.metric(leader, &name).await? >= 1.0, "{name}");
    }

    // A better version takes over at the next tick.
    client
        .upload_library("ticks", "function fail(key, tick) kv.put('{' .. key .. '}written', tick) return tick end")
        .await?;
    let run = eventually("it succeeds", WITHIN, async || {
        let run = listed(&client, "fails").await?.progress.and_then(|progress| progress.last_run).context("a run")?;
        ensure!(run.failure.is_none(), "{run:?}");
        Ok(run)
    })
    .await?;
    assert_eq!((run.library_version, run.result), (2, Some(run.tick.to_string().into())));
    let ended = client.delete_schedule("fails").await?;
    assert_eq!(ended.schedule, created.schedule);
    let written = client.get("{f}written").await?.value;
    assert_eq!(written, ended.progress.unwrap().last_run.unwrap().tick.to_string());
    Ok(())
}
