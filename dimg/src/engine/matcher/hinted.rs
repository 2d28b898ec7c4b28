//! Scanning with hints: for most of the new content it is known where it went on in the old one. Only what no hint tells of is indexed,
//! and only where they lead to nothing it is looked up.

use super::Copied;
use super::compare::{extend, matches};
use super::index::Candidate;
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
/// Hints that a thread looks at together.
const BATCH: usize = 256;

/// The hints, and an index of what they leave.
pub(super) struct Hinted<'o, 'h> {
    /// By their places in the new content; they do not overlap there.
    hints: &'h [Copied],
    /// How many hints start at or before each multiple of [`STEP`] in the new content.
    started: Vec<u32>,
    index: Quick<'o>,
}

impl<'o, 'h> Hinted<'o, 'h> {
    pub(super) fn new(old: &'o [u8], new: &[u8], hints: &'h [Copied], limit: u64, threads: usize) -> Self {
        let told = map(threads, hints.len().div_ceil(BATCH), |batch| {
            let hints = &hints[batch * BATCH..hints.len().min((batch + 1) * BATCH)];
            hints.iter().flat_map(|hint| agreeing(old, new, hint)).collect::<Vec<_>>()
        });
        let left = left(old.len(), told.concat());
        let bytes: usize = left.iter().map(Range::len).sum();
        let sparse = Sparse::fit(bytes as u64, limit);
        let mut started = vec![0; new.len() / STEP + 2];
        for hint in hints {
            started[(hint.new.div_ceil(STEP)).min(new.len() / STEP + 1)] += 1;
        }
        let mut sum = 0;
        for started in &mut started {
            sum += *started;
            *started = sum;
        }
        Self { hints, started, index: Quick::of_parts(old, &left, sparse, threads) }
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
    fn candidate(scan: &Scan<'_, Self>, at: usize) -> Option<Candidate> {
        let position = scan.index.expected(at).filter(|&position| position < scan.old.len())?;
        if position == scan.aligned(at) {
            return None;
        }
        let candidate = Candidate { position, extension: extend(&scan.old[position..], &scan.new[at..]) };
        scan.gains(at, &candidate).then_some(candidate)
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
        quick::search(scan, &scan.index.index, Self::candidate, at)
    }
}
