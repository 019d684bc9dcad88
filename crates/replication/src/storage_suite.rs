//! openraft's own suite for stores, over this crate's log and state machine.

use std::path::Path;
use std::sync::Arc;

use cirrus_storage::{LogConfig, NodeLog, ShardState, SharedResources, StorageConfig};
use openraft::errors::ErrorSource as _;
use openraft::impls::BoxedErrorSource;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use crate::completions::Completions;
use crate::log::{LogStore, into_io};
use crate::state_machine::StateMachine;
use crate::types::TypeConfig;

const SHARD: u32 = 1;

/// Makes stores in directories of their own.
struct Stores(SharedResources);

impl Stores {
    fn open(&self, directory: &Path) -> Result<(LogStore, StateMachine), std::io::Error> {
        // The suite opens many logs, and each fills its first segment with zeros.
        let config = LogConfig { segment_bytes: 256 << 10, ..LogConfig::default() };
        let log = NodeLog::open(&directory.join("log"), &self.0, config).map_err(into_io)?;
        let state = Arc::new(ShardState::open(&directory.join("state"), &self.0).map_err(into_io)?);
        let snapshots = directory.join("snapshots");
        std::fs::create_dir_all(&snapshots)?;
        let (applied_next, stops) = Default::default();
        let state_machine = StateMachine::open(SHARD, state.clone(), snapshots, applied_next, stops)?;
        Ok((LogStore::new(Arc::new(log).shard(SHARD), state, Completions::start()), state_machine))
    }
}

fn failed(error: std::io::Error) -> openraft::StorageError<TypeConfig> {
    openraft::StorageError::read(BoxedErrorSource::from_error(&error))
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Stores {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), openraft::StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().map_err(failed)?;
        let (log, state_machine) = self.open(directory.path()).map_err(failed)?;
        Ok((directory, log, state_machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_and_the_state_machine_pass_openrafts_suite() -> Result<(), openraft::StorageError<TypeConfig>> {
    let resources = SharedResources::new(StorageConfig::default()).map_err(|error| failed(into_io(error)))?;
    Suite::test_all(Stores(resources)).await
}
