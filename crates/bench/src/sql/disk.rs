//! What databases take on disk.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use cirrus_client::Client;
use cirrus_proto::v1::SqlListRequest;
use serde::{Deserialize, Serialize};

use super::address_book::DBNAME;

/// A cluster's disks, all nodes together, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClusterDisk {
    /// The live table files of all shards, the catalog's as well.
    pub(crate) state_bytes: u64,
    /// Of what is applied, what is in memory only: the log has it too.
    pub(crate) memory_bytes: u64,
}

/// As the nodes tell it.
pub(crate) async fn of_cluster(client: &Client) -> anyhow::Result<ClusterDisk> {
    let mut disk = ClusterDisk::default();
    for address in client.addresses() {
        let status = client.status_of(&address).await.with_context(|| format!("asking {address} for its status"))?;
        for shard in &status.shards {
            disk.state_bytes += shard.state_disk_bytes;
            disk.memory_bytes += shard.state_memory_bytes;
        }
    }
    Ok(disk)
}

/// How often RocksDB is looked at, until its background work is done.
const SETTLE_INTERVAL: Duration = Duration::from_millis(500);
/// Looks in a row that must find the same.
const SETTLED_LOOKS: u32 = 6;

/// Waits until the state's size on disk stays the same, up to `bound`.
pub(crate) async fn settled(client: &Client, bound: Duration) -> anyhow::Result<ClusterDisk> {
    let deadline = Instant::now() + bound;
    let (mut last, mut same) = (of_cluster(client).await?, 0);
    while same < SETTLED_LOOKS && Instant::now() < deadline {
        tokio::time::sleep(SETTLE_INTERVAL).await;
        let disk = of_cluster(client).await?;
        same = if disk.state_bytes == last.state_bytes { same + 1 } else { 0 };
        last = disk;
    }
    Ok(last)
}

/// What the first databases' pages take before compression, bytes each; up to a thousand are looked at.
pub(crate) async fn stored_bytes_each(client: &Client) -> anyhow::Result<f64> {
    let request = SqlListRequest { dbname: Some(DBNAME.to_owned()), page_size: 1000, ..Default::default() };
    let page = client.list_databases(request).await?;
    let bytes: u64 = page.databases.iter().map(|database| database.stored_bytes).sum();
    Ok(bytes as f64 / page.databases.len().max(1) as f64)
}

/// What the logs of all nodes of `cirrus dev` take on disk, bytes, and what their snapshots do beyond files of the state.
pub(crate) fn of_nodes(directory: &Path) -> anyhow::Result<(u64, u64)> {
    let within = |folder: &'static str| move |path: &Path| path.iter().any(|name| name == folder);
    let log = of_directory(directory, &within("log"))?;
    let state = of_directory(directory, &within("shards"))?;
    let both = of_directory(directory, &|path| within("shards")(path) || within("snapshots")(path))?;
    Ok((log, both.saturating_sub(state)))
}

/// What a directory's files take on disk, bytes: each file once, however many links it has.
pub(crate) fn of_directory(directory: &Path, counts: &dyn Fn(&Path) -> bool) -> anyhow::Result<u64> {
    let (mut bytes, mut seen, mut waiting) = (0, HashSet::new(), vec![directory.to_owned()]);
    while let Some(directory) = waiting.pop() {
        let entries = fs::read_dir(&directory).with_context(|| format!("reading {}", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            // RocksDB deletes files meanwhile.
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            if metadata.is_dir() {
                waiting.push(path);
            } else if counts(&path) && seen.insert(metadata.ino()) {
                bytes += metadata.blocks() * 512;
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_file_with_two_names_counts_once_and_only_what_is_asked_for() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("log");
        fs::create_dir(&folder).unwrap();
        fs::write(root.path().join("a"), [1; 5000]).unwrap();
        fs::hard_link(root.path().join("a"), folder.join("b")).unwrap();
        fs::write(folder.join("c"), [1; 100]).unwrap();
        assert_eq!(of_directory(root.path(), &|_| true).unwrap(), 8192 + 4096);
        assert_eq!(of_directory(root.path(), &|path| path.ends_with("c")).unwrap(), 4096);
        assert!(of_directory(&root.path().join("missing"), &|_| true).is_err());
    }
}
