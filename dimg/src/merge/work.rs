//! What a worker does for one step: decode, compose, run, encode.

use super::chains::Link;
use super::plan::Step;
use super::{MergeError, MergeOptions};
use crate::content::Bytes;
use crate::engine::EngineError;
use crate::engine::frame::{ProgramFrame, ProgramGroup};
use crate::engine::program::{Program, compose_within};
use crate::format::{Dimg, DimgError, FrameKind, Stage};
use crate::index::Content;
use crate::{Digest, Hasher};
use d4c_sys::Map;
use std::collections::VecDeque;
use std::io::{self, BufWriter, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// Programs up to this size, their streams together, are kept in groups; as the builder does.
const SMALL_PROGRAM_BYTES: u64 = 96 << 10;
/// Contents up to this size are stored in groups.
pub(super) const SMALL_CONTENT_BYTES: u64 = 512 << 10;
/// A composed program may be so many times as long as its parts, and this much longer, before the parts are kept.
const MAX_GROWTH: u64 = 4;
const GROWTH_BYTES: u64 = 64 << 10;
/// Results up to this size are made in memory.
const IN_MEMORY_BYTES: u64 = 8 << 20;

/// What a step became: a stage, or one for each of its parts.
pub(super) enum Made {
    /// A small program, to be put in a group.
    Program { program: Box<Program>, out_bytes: u64 },
    /// A large program in a frame of its own.
    Frame { kind: FrameKind, bytes: Vec<u8>, out_bytes: u64 },
    /// The stage stays; its frame is copied.
    Copy(Link),
    /// A stored content.
    Stored(Bytes),
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

    /// Does a step of `content`, with so many threads.
    pub(super) fn step(
        &self,
        step: &Step,
        content: &Content,
        threads: usize,
    ) -> Result<Vec<Made>, MergeError> {
        match step {
            Step::Kept { .. } => Ok(Vec::new()),
            Step::Programs(links) => self.programs(links, threads),
            Step::Joined(link) => {
                let program = Box::new(self.program(link, threads)?);
                Ok(vec![Made::Program { program, out_bytes: link.row.out_bytes }])
            }
            Step::Stored(link) => Ok(vec![Made::Stored(Bytes::from(self.stored(link)?))]),
            Step::Run(links) => Ok(vec![Made::Stored(self.run(links, content)?)]),
        }
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

    fn programs(&self, links: &[Link], threads: usize) -> Result<Vec<Made>, MergeError> {
        let programs = links.iter().map(|link| self.program(link, threads)).collect::<Result<Vec<_>, _>>()?;
        let all: u64 = programs.iter().map(Program::raw_bytes).fold(0, u64::saturating_add);
        let limit =
            all.saturating_mul(MAX_GROWTH).saturating_add(GROWTH_BYTES).min(self.options.memory_bytes);
        let Some(whole) = self.whole(links, &programs, limit)? else { return self.apart(links, programs) };
        if whole.raw_bytes() <= SMALL_PROGRAM_BYTES {
            let out_bytes = whole.out_bytes;
            return Ok(vec![Made::Program { program: Box::new(whole), out_bytes }]);
        }
        let bytes =
            ProgramFrame::encode_on(&[&whole], self.options.level, threads).map_err(DimgError::from)?;
        // Parts that were compressed better stay.
        let frames = links.iter().map(|link| match link.kind.is_group() {
            true => Ok(u64::MAX),
            false => self.in_frame(link, |bytes| Ok(bytes.len() as u64)),
        });
        let apart = frames.sum::<Result<u64, _>>();
        if links.iter().any(|link| link.kind.is_group()) || bytes.len() as u64 <= apart? {
            return Ok(vec![Made::Frame { kind: FrameKind::Program, bytes, out_bytes: whole.out_bytes }]);
        }
        Ok(links.iter().copied().map(Made::Copy).collect())
    }

    /// The programs as one, if it is not much longer than they are.
    fn whole(&self, links: &[Link], programs: &[Program], limit: u64) -> Result<Option<Program>, MergeError> {
        let Some((first, rest)) = programs.split_first() else { return Ok(None) };
        let mut whole = first.clone();
        for (link, program) in links.iter().skip(1).zip(rest) {
            match self.in_frame(link, |_| compose_within(&whole, program, limit))? {
                Some(composed) => whole = composed,
                None => return Ok(None),
            }
        }
        Ok(Some(whole))
    }

    /// The programs as a stage each.
    fn apart(&self, links: &[Link], programs: Vec<Program>) -> Result<Vec<Made>, MergeError> {
        let made = links.iter().zip(programs).map(|(link, program)| match link.kind.is_group() {
            true => Made::Program { program: Box::new(program), out_bytes: link.row.out_bytes },
            false => Made::Copy(*link),
        });
        Ok(made.collect())
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

    /// Runs all stages: the content, verified.
    fn run(&self, links: &[Link], content: &Content) -> Result<Bytes, MergeError> {
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
