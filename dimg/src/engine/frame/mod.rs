//! Frames: what the data section of a file is made of. Each can be read without the others.
//!
//! A *blob* is a compressed string of bytes ([`super::compress`]). Its head is `varint raw bytes << 3 | codec`, followed by
//! `varint stored bytes` unless the codec is 0 (raw), where both are the same.
//!
//! | frame | layout |
//! |---|---|
//! | stored | a head; the stored bytes. Raw: several small contents one after the other, or a chunk of a large one |
//! | programs | `varint slots` (not 0); eight heads: the op counts, then the seven streams of [`super::program`]; the stored bytes of these eight in order |
//! | bsdiff | a head; the stored bytes. Raw: one patch ([`super::bsdiff`]) |
//! | reference | a head, its codec LZMA2; the stored bytes. Raw: one content, compressed behind its base |
//! | parameters | `varint slots`; two heads: a varint length per slot, then the parameters ([`super::member`]); their stored bytes |
//! | relocations | `varint slots` (not 0); a head; the stored bytes. Raw: an address map ([`super::elf`]) for each slot |
//!
//! The op counts are one varint per slot: how many operations its program has. The streams of the programs of all slots are
//! joined, slot 0 first. A frame of several slots is a *group*: its raw bytes are few, and it is decoded as a whole. A frame of one
//! slot has any size and is streamed. The length of what a frame or slot makes is not in the frame: whoever names the frame knows it.

mod parameters;
mod patch;
mod program;
mod reference;
mod relocations;
mod stored;

pub use parameters::{PARAMETER_GROUP_BYTES, ParameterFrame, ParameterGroup};
pub use patch::BsdiffFrame;
pub use program::{ProgramFrame, ProgramGroup};
pub use reference::ReferenceFrame;
pub use relocations::RelocationFrame;
pub use stored::StoredFrame;

use super::compress::{Codec, Decoder, Packed};
use super::error::EngineError;
use super::program::StreamKind;
use super::varint;
use std::io;

/// Raw bytes of a group of small stored contents, at most.
pub const STORED_GROUP_BYTES: u64 = 4 << 20;
/// Raw bytes of a chunk of a large stored content, at most; so of any stored frame.
pub const STORED_CHUNK_BYTES: u64 = 8 << 20;
/// Raw bytes of the streams and op counts of a frame with several programs, at most.
pub const PROGRAM_GROUP_BYTES: u64 = 2 << 20;
/// Raw bytes of a content that is compressed behind its base, at most.
pub const MAX_REFERENCE_BYTES: u64 = 8 << 20;
/// Programs of one frame, at most.
pub const MAX_SLOTS: u64 = 1 << 16;
/// Raw bytes of any blob, at most.
pub const MAX_RAW_BYTES: u64 = 1 << 46;
/// Window of the blob of a stored frame.
pub const STORED_WINDOW_LOG: u32 = 23;
/// Window of the blob of a bsdiff frame.
pub const BSDIFF_WINDOW_LOG: u32 = 24;

/// The window of each stream of a program: all seven are decoded together, so they share 25 MiB.
#[must_use]
pub fn stream_window_log(kind: StreamKind) -> u32 {
    match kind {
        StreamKind::Inserted => 24,
        StreamKind::Nonzero => 22,
        _ => 20,
    }
}

/// The buffer between a decoder and its reader.
const READ_BUFFER_BYTES: usize = 32 << 10;

/// The head of a blob.
#[derive(Clone, Copy, Debug)]
struct Head {
    codec: Codec,
    raw_bytes: u64,
    stored_bytes: u64,
    part: &'static str,
}

/// A blob within a frame.
#[derive(Clone, Copy, Debug)]
struct Blob<'a> {
    codec: Codec,
    raw_bytes: u64,
    stored: &'a [u8],
    /// Where `stored` lies in the frame.
    offset: u64,
    part: &'static str,
    window_log: u32,
}

/// Reads a frame from front to back.
struct Parser<'a> {
    frame: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Parser<'a> {
    fn new(frame: &'a [u8]) -> Self {
        Self { frame, rest: frame }
    }

    fn offset(&self) -> u64 {
        (self.frame.len() - self.rest.len()) as u64
    }

    /// How many contents the frame has slots for, at least `least`.
    fn slots(&mut self, least: u64) -> Result<u64, EngineError> {
        let slots = self.number("slots")?;
        EngineError::check_limit(0, "slots", slots, MAX_SLOTS)?;
        if slots < least {
            return Err(EngineError::corrupt(0, "slots", "there is none"));
        }
        Ok(slots)
    }

    fn number(&mut self, part: &'static str) -> Result<u64, EngineError> {
        let offset = self.offset();
        varint::take(&mut self.rest).ok_or_else(|| {
            EngineError::corrupt(offset, part, "a number is cut off, too large or not in its shortest form")
        })
    }

    fn head(&mut self, part: &'static str, raw_limit: u64) -> Result<Head, EngineError> {
        let offset = self.offset();
        let head = self.number(part)?;
        let raw_bytes = head >> 3;
        let codec = u8::try_from(head & 7).ok().and_then(Codec::from_tag);
        let codec = codec.ok_or_else(|| EngineError::corrupt(offset, part, "an unknown codec"))?;
        EngineError::check_limit(offset, part, raw_bytes, raw_limit)?;
        let stored_bytes = if codec == Codec::Raw { raw_bytes } else { self.number(part)? };
        Ok(Head { codec, raw_bytes, stored_bytes, part })
    }

    fn blob(&mut self, head: Head, window_log: u32) -> Result<Blob<'a>, EngineError> {
        let offset = self.offset();
        let Head { codec, raw_bytes, stored_bytes, part } = head;
        let cut = usize::try_from(stored_bytes).ok().and_then(|count| self.rest.split_at_checked(count));
        let (stored, rest) =
            cut.ok_or_else(|| EngineError::corrupt(offset, part, "the frame ends before it"))?;
        self.rest = rest;
        Ok(Blob { codec, raw_bytes, stored, offset, part, window_log })
    }

    fn finish(&self) -> Result<(), EngineError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(EngineError::corrupt(self.offset(), "frame", "bytes after its end"))
        }
    }
}

impl<'a> Blob<'a> {
    fn error(&self, error: &io::Error) -> EngineError {
        EngineError::corrupt(self.offset, self.part, error.to_string())
    }

    fn decoder(&self) -> Result<Decoder<'a>, EngineError> {
        Decoder::new(self.codec, self.stored, self.raw_bytes, self.window_log)
            .map_err(|error| self.error(&error))
    }

    /// Decodes all of it. The caller has checked `raw_bytes` against a limit that fits memory.
    fn decode(&self) -> Result<Vec<u8>, EngineError> {
        let mut decoder = self.decoder()?;
        let length = usize::try_from(self.raw_bytes).unwrap_or(usize::MAX);
        let mut out = Vec::new();
        // What is stored cannot be trusted to give so much: memory is taken as the bytes come.
        let mut chunk = vec![0u8; length.min(256 << 10)];
        while out.len() < length {
            match io::Read::read(&mut decoder, &mut chunk).map_err(|error| self.error(&error))? {
                0 => return Err(EngineError::corrupt(self.offset, self.part, "it ends too early")),
                count => out.extend_from_slice(&chunk[..count]),
            }
        }
        Ok(out)
    }
}

/// Appends the head of a blob.
fn put_head(out: &mut Vec<u8>, packed: &Packed) {
    varint::put(out, packed.raw_bytes << 3 | u64::from(packed.codec.tag()));
    if packed.codec != Codec::Raw {
        varint::put(out, packed.stored.len() as u64);
    }
}

#[cfg(test)]
mod tests;
