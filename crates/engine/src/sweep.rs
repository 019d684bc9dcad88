//! Removing what has expired.
//!
//! Reads hide expired values at once; the sweep gives their room back. The shard's leader proposes it now
//! and then, and again at once while there is more. It removes expired values first, then idle sessions,
//! at most `limit` things and one write set's worth of bytes.

use std::ops::ControlFlow;

use bytes::Bytes;
use cirrus_proto::Failure;
use cirrus_proto::internal::v1::{SweepExpired, SweepOutcome, Table};

use crate::encoding::decode_expiry_key;
use crate::{Transaction, sessions};

/// How much a sweep may still remove.
pub(crate) struct Budget {
    limit: usize,
    removed: usize,
}

impl Budget {
    /// Whether one more removal is allowed.
    pub(crate) fn allows(&self, tx: &Transaction<'_>) -> bool {
        self.removed < self.limit && tx.write_set_bytes() < tx.limits().write_set_bytes
    }

    pub(crate) fn spend(&mut self) {
        self.removed += 1;
    }

    /// How many more things are worth looking for: one above the rest tells whether anything is left over.
    pub(crate) fn candidates(&self) -> usize {
        self.limit - self.removed + 1
    }
}

pub(crate) fn sweep(request: &SweepExpired, tx: &mut Transaction<'_>) -> Result<SweepOutcome, Failure> {
    let mut budget = Budget { limit: request.limit as usize, removed: 0 };
    let more = sweep_values(tx, &mut budget)? || sessions::sweep(tx, &mut budget)?;
    Ok(SweepOutcome { removed: budget.removed as u32, more })
}

/// Whether expired values are left.
fn sweep_values(tx: &mut Transaction<'_>, budget: &mut Budget) -> Result<bool, Failure> {
    let end = tx.now_ms().checked_add(1).map(u64::to_be_bytes);
    let expired = first_keys(tx, Table::Expiry, &[], end.as_ref().map(|end| &end[..]), budget.candidates())?;
    for index_key in expired {
        if !budget.allows(tx) {
            return Ok(true);
        }
        let (expires_at_ms, key) = decode_expiry_key(&index_key)?;
        let key = index_key.slice_ref(key);
        match tx.stored(&key)? {
            Some(stored) if stored.expires_at_ms == expires_at_ms => tx.sweep_value(key, &stored),
            // The index should not say so; believe the value, and drop the entry.
            _ => tx.write_unlimited(Table::Expiry, index_key, None),
        }
        budget.spend();
    }
    Ok(false)
}

/// Up to `count` of a table's keys in `[start, end)`.
pub(crate) fn first_keys(
    tx: &Transaction<'_>,
    table: Table,
    start: &[u8],
    end: Option<&[u8]>,
    count: usize,
) -> Result<Vec<Bytes>, Failure> {
    let mut keys = Vec::new();
    tx.scan_table(table, start, end, &mut |key, _| {
        keys.push(Bytes::copy_from_slice(key));
        if keys.len() < count { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(keys)
}
