//! Uploads, activations, rollbacks and calls from many clients while leaders are killed: a call runs a version that
//! was active while it ran, what was acknowledged stays, and every acknowledged call counted once.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cirrus_client::Client;
use cirrus_proto::v1::{ActivateLibraryRequest, CallRequest, RollbackLibraryRequest, UploadLibraryRequest};
use cirrus_tests::cluster::{ClusterOptions, TestCluster};
use cirrus_tests::outcome::TestResult;
use cirrus_tests::wait::eventually;
use tokio::task::JoinSet;

const LIBRARIES: usize = 4;
const CALLERS: usize = 8;
const REQUESTS: usize = 10_000;
const KILLS: usize = 3;
/// Uploads of one library, below the limit on its versions.
const UPLOADS: u64 = 100;

/// A version that says which one it is.
fn source(version: u64) -> String {
    format!("function run(key) return '{version} ' .. kv.incr(key) end")
}

/// A change of what is active, as its client saw it.
#[derive(Debug)]
struct Change {
    began: Instant,
    ended: Instant,
    active: u64,
}

#[derive(Debug)]
struct Call {
    began: Instant,
    ended: Instant,
    version: u64,
    sum: usize,
}

/// Changes what is active, again and again, alone for its library.
async fn change(client: Client, library: String, done: Arc<AtomicUsize>, stop: Arc<AtomicBool>) -> Result<Vec<Change>> {
    let (mut uploaded, mut active, mut changes) = (0, 0, Vec::new());
    for round in 0.. {
        if round > 0 && stop.load(Ordering::SeqCst) {
            break;
        }
        let began = Instant::now();
        let name = library.clone();
        active = match round % 4 {
            0 | 1 if uploaded < UPLOADS => {
                let stage_only = round % 4 == 1;
                let source = source(uploaded + 1).into_bytes().into();
                let request = UploadLibraryRequest { name, source, stage_only, ..Default::default() };
                let answer = client.upload_library_with(request).await.context("an upload")?;
                uploaded += 1;
                assert_eq!(answer.library.unwrap().version, uploaded, "an upload that is repeated happens once");
                let now = answer.activation.unwrap().active_version;
                assert_eq!(now, if stage_only { active } else { uploaded });
                now
            }
            3 => {
                let request = RollbackLibraryRequest { name, ..Default::default() };
                let answer = client.rollback_library(request).await.context("a rollback")?;
                assert_eq!(answer.undone.unwrap().active_version, active, "no activation but this client's");
                answer.activation.unwrap().active_version
            }
            _ => {
                let version = if round % 4 == 2 { uploaded } else { 1 + round % uploaded };
                let request = ActivateLibraryRequest { name, version, ..Default::default() };
                client.activate_library(request).await.context("an activation")?.activation.unwrap().active_version
            }
        };
        changes.push(Change { began, ended: Instant::now(), active });
        done.fetch_add(1, Ordering::SeqCst);
    }
    Ok(changes)
}

async fn call(
    client: Client,
    library: String,
    key: String,
    done: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> Result<Vec<Call>> {
    let mut calls = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let began = Instant::now();
        let request =
            CallRequest { procedure: format!("{library}.run"), key: key.clone().into(), ..Default::default() };
        let answer = client.call_with(request).await.context("a call")?;
        let ended = Instant::now();
        let text = String::from_utf8(answer.result.to_vec())?;
        let (version, sum) = text.split_once(' ').context("version and sum")?;
        let version = version.parse()?;
        assert_eq!(answer.library_version, version);
        calls.push(Call { began, ended, version, sum: sum.parse()? });
        done.fetch_add(1, Ordering::SeqCst);
    }
    Ok(calls)
}

/// Whether the version may have been active at some moment of the call: by the last change that was acknowledged
/// before it began, or by one that was under way later.
fn was_active(changes: &[Change], call: &Call) -> bool {
    let settled = changes.iter().rposition(|change| change.ended < call.began).unwrap_or(0);
    changes[settled..].iter().take_while(|change| change.began < call.ended).any(|change| change.active == call.version)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_runs_what_was_active() -> TestResult {
    let mut cluster = TestCluster::start(ClusterOptions { shards: 2, ..ClusterOptions::default() }).await?;
    let (done, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (mut changers, mut callers) = (JoinSet::new(), JoinSet::new());
    for library in 0..LIBRARIES {
        let name = format!("library{library}");
        let changer = change(cluster.client(true).await?, name.clone(), done.clone(), stop.clone());
        changers.spawn(async move { (library, changer.await) });
    }
    eventually("each library is there", Duration::from_secs(30), async || {
        let count = cluster.client(true).await?.list_libraries().await?.len();
        ensure!(count == LIBRARIES, "{count} libraries");
        Ok(())
    })
    .await?;
    for library in 0..LIBRARIES {
        for _ in 0..CALLERS {
            let (name, key) = (format!("library{library}"), format!("key{library}"));
            let caller = call(cluster.client(true).await?, name, key, done.clone(), stop.clone());
            callers.spawn(async move { (library, caller.await) });
        }
    }
    for kill in 1..=KILLS + 1 {
        eventually("the clients get on", Duration::from_secs(120), async || {
            let (count, enough) = (done.load(Ordering::SeqCst), REQUESTS * kill / (KILLS + 1));
            ensure!(count >= enough, "{count} requests are done");
            Ok(())
        })
        .await?;
        if kill <= KILLS {
            // The catalog's leader, then the data shards'.
            let leader = cluster.leader_of_shard(kill as u32 - 1).await?;
            cluster.kill9(leader).await?;
            cluster.restart(leader).await?;
        }
    }
    stop.store(true, Ordering::SeqCst);

    let mut changes: Vec<Vec<Change>> = (0..LIBRARIES).map(|_| Vec::new()).collect();
    while let Some(changer) = changers.join_next().await {
        let (library, of_library) = changer?;
        changes[library] = of_library?;
    }
    let mut sums: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); LIBRARIES];
    while let Some(caller) = callers.join_next().await {
        let (library, calls) = caller?;
        for call in calls? {
            assert!(was_active(&changes[library], &call), "{call:?} among {:#?}", changes[library]);
            assert!(sums[library].insert(call.sum), "the sum {} was given twice", call.sum);
        }
    }
    let made: usize = changes.iter().map(Vec::len).sum();
    eprintln!("{made} changes of versions, {} calls", sums.iter().map(BTreeSet::len).sum::<usize>());
    for library in 0..LIBRARIES {
        assert_eq!(sums[library], (1..=sums[library].len()).collect(), "every acknowledged call counted once");
        let value = cluster.node(1)?.value(&format!("key{library}")).await?;
        assert_eq!(value, Some(sums[library].len().to_string().into_bytes()));
        let listed = cluster.client(true).await?.list_library_versions(format!("library{library}")).await?;
        let last = changes[library].last().context("a change")?;
        assert_eq!(listed.activation.unwrap().active_version, last.active, "what was acknowledged last stays");
    }
    Ok(())
}

#[test]
fn a_version_that_was_not_active_is_noticed() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let change = |began, ended, active| Change { began: at(began), ended: at(ended), active };
    let changes = [change(0, 10, 1), change(20, 30, 2), change(40, 50, 1)];
    for (began, ended, version, expected) in [
        (12, 18, 1, true),
        (12, 18, 2, false),
        (12, 25, 2, true),
        (32, 38, 1, false),
        (32, 45, 1, true),
        (32, 60, 2, true),
        (55, 60, 2, false),
    ] {
        let call = Call { began: at(began), ended: at(ended), version, sum: 1 };
        assert_eq!(was_active(&changes, &call), expected, "{call:?}");
    }
}
