//! Tokyo Cabinet's block-sorting compression, `tcbs`.
//!
//! Each unit of 8,192 bytes becomes the row of the plain text (two bytes, little-endian) and the last column of its
//! sorted rotations (Burrows and Wheeler). All units together then pass a move-to-front list and Elias's gamma code.
//! The bits of the stream fill bytes from the lowest up, behind three that say how many bits of its last byte count.
//! Source: Tokyo Cabinet's `tcutil.c`.

use super::output::Output;
use crate::api::{Raised, check_budget};
use crate::budget::CpuBudget;

/// What is sorted at once, bytes.
const UNIT: usize = 8192;

/// Bits of the stream's head.
const HEAD_BITS: u32 = 3;

pub(super) fn encode(data: &[u8], budget: &CpuBudget, out: &mut Output<'_>) -> Result<bool, Raised> {
    let mut list = MoveToFront::new();
    let mut bits = BitWriter { out, last: 0, used: HEAD_BITS, head: None };
    for unit in data.chunks(UNIT) {
        let rows = sorted_rotations(unit, budget)?;
        let plain = rows.iter().position(|&start| start == 0).unwrap_or(0) as u16;
        let column = rows.iter().map(|&start| unit[(usize::from(start) + unit.len() - 1) % unit.len()]);
        for byte in plain.to_le_bytes().into_iter().chain(column) {
            bits.gamma(u32::from(list.place_of(byte)) + 1)?;
        }
    }
    bits.finish()?;
    Ok(true)
}

/// False: the data is damaged.
pub(super) fn decode(data: &[u8], budget: &CpuBudget, out: &mut Output<'_>) -> Result<bool, Raised> {
    let Some(mut bits) = BitReader::new(data) else { return Ok(false) };
    let mut list = MoveToFront::new();
    loop {
        check_budget(budget)?;
        let mut unit = Vec::with_capacity(2 + UNIT);
        while unit.len() < 2 + UNIT && !bits.is_at_end() {
            let Some(place) = bits.gamma() else { return Ok(false) };
            unit.push(list.byte_at(place));
        }
        match &*unit {
            [] => return Ok(true),
            [low, high, column @ ..] => plain_text(column, u16::from_le_bytes([*low, *high]), out)?,
            _ => return Ok(false),
        }
    }
}

/// Where each rotation of the unit begins, in the order of the rotations: sorted by their first byte, then by twice
/// as many each round, so that a unit of one byte repeated takes no longer than another.
fn sorted_rotations(unit: &[u8], budget: &CpuBudget) -> Result<Vec<u16>, Raised> {
    let length = unit.len();
    let mut rows: Vec<u16> = (0..length as u16).collect();
    let mut ranks: Vec<u16> = unit.iter().map(|&byte| u16::from(byte)).collect();
    let mut width = 0;
    loop {
        check_budget(budget)?;
        let rank = |start: u16| {
            let start = usize::from(start);
            (ranks[start], ranks[(start + width) % length])
        };
        rows.sort_unstable_by_key(|&start| rank(start));
        let mut next = vec![0; length];
        let mut distinct = 0;
        for pair in rows.windows(2) {
            distinct += u16::from(rank(pair[0]) != rank(pair[1]));
            next[usize::from(pair[1])] = distinct;
        }
        ranks = next;
        width = (width * 2).max(1);
        if usize::from(distinct) + 1 == length || width >= length {
            return Ok(rows);
        }
    }
}

/// Follows the rows from the plain one: each row's first byte, then the row that ends with that very byte.
fn plain_text(column: &[u8], plain: u16, out: &mut Output<'_>) -> Result<(), Raised> {
    let mut rows: Vec<u16> = (0..column.len() as u16).collect();
    rows.sort_by_key(|&row| column[usize::from(row)]);
    let mut row = usize::from(plain);
    if row >= column.len() {
        row = 0;
    }
    for _ in 0..column.len() {
        row = usize::from(rows[row]);
        out.push(column[row])?;
    }
    Ok(())
}

/// A list of all bytes, in which the last one that was asked for stands first.
struct MoveToFront([u8; 256]);

impl MoveToFront {
    fn new() -> Self {
        MoveToFront(std::array::from_fn(|byte| byte as u8))
    }

    fn place_of(&mut self, byte: u8) -> u8 {
        let place = self.0.iter().position(|&listed| listed == byte).unwrap_or(0);
        self.0[..=place].rotate_right(1);
        place as u8
    }

    fn byte_at(&mut self, place: u8) -> u8 {
        self.0[..=usize::from(place)].rotate_right(1);
        self.0[0]
    }
}

struct BitWriter<'a, 'b> {
    out: &'a mut Output<'b>,
    last: u8,
    /// Bits of `last`.
    used: u32,
    /// The first byte, which is completed at the end.
    head: Option<u8>,
}

impl BitWriter<'_, '_> {
    fn bit(&mut self, is_set: bool) -> Result<(), Raised> {
        self.make_room()?;
        self.last |= u8::from(is_set) << self.used;
        self.used += 1;
        Ok(())
    }

    fn make_room(&mut self) -> Result<(), Raised> {
        if self.used == u8::BITS {
            self.head.get_or_insert(self.last);
            self.out.push(self.last)?;
            (self.last, self.used) = (0, 0);
        }
        Ok(())
    }

    /// As many zeros as the number has bits behind its highest, then the number from its highest bit down.
    fn gamma(&mut self, number: u32) -> Result<(), Raised> {
        let tail = number.ilog2();
        for _ in 0..tail {
            self.bit(false)?;
        }
        for place in (0..=tail).rev() {
            self.bit(number & (1 << place) != 0)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), Raised> {
        self.make_room()?;
        let count = self.used as u8;
        match self.head {
            Some(head) => {
                self.out.push(self.last)?;
                self.out.set_first(head | count);
            }
            None => self.out.push(self.last | count)?,
        }
        Ok(())
    }
}

struct BitReader<'a> {
    data: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> BitReader<'a> {
    fn new(data: &'a [u8]) -> Option<Self> {
        let end = (data.len().checked_sub(1)? * 8).checked_add(usize::from(data[0] & 7))?;
        Some(BitReader { data, at: HEAD_BITS as usize, end })
    }

    fn is_at_end(&self) -> bool {
        self.at >= self.end
    }

    fn bit(&mut self) -> Option<bool> {
        let byte = self.data.get(self.at / 8).filter(|_| !self.is_at_end())?;
        let is_set = byte & (1 << (self.at % 8)) != 0;
        self.at += 1;
        Some(is_set)
    }

    /// A place in the list, which is one less than the number that was written.
    fn gamma(&mut self) -> Option<u8> {
        let mut tail = 0;
        while !self.bit()? {
            tail += 1;
        }
        let mut number: u32 = 1;
        for _ in 0..tail {
            number = number << 1 | u32::from(self.bit()?);
            if number > 256 {
                return None;
            }
        }
        Some((number - 1) as u8)
    }
}
