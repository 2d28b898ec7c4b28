//! One new content: the patches that could make it, and the smallest way to keep it.

use super::names::{Candidate, Found};
use super::opened;
use super::relocated;
use super::{BuildOptions, Codec};
use crate::content::{Bytes, ContentSource, open_exact};
use crate::engine::compress::{Level, pack_memory};
use crate::engine::elf::{AddressMap, Version};
use crate::engine::frame::{
    BSDIFF_WINDOW_LOG, BsdiffFrame, MAX_REFERENCE_BYTES, ProgramFrame, ReferenceFrame, RelocationFrame,
    STORED_CHUNK_BYTES, StoredFrame,
};
use crate::engine::matcher::MatchOptions;
use crate::engine::program::Program;
use crate::engine::{EngineError, bsdiff};
use crate::format::{DimgError, FrameKind};
use crate::index::Content;
use crate::index::edit::Place;

/// Contents up to this size are stored in groups.
pub(super) const SMALL_CONTENT_BYTES: u64 = 512 << 10;
/// Programs up to this size, their streams together, are kept in groups.
pub(super) const SMALL_PROGRAM_BYTES: u64 = 96 << 10;
/// A program of this part of the content, or less, is not compressed to see whether it is small, at the fast level.
const SURELY_SMALL: u64 = 16;
/// The same at the fast level, as even that takes as long as all else.
const CLEARLY_SMALLER_FAST: u64 = 6;
/// Storing takes at least this part of what the fast level leaves.
const STORED_AT_LEAST: (u64, u64) = (3, 5);
/// A patch of this part of the content, or less, is not held against storing it.
const CLEARLY_SMALLER: u64 = 24;
/// A patch of more bytes that is not is held against one from the content that is most alike, too.
const POOR_BYTES: u64 = 16 << 10;
/// Up to this size storing is tried at the level asked for; beyond, the fast level tells enough.
pub(super) const STORED_TRIAL_BYTES: u64 = 32 << 20;
/// Seven streams are compressed one after the other; the largest window is that of the inserted bytes.
const PROGRAM_WINDOW_LOG: u32 = 24;

/// Contents from this size on are compressed behind others.
pub(super) const REFERENCE_BYTES: u64 = 4 << 10;
/// Compressing a content behind a base takes as long as compressing both, so bases have at most this size,
const REFERENCE_BASE_BYTES: u64 = 2 << 20;
/// and at most so many times that of the content.
const REFERENCE_RATIO: u64 = 64;
/// Patches from this size on are held against compressing the content behind the base,
const RIVAL_BYTES: u64 = 2 << 10;
/// and only if they are at least the so manieth part of both, which are no more than this: that takes as long as compressing both.
const RIVAL_RATIO: u64 = 96;
const RIVAL_WORK_BYTES: u64 = 1 << 20;
/// Bytes that a frame and the place of a base take in the tables.
const REFERENCE_ROW_BYTES: usize = 24;

/// What is done with a base before a program is applied.
#[derive(Debug)]
pub(super) struct Moved {
    /// Moves its addresses.
    pub map: AddressMap,
    /// By the fields of this version.
    pub version: Version,
    /// For whoever merges, see [`Relocated`](crate::engine::elf::Relocated).
    pub fill: Option<Program>,
    /// Whether the patch is far smaller than one of the base as it is.
    pub is_clear: bool,
}

impl Moved {
    fn memory(&self) -> u64 {
        self.map.memory() + self.fill.as_ref().map_or(0, Program::raw_bytes)
    }
}

/// How a content is kept.
#[derive(Debug)]
pub(super) enum Kept {
    /// In a group of stored contents, or in chunks when it is large.
    Stored,
    /// In chunks, encoded already.
    Chunks(Vec<Vec<u8>>),
    /// A small program, to be put in a group, and how the base is moved before.
    Program(Place, Option<Box<Moved>>, Box<Program>),
    /// The same without a map, or a frame with the content compressed behind the base, which is smaller than the program alone: in
    /// a group the program may take less, when others have the same in it.
    Either(Place, Box<Program>, Vec<u8>),
    /// A patch in a frame of its own, and the same.
    Frame(Place, Option<Box<Moved>>, FrameKind, Vec<u8>),
}

impl Kept {
    /// The place of the base.
    pub(super) fn base(&self) -> Option<Place> {
        match self {
            Self::Stored | Self::Chunks(_) => None,
            Self::Program(place, ..) | Self::Either(place, ..) | Self::Frame(place, ..) => Some(*place),
        }
    }

    /// Whether it is a patch that is far smaller than one of the base without moving its addresses.
    pub(super) fn is_clear(&self) -> bool {
        match self {
            Self::Program(_, Some(moved), _) | Self::Frame(_, Some(moved), ..) => moved.is_clear,
            _ => false,
        }
    }

    /// Bytes of memory that it holds.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Stored => 0,
            Self::Chunks(frames) => frames.iter().map(|frame| frame.len() as u64).sum(),
            Self::Program(_, moved, program) => {
                program.raw_bytes() + moved.as_ref().map_or(0, |moved| moved.memory())
            }
            Self::Either(_, program, frame) => program.raw_bytes() + frame.len() as u64,
            Self::Frame(_, moved, _, frame) => {
                frame.len() as u64 + moved.as_ref().map_or(0, |moved| moved.memory())
            }
        }
    }
}

/// A way to keep a content, and its size.
pub(super) struct Way {
    pub(super) bytes: u64,
    pub(super) kept: Kept,
}

/// The memory of making `content` from these bases, as far as it matters.
pub(super) fn memory(content: &Content, found: &Found, options: &BuildOptions) -> u64 {
    let matching = match_options(options, 1);
    let per_base = |base: &Candidate| match uses_bsdiff(base.content.size, content.size, options) {
        true => bsdiff::diff_memory(base.content.size) + content.size,
        false => {
            matching.index_memory(base.content.size) + content.size / 4 + relocated::memory(base, options)
        }
    };
    // What is like the content is no longer than it or the longest base.
    let alike = found.bases.first().map(|base| per_base(&Candidate { content: *content, ..*base }));
    let patch = found.bases.iter().map(per_base).chain(alike).max().unwrap_or(0);
    let packed = content.size + found.reference(content, options).map_or(0, |base| base.content.size);
    let packing = pack_memory(packed, options.level, PROGRAM_WINDOW_LOG);
    // Small contents are stored later, in a group.
    let stored =
        if content.size > SMALL_CONTENT_BYTES { content.size.min(STORED_TRIAL_BYTES) / 2 } else { 0 };
    let opening = if options.codec == Codec::Auto { opened::MEMORY } else { 0 };
    patch + packing + stored + opening
}

pub(super) fn match_options(options: &BuildOptions, threads: usize) -> MatchOptions {
    MatchOptions { level: options.level, index_bytes: options.memory_bytes / 2, threads }
}

fn uses_bsdiff(old_bytes: u64, new_bytes: u64, options: &BuildOptions) -> bool {
    let memory = bsdiff::diff_memory(old_bytes).saturating_add(2 * new_bytes);
    options.codec == Codec::Bsdiff && memory <= options.memory_bytes
}

/// Finds the smallest way to keep `content`, of which `new` are the bytes. The others than the
/// likeliest base are tried only when it did not do well; then what `like` finds.
pub(super) fn encode(
    content: &Content,
    new: &[u8],
    found: &Found,
    open_base: &dyn Fn(&Candidate) -> Result<Bytes, DimgError>,
    like: &dyn Fn() -> Option<Candidate>,
    options: &BuildOptions,
    threads: usize,
) -> Result<Way, DimgError> {
    let mut best: Option<Way> = None;
    for base in &found.bases {
        let old = open_base(base)?;
        let way = patch(content, new, base, &old, options, threads)?;
        if best.as_ref().is_none_or(|best| way.bytes < best.bytes) {
            best = Some(way);
        }
        if best.as_ref().is_some_and(|best| best.bytes <= content.size / 8) {
            break;
        }
    }
    let is_poor = |best: &Way| {
        best.bytes > POOR_BYTES.max(content.size / CLEARLY_SMALLER) && options.level != Level::Fast
    };
    if let Some(poor) = best.as_mut().filter(|best| is_poor(best))
        && let Some(base) = like()
    {
        let way = patch(content, new, &base, &open_base(&base)?, options, threads)?;
        if way.bytes < poor.bytes {
            *poor = way;
        }
    }
    let stored = match best {
        None => Way { bytes: content.size, kept: Kept::Stored },
        Some(best) if best.bytes <= content.size / clearly_smaller(options.level) => {
            return or_behind(best, content, new, found, open_base, options);
        }
        Some(best) => {
            let stored = stored(content, new, best.bytes, options.level)?;
            if stored.bytes > best.bytes {
                return or_behind(best, content, new, found, open_base, options);
            }
            stored
        }
    };
    let Some(base) = found.reference(content, options) else { return Ok(stored) };
    Ok(behind(new, base.place, &open_base(base)?, options.level)?.unwrap_or(stored))
}

fn clearly_smaller(level: Level) -> u64 {
    if level == Level::Fast { CLEARLY_SMALLER_FAST } else { CLEARLY_SMALLER }
}

impl Found {
    /// What the content is compressed behind when no patch is smaller than storing it.
    fn reference(&self, content: &Content, options: &BuildOptions) -> Option<&Candidate> {
        self.bases.first().or(self.relative.as_ref()).filter(|base| refers(content, base, options))
    }
}

/// Whether it is worth to compress `content` behind `base` when no patch is smaller than storing it.
pub(super) fn refers(content: &Content, base: &Candidate, options: &BuildOptions) -> bool {
    let base_bytes = REFERENCE_BASE_BYTES.min(content.size.saturating_mul(REFERENCE_RATIO));
    options.codec == Codec::Auto
        && options.level != Level::Fast
        && (REFERENCE_BYTES..=MAX_REFERENCE_BYTES).contains(&content.size)
        && base.content.size <= base_bytes
}

/// `patch`, or the content compressed behind the same base where that may be smaller: of an edited text it is, as what is inserted
/// shares words with what stands around it.
fn or_behind(
    patch: Way,
    content: &Content,
    new: &[u8],
    found: &Found,
    open_base: &dyn Fn(&Candidate) -> Result<Bytes, DimgError>,
    options: &BuildOptions,
) -> Result<Way, DimgError> {
    let plain = matches!(patch.kept, Kept::Program(_, None, _) | Kept::Frame(_, None, FrameKind::Program, _));
    let place = patch.kept.base();
    let base = found.reference(content, options).filter(|base| plain && Some(base.place) == place);
    let Some(base) = base.filter(|_| patch.bytes >= RIVAL_BYTES && !new.starts_with(b"\x7fELF")) else {
        return Ok(patch);
    };
    let old = open_base(base)?;
    let work = (old.len() + new.len()) as u64;
    if work > RIVAL_WORK_BYTES || patch.bytes.saturating_mul(RIVAL_RATIO) < work {
        return Ok(patch);
    }
    let Some(frame) = ReferenceFrame::encode(&old, new, options.level)? else { return Ok(patch) };
    let bytes = frame.len() as u64;
    let with_row = bytes + REFERENCE_ROW_BYTES as u64;
    Ok(match patch.kept {
        Kept::Program(place, None, program) => {
            // Small programs were measured at the fast level.
            let alone = ProgramFrame::encode(&[&*program], options.level)?.len() as u64;
            let smaller = with_row < alone - alone / 8;
            let kept = match smaller {
                true => Kept::Either(place, program, frame),
                false => Kept::Program(place, None, program),
            };
            Way { bytes: if smaller { bytes } else { patch.bytes }, kept }
        }
        Kept::Frame(place, ..) if with_row < patch.bytes => {
            Way { bytes, kept: Kept::Frame(place, None, FrameKind::Reference, frame) }
        }
        kept => Way { bytes: patch.bytes, kept },
    })
}

/// The content compressed behind `old`, where that is clearly smaller than alone.
fn behind(new: &[u8], place: Place, old: &[u8], level: Level) -> Result<Option<Way>, EngineError> {
    if old.len() as u64 > REFERENCE_BASE_BYTES || new.len() as u64 > MAX_REFERENCE_BYTES {
        return Ok(None);
    }
    let alone = StoredFrame::encode(&[new], level)?.len();
    // What does not compress has no words.
    if alone > new.len() - new.len() / 16 {
        return Ok(None);
    }
    let Some(frame) = ReferenceFrame::encode(old, new, level)? else { return Ok(None) };
    // In a group it would take a little less than alone.
    let smaller = frame.len() + REFERENCE_ROW_BYTES < alone - alone / 32;
    let bytes = frame.len() as u64;
    Ok(smaller.then_some(Way { bytes, kept: Kept::Frame(place, None, FrameKind::Reference, frame) }))
}

/// The bytes of a content that has to be there.
pub(super) fn open(source: &dyn ContentSource, content: &Content) -> Result<Bytes, DimgError> {
    open_exact(source, content)
        .map_err(|error| DimgError::Make { content: content.digest, reason: format!("read: {error}") })
}

fn patch(
    content: &Content,
    new: &[u8],
    base: &Candidate,
    old: &[u8],
    options: &BuildOptions,
    threads: usize,
) -> Result<Way, EngineError> {
    if uses_bsdiff(base.content.size, content.size, options) {
        let frame = BsdiffFrame::encode(&bsdiff::diff(old, new)?, options.level)?;
        return Ok(Way {
            bytes: frame.len() as u64,
            kept: Kept::Frame(base.place, None, FrameKind::Bsdiff, frame),
        });
    }
    let matching = match_options(options, threads);
    relocated::smallest(base.place, old, new, &matching, options)
}

/// The program in a frame of its own, or to be put in a group; the base may be `moved` before.
pub(super) fn program(
    place: Place,
    moved: Option<Box<Moved>>,
    program: Program,
    level: Level,
    threads: usize,
) -> Result<Way, EngineError> {
    let raw_bytes = program.raw_bytes();
    if level == Level::Fast && raw_bytes <= SMALL_PROGRAM_BYTES.min(program.out_bytes / SURELY_SMALL) {
        // Whatever the compressor makes of it.
        let map_bytes = moved.as_ref().map_or(0, |moved| 4 * moved.map.segments() as u64);
        return Ok(Way {
            bytes: map_bytes + raw_bytes,
            kept: Kept::Program(place, moved, Box::new(program)),
        });
    }
    let map_bytes = match &moved {
        Some(moved) => {
            let fill_bytes = moved.fill.as_ref().map_or(0, Program::raw_bytes);
            RelocationFrame::encode(&[&moved.map], level)?.len() as u64 + fill_bytes
        }
        None => 0,
    };
    if program.raw_bytes() <= SMALL_PROGRAM_BYTES {
        let bytes = map_bytes + ProgramFrame::encode(&[&program], Level::Fast)?.len() as u64;
        return Ok(Way { bytes, kept: Kept::Program(place, moved, Box::new(program)) });
    }
    let frame = ProgramFrame::encode_on(&[&program], level, threads)?;
    let bytes = map_bytes + frame.len() as u64;
    Ok(Way { bytes, kept: Kept::Frame(place, moved, FrameKind::Program, frame) })
}

/// What storing the content takes; given up as soon as it is more than `rival`.
pub(super) fn stored(content: &Content, new: &[u8], rival: u64, level: Level) -> Result<Way, EngineError> {
    if content.size <= SMALL_CONTENT_BYTES {
        let bytes = StoredFrame::encode(&[new], Level::Fast)?.len() as u64;
        return Ok(Way { bytes, kept: Kept::Stored });
    }
    if level != Level::Fast {
        let (part, whole) = STORED_AT_LEAST;
        let (limit, mut bytes) = (rival.saturating_mul(whole) / part, 0);
        for chunk in chunks(new) {
            bytes += StoredFrame::encode(&[chunk], Level::Fast)?.len() as u64;
            if bytes > limit {
                return Ok(Way { bytes: content.size, kept: Kept::Stored });
            }
        }
    }
    let exact = content.size <= STORED_TRIAL_BYTES;
    let (mut frames, mut bytes) = (Vec::new(), 0);
    for chunk in chunks(new) {
        let frame = StoredFrame::encode(&[chunk], if exact { level } else { Level::Fast })?;
        bytes += frame.len() as u64;
        if bytes > rival.saturating_mul(if exact { 1 } else { 2 }) {
            break;
        }
        if exact {
            frames.push(frame);
        }
    }
    // Better levels take about a quarter off what the fast one leaves.
    Ok(match exact {
        true => Way { bytes, kept: Kept::Chunks(frames) },
        false => Way { bytes: bytes - bytes / 4, kept: Kept::Stored },
    })
}

/// The parts of a large content.
pub(super) fn chunks(content: &[u8]) -> std::slice::Chunks<'_, u8> {
    content.chunks(usize::try_from(STORED_CHUNK_BYTES).unwrap_or(usize::MAX))
}

/// The memory of encoding a group or chunk of at most `raw_bytes`.
pub(super) fn frame_memory(raw_bytes: u64, level: Level) -> u64 {
    2 * raw_bytes + pack_memory(raw_bytes, level, BSDIFF_WINDOW_LOG)
}
