//! Reads what Luau's compiler makes of a source, as far as lint needs it: code, constants, lines and local variables.
//!
//! The layout is that of `BytecodeBuilder.cpp` and `Bytecode.h` in Luau. It is no format to keep, and other versions of
//! Luau have others: what is read here was compiled by the same process a moment ago. A layout that is not known is
//! noticed by its version, and refused; a test compiles all of Luau's syntax and fails where an update brings one.

/// The bytecode's versions whose layout this is.
const VERSIONS: std::ops::RangeInclusive<u8> = 6..=9;

/// Those of the types in it, which are passed over.
const TYPE_VERSIONS: std::ops::RangeInclusive<u8> = 1..=3;

/// Flags of a function that is to be native code, or is part of a source that is.
const NATIVE: u8 = 1 | 4;

/// The bytes are not bytecode of a known version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// A compiled source.
pub(super) struct Chunk<'a> {
    /// Each behind those that it contains; the last is the source's top level.
    pub(super) functions: Vec<Function<'a>>,
    /// The source asks for native code (`@native`), which has it optimised: variables may be gone, functions copied
    /// into others.
    pub(super) is_optimised: bool,
}

/// One function of it.
pub(super) struct Function<'a> {
    pub(super) parameters: u8,
    /// Instructions, and the words that some of them are followed by.
    pub(super) code: Vec<u32>,
    constants: Vec<Constant<'a>>,
    /// The functions that it contains, by their places in the chunk.
    pub(super) children: Vec<usize>,
    /// Of each word of the code, from 1; empty where they are not known.
    lines: Vec<u32>,
    first_line: u32,
    /// By where they begin.
    pub(super) locals: Vec<Local<'a>>,
}

/// A constant of a function.
#[derive(Clone, Copy)]
enum Constant<'a> {
    Text(&'a [u8]),
    /// A function, by its place in the chunk.
    Function(usize),
    Other,
}

/// A local variable or a parameter, in the stretch of code in which it has its value.
pub(super) struct Local<'a> {
    pub(super) name: &'a [u8],
    pub(super) register: u8,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl<'a> Function<'a> {
    /// The line of the word at `place`.
    pub(super) fn line(&self, place: usize) -> u32 {
        self.lines.get(place).copied().unwrap_or(self.first_line)
    }

    /// The constant of that index, which is a string.
    pub(super) fn text(&self, index: u32) -> Result<&'a [u8], Unreadable> {
        match self.constants.get(index as usize) {
            Some(Constant::Text(text)) => Ok(text),
            _ => Err(Unreadable),
        }
    }

    /// The constant of that index, where it is a function.
    pub(super) fn shared_function(&self, index: u32) -> Option<usize> {
        match self.constants.get(index as usize) {
            Some(Constant::Function(function)) => Some(*function),
            _ => None,
        }
    }
}

impl<'a> Chunk<'a> {
    /// Reads bytecode.
    pub(super) fn read(bytecode: &'a [u8]) -> Result<Self, Unreadable> {
        let mut reader = Reader { rest: bytecode };
        if !VERSIONS.contains(&reader.byte()?) || !TYPE_VERSIONS.contains(&reader.byte()?) {
            return Err(Unreadable);
        }
        let count = reader.count()?;
        let mut strings = Vec::with_capacity(count);
        for _ in 0..count {
            let length = reader.count()?;
            strings.push(reader.bytes(length)?);
        }
        // Names of userdata types end with a 0.
        while reader.byte()? != 0 {
            reader.number()?;
        }
        let count = reader.count()?;
        let mut functions = Vec::with_capacity(count);
        let mut is_optimised = false;
        for _ in 0..count {
            let (function, flags) = read_function(&mut reader, &strings)?;
            is_optimised |= flags & NATIVE != 0;
            functions.push(function);
        }
        reader.number()?;
        if functions.is_empty() || !reader.rest.is_empty() {
            return Err(Unreadable);
        }
        Ok(Chunk { functions, is_optimised })
    }
}

/// A function and its flags.
fn read_function<'a>(reader: &mut Reader<'a>, strings: &[&'a [u8]]) -> Result<(Function<'a>, u8), Unreadable> {
    // A string's number counts from 1.
    let name = |number: usize| number.checked_sub(1).and_then(|index| strings.get(index).copied());
    let _stack_size = reader.byte()?;
    let parameters = reader.byte()?;
    let _upvalues = reader.byte()?;
    let _is_vararg = reader.byte()?;
    let flags = reader.byte()?;
    let types = reader.count()?;
    reader.bytes(types)?;

    let count = reader.count()?;
    let code = reader.bytes(count.checked_mul(4).ok_or(Unreadable)?)?.chunks_exact(4);
    let code: Vec<u32> = code.map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect();

    let count = reader.count()?;
    let mut constants = Vec::with_capacity(count);
    for _ in 0..count {
        constants.push(read_constant(reader, &name)?);
    }
    let count = reader.count()?;
    let mut children = Vec::with_capacity(count);
    for _ in 0..count {
        children.push(reader.number()?);
    }
    let first_line = reader.number()? as u32;
    let _name = reader.number()?;
    let lines = match reader.byte()? {
        0 => Vec::new(),
        _ => read_lines(reader, code.len())?,
    };
    let mut locals = Vec::new();
    if reader.byte()? != 0 {
        for _ in 0..reader.count()? {
            let name = name(reader.number()?).ok_or(Unreadable)?;
            let (start, end, register) = (reader.number()?, reader.number()?, reader.byte()?);
            locals.push(Local { name, register, start, end });
        }
        for _ in 0..reader.count()? {
            let _upvalue_name = reader.number()?;
        }
    }
    locals.sort_by_key(|local| local.start);
    Ok((Function { parameters, code, constants, children, lines, first_line, locals }, flags))
}

fn read_constant<'a>(
    reader: &mut Reader<'a>,
    text: &impl Fn(usize) -> Option<&'a [u8]>,
) -> Result<Constant<'a>, Unreadable> {
    match reader.byte()? {
        // nil
        0 => {}
        // A boolean.
        1 => drop(reader.byte()?),
        // A double.
        2 => drop(reader.bytes(8)?),
        3 => return text(reader.number()?).map(Constant::Text).ok_or(Unreadable),
        // An import: three indices of ten bits.
        4 => drop(reader.bytes(4)?),
        // A table's keys.
        5 => {
            for _ in 0..reader.count()? {
                reader.number()?;
            }
        }
        6 => return Ok(Constant::Function(reader.number()?)),
        // A vector.
        7 => drop(reader.bytes(16)?),
        // A table's keys and constant values.
        8 => {
            for _ in 0..reader.count()? {
                reader.number()?;
                reader.bytes(4)?;
            }
        }
        // A 64-bit integer: its sign, and its digits.
        9 => {
            reader.byte()?;
            reader.number()?;
        }
        _ => return Err(Unreadable),
    }
    Ok(Constant::Other)
}

/// Lines are stored as differences to the word before and, once for each span of words, to the span before.
fn read_lines(reader: &mut Reader<'_>, count: usize) -> Result<Vec<u32>, Unreadable> {
    let span_bits = reader.byte()?;
    let mut offset = 0_u8;
    let mut offsets = Vec::with_capacity(count);
    for &difference in reader.bytes(count)? {
        offset = offset.wrapping_add(difference);
        offsets.push(offset);
    }
    let spans = match count {
        0 => 0,
        _ => (count - 1).checked_shr(span_bits.into()).unwrap_or(0) + 1,
    };
    let mut base = 0_u32;
    let mut bases = Vec::with_capacity(spans);
    for word in reader.bytes(spans.checked_mul(4).ok_or(Unreadable)?)?.chunks_exact(4) {
        base = base.wrapping_add(u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
        bases.push(base);
    }
    let line = |(place, offset): (usize, u8)| {
        bases[place.checked_shr(span_bits.into()).unwrap_or(0)].wrapping_add(u32::from(offset))
    };
    Ok(offsets.into_iter().enumerate().map(line).collect())
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, Unreadable> {
        let (&first, rest) = self.rest.split_first().ok_or(Unreadable)?;
        self.rest = rest;
        Ok(first)
    }

    fn bytes(&mut self, count: usize) -> Result<&'a [u8], Unreadable> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(Unreadable)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Seven bits a byte, the lowest first.
    fn number(&mut self) -> Result<usize, Unreadable> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(number).map_err(|_| Unreadable);
            }
        }
        Err(Unreadable)
    }

    /// How many things follow, each of at least a byte.
    fn count(&mut self) -> Result<usize, Unreadable> {
        let count = self.number()?;
        if count > self.rest.len() { Err(Unreadable) } else { Ok(count) }
    }
}
