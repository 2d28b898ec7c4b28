//! x86-64 code: lengths of instructions, and the fields in them.
//!
//! A region is decoded from its first byte on, each instruction after the one before; where none is recognised, at the next byte.
//! Data between functions are decoded too: the decoder is in step again a few instructions later.

use super::code::Tables;
use super::image::{Image, distance_at};
use super::scan::{Field, Form, Sink};
use super::tables::Region;
use super::usual::{self, LANES};
use crate::engine::parallel::in_order;

/// Bytes that a decoder may look at.
pub(super) const WINDOW: usize = 32;

/// Traits of an opcode.
pub(super) const MODRM: u8 = 1;
/// One byte follows at the end.
pub(super) const BYTE: u8 = 2;
/// Four bytes follow, two with the prefix 66.
pub(super) const WORD: u8 = 4;
/// A distance of four bytes from the next instruction.
pub(super) const NEAR: u8 = 8;
/// Not an instruction.
const BAD: u8 = 16;
/// A prefix.
const PREFIX: u8 = 32;
/// The rules of this one are its own.
const ODD: u8 = 64;

const fn one_byte() -> [u8; 256] {
    let mut table = [0; 256];
    let mut opcode = 0;
    while opcode < 256 {
        table[opcode] = match opcode {
            0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3 => PREFIX,
            0x06 | 0x07 | 0x0e | 0x16 | 0x17 | 0x1e | 0x1f | 0x27 | 0x2f | 0x37 | 0x3f => BAD,
            0x60 | 0x61 | 0x82 | 0x9a | 0xce | 0xd4..=0xd6 | 0xea => BAD,
            0x0f | 0x62 | 0xc4 | 0xc5 | 0x40..=0x4f => ODD,
            0x00..=0x3f => match opcode & 7 {
                0..=3 => MODRM,
                4 => BYTE,
                _ => WORD,
            },
            0x63 | 0x84..=0x8f | 0xd0..=0xd3 | 0xd8..=0xdf | 0xfe | 0xff => MODRM,
            0x69 | 0x81 | 0xc7 => MODRM | WORD,
            0x6b | 0x80 | 0x83 | 0xc0 | 0xc1 | 0xc6 => MODRM | BYTE,
            0x68 | 0xa9 => WORD,
            0x6a | 0x70..=0x7f | 0xa8 | 0xb0..=0xb7 | 0xcd | 0xe0..=0xe7 | 0xeb => BYTE,
            0xe8 | 0xe9 => NEAR,
            0xa0..=0xa3 | 0xb8..=0xbf | 0xc2 | 0xc8 | 0xca | 0xf6 | 0xf7 => ODD,
            _ => 0,
        };
        opcode += 1;
    }
    table
}

const fn two_bytes() -> [u8; 256] {
    let mut table = [MODRM; 256];
    let mut opcode = 0;
    while opcode < 256 {
        table[opcode] = match opcode {
            0x04 | 0x0a | 0x0c | 0x24..=0x27 | 0x39 | 0x3b..=0x3f | 0xa6 | 0xa7 => BAD,
            0x38 | 0x3a => ODD,
            0x05..=0x09 | 0x0b | 0x0e | 0x30..=0x37 | 0x77 | 0xa0..=0xa2 | 0xa8..=0xaa | 0xc8..=0xcf => 0,
            0x80..=0x8f => NEAR,
            0x0f | 0x70..=0x73 | 0xa4 | 0xac | 0xba | 0xc2 | 0xc4..=0xc6 => MODRM | BYTE,
            _ => MODRM,
        };
        opcode += 1;
    }
    table
}

pub(super) static ONE_BYTE: [u8; 256] = one_byte();
pub(super) static TWO_BYTES: [u8; 256] = two_bytes();

/// An instruction; places are from its first byte, and 0 where it has no such part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) length: usize,
    /// A distance from the next instruction, to code.
    pub(super) near: usize,
    /// A distance from the next instruction, in an operand.
    pub(super) relative: usize,
    /// An address of four bytes in an operand.
    pub(super) absolute: usize,
    /// A number of four bytes that may be an address.
    pub(super) number: usize,
    /// Whether it loads the address that `relative` gives.
    pub(super) loads_address: bool,
}

/// The instruction at the start of the window, if it is one.
#[inline]
pub(super) fn decode(window: &[u8; WINDOW]) -> Option<Instruction> {
    let (mut at, mut narrow, mut short, mut wide) = (0, false, false, false);
    let mut opcode = window[0];
    let mut traits = ONE_BYTE[usize::from(opcode)];
    while traits == PREFIX {
        narrow |= opcode == 0x66;
        short |= opcode == 0x67;
        at += 1;
        if at == 12 {
            return None;
        }
        opcode = window[at];
        traits = ONE_BYTE[usize::from(opcode)];
    }
    if opcode & 0xf0 == 0x40 {
        wide = opcode & 8 != 0;
        at += 1;
        opcode = window[at];
        traits = ONE_BYTE[usize::from(opcode)];
        if traits == PREFIX || opcode & 0xf0 == 0x40 {
            return None;
        }
    }
    let mut tail = 0;
    let mut first = true;
    at += 1;
    if traits & ODD != 0 {
        match opcode {
            0x0f => {
                first = false;
                opcode = window[at];
                at += 1;
                traits = TWO_BYTES[usize::from(opcode)];
                if traits == ODD {
                    traits = if opcode == 0x3a { MODRM | BYTE } else { MODRM };
                    at += 1;
                }
            }
            0xc5 | 0xc4 | 0x62 => {
                first = false;
                let map = match opcode {
                    0xc5 => 1,
                    0xc4 => window[at] & 31,
                    _ => window[at] & 15,
                };
                at += match opcode {
                    0xc5 => 1,
                    0xc4 => 2,
                    _ => 3,
                };
                let vector = opcode == 0x62;
                opcode = window[at];
                at += 1;
                traits = match map {
                    1 if opcode == 0x77 && !vector => 0,
                    1 => MODRM | (TWO_BYTES[usize::from(opcode)] & BYTE),
                    2 | 5 | 6 => MODRM,
                    3 => MODRM | BYTE,
                    _ => return None,
                };
                narrow = false;
            }
            0xa0..=0xa3 => {
                traits = 0;
                tail = if short { 4 } else { 8 };
            }
            0xb8..=0xbf if wide => {
                traits = 0;
                tail = 8;
            }
            0xb8..=0xbf => traits = WORD,
            0xc2 | 0xca => {
                traits = 0;
                tail = 2;
            }
            0xc8 => {
                traits = 0;
                tail = 3;
            }
            0xf6 => traits = if window[at] & 0x30 == 0 { MODRM | BYTE } else { MODRM },
            _ => traits = if window[at] & 0x30 == 0 { MODRM | WORD } else { MODRM },
        }
    }
    if traits & BAD != 0 {
        return None;
    }
    let mut found = Instruction::default();
    let mut select = 0;
    if traits & MODRM != 0 {
        let modrm = window[at];
        at += 1;
        select = modrm >> 3 & 7;
        let (mode, operand) = (modrm >> 6, modrm & 7);
        if mode != 3 {
            let mut base = operand;
            if operand == 4 {
                base = window[at] & 7;
                at += 1;
            }
            match mode {
                0 if base == 5 && operand == 5 => {
                    found.relative = at;
                    found.loads_address = first && opcode == 0x8d;
                    at += 4;
                }
                0 if base == 5 => {
                    found.absolute = at;
                    at += 4;
                }
                0 => {}
                1 => at += 1,
                _ => {
                    found.absolute = at;
                    at += 4;
                }
            }
        }
    }
    if traits & (BYTE | WORD | NEAR) != 0 {
        if traits & BYTE != 0 {
            tail = 1;
        } else if traits & NEAR != 0 {
            found.near = at;
            tail = 4;
        } else if narrow {
            tail = 2;
        } else {
            tail = 4;
            let may_name = first
                && match opcode {
                    0xb8..=0xbf | 0x68 | 0x3d => true,
                    0xc7 => select == 0,
                    0x81 => select == 7,
                    _ => false,
                };
            if may_name {
                found.number = at;
            }
        }
    }
    found.length = at + tail;
    (found.length <= 15).then_some(found)
}

/// What a decoder looks at of the instruction at `at`: beyond the end of `bytes` zeros.
#[inline]
pub(super) fn window<'w>(bytes: &'w [u8], at: usize, last: &'w mut [u8; WINDOW]) -> &'w [u8; WINDOW] {
    let rest = bytes.get(at..).unwrap_or_default();
    if let Some(window) = rest.first_chunk() {
        return window;
    }
    last[..rest.len()].copy_from_slice(rest);
    last
}

/// Calls `each` with the offset and instruction of all from `from` on that start before `to`, as long as it gives true; where
/// the next one starts.
#[inline]
fn walk(
    image: &Image<'_>,
    region: &Region,
    from: usize,
    to: usize,
    mut each: impl FnMut(usize, &Instruction) -> bool,
) -> usize {
    let bytes = &image.bytes[..region.end];
    let mut at = from;
    while at < to {
        let mut last = [0u8; WINDOW];
        match decode(window(bytes, at, &mut last)) {
            Some(found) => {
                // An instruction that is cut off has fields beyond the end, which the sink refuses.
                if !each(at, &found) {
                    break;
                }
                at += found.length;
            }
            None => at += 1,
        }
    }
    at
}

/// The fields of the instructions of a slice, to before `to`.
pub(super) fn scan<F: FnMut(&Field) + ?Sized>(
    image: &Image<'_>,
    region: &Region,
    slice: &Slice,
    to: usize,
    sink: &mut Sink<'_, F>,
) {
    let skew = region.address.wrapping_sub(region.start as u64);
    let Some(marks) = &slice.marks else {
        walk(image, region, slice.start, to, |at, found| {
            fields(image, skew, at, found, sink);
            true
        });
        return;
    };
    let bytes = &image.bytes[..region.end];
    marks.each(|at, layout| {
        if let Some((place, length)) = layout.relative() {
            relative(image, skew, at, (place, length, layout.is_near()), sink);
            return;
        }
        if let Some(place) = layout.absolute() {
            absolute(image, at + place, sink);
            return;
        }
        let mut last = [0u8; WINDOW];
        if let Some(found) = decode(window(bytes, at, &mut last)) {
            fields(image, skew, at, &found, sink);
        }
    });
}

/// A part of a region of code.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    /// Where its first instruction starts.
    pub(super) start: usize,
    /// Its instructions that may have fields; none when there was no more room for them.
    marks: Option<Marks>,
}

/// Bytes of all marks of a file, at most: slices beyond are decoded from their start whenever their fields are wanted.
pub(super) const MAX_MARK_BYTES: usize = 16 << 20;

/// Where an instruction has its only field: the place in the lowest four bits, above them what it is, or of a distance from the next
/// instruction the bytes behind it. Zero when it is another one, which has to be decoded again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout(pub(super) u8);

impl Layout {
    /// What stands for no bytes behind a distance to code.
    pub(super) const NEAR: u32 = 15;
    /// What stands for an address.
    const ABSOLUTE: u8 = 14;

    #[inline]
    pub(super) fn of(fixed: bool, found: &Instruction) -> Self {
        let place = found.near.max(found.relative);
        if fixed && found.absolute | found.number != 0 {
            let only = place == 0 && (found.absolute == 0 || found.number == 0);
            let place = u8::try_from(found.absolute | found.number).unwrap_or(0);
            return Self(if only { Self::ABSOLUTE << 4 | place } else { 0 });
        }
        if place == 0 {
            return Self(0);
        }
        // Instructions have at most 15 bytes.
        let behind = if found.near != 0 { Self::NEAR as usize } else { found.length - place - 4 };
        Self(u8::try_from(behind << 4 | place).unwrap_or(0))
    }

    #[inline]
    fn is_near(self) -> bool {
        u32::from(self.0 >> 4) == Self::NEAR
    }

    /// Whether the instruction at `at` may load an address told from the next one.
    #[inline]
    fn may_load(self, bytes: &[u8], at: usize) -> bool {
        // The opcode, and the first byte of the operand.
        let opcode = (at + usize::from(self.0 & 15)).saturating_sub(2);
        !self.is_near() && self.0 != 0 && self.absolute().is_none() && bytes.get(opcode) == Some(&0x8d)
    }

    /// The place of the address.
    #[inline]
    fn absolute(self) -> Option<usize> {
        (self.0 >> 4 == Self::ABSOLUTE).then_some(usize::from(self.0 & 15))
    }

    /// The place of the distance, and the length of the instruction.
    #[inline]
    fn relative(self) -> Option<(usize, usize)> {
        let place = usize::from(self.0 & 15);
        let behind = if self.is_near() { 0 } else { usize::from(self.0 >> 4) };
        (place > 0 && self.absolute().is_none()).then_some((place, place + 4 + behind))
    }
}

/// Places and layouts of instructions, ascending: about two bytes each.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    start: usize,
    pub(super) last: usize,
    /// Distances from the start or the place before; after 255 it goes on, else the layout follows.
    pub(super) steps: Vec<u8>,
}

impl Marks {
    fn new(start: usize) -> Self {
        Self { start, last: start, steps: Vec::new() }
    }

    #[inline]
    fn put(&mut self, at: usize, layout: Layout) {
        put_step(&mut self.steps, at - self.last);
        self.steps.push(layout.0);
        self.last = at;
    }

    /// Adds those of `other` from `from` on, which lie behind.
    fn go_on(&mut self, other: &Self, from: usize) {
        let (mut at, mut place) = (other.start, 0);
        while let Some(&step) = other.steps.get(place) {
            at += usize::from(step);
            place += 1;
            if step == 255 {
                continue;
            }
            let Some(&layout) = other.steps.get(place) else { break };
            place += 1;
            if at >= from {
                self.put(at, Layout(layout));
                self.steps.extend_from_slice(&other.steps[place..]);
                self.last = other.last;
                break;
            }
        }
    }

    #[inline]
    fn each(&self, mut each: impl FnMut(usize, Layout)) {
        let (mut at, mut steps) = (self.start, self.steps.iter());
        while let Some(&step) = steps.next() {
            at += usize::from(step);
            if step < 255
                && let Some(&layout) = steps.next()
            {
                each(at, Layout(layout));
            }
        }
    }
}

/// Appends a distance as [`Marks`] have it.
#[inline]
pub(super) fn put_step(steps: &mut Vec<u8>, mut step: usize) {
    while step >= 255 {
        steps.push(255);
        step -= 255;
    }
    steps.push(u8::try_from(step).unwrap_or(0));
}

/// Whether [`fields`] may find any.
#[inline]
pub(super) fn has_fields(fixed: bool, found: &Instruction) -> bool {
    found.near | found.relative != 0 || fixed && found.absolute | found.number != 0
}

#[inline]
fn fields<F: FnMut(&Field) + ?Sized>(
    image: &Image<'_>,
    skew: u64,
    at: usize,
    found: &Instruction,
    sink: &mut Sink<'_, F>,
) {
    if found.near != 0 || found.relative != 0 {
        let place = found.near.max(found.relative);
        if !relative(image, skew, at, (place, found.length, found.near != 0), sink) {
            return;
        }
    }
    if image.fixed {
        for place in [found.absolute, found.number] {
            if place != 0 {
                absolute(image, at + place, sink);
            }
        }
    }
}

/// The field of four bytes that may be an address.
#[inline]
fn absolute<F: FnMut(&Field) + ?Sized>(image: &Image<'_>, offset: usize, sink: &mut Sink<'_, F>) {
    if let Some(target) = distance_at(image.bytes, offset).filter(|&target| image.contains(target)) {
        sink.put(&Field { offset, form: Form::Add32, target, base: None });
    }
}

/// The field of a distance, given its place in an instruction, the length of that and whether it is one to code; false when it is cut off.
#[inline]
fn relative<F: FnMut(&Field) + ?Sized>(
    image: &Image<'_>,
    skew: u64,
    at: usize,
    (place, length, near): (usize, usize, bool),
    sink: &mut Sink<'_, F>,
) -> bool {
    let Some(distance) = distance_at(image.bytes, at + place) else { return false };
    let target = skew.wrapping_add((at + length) as u64).wrapping_add(distance);
    if if near { image.in_code(target) } else { image.contains(target) } {
        let base = skew.wrapping_add((at + place) as u64);
        sink.put(&Field { offset: at + place, form: Form::Add32, target, base: Some(base) });
    }
    true
}

/// The jump table that an instruction loads the address of: distances from the table's start to code, four bytes each.
#[inline]
fn table(image: &Image<'_>, skew: u64, at: usize, found: &Instruction) -> Option<u64> {
    if !found.loads_address {
        return None;
    }
    let distance = distance_at(image.bytes, at + found.relative)?;
    let target = skew.wrapping_add((at + found.length) as u64).wrapping_add(distance);
    if !target.is_multiple_of(4) || image.in_code(target) {
        return None;
    }
    let entry = image.offset_of(target).and_then(|offset| distance_at(image.bytes, offset))?;
    (entry != 0 && image.in_code(target.wrapping_add(entry))).then_some(target)
}

/// A slice of a region as it is decoded from its first byte, whether an instruction starts there or not.
struct Guess {
    /// Where its first instructions start.
    starts: Vec<usize>,
    /// Where instructions load the addresses of tables, and these.
    tables: Vec<(usize, u64)>,
    /// Its instructions that may have fields.
    marks: Marks,
    /// Where the first instruction after it starts.
    exit: usize,
}

impl Guess {
    fn new(from: usize) -> Self {
        let starts = Vec::with_capacity(SYNC_INSTRUCTIONS);
        Self { starts, tables: Vec::new(), marks: Marks::new(from), exit: from }
    }
}

/// Instructions of a slice among which decoding is expected to come in step.
const SYNC_INSTRUCTIONS: usize = 512;

/// A region of less for each lane is one slice.
const MIN_LANE_BYTES: usize = if cfg!(fuzzing) { 1 << 8 } else { 16 << 10 };

/// The jump tables of a region of code, and its slices of `slice` bytes, with so many threads. Marks take `room`.
///
/// Each slice is decoded from its first byte. Where the instruction before reaches into it, it is decoded again from there up to
/// the first instruction that starts at the same place both ways: from then on all are the same.
pub(super) fn find_tables(
    image: &Image<'_>,
    region: &Region,
    slice: usize,
    threads: usize,
    tables: &mut Tables,
    room: &mut usize,
) -> Vec<Slice> {
    let skew = region.address.wrapping_sub(region.start as u64);
    let all = region.end - region.start;
    // As many for each lane.
    let slice = if all > LANES * MIN_LANE_BYTES { slice.min(all.div_ceil(LANES)) } else { slice };
    let count = all.div_ceil(slice);
    let slice = all.div_ceil(if count > 1 { count.next_multiple_of(LANES) } else { 1 }).max(1);
    let count = all.div_ceil(slice);
    let bounds = |number: usize| {
        let from = region.start.saturating_add(number.saturating_mul(slice)).min(region.end);
        (from, from.saturating_add(slice).min(region.end))
    };
    let guess = |pair: usize| {
        let mut guesses: [Guess; LANES] =
            std::array::from_fn(|lane| Guess::new(bounds(pair * LANES + lane).0));
        let mut left = [(0, 0); LANES];
        for (lane, guess) in guesses.iter_mut().enumerate() {
            let (from, to) = bounds(pair * LANES + lane);
            let first = walk(image, region, from, to, |at, found| {
                let room = guess.starts.len() < SYNC_INSTRUCTIONS;
                if room {
                    guess.starts.push(at);
                    if has_fields(image.fixed, found) {
                        guess.marks.put(at, Layout::of(image.fixed, found));
                    }
                }
                room
            });
            left[lane] = (first, to);
        }
        let bytes = &image.bytes[..region.end];
        let marks = guesses.each_mut().map(|guess| &mut guess.marks);
        let exits = match image.fixed {
            true => usual::look::<true>(bytes, left, marks),
            false => usual::look::<false>(bytes, left, marks),
        };
        for (guess, exit) in guesses.iter_mut().zip(exits) {
            guess.exit = exit;
            let (tables, marks) = (&mut guess.tables, &guess.marks);
            marks.each(|at, layout| {
                if layout.may_load(bytes, at) {
                    let mut last = [0u8; WINDOW];
                    let found = decode(window(bytes, at, &mut last));
                    let table = found.and_then(|found| table(image, skew, at, &found));
                    tables.extend(table.map(|table| (at, table)));
                }
            });
        }
        guesses
    };
    let (mut slices, mut entry) = (Vec::new(), region.start);
    let mut join = |guess: Guess| {
        let (from, to) = bounds(slices.len());
        let (start, mut marks) = (entry, guess.marks);
        entry = guess.exit;
        if start != from {
            let (mut in_step, mut own) = (false, Marks::new(start));
            let met = walk(image, region, start, to, |at, found| {
                in_step = guess.starts.binary_search(&at).is_ok();
                if !in_step && has_fields(image.fixed, found) {
                    own.put(at, Layout::of(image.fixed, found));
                    tables.extend(table(image, skew, at, found));
                }
                !in_step
            });
            if in_step {
                own.go_on(&marks, met);
                tables.extend(guess.tables.iter().filter(|(at, _)| *at >= met).map(|(_, table)| *table));
            } else {
                entry = met;
            }
            marks = own;
        } else {
            tables.extend(guess.tables.iter().map(|(_, table)| *table));
        }
        marks.steps.shrink_to_fit();
        let left = room.checked_sub(marks.steps.len());
        *room = left.unwrap_or(*room);
        slices.push(Slice { start, marks: left.map(|_| marks) });
    };
    in_order(threads, count.div_ceil(LANES), guess, |guesses| {
        guesses.into_iter().filter(|guess| guess.marks.start < region.end).for_each(&mut join);
        true
    });
    slices
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The traits that a letter of `FORMAT.md`, section 7.8, stands for.
    fn traits(letter: &str) -> u8 {
        match letter {
            "." => 0,
            "b" => BYTE,
            "w" => WORD,
            "d" => NEAR,
            "m" => MODRM,
            "B" => MODRM | BYTE,
            "W" => MODRM | WORD,
            "p" => PREFIX,
            "-" => BAD,
            "o" => ODD,
            _ => panic!("no letter: {letter}"),
        }
    }

    #[test]
    fn tables_are_those_of_the_format() {
        let page = include_str!("../../../FORMAT.md");
        let (_, section) = page.split_once("\n### 7.8 ").unwrap();
        let (section, _) = section.split_once("\n##").unwrap();
        let lines = section.lines().filter(|line| line.starts_with("    "));
        let rows: Vec<Vec<&str>> = lines.map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows.len(), 17);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for (high, row) in rows[1..].iter().enumerate() {
            assert_eq!(row.len(), 34);
            assert_eq!((row[0], row[17]), (&*format!("{high:X}0"), &*format!("{high:X}0")));
            first.extend(row[1..17].iter().map(|letter| traits(letter)));
            second.extend(row[18..].iter().map(|letter| traits(letter)));
        }
        let columns: Vec<_> = (0..32).map(|column| format!("{:X}", column % 16)).collect();
        assert!(rows[0] == columns && first == ONE_BYTE && second == TWO_BYTES);
    }
}
