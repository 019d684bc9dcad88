//! What calls log, on all nodes, for who follows it through one of them.
//!
//! That node follows each node, itself among them, and passes on what they tell. A node that is not reached is reported
//! once and tried again. Whatever waits is bounded: where the follower is slow, messages of the nodes wait in their
//! connections and then in the nodes, which drop lines and say how many (`log_book.rs`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cirrus_proto::Failure;
use cirrus_proto::internal::v1::FollowLocalLogsResponse;
use cirrus_proto::v1::follow_logs_response::Event;
use cirrus_proto::v1::{DroppedLogLines, FollowLogsRequest, FollowLogsResponse, FollowedNode, LogLine};
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::log_book::{kept_messages, last_of};
use crate::node::ClusterNode;

/// Events that wait for the follower.
const EVENTS_AHEAD: usize = 256;

/// Messages of nodes that wait to become events.
const MESSAGES_AHEAD: usize = 16;

/// How long lines that nodes kept are waited for, so that they can be told in the order of their times.
const GATHER_BOUND: Duration = Duration::from_secs(2);

/// How long a node may take until its first message.
const BEGIN_BOUND: Duration = Duration::from_secs(3);

/// How soon a node that was lost is tried again, and how often nodes that are new are looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What a node tells, message by message.
type Messages = BoxStream<'static, Result<FollowLocalLogsResponse, Failure>>;

/// News of one node.
enum News {
    Kept(Vec<LogLine>),
    /// All that it kept was told; what follows is new.
    Began,
    Written(FollowLocalLogsResponse),
    Lost(Failure),
}

impl ClusterNode {
    /// What calls on this node log: first what it kept, in messages of which the last has `more_kept` unset.
    ///
    /// # Errors
    /// TOO_MANY_REQUESTS where too many follow.
    pub fn follow_local_logs(&self, request: &FollowLogsRequest) -> Result<Messages, Failure> {
        let (kept, following) = self.log_book.read(request)?;
        let kept = stream::iter(kept_messages(kept));
        let written = stream::unfold(following, |following| async move {
            let mut following = following?;
            Some((following.next().await, Some(following)))
        });
        Ok(kept.chain(written).map(Ok).boxed())
    }

    /// What calls on all nodes log. It ends when the receiver is dropped or, where the request does not follow, when all
    /// nodes were asked.
    pub fn follow_logs(self: &Arc<Self>, request: FollowLogsRequest) -> mpsc::Receiver<FollowLogsResponse> {
        let (events, receiver) = mpsc::channel(EVENTS_AHEAD);
        tokio::spawn(fan_in(self.clone(), request, events));
        receiver
    }

    async fn follow_logs_of(&self, node_id: u64, request: &FollowLogsRequest) -> Result<Messages, Failure> {
        if node_id == self.config.node_id {
            return self.follow_local_logs(request);
        }
        match self.members().get(&node_id) {
            Some(node) => self.forwarder.follow_local_logs(&node.address, request.clone()).await,
            None => Err(Failure::internal(format!("node {node_id} is no longer in the cluster"))),
        }
    }
}

/// The kept lines that came so far, and what is to be told after them.
struct Gathering {
    until: Instant,
    missing: BTreeSet<u64>,
    kept: Vec<LogLine>,
    later: Vec<Event>,
}

async fn fan_in(node: Arc<ClusterNode>, request: FollowLogsRequest, events: mpsc::Sender<FollowLogsResponse>) {
    let (sender, mut news) = mpsc::channel(MESSAGES_AHEAD);
    let mut tasks = JoinSet::new();
    let mut known: BTreeSet<u64> = node.members().into_keys().collect();
    let follow = |node_id, request: FollowLogsRequest| follow_node(node.clone(), node_id, request, sender.clone());
    for &node_id in &known {
        tasks.spawn(follow(node_id, request.clone()));
    }
    let until = Instant::now() + GATHER_BOUND;
    let mut gathering = Some(Gathering { until, missing: known.clone(), kept: Vec::new(), later: Vec::new() });
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    loop {
        let gathered_at = gathering.as_ref().map_or(until, |gathering| gathering.until);
        let mut told = Vec::new();
        tokio::select! {
            () = events.closed() => return,
            Some((node_id, news)) = news.recv() => match &mut gathering {
                Some(gathering) => gathering.take(node_id, news),
                None => tell(node_id, news, &mut told),
            },
            () = tokio::time::sleep_until(gathered_at), if gathering.is_some() => {
                if let Some(gathering) = &mut gathering {
                    gathering.give_up();
                }
            }
            _ = look.tick(), if request.follow => {
                for node_id in node.members().into_keys().filter(|node_id| !known.contains(node_id)) {
                    tasks.spawn(follow(node_id, from_now_on(&request)));
                }
                known.extend(node.members().into_keys());
            }
        }
        if let Some(gathered) = gathering.take_if(|gathering| gathering.missing.is_empty()) {
            told = gathered.into_events(last_of(&request));
            if !request.follow {
                // Nothing comes after these, of any node.
                told.retain(|event| !matches!(event, Event::Node(FollowedNode { followed: true, .. })));
                let _ = send(&events, told).await;
                return;
            }
        }
        if send(&events, told).await.is_err() {
            return;
        }
    }
}

async fn send(events: &mpsc::Sender<FollowLogsResponse>, told: Vec<Event>) -> Result<(), ()> {
    for event in told {
        events.send(FollowLogsResponse { event: Some(event) }).await.map_err(|_| ())?;
    }
    Ok(())
}

fn tell(node_id: u64, news: News, told: &mut Vec<Event>) {
    match news {
        News::Kept(lines) => told.extend(lines.into_iter().map(Event::Line)),
        News::Began => told.push(Event::Node(FollowedNode { node_id, followed: true, problem: String::new() })),
        News::Written(FollowLocalLogsResponse { lines, dropped, .. }) => {
            told.extend(lines.into_iter().map(Event::Line));
            if dropped > 0 {
                told.push(Event::Dropped(DroppedLogLines { node_id, lines: dropped }));
            }
        }
        News::Lost(failure) => told.push(lost(node_id, failure.to_string())),
    }
}

fn lost(node_id: u64, problem: String) -> Event {
    Event::Node(FollowedNode { node_id, followed: false, problem })
}

impl Gathering {
    fn take(&mut self, node_id: u64, news: News) {
        match news {
            News::Kept(lines) if self.missing.contains(&node_id) => self.kept.extend(lines),
            News::Began | News::Lost(_) => {
                self.missing.remove(&node_id);
                tell(node_id, news, &mut self.later);
            }
            News::Kept(_) | News::Written(_) => tell(node_id, news, &mut self.later),
        }
    }

    /// Goes on without the nodes that are missing.
    fn give_up(&mut self) {
        for node_id in std::mem::take(&mut self.missing) {
            let problem = format!("no answer within {} ms", GATHER_BOUND.as_millis());
            self.later.push(lost(node_id, problem));
        }
    }

    /// The last of the kept lines, in the order of their times, and what came meanwhile.
    fn into_events(self, last: usize) -> Vec<Event> {
        let mut kept = self.kept;
        // Stable: lines of one node, and so of one call, stay in their order.
        kept.sort_by_key(|line| line.time_ms);
        let skipped = kept.len().saturating_sub(last);
        kept.into_iter().skip(skipped).map(Event::Line).chain(self.later).collect()
    }
}

fn from_now_on(request: &FollowLogsRequest) -> FollowLogsRequest {
    FollowLogsRequest { last: Some(0), ..request.clone() }
}

/// Passes on what one node tells; again and again, where the request follows.
async fn follow_node(
    node: Arc<ClusterNode>,
    node_id: u64,
    mut request: FollowLogsRequest,
    news: mpsc::Sender<(u64, News)>,
) {
    let mut is_lost = false;
    loop {
        let mut began = false;
        let failure = match follow_once(&node, node_id, &request, &news, &mut began).await {
            Ok(()) => return,
            Err(failure) => failure,
        };
        // Told once, until it is followed again.
        if (began || !is_lost) && news.send((node_id, News::Lost(failure))).await.is_err() {
            return;
        }
        if !request.follow {
            return;
        }
        is_lost = true;
        request = from_now_on(&request);
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Until the node has told all, or nobody listens any more.
///
/// # Errors
/// Why the node is lost.
async fn follow_once(
    node: &ClusterNode,
    node_id: u64,
    request: &FollowLogsRequest,
    news: &mpsc::Sender<(u64, News)>,
    began: &mut bool,
) -> Result<(), Failure> {
    let silent = |_| Failure::internal(format!("node {node_id} does not answer"));
    let mut messages =
        tokio::time::timeout(BEGIN_BOUND, node.follow_logs_of(node_id, request)).await.map_err(silent)??;
    loop {
        let message = match *began {
            true => messages.next().await,
            false => tokio::time::timeout(BEGIN_BOUND, messages.next()).await.map_err(silent)?,
        };
        let Some(message) = message else {
            return match request.follow {
                false if *began => Ok(()),
                _ => Err(Failure::internal(format!("node {node_id} ended the stream"))),
            };
        };
        let message = message?;
        let told = match *began {
            true => vec![News::Written(message)],
            false if message.more_kept => vec![News::Kept(message.lines)],
            false => vec![News::Kept(message.lines), News::Began],
        };
        *began |= matches!(told.last(), Some(News::Began));
        for one in told {
            if news.send((node_id, one)).await.is_err() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(node_id: u64, time_ms: u64, text: &str) -> LogLine {
        LogLine { node_id, time_ms, text: text.to_owned(), ..Default::default() }
    }

    fn gathering(nodes: &[u64]) -> Gathering {
        let missing = nodes.iter().copied().collect();
        Gathering { until: Instant::now(), missing, kept: Vec::new(), later: Vec::new() }
    }

    /// Events as text.
    fn told(events: Vec<Event>) -> Vec<String> {
        let text = |event| match event {
            Event::Line(line) => line.text,
            Event::Dropped(dropped) => format!("{} dropped {}", dropped.node_id, dropped.lines),
            Event::Node(FollowedNode { node_id, followed: true, .. }) => format!("{node_id} followed"),
            Event::Node(FollowedNode { node_id, problem, .. }) => format!("{node_id} lost: {problem}"),
        };
        events.into_iter().map(text).collect()
    }

    #[test]
    fn kept_lines_of_all_nodes_come_first_and_by_time() {
        let mut gathering = gathering(&[1, 2, 3]);
        gathering.take(1, News::Kept(vec![line(1, 10, "a"), line(1, 30, "c1"), line(1, 30, "c2")]));
        gathering.take(1, News::Began);
        gathering.take(
            1,
            News::Written(FollowLocalLogsResponse { lines: vec![line(1, 50, "new")], dropped: 4, more_kept: false }),
        );
        gathering.take(2, News::Kept(vec![line(2, 20, "b")]));
        gathering.take(2, News::Kept(vec![line(2, 40, "d")]));
        gathering.take(2, News::Began);
        assert_eq!(gathering.missing, BTreeSet::from([3]));
        gathering.give_up();
        assert!(gathering.missing.is_empty());
        let expected = [
            "b",
            "c1",
            "c2",
            "d",
            "1 followed",
            "new",
            "1 dropped 4",
            "2 followed",
            "3 lost: no answer within 2000 ms",
        ];
        assert_eq!(told(gathering.into_events(4)), expected);
    }

    #[test]
    fn a_node_that_is_lost_is_not_waited_for() {
        let mut gathering = gathering(&[1]);
        gathering.take(1, News::Lost(Failure::internal("broken")));
        assert!(gathering.missing.is_empty());
        // It comes back before the others have told what they kept.
        gathering.take(1, News::Began);
        let expected = ["1 lost: INTERNAL: broken", "1 followed"];
        assert_eq!(told(gathering.into_events(10)), expected);
    }
}
