//! Snapshots: directories of files that a checkpoint made or a leader sent.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cirrus_storage::ShardState;
use openraft::storage::{RaftSnapshotBuilder, Snapshot};
use parking_lot::Mutex;

use crate::convert::{log_id_from_pb, stored_membership_from_pb};
use crate::log::into_io;
use crate::types::{SnapshotMeta, TypeConfig};

/// A directory that holds a snapshot. It is removed when its last holder lets go.
#[derive(Clone, Debug)]
pub struct SnapshotDirectory(Arc<OwnedDirectory>);

#[derive(Debug)]
struct OwnedDirectory(PathBuf);

impl SnapshotDirectory {
    pub(crate) fn new(path: PathBuf) -> Self {
        SnapshotDirectory(Arc::new(OwnedDirectory(path)))
    }

    /// Where the files are.
    pub fn path(&self) -> &Path {
        &self.0.0
    }
}

impl Drop for OwnedDirectory {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(&self.0) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            // The next start of the node clears the folder that it lies in.
            Err(error) => tracing::warn!(path = %self.0.display(), %error, "could not remove a snapshot"),
        }
    }
}

/// The newest snapshot of a shard, kept until a newer one replaces it.
pub(crate) type CurrentSnapshot = Arc<Mutex<Option<(SnapshotMeta, SnapshotDirectory)>>>;

/// Makes snapshots of one shard's state.
pub(crate) struct SnapshotBuilder {
    pub(crate) state: Arc<ShardState>,
    /// The shard's folder of snapshots; each gets a fresh name in it.
    pub(crate) folder: PathBuf,
    pub(crate) current: CurrentSnapshot,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotDirectory;

    async fn build_snapshot(
        &mut self,
    ) -> Result<openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotDirectory>, std::io::Error> {
        let state = self.state.clone();
        let path = fresh_path(&self.folder, "built");
        let directory = SnapshotDirectory::new(path.clone());
        if state.applied().log_id.is_none() {
            // There is nothing to link yet, and nobody to send it to.
            return Ok(Snapshot { meta: SnapshotMeta::default(), snapshot: directory });
        }
        let checkpoint = tokio::task::spawn_blocking(move || state.checkpoint(&path))
            .await
            .map_err(std::io::Error::other)?
            .map_err(into_io)?;
        // The meta comes from the checkpoint itself, so data and meta cannot disagree.
        let meta = SnapshotMeta {
            last_log_id: checkpoint.applied.log_id.as_ref().map(log_id_from_pb),
            last_membership: stored_membership_from_pb(checkpoint.applied.membership)?,
        };
        *self.current.lock() = Some((meta.clone(), directory.clone()));
        Ok(Snapshot { meta, snapshot: directory })
    }
}

/// A path in `folder` that no snapshot of this process has used.
pub(crate) fn fresh_path(folder: &Path, kind: &str) -> PathBuf {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    folder.join(format!("{kind}-{}-{number}", std::process::id()))
}
