//! Goes over a compiled source once, and finds what looks like a mistake.
//!
//! Each function's code is read from its first instruction to its last, with a note for each register of the name of
//! the API that it holds. Where code from elsewhere may arrive, what was noted since then is forgotten; so is a local
//! variable that is assigned more than once. What is found so is the case on every path; what is not known is not
//! reported.
//!
//! Nothing here recurses, however the source is nested, and its work is in proportion to the code's length.

use std::collections::HashSet;

use super::bytecode::{Chunk, Function, Local, Unreadable};
use super::instruction::{ALL, CAPTURE_REFERENCE, CAPTURE_UPVALUE, CAPTURE_VALUE, Instruction, Kind};
use super::locals::{self, LocalUse};
use super::sandbox::{Global, Sandbox};

/// What looks like a mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Finding<'a> {
    pub(super) line: u32,
    pub(super) what: What<'a>,
}

/// The kinds of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum What<'a> {
    /// A global variable that nothing defines is read.
    UnknownGlobal { name: &'a [u8] },
    /// A field that a table of the sandbox does not have is read.
    UnknownField { table: &'a [u8], name: &'a [u8] },
    /// A function of such a table is called as a method.
    MethodCall { table: &'a [u8], name: &'a [u8] },
    /// A function is called for nothing.
    UnusedResult { path: Path<'a> },
    /// A function is called with a number of arguments that it refuses.
    ArgumentCount { path: Path<'a>, count: usize },
    /// Nothing reads a local variable.
    UnusedLocal { name: &'a [u8] },
}

/// A name of the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Path<'a> {
    /// The global variable.
    pub(super) global: &'a [u8],
    /// A field of the table that it holds.
    pub(super) field: Option<&'a [u8]>,
}

impl Path<'_> {
    fn is_environment(self) -> bool {
        self.field.is_none() && self.global == ENVIRONMENT
    }
}

/// The table of the source's own global variables.
const ENVIRONMENT: &[u8] = b"_G";

/// Finds what there is, in no particular order.
pub(super) fn scan<'a>(chunk: &Chunk<'a>, sandbox: &Sandbox) -> Result<Vec<Finding<'a>>, Unreadable> {
    let mut scan = Scan {
        sandbox,
        is_optimised: chunk.is_optimised,
        assigned: HashSet::new(),
        environment_escapes: false,
        found: Vec::new(),
    };
    let mut captured: Vec<Vec<Option<Path<'a>>>> = Vec::new();
    captured.resize_with(chunk.functions.len(), Vec::new);
    // A function stands behind those that it contains, so what they capture is known before they are read.
    for number in (0..chunk.functions.len()).rev() {
        let upvalues = std::mem::take(&mut captured[number]);
        scan.function(&chunk.functions[number], number, &upvalues, &mut captured)?;
    }
    Ok(scan.result())
}

struct Scan<'a, 's> {
    sandbox: &'s Sandbox,
    is_optimised: bool,
    /// The global variables that the source sets.
    assigned: HashSet<&'a [u8]>,
    /// `_G` is used other than with a name in the source: global variables may be set that are not known.
    environment_escapes: bool,
    found: Vec<Finding<'a>>,
}

impl<'a> Scan<'a, '_> {
    fn function(
        &mut self,
        function: &Function<'a>,
        number: usize,
        upvalues: &[Option<Path<'a>>],
        captured: &mut [Vec<Option<Path<'a>>>],
    ) -> Result<(), Unreadable> {
        let (uses, joins) = locals::uses(function)?;
        let is_unused = |(local, local_use): &(&Local<'_>, &LocalUse)| {
            !local_use.read && !local_use.implicit && !local.name.starts_with(b"_")
        };
        let unused = function.locals.iter().zip(&uses).filter(is_unused);
        for (local, _) in unused.filter(|_| !self.is_optimised) {
            let line = function.line(local.start.saturating_sub(1));
            self.found.push(Finding { line, what: What::UnusedLocal { name: local.name } });
        }

        let mut registers = Registers::new(function, &uses);
        let mut joins = joins.into_iter().peekable();
        // The function whose captures follow.
        let mut child = None;
        let mut place = 0;
        while place < function.code.len() {
            while let Some(join) = joins.next_if(|join| join.target <= place) {
                registers.forget_since(join.source);
            }
            registers.enter(place);
            let instruction = Instruction::read(&function.code, place)?;
            let Instruction { kind, a, b, c, index, .. } = instruction;
            let line = function.line(place);
            let name = || function.text(index);
            let mut value = None;
            match kind {
                Kind::Move => value = registers.get(b),
                Kind::GetGlobal => value = Some(self.global(name()?, line)),
                Kind::GetImport => {
                    // How many names in the two highest bits, then ten bits for each.
                    let name = |place: u32| function.text((index >> (20 - 10 * place)) & 1023);
                    value = Some(self.global(name(0)?, line));
                    for place in 1..index >> 30 {
                        value = self.field(value, name(place)?, line);
                    }
                }
                Kind::SetGlobal => drop(self.assigned.insert(name()?)),
                Kind::GetUpvalue => value = upvalues.get(usize::from(b)).copied().flatten(),
                Kind::GetField => value = self.field(registers.get(b), name()?, line),
                Kind::SetField if registers.is_environment(b) => drop(self.assigned.insert(name()?)),
                Kind::Method => self.method(registers.get(b), name()?, line),
                Kind::Call => self.call(registers.get(a), b, c, line),
                Kind::NewClosure | Kind::SharedClosure => {
                    let made = match kind {
                        Kind::NewClosure => function.children.get(index as usize).copied(),
                        _ => function.shared_function(index),
                    };
                    // What stands behind was read already; what was copied captures one thing here and another there.
                    child = made.filter(|&made| made < number && !self.is_optimised);
                }
                Kind::Capture => {
                    let path = match a {
                        CAPTURE_VALUE => registers.get(b),
                        CAPTURE_UPVALUE => upvalues.get(usize::from(b)).copied().flatten(),
                        _ => None,
                    };
                    if let Some(captured) = child.and_then(|child| captured.get_mut(child)) {
                        captured.push(path);
                    }
                }
                Kind::SetField | Kind::Index | Kind::ForPrepare | Kind::Other => {}
            }
            self.environment_escapes |= registers.environment_escapes(&instruction);
            registers.write(&instruction, value, place);
            place += instruction.length;
        }
        Ok(())
    }

    fn global(&mut self, name: &'a [u8], line: u32) -> Path<'a> {
        if self.sandbox.global(name).is_none() {
            self.found.push(Finding { line, what: What::UnknownGlobal { name } });
        }
        Path { global: name, field: None }
    }

    /// Reads a field of what `base` names, and answers what it holds.
    fn field(&mut self, base: Option<Path<'a>>, name: &'a [u8], line: u32) -> Option<Path<'a>> {
        let Path { global: table, field: None } = base? else { return None };
        if table == ENVIRONMENT {
            return Some(Path { global: name, field: None });
        }
        let Some(Global::Table(fields)) = self.sandbox.global(table) else { return None };
        if !fields.contains(name) {
            self.found.push(Finding { line, what: What::UnknownField { table, name } });
            return None;
        }
        Some(Path { global: table, field: Some(name) })
    }

    fn method(&mut self, base: Option<Path<'a>>, name: &'a [u8], line: u32) {
        let Some(Path { global: table, field: None }) = base else { return };
        if let Some(Global::Table(fields)) = self.sandbox.global(table) {
            let what = match fields.contains(name) {
                true => What::MethodCall { table, name },
                false => What::UnknownField { table, name },
            };
            self.found.push(Finding { line, what });
        }
    }

    /// A call with `arguments` less one of them and `results` less one; 0 where the code does not say how many.
    fn call(&mut self, function: Option<Path<'a>>, arguments: u8, results: u8, line: u32) {
        let Some(path) = function else { return };
        if let Some(count) = usize::from(arguments).checked_sub(1)
            && self.sandbox.arguments(path).is_some_and(|expected| !expected.contains(&count))
        {
            self.found.push(Finding { line, what: What::ArgumentCount { path, count } });
        }
        if results == 1 && self.sandbox.is_for_its_result(path) {
            self.found.push(Finding { line, what: What::UnusedResult { path } });
        }
    }

    /// What was found, without what the source's own global variables explain.
    fn result(self) -> Vec<Finding<'a>> {
        let Scan { assigned, environment_escapes, mut found, .. } = self;
        found.retain(|finding| match finding.what {
            What::UnknownGlobal { name } => !environment_escapes && !assigned.contains(name),
            What::UnknownField { table: global, .. }
            | What::MethodCall { table: global, .. }
            | What::UnusedResult { path: Path { global, .. } }
            | What::ArgumentCount { path: Path { global, .. }, .. } => !assigned.contains(global),
            What::UnusedLocal { .. } => true,
        });
        found
    }
}

/// What is known of a function's registers at one place of its code.
struct Registers<'f, 'a> {
    function: &'f Function<'a>,
    uses: &'f [LocalUse],
    /// The name that each holds, and where it was written.
    known: [Option<(Path<'a>, usize)>; ALL as usize],
    /// No register is known from this one on.
    unknown_from: usize,
    /// The local variable in each register, by its place in the function's.
    locals: [Option<usize>; ALL as usize],
    next_local: usize,
    place: usize,
    /// Some register has held `_G`.
    has_environment: bool,
}

impl<'f, 'a> Registers<'f, 'a> {
    fn new(function: &'f Function<'a>, uses: &'f [LocalUse]) -> Self {
        Registers {
            function,
            uses,
            known: [None; ALL as usize],
            unknown_from: 0,
            locals: [None; ALL as usize],
            next_local: 0,
            place: 0,
            has_environment: false,
        }
    }

    /// Goes on to the instruction at `place`.
    fn enter(&mut self, place: usize) {
        self.place = place;
        while let Some(local) = self.function.locals.get(self.next_local).filter(|local| local.start <= place) {
            self.locals[usize::from(local.register)] = Some(self.next_local);
            self.next_local += 1;
        }
    }

    fn get(&self, register: u8) -> Option<Path<'a>> {
        let (path, _) = self.known[usize::from(register)]?;
        let changes = self.locals[usize::from(register)]
            .is_some_and(|local| self.uses[local].written && self.place < self.function.locals[local].end);
        if changes { None } else { Some(path) }
    }

    fn is_environment(&self, register: u8) -> bool {
        self.get(register).is_some_and(Path::is_environment)
    }

    /// Whether the instruction does with `_G` what may set variables that are not named in the source.
    fn environment_escapes(&self, instruction: &Instruction) -> bool {
        if !self.has_environment {
            return false;
        }
        let is_read = |register: u16| match instruction.kind {
            Kind::Move | Kind::GetField | Kind::Index => false,
            Kind::Capture => instruction.a == CAPTURE_REFERENCE && register == u16::from(instruction.b),
            Kind::SetField => register == u16::from(instruction.a),
            _ => instruction.reads.iter().any(|read| read.contains(&register)),
        };
        let known = (0..).zip(&self.known[..self.unknown_from]);
        known
            .filter_map(|(register, known)| known.map(|(path, _)| (register, path)))
            .any(|(register, path)| path.is_environment() && is_read(register))
    }

    fn write(&mut self, instruction: &Instruction, value: Option<Path<'a>>, place: usize) {
        let (start, end) = (usize::from(instruction.writes.start), usize::from(instruction.writes.end));
        if start < self.unknown_from {
            self.known[start..end.min(self.unknown_from).max(start)].fill(None);
        }
        if end >= self.unknown_from {
            self.unknown_from = self.unknown_from.min(start);
        }
        if let Some(path) = value {
            self.known[start] = Some((path, place));
            self.unknown_from = self.unknown_from.max(start + 1);
            self.has_environment |= path.is_environment();
        }
    }

    /// Code that jumped at `source` goes on here, without what was written since.
    fn forget_since(&mut self, source: usize) {
        for known in &mut self.known[..self.unknown_from] {
            if known.is_some_and(|(_, written)| written > source) {
                *known = None;
            }
        }
    }
}
