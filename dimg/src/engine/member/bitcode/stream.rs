//! Blocks, abbreviations and records, and the walk over them.

use super::index::{Held, SUMMARIES};
use super::meaning::{Direction, Meaning};
use super::{Fault, Sink, Source};
use std::collections::HashMap;
use std::rc::Rc;

/// Identifiers that every block has.
pub(super) const END_BLOCK: u64 = 0;
pub(super) const ENTER_SUBBLOCK: u64 = 1;
pub(super) const DEFINE_ABBREV: u64 = 2;
pub(super) const UNABBREV_RECORD: u64 = 3;
const FIRST_ABBREV: u64 = 4;

/// The block of abbreviations of other blocks, and its record that names the block.
const BLOCKINFO: u64 = 0;
const SETBID: u64 = 1;

/// Blocks within each other, at most.
const MAX_DEPTH: usize = 32;
/// Abbreviations of a block of its own, at most; and of all that stand in block 0.
const MAX_ABBREVS: usize = 256;
/// Operands of an abbreviation, at most.
pub(super) const MAX_OPERANDS: u64 = 64;
/// Of those that take no bits, at most: else three bits of a content would be a record of 64 numbers, and 16 MiB minutes of work. All of PostgreSQL's still open.
const MAX_LITERALS: usize = 8;
/// Numbers of a record, at most.
const MAX_NUMBERS: u64 = 1 << 20;
/// Bits of a number of an abbreviation, at most.
const MAX_WIDTH: u32 = 32;

/// How many numbers a record says that it has.
pub(super) fn numbers(count: u64) -> Result<u64, Fault> {
    if count > MAX_NUMBERS { Err(Fault("a record is too long")) } else { Ok(count) }
}

/// How a number is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    /// Not at all: it is this one.
    Literal(u64),
    /// In so many bits.
    Fixed(u32),
    /// In groups of so many bits, of which the highest says whether there is another.
    Vbr(u32),
    /// One of 64 characters.
    Char6,
}

/// What stands behind the numbers that a record always has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tail {
    None,
    Array(Scalar),
    Blob,
}

/// An abbreviation: how records of it are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Abbrev {
    /// As they are defined: with widths of 0, for which `scalars` has a literal.
    pub(super) defined: Vec<Operand>,
    pub(super) scalars: Vec<Scalar>,
    pub(super) tail: Tail,
}

/// An operand as it is defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operand {
    Literal(u64),
    Fixed(u64),
    Vbr(u64),
    Array,
    Char6,
    Blob,
}

impl Operand {
    /// What it is, and its number if it has one. The stream tells a literal, 0 here, in another way.
    pub(super) fn kind(self) -> (u64, Option<u64>) {
        match self {
            Self::Literal(value) => (0, Some(value)),
            Self::Fixed(width) => (1, Some(width)),
            Self::Vbr(width) => (2, Some(width)),
            Self::Array => (3, None),
            Self::Char6 => (4, None),
            Self::Blob => (5, None),
        }
    }

    /// The one of a kind, of which `number` gives the number.
    pub(super) fn of(kind: u64, number: impl FnOnce() -> Result<u64, Fault>) -> Result<Self, Fault> {
        Ok(match kind {
            0 => Self::Literal(number()?),
            1 => Self::Fixed(number()?),
            2 => Self::Vbr(number()?),
            3 => Self::Array,
            4 => Self::Char6,
            5 => Self::Blob,
            _ => return Err(Fault("an operand of an unknown kind")),
        })
    }

    fn scalar(self) -> Result<Scalar, Fault> {
        let width = |width: u64, least: u32| match u32::try_from(width) {
            Ok(width) if (least..=MAX_WIDTH).contains(&width) => Ok(width),
            _ => Err(Fault("a number of an abbreviation has a width of no use")),
        };
        Ok(match self {
            Self::Literal(value) => Scalar::Literal(value),
            Self::Fixed(0) | Self::Vbr(0) => Scalar::Literal(0),
            Self::Fixed(bits) => Scalar::Fixed(width(bits, 1)?),
            Self::Vbr(bits) => Scalar::Vbr(width(bits, 2)?),
            Self::Char6 => Scalar::Char6,
            Self::Array | Self::Blob => {
                return Err(Fault("an array or blob in the middle of an abbreviation"));
            }
        })
    }
}

impl Abbrev {
    pub(super) fn new(defined: Vec<Operand>) -> Result<Self, Fault> {
        let (scalars, tail) = match defined[..] {
            [ref scalars @ .., Operand::Array, element] => {
                let element = element.scalar()?;
                if matches!(element, Scalar::Literal(_)) {
                    return Err(Fault("an array of nothing"));
                }
                (scalars, Tail::Array(element))
            }
            [ref scalars @ .., Operand::Blob] => (scalars, Tail::Blob),
            [] => return Err(Fault("an abbreviation of nothing")),
            ref scalars => (scalars, Tail::None),
        };
        let scalars = scalars.iter().map(|operand| operand.scalar()).collect::<Result<Vec<_>, _>>()?;
        if scalars.iter().filter(|scalar| matches!(scalar, Scalar::Literal(_))).count() > MAX_LITERALS {
            return Err(Fault("an abbreviation says too many numbers"));
        }
        Ok(Self { scalars, tail, defined })
    }
}

/// A record: its code and numbers, literals too.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// What it is abbreviated by.
    pub(super) abbrev: u64,
    /// The code, then the rest.
    pub(super) numbers: Vec<u64>,
    pub(super) blob: Vec<u8>,
}

impl Record {
    /// Begins another one.
    pub(super) fn clear(&mut self, abbrev: u64) {
        self.abbrev = abbrev;
        self.numbers.clear();
        self.blob.clear();
    }
}

/// What a block consists of.
#[derive(Debug)]
pub(super) enum Item {
    End,
    /// The end of a block of summaries whose values have another order in the form: the record has their hashes as its blob, and as its
    /// abbreviation how many entries stand before them.
    EndIndex,
    Enter {
        id: u64,
        width: u32,
    },
    Define(Rc<Abbrev>),
    Record,
}

type Abbrevs = Rc<Vec<Rc<Abbrev>>>;

/// A block that is open.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) id: u64,
    /// Bits of an identifier of an abbreviation.
    pub(super) width: u32,
    /// Those of block 0, then its own.
    given: Abbrevs,
    own: Vec<Rc<Abbrev>>,
    /// What of a block of summaries waits for its end.
    held: Held,
}

impl Block {
    /// The abbreviation of a record, but for [`UNABBREV_RECORD`].
    pub(super) fn abbrev(&self, id: u64) -> Result<&Rc<Abbrev>, Fault> {
        let at = id.checked_sub(FIRST_ABBREV).and_then(|at| usize::try_from(at).ok());
        let at = at.ok_or("an abbreviation that is none")?;
        let found = self.given.get(at).or_else(|| self.own.get(at - self.given.len()));
        found.ok_or(Fault("an abbreviation that is not defined"))
    }
}

impl Block {
    /// Passes on what waits.
    fn release(&mut self, sink: &mut dyn Sink) -> Result<(), Fault> {
        let mut held = std::mem::take(&mut self.held);
        held.release(self, sink)?;
        self.held = held;
        Ok(())
    }

    /// Passes on what waits at the end; the end that is the other side's.
    fn end(
        &mut self,
        item: Item,
        direction: Direction,
        record: &mut Record,
        sink: &mut dyn Sink,
    ) -> Result<Item, Fault> {
        let mut held = std::mem::take(&mut self.held);
        match (item, direction) {
            (Item::End, Direction::Open) if held.open(self, record, sink)? => Ok(Item::EndIndex),
            (Item::EndIndex, Direction::Close) if self.id == SUMMARIES => {
                held.close(self, record.abbrev, &record.blob, sink)?;
                Ok(Item::End)
            }
            (Item::End, _) => {
                held.release(self, sink)?;
                Ok(Item::End)
            }
            _ => Err(Fault("an index that is none")),
        }
    }
}

/// Takes all blocks from `source` to `sink`, up to where no block begins.
pub(super) fn walk(source: &mut dyn Source, sink: &mut dyn Sink, direction: Direction) -> Result<(), Fault> {
    let mut infos: HashMap<u64, Abbrevs> = HashMap::new();
    let mut in_infos = 0;
    let mut described = None;
    let mut blocks: Vec<Block> = Vec::new();
    let mut record = Record::default();
    let mut meaning = Meaning::new(direction);
    loop {
        let item = match blocks.last() {
            Some(block) => source.item(block, &mut record)?,
            None => match source.begins()? {
                Some(item) => item,
                None => return sink.end(),
            },
        };
        match item {
            Item::Record => {
                let block = blocks.last_mut().ok_or("a record without a block")?;
                meaning.record(block.id, &mut record)?;
                if block.id == SUMMARIES {
                    if block.held.record(&record) {
                        continue;
                    }
                    block.release(sink)?;
                }
                sink.item(Some(block), &item, &record)?;
                if block.id == BLOCKINFO && record.numbers.first() == Some(&SETBID) {
                    described = record.numbers.get(1).copied();
                }
            }
            Item::End | Item::EndIndex => {
                let mut block = blocks.pop().ok_or("an end without a block")?;
                let item = block.end(item, direction, &mut record, sink)?;
                sink.item(Some(&block), &item, &record)?;
                meaning.leave(block.id);
            }
            Item::Enter { id, width } => {
                if !(2..=MAX_WIDTH).contains(&width) || blocks.len() == MAX_DEPTH {
                    return Err(Fault("a block of no use"));
                }
                if let Some(outer) = blocks.last_mut() {
                    outer.release(sink)?;
                }
                sink.item(blocks.last(), &item, &record)?;
                meaning.enter(id);
                if id == BLOCKINFO {
                    infos.clear();
                    (in_infos, described) = (0, None);
                }
                let given = if id == BLOCKINFO { None } else { infos.get(&id).cloned() };
                blocks.push(Block {
                    id,
                    width,
                    given: given.unwrap_or_default(),
                    own: Vec::new(),
                    held: Held::default(),
                });
            }
            Item::Define(ref abbrev) => {
                let block = blocks.last_mut().ok_or("an abbreviation without a block")?;
                if block.id != SUMMARIES || !block.held.define(abbrev) {
                    sink.item(Some(block), &item, &record)?;
                }
                let abbrev = Rc::clone(abbrev);
                let count = if block.id == BLOCKINFO { &mut in_infos } else { &mut block.own.len() };
                if *count == MAX_ABBREVS {
                    return Err(Fault("too many abbreviations"));
                }
                *count += 1;
                if block.id == BLOCKINFO {
                    let id = described.ok_or("an abbreviation of no block")?;
                    Rc::make_mut(infos.entry(id).or_default()).push(abbrev);
                } else {
                    block.own.push(abbrev);
                }
            }
        }
    }
}
