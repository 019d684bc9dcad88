//! What becomes of a function's local variables.

use super::bytecode::{Function, Unreadable};
use super::instruction::{CAPTURE_REFERENCE, Instruction, Kind};

/// What a function does with one of its local variables.
#[derive(Clone, Copy, Default)]
pub(super) struct LocalUse {
    pub(super) read: bool,
    /// After its declaration.
    pub(super) written: bool,
    /// A parameter, or a loop's variable: it is there whether or not it is wanted.
    pub(super) implicit: bool,
}

/// A place of the code that is reached by a jump, too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Join {
    pub(super) target: usize,
    /// Where the jump is.
    pub(super) source: usize,
}

/// The use of each local variable, and the targets of all jumps forward, ascending.
pub(super) fn uses(function: &Function<'_>) -> Result<(Vec<LocalUse>, Vec<Join>), Unreadable> {
    let mut uses = vec![LocalUse::default(); function.locals.len()];
    let mut joins = Vec::new();
    // The local variable in each register, by its place in the function's.
    let mut present: [Option<usize>; 256] = [None; 256];
    let mut next = 0;
    let mut follows_loop = false;
    let mut place = 0;
    while place < function.code.len() {
        let instruction = Instruction::read(&function.code, place)?;
        while let Some(local) = function.locals.get(next).filter(|local| local.start <= place) {
            present[usize::from(local.register)] = Some(next);
            uses[next].implicit = follows_loop || local.register < function.parameters;
            next += 1;
        }
        let here = |register: u16| {
            let local = present.get(usize::from(register)).copied().flatten();
            local.filter(|&local| place < function.locals[local].end)
        };
        let changes = instruction.kind == Kind::Capture && instruction.a == CAPTURE_REFERENCE;
        // A call works on copies above all local variables.
        if instruction.kind != Kind::Call {
            for local in instruction.reads.iter().cloned().flatten().filter_map(here) {
                uses[local].read = true;
                uses[local].written |= changes;
            }
            for local in instruction.writes.clone().filter_map(here) {
                uses[local].written = true;
            }
        }
        joins.extend(instruction.forward_target(place).map(|target| Join { target, source: place }));
        // A numeric loop's variable that its body assigns is a copy of the loop's own.
        follows_loop = instruction.kind == Kind::ForPrepare || (follows_loop && instruction.kind == Kind::Move);
        place += instruction.length;
    }
    for local in uses.iter_mut().skip(next) {
        local.implicit = true;
    }
    joins.sort_unstable();
    Ok((uses, joins))
}
