//! Effects that are proposed and not yet applied.
//!
//! The executor evaluates the next batch before the last one is committed, so commands must read what is
//! still in flight. Of each key only the newest change is kept, with the proposal that made it: reads want
//! no other, and once that proposal is applied the state itself holds the value.
//!
//! ```text
//!   in flight:  #7 {a=1, b=2}   #8 {a=3}   #9 {c deleted}
//!   newest:     a → 3 (#8)      b → 2 (#7)      c → deleted (#9)
//!   settle(7):  b is dropped; a stays, since #8 changed it after #7
//! ```

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use cirrus_proto::internal::v1::{Effect, Table};

use crate::merge::scan_merged;
use crate::tables::{PerTable, is_empty_range, range};
use crate::{View, ViewError, Visit, effect};

/// In-flight effects, newest first; reads go through it.
#[derive(Debug, Default)]
pub struct Overlay {
    newest: PerTable<BTreeMap<Bytes, Newest>>,
    /// Oldest first. Which keys each proposal was the newest to change when it was pushed.
    in_flight: VecDeque<InFlight>,
    bytes: usize,
}

#[derive(Debug)]
struct Newest {
    proposal: u64,
    /// `None`: deleted.
    value: Option<Bytes>,
}

#[derive(Debug)]
struct InFlight {
    proposal: u64,
    keys: Vec<(Table, Bytes)>,
}

impl Overlay {
    /// Nothing in flight.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lays the effects over everything before. A proposal may be pushed in parts, one command's effects
    /// after the other's; proposals are pushed in growing order.
    pub fn push(&mut self, proposal: u64, effects: &[Effect]) {
        if effects.is_empty() {
            return;
        }
        let continues = self.in_flight.back().is_some_and(|last| {
            debug_assert!(last.proposal <= proposal, "proposals are pushed in growing order");
            last.proposal == proposal
        });
        let mut keys = match self.in_flight.pop_back_if(|_| continues) {
            Some(last) => last.keys,
            None => Vec::with_capacity(effects.len()),
        };
        for pushed in effects {
            let table = pushed.table();
            let newest = Newest { proposal, value: effect::value_after(pushed).cloned() };
            self.bytes += pushed.key.len() + newest.held_bytes();
            let older = self.newest[table].insert(pushed.key.clone(), newest);
            if let Some(older) = &older {
                self.bytes -= pushed.key.len() + older.held_bytes();
            }
            if older.is_none_or(|older| older.proposal != proposal) {
                keys.push((table, pushed.key.clone()));
            }
        }
        self.in_flight.push_back(InFlight { proposal, keys });
    }

    /// The proposal is applied, and with it all before: drops their effects, but for keys that a later
    /// proposal changed again. To be called once the state underneath shows them.
    pub fn settle(&mut self, proposal: u64) {
        while let Some(settled) = self.in_flight.pop_front_if(|first| first.proposal <= proposal) {
            for (table, key) in settled.keys {
                let key_bytes = key.len();
                if let Entry::Occupied(newest) = self.newest[table].entry(key)
                    && newest.get().proposal == settled.proposal
                {
                    self.bytes -= key_bytes + newest.remove().held_bytes();
                }
            }
        }
    }

    /// Forgets everything: leadership was lost, and what was in flight may never be applied.
    pub fn clear(&mut self) {
        *self = Overlay::default();
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Bytes of keys and values held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The state as it will be once everything in flight is applied.
    pub fn over<'a>(&'a self, base: &'a dyn View) -> Overlaid<'a> {
        Overlaid { overlay: self, base }
    }
}

impl Newest {
    fn held_bytes(&self) -> usize {
        self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// A [`View`] with an [`Overlay`] over it.
#[derive(Clone, Copy)]
pub struct Overlaid<'a> {
    overlay: &'a Overlay,
    base: &'a dyn View,
}

impl View for Overlaid<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        match self.overlay.newest[table].get(key) {
            Some(newest) => Ok(newest.value.clone()),
            None => self.base.get(table, key),
        }
    }

    fn scan(&self, table: Table, start: &[u8], end: Option<&[u8]>, visit: Visit<'_>) -> Result<(), ViewError> {
        if is_empty_range(start, end) {
            return Ok(());
        }
        let changes =
            range(&self.overlay.newest[table], start, end).map(|(key, newest)| (&key[..], newest.value.as_deref()));
        scan_merged(self.base, table, start, end, changes, visit)
    }
}
