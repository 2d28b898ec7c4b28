//! Deflated sections of an ELF file (`SHF_COMPRESSED`, the System V ABI's "Sections", chapter 4), as linkers write debug information.
//!
//! Its opened form is the file with zeros in place of the streams and their checks, so that everything is where its headers say, and behind it
//! the inflated streams in the order of the file. Nothing tells how many there are: the section headers do.

use super::{u16_at, u32_at};
#[cfg(test)]
use crate::engine::deflate::Encoder;
use std::io::{self, Write};
use std::ops::Range;

pub(super) const MAGIC: &[u8; 7] = b"\x7fELF\x02\x01\x01";

/// Section headers beyond so many are not looked at: the file stays closed.
const MAX_SECTIONS: u16 = 8192;
const SECTION_HEADER_BYTES: usize = 64;
/// `Elf64_Chdr`: type, reserved, size, alignment.
const COMPRESSION_HEADER_BYTES: usize = 24;
/// The two bytes before a zlib stream (RFC 1950).
const ZLIB_HEADER_BYTES: usize = 2;
/// The Adler-32 behind one.
pub(super) const CHECK_BYTES: usize = 4;
const SHT_NOBITS: u32 = 8;
const SHF_COMPRESSED: u64 = 0x800;
const ELFCOMPRESS_ZLIB: u32 = 1;

/// A stream of a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stream {
    /// Where it is, its check left out.
    pub(super) deflated: Range<usize>,
    /// Bytes inflated, as the section says.
    pub(super) inflated: u64,
}

impl Stream {
    /// The check behind it.
    pub(super) fn check<'a>(&self, file: &'a [u8]) -> Option<&'a [u8]> {
        file.get(self.deflated.end..self.deflated.end.checked_add(CHECK_BYTES)?)
    }
}

/// The streams of the file that `file` is, or is but for what stands in its streams; in order. None where there are none, where a
/// header stands in a stream, or where two meet.
pub(super) fn streams(file: &[u8]) -> Option<Vec<Stream>> {
    if !file.starts_with(MAGIC) || u16_at(file, 0x3a)? != 64 {
        return None;
    }
    let table = usize::try_from(u64_at(file, 0x28)?).ok()?;
    let count = u16_at(file, 0x3c).filter(|count| *count <= MAX_SECTIONS)?;
    let table = table..table.checked_add(usize::from(count) * SECTION_HEADER_BYTES)?;
    let headers = file.get(table.clone())?.chunks_exact(SECTION_HEADER_BYTES);
    let mut sections = Vec::new();
    for header in headers {
        if u32_at(header, 4)? == SHT_NOBITS || u64_at(header, 8)? & SHF_COMPRESSED == 0 {
            continue;
        }
        let start = usize::try_from(u64_at(header, 24)?).ok()?;
        let end = start.checked_add(usize::try_from(u64_at(header, 32)?).ok()?)?;
        let section = file.get(start..end)?;
        if u32_at(section, 0)? != ELFCOMPRESS_ZLIB {
            continue;
        }
        let begin = start + COMPRESSION_HEADER_BYTES + ZLIB_HEADER_BYTES;
        let zlib = file.get(begin - ZLIB_HEADER_BYTES..begin)?;
        let is_zlib = zlib[0] & 0xf == 8
            && zlib[1] & 0x20 == 0
            && (u16::from(zlib[0]) << 8 | u16::from(zlib[1])) % 31 == 0;
        let deflated = begin..end.checked_sub(CHECK_BYTES)?;
        if !is_zlib || deflated.is_empty() {
            return None;
        }
        sections.push((start..end, Stream { deflated, inflated: u64_at(section, 8)? }));
    }
    sections.sort_by_key(|(section, _)| section.start);
    // The file's header, the table, then the sections, one behind the other in the file.
    let mut fixed: Vec<Range<usize>> = vec![0..SECTION_HEADER_BYTES, table];
    fixed.extend(sections.iter().map(|(section, _)| section.clone()));
    fixed.sort_by_key(|range| range.start);
    let apart = fixed.windows(2).all(|two| two[0].end <= two[1].start);
    (apart && !sections.is_empty()).then(|| sections.into_iter().map(|(_, stream)| stream).collect())
}

/// The Adler-32 of what is written to it (RFC 1950, section 8.2).
pub(super) struct Adler {
    low: u32,
    high: u32,
}

impl Adler {
    pub(super) fn new() -> Self {
        Self { low: 1, high: 0 }
    }

    /// As it stands in a stream, the highest byte first.
    pub(super) fn bytes(&self) -> [u8; CHECK_BYTES] {
        (self.high << 16 | self.low).swap_bytes().to_le_bytes()
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        const MODULUS: u32 = 65521;
        // As many as can be added before a sum exceeds 32 bits.
        for chunk in bytes.chunks(5552) {
            for &byte in chunk {
                self.low += u32::from(byte);
                self.high += self.low;
            }
            self.low %= MODULUS;
            self.high %= MODULUS;
        }
    }
}

impl Write for Adler {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    field.try_into().ok().map(u64::from_le_bytes)
}

/// An ELF file of these bytes, which begin with its header, with sections deflated from these behind them.
#[cfg(test)]
pub(crate) fn with_sections(mut file: Vec<u8>, sections: &[(Encoder, &[u8])]) -> Vec<u8> {
    let mut table = vec![0; SECTION_HEADER_BYTES];
    for (encoder, content) in sections {
        let start = file.len();
        let header = [1, content.len() as u64, 1].map(u64::to_le_bytes);
        file.extend_from_slice(header.as_flattened());
        file.extend_from_slice(&[0x78, 0x01]);
        encoder.encode(content, &mut file).unwrap();
        let mut check = Adler::new();
        check.update(content);
        file.extend_from_slice(&check.bytes());
        let fields = [1 << 32, SHF_COMPRESSED, 0, start as u64, (file.len() - start) as u64, 0, 1, 0];
        table.extend_from_slice(fields.map(u64::to_le_bytes).as_flattened());
    }
    let at = file.len() as u64;
    let count = u16::try_from(table.len() / SECTION_HEADER_BYTES).unwrap();
    file.extend_from_slice(&table);
    file[..7].copy_from_slice(MAGIC);
    file[0x28..0x30].copy_from_slice(&at.to_le_bytes());
    file[0x3a..0x3c].copy_from_slice(&64u16.to_le_bytes());
    file[0x3c..0x3e].copy_from_slice(&count.to_le_bytes());
    file
}
