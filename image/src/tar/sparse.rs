//! Maps of sparse members: GNU's old form in header blocks, and its three pax forms.

use dimg::index::Extent;
use dimg::limits::MAX_SPARSE_EXTENTS;

use super::block::{BLOCK, number};
use super::error::TarError;
use super::pax::integer;

/// Bytes that Go's `archive/tar` reads of a map.
const MAX_MAP_BYTES: usize = 1 << 20;

/// A map and where it ends.
pub struct Map {
    pub extents: Vec<Extent>,
    /// Offset in the tar of the byte after the blocks that hold the map.
    pub end: usize,
}

/// Reads the map of the old GNU sparse header at `at`, and that of its extension blocks.
pub fn old(tar: &[u8], at: usize) -> Result<Map, TarError> {
    let mut extents = Vec::new();
    let mut end = at + BLOCK;
    let (mut slots, mut more) = (&tar[at + 386..at + 482], tar[at + 482]);
    loop {
        for slot in slots.chunks_exact(24).take_while(|slot| slot[0] != 0) {
            let bad = || TarError::header(end - BLOCK, "sparse map is not made of numbers");
            let offset = number(&slot[..12]).ok_or_else(bad)?;
            let bytes = number(&slot[12..]).ok_or_else(bad)?;
            push(&mut extents, end - BLOCK, offset, bytes)?;
        }
        if more == 0 {
            return Ok(Map { extents, end });
        }
        if end - at > MAX_MAP_BYTES {
            return Err(TarError::limit(at, "sparse map", MAX_MAP_BYTES as u64));
        }
        let block = take(tar, end, BLOCK, "sparse map")?;
        end += BLOCK;
        (slots, more) = (&block[..504], block[504]);
    }
}

/// Reads the map at the front of a version 1.0 member's data: decimal numbers, one a line, then padding.
pub fn before_data(tar: &[u8], at: usize, data_bytes: usize) -> Result<Map, TarError> {
    let there = tar.get(at..).unwrap_or_default();
    let data = &there[..there.len().min(data_bytes).min(MAX_MAP_BYTES)];
    let mut used = 0;
    let mut next = || {
        let length = data[used..].iter().position(|&byte| byte == b'\n');
        let length = length.ok_or_else(|| TarError::header(at, "sparse map is cut short or too long"))?;
        let line = &data[used..used + length];
        used += length + 1;
        integer(line).ok_or_else(|| TarError::header(at, "sparse map is not made of numbers"))
    };
    let count = next()?;
    if count < 0 {
        return Err(TarError::header(at, "sparse map has a negative length"));
    }
    let mut extents = Vec::new();
    for _ in 0..count {
        let (offset, bytes) = (next()?, next()?);
        push(&mut extents, at, offset, bytes)?;
    }
    let map_bytes = used.next_multiple_of(BLOCK);
    if map_bytes > data_bytes {
        return Err(TarError::header(at, "sparse map is longer than the member"));
    }
    take(tar, at, map_bytes, "sparse map")?;
    Ok(Map { extents, end: at + map_bytes })
}

/// Reads the map of versions 0.0 and 0.1: numbers between commas, and how many pairs there are to be.
pub fn in_records(at: usize, map: &[u8], count: &[u8]) -> Result<Vec<Extent>, TarError> {
    let bad = || TarError::header(at, "sparse map of the pax records is malformed");
    let count = integer(count).and_then(|count| usize::try_from(count).ok()).ok_or_else(bad)?;
    let numbers: Vec<&[u8]> =
        if map.is_empty() { Vec::new() } else { map.split(|&byte| byte == b',').collect() };
    if Some(numbers.len()) != count.checked_mul(2) {
        return Err(bad());
    }
    let mut extents = Vec::new();
    for pair in numbers.chunks_exact(2) {
        let (Some(offset), Some(bytes)) = (integer(pair[0]), integer(pair[1])) else { return Err(bad()) };
        push(&mut extents, at, offset, bytes)?;
    }
    Ok(extents)
}

fn push(extents: &mut Vec<Extent>, at: usize, offset: i64, bytes: i64) -> Result<(), TarError> {
    if extents.len() >= MAX_SPARSE_EXTENTS {
        return Err(TarError::limit(at, "number of a sparse member's extents", MAX_SPARSE_EXTENTS as u64));
    }
    let (Ok(offset), Ok(bytes)) = (u64::try_from(offset), u64::try_from(bytes)) else {
        return Err(TarError::header(at, "sparse map has a negative number"));
    };
    extents.push(Extent { offset, bytes });
    Ok(())
}

/// Checks that the extents ascend within a file of `size` bytes, and sums them.
pub fn data_bytes(at: usize, extents: &[Extent], size: u64) -> Result<u64, TarError> {
    let mut before = 0;
    let mut sum = 0;
    for extent in extents {
        let end = extent.offset.checked_add(extent.bytes).filter(|&end| end <= size);
        let Some(end) = end.filter(|_| extent.offset >= before) else {
            return Err(TarError::header(at, "sparse map does not ascend within the file"));
        };
        before = end;
        sum += extent.bytes;
    }
    Ok(sum)
}

/// `count` bytes of the tar at `at`.
pub fn take<'t>(tar: &'t [u8], at: usize, count: usize, what: &'static str) -> Result<&'t [u8], TarError> {
    at.checked_add(count).and_then(|end| tar.get(at..end)).ok_or_else(|| TarError::CutShort {
        offset: at as u64,
        what,
        wanted: count as u64,
        left: tar.len().saturating_sub(at) as u64,
    })
}
