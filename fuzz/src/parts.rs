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

/// Sections of a dimg.
const SECTIONS: usize = 3;
/// Bytes of the checksum in front of the section TABLES.
const CHECK_BYTES: usize = 8;
/// Bytes that say which of the 44 columns there are.
const BITS_BYTES: usize = 6;
/// Window of the compressors.
const WINDOW_LOG: u32 = 23;

fn put(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn get(bytes: &mut &[u8]) -> Option<usize> {
    let (mut value, mut shift) = (0usize, 0u32);
    loop {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= usize::from(byte & 0x7f).checked_shl(shift)?;
        shift += 7;
        if byte < 0x80 {
            return Some(value);
        }
    }
}

/// A dimg of which the fuzzer chooses the sections and not the header around them, so that they may change their lengths.
/// Layout: 1 if there is a parent, the lengths of META and of the table of columns, then the sections; the rest is DATA.
pub fn dimg_of_sections(input: &[u8]) -> Vec<u8> {
    let mut parts = Parts(input);
    let has_parent = parts.byte() & 1;
    let lengths = [(); SECTIONS - 1].map(|()| usize::from(parts.short()));
    let [meta, table] = lengths.map(|length| parts.take(length));
    let mut tables = vec![0; CHECK_BYTES];
    put(&mut tables, table.len() << 3);
    tables.extend_from_slice(table);
    let mut out = dimg::format::DIMG_MAGIC.to_vec();
    out.extend_from_slice(&dimg::format::VERSION.to_le_bytes()[..1]);
    out.push(has_parent);
    [meta.len(), tables.len(), parts.0.len()].into_iter().for_each(|length| put(&mut out, length));
    out.extend_from_slice(&[0; CHECK_BYTES]);
    [&out, meta, &tables, parts.0].concat()
}

/// The sections of a dimg as [`dimg_of_sections`] takes them: META, the table of columns, DATA. All columns stand behind the table.
///
/// # Errors
/// The bytes are not a dimg.
pub fn sections(dimg: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let bad = || io::Error::from(io::ErrorKind::InvalidData);
    let opened = Dimg::open(dimg.to_vec().into()).map_err(io::Error::other)?;
    let mut all = Vec::new();
    for section in opened.sections() {
        let start = usize::try_from(section.offset).map_err(io::Error::other)?;
        let count = usize::try_from(section.bytes).map_err(io::Error::other)?;
        all.push(dimg.get(start..start + count).ok_or_else(bad)?.to_vec());
    }
    let tables = all.get_mut(1).ok_or_else(bad)?;
    *tables = joined(tables.get(CHECK_BYTES..).ok_or_else(bad)?).ok_or_else(bad)?;
    Ok(all)
}

/// The columns' table with all columns behind it, none compressed.
fn joined(mut stored: &[u8]) -> Option<Vec<u8>> {
    let raw = |head: usize, bytes: &[u8], out: &mut Vec<u8>| {
        let codec = Codec::from_tag(u8::try_from(head & 7).ok()?)?;
        Decoder::new(codec, bytes, (head >> 3) as u64, WINDOW_LOG).ok()?.read_to_end(out).ok()
    };
    let first = get(&mut stored)?;
    let count = if first & 7 == 0 { first >> 3 } else { get(&mut stored)? };
    let (bytes, mut stored) = stored.split_at_checked(count)?;
    let mut table = Vec::new();
    raw(first, bytes, &mut table)?;
    let (bits, mut rest) = table.split_at_checked(BITS_BYTES)?;
    let mut heads = Vec::new();
    for _ in 0..bits.iter().map(|byte| byte.count_ones()).sum::<u32>() {
        let head = get(&mut rest)?;
        let own = if head & 7 > 0 && head & 7 != 7 { get(&mut rest)? } else { head >> 3 };
        heads.push((head, own));
    }
    let (mut out, mut bodies) = (bits.to_vec(), Vec::new());
    for (head, own) in heads {
        put(&mut out, head | 7);
        let from = if head & 7 == 7 { &mut rest } else { &mut stored };
        let (bytes, left) = from.split_at_checked(own)?;
        *from = left;
        match head & 7 {
            7 => bodies.extend_from_slice(bytes),
            _ => _ = raw(head, bytes, &mut bodies)?,
        }
    }
    out.extend_from_slice(&bodies);
    Some(out)
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
