//! The header of a dimg and its section table (`FORMAT.md`, section 2).

use super::DimgError;
use crate::engine::compress::{Codec, Kind, Level, pack};
use crate::format::blob;
use crate::limits::MAX_SECTION_BYTES;
use sha2::Digest as _;
use xxhash_rust::xxh3::xxh3_64;

/// First bytes of a dimg.
pub const DIMG_MAGIC: [u8; 8] = *b"\x89DIMG\r\n\x1a";
/// The format's version, of dimg and cdimg.
pub const VERSION: u16 = 1;
/// Bytes before the section table.
pub(crate) const HEADER_BYTES: usize = 32;
/// Bytes of an entry of the section table.
pub(crate) const ROW_BYTES: usize = 40;
/// Bytes before the sections.
pub(crate) const HEAD_BYTES: usize = HEADER_BYTES + SECTIONS * ROW_BYTES;
/// Sections of a file.
pub(crate) const SECTIONS: usize = 5;

const HAS_PARENT: u16 = 1;
const NAME: &str = "header";

/// A section, by its index in the table; its number in the file is one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Section {
    Meta,
    Index,
    Recipes,
    Frames,
    Data,
}

impl Section {
    pub(crate) const ALL: [Self; SECTIONS] =
        [Self::Meta, Self::Index, Self::Recipes, Self::Frames, Self::Data];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Meta => "section META",
            Self::Index => "section INDEX",
            Self::Recipes => "section RECIPES",
            Self::Frames => "section FRAMES",
            Self::Data => "section DATA",
        }
    }
}

/// An entry of the section table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) codec: Codec,
    /// Bytes of what the section decodes to; zero for DATA.
    pub(crate) raw_bytes: u64,
    /// From the start of the dimg.
    pub(crate) offset: u64,
    pub(crate) stored_bytes: u64,
    /// The first half of the SHA-256 of the stored bytes; zero for DATA.
    pub(crate) check: [u8; 16],
}

/// Header and section table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) has_parent: bool,
    /// Of the whole dimg.
    pub(crate) bytes: u64,
    pub(crate) rows: [Row; SECTIONS],
}

/// The first half of the SHA-256 of `bytes`. Zero under a fuzzer, which could not make it right.
pub(crate) fn check16(bytes: &[u8]) -> [u8; 16] {
    let mut check = [0; 16];
    if cfg!(fuzzing) {
        return check;
    }
    check.copy_from_slice(&sha2::Sha256::digest(bytes)[..16]);
    check
}

/// The XXH3-64 of `bytes`. Zero under a fuzzer.
pub(crate) fn check8(bytes: &[u8]) -> u64 {
    if cfg!(fuzzing) { 0 } else { xxh3_64(bytes) }
}

/// Reads fixed-width integers from where they are known to be.
pub(crate) struct Fixed<'a>(pub(crate) &'a [u8]);

impl Fixed<'_> {
    pub(crate) fn bytes<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.0[at..at + N]);
        bytes
    }

    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes(at))
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes(at))
    }
}

impl Header {
    /// Reads the header of `dimg`, all of its bytes, which start at `start` of the file.
    pub(crate) fn parse(dimg: &[u8], start: u64) -> Result<Self, DimgError> {
        let corrupt = |at: usize, reason: String| DimgError::corrupt(NAME, start + at as u64, reason);
        if !dimg.starts_with(&DIMG_MAGIC) {
            return Err(corrupt(0, "not a dimg".to_owned()));
        }
        if dimg.len() < HEAD_BYTES {
            return Err(corrupt(dimg.len(), format!("the file ends within the first {HEAD_BYTES} bytes")));
        }
        let fixed = Fixed(dimg);
        let version = fixed.u16(8);
        if version != VERSION {
            let (what, value) = ("format version", u64::from(version));
            return Err(DimgError::Unsupported { section: NAME, offset: start + 8, what, value });
        }
        let sections = fixed.u32(12);
        if sections as usize != SECTIONS {
            return Err(corrupt(12, format!("{sections} sections, not {SECTIONS}")));
        }
        if fixed.u64(24) != header_check(&dimg[..24], &dimg[HEADER_BYTES..HEAD_BYTES]) {
            return Err(corrupt(24, "the checksum of the header is wrong".to_owned()));
        }
        let flags = fixed.u16(10);
        if flags & !HAS_PARENT != 0 {
            return Err(corrupt(10, format!("flags {flags:#x} are not known")));
        }
        let bytes = fixed.u64(16);
        if bytes != dimg.len() as u64 {
            return Err(corrupt(16, format!("the dimg has {} bytes, not {bytes}", dimg.len())));
        }
        let mut next = HEAD_BYTES as u64;
        let mut rows = Vec::with_capacity(SECTIONS);
        for (index, section) in Section::ALL.into_iter().enumerate() {
            let at = HEADER_BYTES + index * ROW_BYTES;
            let row = Self::row(&fixed, at, section, next, bytes).map_err(|error| match error {
                RowError::Corrupt(offset, reason) => {
                    corrupt(at + offset, format!("{}: {reason}", section.name()))
                }
                RowError::Codec(value) => DimgError::Unsupported {
                    section: section.name(),
                    offset: start + at as u64 + 2,
                    what: "codec",
                    value: u64::from(value),
                },
            })?;
            next += row.stored_bytes;
            rows.push(row);
        }
        if next != bytes {
            return Err(corrupt(16, format!("{} bytes follow the last section", bytes - next)));
        }
        let rows = rows.try_into().map_err(|_| corrupt(12, "sections are missing".to_owned()))?;
        Ok(Self { has_parent: flags & HAS_PARENT != 0, bytes, rows })
    }

    fn row(fixed: &Fixed<'_>, at: usize, section: Section, next: u64, bytes: u64) -> Result<Row, RowError> {
        let bad = |offset: usize, reason: String| Err(RowError::Corrupt(offset, reason));
        let kind = fixed.u16(at);
        if usize::from(kind) != section as usize + 1 {
            return bad(0, format!("kind {kind}"));
        }
        let [tag, zero] = fixed.bytes(at + 2);
        let codec = Codec::from_tag(tag).ok_or(RowError::Codec(tag))?;
        if zero != 0 {
            return bad(3, "padding is not zero".to_owned());
        }
        let raw_bytes = u64::from(fixed.u32(at + 4));
        let (offset, stored_bytes) = (fixed.u64(at + 8), fixed.u64(at + 16));
        let check = fixed.bytes(at + 24);
        if offset != next {
            return bad(8, format!("it starts at {offset}, not at {next}"));
        }
        if stored_bytes > bytes - next {
            return bad(16, format!("{stored_bytes} bytes, but only {} are left", bytes - next));
        }
        if section == Section::Data && (tag != 0 || raw_bytes != 0 || check != [0; 16]) {
            return bad(2, "a codec, raw size or checksum is given".to_owned());
        }
        if raw_bytes > MAX_SECTION_BYTES {
            return bad(4, format!("{raw_bytes} bytes exceed the limit of {MAX_SECTION_BYTES}"));
        }
        Ok(Row { codec, raw_bytes, offset, stored_bytes, check })
    }

    /// The header's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut table = Vec::with_capacity(SECTIONS * ROW_BYTES);
        for (kind, row) in (1u16..).zip(&self.rows) {
            table.extend_from_slice(&kind.to_le_bytes());
            table.extend_from_slice(&[row.codec.tag(), 0]);
            // MAX_SECTION_BYTES is below 2^32.
            table.extend_from_slice(&u32::try_from(row.raw_bytes).unwrap_or(u32::MAX).to_le_bytes());
            table.extend_from_slice(&row.offset.to_le_bytes());
            table.extend_from_slice(&row.stored_bytes.to_le_bytes());
            table.extend_from_slice(&row.check);
        }
        let mut out = DIMG_MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(if self.has_parent { HAS_PARENT } else { 0 }).to_le_bytes());
        out.extend_from_slice(&5u32.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        let check = header_check(&out, &table);
        out.extend_from_slice(&check.to_le_bytes());
        out.extend_from_slice(&table);
        out
    }
}

enum RowError {
    Corrupt(usize, String),
    Codec(u8),
}

fn header_check(header: &[u8], table: &[u8]) -> u64 {
    check8(&[header, table].concat())
}

/// A section ready to be written.
#[derive(Debug)]
pub(crate) struct Sealed {
    codec: Codec,
    raw_bytes: u64,
    stored: Vec<u8>,
}

impl Sealed {
    /// The smallest of: `raw` as it is or compressed as a whole, and `packed`, its parts compressed already.
    pub(crate) fn smallest(raw: &[u8], packed: Option<Vec<u8>>, level: Level) -> Result<Self, DimgError> {
        let whole = pack(&[raw], Kind::Bytes, level, blob::WINDOW_LOG)?;
        let sealed = match packed {
            Some(packed) if packed.len() < whole.stored.len() => {
                Self { codec: Codec::Raw, raw_bytes: packed.len() as u64, stored: packed }
            }
            _ => Self { codec: whole.codec, raw_bytes: whole.raw_bytes, stored: whole.stored },
        };
        if raw.len() as u64 > MAX_SECTION_BYTES {
            let reason = format!("a section of {} bytes exceeds the limit of {MAX_SECTION_BYTES}", raw.len());
            return Err(DimgError::Refused(reason));
        }
        Ok(sealed)
    }
}

/// Header, table and the sections before DATA.
pub(crate) fn assemble(has_parent: bool, sections: [Sealed; SECTIONS - 1], data_bytes: u64) -> Vec<u8> {
    let mut offset = HEAD_BYTES as u64;
    let mut row = |codec, raw_bytes, stored_bytes: u64, check| {
        let row = Row { codec, raw_bytes, offset, stored_bytes, check };
        offset += stored_bytes;
        row
    };
    let [meta, index, recipes, frames] = sections.each_ref().map(|sealed| {
        row(sealed.codec, sealed.raw_bytes, sealed.stored.len() as u64, check16(&sealed.stored))
    });
    let data = row(Codec::Raw, 0, data_bytes, [0; 16]);
    let header = Header { has_parent, bytes: offset, rows: [meta, index, recipes, frames, data] };
    let mut out = header.encode();
    sections.iter().for_each(|sealed| out.extend_from_slice(&sealed.stored));
    out
}
