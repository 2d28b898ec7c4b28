//! What a worker does for a content: decode, compose, run, encode.

use super::chains::Link;
use super::plan::Step;
use super::{MergeError, MergeOptions};
use crate::content::Bytes;
use crate::engine::EngineError;
use crate::engine::compress::Level;
use crate::engine::frame::{ProgramFrame, ProgramGroup};
use crate::engine::program::{Program, compose_within};
use crate::format::{Dimg, DimgError, Stage, StageCodec};
use crate::index::Content;
use crate::{Digest, Hasher};
use d4c_sys::Map;
use std::collections::VecDeque;
use std::io::{self, BufWriter, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// Programs up to this size, their streams together, are kept in groups; as the builder does.
const SMALL_PROGRAM_BYTES: u64 = 96 << 10;
/// Programs up to this size that cannot become one with others of their content share a frame with these: what the second changes is
/// like what the first did.
const JOINED_PROGRAM_BYTES: u64 = 512 << 10;
/// Streams from this size on would keep a good compressor busy for long.
const LONG_BYTES: u64 = 4 << 20;
/// Programs longer than this, their streams together, are not composed with a fill: compressing all of it anew would take longer than all else.
pub(super) const FILLED_PROGRAM_BYTES: u64 = if cfg!(test) { 128 << 10 } else { 1 << 20 };
/// A composed program may be so many times as long as its parts, and this much longer, before the parts are kept.
const MAX_GROWTH: u64 = 4;
const GROWTH_BYTES: u64 = 64 << 10;
/// Results up to this size are made in memory.
const IN_MEMORY_BYTES: u64 = 8 << 20;

/// What a step became: a stage, or one for each of its parts.
pub(super) enum Made {
    /// A program, of this version of the codec.
    Program { program: Box<Program>, with: With, version: u32, out_bytes: u64 },
    /// A large program in a frame of its own.
    Frame { bytes: Vec<u8>, version: u32, out_bytes: u64 },
    /// The stage stays; its frame is copied.
    Copy(Link),
    /// A stored content.
    Stored(Bytes),
}

/// What a program stands in a frame with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum With {
    /// Small ones of other contents.
    Others,
    /// The content's own others.
    Own,
    /// Nothing.
    Nothing,
}

/// What a program of so many bytes stands with, one of so many that make its content.
fn with(raw_bytes: u64, programs: usize) -> With {
    match raw_bytes {
        ..=SMALL_PROGRAM_BYTES => With::Others,
        ..=JOINED_PROGRAM_BYTES if programs > 1 => With::Own,
        _ => With::Nothing,
    }
}

/// Whether a program is given another frame than the one of its own that it has.
pub(super) fn is_framed_anew(raw_bytes: u64, programs: usize) -> bool {
    with(raw_bytes, programs) != With::Nothing
}

/// How hard to compress streams of this length.
pub(super) fn level_for(raw_bytes: u64, level: Level) -> Level {
    if raw_bytes > LONG_BYTES && level != Level::Best { Level::Fast } else { level }
}

impl Made {
    /// Bytes of memory that it holds.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Program { program, .. } => program.raw_bytes(),
            Self::Frame { bytes, .. } => bytes.len() as u64,
            Self::Stored(bytes) if bytes.len() as u64 <= IN_MEMORY_BYTES => bytes.len() as u64,
            Self::Copy(_) | Self::Stored(_) => 0,
        }
    }
}

type Key = (usize, u32);
type Slot = Arc<Mutex<Option<Arc<ProgramGroup>>>>;

/// Program groups decoded last.
struct Groups {
    kept: VecDeque<(Key, Slot)>,
    limit: usize,
}

/// What all workers share.
pub(super) struct Worker<'a> {
    pub files: &'a [&'a Dimg],
    pub options: &'a MergeOptions,
    groups: Mutex<Groups>,
}

impl<'a> Worker<'a> {
    pub(super) fn new(files: &'a [&'a Dimg], options: &'a MergeOptions) -> Self {
        // A decoded group takes 2 MiB, or a little more with its table of slots.
        let limit =
            usize::try_from(options.memory_bytes / (4 * (3 << 20))).unwrap_or(usize::MAX).clamp(4, 256);
        Self { files, options, groups: Mutex::new(Groups { kept: VecDeque::new(), limit }) }
    }

    /// Does the programs among the `steps` of a content, with so many threads: for each its number and what it became.
    pub(super) fn programs(
        &self,
        steps: &[Step],
        threads: usize,
    ) -> Result<Vec<(u32, Vec<Made>)>, MergeError> {
        let is_program = |step: &Step| match step {
            Step::Kept { link, .. } => link.row.codec == StageCodec::Program,
            Step::Programs(_) => true,
            Step::Stored(_) | Step::Run(_) => false,
        };
        let count = steps.iter().filter(|step| is_program(step)).count();
        let mut made = Vec::new();
        for (number, step) in (0u32..).zip(steps) {
            let Step::Programs(links) = step else { continue };
            made.push((number, self.composed(links, count, threads)?));
        }
        let programs = || made.iter().flat_map(|(_, parts)| parts);
        // Small ones stand with a larger one of theirs.
        if programs().any(|made| matches!(made, Made::Program { with: With::Own, .. })) {
            for made in made.iter_mut().flat_map(|(_, parts)| parts) {
                if let Made::Program { with, .. } = made {
                    *with = With::Own;
                }
            }
        }
        Ok(made)
    }

    /// Takes a stored content out of its group.
    pub(super) fn taken(&self, link: &Link) -> Result<Bytes, MergeError> {
        self.stored(link).map(Bytes::from)
    }

    /// The group of a link, decoded once however many threads want it.
    fn group(&self, link: &Link) -> Result<Arc<ProgramGroup>, MergeError> {
        let key = (link.file, link.row.frame);
        let slot = {
            let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((_, slot)) = groups.kept.iter().find(|(known, _)| *known == key) {
                Arc::clone(slot)
            } else {
                if groups.kept.len() >= groups.limit {
                    groups.kept.pop_front();
                }
                let slot = Slot::default();
                groups.kept.push_back((key, Arc::clone(&slot)));
                slot
            }
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = &*slot {
            return Ok(Arc::clone(group));
        }
        let group = self.in_frame(link, |bytes| ProgramFrame::parse(bytes)?.group())?;
        Ok(Arc::clone(slot.insert(Arc::new(group))))
    }

    /// What `read` makes of a link's frame.
    fn in_frame<T>(
        &self,
        link: &Link,
        read: impl FnOnce(&'a [u8]) -> Result<T, EngineError>,
    ) -> Result<T, MergeError> {
        let (file, number) = (self.files[link.file], link.row.frame);
        let made =
            file.frame(number).and_then(|bytes| read(bytes).map_err(|error| file.bad_frame(number, error)));
        made.map_err(MergeError::file(link.file))
    }

    fn program(&self, link: &Link, threads: usize) -> Result<Program, MergeError> {
        let out_bytes = link.row.out_bytes;
        if link.kind.is_group() {
            let group = self.group(link)?;
            return self.in_frame(link, |_| group.program(link.row.slot, out_bytes));
        }
        self.in_frame(link, |bytes| ProgramFrame::parse(bytes)?.program_on(out_bytes, u64::MAX, threads))
    }

    /// Programs as one, or each, for a content that so many programs make.
    fn composed(&self, links: &[Link], count: usize, threads: usize) -> Result<Vec<Made>, MergeError> {
        let programs = links.iter().map(|link| self.program(link, threads)).collect::<Result<Vec<_>, _>>()?;
        let all: u64 = programs.iter().map(Program::raw_bytes).fold(0, u64::saturating_add);
        let limit =
            all.saturating_mul(MAX_GROWTH).saturating_add(GROWTH_BYTES).min(self.options.memory_bytes);
        let Some((whole, version)) = self.whole(links, &programs, limit)? else {
            let apart = links.iter().zip(programs).map(|(link, program)| match link.kind.is_group() {
                true => self.framed(program, link.row.version, count, threads),
                false => Ok(Made::Copy(*link)),
            });
            return apart.collect();
        };
        Ok(vec![self.framed(whole, version, count, threads)?])
    }

    /// A program as it will stand in the file.
    fn framed(
        &self,
        program: Program,
        version: u32,
        count: usize,
        threads: usize,
    ) -> Result<Made, MergeError> {
        let (raw_bytes, out_bytes) = (program.raw_bytes(), program.out_bytes);
        let with = with(raw_bytes, count);
        if with != With::Nothing {
            return Ok(Made::Program { program: Box::new(program), with, version, out_bytes });
        }
        let level = level_for(raw_bytes, self.options.level);
        let bytes = ProgramFrame::encode_on(&[&program], level, threads).map_err(DimgError::from)?;
        Ok(Made::Frame { bytes, version, out_bytes })
    }

    /// The programs as one, if it is not much longer than they are, and its version.
    fn whole(
        &self,
        links: &[Link],
        programs: &[Program],
        limit: u64,
    ) -> Result<Option<(Program, u32)>, MergeError> {
        let Some(((first, rest), link)) = programs.split_first().zip(links.first()) else { return Ok(None) };
        let (mut whole, mut version) = (first.clone(), link.row.version);
        for (link, program) in links.iter().skip(1).zip(rest) {
            if link.row.is_fill() && whole.raw_bytes() > FILLED_PROGRAM_BYTES {
                continue;
            }
            match self.in_frame(link, |_| compose_within(&whole, program, limit))? {
                Some(composed) => (whole, version) = (composed, StageCodec::Program.version()),
                None => return Ok(None),
            }
        }
        Ok(Some((whole, version)))
    }

    fn stage(link: &Link) -> Stage {
        Stage {
            codec: link.row.codec,
            version: link.row.version,
            kind: link.kind,
            frame: link.row.frame,
            slot: link.row.slot,
            out_bytes: link.row.out_bytes,
        }
    }

    fn stored(&self, link: &Link) -> Result<Vec<u8>, MergeError> {
        let mut out = Vec::new();
        self.files[link.file]
            .stage(&Self::stage(link), &[], &mut out)
            .map_err(MergeError::file(link.file))?;
        Ok(out)
    }

    /// Runs stages. They make `content` unless others follow; then it is verified.
    pub(super) fn run(&self, links: &[Link], content: Option<&Content>) -> Result<Bytes, MergeError> {
        let dir = &self.options.dir;
        let mut made = Bytes::default();
        for link in links {
            let file = self.files[link.file];
            let failed = MergeError::file(link.file);
            made = if link.row.out_bytes <= IN_MEMORY_BYTES {
                let mut out = Vec::new();
                file.stage(&Self::stage(link), &made, &mut out).map_err(&failed)?;
                Bytes::from(out)
            } else {
                let io = |error: io::Error| DimgError::io("make temporary file", dir)(error);
                let scratch = tempfile::tempfile_in(dir).map_err(io)?;
                let mut writer = BufWriter::with_capacity(256 << 10, &scratch);
                file.stage(&Self::stage(link), &made, &mut writer).map_err(|error| match error {
                    DimgError::Output(source) => MergeError::Write(io(source)),
                    error => failed(error),
                })?;
                writer.flush().map_err(io)?;
                drop(writer);
                Bytes::new(Map::file(&scratch).map_err(io)?)
            };
        }
        let Some(content) = content else { return Ok(made) };
        let found = digest_of(&made);
        if found != content.digest || made.len() as u64 != content.size {
            let last = links.last().map_or(0, |link| link.file);
            return Err(MergeError::file(last)(DimgError::WrongContent { expected: content.digest, found }));
        }
        Ok(made)
    }
}

fn digest_of(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new();
    bytes.chunks(1 << 20).for_each(|chunk| hasher.update(chunk));
    hasher.finish()
}
