//! Scanning state and newer changes to it as if the changes were applied.

use std::ops::ControlFlow;

use cirrus_proto::internal::v1::Table;

use crate::{View, ViewError, Visit};

/// Scans `base` with `changes` laid over it. `changes` are those of the range, in key order, at most one
/// for each key; `None` hides the key.
pub(crate) fn scan_merged<'c>(
    base: &dyn View,
    table: Table,
    start: &[u8],
    end: Option<&[u8]>,
    changes: impl Iterator<Item = (&'c [u8], Option<&'c [u8]>)>,
    visit: Visit<'_>,
) -> Result<(), ViewError> {
    let mut changes = changes.peekable();
    if changes.peek().is_none() {
        return base.scan(table, start, end, visit);
    }
    let mut stopped = false;
    base.scan(table, start, end, &mut |key, value| {
        let mut flow = ControlFlow::Continue(());
        let mut replaced = false;
        while let Some((changed_key, change)) = changes.next_if(|(changed_key, _)| *changed_key <= key) {
            replaced = changed_key == key;
            if let Some(new_value) = change {
                flow = visit(changed_key, new_value);
            }
            if flow.is_break() {
                break;
            }
        }
        if flow.is_continue() && !replaced {
            flow = visit(key, value);
        }
        stopped = flow.is_break();
        flow
    })?;
    if stopped {
        return Ok(());
    }
    for (key, change) in changes {
        if let Some(value) = change
            && visit(key, value).is_break()
        {
            break;
        }
    }
    Ok(())
}
