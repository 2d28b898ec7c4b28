//! What becomes of each stage: kept where it is, composed with its neighbours, run, or taken out of a group that has become mostly
//! useless. Decided by what the files' tables say; nothing is decoded.

use super::chains::{Chain, Link};
use super::{MergeError, MergeOptions};
use crate::engine::compress::Level;
use crate::engine::frame::ProgramFrame;
use crate::format::{Dimg, DimgError, StageCodec, frames_of};
use crate::index::Content;
use crate::limits::MAX_STAGES;
use std::collections::{BTreeMap, HashMap};

/// A patch of this part of the stored content that it applies to is kept beside it; the content would not get smaller by more.
const SMALL_PATCH: u64 = 12;
/// The same for contents that take long to compress.
const SMALL_PATCH_OF_LARGE: u64 = 4;
/// From this size on a content takes long to compress.
const LARGE_BYTES: u64 = 32 << 20;
/// A group of which this part is not needed any more is written anew.
const USELESS_PART: u64 = 16;
/// But not to save fewer bytes than these.
const USELESS_BYTES: u64 = 512;

/// Streams of large programs that are composed in one merge, together: compressing them is what takes time.
const COMPOSED_BYTES: u64 = 1 << 20;
/// Beyond it programs stay apart, those first where that costs the fewest bytes for the time, up to this part of the file.
const APART_PART: u64 = 16;
/// A program of so many bytes stays apart whatever it costs: a compressor would take seconds.
const LARGE_PROGRAM_BYTES: u64 = 4 << 20;
/// Streams of programs that are joined in one merge, together: they are compressed anew.
const JOINED_BYTES: u64 = 1 << 20;
/// Programs this small take no time.
const SMALL_PROGRAM_BYTES: u64 = 64 << 10;

/// What is done for stages that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The stage stays as it is; its frame is copied and has this number.
    Kept { link: Link, frame: u32 },
    /// These programs become one; if that is not possible, or does not pay, each stays.
    Programs(Vec<Link>),
    /// This program is put in one frame with the content's others, which cannot become one with it.
    Joined(Link),
    /// A stored content is taken out of its group.
    Stored(Link),
    /// All of it is made, from nothing, and stored.
    Run(Vec<Link>),
}

/// What is done for each content, and what of the files is copied.
pub(super) struct Plan {
    /// For each content.
    pub steps: Vec<Vec<Step>>,
    /// Frames that are copied as they are, by file and number.
    pub copied: Vec<(usize, u32)>,
}

/// How much of a frame is used: in its file at first, then by what is kept.
#[derive(Debug, Clone, Copy, Default)]
struct Use {
    /// Slots, or raw bytes of stored contents.
    all: u64,
    kept: u64,
}

struct Planner<'a> {
    files: &'a [&'a Dimg],
    options: &'a MergeOptions,
    /// By file and frame.
    uses: Vec<Vec<Use>>,
}

/// Plans how `contents` are made.
pub(super) fn plan(
    files: &[&Dimg],
    contents: &[Content],
    chains: &[Chain],
    options: &MergeOptions,
) -> Result<Plan, MergeError> {
    let mut planner = Planner { files, options, uses: Vec::with_capacity(files.len()) };
    for (number, file) in files.iter().enumerate() {
        planner.uses.push(uses(file).map_err(MergeError::file(number))?);
    }
    let mut steps = Vec::with_capacity(chains.len());
    for (chain, content) in chains.iter().zip(contents) {
        steps.push(planner.steps(chain, content)?);
    }
    if options.level != Level::Best {
        planner.keep_apart(chains, &mut steps)?;
    }
    planner.join(&mut steps)?;
    planner.count_kept(&steps);
    planner.rewrite(&mut steps)?;
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

/// How much of each of its frames a file uses.
fn uses(file: &Dimg) -> Result<Vec<Use>, DimgError> {
    let mut slots: HashMap<(u32, u64), u64> = HashMap::new();
    let stages = file.recipes()?.iter().flat_map(|recipe| &recipe.stages);
    for stage in stages.filter(|stage| stage.codec.has_frame()) {
        let size = if stage.codec == StageCodec::Stored { stage.out_bytes } else { 1 };
        slots.insert((stage.frame, stage.slot), size);
    }
    let mut uses = vec![Use::default(); file.frames()?.len()];
    for ((frame, _), size) in slots {
        if let Some(used) = uses.get_mut(frame as usize) {
            used.all = used.all.saturating_add(size);
        }
    }
    Ok(uses)
}

/// What a link takes of its frame.
fn size(link: &Link) -> u64 {
    if link.row.codec == StageCodec::Stored { link.row.out_bytes } else { 1 }
}

impl Planner<'_> {
    fn steps(&self, chain: &Chain, content: &Content) -> Result<Vec<Step>, MergeError> {
        if let Some((first, patches)) = chain.links.split_first()
            && first.row.codec == StageCodec::Stored
            && patches.last().is_some_and(|last| last.row.codec != StageCodec::Pack)
            && self.is_run(first, patches, content)?
        {
            return Ok(vec![Step::Run(chain.links.clone())]);
        }
        let is_program = |link: &Link| link.row.codec == StageCodec::Program;
        let mut steps = Vec::new();
        for links in chain.links.chunk_by(|one, other| is_program(one) && is_program(other)) {
            match links {
                [link] => steps.push(Step::Kept { link: *link, frame: 0 }),
                links if self.fits(links)? => steps.push(Step::Programs(links.to_vec())),
                links => steps.extend(links.iter().map(|&link| Step::Kept { link, frame: 0 })),
            }
        }
        Ok(steps)
    }

    /// Whether a stored content is patched and stored again, not kept with its patches.
    fn is_run(&self, stored: &Link, patches: &[Link], content: &Content) -> Result<bool, MergeError> {
        // Programs become one, hardly longer than the longest.
        let programs = patches.iter().all(|link| link.row.codec == StageCodec::Program);
        let mut patch = 0u64;
        for link in patches {
            let bytes = self.bytes(link)?;
            patch = if programs { patch.max(bytes) } else { patch.saturating_add(bytes) };
        }
        let part = if content.size > LARGE_BYTES { SMALL_PATCH_OF_LARGE } else { SMALL_PATCH };
        Ok(patch.saturating_mul(part) > self.bytes(stored)?)
    }

    /// Bytes that a stage takes in its file, about.
    fn bytes(&self, link: &Link) -> Result<u64, MergeError> {
        if !link.row.codec.has_frame() {
            return Ok(0);
        }
        let frames = self.files[link.file].frames().map_err(MergeError::file(link.file))?;
        let start = link.row.frame as usize;
        let count = usize::try_from(frames_of(link.kind, link.row.out_bytes)).unwrap_or(usize::MAX);
        let rows = frames.get(start..).unwrap_or_default();
        let bytes: u64 = rows.iter().take(count).map(|row| row.bytes).sum();
        if !link.kind.is_group() {
            return Ok(bytes);
        }
        let all = self.uses[link.file].get(start).map_or(1, |used| used.all.max(1));
        let part = u128::from(bytes) * u128::from(size(link)) / u128::from(all);
        Ok(u64::try_from(part).unwrap_or(u64::MAX))
    }

    /// Whether these programs can be composed in memory. Those of groups are small.
    fn fits(&self, links: &[Link]) -> Result<bool, MergeError> {
        let mut memory = 0u64;
        for link in links.iter().filter(|link| !link.kind.is_group()) {
            memory = memory.saturating_add(compose_memory(self.files, link)?);
        }
        Ok(memory <= self.options.memory_bytes)
    }

    /// Leaves large programs apart that would take long to compress once they are composed.
    fn keep_apart(&self, chains: &[Chain], steps: &mut [Vec<Step>]) -> Result<(), MergeError> {
        let mut large = Vec::new();
        let (mut file_bytes, mut raw_bytes) = (0u64, 0u64);
        for (content, (steps, chain)) in steps.iter().zip(chains).enumerate() {
            for (number, step) in steps.iter().enumerate() {
                let links = match step {
                    Step::Programs(links) | Step::Run(links) => links,
                    Step::Kept { link, .. } | Step::Joined(link) | Step::Stored(link) => {
                        std::slice::from_ref(link)
                    }
                };
                let bytes = links.iter().map(|link| self.bytes(link)).collect::<Result<Vec<_>, _>>()?;
                let most = bytes.iter().copied().max().unwrap_or(0);
                file_bytes = file_bytes.saturating_add(most);
                if !matches!(step, Step::Programs(_)) || chain.links.len() > MAX_STAGES / 2 {
                    continue;
                }
                let mut raw = 0u64;
                for link in links.iter().filter(|link| !link.kind.is_group()) {
                    raw = raw.saturating_add(raw_bytes_of(self.files, link)?);
                }
                if raw > SMALL_PROGRAM_BYTES {
                    raw_bytes = raw_bytes.saturating_add(raw);
                    let more = bytes.iter().copied().fold(0, u64::saturating_add) - most;
                    large.push((more, raw, content, number));
                }
            }
        }
        large.sort_by_key(|&(more, raw, content, number)| {
            (u128::from(more) * (1 << 20) / u128::from(raw), content, number)
        });
        let mut left = file_bytes / APART_PART;
        let mut apart = Vec::new();
        for (more, raw, content, number) in large {
            if raw_bytes > COMPOSED_BYTES && more <= left {
                left -= more;
            } else if raw <= LARGE_PROGRAM_BYTES {
                continue;
            }
            raw_bytes = raw_bytes.saturating_sub(raw);
            apart.push((content, number));
        }
        // From the last step of a content on, so that the numbers of those before it stay.
        apart.sort_unstable_by(|one, other| other.cmp(one));
        for (content, number) in apart {
            if let Some(Step::Programs(links)) = steps[content].get(number) {
                let kept: Vec<_> = links.iter().map(|&link| Step::Kept { link, frame: 0 }).collect();
                steps[content].splice(number..=number, kept);
            }
        }
        Ok(())
    }

    /// Puts programs of a content that stay apart for what stands between them in one frame: what the second changes is like what the
    /// first did.
    fn join(&self, steps: &mut [Vec<Step>]) -> Result<(), MergeError> {
        let is_program = |step: &Step| match step {
            Step::Kept { link, .. } => link.row.codec == StageCodec::Program && !link.kind.is_group(),
            _ => false,
        };
        let mut left = JOINED_BYTES;
        for steps in steps {
            if steps.windows(2).any(|pair| pair.iter().all(is_program)) {
                continue;
            }
            let mut kept: Vec<&mut Step> = steps.iter_mut().filter(|step| is_program(step)).collect();
            let mut raw = 0u64;
            for step in &kept {
                if let Step::Kept { link, .. } = step {
                    raw = raw.saturating_add(raw_bytes_of(self.files, link)?);
                }
            }
            if kept.len() < 2 || raw > left {
                continue;
            }
            left -= raw;
            for step in &mut kept {
                if let Step::Kept { link, .. } = **step {
                    **step = Step::Joined(link);
                }
            }
        }
        Ok(())
    }

    fn count_kept(&mut self, steps: &[Vec<Step>]) {
        let mut seen = HashMap::new();
        for step in steps.iter().flatten() {
            if let Step::Kept { link, .. } = step
                && link.row.codec.has_frame()
            {
                seen.insert((link.file, link.row.frame, link.row.slot), size(link));
            }
        }
        for ((file, frame, _), size) in seen {
            if let Some(used) = self.uses[file].get_mut(frame as usize) {
                used.kept = used.kept.saturating_add(size);
            }
        }
    }

    /// Takes what is kept of groups that have become mostly useless out of them.
    fn rewrite(&self, steps: &mut [Vec<Step>]) -> Result<(), MergeError> {
        for step in steps.iter_mut().flatten() {
            let Step::Kept { link, .. } = *step else { continue };
            *step = match link.row.codec {
                StageCodec::Stored if link.kind.is_group() && self.is_rewritten(&link)? => Step::Stored(link),
                StageCodec::Program if link.kind.is_group() && self.is_rewritten(&link)? => {
                    Step::Programs(vec![link])
                }
                _ => continue,
            };
        }
        Ok(())
    }

    fn is_rewritten(&self, link: &Link) -> Result<bool, MergeError> {
        let frame = link.row.frame as usize;
        let frames = self.files[link.file].frames().map_err(MergeError::file(link.file))?;
        let (Some(row), Some(used)) = (frames.get(frame), self.uses[link.file].get(frame)) else {
            return Ok(false);
        };
        let useless = u128::from(used.all.saturating_sub(used.kept));
        let saved = useless * u128::from(row.bytes) / u128::from(used.all.max(1));
        Ok(saved > u128::from(USELESS_BYTES) && saved > u128::from(row.bytes / USELESS_PART))
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
