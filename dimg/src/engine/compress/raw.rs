//! Bare LZMA2 as others write it: found in a content, and made again with liblzma's own options.

use super::{lzma_decoder, lzma_error, or_exhausted};
use liblzma::stream::{Action, Filters, LzmaOptions, PRESET_EXTREME, Status, Stream};
use std::fmt;
use std::io::{self, Write};

/// Decodes LZMA2 whose end is not known.
pub struct Lzma2Data<'a> {
    input: &'a [u8],
    stream: Stream,
    ended: bool,
}

impl fmt::Debug for Lzma2Data<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lzma2Data").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl<'a> Lzma2Data<'a> {
    /// Begins with the first byte of `input`; `dictionary` is its size as `.xz` says it; none if no size is said so.
    #[must_use]
    pub fn new(input: &'a [u8], dictionary: u8) -> Option<Self> {
        let stream = lzma_decoder(dictionary).ok()?;
        Some(Self { input, stream, ended: false })
    }

    /// The next bytes, put into `out`: how many; none at the end, or where the data are damaged.
    pub fn step(&mut self, out: &mut [u8]) -> Option<usize> {
        while !self.ended {
            let (taken, made) = (self.taken()?, self.stream.total_out());
            let rest = self.input.get(taken..)?;
            let status = self.stream.process(rest, out, Action::Run).map_err(or_exhausted).ok()?;
            let count = usize::try_from(self.stream.total_out() - made).ok()?;
            self.ended = status == Status::StreamEnd;
            if count > 0 {
                return Some(count);
            }
            if self.taken()? == taken {
                break;
            }
        }
        None
    }

    /// The bytes of the data, when their end was reached.
    #[must_use]
    pub fn ended(&self) -> Option<usize> {
        self.taken().filter(|_| self.ended)
    }

    fn taken(&self) -> Option<usize> {
        usize::try_from(self.stream.total_in()).ok()
    }
}

/// Writes `content` as LZMA2 by a preset of liblzma, with a dictionary of another size. Takes memory of some ten times the content or
/// the dictionary, whichever is less, and twice the dictionary.
///
/// # Errors
/// Those of `out`, and [`io::ErrorKind::Other`] for a preset or a dictionary that liblzma has not.
pub fn lzma2_by_preset(
    content: &[u8],
    level: u32,
    extreme: bool,
    dictionary: u8,
    out: &mut dyn Write,
) -> io::Result<()> {
    let preset = level | if extreme { PRESET_EXTREME } else { 0 };
    let mut options = LzmaOptions::new_preset(preset).map_err(failed)?;
    options.dict_size((2 | u32::from(dictionary & 1)) << (dictionary / 2 + 11));
    let mut filters = Filters::new();
    filters.lzma2(&options);
    let mut stream = Stream::new_raw_encoder(&filters).map_err(or_exhausted).map_err(failed)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let taken = usize::try_from(stream.total_in()).map_err(failed)?;
        let made = stream.total_out();
        let rest = content.get(taken..).unwrap_or_default();
        let status =
            stream.process(rest, &mut buffer, Action::Finish).map_err(or_exhausted).map_err(failed)?;
        let count = usize::try_from(stream.total_out() - made).map_err(failed)?;
        out.write_all(buffer.get(..count).unwrap_or_default())?;
        if status == Status::StreamEnd {
            return Ok(());
        }
    }
}

fn failed(error: impl fmt::Display) -> io::Error {
    io::Error::other(lzma_error(error))
}
