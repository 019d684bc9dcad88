//! `Procedures.FollowLogs`: what calls log, on all nodes.

use std::pin::Pin;
use std::sync::Arc;

use cirrus_proto::v1::{FollowLogsRequest, FollowLogsResponse, LogLevel};
use cirrus_proto::{Failure, Reason};
use futures::{Stream, stream};
use tokio::sync::{mpsc, watch};
use tonic::Status;

use crate::admission::{Admission, Admitted};
use crate::edge::{Edge, code_of};
use crate::observation::Rpc;

/// Longest name of a library, bytes.
const LIBRARY_BYTES_MAX: usize = 64;

/// What a follower gets.
pub(crate) type Events = Pin<Box<dyn Stream<Item = Result<FollowLogsResponse, Status>> + Send>>;

/// Serves followers.
pub(crate) struct Logs {
    edge: Arc<Edge>,
    admission: Admission,
    rpc: Rpc,
    stopping: watch::Receiver<bool>,
}

/// What one follower is served from.
struct Open {
    events: mpsc::Receiver<FollowLogsResponse>,
    stopping: watch::Receiver<bool>,
    _admitted: Admitted,
}

impl Logs {
    /// `stopping` turns true when the node stops: followers are told, and go elsewhere.
    pub(crate) fn new(edge: Arc<Edge>, followers_max: usize, stopping: watch::Receiver<bool>) -> Logs {
        let admission = Admission::new("log followers", followers_max);
        Logs { edge, admission, rpc: Rpc::new("Procedures/FollowLogs"), stopping }
    }

    /// Begins to serve a follower. It counts as answered once its stream is open.
    pub(crate) fn follow(&self, request: FollowLogsRequest) -> Result<Events, Failure> {
        let observation = self.rpc.begin();
        let opened = self.open(request);
        observation.answer(code_of(&opened));
        Ok(Box::pin(stream::unfold(Some(opened?), next)))
    }

    fn open(&self, request: FollowLogsRequest) -> Result<Open, Failure> {
        let _admitted = self.admission.admit()?;
        check(&request)?;
        let events = self.edge.node.follow_logs(request);
        Ok(Open { events, stopping: self.stopping.clone(), _admitted })
    }
}

async fn next(open: Option<Open>) -> Option<(Result<FollowLogsResponse, Status>, Option<Open>)> {
    let mut open = open?;
    let event = tokio::select! {
        event = open.events.recv() => event?,
        // The sender outlives all streams; were it gone, the node would be stopping too.
        _ = open.stopping.wait_for(|stopping| *stopping) => {
            let stopping = Failure::new(Reason::ShuttingDown, "the node is stopping");
            return Some((Err(stopping.into()), None));
        }
    };
    Some((Ok(event), Some(open)))
}

/// Refuses what names no library or level that there can be.
pub(crate) fn check(request: &FollowLogsRequest) -> Result<(), Failure> {
    let length = request.library.len();
    if length > LIBRARY_BYTES_MAX {
        let problem = format!("is {length} bytes, above the limit of {LIBRARY_BYTES_MAX}");
        return Err(Failure::invalid_field("library", problem).with("actual", length).with("limit", LIBRARY_BYTES_MAX));
    }
    match LogLevel::try_from(request.level) {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::invalid_field("level", format!("{} is not a LogLevel", request.level))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_libraries_and_levels_that_there_can_be_are_followed() {
        let request =
            |library: usize, level| FollowLogsRequest { library: "x".repeat(library), level, ..Default::default() };
        for (library, level) in [(0, 0), (64, 4)] {
            assert_eq!(check(&request(library, level)), Ok(()));
        }
        for (library, level, field) in [(65, 0, "library"), (0, 5, "level"), (0, -1, "level")] {
            let failure = check(&request(library, level)).unwrap_err();
            assert_eq!((failure.reason, failure.metadata["field"].as_str()), (Reason::InvalidField, field));
        }
    }
}
