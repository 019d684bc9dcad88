//! The shard's part of the node's log, as openraft wants to see it.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use cirrus_storage::{EncodedEntry, ShardLog, ShardState, StorageError};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::oneshot;

use crate::completions::Completions;
use crate::convert::{entry_from_bytes, entry_to_pb, log_id_from_pb, log_id_to_pb, vote_from_pb, vote_to_pb};
use crate::types::{Entry, LogId, TypeConfig, Vote};

/// How many bytes of entries one replication request carries at most. A single larger entry travels alone.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// Adapts [`ShardLog`] to openraft.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: ShardLog,
    /// Consulted before a purge: the log is the state's write-ahead log.
    state: Arc<ShardState>,
    completions: Completions,
}

impl LogStore {
    pub(crate) fn new(log: ShardLog, state: Arc<ShardState>, completions: Completions) -> Self {
        LogStore { log, state, completions }
    }

    fn read(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        if start >= end {
            return Ok(Vec::new());
        }
        let encoded = self.log.read(start..end, max_bytes).map_err(into_io)?;
        encoded.iter().map(|entry| Ok(entry_from_bytes(entry.bytes.clone())?)).collect()
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => self.log.state().last.map_or(0, |last| last.index + 1),
        };
        self.read(start, end, usize::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.log.vote().as_ref().map(vote_from_pb))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, REQUEST_BYTES_MAX)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.log.state();
        let last_purged_log_id = state.last_purged.as_ref().map(log_id_from_pb);
        let last_log_id = state.last.as_ref().map(log_id_from_pb).or(last_purged_log_id);
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (sender, receiver) = oneshot::channel();
        // A receiver that is gone means that the group stopped; nobody waits for the vote.
        let done = Box::new(move |result| drop(sender.send(result)));
        self.log.save_vote(vote_to_pb(vote), done).map_err(into_io)?;
        receiver.await.map_err(|_| io::Error::other("the log's writer thread stopped"))?.map_err(into_io)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.log.save_committed(committed.as_ref().map(log_id_to_pb)).map_err(into_io)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.log.committed().as_ref().map(log_id_from_pb))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let encoded = entries
            .into_iter()
            .map(|entry| EncodedEntry::encode(&entry_to_pb(entry)).map(Arc::new))
            .collect::<Result<_, _>>()
            .map_err(into_io)?;
        let completions = self.completions.clone();
        let done = move |result: Result<(), StorageError>| {
            completions.run(move || callback.io_completed(result.map_err(into_io)));
        };
        self.log.append(encoded, Box::new(done)).map_err(into_io)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.log.truncate_after(last_log_id.as_ref().map(log_id_to_pb)).map_err(into_io)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let flushed = self.state.flushed().map_err(into_io)?;
        if flushed.is_none_or(|flushed| flushed.index < log_id.index) {
            let state = self.state.clone();
            tokio::task::spawn_blocking(move || state.flush()).await.map_err(io::Error::other)?.map_err(into_io)?;
        }
        self.log.purge(log_id_to_pb(&log_id)).map_err(into_io)
    }
}

pub(crate) fn into_io(error: StorageError) -> io::Error {
    io::Error::other(error)
}
