//! Fills: what of the old file a relocated patch does not need.
//!
//! Whoever merges two patches has no file, and cannot tell which bytes in between the second patch never looks at: it copies none of
//! some, but finds fields by them. Who makes the second patch can. A *fill* is a program that puts in the place of the longest ranges of
//! data that are not copied a part of the file that the patch leaves as it is, and so did the one before, likely. Behind the program that
//! makes the file, it takes out what that program would have to tell of those ranges. It is tried: the file so filled is relocated, and
//! wherever the patch copies from the same has to come out.

use super::Version;
use super::derive::Relocated;
use super::relocate::relocate_on;
use super::scan::Scan;
use super::tables::RegionKind;
use super::vote;
use crate::engine::EngineError;
use crate::engine::program::{Builder, Program, Run, RunReader};
use d4c_sys::Map;
use std::cmp::Reverse;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;

/// Programs below this length, not compressed, have no fill: it would be more than a little beside them.
const MIN_PROGRAM_BYTES: u64 = if cfg!(test) { 1 << 10 } else { 256 << 10 };
/// Shorter ranges stay as they are,
const MIN_RANGE_BYTES: usize = if cfg!(test) { 1 << 10 } else { 16 << 10 };
/// so do those beyond the longest so many,
const MAX_RANGES: usize = 8;
/// and all if they are less than this part of the file together: trying takes as long as relocating it once more.
const MIN_PART: usize = 1 << 10;
/// A fill is at most this part of the program, neither compressed.
const MAX_PART: u64 = if cfg!(test) { 4 } else { 1 << 11 };
/// Ranges start and end at multiples of this, as addresses in data do.
const ALIGN: usize = 8;

/// Finds the fill for a patch of a file that was looked through. `moved` is the file relocated by the patch's map.
///
/// # Errors
/// [`EngineError::Output`] when there is no scratch file or it cannot be written.
pub(super) fn find(
    scan: &Scan<'_>,
    patch: &Relocated,
    moved: &[u8],
    threads: usize,
    scratch: &dyn Fn() -> io::Result<File>,
) -> Result<Option<Program>, EngineError> {
    let old = scan.image.bytes;
    if patch.program.raw_bytes() < MIN_PROGRAM_BYTES {
        return Ok(None);
    }
    let copied: Vec<_> = vote::copies(&patch.program)?
        .into_iter()
        .map(|copied| copied.old..copied.old.saturating_add(copied.bytes))
        .collect();
    let Some(quiet) = quiet(&patch.program, &copied)? else { return Ok(None) };
    let ranges = ranges(scan, copied.clone());
    if quiet.len() < MIN_RANGE_BYTES || ranges.iter().map(Range::len).sum::<usize>() < old.len() / MIN_PART {
        return Ok(None);
    }
    let pieces = pieces(old.len(), &ranges, &quiet);
    let mut builder = Builder::new();
    for piece in &pieces {
        builder.copy(piece.start as u64, piece.len() as u64);
    }
    let fill = builder.finish();
    if fill.raw_bytes() > patch.program.raw_bytes() / MAX_PART {
        return Ok(None);
    }
    let mut writer = BufWriter::new(scratch().map_err(EngineError::Output)?);
    for piece in pieces {
        writer.write_all(old.get(piece).unwrap_or_default()).map_err(EngineError::Output)?;
    }
    let file = writer.into_inner().map_err(|error| EngineError::Output(error.into_error()))?;
    let filled = Map::file(&file).map_err(EngineError::Output)?;
    let mut same = Same { moved, unused: gaps(copied, old.len()), next: 0, at: 0, same: true };
    match relocate_on(&filled, &patch.map, Version::LAST, threads, &mut same) {
        Err(error) if same.same => Err(EngineError::Output(error)),
        _ => Ok(same.same.then_some(fill)),
    }
}

/// The longest part that the program copies as it is.
fn quiet(program: &Program, copied: &[Range<usize>]) -> Result<Option<Range<usize>>, EngineError> {
    let (mut streams, mut runs) = (program.readers(), RunReader::default());
    let mut longest: Option<Range<usize>> = None;
    for copied in copied {
        let mut at = copied.start;
        while at < copied.end {
            let (count, same) = match runs.next(&mut streams, (copied.end - at) as u64)? {
                Run::Zero(count) => (count, true),
                Run::Nonzero(count) => (count, false),
            };
            // At most as much as was asked for.
            let end = at + usize::try_from(count).unwrap_or(usize::MAX);
            if same && longest.as_ref().is_none_or(|longest| longest.len() < end - at) {
                longest = Some(at..end);
            }
            at = end;
        }
    }
    Ok(longest)
}

/// The longest ranges of data, or of what no field is looked for in, that are not copied, by offset.
fn ranges(scan: &Scan<'_>, mut taken: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let old = scan.image.bytes;
    let kept = scan.regions().iter().filter(|region| region.kind != RegionKind::Data);
    taken.extend(kept.map(|region| region.start..region.end));
    let mut ranges: Vec<_> = gaps(taken, old.len())
        .into_iter()
        .map(|gap| gap.start.next_multiple_of(ALIGN)..gap.end / ALIGN * ALIGN)
        .filter(|range| range.start < range.end && range.len() >= MIN_RANGE_BYTES)
        // Padding: nobody has anything to tell of it.
        .filter(|range| old[range.clone()].windows(2).any(|pair| pair[0] != pair[1]))
        .collect();
    ranges.sort_by_key(|range| Reverse(range.len()));
    ranges.truncate(MAX_RANGES);
    ranges.sort_by_key(|range| range.start);
    ranges
}

/// What none of the `taken` has of so many bytes.
fn gaps(mut taken: Vec<Range<usize>>, bytes: usize) -> Vec<Range<usize>> {
    taken.sort_by_key(|range| range.start);
    let (mut gaps, mut at) = (Vec::new(), 0);
    for range in taken.into_iter().chain(std::iter::once(bytes..bytes)) {
        if range.start > at {
            gaps.push(at..range.start);
        }
        at = at.max(range.end);
    }
    gaps
}

/// What a file of so many bytes is put together from, its `ranges` from the `quiet` part.
fn pieces(bytes: usize, ranges: &[Range<usize>], quiet: &Range<usize>) -> Vec<Range<usize>> {
    let (mut pieces, mut at) = (Vec::new(), 0);
    for range in ranges {
        pieces.push(at..range.start);
        at = range.start;
        while at < range.end {
            let count = quiet.len().min(range.end - at);
            pieces.push(quiet.start..quiet.start + count);
            at += count;
        }
    }
    pieces.push(at..bytes);
    pieces
}

/// Compares what is written with the relocated file, but for what is not used of that.
struct Same<'m> {
    moved: &'m [u8],
    /// By offset.
    unused: Vec<Range<usize>>,
    /// The first of them that does not end before `at`.
    next: usize,
    at: usize,
    same: bool,
}

impl Write for Same<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (start, end) = (self.at, self.at + bytes.len());
        while self.at < end {
            let unused = self.unused.get(self.next).cloned().unwrap_or(usize::MAX..usize::MAX);
            let stop = unused.start.clamp(self.at, end);
            if self.moved.get(self.at..stop) != bytes.get(self.at - start..stop - start) {
                self.same = false;
                return Err(io::Error::other("another byte"));
            }
            self.at = unused.end.clamp(stop, end);
            if unused.end <= end {
                self.next += 1;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::tests::noise;
    use crate::engine::elf::sample::Sample;
    use crate::engine::elf::{derive, look, relocate};
    use crate::engine::matcher::MatchOptions;
    use crate::engine::program::apply;

    fn run(program: &Program, old: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        apply(&mut program.readers(), program.ops, old, program.out_bytes, &mut out).unwrap();
        out
    }

    #[test]
    fn what_is_filled_makes_the_same() {
        let content = |longer, seed| {
            let sample = Sample { functions: 1000, longer, fixed: true, ..Sample::default() }.build();
            [sample, noise(1, 10_000), noise(seed, 20_000)].concat()
        };
        let (old, new) = (content(usize::MAX, 2), content(17, 3));
        let options = MatchOptions::default();
        let seen = look(&old, &new, &options).unwrap();
        let patch = derive(&old, &new, &seen, 2, &options, &tempfile::tempfile).unwrap().unwrap();
        let fill = patch.fill.unwrap();
        let filled = run(&fill, &old);
        assert!(filled.len() == old.len());
        let changed = filled.iter().zip(&old).filter(|(one, other)| one != other).count();
        assert!(changed > 15_000, "{changed}");
        let mut moved = Vec::new();
        relocate(&filled, &patch.map, Version::LAST, &mut moved).unwrap();
        assert!(run(&patch.program, &moved) == new);
    }

    #[test]
    fn a_byte_that_is_used_has_to_be_the_same() {
        let moved = noise(1, 1000);
        let unused = gaps(vec![0..100, 50..300, 310..500, 700..990], 1000);
        assert_eq!(unused, [300..310, 500..700, 990..1000]);
        for at in 0..1000 {
            let mut other = moved.clone();
            other[at] ^= 1;
            for part in [7, 64, 1000] {
                let mut same = Same { moved: &moved, unused: unused.clone(), next: 0, at: 0, same: true };
                let written = other.chunks(part).try_for_each(|part| same.write_all(part));
                assert_eq!(written.is_ok(), unused.iter().any(|gap| gap.contains(&at)), "{at}");
                assert_eq!(written.is_ok(), same.same);
            }
        }
    }

    #[test]
    fn ranges_are_put_together_from_what_stays() {
        assert_eq!(
            pieces(100, &[10..45, 60..70], &(80..95)),
            [0..10, 80..95, 80..95, 80..85, 45..60, 80..90, 70..100]
        );
        assert!(pieces(100, &[], &(0..5)).iter().eq([&(0..100)]));
    }
}
