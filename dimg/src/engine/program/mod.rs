//! Programs: how a new content is made from an old one.
//!
//! A program is a list of operations. Each one *seeks* in the old content, relative to where the operation before it stopped (the
//! first: relative to 0), *adds*: copies bytes of the old content and adds a difference to each, modulo 256, and *inserts* bytes of
//! its own. As most differences are zero they are held sparsely. Written apart, as seven streams, each kind of number compresses
//! by itself:
//!
//! | stream | holds |
//! |---|---|
//! | add lengths | varint per operation |
//! | insert lengths | varint per operation; add and insert length are never both 0 |
//! | seeks | zigzag varint per operation |
//! | zero runs | varints: lengths of the runs of zero differences |
//! | nonzero runs | varints, never 0: lengths of the runs of other differences |
//! | nonzero | those differences, a byte each |
//! | inserted | the inserted bytes |
//!
//! The differences of a program's operations form one sequence, whatever operation they belong to. It is cut into runs, a zero run
//! first (only this one may be empty), then a nonzero and a zero run in turn, until the sequence ends: the last run, of either
//! kind, ends exactly with it. So streams of several programs can be written one after the other and be taken apart again, given
//! the number of operations of each. Such programs compose without the old content.

mod apply;
mod builder;
mod compose;

mod walk;

pub use apply::apply;
pub use builder::Builder;
pub(crate) use compose::layout_memory;
pub use compose::{compose, compose_within};

pub(crate) use walk::{Run, RunReader, read_number, skip_program};

use std::fmt;

/// The number of streams of a program.
pub const STREAMS: usize = 7;

/// The streams of a program, in the order of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// Bytes added, per operation.
    AddLengths,
    /// Bytes inserted, per operation.
    InsertLengths,
    /// Where to go in the old content, relative, per operation.
    Seeks,
    /// Lengths of runs of zero differences.
    ZeroRuns,
    /// Lengths of runs of other differences.
    NonzeroRuns,
    /// The differences in those.
    Nonzero,
    /// The bytes inserted.
    Inserted,
}

impl StreamKind {
    /// Every stream, in order.
    pub const ALL: [Self; STREAMS] = [
        Self::AddLengths,
        Self::InsertLengths,
        Self::Seeks,
        Self::ZeroRuns,
        Self::NonzeroRuns,
        Self::Nonzero,
        Self::Inserted,
    ];

    /// The name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AddLengths => "add lengths",
            Self::InsertLengths => "insert lengths",
            Self::Seeks => "seeks",
            Self::ZeroRuns => "zero runs",
            Self::NonzeroRuns => "nonzero runs",
            Self::Nonzero => "nonzero differences",
            Self::Inserted => "inserted bytes",
        }
    }

    /// The stream's place in arrays of streams.
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for StreamKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A program in memory, its streams not compressed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// The number of operations.
    pub ops: u64,
    /// The length of what it makes.
    pub out_bytes: u64,
    /// The streams, in the order of [`StreamKind`].
    pub streams: [Vec<u8>; STREAMS],
}

impl Program {
    /// The length of all streams together.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.streams.iter().map(|stream| stream.len() as u64).sum()
    }

    /// One stream.
    #[must_use]
    pub fn stream(&self, kind: StreamKind) -> &[u8] {
        &self.streams[kind.index()]
    }

    /// Readers over the streams, for [`apply`].
    #[must_use]
    pub fn readers(&self) -> [&[u8]; STREAMS] {
        self.streams.each_ref().map(Vec::as_slice)
    }
}
