//! Deflate streams (RFC 1951) made again as known compressors make them, bit for bit.
//!
//! GNU gzip and zlib search matches alike: a hash of three bytes heads a chain of earlier places, walked up to a length and
//! with a laziness that the level sets. They differ in how many symbols a block holds, in when a block ends early, and in what they
//! do with the last bytes of the input. An [`Encoder`] names one of them; what it writes depends on it and the input alone, so
//! that an encoder's number in a file means the same bytes for ever. Nothing else of a stream is needed to make it again.

mod bits;
mod block;
mod golang;
mod links;
mod matching;
mod tables;
mod tree;

use bits::BitWriter;
use matching::Finder;
use std::io::{self, Write};

/// Who wrote a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Maker {
    /// The program `gzip` of the GNU project, all versions since 1.2.4.
    Gnu,
    /// The library zlib, with blocks of `1 << (memory + 6)` symbols.
    Zlib { memory: u8 },
    /// The package compress/flate of Go.
    Go,
}

/// A compressor with its settings: number and behaviour belong to the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Encoder {
    maker: Maker,
    level: u8,
}

/// The codes of GNU gzip are this plus the level.
const GNU_CODE: u8 = 0x10;
/// The codes of zlib are this plus 16 for each step of its memory level above 1, plus the level.
const ZLIB_CODE: u8 = 0x20;
/// The codes of Go are this plus the level.
const GO_CODE: u8 = 0xb0;
const LEVELS: std::ops::RangeInclusive<u8> = 1..=9;

impl Encoder {
    /// The program gzip at a level from 1 to 9.
    #[must_use]
    pub fn gnu(level: u8) -> Option<Self> {
        LEVELS.contains(&level).then_some(Self { maker: Maker::Gnu, level })
    }

    /// The library zlib at a level and a memory level from 1 to 9.
    #[must_use]
    pub fn zlib(level: u8, memory: u8) -> Option<Self> {
        let known = LEVELS.contains(&level) && LEVELS.contains(&memory);
        known.then_some(Self { maker: Maker::Zlib { memory }, level })
    }

    /// The package compress/flate of Go at its fastest level.
    #[must_use]
    pub fn go() -> Self {
        Self { maker: Maker::Go, level: 1 }
    }

    /// The number in the format.
    #[must_use]
    pub fn code(self) -> u8 {
        match self.maker {
            Maker::Gnu => GNU_CODE + self.level,
            Maker::Zlib { memory } => ZLIB_CODE + ((memory - 1) << 4) + self.level,
            Maker::Go => GO_CODE + self.level,
        }
    }

    /// The encoder of a number.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        let (kind, level) = (code >> 4, code & 0xf);
        match kind {
            0 => None,
            1 => Self::gnu(level),
            11 => (level == 1).then(Self::go),
            _ => Self::zlib(level, kind - 1),
        }
    }

    /// Writes the stream that the encoder makes of `input` to `out`.
    ///
    /// # Errors
    /// Those of `out`; [`io::ErrorKind::FileTooLarge`] for an input of 2 GiB and more.
    pub fn encode(self, input: &[u8], out: &mut dyn Write) -> io::Result<()> {
        if i32::try_from(input.len()).is_err() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut writer = BitWriter::new(out);
        if self.maker == Maker::Go {
            golang::encode(input, &mut writer)?;
            return writer.finish();
        }
        let finder = Finder::new(self, input);
        if self.level <= 3 {
            finder.greedy(&mut writer)?
        } else {
            finder.lazy(&mut writer)?
        }
        writer.finish()
    }

    /// How many symbols a block holds, and one more.
    fn block_symbols(self) -> usize {
        match self.maker {
            Maker::Zlib { memory } => 1 << (memory + 6),
            Maker::Gnu | Maker::Go => 1 << 15,
        }
    }

    /// Bits of the hash of three bytes.
    fn hash_bits(self) -> u32 {
        match self.maker {
            Maker::Zlib { memory } => u32::from(memory) + 7,
            Maker::Gnu | Maker::Go => 15,
        }
    }
}

#[cfg(test)]
mod tests;
