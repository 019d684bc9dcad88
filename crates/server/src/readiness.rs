//! Whether the node serves, as its probes tell it.

use std::sync::Arc;
use std::time::Duration;

use cirrus_cluster::ClusterNode;
use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// How often the node is asked; what is between two looks, requests find out themselves.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// The services whose health is told, beside "" for the node as a whole.
const SERVICES: [&str; 4] = ["", "cirrus.v1.KeyValue", "cirrus.v1.Procedures", "cirrus.v1.Cluster"];

/// How the node stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Its storage is being opened.
    Starting,
    /// It belongs to no cluster, or one of its shards has no leader.
    NotReady,
    /// It serves.
    Ready,
    /// It hands its work over.
    Stopping,
    /// It has a fault that a restart may cure.
    Failed(String),
}

impl State {
    /// None where it serves; else why not, in one line.
    pub(crate) fn not_ready(&self) -> Option<String> {
        match self {
            State::Ready => None,
            State::Starting => Some("starting: opening storage".to_owned()),
            State::NotReady => Some("not ready: not in a cluster yet, or a shard has no leader".to_owned()),
            State::Stopping => Some("stopping".to_owned()),
            State::Failed(fault) => Some(format!("failed: {fault}")),
        }
    }

    /// None where it lives; else its fault.
    pub(crate) fn fault(&self) -> Option<&str> {
        if let State::Failed(fault) = self { Some(fault) } else { None }
    }
}

/// Follows the node until it stops.
pub(crate) async fn follow(node: Arc<ClusterNode>, state: watch::Sender<State>) {
    let mut interval = tokio::time::interval(LOOK_INTERVAL);
    loop {
        interval.tick().await;
        let seen = match node.failed() {
            Some(fault) => State::Failed(fault),
            None if node.is_ready() => State::Ready,
            None => State::NotReady,
        };
        if *state.borrow() == State::Stopping {
            return;
        }
        advance(&state, seen);
    }
}

/// Moves to a state, unless the node is stopping: that is final.
pub(crate) fn advance(state: &watch::Sender<State>, next: State) {
    state.send_if_modified(|current| {
        if *current == State::Stopping || *current == next {
            return false;
        }
        match &next {
            State::Ready => tracing::info!("ready"),
            State::NotReady => tracing::info!("not ready"),
            State::Failed(fault) => tracing::error!(%fault, "the node failed"),
            State::Starting | State::Stopping => {}
        }
        *current = next;
        true
    });
}

/// Tells the health service every change.
pub(crate) async fn report(mut state: watch::Receiver<State>, reporter: HealthReporter) {
    loop {
        let status = match *state.borrow_and_update() {
            State::Ready => ServingStatus::Serving,
            _ => ServingStatus::NotServing,
        };
        for service in SERVICES {
            reporter.set_service_status(service, status).await;
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stopping_is_final() {
        let (state, seen) = watch::channel(State::Starting);
        advance(&state, State::Ready);
        assert_eq!(*seen.borrow(), State::Ready);
        advance(&state, State::Stopping);
        advance(&state, State::Ready);
        assert_eq!(*seen.borrow(), State::Stopping);
    }
}
