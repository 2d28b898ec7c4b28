//! The stream of bits: the lowest bit of a byte first.

use super::stream::{
    Abbrev, Block, DEFINE_ABBREV, END_BLOCK, ENTER_SUBBLOCK, Item, MAX_OPERANDS, Operand, Record, Scalar,
    Tail, UNABBREV_RECORD, numbers,
};
use super::{Fault, Sink, Source};
use std::rc::Rc;

const CHARS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._";
const NO_CHAR: u8 = 0xff;
/// The numbers of the characters.
static NUMBERS: [u8; 128] = numbers_of_chars();

const fn numbers_of_chars() -> [u8; 128] {
    let mut numbers = [NO_CHAR; 128];
    let mut at = 0;
    while at < CHARS.len() {
        numbers[CHARS[at] as usize] = at.to_le_bytes()[0];
        at += 1;
    }
    numbers
}

/// Bits of an identifier outside of all blocks.
const OUTER_WIDTH: u32 = 2;
const WORD_BITS: u32 = 32;

/// Takes items from bits. What could be said in fewer bits is a fault.
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    /// The next bit.
    at: u64,
    /// Bits up to here are read.
    limit: u64,
    /// Where the blocks that are open have to end.
    ends: Vec<u64>,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, limit: 8 * bytes.len() as u64, ends: Vec::new() }
    }

    /// The bytes after the last block.
    pub(super) fn rest(&self) -> &'a [u8] {
        usize::try_from(self.at / 8).ok().and_then(|at| self.bytes.get(at..)).unwrap_or_default()
    }

    /// At most 32.
    fn bits(&mut self, count: u32) -> Result<u64, Fault> {
        if self.limit - self.at < u64::from(count) {
            return Err(Fault("it ends in an item"));
        }
        let start = usize::try_from(self.at / 8).unwrap_or(usize::MAX);
        let mut eight = [0; 8];
        match self.bytes.get(start..start.saturating_add(8)) {
            Some(bytes) => eight.copy_from_slice(bytes),
            None => {
                let bytes = self.bytes.get(start..).unwrap_or_default();
                eight[..bytes.len()].copy_from_slice(bytes);
            }
        }
        let value = u64::from_le_bytes(eight) >> (self.at % 8) & ((1 << count) - 1);
        self.at += u64::from(count);
        Ok(value)
    }

    fn vbr(&mut self, width: u32) -> Result<u64, Fault> {
        let more = 1 << (width - 1);
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let group = self.bits(width)?;
            let low = group & (more - 1);
            if shift >= u64::BITS || low << shift >> shift != low {
                return Err(Fault("a number beyond 64 bits"));
            }
            value |= low << shift;
            if group & more == 0 {
                return if low == 0 && shift > 0 {
                    Err(Fault("a number in too many bits"))
                } else {
                    Ok(value)
                };
            }
            shift += width - 1;
        }
    }

    fn align(&mut self) -> Result<(), Fault> {
        let word = u64::from(WORD_BITS);
        // At most 31.
        let count = u32::try_from((word - self.at % word) % word).unwrap_or(0);
        match self.bits(count)? {
            0 => Ok(()),
            _ => Err(Fault("bits between words")),
        }
    }

    fn enter(&mut self) -> Result<Item, Fault> {
        let id = self.vbr(8)?;
        let width = u32::try_from(self.vbr(4)?).map_err(|_| "a block of no use")?;
        self.align()?;
        let words = self.bits(32)?;
        self.ends.push(self.at + words * u64::from(WORD_BITS));
        Ok(Item::Enter { id, width })
    }

    fn scalar(&mut self, scalar: Scalar) -> Result<u64, Fault> {
        match scalar {
            Scalar::Literal(value) => Ok(value),
            Scalar::Fixed(width) => self.bits(width),
            Scalar::Vbr(width) => self.vbr(width),
            Scalar::Char6 => {
                let at = usize::try_from(self.bits(6)?).unwrap_or(0);
                Ok(CHARS.get(at).copied().unwrap_or(0).into())
            }
        }
    }

    fn define(&mut self) -> Result<Item, Fault> {
        let count = self.vbr(5)?;
        if count > MAX_OPERANDS {
            return Err(Fault("an abbreviation is too long"));
        }
        let mut operands = Vec::new();
        for _ in 0..count {
            operands.push(match self.bits(1)? {
                1 => Operand::Literal(self.vbr(8)?),
                _ => match self.bits(3)? {
                    0 => return Err(Fault("an operand of an unknown kind")),
                    kind => Operand::of(kind, || self.vbr(5))?,
                },
            });
        }
        Ok(Item::Define(Rc::new(Abbrev::new(operands)?)))
    }

    fn record(&mut self, abbrev: &Abbrev, record: &mut Record) -> Result<(), Fault> {
        for scalar in &abbrev.scalars {
            let value = self.scalar(*scalar)?;
            record.numbers.push(value);
        }
        match abbrev.tail {
            Tail::None => {}
            Tail::Array(element) => {
                for _ in 0..numbers(self.vbr(6)?)? {
                    let value = self.scalar(element)?;
                    record.numbers.push(value);
                }
            }
            Tail::Blob => {
                let count = usize::try_from(self.vbr(6)?).map_err(|_| "a blob of no use")?;
                self.align()?;
                let bytes = self.rest().get(..count).ok_or("it ends in a blob")?;
                record.blob.extend_from_slice(bytes);
                self.at += 8 * count as u64;
                self.align()?;
            }
        }
        Ok(())
    }
}

impl Source for BitReader<'_> {
    fn begins(&mut self) -> Result<Option<Item>, Fault> {
        if self.limit - self.at < 2 * u64::from(WORD_BITS) {
            return Ok(None);
        }
        if self.bits(OUTER_WIDTH)? != ENTER_SUBBLOCK {
            self.at -= u64::from(OUTER_WIDTH);
            return Ok(None);
        }
        self.enter().map(Some)
    }

    fn item(&mut self, block: &Block, record: &mut Record) -> Result<Item, Fault> {
        Ok(match self.bits(block.width)? {
            END_BLOCK => {
                self.align()?;
                match self.ends.pop() == Some(self.at) {
                    true => Item::End,
                    false => return Err(Fault("a block of another length")),
                }
            }
            ENTER_SUBBLOCK => self.enter()?,
            DEFINE_ABBREV => self.define()?,
            id => {
                record.clear(id);
                if id == UNABBREV_RECORD {
                    let code = self.vbr(6)?;
                    record.numbers.push(code);
                    for _ in 0..numbers(self.vbr(6)?)? {
                        let value = self.vbr(6)?;
                        record.numbers.push(value);
                    }
                } else {
                    self.record(block.abbrev(id)?, record)?;
                }
                Item::Record
            }
        })
    }
}

/// Makes bits of items.
pub(super) struct BitWriter {
    out: Vec<u8>,
    /// Bits that are no word yet: fewer than 32.
    pending: u64,
    count: u32,
    /// Bytes at most.
    limit: u64,
    /// Where the lengths of the blocks that are open stand.
    starts: Vec<usize>,
}

impl BitWriter {
    pub(super) fn new(limit: u64) -> Self {
        Self { out: Vec::new(), pending: 0, count: 0, limit, starts: Vec::new() }
    }

    /// The bytes.
    pub(super) fn finish(self) -> Vec<u8> {
        self.out
    }

    /// Adds the bytes after the last block.
    pub(super) fn rest(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.check(bytes.len() as u64)?;
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn check(&self, more: u64) -> Result<(), Fault> {
        if self.out.len() as u64 + more > self.limit {
            return Err(Fault("it makes more than the length of the content"));
        }
        Ok(())
    }

    /// At most 32.
    fn bits(&mut self, value: u64, count: u32) -> Result<(), Fault> {
        if value >> count != 0 {
            return Err(Fault("a number has too many bits"));
        }
        self.pending |= value << self.count;
        self.count += count;
        if self.count >= WORD_BITS {
            let [a, b, c, d, ..] = self.pending.to_le_bytes();
            self.out.extend_from_slice(&[a, b, c, d]);
            self.pending >>= WORD_BITS;
            self.count -= WORD_BITS;
        }
        Ok(())
    }

    fn vbr(&mut self, mut value: u64, width: u32) -> Result<(), Fault> {
        let more = 1 << (width - 1);
        while value >= more {
            self.bits(value & (more - 1) | more, width)?;
            value >>= width - 1;
        }
        self.bits(value, width)
    }

    fn align(&mut self) -> Result<(), Fault> {
        if self.count > 0 {
            self.bits(0, WORD_BITS - self.count)?;
        }
        while !self.out.len().is_multiple_of(4) {
            self.out.push(0);
        }
        Ok(())
    }

    fn enter(&mut self, id: u64, width: u32) -> Result<(), Fault> {
        self.vbr(id, 8)?;
        self.vbr(width.into(), 4)?;
        self.align()?;
        self.out.extend_from_slice(&[0; 4]);
        self.starts.push(self.out.len());
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Fault> {
        self.align()?;
        let start = self.starts.pop().ok_or("an end without a block")?;
        let words = u32::try_from((self.out.len() - start) / 4).map_err(|_| "a block is too long")?;
        if let Some(field) = self.out.get_mut(start - 4..start) {
            field.copy_from_slice(&words.to_le_bytes());
        }
        Ok(())
    }

    fn scalar(&mut self, scalar: Scalar, value: u64) -> Result<(), Fault> {
        match scalar {
            Scalar::Literal(literal) if literal == value => Ok(()),
            Scalar::Literal(_) => Err(Fault("a number is another one than its abbreviation says")),
            Scalar::Fixed(width) => self.bits(value, width),
            Scalar::Vbr(width) => self.vbr(value, width),
            Scalar::Char6 => {
                let at = usize::try_from(value).ok().and_then(|value| NUMBERS.get(value));
                let at = at.filter(|at| **at != NO_CHAR).ok_or("a character that has no number")?;
                self.bits(u64::from(*at), 6)
            }
        }
    }

    fn define(&mut self, abbrev: &Abbrev) -> Result<(), Fault> {
        self.vbr(abbrev.defined.len() as u64, 5)?;
        for operand in &abbrev.defined {
            let (kind, width) = operand.kind();
            if let Operand::Literal(value) = *operand {
                self.bits(1, 1)?;
                self.vbr(value, 8)?;
                continue;
            }
            self.bits(0, 1)?;
            self.bits(kind, 3)?;
            width.map_or(Ok(()), |width| self.vbr(width, 5))?;
        }
        Ok(())
    }

    fn record(&mut self, abbrev: &Abbrev, record: &Record) -> Result<(), Fault> {
        let fixed = record.numbers.split_at_checked(abbrev.scalars.len());
        let (fixed, array) = fixed.ok_or("a record is shorter than its abbreviation")?;
        abbrev.scalars.iter().zip(fixed).try_for_each(|(scalar, value)| self.scalar(*scalar, *value))?;
        match abbrev.tail {
            Tail::None => Ok(()),
            Tail::Array(element) => {
                self.vbr(array.len() as u64, 6)?;
                for value in array {
                    self.check(0)?;
                    self.scalar(element, *value)?;
                }
                Ok(())
            }
            Tail::Blob => {
                self.vbr(record.blob.len() as u64, 6)?;
                self.align()?;
                self.rest(&record.blob)?;
                self.align()
            }
        }
    }
}

impl Sink for BitWriter {
    fn item(&mut self, block: Option<&Block>, item: &Item, record: &Record) -> Result<(), Fault> {
        self.check(0)?;
        let width = block.map_or(OUTER_WIDTH, |block| block.width);
        match item {
            Item::End => {
                self.bits(END_BLOCK, width)?;
                self.leave()
            }
            Item::EndIndex => Err(Fault("an index that is not closed")),
            Item::Enter { id, width: inner } => {
                self.bits(ENTER_SUBBLOCK, width)?;
                self.enter(*id, *inner)
            }
            Item::Define(abbrev) => {
                self.bits(DEFINE_ABBREV, width)?;
                self.define(abbrev)
            }
            Item::Record => {
                self.bits(record.abbrev, width)?;
                if record.abbrev != UNABBREV_RECORD {
                    let block = block.ok_or("a record without a block")?;
                    return self.record(block.abbrev(record.abbrev)?, record);
                }
                let (code, rest) = record.numbers.split_first().ok_or("a record without a code")?;
                self.vbr(*code, 6)?;
                self.vbr(rest.len() as u64, 6)?;
                rest.iter().try_for_each(|value| self.vbr(*value, 6))
            }
        }
    }

    fn end(&mut self) -> Result<(), Fault> {
        self.check(0)
    }
}
