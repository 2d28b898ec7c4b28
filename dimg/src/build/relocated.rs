//! Patches between ELF files or class data archives: plain, or on the base with its addresses moved.

use super::encode::{self, Moved, Way};
use super::names::Candidate;
use super::{BuildOptions, Codec};
use crate::engine::compress::Level;
use crate::engine::elf::AddressMap;
use crate::engine::elf::Relocated;
use crate::engine::frame::{ProgramFrame, RelocationFrame};
use crate::engine::matcher::{MatchOptions, diff};
use crate::engine::program::{Program, StreamKind};
use crate::engine::{EngineError, elf};
use crate::index::edit::Place;
use std::fs::File;
use std::io;

/// A relocated patch this many times smaller than the plain one, both raw, is not held against it.
const CLEARLY_SMALLER: u64 = 3;
/// What the full look leaves of a program that the coarse one found, at least.
const COARSE_PART: (usize, usize) = (2, 3);
/// Plain programs below this are as good as any.
const SMALL_RAW_BYTES: u64 = 512;

/// At the fast level, files of which no more bytes differ are not relocated.
const STAYING_BYTES: usize = 512;

/// The memory that relocating `base` takes.
pub(super) fn memory(base: &Candidate, options: &BuildOptions) -> u64 {
    match options.codec {
        Codec::Auto => elf::memory(base.content.size, &encode::match_options(options, 1)),
        _ => 0,
    }
}

/// The smaller of the plain program and a relocated patch, where one can be made.
pub(super) fn smallest(
    place: Place,
    old: &[u8],
    new: &[u8],
    matching: &MatchOptions,
    options: &BuildOptions,
) -> Result<Way, EngineError> {
    let (level, threads) = (options.level, matching.threads);
    if level == Level::Fast {
        return quick(place, old, new, matching, options);
    }
    let full = || diff(old, new, matching);
    if options.codec != Codec::Auto || !elf::fits(old, new) {
        return encode::program(place, None, full(), level, threads);
    }
    // What moved where is seen as well at a coarser look; most often the plain program is not needed for more.
    let seen = elf::look(old, new, matching)?;
    let Some(coarse) = seen.first().map(|seen| &seen.program) else {
        return encode::program(place, None, full(), level, threads);
    };
    if coarse.raw_bytes() < SMALL_RAW_BYTES {
        return encode::program(place, None, full(), level, threads);
    }
    let passes = if level == Level::Best { 3 } else { 2 };
    let scratch = scratch(options);
    let Some(relocated) = elf::derive(old, new, &seen, passes, matching, &scratch)? else {
        return encode::program(place, None, full(), level, threads);
    };
    let is_clear = moved_weight(&relocated) * CLEARLY_SMALLER <= weight(coarse);
    let Relocated { map, version, program, fill } = relocated;
    let mut moved = Some(Box::new(Moved { map, version, fill, is_clear }));
    if is_clear {
        return encode::program(place, moved, program, level, threads);
    }
    // Compressing both is most of the time that a patch takes; which one is smaller the fast level tells nearly as well.
    let moved_bytes = match level {
        Level::Best => usize::MAX,
        _ => fast_bytes(moved.as_deref().map(|moved| &moved.map), &program)?,
    };
    if moved_bytes < fast_bytes(None, coarse)? / COARSE_PART.1 * COARSE_PART.0 {
        moved.iter_mut().for_each(|moved| moved.is_clear = true);
        return encode::program(place, moved, program, level, threads);
    }
    drop(seen);
    let plain = full();
    if moved_bytes < fast_bytes(None, &plain)? {
        return encode::program(place, moved, program, level, threads);
    }
    let plain = encode::program(place, None, plain, level, threads)?;
    if level != Level::Best {
        return Ok(plain);
    }
    let relocated = encode::program(place, moved, program, level, threads)?;
    Ok(if relocated.bytes < plain.bytes { relocated } else { plain })
}

/// As [`smallest`] at the fast level: where most stays where it was a plain program, else a relocated patch if addresses moved.
fn quick(
    place: Place,
    old: &[u8],
    new: &[u8],
    matching: &MatchOptions,
    options: &BuildOptions,
) -> Result<Way, EngineError> {
    let (level, threads) = (options.level, matching.threads);
    if options.codec == Codec::Auto && elf::fits(old, new) && !stays(old, new) {
        let relocated = elf::derive_quick(old, new, matching, &scratch(options))?;
        if let Some(relocated) = relocated {
            let Relocated { map, version, program, fill } = relocated;
            let moved = Some(Box::new(Moved { map, version, fill, is_clear: false }));
            return encode::program(place, moved, program, level, threads);
        }
    }
    encode::program(place, None, diff(old, new, matching), level, threads)
}

/// Whether no more than a few bytes differ, all others being where they were.
fn stays(old: &[u8], new: &[u8]) -> bool {
    let mut unequal = old.len().abs_diff(new.len());
    for (old, new) in old.chunks(256).zip(new.chunks(256)) {
        if old != new {
            unequal += old.iter().zip(new).filter(|(old, new)| old != new).count();
            if unequal > STAYING_BYTES {
                return false;
            }
        }
    }
    unequal <= STAYING_BYTES
}

/// Gives files without a name.
fn scratch(options: &BuildOptions) -> impl Fn() -> io::Result<File> {
    || tempfile::tempfile_in(&options.dir)
}

/// What of a program does not compress well.
fn weight(program: &Program) -> u64 {
    let bytes = |kind| program.stream(kind).len() as u64;
    [StreamKind::ZeroRuns, StreamKind::Nonzero, StreamKind::Inserted].map(bytes).iter().sum()
}

/// The same of a relocated patch.
fn moved_weight(relocated: &Relocated) -> u64 {
    weight(&relocated.program) + 4 * relocated.map.segments() as u64
}

/// What the fast level makes of a patch.
fn fast_bytes(map: Option<&AddressMap>, program: &Program) -> Result<usize, EngineError> {
    let map = map.map(|map| RelocationFrame::encode(&[map], Level::Fast)).transpose()?;
    Ok(map.map_or(0, |map| map.len()) + ProgramFrame::encode(&[program], Level::Fast)?.len())
}
