//! Request ids: what makes it safe to send a mutating request again.
//!
//! A lane is one client session: a random client id and a counter of sequences, of which any number up
//! to a window may wait for their replies at once. With each request goes the lowest sequence that still
//! waits (`acknowledged_below`), so that shards may forget the replies below it.
//!
//! ```text
//! sequences   1  2  3  4  5  6  7
//! state       ✓  ✓  …  ✓  ✓  …  …        acknowledged_below = 3
//!                   └─ the window ends WINDOW sequences after this one
//! ```
//!
//! One slow request holds back its whole lane's acknowledgement, and a shard refuses a session with too
//! many replies kept (`SESSION_FULL`). So a lane whose window is used up is passed over, and another one
//! with room, or a new one, takes the next request. There are never more lanes than slow requests, plus
//! one per window's worth of concurrent requests.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use cirrus_proto::v1::RequestId;
use parking_lot::{Mutex, RwLock};

/// Sequences that a lane may span from its lowest waiting one: a quarter of the replies that a shard keeps
/// for a session by default.
const WINDOW: usize = 1024;

/// The request ids of one client.
pub(crate) struct RequestIds {
    window: usize,
    lanes: RwLock<Vec<Arc<Lane>>>,
    /// The lane that took the last request.
    current: AtomicUsize,
}

impl RequestIds {
    pub(crate) fn new() -> Self {
        Self::with_window(WINDOW)
    }

    fn with_window(window: usize) -> Self {
        RequestIds { window, lanes: RwLock::new(vec![Arc::new(Lane::new())]), current: AtomicUsize::new(0) }
    }

    /// The next request id. Its sequence counts as waiting until the ticket is dropped.
    pub(crate) fn begin(&self) -> (RequestId, Ticket) {
        let current = self.current.load(Ordering::Relaxed);
        {
            let lanes = self.lanes.read();
            // The current lane first, then the others in turn.
            for offset in 0..lanes.len() {
                let index = (current + offset) % lanes.len();
                if let Some(begun) = Lane::begin(&lanes[index], self.window) {
                    if offset > 0 {
                        self.current.store(index, Ordering::Relaxed);
                    }
                    return begun;
                }
            }
        }
        let lane = Arc::new(Lane::new());
        let begun = Lane::begin(&lane, self.window).expect("invariant: a new lane has an empty window");
        let mut lanes = self.lanes.write();
        lanes.push(lane);
        self.current.store(lanes.len() - 1, Ordering::Relaxed);
        begun
    }
}

struct Lane {
    client_id: Bytes,
    sequences: Mutex<Sequences>,
}

struct Sequences {
    /// The lowest that waits, or the next to be given where none does.
    lowest: u64,
    /// Whether `lowest + i` has settled. The first, where there is one, never has.
    settled: VecDeque<bool>,
}

impl Lane {
    fn new() -> Self {
        let client_id: [u8; 16] = rand::random();
        Lane {
            client_id: Bytes::copy_from_slice(&client_id),
            sequences: Mutex::new(Sequences { lowest: 1, settled: VecDeque::new() }),
        }
    }

    /// `None` where the window is used up.
    fn begin(lane: &Arc<Lane>, window: usize) -> Option<(RequestId, Ticket)> {
        let (sequence, acknowledged_below) = {
            let mut sequences = lane.sequences.lock();
            if sequences.settled.len() >= window {
                return None;
            }
            let sequence = sequences.lowest + sequences.settled.len() as u64;
            sequences.settled.push_back(false);
            (sequence, sequences.lowest)
        };
        let request_id = RequestId { client_id: lane.client_id.clone(), sequence, acknowledged_below };
        Some((request_id, Ticket { lane: Arc::clone(lane), sequence }))
    }

    fn settle(&self, sequence: u64) {
        let mut sequences = self.sequences.lock();
        let position = (sequence - sequences.lowest) as usize;
        sequences.settled[position] = true;
        while sequences.settled.front() == Some(&true) {
            sequences.settled.pop_front();
            sequences.lowest += 1;
        }
    }
}

/// A sequence that waits for its reply. Dropping it says that the caller has the reply, or gave up and
/// will never send the request again.
pub(crate) struct Ticket {
    lane: Arc<Lane>,
    sequence: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.lane.settle(self.sequence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_count_from_one_and_acknowledge_what_settled() {
        let ids = RequestIds::new();
        let (first, first_ticket) = ids.begin();
        assert_eq!((first.sequence, first.acknowledged_below), (1, 1));
        assert_eq!(first.client_id.len(), 16);
        drop(first_ticket);
        let (second, _second_ticket) = ids.begin();
        assert_eq!((second.sequence, second.acknowledged_below), (2, 2));
        assert_eq!(second.client_id, first.client_id);
    }

    #[test]
    fn acknowledgement_stops_at_the_lowest_waiting_sequence() {
        let ids = RequestIds::new();
        let (_, slow) = ids.begin();
        let (_, quick) = ids.begin();
        let (_, also_quick) = ids.begin();
        drop(also_quick);
        drop(quick);
        let (fourth, fourth_ticket) = ids.begin();
        assert_eq!((fourth.sequence, fourth.acknowledged_below), (4, 1));
        drop(slow);
        let (fifth, _fifth_ticket) = ids.begin();
        assert_eq!((fifth.sequence, fifth.acknowledged_below), (5, 4));
        drop(fourth_ticket);
        let (sixth, _sixth_ticket) = ids.begin();
        assert_eq!((sixth.sequence, sixth.acknowledged_below), (6, 5));
    }

    #[test]
    fn a_full_lane_is_passed_over_and_used_again_once_it_has_room() {
        let ids = RequestIds::with_window(2);
        let (first, slow) = ids.begin();
        let (_, quick) = ids.begin();
        drop(quick);
        // The first lane's window is used up by its slow request.
        let (other, other_ticket) = ids.begin();
        assert_ne!(other.client_id, first.client_id);
        assert_eq!((other.sequence, other.acknowledged_below), (1, 1));
        let (_, other_second) = ids.begin();
        drop(slow);
        // Now the second lane is full and the first one free.
        let (again, _again_ticket) = ids.begin();
        assert_eq!(again.client_id, first.client_id);
        assert_eq!((again.sequence, again.acknowledged_below), (3, 3));
        assert_eq!(ids.lanes.read().len(), 2);
        drop((other_ticket, other_second));
    }

    #[test]
    fn lanes_do_not_multiply_with_the_number_of_requests() {
        let ids = RequestIds::with_window(4);
        for _ in 0..100 {
            let waiting: Vec<_> = (0..10).map(|_| ids.begin()).collect();
            let distinct: std::collections::HashSet<_> =
                waiting.iter().map(|(id, _)| (id.client_id.clone(), id.sequence)).collect();
            assert_eq!(distinct.len(), 10, "no id is given twice");
        }
        assert_eq!(ids.lanes.read().len(), 3, "10 concurrent requests fill 3 lanes of 4");
    }
}
