//! Luau's instructions: what each reads and writes.
//!
//! The numbers and the meaning of operands are those of `LuauOpcode` in Luau's `Bytecode.h`.

use std::ops::Range;

use super::bytecode::Unreadable;

/// Registers of a function's stack frame.
pub(super) type Registers = Range<u16>;

const NONE: Registers = 0..0;

/// All from one on: as many values as there are.
pub(super) const ALL: u16 = 256;

/// What an instruction is, as far as that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Move,
    GetGlobal,
    /// Of up to three names that hang together, as in `kv.get`.
    GetImport,
    SetGlobal,
    GetUpvalue,
    Index,
    GetField,
    SetField,
    NewClosure,
    /// Of a function that is made once for all calls.
    SharedClosure,
    Capture,
    Method,
    Call,
    ForPrepare,
    Other,
}

/// One instruction.
#[derive(Clone, Debug)]
pub(super) struct Instruction {
    pub(super) kind: Kind,
    pub(super) a: u8,
    pub(super) b: u8,
    pub(super) c: u8,
    /// The index of a constant or a child, or the word behind it, where it has one.
    pub(super) index: u32,
    /// In words.
    pub(super) length: usize,
    /// Where it may jump to, relative to the word behind its first one.
    pub(super) jump: Option<i32>,
    pub(super) reads: [Registers; 3],
    pub(super) writes: Registers,
}

/// What a capture takes: a local variable that never changes after its declaration, or one that does.
pub(super) const CAPTURE_VALUE: u8 = 0;
pub(super) const CAPTURE_REFERENCE: u8 = 1;
/// A variable that the function has captured itself.
pub(super) const CAPTURE_UPVALUE: u8 = 2;

impl Instruction {
    /// The instruction at `place`.
    ///
    /// Fails for one that the compiler was not known to emit.
    pub(super) fn read(code: &[u32], place: usize) -> Result<Self, Unreadable> {
        let word = *code.get(place).ok_or(Unreadable)?;
        let [operation, a, b, c] = word.to_le_bytes();
        let distance = i32::from((word >> 16) as u16 as i16);
        let second = code.get(place + 1).copied().unwrap_or(0);
        let one = |register: u8| u16::from(register)..u16::from(register) + 1;
        // `count` is one more than the values, or 0 for as many as there are.
        let several = |first: u8, count: u8| {
            let first = u16::from(first);
            first..if count == 0 { ALL } else { first + u16::from(count) - 1 }
        };
        let three = |first: u8| u16::from(first)..u16::from(first) + 3;
        let other = Instruction {
            kind: Kind::Other,
            a,
            b,
            c,
            index: 0,
            length: 1,
            jump: None,
            reads: [NONE, NONE, NONE],
            writes: NONE,
        };
        Ok(match operation {
            // LOADNIL, LOADN, LOADK
            2 | 4 | 5 => Instruction { writes: one(a), ..other },
            // LOADB
            3 => Instruction { writes: one(a), jump: Some(i32::from(c)), ..other },
            // MOVE
            6 => Instruction { kind: Kind::Move, reads: [one(b), NONE, NONE], writes: one(a), ..other },
            // GETGLOBAL
            7 => Instruction { kind: Kind::GetGlobal, index: second, length: 2, writes: one(a), ..other },
            // SETGLOBAL
            8 => Instruction { kind: Kind::SetGlobal, index: second, length: 2, reads: [one(a), NONE, NONE], ..other },
            // GETUPVAL
            9 => Instruction { kind: Kind::GetUpvalue, writes: one(a), ..other },
            // SETUPVAL
            10 => Instruction { reads: [one(a), NONE, NONE], ..other },
            // CLOSEUPVALS, PREPVARARGS
            11 | 65 => other,
            // GETIMPORT
            12 => Instruction { kind: Kind::GetImport, index: second, length: 2, writes: one(a), ..other },
            // GETTABLE
            13 => Instruction { kind: Kind::Index, reads: [one(b), one(c), NONE], writes: one(a), ..other },
            // SETTABLE
            14 => Instruction { reads: [one(a), one(b), one(c)], ..other },
            // GETTABLEKS
            15 => Instruction {
                kind: Kind::GetField,
                index: second,
                length: 2,
                reads: [one(b), NONE, NONE],
                writes: one(a),
                ..other
            },
            // SETTABLEKS
            16 => {
                Instruction { kind: Kind::SetField, index: second, length: 2, reads: [one(a), one(b), NONE], ..other }
            }
            // GETTABLEN
            17 => Instruction { reads: [one(b), NONE, NONE], writes: one(a), ..other },
            // SETTABLEN
            18 => Instruction { reads: [one(a), one(b), NONE], ..other },
            // NEWCLOSURE
            19 => Instruction { kind: Kind::NewClosure, index: word >> 16, writes: one(a), ..other },
            // NAMECALL
            20 => Instruction {
                kind: Kind::Method,
                index: second,
                length: 2,
                reads: [one(b), NONE, NONE],
                writes: u16::from(a)..u16::from(a) + 2,
                ..other
            },
            // CALL. What lies above the function is used up.
            21 => Instruction {
                kind: Kind::Call,
                reads: [u16::from(a)..if b == 0 { ALL } else { u16::from(a) + u16::from(b) }, NONE, NONE],
                writes: u16::from(a)..ALL,
                ..other
            },
            // RETURN
            22 => Instruction { reads: [several(a, b), NONE, NONE], ..other },
            // JUMP, JUMPBACK
            23 | 24 => Instruction { jump: Some(distance), ..other },
            // JUMPIF, JUMPIFNOT
            25 | 26 => Instruction { jump: Some(distance), reads: [one(a), NONE, NONE], ..other },
            // JUMPIFEQ, JUMPIFLE, JUMPIFLT and their opposites
            27..=32 => {
                Instruction { jump: Some(distance), length: 2, reads: [one(a), one(second as u8), NONE], ..other }
            }
            // ADD, SUB, MUL, DIV, MOD, POW, AND, OR, IDIV
            33..=38 | 45 | 46 | 81 => Instruction { reads: [one(b), one(c), NONE], writes: one(a), ..other },
            // The same with a constant; NOT, MINUS, LENGTH
            39..=44 | 47 | 48 | 50..=52 | 82 => Instruction { reads: [one(b), NONE, NONE], writes: one(a), ..other },
            // SUBRK, DIVRK
            71 | 72 => Instruction { reads: [one(c), NONE, NONE], writes: one(a), ..other },
            // CONCAT
            49 => Instruction { reads: [u16::from(b)..u16::from(c) + 1, NONE, NONE], writes: one(a), ..other },
            // NEWTABLE
            53 => Instruction { length: 2, writes: one(a), ..other },
            // DUPTABLE
            54 => Instruction { writes: one(a), ..other },
            // SETLIST
            55 => Instruction { length: 2, reads: [one(a), several(b, c), NONE], ..other },
            // FORNPREP, FORGPREP, FORGPREP_INEXT, FORGPREP_NEXT
            56 | 59 | 61 | 76 => Instruction {
                kind: Kind::ForPrepare,
                jump: Some(distance),
                reads: [three(a), NONE, NONE],
                writes: three(a),
                ..other
            },
            // FORNLOOP
            57 => Instruction { jump: Some(distance), reads: [three(a), NONE, NONE], writes: three(a), ..other },
            // FORGLOOP
            58 => Instruction {
                jump: Some(distance),
                length: 2,
                reads: [three(a), NONE, NONE],
                writes: u16::from(a)..u16::from(a) + 3 + (second & 0xff) as u16,
                ..other
            },
            // FASTCALL, FASTCALL1: the call proper follows, and does the same.
            68 | 73 => other,
            // FASTCALL2, FASTCALL2K, FASTCALL3
            60 | 74 | 75 => Instruction { length: 2, ..other },
            // DUPCLOSURE
            64 => Instruction { kind: Kind::SharedClosure, index: word >> 16, writes: one(a), ..other },
            // GETVARARGS
            63 => Instruction { writes: several(a, b), ..other },
            // LOADKX
            66 => Instruction { length: 2, writes: one(a), ..other },
            // JUMPX
            67 => Instruction { jump: Some((word as i32) >> 8), ..other },
            // CAPTURE
            70 => match a {
                CAPTURE_VALUE | CAPTURE_REFERENCE => {
                    Instruction { kind: Kind::Capture, reads: [one(b), NONE, NONE], ..other }
                }
                CAPTURE_UPVALUE => Instruction { kind: Kind::Capture, ..other },
                _ => return Err(Unreadable),
            },
            // JUMPXEQKNIL, JUMPXEQKB, JUMPXEQKN, JUMPXEQKS
            77..=80 => Instruction { jump: Some(distance), length: 2, reads: [one(a), NONE, NONE], ..other },
            _ => return Err(Unreadable),
        })
    }

    /// Where it may jump to, other than backwards.
    pub(super) fn forward_target(&self, place: usize) -> Option<usize> {
        let distance = usize::try_from(self.jump?).ok().filter(|&distance| distance > 0)?;
        Some(place + 1 + distance)
    }
}
