//! Where reads come from.

use std::fmt;
use std::ops::ControlFlow;

use bytes::Bytes;
use cirrus_proto::Failure;
use cirrus_proto::internal::v1::Table;

/// What a scan hands each pair to. `&mut |key, value| …`; breaking ends the scan.
pub type Visit<'a> = &'a mut (dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a);

/// Reads of a shard's state. An implementation does no I/O beyond these.
pub trait View {
    /// The value stored under a key, exactly as written (expired or not).
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ViewError>;

    /// Visits pairs with `start <= key < end` (`None`: to the last key) in byte order until `visit` breaks.
    /// A range whose end is not above its start is empty.
    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), ViewError>;
}

/// The state could not be read. The message is for the node's operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewError(pub String);

impl fmt::Display for ViewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reading the shard's state: {}", self.0)
    }
}

impl std::error::Error for ViewError {}

impl From<ViewError> for Failure {
    fn from(error: ViewError) -> Failure {
        Failure::internal(error)
    }
}
