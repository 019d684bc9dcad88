//! How a node's only thread waits for work: it polls for a while before it sleeps.
//!
//! To wake a thread whose processor sleeps takes 25 to 50 µs on virtual machines, at each of the five or six hops of a
//! write. So a thread whose waits have been short looks for events without sleeping, and leaves the processor to
//! whoever else wants it each time that it has found none. For how long follows what it sees, as in the kernel's halt
//! polling for virtual processors (Documentation/virt/guest-halt-polling.rst): a wait that ended soon after the thread had
//! gone to sleep doubles the window, one longer than the window's bound halves it. So the thread of an idle node sleeps at
//! once, and that of a busy one has no wait to poll in.
//!
//! tokio tells before it parks its thread. Where polling is worth while, a task is woken then: tokio runs it, looks for
//! events without blocking, and tells again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

/// A window that has shrunk below this is closed, and one that opens begins with it.
const WINDOW_MIN: Duration = Duration::from_micros(25);

/// What polling once takes, at most, where no task has run.
const ROUND_MAX: Duration = Duration::from_micros(5);

/// A runtime of one thread, which polls for up to `longest` before it sleeps; zero: it sleeps at once.
///
/// # Errors
/// Those of the operating system.
pub(crate) fn runtime(longest: Duration) -> std::io::Result<Runtime> {
    polling(Arc::new(Mutex::new(Waiting::new(longest))))
}

fn polling(waiting: Arc<Mutex<Waiting>>) -> std::io::Result<Runtime> {
    let once_more = Arc::new(Notify::new());
    let mut builder = Builder::new_current_thread();
    builder.enable_all();
    builder.on_thread_park({
        let (waiting, once_more) = (waiting.clone(), once_more.clone());
        move || {
            if waiting.lock().polls(Instant::now()) {
                std::thread::yield_now();
                once_more.notify_one();
            }
        }
    });
    builder.on_thread_unpark(move || waiting.lock().looked(Instant::now()));
    let runtime = builder.build()?;
    runtime.spawn(keep_busy(once_more));
    Ok(runtime)
}

/// Has nothing to do, each time that it is woken.
async fn keep_busy(woken: Arc<Notify>) {
    loop {
        woken.notified().await;
    }
}

/// What a thread knows of its waits.
struct Waiting {
    longest: Duration,
    /// For how long a wait polls.
    window: Duration,
    /// When the present wait began, or the last one.
    since: Option<Instant>,
    /// When events were last looked for, with or without sleeping.
    looked_at: Option<Instant>,
}

impl Waiting {
    fn new(longest: Duration) -> Self {
        Waiting { longest, window: Duration::ZERO, since: None, looked_at: None }
    }

    /// Whether the thread, which has nothing to do, polls. Otherwise it sleeps.
    fn polls(&mut self, now: Instant) -> bool {
        let since = match (self.since, self.looked_at) {
            (Some(since), Some(looked_at)) if now.duration_since(looked_at) <= ROUND_MAX => since,
            (Some(since), Some(looked_at)) => {
                // It found something to do, so that a new wait begins.
                self.learn(looked_at.duration_since(since));
                now
            }
            _ => now,
        };
        self.since = Some(since);
        now.duration_since(since) < self.window
    }

    fn looked(&mut self, now: Instant) {
        self.looked_at = Some(now);
    }

    fn learn(&mut self, waited: Duration) {
        if waited > self.longest {
            self.window = if self.window > WINDOW_MIN { self.window / 2 } else { Duration::ZERO };
        } else if waited > self.window {
            self.window = (self.window * 2).max(WINDOW_MIN).min(self.longest);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LONGEST: Duration = Duration::from_micros(200);

    /// Waits that end as given, each followed by work; returns the window after each, in microseconds.
    fn windows(waits_us: &[u64]) -> Vec<u128> {
        let mut waiting = Waiting::new(LONGEST);
        let mut now = Instant::now();
        let windows = waits_us.iter().map(|&wait_us| {
            waiting.polls(now);
            now += Duration::from_micros(wait_us);
            waiting.looked(now);
            now += Duration::from_micros(10);
            waiting.polls(now);
            waiting.window.as_micros()
        });
        windows.collect()
    }

    #[test]
    fn short_waits_open_the_window_and_long_ones_close_it() {
        let cases: &[(&[u64], &[u128])] = &[
            (&[100, 100, 100, 100], &[25, 50, 100, 100]),
            (&[190, 190, 190, 190, 190], &[25, 50, 100, 200, 200]),
            (&[2000, 2000], &[0, 0]),
            (&[150, 150, 150, 2000, 2000, 2000, 2000], &[25, 50, 100, 50, 25, 0, 0]),
            // Waits that a window of this size catches change nothing.
            (&[20, 20, 20], &[25, 25, 25]),
        ];
        for (waits_us, expected) in cases {
            assert_eq!(&windows(waits_us), expected, "{waits_us:?}");
        }
    }

    #[test]
    fn a_wait_polls_until_its_window_is_over() {
        let mut waiting = Waiting { window: Duration::from_micros(100), ..Waiting::new(LONGEST) };
        let start = Instant::now();
        for after_us in [0, 2, 4] {
            let now = start + Duration::from_micros(after_us);
            assert!(waiting.polls(now), "after {after_us} us");
            waiting.looked(now + Duration::from_micros(1));
        }
        waiting.looked(start + Duration::from_micros(99));
        assert!(!waiting.polls(start + Duration::from_micros(101)), "its time is over");
        assert_eq!(waiting.window, Duration::from_micros(100), "and the wait is not");
    }

    #[test]
    fn without_a_bound_above_zero_it_never_polls() {
        let mut waiting = Waiting::new(Duration::ZERO);
        let mut now = Instant::now();
        for wait_us in [0, 1, 100] {
            assert!(!waiting.polls(now));
            now += Duration::from_micros(wait_us);
            waiting.looked(now);
            now += Duration::from_micros(10);
        }
    }

    #[test]
    fn a_runtime_that_polls_hears_of_threads_and_timers() {
        let longest = Duration::from_secs(60);
        let waiting = Arc::new(Mutex::new(Waiting { window: longest, ..Waiting::new(longest) }));
        let runtime = polling(waiting.clone()).unwrap();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let answering = std::thread::spawn(move || {
            let deadline = Instant::now() + Duration::from_secs(30);
            let mut last = None;
            let mut looks = 0;
            while looks < 10 {
                assert!(Instant::now() < deadline, "{looks} looks for events, and then none");
                let looked_at = waiting.lock().looked_at;
                looks += u32::from(looked_at > last);
                last = looked_at;
                std::thread::yield_now();
            }
            sender.send(looks).unwrap();
        });
        let looks = runtime.block_on(async {
            let looks = receiver.await;
            tokio::time::sleep(Duration::from_millis(2)).await;
            looks
        });
        answering.join().unwrap();
        assert_eq!(looks, Ok(10));
    }
}
