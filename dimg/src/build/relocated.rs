//! Patches between ELF files: plain, or on the base with its addresses moved.

use super::encode::{self, Way};
use super::names::Candidate;
use super::{BuildOptions, Codec};
use crate::engine::compress::Level;
use crate::engine::elf::AddressMap;
use crate::engine::frame::{ProgramFrame, RelocationFrame};
use crate::engine::matcher::MatchOptions;
use crate::engine::program::{Program, StreamKind};
use crate::engine::{EngineError, elf};
use crate::index::edit::Place;

/// A relocated patch this many times smaller than the plain one, both raw, is not held against it.
const CLEARLY_SMALLER: u64 = 3;
/// Plain programs below this are as good as any.
const SMALL_RAW_BYTES: u64 = 512;

/// The memory that relocating `base` takes.
pub(super) fn memory(base: &Candidate, options: &BuildOptions) -> u64 {
    match options.codec {
        Codec::Auto => elf::memory(base.content.size),
        _ => 0,
    }
}

/// The smaller of the plain program and a relocated patch, where one can be made.
pub(super) fn smallest(
    place: Place,
    old: &[u8],
    new: &[u8],
    plain: Program,
    matching: &MatchOptions,
    options: &BuildOptions,
) -> Result<Way, EngineError> {
    let level = options.level;
    if options.codec != Codec::Auto || plain.raw_bytes() < SMALL_RAW_BYTES || !elf::fits(old, new) {
        return encode::program(place, None, plain, level);
    }
    let passes = if level == Level::Best { 3 } else { 2 };
    let scratch = || tempfile::tempfile_in(&options.dir);
    let Some(relocated) = elf::derive(old, new, &plain, passes, matching, &scratch)? else {
        return encode::program(place, None, plain, level);
    };
    // What does not compress well.
    let weight = |program: &Program| {
        [StreamKind::ZeroRuns, StreamKind::Nonzero, StreamKind::Inserted]
            .map(|kind| program.stream(kind).len() as u64)
            .iter()
            .sum::<u64>()
    };
    let segments = 4 * relocated.map.segments() as u64;
    let clear = (weight(&relocated.program) + segments) * CLEARLY_SMALLER <= weight(&plain);
    let map = Some(Box::new(relocated.map));
    // Compressing both is most of the time that a patch takes; which one is smaller the fast level tells nearly as well.
    if clear
        || level == Level::Default
            && fast_bytes(map.as_deref(), &relocated.program)? < fast_bytes(None, &plain)?
    {
        return encode::program(place, map, relocated.program, level);
    }
    let plain = encode::program(place, None, plain, level)?;
    if level == Level::Default {
        return Ok(plain);
    }
    let moved = encode::program(place, map, relocated.program, level)?;
    Ok(if moved.bytes < plain.bytes { moved } else { plain })
}

/// What the fast level makes of a patch.
fn fast_bytes(map: Option<&AddressMap>, program: &Program) -> Result<usize, EngineError> {
    let map = map.map(|map| RelocationFrame::encode(&[map], Level::Fast)).transpose()?;
    Ok(map.map_or(0, |map| map.len()) + ProgramFrame::encode(&[program], Level::Fast)?.len())
}
