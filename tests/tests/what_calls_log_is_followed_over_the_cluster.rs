//! What calls log on any node reaches who follows it through any other, and nobody waits for them.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cirrus_client::LogEvent;
use cirrus_proto::Reason;
use cirrus_proto::v1::follow_logs_response::Event;
use cirrus_proto::v1::procedures_client::ProceduresClient;
use cirrus_proto::v1::{DroppedLogLines, FollowLogsRequest, FollowLogsResponse, FollowedNode, LogLevel, LogLine};
use cirrus_tests::cluster::{ClusterOptions, TestCluster, cirrus_binary};
use cirrus_tests::node_client::reason;
use cirrus_tests::outcome::TestResult;
use cirrus_tests::shards::keys_of_shard;
use cirrus_tests::wait::eventually;
use futures::StreamExt as _;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tonic::Streaming;
use tonic::transport::Endpoint;

/// How long something may take to be told, on a machine that is busy with other tests.
const TOLD_WITHIN: Duration = Duration::from_secs(30);

const LIBRARY: &str = "
    function levels(key, text)
        log.debug(text) log.info(text) log.warn(text) log.error(text) print(text) _log(text)
        return 'done'
    end
    function fails(key, text) log.warn(text) error('on purpose') end
    function endless(key, text) log.warn(text) while true do end end
    function many(key, text) for i = 1, 100 do log.info(i, text, string.rep('x', 900)) end return 'done' end
";

/// One follower's stream.
struct Follower {
    events: Streaming<FollowLogsResponse>,
    lines: Vec<LogLine>,
    dropped: u64,
    /// What was said of each node last.
    nodes: BTreeMap<u64, FollowedNode>,
}

impl Follower {
    async fn start(cluster: &TestCluster, node_id: u64, request: FollowLogsRequest) -> Result<Follower> {
        let endpoint = Endpoint::from_shared(format!("http://{}", cluster.endpoint(node_id)?))?;
        let events = ProceduresClient::new(endpoint.connect().await?).follow_logs(request).await?.into_inner();
        Ok(Follower { events, lines: Vec::new(), dropped: 0, nodes: BTreeMap::new() })
    }

    /// One that gets everything from all of these nodes from now on.
    async fn of_all(cluster: &TestCluster, node_id: u64, library: &str, level: LogLevel) -> Result<Follower> {
        let request =
            FollowLogsRequest { library: library.to_owned(), level: level.into(), follow: true, ..Default::default() };
        let mut follower = Follower::start(cluster, node_id, request).await?;
        let all = cluster.node_ids();
        follower.until("all nodes are followed", |follower| all.iter().all(|&id| follower.follows(id))).await?;
        Ok(follower)
    }

    fn follows(&self, node_id: u64) -> bool {
        self.nodes.get(&node_id).is_some_and(|node| node.followed)
    }

    /// The next event; false at the end of the stream.
    async fn next(&mut self) -> Result<bool> {
        match self
            .events
            .message()
            .await?
            .map(|response| response.event.context("an event without a kind"))
            .transpose()?
        {
            None => return Ok(false),
            Some(Event::Line(line)) => self.lines.push(line),
            Some(Event::Dropped(DroppedLogLines { lines, .. })) => self.dropped += lines,
            Some(Event::Node(node)) => drop(self.nodes.insert(node.node_id, node)),
        }
        Ok(true)
    }

    async fn until(&mut self, what: &str, mut condition: impl FnMut(&Follower) -> bool) -> Result<()> {
        let deadline = Instant::now() + TOLD_WITHIN;
        while !condition(self) {
            let told = tokio::time::timeout_at(deadline.into(), self.next()).await;
            let told = told.with_context(|| format!("waited until {what}: {} lines so far", self.lines.len()))?;
            ensure!(told?, "the stream ended before {what}");
        }
        Ok(())
    }

    /// The texts so far, and no more than these: the library `end` logs the last of them.
    fn texts(&self) -> BTreeMap<&str, usize> {
        let mut texts = BTreeMap::new();
        for line in &self.lines {
            *texts.entry(line.text.as_str()).or_default() += 1;
        }
        texts
    }
}

/// The lines that the nodes kept.
async fn kept(cluster: &TestCluster, node_id: u64, request: FollowLogsRequest) -> Result<Follower> {
    let mut follower = Follower::start(cluster, node_id, request).await?;
    while follower.next().await? {}
    Ok(follower)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_all_shards_reach_each_follower_once() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    cluster.wait_spread().await?;
    let (status, nodes) = (cluster.status().await?, cluster.all_nodes()?);
    for library in ["talks", "other"] {
        nodes[0].upload(library, LIBRARY).await?;
    }
    let mut everything = Follower::of_all(&cluster, 1, "", LogLevel::Unspecified).await?;
    let mut warnings = Follower::of_all(&cluster, 2, "talks", LogLevel::Warn).await?;
    let mut others = Follower::of_all(&cluster, 3, "other", LogLevel::Unspecified).await?;
    let mut leaders = BTreeMap::new();
    for shard_id in 1..=4 {
        leaders.insert(shard_id, cluster.leader_of_shard(shard_id).await?);
        let key = &keys_of_shard(&status, shard_id, "k", 1)[0];
        let node = &nodes[shard_id as usize % 3];
        node.call("talks.levels", key, &[&format!("levels {shard_id}")]).await?;
        node.call("other.levels", key, &[&format!("other {shard_id}")]).await?;
        for (procedure, text, expected) in [
            ("talks.fails", format!("fails {shard_id}"), Reason::ProcedureFailed),
            ("talks.endless", format!("endless {shard_id}"), Reason::CallTimeout),
        ] {
            let failed = node.call(procedure, key, &[&text]).await.unwrap_err();
            assert_eq!(reason(&failed), Some(expected), "{failed:?}");
        }
    }
    everything.until("every line came", |all| all.lines.len() >= 4 * (6 + 6 + 1 + 1)).await?;
    warnings.until("every warning came", |all| all.lines.len() >= 4 * (2 + 1 + 1)).await?;
    others.until("every line of the other came", |all| all.lines.len() >= 4 * 6).await?;
    for shard_id in 1..=4 {
        let texts = ["levels", "fails", "endless", "other"].map(|what| format!("{what} {shard_id}"));
        let counts = |follower: &Follower| texts.each_ref().map(|text| follower.texts().get(&**text).copied());
        assert_eq!(counts(&everything), [Some(6), Some(1), Some(1), Some(6)]);
        assert_eq!(counts(&warnings), [Some(2), Some(1), Some(1), None]);
        assert_eq!(counts(&others), [None, None, None, Some(6)]);
    }
    let one: Vec<&LogLine> = everything.lines.iter().filter(|line| line.text == "levels 2").collect();
    let levels: Vec<LogLevel> = one.iter().map(|line| line.level()).collect();
    use LogLevel::{Debug, Error, Info, Warn};
    assert_eq!(levels, [Debug, Info, Warn, Error, Info, Info], "in the order of the call");
    for line in one {
        assert_eq!((line.node_id, line.shard_id), (leaders[&2], 2));
        assert_eq!((line.library.as_str(), line.library_version, line.function.as_str()), ("talks", 1, "levels"));
        assert!(line.time_ms > 1_600_000_000_000, "{line:?}");
    }
    assert_eq!((everything.dropped, warnings.dropped, others.dropped), (0, 0, 0));

    // Without following, the kept lines of all nodes, by time.
    let all = kept(&cluster, 3, FollowLogsRequest::default()).await?;
    assert_eq!(all.texts(), everything.texts());
    assert!(all.lines.is_sorted_by_key(|line| line.time_ms));
    let writers: BTreeSet<u64> = all.lines.iter().map(|line| line.node_id).collect();
    assert_eq!(writers, leaders.values().copied().collect());
    let request =
        FollowLogsRequest { library: "talks".to_owned(), level: Warn.into(), last: Some(3), ..Default::default() };
    let last = kept(&cluster, 1, request).await?;
    assert_eq!(last.lines.len(), 3);
    assert_eq!(
        last.lines,
        all.lines.iter().filter(|line| line.library == "talks" && line.level() >= Warn).cloned().collect::<Vec<_>>()
            [13..]
    );
    for (request, field) in [
        (FollowLogsRequest { level: 9, ..Default::default() }, "level"),
        (FollowLogsRequest { library: "x".repeat(65), ..Default::default() }, "library"),
    ] {
        let refused = Follower::start(&cluster, 1, request).await.err().unwrap();
        let refused: &tonic::Status = refused.downcast_ref().unwrap();
        assert_eq!(reason(refused), Some(Reason::InvalidField), "{field}: {refused:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_bounded_and_says_so() -> TestResult {
    const LINES_PER_SECOND: u64 = 200;
    const CALLS: u64 = 100;
    let config = format!("[procedures]\nlog_lines_per_second = {LINES_PER_SECOND}\nlog_lines_kept = 50\n");
    let cluster = TestCluster::start(ClusterOptions { config, ..Default::default() }).await?;
    cluster.wait_spread().await?;
    let node = cluster.node(1)?;
    node.upload("talks", LIBRARY).await?;
    let mut follower = Follower::of_all(&cluster, 2, "", LogLevel::Unspecified).await?;
    // This one never reads what it asked for.
    let idle = Follower::of_all(&cluster, 3, "", LogLevel::Unspecified).await?;
    let began = Instant::now();
    for number in 0..CALLS {
        node.call("talks.many", "key", &[&number.to_string()]).await?;
    }
    follower.until("all lines came or were counted", |all| all.lines.len() as u64 + all.dropped >= CALLS * 100).await?;
    let (lines, dropped) = (follower.lines.len() as u64, follower.dropped);
    eprintln!("{lines} lines and {dropped} dropped in {:?}", began.elapsed());
    assert_eq!(lines + dropped, CALLS * 100);
    let allowed = LINES_PER_SECOND + (began.elapsed().as_secs_f64() * LINES_PER_SECOND as f64) as u64 + 1;
    assert!((LINES_PER_SECOND..=allowed).contains(&lines) && dropped > 0, "{lines} of {allowed}");
    let node_id = follower.lines[0].node_id;
    assert!(cluster.metric(node_id, "cirrus_call_log_lines_dropped_total").await? >= dropped as f64);
    assert_eq!(kept(&cluster, 1, FollowLogsRequest::default()).await?.lines.len(), 50);
    drop(idle);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_lost_is_reported_and_followed_again() -> TestResult {
    let mut cluster = TestCluster::three_nodes().await?;
    cluster.node(1)?.upload("talks", LIBRARY).await?;
    let mut follower = Follower::of_all(&cluster, 1, "talks", LogLevel::Unspecified).await?;
    let mut client_events =
        cluster.client(true).await?.follow_logs(FollowLogsRequest { follow: true, ..Default::default() });
    cluster.kill9(3).await?;
    follower.until("the loss of node 3 is told", |all| !all.follows(3)).await?;
    assert!(!follower.nodes[&3].problem.is_empty());
    let gone = kept(&cluster, 2, FollowLogsRequest::default()).await?;
    assert!(gone.nodes.len() == 1 && !gone.nodes[&3].followed, "{:?}", gone.nodes);
    cluster.restart(3).await?;
    follower.until("node 3 is followed again", |all| all.follows(3)).await?;

    // Whichever node serves the client, it goes on with another one.
    eventually("the client's stream is served", TOLD_WITHIN, async || {
        cluster.node(1)?.call("talks.levels", "key", &["begun"]).await?;
        let event = tokio::time::timeout(Duration::from_secs(1), client_events.next()).await?.context("it ended")??;
        ensure!(matches!(&event, LogEvent::Line(_)), "{event:?}");
        Ok(())
    })
    .await?;
    for node_id in [1, 2, 3] {
        cluster.kill9(node_id).await?;
        cluster.restart(node_id).await?;
        cluster.wait_ready().await?;
    }
    let client = cluster.client(true).await?;
    let (mut interruptions, deadline) = (0, Instant::now() + TOLD_WITHIN);
    loop {
        // The stream may be about to find out that its node was lost, and miss a line.
        client.call("talks.levels", "key", vec!["still there".into()]).await?;
        let heard = loop {
            match tokio::time::timeout(Duration::from_secs(1), client_events.next()).await {
                Err(_) => break false,
                Ok(None) => panic!("the stream ended"),
                Ok(Some(event)) => match event? {
                    LogEvent::Line(line) if line.text == "still there" => break true,
                    LogEvent::Interrupted(_) => interruptions += 1,
                    _ => {}
                },
            }
        };
        if heard {
            break;
        }
        assert!(Instant::now() < deadline, "nothing is heard after {interruptions} interruptions");
    }
    assert!(interruptions > 0, "some node served the stream");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_prints_a_line_for_each() -> TestResult {
    let cluster = TestCluster::three_nodes().await?;
    let node = cluster.node(1)?;
    node.upload("talks", LIBRARY).await?;
    let command = |arguments: &[&str]| -> Result<tokio::process::Command> {
        let mut command = tokio::process::Command::new(cirrus_binary()?);
        command.args(["proc", "logs"]).args(arguments).env("CIRRUS_ENDPOINTS", cluster.endpoints().join(","));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        Ok(command)
    };
    let mut following = command(&["talks", "--follow", "--level", "warn", "-o", "json"])?.spawn()?;
    let mut lines = BufReader::new(following.stdout.take().context("its output")?).lines();
    let mut next = async || -> Result<Value> {
        let line = tokio::time::timeout(TOLD_WITHIN, lines.next_line()).await.context("no line came")??;
        Ok(serde_json::from_str(&line.context("it ended")?)?)
    };
    for _ in 0..3 {
        assert_eq!(next().await?["followed"], true);
    }
    node.call("talks.levels", "key", &["two\nlines"]).await?;
    for level in ["warn", "error"] {
        let line = next().await?;
        assert_eq!((&line["level"], &line["text"]), (&level.into(), &"two\nlines".into()), "{line}");
        assert_eq!((&line["library"], &line["function"]), (&"talks".into(), &"levels".into()), "{line}");
    }
    following.kill().await?;
    let printed = command(&["--last", "2"])?.output().await?;
    let printed = String::from_utf8(printed.stdout)?;
    assert_eq!(printed.lines().count(), 2, "{printed}");
    assert!(
        printed.lines().all(|line| line.contains(" INFO ") && line.ends_with(" talks@1.levels: two\\nlines")),
        "{printed}"
    );
    Ok(())
}
