//! Data segments: the memory that they make.
//!
//! Linkers leave out runs of zeros of some length on, so that there may be a hundred thousand segments, each with its address. The form has the
//! memory, zeros included, in *pieces*, the address and length of each first; where in a piece segments ended follows from the zeros.

use super::side::{self, Closer, Opener, Side, What};
use std::ops::Range;

/// Zeros between two segments of a piece, at most.
const MAX_GAP: u64 = 1 << 16;
/// Zeros of all pieces, at most so many times the section.
const MAX_GROWTH: u64 = 4;
/// Pieces, at most.
const MAX_PIECES: usize = 1 << 14;
/// Zeros that separate segments where none do.
const NEVER: u32 = u32::MAX;

/// A range of memory, and where in the form its bytes are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) address: u32,
    pub(crate) start: usize,
    pub(crate) bytes: usize,
}

/// The pieces of data, of which `start` and `end` are those of [`super::Places`]; none where they are damaged.
pub(crate) fn pieces(form: &[u8], (start, end): (usize, usize)) -> Option<Vec<Piece>> {
    let field = |at: usize| super::super::u32_at(form.get(..end)?, at);
    let count = usize::try_from(field(start + 4)?).ok().filter(|count| *count <= MAX_PIECES)?;
    let mut at = start + 8 + 8 * count;
    let mut pieces = Vec::with_capacity(count);
    for number in 0..count {
        let (address, bytes) = (field(start + 8 + 8 * number)?, field(start + 12 + 8 * number)?);
        let bytes = usize::try_from(bytes).ok()?;
        pieces.push(Piece { address, start: at, bytes });
        at = at.checked_add(bytes).filter(|at| *at <= end)?;
    }
    Some(pieces)
}

/// One segment of a section.
struct Segment {
    address: u64,
    bytes: Range<usize>,
}

/// The segments of a section that opens.
pub(super) struct Segments {
    all: Vec<Segment>,
    /// So many zeros separate those of a piece.
    zeros: u32,
    /// The numbers of the segments that each piece begins with.
    firsts: Vec<usize>,
}

impl Segments {
    pub(super) fn parse(section: &[u8]) -> Option<Self> {
        let mut side = Opener::new(section);
        let mut all = Vec::new();
        let count = side.number(What::Other)?.value;
        let mut expected = Vec::new();
        side::put_length(&mut expected, usize::try_from(count).ok()?, 0)?;
        let mut at = 0;
        for _ in 0..count {
            side.bytes(2)?;
            let address = side.number(What::Constant32)?.value & u64::from(u32::MAX);
            side.bytes(1)?;
            let bytes = usize::try_from(side.number(What::Other)?.value).ok()?;
            side.take();
            put_head(&mut expected, address, bytes)?;
            let start = section.len() - side.rest().len();
            if section.get(at..start)? != expected {
                return None;
            }
            expected.clear();
            at = start.checked_add(bytes).filter(|end| *end <= section.len())?;
            all.push(Segment { address, bytes: start..at });
            side.skip(bytes);
        }
        if !side.rest().is_empty() || all.is_empty() {
            return None;
        }
        let zeros = separating(section, &all);
        let mut firsts = Vec::new();
        for (number, segment) in all.iter().enumerate() {
            let gap = number.checked_sub(1).and_then(|before| gap(&all[before], segment));
            if zeros == NEVER || gap.is_none_or(|gap| gap == 0) {
                firsts.push(number);
            }
        }
        let gaps: u64 = match zeros {
            NEVER => 0,
            _ => all.windows(2).filter_map(|pair| gap(&pair[0], &pair[1])).sum(),
        };
        let fits = firsts.len() <= MAX_PIECES && gaps <= MAX_GROWTH * section.len() as u64;
        fits.then_some(Self { all, zeros, firsts })
    }

    /// Writes the form, `put` by `put`.
    pub(super) fn open<E>(
        &self,
        section: &[u8],
        put: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let field = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
        put(&self.zeros.to_le_bytes())?;
        put(&field(self.firsts.len() as u64))?;
        for (place, &first) in self.firsts.iter().enumerate() {
            let end = self.firsts.get(place + 1).copied().unwrap_or(self.all.len());
            let Some(last) = self.all.get(end - 1) else { continue };
            let address = self.all[first].address;
            put(&field(address))?;
            put(&field(last.address + last.bytes.len() as u64 - address))?;
        }
        for (number, segment) in self.all.iter().enumerate() {
            if number > 0 && self.firsts.binary_search(&number).is_err() {
                let gap = gap(&self.all[number - 1], segment).unwrap_or(0);
                put(ZEROS.get(..usize::try_from(gap).unwrap_or(0)).unwrap_or_default())?;
            }
            put(section.get(segment.bytes.clone()).unwrap_or_default())?;
        }
        Ok(())
    }
}

const ZEROS: &[u8; 1 << 16] = &[0; 1 << 16];

/// Bytes between two segments of a piece.
fn gap(before: &Segment, segment: &Segment) -> Option<u64> {
    let end = before.address + before.bytes.len() as u64;
    segment.address.checked_sub(end).filter(|gap| *gap <= MAX_GAP)
}

/// How many zeros separate segments: all runs of so many do, and no shorter ones.
fn separating(section: &[u8], all: &[Segment]) -> u32 {
    let gaps = all.windows(2).filter_map(|pair| gap(&pair[0], &pair[1]));
    let Some(least) = gaps.filter(|gap| *gap > 0).min() else { return NEVER };
    let fits = |segment: &Segment| {
        let bytes = section.get(segment.bytes.clone()).unwrap_or_default();
        let is_zero = |byte: Option<&u8>| byte.is_none_or(|byte| *byte == 0);
        !is_zero(bytes.first())
            && !is_zero(bytes.last())
            && bytes.split(|byte| *byte != 0).all(|zeros| (zeros.len() as u64) < least)
    };
    if all.iter().all(fits) { u32::try_from(least).unwrap_or(NEVER) } else { NEVER }
}

/// From the form to the section.
pub(super) fn close(side: &mut Closer<'_>, limit: usize) -> Option<()> {
    let zeros = side.input_four()?;
    let count = side.input_four().filter(|count| *count <= MAX_PIECES)?;
    let mut heads = Vec::with_capacity(count);
    for _ in 0..count {
        heads.push((u64::try_from(side.input_four()?).ok()?, side.input_four()?));
    }
    let (mut segments, mut number) = (Closer::new(&[], limit), 0);
    for (address, bytes) in heads {
        let piece = side.input_bytes(bytes)?;
        let mut start = 0;
        while let Some((end, next)) = segment_end(piece, start, zeros) {
            put_segment(address + start as u64, piece.get(start..end)?, &mut segments)?;
            number += 1;
            start = next;
        }
        put_segment(address + start as u64, piece.get(start..)?, &mut segments)?;
        number += 1;
    }
    let mut head = Vec::new();
    side::put_length(&mut head, number, 0)?;
    side.put(&head)?;
    side.put(&segments.take())
}

/// Where the segment that begins at `start` ends and the next one begins; none for the last one.
fn segment_end(piece: &[u8], start: usize, zeros: usize) -> Option<(usize, usize)> {
    let mut at = start;
    loop {
        let end = at + piece.get(at..)?.iter().position(|byte| *byte == 0)?;
        at = end + piece.get(end..)?.iter().position(|byte| *byte != 0)?;
        if at - end >= zeros.max(1) {
            return Some((end, at));
        }
    }
}

fn put_segment(address: u64, bytes: &[u8], out: &mut Closer<'_>) -> Option<()> {
    let mut head = Vec::new();
    put_head(&mut head, address, bytes.len())?;
    out.put(&head)?;
    out.put(bytes)
}

/// What stands before a segment of so many bytes.
fn put_head(out: &mut Vec<u8>, address: u64, bytes: usize) -> Option<()> {
    out.extend_from_slice(&[0, 0x41]);
    side::put_signed(out, u32::try_from(address & u64::from(u32::MAX)).ok()?.cast_signed())?;
    out.push(0x0b);
    side::put_length(out, bytes, 0)
}
