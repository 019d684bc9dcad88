//! A node as this client sees it: its address, its connections, and whether it seems to be there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tokio::time::timeout;

use crate::ClientConfig;
use crate::connection::Connection;

/// After a failed dial, requests fail at once for this long instead of dialing again.
const REDIAL_PAUSE: Duration = Duration::from_millis(50);

/// One node of the cluster, or one endpoint that the caller named.
pub(crate) struct Node {
    address: String,
    slots: Box<[Slot]>,
    /// Requests take the slots in turn.
    turn: AtomicUsize,
    /// It could not be reached, or fell silent; others are preferred until it is reached again.
    suspect: Arc<AtomicBool>,
    config: Arc<ClientConfig>,
}

#[derive(Default)]
struct Slot {
    connection: RwLock<Option<Connection>>,
    /// Held by the caller that dials; the others wait for what it brings. Keeps the last failure.
    dialing: tokio::sync::Mutex<Option<(Instant, String)>>,
}

impl Slot {
    fn open(&self) -> Option<Connection> {
        self.connection.read().as_ref().filter(|connection| connection.is_open()).cloned()
    }
}

impl Node {
    pub(crate) fn new(address: &str, config: &Arc<ClientConfig>) -> Self {
        Node {
            address: address.to_owned(),
            slots: (0..config.connections_per_node.max(1)).map(|_| Slot::default()).collect(),
            turn: AtomicUsize::new(0),
            suspect: Arc::new(AtomicBool::new(false)),
            config: Arc::clone(config),
        }
    }

    /// host:port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    /// It has answered just now.
    pub(crate) fn answered(&self) {
        self.suspect.store(false, Ordering::Relaxed);
    }

    /// An open connection, dialed within `limit` if need be. An error means that nothing was sent.
    pub(crate) async fn connection(&self, limit: Duration) -> Result<Connection, String> {
        let slot = match &*self.slots {
            [only] => only,
            slots => &slots[self.turn.fetch_add(1, Ordering::Relaxed) % slots.len()],
        };
        match slot.open() {
            Some(connection) => Ok(connection),
            None => match timeout(limit, self.dial(slot)).await {
                Ok(dialed) => dialed,
                Err(_) => Err(format!("no connection within {} ms", limit.as_millis())),
            },
        }
    }

    async fn dial(&self, slot: &Slot) -> Result<Connection, String> {
        let asked = Instant::now();
        let mut last_failure = slot.dialing.lock().await;
        if let Some(connection) = slot.open() {
            return Ok(connection);
        }
        if let Some((failed, problem)) = &*last_failure
            && (*failed > asked || failed.elapsed() < REDIAL_PAUSE)
        {
            return Err(problem.clone());
        }
        match Connection::open(&self.address, &self.config, &self.suspect).await {
            Ok(connection) => {
                *slot.connection.write() = Some(connection.clone());
                *last_failure = None;
                self.suspect.store(false, Ordering::Relaxed);
                Ok(connection)
            }
            Err(problem) => {
                *last_failure = Some((Instant::now(), problem.clone()));
                self.suspect.store(true, Ordering::Relaxed);
                Err(problem)
            }
        }
    }
}
