//! The shard's state as the engine reads it.

use std::ops::ControlFlow;

use bytes::Bytes;
use cirrus_engine::{View, ViewError};
use cirrus_proto::internal::v1::Table;
use cirrus_storage::{ShardState, StateSnapshot, StorageError};

/// The newest state. Each read, a scan as well, sees one moment; reads made one after another may see
/// different ones. The executor's overlay makes up for it.
pub struct StateView<'a>(pub &'a ShardState);

fn view_error(error: StorageError) -> ViewError {
    ViewError(error.to_string())
}

impl View for StateView<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        self.0.get(table, key).map_err(view_error)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), ViewError> {
        self.0.scan(table, start, end, visit).map_err(view_error)
    }
}

/// One moment of the state: everything that is read of it belongs together.
pub struct SnapshotView<'a>(pub StateSnapshot<'a>);

impl View for SnapshotView<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        self.0.get(table, key).map_err(view_error)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), ViewError> {
        self.0.scan(table, start, end, visit).map_err(view_error)
    }
}
