//! The scan of a new content: which parts of the old one it continues.
//!
//! The scan follows an *alignment*, a fixed distance between places in the new and the old content, as long as nearly all bytes
//! agree. Where they do not, every position is looked up in the index; a candidate that agrees on clearly more bytes than the
//! alignment does becomes the new alignment. The border between the two is put where most bytes agree, as bsdiff does.

use super::compare::{best_backward, best_cut, best_forward, equal_prefix, matches};
use super::index::{Bucket, Candidate, Index, better};

/// A part of the new content: `add` bytes from `old`, then `insert` bytes of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) new: usize,
    pub(super) old: usize,
    pub(super) add: usize,
    pub(super) insert: usize,
}

/// The window that decides whether an alignment is followed.
const WINDOW: usize = 64;

/// The unequal bytes that a window may have.
const WINDOW_MISMATCHES: usize = 8;

/// An equal run from which on nothing else is looked at.
const LONG_RUN: usize = 32;

/// The bytes by which a new alignment must beat the current one.
const GAIN: usize = 16;

/// Unequal bytes after which an alignment that is followed again starts a piece of its own: the search for the end of the open
/// one would not look beyond them, and all that follows would be inserted.
const LONG_GAP: usize = 256;

/// Lookups made together, so that their cache misses overlap.
const BATCH: usize = 16;

/// An index, and how it is asked.
pub(super) trait Find: Sized {
    /// Whether the border of a piece is looked for only where the alignment was not followed.
    const TRUSTS: bool;
    /// What a search works with.
    type Scratch: Default;

    /// The old content.
    fn old(&self) -> &[u8];

    /// Looks positions up from `at` on, until an alignment is taken or the current one can be followed again; where to go on.
    fn search(scan: &mut Scan<'_, Self>, at: usize) -> usize;
}

/// A scan under way.
pub(super) struct Scan<'s, I: Find> {
    pub(super) index: &'s I,
    pub(super) old: &'s [u8],
    pub(super) new: &'s [u8],
    pub(super) to: usize,
    /// Where the open piece starts.
    start_new: usize,
    start_old: usize,
    /// Up to where it was followed.
    followed: usize,
    pieces: Vec<Piece>,
    pub(super) scratch: I::Scratch,
}

/// Scans `new[from..to]`.
pub(super) fn scan<I: Find>(index: &I, new: &[u8], from: usize, to: usize) -> Vec<Piece> {
    let old = index.old();
    let start_old = from.min(old.len());
    let mut scan = Scan {
        index,
        old,
        new,
        to,
        start_new: from,
        start_old,
        followed: from,
        pieces: Vec::new(),
        scratch: I::Scratch::default(),
    };
    scan.run(from);
    scan.close(to, None);
    scan.pieces
}

impl<I: Find> Scan<'_, I> {
    /// The place in the old content that the alignment gives for `at`; at most its length.
    pub(super) fn aligned(&self, at: usize) -> usize {
        (self.start_old + (at - self.start_new)).min(self.old.len())
    }

    fn run(&mut self, from: usize) {
        let mut at = from;
        while at < self.to {
            let followed = self.follow(at);
            if followed > 0 {
                at += followed;
                self.followed = at;
                continue;
            }
            at = I::search(self, at);
        }
    }

    /// How many bytes from `at` on the alignment can be followed without a look at anything else.
    pub(super) fn follow(&self, at: usize) -> usize {
        let old = &self.old[self.aligned(at)..];
        let new = &self.new[at..self.to];
        let equal = equal_prefix(old, new);
        if equal >= LONG_RUN || equal == new.len() {
            return equal;
        }
        let window = WINDOW.min(new.len());
        if old.len() >= window && window - matches(&old[..window], &new[..window]) <= WINDOW_MISMATCHES {
            return window.div_ceil(2);
        }
        0
    }

    /// Goes on with the alignment at `at`, after a search from `from` on.
    pub(super) fn resume(&mut self, from: usize, at: usize) {
        if at - from >= LONG_GAP {
            self.close(at, Some(self.aligned(at)));
        }
    }

    /// Whether the candidate agrees on clearly more bytes than the current alignment.
    pub(super) fn gains(&self, at: usize, candidate: &Candidate) -> bool {
        let aligned = self.aligned(at);
        if candidate.position == aligned {
            return false;
        }
        let span = candidate.extension.span;
        let current = matches(&self.old[aligned..], &self.new[at..at + span]);
        candidate.extension.equal > current + GAIN
    }

    /// Makes the candidate the alignment, and closes the open piece.
    pub(super) fn take(&mut self, at: usize, candidate: Candidate) -> usize {
        self.close(at, Some(candidate.position));
        // The exact length may go beyond the segment.
        (at + candidate.extension.exact).min(self.to)
    }

    /// Ends the open piece at `at`, where the new content continues the old one at `next`, or at its end.
    fn close(&mut self, at: usize, next: Option<usize>) {
        // What was followed but for its end is left as it is.
        let known = match I::TRUSTS {
            true => self.followed.min(at).saturating_sub(self.start_new).saturating_sub(WINDOW),
            false => 0,
        };
        let new = &self.new[self.start_new + known..at];
        let open = (self.start_old + known).min(self.old.len());
        let (mut forward, backward) = borders(self.old, open, next, new);
        let insert = new.len() - forward - backward;
        forward += known;
        if forward + insert > 0 {
            self.pieces.push(Piece { new: self.start_new, old: self.start_old, add: forward, insert });
        }
        self.start_new = at - backward;
        self.start_old = next.map_or(self.start_old, |next| next - backward);
    }
}

/// How many bytes from the front of `new` go on with what is at `open` of the old content, and how many from its end go before what
/// is at `next`, if anything follows: so that most bytes agree.
pub(crate) fn borders(old: &[u8], open: usize, next: Option<usize>, new: &[u8]) -> (usize, usize) {
    let open_old = &old[open..];
    let mut forward = best_forward(open_old, new);
    let mut backward = next.map_or(0, |next| best_backward(&old[..next], new));
    if let Some(next) = next
        && forward + backward > new.len()
    {
        // Both reach over the same bytes: cut where most of them agree.
        let overlap = forward + backward - new.len();
        let shared = &new[forward - overlap..forward];
        let first = &open_old[forward - overlap..forward];
        let second = &old[next - backward..next - backward + overlap];
        let cut = best_cut(shared, first, second);
        forward -= overlap - cut;
        backward -= cut;
    }
    (forward, backward)
}

impl Find for Index<'_> {
    const TRUSTS: bool = false;
    type Scratch = ();

    fn old(&self) -> &[u8] {
        self.old
    }

    fn search(scan: &mut Scan<'_, Self>, at: usize) -> usize {
        scan.index.search(scan, |_, _| None, at)
    }
}

impl Index<'_> {
    /// Looks up all places from `at` on, as [`Find::search`] is to; of each batch also what `hinted` tells of its first place.
    #[inline]
    pub(super) fn search<'s, I: Find>(
        &self,
        scan: &mut Scan<'s, I>,
        hinted: impl Fn(&Scan<'s, I>, usize) -> Option<Candidate>,
        mut at: usize,
    ) -> usize {
        let from = at;
        let key = self.key();
        let mut buckets = [Bucket::default(); BATCH];
        loop {
            let mut hint = hinted(scan, at);
            let count = BATCH.min((scan.to + 1).saturating_sub(at + key));
            if count == 0 {
                return hint.map_or(scan.to, |hint| scan.take(at, hint));
            }
            self.buckets(scan.new, at, &mut buckets[..count]);
            for bucket in &buckets[..count] {
                let expected = scan.aligned(at);
                let found = match bucket.is_empty() {
                    true => None,
                    false => self.best(*bucket, &scan.new[at..], expected),
                };
                let found = found.filter(|found| scan.gains(at, found));
                let hint =
                    hint.take().filter(|hint| found.is_none_or(|found| better(hint, &found, expected)));
                if let Some(candidate) = hint.or(found) {
                    return scan.take(at, candidate);
                }
                at += 1;
            }
            if scan.follow(at) > 0 {
                scan.resume(from, at);
                return at;
            }
        }
    }
}
