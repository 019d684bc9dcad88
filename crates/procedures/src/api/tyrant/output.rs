//! What an operation builds up outside Lua's heap, held to the call's memory and time.

use std::io;

use crate::api::{Access, PIECE_BYTES, Raised, check_budget};
use crate::budget::CpuBudget;
use crate::trouble::call_memory;

/// Bytes in the making. One that grows beyond the memory of a call fails with `CALL_MEMORY`.
pub(super) struct Output<'a> {
    bytes: Vec<u8>,
    limit: usize,
    check_at: usize,
    budget: &'a CpuBudget,
    library: &'a str,
    function: &'a str,
}

impl<'a> Output<'a> {
    pub(super) fn new(access: &Access<'a, '_>) -> Self {
        Output {
            bytes: Vec::new(),
            limit: access.transaction.limits().call_memory_bytes,
            check_at: PIECE_BYTES,
            budget: access.budget,
            library: access.log.library,
            function: access.log.function,
        }
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) -> Result<(), Raised> {
        let length = self.bytes.len() + bytes.len();
        if length > self.limit {
            return Err(call_memory(self.library, self.function, self.limit).into());
        }
        if length >= self.check_at {
            check_budget(self.budget)?;
            self.check_at = length + PIECE_BYTES;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    pub(super) fn push(&mut self, byte: u8) -> Result<(), Raised> {
        self.extend(&[byte])
    }

    /// Takes all that `source` has. False: it is damaged, or ends too early.
    pub(super) fn read_from(&mut self, mut source: impl io::Read) -> Result<bool, Raised> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            check_budget(self.budget)?;
            match source.read(&mut piece) {
                Ok(0) => return Ok(true),
                Ok(length) => self.extend(&piece[..length])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Ok(false),
            }
        }
    }

    /// Replaces the first byte, which there must be.
    pub(super) fn set_first(&mut self, byte: u8) {
        self.bytes[0] = byte;
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
