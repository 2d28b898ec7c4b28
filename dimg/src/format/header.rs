//! The header of a dimg or cdimg: which parts follow it, and how long they are (`FORMAT.md`, section 1).

use super::DimgError;
use crate::limits::{MAX_OPENED_BYTES, MAX_SECTION_BYTES};
use crate::wire::{Reader, put_u64};
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64;

/// First bytes of a dimg.
pub const DIMG_MAGIC: [u8; 5] = *b"\x89DIMG";
/// First bytes of a cdimg.
pub const CDIMG_MAGIC: [u8; 6] = *b"\x89CDIMG";
/// The format's version, of dimg and cdimg.
pub const VERSION: u16 = 2;
/// Bytes of a checksum.
pub(crate) const CHECK_BYTES: usize = 8;
/// Bytes of a header at most: magic, version, flags, four lengths, checksum.
pub const MAX_HEADER_BYTES: usize = CDIMG_MAGIC.len() + 2 + 4 * 10 + CHECK_BYTES;

/// What stands where the version does in files of version 1.
const VERSION_1: u8 = b'\r';
const HAS_PARENT: u8 = 1;
const NAME: &str = "header";

/// The sections, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Section {
    /// Manifest and config; only a cdimg has them.
    Documents,
    Meta,
    Tables,
    Data,
}

impl Section {
    pub(crate) const ALL: [Self; 4] = [Self::Documents, Self::Meta, Self::Tables, Self::Data];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Documents => "section DOCUMENTS",
            Self::Meta => "section META",
            Self::Tables => "section TABLES",
            Self::Data => "section DATA",
        }
    }

    /// Bytes at most.
    fn limit(self) -> u64 {
        match self {
            Self::Documents | Self::Meta => MAX_OPENED_BYTES,
            Self::Tables => MAX_SECTION_BYTES,
            Self::Data => u64::MAX,
        }
    }
}

/// The header of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    /// Whether the file has manifest and config.
    pub(crate) is_cdimg: bool,
    pub(crate) has_parent: bool,
    /// Where each section is, in the order of [`Section::ALL`].
    places: [Range<u64>; 4],
}

/// The XXH3-64 of `bytes`. Zero under a fuzzer, which could not make it right.
pub(crate) fn check8(bytes: &[u8]) -> u64 {
    if cfg!(fuzzing) { 0 } else { xxh3_64(bytes) }
}

/// The first half of [`check8`].
pub(crate) fn check4(bytes: &[u8]) -> u32 {
    let [a, b, c, d, ..] = check8(bytes).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// What the first bytes of a file say.
struct Start {
    is_cdimg: bool,
    has_parent: bool,
    /// Where the lengths begin.
    lengths_at: usize,
    /// Where the checksum is.
    check_at: usize,
    check: [u8; CHECK_BYTES],
    places: [Range<u64>; 4],
}

impl Start {
    /// Reads all of a header but what its checksum is of.
    fn parse(bytes: &[u8]) -> Result<Self, DimgError> {
        let corrupt = |at: usize, reason: String| DimgError::corrupt(NAME, at as u64, reason);
        let is_cdimg = bytes.starts_with(&CDIMG_MAGIC);
        if !is_cdimg && !bytes.starts_with(&DIMG_MAGIC) {
            return Err(DimgError::corrupt("file", 0, "neither a cdimg nor a dimg"));
        }
        let magic_bytes = if is_cdimg { CDIMG_MAGIC.len() } else { DIMG_MAGIC.len() };
        let wire = |error| DimgError::wire(NAME, 0, true, &error);
        let mut reader = Reader::new(bytes, NAME);
        reader.take(magic_bytes, "magic").map_err(wire)?;
        let version = match reader.byte("format version").map_err(wire)? {
            VERSION_1 => 1,
            version => u64::from(version),
        };
        if version != u64::from(VERSION) {
            let (what, value) = ("format version", version);
            return Err(DimgError::Unsupported { section: NAME, offset: magic_bytes as u64, what, value });
        }
        let flags = reader.byte("flags").map_err(wire)?;
        if flags & !HAS_PARENT != 0 {
            return Err(corrupt(magic_bytes + 1, format!("flags {flags:#x} are not known")));
        }
        let mut lengths = [0; 4];
        for (section, length) in Section::ALL.into_iter().zip(&mut lengths) {
            if section == Section::Documents && !is_cdimg {
                continue;
            }
            let before = reader.clone();
            *length = reader.u64(section.name()).map_err(wire)?;
            if *length > section.limit() {
                let why = format!("{length} bytes exceed the limit of {}", section.limit());
                return Err(wire(before.error(section.name(), why)));
            }
        }
        let check_at = reader.offset();
        let mut check = [0; CHECK_BYTES];
        check.copy_from_slice(reader.take(CHECK_BYTES, "checksum").map_err(wire)?);
        let mut next = reader.offset() as u64;
        let places = lengths.map(|length| {
            let start = next;
            next = next.saturating_add(length);
            start..next
        });
        let (has_parent, lengths_at) = (flags & HAS_PARENT != 0, magic_bytes + 2);
        Ok(Self { is_cdimg, has_parent, lengths_at, check_at, check, places })
    }

    /// Where the file ends.
    fn end(&self) -> u64 {
        self.places[Section::Data as usize].end
    }
}

/// How many bytes the file has that begins with `head`, of which [`MAX_HEADER_BYTES`] are enough: to refuse what is no such file before all of it
/// is read. Nothing else is checked.
///
/// # Errors
/// It does not begin like a cdimg or dimg.
pub fn announced_bytes(head: &[u8]) -> Result<u64, DimgError> {
    Start::parse(head).map(|start| start.end())
}

impl Header {
    /// Reads the header of the file `bytes`, whole; DOCUMENTS and META have their checksum.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, DimgError> {
        let start = Start::parse(bytes)?;
        if start.end() != bytes.len() as u64 {
            let why = format!("the file has {} bytes, not {}", bytes.len(), start.end());
            return Err(DimgError::corrupt(NAME, start.lengths_at as u64, why));
        }
        let Start { is_cdimg, has_parent, check_at, check, places, .. } = start;
        let header = Self { is_cdimg, has_parent, places };
        let opened = header.place(Section::Documents).start..header.place(Section::Meta).end;
        let opened = slice(bytes, &opened).unwrap_or_default();
        if check != check8(&[&bytes[..check_at], opened].concat()).to_le_bytes() {
            let reason = "the checksum of header, manifest, config and META is wrong";
            return Err(DimgError::corrupt(NAME, check_at as u64, reason));
        }
        Ok(header)
    }

    /// Where a section is in the file.
    pub(crate) fn place(&self, section: Section) -> &Range<u64> {
        &self.places[section as usize]
    }
}

/// Those bytes, if they are there.
pub(crate) fn slice<'a>(bytes: &'a [u8], place: &Range<u64>) -> Option<&'a [u8]> {
    bytes.get(usize::try_from(place.start).ok()?..usize::try_from(place.end).ok()?)
}

/// Header, DOCUMENTS if there are any, META and TABLES: all that stands before DATA.
pub(crate) fn assemble(
    has_parent: bool,
    documents: Option<&[u8]>,
    meta: &[u8],
    tables: &[u8],
    data_bytes: u64,
) -> Vec<u8> {
    let mut out = match documents {
        Some(_) => CDIMG_MAGIC.to_vec(),
        None => DIMG_MAGIC.to_vec(),
    };
    out.push(VERSION.to_le_bytes()[0]);
    out.push(if has_parent { HAS_PARENT } else { 0 });
    let lengths = documents.iter().copied().chain([meta, tables]).map(|part| part.len() as u64);
    lengths.chain([data_bytes]).for_each(|length| put_u64(&mut out, length));
    let documents = documents.unwrap_or_default();
    let check = check8(&[&out, documents, meta].concat());
    out.extend_from_slice(&check.to_le_bytes());
    [&out, documents, meta, tables].concat()
}
