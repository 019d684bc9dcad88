//! The lines that the calls of a node log: the last ones are kept in memory, and whoever follows gets each as it is
//! written.
//!
//! A call never waits for a follower. Each has a bounded queue and a rate; a line that finds the one full or is beyond
//! the other is dropped for that follower, counted, and the count is told to it. Where nobody follows, a line costs
//! its place among those that are kept.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cirrus_procedures::LogSink;
use cirrus_proto::internal::v1::FollowLocalLogsResponse;
use cirrus_proto::v1::{FollowLogsRequest, LogLevel, LogLine};
use cirrus_proto::{Failure, Reason};
use cirrus_replication::wall_clock;
use metrics::Counter;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::token_bucket::TokenBucket;

/// Lines that wait for one follower.
const QUEUE_LINES: usize = 1024;

/// Most lines in one message to a follower.
const BATCH_LINES: usize = 256;

/// How soon a follower is told of lines that were dropped where none follows them.
const DROPPED_INTERVAL: Duration = Duration::from_millis(500);

/// How much a node keeps of what calls log, and tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// The last lines, for who asks later.
    pub lines_kept: usize,
    /// To one follower, in lines a second, with a burst of one second's.
    pub lines_per_second: u32,
    /// Followers at once.
    pub followers: usize,
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings { lines_kept: 1000, lines_per_second: 1000, followers: 64 }
    }
}

/// One node's lines.
pub(crate) struct LogBook {
    node_id: u64,
    settings: LogSettings,
    shelf: Mutex<Shelf>,
    lines: Counter,
    dropped: Counter,
}

#[derive(Default)]
struct Shelf {
    /// The latest last.
    kept: VecDeque<Arc<LogLine>>,
    followers: Vec<Follower>,
}

struct Follower {
    library: String,
    level: LogLevel,
    rate: TokenBucket,
    queue: mpsc::Sender<Arc<LogLine>>,
    dropped: Arc<AtomicU64>,
}

/// Lines as they are written. Dropping it ends the following.
pub(crate) struct Following {
    queue: mpsc::Receiver<Arc<LogLine>>,
    dropped: Arc<AtomicU64>,
}

/// Tells what the metrics of this module mean.
pub(crate) fn describe() {
    metrics::describe_counter!("cirrus_call_log_lines_total", "Lines that calls logged");
    metrics::describe_counter!("cirrus_call_log_lines_dropped_total", "Lines that a follower did not get");
}

impl LogBook {
    pub(crate) fn new(node_id: u64, settings: LogSettings) -> Arc<Self> {
        Arc::new(LogBook {
            node_id,
            settings,
            shelf: Mutex::default(),
            lines: metrics::counter!("cirrus_call_log_lines_total"),
            dropped: metrics::counter!("cirrus_call_log_lines_dropped_total"),
        })
    }

    /// Where a caller's calls log. It begins with that shard.
    pub(crate) fn lines(self: &Arc<Self>, shard_id: u32) -> Arc<CallerLines> {
        Arc::new(CallerLines { book: self.clone(), shard_id: AtomicU32::new(shard_id) })
    }

    fn write(&self, shard_id: u32, line: cirrus_procedures::LogLine<'_>) {
        self.lines.increment(1);
        let mut line = LogLine {
            node_id: self.node_id,
            shard_id,
            library: line.library.to_owned(),
            library_version: line.version,
            function: line.function.to_owned(),
            level: level_of(line.level).into(),
            time_ms: 0,
            text: line.text.to_owned(),
        };
        let mut shelf = self.shelf.lock();
        // Read here, lines are in the order of their times.
        line.time_ms = wall_clock().now_ms;
        let line = Arc::new(line);
        if !shelf.followers.is_empty() {
            let now = Instant::now();
            shelf.followers.retain_mut(|follower| {
                let is_there = !follower.queue.is_closed();
                if is_there && follower.wants(&line) && !follower.offer(&line, now) {
                    self.dropped.increment(1);
                }
                is_there
            });
        }
        if self.settings.lines_kept > 0 {
            if shelf.kept.len() >= self.settings.lines_kept {
                shelf.kept.pop_front();
            }
            shelf.kept.push_back(line);
        }
    }

    /// Kept lines that the request asks for, the latest last; and those to come, if it follows. None between the two is
    /// missing or told twice.
    ///
    /// # Errors
    /// TOO_MANY_REQUESTS where there are too many followers already.
    pub(crate) fn read(&self, request: &FollowLogsRequest) -> Result<(Vec<LogLine>, Option<Following>), Failure> {
        let level = request.level();
        let mut shelf = self.shelf.lock();
        let following = request.follow.then(|| self.add_follower(&mut shelf, request)).transpose()?;
        let wanted = shelf.kept.iter().rev().filter(|line| wants(&request.library, level, line));
        let mut kept: Vec<LogLine> = wanted.take(last_of(request)).map(|line| LogLine::clone(line)).collect();
        kept.reverse();
        Ok((kept, following))
    }

    fn add_follower(&self, shelf: &mut Shelf, request: &FollowLogsRequest) -> Result<Following, Failure> {
        shelf.followers.retain(|follower| !follower.queue.is_closed());
        let limit = self.settings.followers;
        if shelf.followers.len() >= limit {
            let problem = format!("{limit} follow the calls' log on node {}, its limit", self.node_id);
            let failure = Failure::new(Reason::TooManyRequests, problem).with("limit", limit);
            return Err(failure.retry_after(Duration::from_secs(1)));
        }
        let (sender, queue) = mpsc::channel(QUEUE_LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        shelf.followers.push(Follower {
            library: request.library.clone(),
            level: request.level(),
            rate: TokenBucket::new(f64::from(self.settings.lines_per_second), Instant::now()),
            queue: sender,
            dropped: dropped.clone(),
        });
        Ok(Following { queue, dropped })
    }
}

/// How many kept lines a request asks for.
pub(crate) fn last_of(request: &FollowLogsRequest) -> usize {
    match request.last {
        Some(last) => last as usize,
        None if request.follow => 0,
        None => usize::MAX,
    }
}

impl Follower {
    fn wants(&self, line: &LogLine) -> bool {
        wants(&self.library, self.level, line)
    }

    /// Whether the line goes to the follower; else it is counted.
    fn offer(&mut self, line: &Arc<LogLine>, now: Instant) -> bool {
        let goes = self.rate.try_take(1.0, now) && self.queue.try_send(line.clone()).is_ok();
        if !goes {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        goes
    }
}

/// Levels are in the order of their numbers; none stands for all.
fn wants(library: &str, level: LogLevel, line: &LogLine) -> bool {
    (library.is_empty() || library == line.library) && line.level >= level as i32
}

fn level_of(level: cirrus_procedures::LogLevel) -> LogLevel {
    match level {
        cirrus_procedures::LogLevel::Debug => LogLevel::Debug,
        cirrus_procedures::LogLevel::Info => LogLevel::Info,
        cirrus_procedures::LogLevel::Warn => LogLevel::Warn,
        cirrus_procedures::LogLevel::Error => LogLevel::Error,
    }
}

impl Following {
    /// Lines that were written, or how many were dropped, once there is either.
    pub(crate) async fn next(&mut self) -> FollowLocalLogsResponse {
        loop {
            let mut lines = Vec::new();
            tokio::select! {
                // The book outlives its followers, and keeps the sender as long as this is there.
                _ = self.queue.recv_many(&mut lines, BATCH_LINES) => {}
                () = tokio::time::sleep(DROPPED_INTERVAL) => {}
            }
            let dropped = self.dropped.swap(0, Ordering::Relaxed);
            if !lines.is_empty() || dropped > 0 {
                let lines = lines.into_iter().map(Arc::unwrap_or_clone).collect();
                return FollowLocalLogsResponse { lines, dropped, more_kept: false };
            }
        }
    }
}

/// Kept lines as messages, of which the last, perhaps empty, says that there are no more.
pub(crate) fn kept_messages(kept: Vec<LogLine>) -> Vec<FollowLocalLogsResponse> {
    let mut messages: Vec<_> = kept
        .chunks(BATCH_LINES)
        .map(|lines| FollowLocalLogsResponse { lines: lines.to_vec(), dropped: 0, more_kept: true })
        .collect();
    match messages.last_mut() {
        Some(last) => last.more_kept = false,
        None => messages.push(FollowLocalLogsResponse::default()),
    }
    messages
}

/// One caller's way to its node's lines.
pub(crate) struct CallerLines {
    book: Arc<LogBook>,
    shard_id: AtomicU32,
}

impl CallerLines {
    /// The next calls are for that shard.
    pub(crate) fn serve(&self, shard_id: u32) {
        self.shard_id.store(shard_id, Ordering::Relaxed);
    }
}

impl LogSink for CallerLines {
    fn write(&self, line: cirrus_procedures::LogLine<'_>) {
        self.book.write(self.shard_id.load(Ordering::Relaxed), line);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn book(settings: LogSettings) -> Arc<LogBook> {
        LogBook::new(7, settings)
    }

    fn write(book: &Arc<LogBook>, library: &str, level: cirrus_procedures::LogLevel, text: &str) {
        book.lines(3).write(cirrus_procedures::LogLine { library, version: 2, function: "f", level, text });
    }

    fn request(library: &str, level: LogLevel, follow: bool, last: Option<u32>) -> FollowLogsRequest {
        FollowLogsRequest { library: library.to_owned(), level: level.into(), follow, last }
    }

    fn texts(lines: &[LogLine]) -> Vec<&str> {
        lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn the_last_lines_are_kept_and_found_by_library_and_level() {
        use cirrus_procedures::LogLevel::{Debug, Error, Info, Warn};
        let book = book(LogSettings { lines_kept: 5, ..Default::default() });
        for (library, level, text) in [
            ("a", Error, "0"),
            ("a", Debug, "1"),
            ("b", Info, "2"),
            ("a", Warn, "3"),
            ("b", Error, "4"),
            ("a", Info, "5"),
        ] {
            write(&book, library, level, text);
        }
        /// Library, level, whether it follows, how many of the last, and what it finds.
        type Case<'a> = (&'a str, LogLevel, bool, Option<u32>, &'a [&'a str]);
        let cases: &[Case<'_>] = &[
            ("", LogLevel::Unspecified, false, None, &["1", "2", "3", "4", "5"]),
            ("", LogLevel::Debug, false, None, &["1", "2", "3", "4", "5"]),
            ("", LogLevel::Warn, false, None, &["3", "4"]),
            ("a", LogLevel::Info, false, None, &["3", "5"]),
            ("c", LogLevel::Debug, false, None, &[]),
            ("", LogLevel::Debug, false, Some(2), &["4", "5"]),
            ("a", LogLevel::Debug, true, Some(2), &["3", "5"]),
            ("a", LogLevel::Debug, true, None, &[]),
        ];
        for (library, level, follow, last, expected) in cases {
            let (kept, following) = book.read(&request(library, *level, *follow, *last)).unwrap();
            assert_eq!(texts(&kept), *expected, "{library:?} {level:?} {last:?}");
            assert_eq!(following.is_some(), *follow);
        }
        let (kept, _) = book.read(&request("b", LogLevel::Error, false, None)).unwrap();
        let (line, now_ms) = (&kept[0], wall_clock().now_ms);
        assert_eq!((line.node_id, line.shard_id, line.library_version, line.function.as_str()), (7, 3, 2, "f"));
        assert!(line.level() == LogLevel::Error && line.time_ms.abs_diff(now_ms) < 60_000, "{line:?}");
    }

    #[tokio::test]
    async fn a_follower_gets_what_is_written_from_then_on() {
        use cirrus_procedures::LogLevel::{Debug, Info, Warn};
        let book = book(LogSettings::default());
        write(&book, "a", Info, "before");
        let (kept, following) = book.read(&request("a", LogLevel::Info, true, Some(10))).unwrap();
        let mut following = following.unwrap();
        assert_eq!(texts(&kept), ["before"]);
        for (library, level, text) in [("a", Debug, "low"), ("b", Warn, "other"), ("a", Info, "1"), ("a", Warn, "2")] {
            write(&book, library, level, text);
        }
        let got = following.next().await;
        assert_eq!((texts(&got.lines), got.dropped), (vec!["1", "2"], 0));
        drop(following);
        write(&book, "a", Info, "nobody");
        assert!(book.shelf.lock().followers.is_empty());
    }

    #[tokio::test]
    async fn what_is_beyond_the_rate_or_the_queue_is_counted() {
        use cirrus_procedures::LogLevel::Info;
        for (lines_per_second, expected) in [(100, 100), (1_000_000, QUEUE_LINES)] {
            let book = book(LogSettings { lines_per_second, ..Default::default() });
            let (_, following) = book.read(&request("", LogLevel::Debug, true, None)).unwrap();
            let mut following = following.unwrap();
            for number in 0..5000 {
                write(&book, "a", Info, &number.to_string());
            }
            let (mut lines, mut dropped) = (0, 0);
            while lines + dropped < 5000 {
                let got = following.next().await;
                assert!(got.lines.len() <= BATCH_LINES);
                lines += got.lines.len();
                dropped += got.dropped as usize;
            }
            // While they were written, the rate let some more pass.
            assert!(lines >= expected && lines < 4 * expected, "{lines} of {lines_per_second} a second");
            assert_eq!(lines + dropped, 5000);
        }
    }

    #[test]
    fn followers_are_bounded_and_those_that_left_make_room() {
        let book = book(LogSettings { followers: 2, ..Default::default() });
        let follow = request("", LogLevel::Debug, true, None);
        let first = book.read(&follow).unwrap();
        let _second = book.read(&follow).unwrap();
        let refused = book.read(&follow).err().unwrap();
        assert_eq!((refused.reason, refused.metadata["limit"].as_str()), (Reason::TooManyRequests, "2"));
        assert!(book.read(&request("", LogLevel::Debug, false, None)).is_ok(), "who does not follow takes no place");
        drop(first);
        assert!(book.read(&follow).is_ok());
    }

    #[test]
    fn kept_lines_come_in_messages_of_bounded_size() {
        for (count, sizes) in [(0, vec![0]), (1, vec![1]), (256, vec![256]), (600, vec![256, 256, 88])] {
            let messages = kept_messages(vec![LogLine::default(); count]);
            assert_eq!(messages.iter().map(|message| message.lines.len()).collect::<Vec<_>>(), sizes);
            let (last, others) = messages.split_last().unwrap();
            assert!(!last.more_kept && others.iter().all(|message| message.more_kept));
        }
    }
}
