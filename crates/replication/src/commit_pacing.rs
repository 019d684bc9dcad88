//! A follower's append stream, with news of commits passed on a few milliseconds apart.
//!
//! A follower need not apply at once: only the leader answers clients. Applying what was committed in
//! [`PACE`] together costs one write to the state instead of many. Entries pass at once; a commit that is
//! withheld passes with the first request after the pace, or by itself.

use std::time::Duration;

use futures::Stream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::types::{AppendRequest, LogId};

/// At least this long between two commits that are passed on.
const PACE: Duration = Duration::from_millis(5);

/// A request of an append stream.
pub(crate) struct Appended {
    pub(crate) request: AppendRequest,
    /// It is answered only where it is refused.
    pub(crate) silent: bool,
}

/// The requests with their commits paced; ends with them.
pub(crate) fn pace_commits(requests: mpsc::Receiver<Appended>) -> impl Stream<Item = Appended> + Send + 'static {
    let pacer = Pacer { requests, passed: None, withheld: None, passes_at: Instant::now() };
    futures::stream::unfold(pacer, |mut pacer| async move {
        let next = pacer.next().await?;
        Some((next, pacer))
    })
}

struct Pacer {
    requests: mpsc::Receiver<Appended>,
    /// The last commit passed on.
    passed: Option<LogId>,
    /// Tells of a commit that was not passed on yet, and carries no entries.
    withheld: Option<AppendRequest>,
    /// When the next commit may pass.
    passes_at: Instant,
}

impl Pacer {
    async fn next(&mut self) -> Option<Appended> {
        loop {
            let next = if self.withheld.is_none() {
                self.requests.recv().await
            } else {
                // Out of time, or out of requests: the same follows.
                tokio::time::timeout_at(self.passes_at, self.requests.recv()).await.unwrap_or(None)
            };
            let Some(Appended { mut request, silent }) = next else {
                let request = self.withheld.take()?;
                self.pass(request.leader_commit);
                return Some(Appended { request, silent: true });
            };
            if request.leader_commit <= self.passed || Instant::now() >= self.passes_at {
                self.withheld = None;
                if request.leader_commit > self.passed {
                    self.pass(request.leader_commit);
                }
                return Some(Appended { request, silent });
            }
            let prev_log_id = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
            let leader_commit = std::mem::replace(&mut request.leader_commit, self.passed);
            self.withheld = Some(AppendRequest { vote: request.vote, prev_log_id, entries: Vec::new(), leader_commit });
            if !(silent && request.entries.is_empty()) {
                return Some(Appended { request, silent });
            }
        }
    }

    fn pass(&mut self, commit: Option<LogId>) {
        self.passed = commit;
        self.passes_at = Instant::now() + PACE;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::StreamExt as _;

    use super::*;
    use crate::types::{Entry, Payload, Vote};

    fn id(index: u64) -> LogId {
        LogId::new(openraft::vote::leader_id_std::CommittedLeaderId::new(1), index)
    }

    fn append(entry: Option<u64>, commit: u64) -> Appended {
        let entries = entry.map(|index| Entry { log_id: id(index), payload: Payload::Blank }).into_iter().collect();
        let request =
            AppendRequest { vote: Vote::new(1, 1), prev_log_id: None, entries, leader_commit: Some(id(commit)) };
        Appended { request, silent: entry.is_none() }
    }

    fn commit(appended: &Appended) -> Option<u64> {
        appended.request.leader_commit.map(|commit| commit.index)
    }

    #[tokio::test(start_paused = true)]
    async fn entries_pass_at_once_and_commits_a_pace_apart() {
        let (sender, requests) = mpsc::channel(16);
        let mut paced = Box::pin(pace_commits(requests));
        let started = Instant::now();
        for request in [append(Some(2), 1), append(Some(3), 2), append(Some(4), 3), append(None, 4)] {
            sender.send(request).await.unwrap_or_else(|_| panic!("the stream ended"));
        }
        let first = paced.next().await.unwrap();
        assert_eq!((first.request.entries.len(), commit(&first)), (1, Some(1)));
        for _ in 0..2 {
            let next = paced.next().await.unwrap();
            assert_eq!((next.request.entries.len(), commit(&next), next.silent), (1, Some(1), false));
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
        let alone = paced.next().await.unwrap();
        assert_eq!((alone.request.entries.len(), commit(&alone), alone.silent), (0, Some(4), true));
        assert!((PACE..2 * PACE).contains(&started.elapsed()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_withheld_commit_passes_before_the_stream_ends() {
        let (sender, requests) = mpsc::channel(16);
        for request in [append(Some(2), 1), append(Some(3), 2)] {
            sender.send(request).await.unwrap_or_else(|_| panic!("the stream ended"));
        }
        drop(sender);
        let commits: Vec<Option<u64>> = pace_commits(requests).map(|paced| commit(&paced)).collect().await;
        assert_eq!(commits, [Some(1), Some(1), Some(2)]);
    }
}
