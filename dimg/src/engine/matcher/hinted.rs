//! Scanning with hints: for most of the new content it is known where it went on in the old one. What no hint tells of is indexed, of the
//! rest little or nothing, and only where hints lead to nothing it is looked up.

use super::Copied;
use super::compare::{extend, matches};
use super::index::{Candidate, Index, Sampling};
use super::quick::{self, Found, Quick, Sparse};
use super::scan::{Find, Scan};
use crate::engine::parallel::map;
use std::ops::Range;

/// Bytes of a hint that are looked at together,
const PART: usize = 256;
/// and the share of them that has to agree to leave them out of the index.
const AGREEING: (usize, usize) = (7, 8);
/// Bytes of the new content for which the first hint is known.
const STEP: usize = 1 << 10;
/// Bytes after a hinted place that are compared where all is looked up,
const NEAR: usize = 64;
/// and the share of them that has to agree.
const TELLING: (usize, usize) = (3, 4);
/// Of what hints tell of, one sample in so many is indexed with care.
const TOLD_STRIDE: usize = 5;
/// Hints that a thread looks at together.
const BATCH: usize = 256;

/// Hints that can be asked by place.
struct Hints<'h> {
    /// By their places in the new content; they do not overlap there.
    hints: &'h [Copied],
    /// How many hints start at or before each multiple of [`STEP`] in the new content.
    started: Vec<u32>,
}

impl<'h> Hints<'h> {
    fn new(hints: &'h [Copied], new: &[u8]) -> Self {
        let mut started = vec![0; new.len() / STEP + 2];
        for hint in hints {
            started[(hint.new.div_ceil(STEP)).min(new.len() / STEP + 1)] += 1;
        }
        let mut sum = 0;
        for started in &mut started {
            sum += *started;
            *started = sum;
        }
        Self { hints, started }
    }

    /// Where the new content's bytes at `at` are expected.
    fn expected(&self, at: usize) -> Option<usize> {
        let started = |step: usize| self.started.get(step).map(|&count| count as usize);
        let (from, to) = (started(at / STEP)?, started(at / STEP + 1)?);
        let within = self.hints.get(from..to)?.partition_point(|hint| hint.new <= at);
        let place = (from + within).checked_sub(1)?;
        let hint = self.hints[place];
        (at < hint.new + hint.bytes).then(|| hint.old + (at - hint.new))
    }

    /// The alignment that hints tell of at `at`, if it is worth taking.
    fn candidate<I: Find>(&self, scan: &Scan<'_, I>, at: usize) -> Option<Candidate> {
        let position = self.expected(at).filter(|&position| position < scan.old.len())?;
        if position == scan.aligned(at) {
            return None;
        }
        let candidate = Candidate { position, extension: extend(&scan.old[position..], &scan.new[at..]) };
        scan.gains(at, &candidate).then_some(candidate)
    }
}

/// The parts of an old content that hints do not tell of.
fn untold(old: &[u8], new: &[u8], hints: &[Copied], threads: usize) -> Vec<Range<usize>> {
    let told = map(threads, hints.len().div_ceil(BATCH), |batch| {
        let hints = &hints[batch * BATCH..hints.len().min((batch + 1) * BATCH)];
        hints.iter().flat_map(|hint| agreeing(old, new, hint)).collect::<Vec<_>>()
    });
    left(old.len(), told.concat())
}

/// The hints, and an index of few keys of what they leave.
pub(super) struct Hinted<'o, 'h> {
    hints: Hints<'h>,
    index: Quick<'o>,
}

impl<'o, 'h> Hinted<'o, 'h> {
    pub(super) fn new(old: &'o [u8], new: &[u8], hints: &'h [Copied], limit: u64, threads: usize) -> Self {
        let left = untold(old, new, hints, threads);
        let bytes: usize = left.iter().map(Range::len).sum();
        let sparse = Sparse::fit(bytes as u64, limit);
        Self { hints: Hints::new(hints, new), index: Quick::of_parts(old, &left, sparse, threads) }
    }
}

/// The hints, and an index of all that they leave, and of a part of what they tell of.
pub(super) struct Careful<'o, 'h> {
    hints: Hints<'h>,
    index: Index<'o>,
}

impl<'o, 'h> Careful<'o, 'h> {
    pub(super) fn new(
        old: &'o [u8],
        new: &[u8],
        hints: &'h [Copied],
        sampling: Sampling,
        threads: usize,
    ) -> Self {
        let mut parts = Vec::new();
        for left in untold(old, new, hints, threads) {
            parts.push((left.start, TOLD_STRIDE));
            parts.push((left.end, 1));
        }
        Self { hints: Hints::new(hints, new), index: Index::of_parts(old, &parts, sampling, threads) }
    }
}

/// The parts of an old content that go on as a hint says, for the most part.
fn agreeing(old: &[u8], new: &[u8], hint: &Copied) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    for done in (0..hint.bytes).step_by(PART) {
        let count = PART.min(hint.bytes - done);
        let part = hint.old + done..hint.old + done + count;
        let (Some(old), Some(new)) =
            (old.get(part.clone()), new.get(hint.new + done..hint.new + done + count))
        else {
            continue;
        };
        if old != new && matches(old, new) * AGREEING.1 < count * AGREEING.0 {
            continue;
        }
        match parts.last_mut().filter(|last| last.end == part.start) {
            Some(last) => last.end = part.end,
            None => parts.push(part),
        }
    }
    parts
}

/// The parts of an old content that nothing is told of.
fn left(old_bytes: usize, mut told: Vec<Range<usize>>) -> Vec<Range<usize>> {
    told.sort_unstable_by_key(|range| range.start);
    let (mut left, mut at) = (Vec::new(), 0);
    for range in told {
        if range.start > at {
            left.push(at..range.start);
        }
        at = at.max(range.end);
    }
    left.push(at.min(old_bytes)..old_bytes);
    left
}

impl Find for Hinted<'_, '_> {
    const TRUSTS: bool = true;
    type Scratch = Option<Box<Found>>;

    fn old(&self) -> &[u8] {
        self.index.old()
    }

    fn search(scan: &mut Scan<'_, Self>, at: usize) -> usize {
        let Self { hints, index } = scan.index;
        quick::search(scan, index, |scan, at| hints.candidate(scan, at), at)
    }
}

/// Whether a hint is good enough to be taken where the index may have something better a few bytes on.
fn tells<I: Find>(scan: &Scan<'_, I>, at: usize, hint: &Candidate) -> bool {
    let (old, new) = (&scan.old[hint.position..], &scan.new[at..scan.to]);
    let count = NEAR.min(old.len()).min(new.len());
    matches(&old[..count], &new[..count]) * TELLING.1 >= count * TELLING.0
}

impl Find for Careful<'_, '_> {
    const TRUSTS: bool = false;
    type Scratch = ();

    fn old(&self) -> &[u8] {
        self.index.old
    }

    fn search(scan: &mut Scan<'_, Self>, at: usize) -> usize {
        let Self { hints, index } = scan.index;
        let hinted =
            |scan: &Scan<'_, Self>, at| hints.candidate(scan, at).filter(|hint| tells(scan, at, hint));
        index.search(scan, hinted, at)
    }
}
