//! Inputs of several parts: the numbers at their front, little-endian, are easy for a fuzzer to change.

use dimg::engine::compress::{Codec, Decoder};
use dimg::format::Dimg;
use std::io::{self, Read};

/// Takes parts off the front of an input. What is not there is empty, or zero.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a>(pub &'a [u8]);

impl<'a> Parts<'a> {
    /// The next `count` bytes, or as many as there are.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (part, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        part
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    /// The next two bytes as a number.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }
}

/// `count` as [`Parts::short`] reads it.
///
/// # Panics
/// It has more than 16 bits.
pub fn short(count: usize) -> [u8; 2] {
    u16::try_from(count).expect("seeds are small").to_le_bytes()
}

/// Bytes before the sections of a dimg, and of an entry of its section table (`dimg/FORMAT.md`, section 2).
const HEAD_BYTES: usize = 32;
const ROW_BYTES: usize = 40;
const SECTIONS: usize = 5;
/// Window of the sections' compressors.
const WINDOW_LOG: u32 = 23;

/// A dimg of which the fuzzer chooses the sections and not the header around them, so that they may change their lengths.
/// Layout: 1 if there is a parent, the lengths of META, INDEX, RECIPES and FRAMES, then the sections; the rest is DATA.
pub fn dimg_of_sections(input: &[u8]) -> Vec<u8> {
    let mut parts = Parts(input);
    let has_parent = u16::from(parts.byte() & 1);
    let lengths = [(); SECTIONS - 1].map(|()| usize::from(parts.short()));
    let mut sections: Vec<&[u8]> = lengths.iter().map(|&length| parts.take(length)).collect();
    sections.push(parts.0);
    let head_bytes = (HEAD_BYTES + SECTIONS * ROW_BYTES) as u64;
    let mut out = dimg::format::DIMG_MAGIC.to_vec();
    out.extend_from_slice(&dimg::format::VERSION.to_le_bytes());
    out.extend_from_slice(&has_parent.to_le_bytes());
    out.extend_from_slice(&5u32.to_le_bytes());
    let bytes = head_bytes + sections.iter().map(|section| section.len() as u64).sum::<u64>();
    out.extend_from_slice(&bytes.to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    let mut offset = head_bytes;
    for (kind, section) in (1u16..).zip(&sections) {
        let length = section.len() as u64;
        // Raw, so the lengths stored and decoded are the same; DATA is never decoded.
        let decoded =
            if usize::from(kind) == SECTIONS { 0 } else { u32::try_from(length).unwrap_or_default() };
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&decoded.to_le_bytes());
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&[0; 16]);
        offset += length;
    }
    sections.iter().for_each(|section| out.extend_from_slice(section));
    out
}

/// The sections of a dimg, not compressed.
///
/// # Errors
/// The bytes are not a dimg.
pub fn sections(dimg: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let opened = Dimg::open(dimg.to_vec().into()).map_err(io::Error::other)?;
    let mut all = Vec::new();
    for section in opened.sections() {
        let start = usize::try_from(section.offset).map_err(io::Error::other)?;
        let count = usize::try_from(section.stored_bytes).map_err(io::Error::other)?;
        let stored = dimg.get(start..start + count).ok_or_else(bad)?;
        let codec = (0..8).filter_map(Codec::from_tag).find(|codec| codec.name() == section.codec);
        let codec = codec.ok_or_else(bad)?;
        let mut raw = Vec::new();
        if codec == Codec::Raw {
            raw.extend_from_slice(stored);
        } else {
            Decoder::new(codec, stored, section.raw_bytes, WINDOW_LOG)?.read_to_end(&mut raw)?;
        }
        all.push(raw);
    }
    Ok(all)
}

/// What [`dimg_of_sections`] makes a dimg with these sections of.
///
/// # Panics
/// A section before DATA has more than 65535 bytes.
pub fn input_of_sections(has_parent: bool, sections: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![u8::from(has_parent)];
    for section in &sections[..SECTIONS - 1] {
        out.extend_from_slice(&short(section.len()));
    }
    out.extend(sections.iter().flatten());
    out
}
