//! The way through a value of nested tables: where it is, how deep, and when it is time to look at the CPU time.

use std::ffi::c_void;

use mlua::Table;

use crate::api::pure::Context;
use crate::path::Path;

/// After this many values, the CPU time is looked at.
const VALUES_A_LOOK: u32 = 256;

pub(crate) struct Walk<'a> {
    pub(crate) context: &'a Context,
    /// From the whole value down to the present one.
    pub(crate) path: Path,
    /// The tables on that path.
    open: Vec<*const c_void>,
    depth_max: usize,
    ticks: Ticks,
}

/// What a table is taken for.
pub(crate) enum Shape {
    /// Of so many elements; that they are all that it has is not checked.
    List(usize),
    Map,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(context: &'a Context, depth_max: usize) -> Self {
        Walk { context, path: Path::default(), open: Vec::new(), depth_max, ticks: Ticks::default() }
    }

    /// Another value.
    pub(crate) fn tick(&mut self) -> mlua::Result<()> {
        self.ticks.tick(self.context)
    }

    /// Goes into a table, until [`leave`](Self::leave); or says why it cannot be gone into. A table with elements is a
    /// list, as one that is marked as an array; an empty one without the mark is a map.
    pub(crate) fn enter(&mut self, table: &Table) -> Result<Shape, String> {
        let identity = table.to_pointer();
        if self.open.contains(&identity) {
            return Err("the table contains itself".to_owned());
        }
        if self.open.len() == self.depth_max {
            return Err(format!("nested deeper than {}", self.depth_max));
        }
        self.open.push(identity);
        let is_array = table.metatable().is_some_and(|metatable| metatable == self.context.array);
        Ok(match table.raw_len() {
            0 if !is_array => Shape::Map,
            length => Shape::List(length),
        })
    }

    pub(crate) fn leave(&mut self) {
        self.open.pop();
    }
}

/// Counts values, and looks at the CPU time now and then.
#[derive(Default)]
pub(crate) struct Ticks(u32);

impl Ticks {
    pub(crate) fn tick(&mut self, context: &Context) -> mlua::Result<()> {
        self.0 = self.0.wrapping_add(1);
        if self.0.is_multiple_of(VALUES_A_LOOK) { context.check_budget() } else { Ok(()) }
    }
}
