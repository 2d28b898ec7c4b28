//! Reads one member's headers: what they mean to Go's `archive/tar`, and so to containerd.
//!
//! Nothing here knows styles; [`Member::blocks`] and [`Member::records`] keep what deriving one needs.

use std::collections::HashSet;
use std::ops::Range;

use dimg::Digest;
use dimg::index::{Content, Entry, Kind};
use dimg::limits::{MAX_NAME_BYTES, MAX_PAX_RECORDS, MAX_PAX_VALUE_BYTES, MAX_RAW_HEADER_BYTES};

use super::block::{BLOCK, Fields, Flavour, number, text};
use super::error::TarError;
use super::overrides::{Overrides, SparseRecords};
use super::pax::{self, Record};
use super::sparse::{self, take};

/// Bytes that Go's `archive/tar` reads of an extension header's data.
const MAX_EXTENSION_BYTES: usize = 1 << 20;
/// Extension headers before one member that a style can describe.
pub const MAX_PREFIXES: usize = 4;

/// A header block and the data that belongs to it.
#[derive(Debug, Clone)]
pub struct Block {
    /// Offset of the block.
    pub at: usize,
    /// Data of an extension header, without padding; empty for the member's own block.
    pub body: Range<usize>,
}

/// A member as its headers have it.
#[derive(Debug)]
pub struct Member<'t> {
    pub kind: Kind,
    /// All but shape, pax values and raw headers; the content's digest is still to be made.
    pub entry: Entry,
    /// Whether the member has a map of data runs.
    pub sparse: bool,
    /// Offset of the first header block.
    pub start: usize,
    /// Offset after the header blocks, where the data begins.
    pub data_at: usize,
    /// Bytes of data in the tar, without padding.
    pub data_bytes: u64,
    /// Extension headers, then the member's own.
    pub blocks: Vec<Block>,
    /// Pax records of the last extension header that has any, as written.
    pub records: Vec<Record<'t>>,
    /// Whether a style may be able to say how the headers are written.
    pub plain: bool,
}

/// Reads the headers at `start`, which is in the tar and not a block of zeros. That the data is there is not checked.
pub fn read(tar: &[u8], start: usize) -> Result<Member<'_>, TarError> {
    let mut headers =
        Headers { start, blocks: Vec::new(), records: Vec::new(), name: &[], link: &[], plain: true };
    let mut at = start;
    loop {
        let block = take(tar, at, BLOCK, "header")?;
        let fields = Fields::read(block).map_err(|why| TarError::header(at, why))?;
        if !matches!(fields.flag, b'x' | b'L' | b'K') {
            headers.plain &= headers.blocks.len() <= MAX_PREFIXES;
            headers.blocks.push(Block { at, body: at + BLOCK..at + BLOCK });
            return headers.finish(tar, at, fields);
        }
        let size = usize::try_from(fields.size).map_err(|_| TarError::header(at, "size is negative"))?;
        if size > MAX_EXTENSION_BYTES {
            return Err(TarError::limit(at, "extension header", MAX_EXTENSION_BYTES as u64));
        }
        let body = take(tar, at + BLOCK, size, "extension header")?;
        match fields.flag {
            b'x' => {
                headers.plain &= headers.records.is_empty();
                headers.records = pax::records(body).map_err(|why| TarError::header(at, why))?;
            }
            b'L' => headers.name = text(body),
            _ => headers.link = text(body),
        }
        headers.blocks.push(Block { at, body: at + BLOCK..at + BLOCK + size });
        at += BLOCK + size.next_multiple_of(BLOCK);
        if at - start > MAX_RAW_HEADER_BYTES {
            return Err(TarError::limit(start, "headers of one member", MAX_RAW_HEADER_BYTES as u64));
        }
    }
}

/// What stands before a member's own header.
struct Headers<'t> {
    start: usize,
    blocks: Vec<Block>,
    records: Vec<Record<'t>>,
    name: &'t [u8],
    link: &'t [u8],
    plain: bool,
}

impl<'t> Headers<'t> {
    /// Puts together the member whose own header is at `at`.
    fn finish(mut self, tar: &'t [u8], at: usize, mut fields: Fields) -> Result<Member<'t>, TarError> {
        let bad = |why| TarError::header(at, why);
        let global = fields.flag == b'g';
        if global {
            // A global header is one of its own: nothing before it counts, and it does not count for what follows.
            self.plain &= self.blocks.len() == 1;
            self.records.clear();
        }
        self.check_records()?;
        let overrides = Overrides::read(&self.records).map_err(|why| TarError::header(self.start, why))?;
        let (mtime, mtime_nsec) = overrides.mtime.unwrap_or((fields.mtime, 0));
        if !global {
            overrides.apply(&mut fields);
            for (field, long) in [(&mut fields.name, self.name), (&mut fields.link, self.link)] {
                if !long.is_empty() {
                    *field = long.to_vec();
                }
            }
        }

        let kind = kind(&fields);
        let bare = !matches!(kind, Kind::Regular | Kind::Other(_));
        let physical =
            if bare { 0 } else { u64::try_from(fields.size).map_err(|_| bad("size is negative"))? };
        if global {
            check_global(tar, at, physical)?;
        }
        let map = sparse_map(tar, at, &mut fields, &overrides.sparse, physical)?;
        let sparse = map.is_some();
        let map = map.unwrap_or(sparse::Map { extents: Vec::new(), end: at + BLOCK });
        if sparse && bare {
            return Err(bad("sparse map of a member without data"));
        }
        // A negative size of a member without data means nothing and is kept raw only.
        self.plain &= !sparse && fields.size >= 0;
        let size = match u64::try_from(fields.size) {
            Ok(size) => size,
            Err(_) if bare => 0,
            Err(_) => return Err(bad("size is negative")),
        };
        let mut data_bytes = physical;
        if sparse {
            data_bytes = sparse::data_bytes(at, &map.extents, size)?;
            let in_data = if fields.flag == b'S' { 0 } else { (map.end - at - BLOCK) as u64 };
            if physical.checked_sub(in_data) != Some(data_bytes) {
                return Err(bad("sparse map does not fit the member's size"));
            }
        }
        if [&fields.name, &fields.link, &fields.uname, &fields.gname].iter().any(|n| n.len() > MAX_NAME_BYTES)
        {
            return Err(TarError::limit(self.start, "name", MAX_NAME_BYTES as u64));
        }
        if map.end - self.start > MAX_RAW_HEADER_BYTES {
            return Err(TarError::limit(self.start, "headers of one member", MAX_RAW_HEADER_BYTES as u64));
        }

        let mode = u32::try_from(fields.mode & 0xffff_ffff).unwrap_or_default();
        self.plain &= i64::from(mode) == fields.mode && !repeats_xattr(&self.records);
        let has_content = kind == Kind::Regular || matches!(kind, Kind::Other(_)) && size > 0;
        let entry = Entry {
            shape: 0,
            path: fields.name.into(),
            mode,
            uid: fields.uid.cast_unsigned(),
            gid: fields.gid.cast_unsigned(),
            uname: fields.uname.into(),
            gname: fields.gname.into(),
            mtime,
            mtime_nsec,
            dev_major: fields.major.cast_unsigned(),
            dev_minor: fields.minor.cast_unsigned(),
            link: fields.link.into(),
            pax: Box::default(),
            content: has_content.then_some(Content { digest: Digest([0; 32]), size }),
            bare_size: if has_content { 0 } else { size },
            sparse: map.extents.into(),
            raw: Box::default(),
        };
        let Self { start, blocks, records, plain, .. } = self;
        Ok(Member { kind, entry, sparse, start, data_at: map.end, data_bytes, blocks, records, plain })
    }

    fn check_records(&self) -> Result<(), TarError> {
        if self.records.len() > MAX_PAX_RECORDS {
            return Err(TarError::limit(self.start, "number of pax records", MAX_PAX_RECORDS as u64));
        }
        if self.records.iter().any(|record| record.key.len().max(record.value.len()) > MAX_PAX_VALUE_BYTES) {
            return Err(TarError::limit(self.start, "pax record", MAX_PAX_VALUE_BYTES as u64));
        }
        Ok(())
    }
}

fn check_global(tar: &[u8], at: usize, size: u64) -> Result<(), TarError> {
    let body = usize::try_from(size).ok().filter(|&size| size <= MAX_EXTENSION_BYTES);
    let body = body.ok_or_else(|| TarError::limit(at, "extension header", MAX_EXTENSION_BYTES as u64))?;
    // Headers that are read without the data that follows them (when an index is checked) have been seen with it.
    if let Some(body) = tar.get(at + BLOCK..at + BLOCK + body) {
        pax::records(body).map_err(|why| TarError::header(at, why))?;
    }
    Ok(())
}

fn kind(fields: &Fields) -> Kind {
    match fields.flag {
        0 if fields.name.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'S' => Kind::Regular,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        flag => Kind::Other(flag),
    }
}

/// The map of a sparse member, if it is one; sets the name and the size that the map goes with.
fn sparse_map(
    tar: &[u8],
    at: usize,
    fields: &mut Fields,
    records: &SparseRecords<'_>,
    physical: u64,
) -> Result<Option<sparse::Map>, TarError> {
    let bad = |why| TarError::header(at, why);
    if fields.flag == b'S' {
        let block = &tar[at..at + BLOCK];
        if Flavour::of(block) != Flavour::Gnu {
            return Err(bad("sparse member of another kind than GNU's"));
        }
        fields.size = number(&block[483..495]).ok_or_else(|| bad("sparse member's size is not a number"))?;
        return sparse::old(tar, at).map(Some);
    }
    let before_data = match (records.major, records.minor) {
        (b"0", b"0" | b"1") => false,
        (b"1", b"0") => true,
        ([], []) if !records.map.is_empty() => false,
        _ => return Ok(None),
    };
    if !records.name.is_empty() {
        fields.name = records.name.to_vec();
    }
    let size = if records.size.is_empty() { records.real_size } else { records.size };
    if !size.is_empty() {
        fields.size = pax::integer(size).ok_or_else(|| bad("sparse member's size is not a number"))?;
    }
    if before_data {
        let physical = usize::try_from(physical).map_err(|_| bad("size exceeds memory"))?;
        return sparse::before_data(tar, at + BLOCK, physical).map(Some);
    }
    let extents = sparse::in_records(at, &records.map, records.blocks)?;
    Ok(Some(sparse::Map { extents, end: at + BLOCK }))
}

/// Whether two records give the same extended attribute: a reader of the entry is to see just the last.
fn repeats_xattr(records: &[Record<'_>]) -> bool {
    let mut seen = HashSet::new();
    records.iter().filter(|record| is_xattr(record.key)).any(|record| !seen.insert(record.key))
}

/// Whether a record with this key is an extended attribute that containerd sets.
pub fn is_xattr(key: &[u8]) -> bool {
    key.starts_with(b"SCHILY.xattr.")
}

impl<'t> Member<'t> {
    /// Extended attributes; of those with the same name the last.
    pub fn xattrs(&self) -> Vec<Record<'t>> {
        let mut seen = HashSet::new();
        let last = self.records.iter().rev().filter(|record| is_xattr(record.key) && seen.insert(record.key));
        let mut xattrs: Vec<_> = last.copied().collect();
        xattrs.reverse();
        xattrs
    }
}
