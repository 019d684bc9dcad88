//! Who a data directory belongs to: the file IDENTITY in it.

use std::io::Write as _;
use std::path::Path;

use cirrus_proto::internal::v1::NodeIdentity;
use cirrus_proto::{Failure, Reason};
use prost::Message as _;

/// The version of the directory's layout. A newer one is refused.
const FORMAT_VERSION: u32 = 1;
const FILE_NAME: &str = "IDENTITY";

/// Reads the identity; `None` for a directory that belongs to nobody yet.
pub(crate) fn load(data_dir: &Path, node_id: u64) -> Result<Option<NodeIdentity>, Failure> {
    let path = data_dir.join(FILE_NAME);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::internal(format!("{}: {error}", path.display()))),
    };
    let identity = NodeIdentity::decode(bytes.as_slice())
        .map_err(|error| Failure::internal(format!("{} is damaged: {error}", path.display())))?;
    if identity.format_version > FORMAT_VERSION {
        let (found, known) = (identity.format_version, FORMAT_VERSION);
        return Err(Failure::internal(format!(
            "{} has format version {found}, this program knows up to {known}: it was written by a newer version",
            path.display()
        )));
    }
    if identity.node_id != node_id {
        return Err(Failure::new(
            Reason::NodeConflict,
            format!("{} belongs to node {}, not to node {node_id}", data_dir.display(), identity.node_id),
        ));
    }
    Ok(Some(identity))
}

/// Writes the identity: whole or not at all, and durable on return.
pub(crate) fn store(data_dir: &Path, node_id: u64, cluster_id: &str, shard_count: u32) -> Result<(), Failure> {
    let identity =
        NodeIdentity { node_id, cluster_id: cluster_id.to_owned(), shard_count, format_version: FORMAT_VERSION };
    let write = || -> std::io::Result<()> {
        let (path, new) = (data_dir.join(FILE_NAME), data_dir.join("IDENTITY.new"));
        let mut file = std::fs::File::create(&new)?;
        file.write_all(&identity.encode_to_vec())?;
        file.sync_all()?;
        std::fs::rename(&new, &path)?;
        std::fs::File::open(data_dir)?.sync_all()
    };
    write().map_err(|error| Failure::internal(format!("{}: {error}", data_dir.display())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_identity_is_kept_and_anothers_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert!(load(directory.path(), 1).unwrap().is_none());
        store(directory.path(), 1, "c", 8).unwrap();
        let identity = load(directory.path(), 1).unwrap().unwrap();
        assert_eq!((identity.cluster_id.as_str(), identity.shard_count), ("c", 8));
        assert_eq!(load(directory.path(), 2).unwrap_err().reason, Reason::NodeConflict);
    }

    #[test]
    fn a_newer_format_and_a_damaged_file_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let newer = NodeIdentity { node_id: 1, format_version: FORMAT_VERSION + 1, ..Default::default() };
        std::fs::write(directory.path().join(FILE_NAME), newer.encode_to_vec()).unwrap();
        assert!(load(directory.path(), 1).unwrap_err().message.contains("newer version"));
        std::fs::write(directory.path().join(FILE_NAME), b"\xff\xff").unwrap();
        assert!(load(directory.path(), 1).unwrap_err().message.contains("damaged"));
    }
}
