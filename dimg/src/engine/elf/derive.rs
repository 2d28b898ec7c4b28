//! Relocated patches: passes of matching, voting and relocating.

use super::fill;
use super::image::Image;
use super::relocate::{self, relocate_scanned};
use super::rough;
use super::scan::Scan;
use super::vote::{self, vote};
use super::{AddressMap, Version};
use crate::content::Bytes;
use crate::engine::EngineError;
use crate::engine::compress::Level;
use crate::engine::matcher::{Copied, MatchOptions, diff, diff_careful, diff_hinted, follow};
use crate::engine::program::{Program, StreamKind};
use d4c_sys::Map;
use std::fs::File;
use std::io;

/// Files below this length gain nothing that would pay for a map.
const MIN_BYTES: usize = 4 << 10;

/// What leaves more than this part of the file untold is looked at with care in all passes: a coarse first pass made uv's patch 1.5 %
/// larger, scientific wheels' 2.5 %, and those of others neither larger nor smaller; with a glance instead mariadb's was 5.8 % larger.
const ROUGH_PART: usize = 64;

/// A patch of two stages.
#[derive(Clone, Debug)]
pub struct Relocated {
    /// Moves the addresses of the old file.
    pub map: AddressMap,
    /// The first version that finds the fields of the old file.
    pub version: Version,
    /// Makes the new file from the old one so moved.
    pub program: Program,
    /// Makes of the old file one that the map and the program make the same of, see [`fill`](super::fill); none where that gains nothing.
    pub fill: Option<Program>,
}

/// Whether both are ELF files for the same machine, or class data archives, that this codec understands.
#[must_use]
pub fn fits(old: &[u8], new: &[u8]) -> bool {
    let machine = |bytes| Image::parse(bytes).map(|image| image.machine);
    old.len() >= MIN_BYTES
        && new.len() >= MIN_BYTES
        && machine(old).is_some_and(|old| machine(new) == Some(old))
}

/// The memory of [`derive`] beside that of matching, whose index is bounded.
#[must_use]
pub fn memory(old_bytes: u64, options: &MatchOptions) -> u64 {
    let moved = if old_bytes <= in_memory(options) { old_bytes * moved_at_once(options) } else { 0 };
    // Jump tables, places of instructions, the index of a map, and the program and the relocated file of the pass before.
    vote::memory(old_bytes, options.index_bytes) + old_bytes.min(32 << 20) + moved
}

/// Relocated files that are there at a time.
fn moved_at_once(options: &MatchOptions) -> u64 {
    if options.level == Level::Fast { 1 } else { 2 }
}

/// Old contents of at most so many bytes are relocated in memory: a file takes longer.
fn in_memory(options: &MatchOptions) -> u64 {
    match options.level {
        Level::Fast => options.index_bytes / 4,
        _ => (options.index_bytes / 16).min(32 << 20),
    }
}

/// The old file with its addresses moved.
fn relocated(
    scan: &Scan<'_>,
    map: &AddressMap,
    options: &MatchOptions,
    scratch: &dyn Fn() -> io::Result<File>,
) -> io::Result<Bytes> {
    let bytes = scan.image.bytes.len();
    if bytes as u64 <= in_memory(options) {
        return Ok(relocate::relocated(scan, map, options.threads).into());
    }
    let mut file = scratch()?;
    relocate_scanned(scan, map, options.threads, &mut file)?;
    Ok(Bytes::new(Map::file(&file)?))
}

/// What is known of where bytes went, before anything is relocated.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Ascending in the new file, without overlaps there.
    copies: Vec<Copied>,
    /// A plain program that says the same.
    pub program: Program,
}

impl Seen {
    fn of(program: Program) -> Result<Self, EngineError> {
        Ok(Self { copies: vote::copies(&program)?, program })
    }

    /// Whether nearly all of `new_bytes` bytes are found in the old file: then where they went is known well enough.
    fn tells(&self, new_bytes: usize) -> bool {
        self.program.stream(StreamKind::Inserted).len() <= new_bytes / ROUGH_PART
    }
}

/// Looks where bytes went, for [`derive`]: at a glance; where that tells too little, by few keys of what it leaves; at the best level
/// at a glance and with all care. What is looked at with most care comes first; nothing when either is no file that this codec
/// understands.
///
/// # Errors
/// Those of a program that is not sound, which the matcher does not make.
pub fn look(old: &[u8], new: &[u8], options: &MatchOptions) -> Result<Vec<Seen>, EngineError> {
    let (Some(before), Some(after)) = (Image::parse(old), Image::parse(new)) else { return Ok(Vec::new()) };
    let copies = rough::copies(&before, &after, options.index_bytes, options.threads);
    let glance = Seen { program: follow(old, new, &copies), copies };
    Ok(if options.level == Level::Best {
        vec![Seen::of(diff(old, new, options))?, glance]
    } else if glance.tells(new.len()) {
        vec![glance]
    } else {
        vec![Seen::of(diff_hinted(old, new, &glance.copies, options))?]
    })
}

/// Makes a relocated patch in passes, the first for all that was [`look`]ed at; `None` when nothing moves.
///
/// `scratch` gives files for the relocated old content where that is large: it is mapped then, not held in memory.
///
/// # Errors
/// [`EngineError::Output`] when there is no scratch file or it cannot be written.
pub fn derive(
    old: &[u8],
    new: &[u8],
    seen: &[Seen],
    passes: usize,
    options: &MatchOptions,
    scratch: &dyn Fn() -> io::Result<File>,
) -> Result<Option<Relocated>, EngineError> {
    let (Some(before), Some(after)) = (Image::parse(old), Image::parse(new)) else { return Ok(None) };
    let threads = options.threads;
    let (scan, version) = (Scan::new(&before, Version::LAST, threads), before.version());
    let mut best: Option<(Relocated, Bytes)> = None;
    let pass = |copies: Vec<Copied>, rough: bool, best: &mut Option<(Relocated, Bytes)>| {
        let map = vote(&scan, &after, copies.clone(), options.index_bytes, threads);
        if map.segments() == 0 {
            return Ok(false);
        }
        let settled = best.as_ref().is_some_and(|(best, _)| best.map == map);
        let moved = relocated(&scan, &map, options, scratch).map_err(EngineError::Output)?;
        let program = match (rough, options.level) {
            (true, _) => diff_hinted(&moved, new, &copies, options),
            (false, Level::Best) => diff(&moved, new, options),
            (false, _) => diff_careful(&moved, new, &copies, options),
        };
        let worse = best.as_ref().is_some_and(|(best, _)| best.program.raw_bytes() < program.raw_bytes());
        if !worse {
            *best = Some((Relocated { map, version, program, fill: None }, moved));
        }
        Ok::<_, EngineError>(!settled)
    };
    for seen in seen {
        // Before the last pass it is only what moved where that counts.
        let rough = passes > 1 && options.level != Level::Best && seen.tells(new.len());
        pass(seen.copies.clone(), rough, &mut best)?;
    }
    for _ in 1..passes {
        let Some((found, _)) = &best else { break };
        if !pass(vote::copies(&found.program)?, false, &mut best)? {
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
    let (scan, version) = (Scan::new(&before, Version::LAST, threads), before.version());
    let map = vote(&scan, &after, copies.clone(), options.index_bytes, threads);
    if map.segments() == 0 {
        return Ok(None);
    }
    let moved = relocated(&scan, &map, options, scratch).map_err(EngineError::Output)?;
    let program = diff_hinted(&moved, new, &copies, options);
    Ok(Some(Relocated { map, version, program, fill: None }))
}
