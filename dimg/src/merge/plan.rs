//! What becomes of each stage: kept where it is, composed with its neighbours, run, or taken out of a group. Decided by what the files' tables
//! say; nothing is decoded. Only by what does not depend on how merges were nested, see the head of `merge`.

use super::chains::{Chain, Link};
use super::work::{FILLED_PROGRAM_BYTES, is_framed_anew};
use super::{MergeError, MergeOptions};
use crate::engine::frame::ProgramFrame;
use crate::format::{Dimg, DimgError, StageCodec, frames_of};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Stages that make at most so many bytes are *small*. Programs that follow each other become one if they are all small or all are not, and
/// what is stored and then patched to something small is run. Both the bytes that a stage makes and the order of stages are the same however
/// merges were nested; how long a patch is, is not.
const SMALL_BYTES: u64 = 2 << 20;

/// What is done for stages that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The stage stays as it is; its frame is copied and has this number.
    Kept { link: Link, frame: u32 },
    /// These programs become one, or if that is not possible each stays; framed anew.
    Programs(Vec<Link>),
    /// A stored content is taken out of its group.
    Stored(Link),
    /// What they make is made, from nothing, and stored.
    Run(Vec<Link>),
}

/// What is done for each content, and what of the files is copied.
pub(super) struct Plan {
    /// For each content.
    pub steps: Vec<Vec<Step>>,
    /// Frames that are copied as they are, by file and number.
    pub copied: Vec<(usize, u32)>,
}

/// Stored contents of a group: in its file, and those that are kept; whether something is made from one of them.
#[derive(Debug, Clone, Copy, Default)]
struct Use {
    all: u64,
    kept: u64,
    run: bool,
}

struct Planner<'a> {
    files: &'a [&'a Dimg],
    options: &'a MergeOptions,
    /// By file and frame.
    uses: Vec<Vec<Use>>,
}

/// Plans how the contents of `chains` are made.
pub(super) fn plan(files: &[&Dimg], chains: &[Chain], options: &MergeOptions) -> Result<Plan, MergeError> {
    let mut planner = Planner { files, options, uses: Vec::with_capacity(files.len()) };
    for (number, file) in files.iter().enumerate() {
        planner.uses.push(uses(file).map_err(MergeError::file(number))?);
    }
    let mut steps = chains.iter().map(|chain| planner.steps(chain)).collect::<Result<Vec<_>, _>>()?;
    planner.count_kept(&steps);
    planner.rewrite(&mut steps);
    let copied = copy_in_order(&mut steps);
    Ok(Plan { steps, copied })
}

/// Numbers the frames that are copied: in the order of the files, then those that a second stage needs a copy of.
fn copy_in_order(steps: &mut [Vec<Step>]) -> Vec<(usize, u32)> {
    let mut first = BTreeMap::new();
    for step in steps.iter().flatten() {
        if let Step::Kept { link, .. } = step
            && link.row.codec.has_frame()
        {
            first.insert((link.file, link.row.frame), frames_of(link.kind, link.row.out_bytes));
        }
    }
    let mut copied: Vec<(usize, u32)> = Vec::new();
    let mut copy = |file: usize, frame: u32, count: u64| {
        // Frames are fewer than MAX_FRAMES; a file that says otherwise is refused by the writer.
        let number = u32::try_from(copied.len()).unwrap_or(u32::MAX);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        copied.extend((0..count).map(|at| (file, frame.saturating_add(at))));
        number
    };
    let mut numbers: HashMap<(usize, u32), (u32, bool)> = HashMap::new();
    for ((file, frame), count) in first {
        numbers.insert((file, frame), (copy(file, frame, count), false));
    }
    for step in steps.iter_mut().flatten() {
        let Step::Kept { link, frame } = step else { continue };
        if !link.row.codec.has_frame() {
            continue;
        }
        let Some((number, used)) = numbers.get_mut(&(link.file, link.row.frame)) else { continue };
        if std::mem::replace(used, true) && !link.kind.is_group() {
            *frame = copy(link.file, link.row.frame, frames_of(link.kind, link.row.out_bytes));
        } else {
            *frame = *number;
        }
    }
    copied
}

/// Whether a link is a stored content with others in its frame, or may be.
fn is_grouped(link: &Link) -> bool {
    link.row.codec == StageCodec::Stored && link.kind.is_group()
}

/// How many contents each of its frames of stored ones has for a file.
fn uses(file: &Dimg) -> Result<Vec<Use>, DimgError> {
    let stages = file.recipes()?.iter().flat_map(|recipe| &recipe.stages);
    let stored = stages.filter(|stage| stage.codec == StageCodec::Stored);
    let slots: HashSet<_> = stored.map(|stage| (stage.frame, stage.slot, stage.out_bytes)).collect();
    let mut uses = vec![Use::default(); file.frames()?.len()];
    for (frame, _, _) in slots {
        if let Some(used) = uses.get_mut(frame as usize) {
            used.all += 1;
        }
    }
    Ok(uses)
}

fn is_small(link: &Link) -> bool {
    link.row.out_bytes <= SMALL_BYTES
}

fn is_program(link: &Link) -> bool {
    link.row.codec == StageCodec::Program
}

/// Programs that follow each other, in parts of which each becomes one. A fill is composed with what makes the content that it fills, when nothing
/// can come to stand before that any more: when they stand behind a stage of another kind (`bounded`). Until then it stays, and where there
/// is no such program it is left out.
fn parts(links: &[Link], bounded: bool) -> Vec<&[Link]> {
    if bounded {
        let first = links.iter().position(|link| !link.row.is_fill()).unwrap_or(links.len());
        return Some(&links[first..]).filter(|links| !links.is_empty()).into_iter().collect();
    }
    links.chunk_by(|one, other| !one.row.is_fill() && !other.row.is_fill()).collect()
}

/// How many links from the first on, a stored content, are run: up to the last that patches to something small which is not packed.
fn run_length(links: &[Link]) -> usize {
    let ends = |at: usize| {
        let patch =
            matches!(links[at].row.codec, StageCodec::Program | StageCodec::Bsdiff | StageCodec::Reference);
        patch
            && is_small(&links[at])
            && links.get(at + 1).is_none_or(|next| next.row.codec != StageCodec::Pack)
    };
    match links.first() {
        Some(first) if first.row.codec == StageCodec::Stored => {
            (1..links.len()).rev().find(|&at| ends(at)).map_or(0, |at| at + 1)
        }
        _ => 0,
    }
}

impl Planner<'_> {
    fn steps(&self, chain: &Chain) -> Result<Vec<Step>, MergeError> {
        let (run, rest) = chain.links.split_at(run_length(&chain.links));
        let mut steps = Vec::new();
        if !run.is_empty() {
            steps.push(Step::Run(run.to_vec()));
        }
        let together = |one: &Link, other: &Link| {
            is_program(one) && is_program(other) && is_small(one) == is_small(other)
        };
        let mut before = run.last();
        for links in rest.chunk_by(together) {
            // What was packed and is unpacked again goes when the same is packed before.
            let bounded = before.is_some_and(|link| link.row.codec != StageCodec::Unpack);
            before = links.last();
            for links in parts(links, bounded) {
                match self.unfilled(links)? {
                    [link] if !is_program(link) => steps.push(Step::Kept { link: *link, frame: 0 }),
                    links if self.fits(links)? => steps.push(Step::Programs(links.to_vec())),
                    links => steps.extend(links.iter().map(|&link| Step::Programs(vec![link]))),
                }
            }
        }
        let programs = steps.iter().filter(|step| matches!(step, Step::Programs(_))).count();
        for step in &mut steps {
            if let Step::Programs(links) = step
                && let [link] = links[..]
                && !link.kind.is_group()
                && !is_framed_anew(raw_bytes_of(self.files, &link)?, programs)
            {
                *step = Step::Kept { link, frame: 0 };
            }
        }
        Ok(steps)
    }

    /// The links without the fills behind a program that they are not composed with, as far as frames tell.
    fn unfilled<'l>(&self, links: &'l [Link]) -> Result<&'l [Link], MergeError> {
        if let [program, fills @ ..] = links
            && is_program(program)
            && !program.kind.is_group()
            && !fills.is_empty()
            && fills.iter().all(|link| link.row.is_fill())
            && raw_bytes_of(self.files, program)? > FILLED_PROGRAM_BYTES
        {
            return Ok(&links[..1]);
        }
        Ok(links)
    }

    /// Whether these programs can be composed in memory. Those of groups are small.
    fn fits(&self, links: &[Link]) -> Result<bool, MergeError> {
        let mut memory = 0u64;
        for link in links.iter().filter(|link| !link.kind.is_group()) {
            memory = memory.saturating_add(compose_memory(self.files, link)?);
        }
        Ok(links.len() == 1 || memory <= self.options.memory_bytes)
    }

    fn count_kept(&mut self, steps: &[Vec<Step>]) {
        let mut seen = HashSet::new();
        for step in steps.iter().flatten() {
            if let Step::Run(links) = step
                && let Some(link) = links.first().filter(|link| is_grouped(link))
                && let Some(used) = self.uses[link.file].get_mut(link.row.frame as usize)
            {
                used.run = true;
            }
            if let Step::Kept { link, .. } = step
                && is_grouped(link)
                && seen.insert((link.file, link.row.frame, link.row.slot, link.row.out_bytes))
                && let Some(used) = self.uses[link.file].get_mut(link.row.frame as usize)
            {
                used.kept += 1;
            }
        }
    }

    /// Takes what is kept of groups that have lost a content, or get one that is made from one of theirs, out of them. Any one: what was lost, or
    /// made, before is not known.
    fn rewrite(&self, steps: &mut [Vec<Step>]) {
        for step in steps.iter_mut().flatten() {
            if let Step::Kept { link, .. } = *step
                && is_grouped(&link)
                && let Some(used) = self.uses[link.file].get(link.row.frame as usize)
                && (used.run || used.kept < used.all)
            {
                *step = Step::Stored(link);
            }
        }
    }
}

/// The memory of composing the program of a frame that is no group.
pub(super) fn compose_memory(files: &[&Dimg], link: &Link) -> Result<u64, MergeError> {
    program_frame(files, link).map(|frame| frame.compose_memory())
}

/// The length of the streams of a frame that is no group.
fn raw_bytes_of(files: &[&Dimg], link: &Link) -> Result<u64, MergeError> {
    program_frame(files, link).map(|frame| frame.raw_bytes())
}

fn program_frame<'a>(files: &[&'a Dimg], link: &Link) -> Result<ProgramFrame<'a>, MergeError> {
    let (file, number) = (files[link.file], link.row.frame);
    let frame = file
        .frame(number)
        .and_then(|bytes| ProgramFrame::parse(bytes).map_err(|error| file.bad_frame(number, error)));
    frame.map_err(MergeError::file(link.file))
}
