//! Relocated patches: passes of matching, voting and relocating.

use super::fill;
use super::image::Image;
use super::relocate::relocate_scanned;
use super::rough;
use super::scan::Scan;
use super::vote::{self, vote};
use super::{AddressMap, Version};
use crate::engine::EngineError;
use crate::engine::matcher::{MatchOptions, diff, diff_hinted};
use crate::engine::program::{Program, StreamKind};
use d4c_sys::Map;
use std::fs::File;
use std::io;

/// Files below this length gain nothing that would pay for a map.
const MIN_BYTES: usize = 4 << 10;

/// A program that inserts more than this part of the file is looked for with care in all passes: a coarse first pass made uv's
/// patch 1.5 % larger, scientific wheels' 2.5 %, and those of others neither larger nor smaller.
const ROUGH_PART: usize = 64;

/// A patch of two stages.
#[derive(Clone, Debug)]
pub struct Relocated {
    /// Moves the addresses of the old file.
    pub map: AddressMap,
    /// Makes the new file from the old one so moved.
    pub program: Program,
    /// Makes of the old file one that the map and the program make the same of, see [`fill`](super::fill); none where that gains nothing.
    pub fill: Option<Program>,
}

/// Whether both are ELF files for the same machine that this codec understands.
#[must_use]
pub fn fits(old: &[u8], new: &[u8]) -> bool {
    let machine = |bytes| Image::parse(bytes).map(|image| image.machine);
    old.len() >= MIN_BYTES
        && new.len() >= MIN_BYTES
        && machine(old).is_some_and(|old| machine(new) == Some(old))
}

/// The memory of [`derive`] beside that of matching, whose index is bounded by `index_bytes`.
#[must_use]
pub fn memory(old_bytes: u64, index_bytes: u64) -> u64 {
    // Jump tables, places of instructions, the index of a map, and the program of the pass before.
    vote::memory(old_bytes, index_bytes) + old_bytes.min(32 << 20)
}

/// Whether a program finds nearly all of `new_bytes` bytes in the old file: then where they went is seen well enough at a coarse look.
fn inserts_little(program: &Program, new_bytes: usize) -> bool {
    program.stream(StreamKind::Inserted).len() <= new_bytes / ROUGH_PART
}

/// Makes a relocated patch, given the plain program that makes `new` from `old`; `None` when nothing moves.
///
/// `scratch` gives files for the relocated old content, which is mapped, not held in memory.
///
/// # Errors
/// [`EngineError::Output`] when there is no scratch file or it cannot be written.
pub fn derive(
    old: &[u8],
    new: &[u8],
    plain: &Program,
    passes: usize,
    options: &MatchOptions,
    scratch: &dyn Fn() -> io::Result<File>,
) -> Result<Option<Relocated>, EngineError> {
    let (Some(before), Some(after)) = (Image::parse(old), Image::parse(new)) else { return Ok(None) };
    let threads = options.threads;
    let scan = Scan::new(&before, Version::LAST, threads);
    let rough = inserts_little(plain, new.len());
    let mut best: Option<(Relocated, Map)> = None;
    for pass in 1..=passes {
        let program = best.as_ref().map_or(plain, |(best, _)| &best.program);
        let map = vote(&scan, &after, vote::copies(program)?, options.index_bytes, threads);
        if map.segments() == 0 {
            break;
        }
        let settled = best.as_ref().is_some_and(|(best, _)| best.map == map);
        let last = settled || pass == passes;
        let mut file = scratch().map_err(EngineError::Output)?;
        relocate_scanned(&scan, &map, threads, &mut file).map_err(EngineError::Output)?;
        let moved = Map::file(&file).map_err(EngineError::Output)?;
        // Before the last pass it is only what moved where that counts.
        let program = diff(&moved, new, &MatchOptions { coarse: rough && !last, ..*options });
        let worse = best.as_ref().is_some_and(|(best, _)| best.program.raw_bytes() < program.raw_bytes());
        best = Some((Relocated { map, program, fill: None }, moved)).filter(|_| !worse).or(best);
        if last {
            break;
        }
    }
    let Some((mut best, moved)) = best else { return Ok(None) };
    best.fill = fill::find(&scan, &best, &moved, threads, scratch)?;
    Ok(Some(best))
}

/// As [`derive`] in one pass, where addresses went being seen at a glance: no plain program is needed.
///
/// # Errors
/// As those of [`derive`].
pub fn derive_quick(
    old: &[u8],
    new: &[u8],
    options: &MatchOptions,
    scratch: &dyn Fn() -> io::Result<File>,
) -> Result<Option<Relocated>, EngineError> {
    let (Some(before), Some(after)) = (Image::parse(old), Image::parse(new)) else { return Ok(None) };
    let threads = options.threads;
    let copies = rough::copies(&before, &after, options.index_bytes, threads);
    let scan = Scan::new(&before, Version::LAST, threads);
    let map = vote(&scan, &after, copies.clone(), options.index_bytes, threads);
    if map.segments() == 0 {
        return Ok(None);
    }
    let mut file = scratch().map_err(EngineError::Output)?;
    relocate_scanned(&scan, &map, threads, &mut file).map_err(EngineError::Output)?;
    let moved = Map::file(&file).map_err(EngineError::Output)?;
    let program = diff_hinted(&moved, new, &copies, options);
    Ok(Some(Relocated { map, program, fill: None }))
}
