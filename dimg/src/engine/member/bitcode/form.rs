//! The opened form: items in bytes.
//!
//! | of | bytes |
//! |---|---|
//! | small number | 1 byte below 255; else FF and a varint |
//! | number | 2 bytes, the higher first, below FFFE; FF FE and 4 bytes, the highest first; FF FF and 8 bytes |
//! | character, number of a width of at most 8 bits | 1 byte |
//!
//! Most numbers keep their places when others grow, and the lower bytes of those that move by the same look the same.

use super::stream::{
    Abbrev, Block, DEFINE_ABBREV, END_BLOCK, ENTER_SUBBLOCK, Item, MAX_OPERANDS, Operand, Record, Scalar,
    Tail, UNABBREV_RECORD, numbers,
};
use super::{Fault, Limited, Sink, Source};
use crate::engine::varint;
use std::rc::Rc;

/// The end of a block of summaries whose values are ordered otherwise: no abbreviation has it.
const END_INDEX: u64 = 1 << 32;
/// The first small number that is no byte.
const LONG: u8 = 0xff;
/// Numbers from here on have 6 bytes,
const WIDE: u64 = 0xfffe;
/// and from here on 10.
const WIDEST: u64 = 1 << 32;
/// Fixed numbers of fewer bits are a byte.
const WORD_BITS: u32 = 9;

/// Writes the form.
pub(super) struct FormWriter<'l, 'o> {
    out: &'l mut Limited<'o>,
    buffer: Vec<u8>,
}

impl<'l, 'o> FormWriter<'l, 'o> {
    pub(super) fn new(out: &'l mut Limited<'o>) -> Self {
        Self { out, buffer: Vec::new() }
    }

    /// Adds what comes after the last block.
    pub(super) fn rest(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.out.put(bytes)
    }

    fn small(&mut self, value: u64) {
        match u8::try_from(value) {
            Ok(byte) if byte != LONG => self.buffer.push(byte),
            _ => {
                self.buffer.push(LONG);
                varint::put(&mut self.buffer, value);
            }
        }
    }

    fn number(&mut self, value: u64) {
        let bytes = value.swap_bytes().to_le_bytes();
        let [.., b4, b5, b6, b7] = bytes;
        match value {
            0..WIDE => self.buffer.extend_from_slice(&[b6, b7]),
            WIDE..WIDEST => self.buffer.extend_from_slice(&[0xff, 0xfe, b4, b5, b6, b7]),
            _ => {
                self.buffer.extend_from_slice(&[0xff; 2]);
                self.buffer.extend_from_slice(&bytes);
            }
        }
    }

    fn scalar(&mut self, scalar: Scalar, value: u64) -> Result<(), Fault> {
        match scalar {
            Scalar::Literal(literal) if literal == value => {}
            Scalar::Literal(_) => return Err(Fault("a name that an abbreviation says")),
            Scalar::Fixed(WORD_BITS..) | Scalar::Vbr(_) => self.number(value),
            Scalar::Fixed(_) | Scalar::Char6 => {
                self.buffer.push(u8::try_from(value).map_err(|_| "a character of two bytes")?);
            }
        }
        Ok(())
    }

    fn define(&mut self, abbrev: &Abbrev) {
        self.small(abbrev.defined.len() as u64);
        for operand in &abbrev.defined {
            let (kind, value) = operand.kind();
            self.small(kind);
            if let Some(value) = value {
                self.small(value);
            }
        }
    }

    fn record(&mut self, abbrev: &Abbrev, record: &Record) -> Result<(), Fault> {
        let fixed = record.numbers.split_at_checked(abbrev.scalars.len());
        let (fixed, array) = fixed.ok_or("a record is shorter than its abbreviation")?;
        abbrev.scalars.iter().zip(fixed).try_for_each(|(scalar, value)| self.scalar(*scalar, *value))?;
        match abbrev.tail {
            Tail::None => {}
            Tail::Array(element) => {
                self.number(array.len() as u64);
                array.iter().try_for_each(|value| self.scalar(element, *value))?;
            }
            Tail::Blob => {
                self.number(record.blob.len() as u64);
                self.buffer.extend_from_slice(&record.blob);
            }
        }
        Ok(())
    }
}

impl Sink for FormWriter<'_, '_> {
    fn item(&mut self, block: Option<&Block>, item: &Item, record: &Record) -> Result<(), Fault> {
        self.buffer.clear();
        match item {
            Item::End => self.small(END_BLOCK),
            Item::EndIndex => {
                self.small(END_INDEX);
                self.small(record.abbrev);
                self.number(record.blob.len() as u64);
                self.buffer.extend_from_slice(&record.blob);
            }
            Item::Enter { id, width } => {
                self.small(ENTER_SUBBLOCK);
                self.small(*id);
                self.small((*width).into());
            }
            Item::Define(abbrev) => {
                self.small(DEFINE_ABBREV);
                self.define(abbrev);
            }
            Item::Record => {
                self.small(record.abbrev);
                if record.abbrev == UNABBREV_RECORD {
                    let (code, rest) = record.numbers.split_first().ok_or("a record without a code")?;
                    self.small(*code);
                    self.small(rest.len() as u64);
                    rest.iter().for_each(|value| self.number(*value));
                } else {
                    let block = block.ok_or("a record without a block")?;
                    self.record(block.abbrev(record.abbrev)?, record)?;
                }
            }
        }
        self.out.put(&self.buffer)
    }

    fn end(&mut self) -> Result<(), Fault> {
        self.out.put(&[0])
    }
}

/// Reads a form.
pub(super) struct FormReader<'a> {
    rest: &'a [u8],
}

impl<'a> FormReader<'a> {
    pub(super) fn new(form: &'a [u8]) -> Self {
        Self { rest: form }
    }

    /// What was not read.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("the opened form ends in an item")?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        self.take(1).map(|byte| byte.first().copied().unwrap_or(0))
    }

    fn small(&mut self) -> Result<u64, Fault> {
        match self.byte()? {
            LONG => varint::take(&mut self.rest).ok_or(Fault("a number that is no varint")),
            byte => Ok(byte.into()),
        }
    }

    fn number(&mut self) -> Result<u64, Fault> {
        let value = |bytes: &[u8]| bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        match value(self.take(2)?) {
            0xffff => self.take(8).map(value),
            WIDE => self.take(4).map(value),
            short => Ok(short),
        }
    }

    fn scalar(&mut self, scalar: Scalar) -> Result<u64, Fault> {
        match scalar {
            Scalar::Literal(value) => Ok(value),
            Scalar::Fixed(WORD_BITS..) | Scalar::Vbr(_) => self.number(),
            Scalar::Fixed(_) | Scalar::Char6 => self.byte().map(u64::from),
        }
    }

    fn enter(&mut self) -> Result<Item, Fault> {
        let id = self.small()?;
        let width = u32::try_from(self.small()?).map_err(|_| "a block of no use")?;
        Ok(Item::Enter { id, width })
    }

    fn define(&mut self) -> Result<Item, Fault> {
        let count = self.small()?;
        if count > MAX_OPERANDS {
            return Err(Fault("an abbreviation is too long"));
        }
        let mut operands = Vec::new();
        for _ in 0..count {
            let kind = self.small()?;
            operands.push(Operand::of(kind, || self.small())?);
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
                for _ in 0..numbers(self.number()?)? {
                    let value = self.scalar(element)?;
                    record.numbers.push(value);
                }
            }
            Tail::Blob => {
                let count = usize::try_from(self.number()?).map_err(|_| "a blob of no use")?;
                record.blob.extend_from_slice(self.take(count)?);
            }
        }
        Ok(())
    }
}

impl Source for FormReader<'_> {
    fn begins(&mut self) -> Result<Option<Item>, Fault> {
        match self.byte()? {
            0 => Ok(None),
            1 => self.enter().map(Some),
            _ => Err(Fault("what is neither a block nor the end")),
        }
    }

    fn item(&mut self, block: &Block, record: &mut Record) -> Result<Item, Fault> {
        Ok(match self.small()? {
            END_BLOCK => Item::End,
            END_INDEX => {
                let begin = self.small()?;
                record.clear(begin);
                let count = usize::try_from(self.number()?).map_err(|_| "hashes of no use")?;
                record.blob.extend_from_slice(self.take(count)?);
                Item::EndIndex
            }
            ENTER_SUBBLOCK => self.enter()?,
            DEFINE_ABBREV => self.define()?,
            id => {
                record.clear(id);
                if id == UNABBREV_RECORD {
                    let code = self.small()?;
                    record.numbers.push(code);
                    for _ in 0..numbers(self.small()?)? {
                        let value = self.number()?;
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
