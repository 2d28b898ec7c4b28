//! The scan of a new content: which parts of the old one it continues.
//!
//! The scan follows an *alignment*, a fixed distance between places in the new and the old content, as long as nearly all bytes
//! agree. Where they do not, every position is looked up in the index; a candidate that agrees on clearly more bytes than the
//! alignment does becomes the new alignment. The border between the two is put where most bytes agree, as bsdiff does.

use super::compare::{best_backward, best_cut, best_forward, equal_prefix, matches};
use super::index::{Bucket, Candidate, Index};

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

struct Scan<'s> {
    index: &'s Index<'s>,
    old: &'s [u8],
    new: &'s [u8],
    to: usize,
    /// Where the open piece starts.
    start_new: usize,
    start_old: usize,
    pieces: Vec<Piece>,
}

/// Scans `new[from..to]`.
pub(super) fn scan(index: &Index<'_>, new: &[u8], from: usize, to: usize) -> Vec<Piece> {
    let old = index.old;
    let mut scan =
        Scan { index, old, new, to, start_new: from, start_old: from.min(old.len()), pieces: Vec::new() };
    scan.run(from);
    scan.close(to, None);
    scan.pieces
}

impl Scan<'_> {
    /// The place in the old content that the alignment gives for `at`; at most its length.
    fn aligned(&self, at: usize) -> usize {
        (self.start_old + (at - self.start_new)).min(self.old.len())
    }

    fn run(&mut self, from: usize) {
        let mut at = from;
        while at < self.to {
            let followed = self.follow(at);
            if followed > 0 {
                at += followed;
                continue;
            }
            at = self.search(at);
        }
    }

    /// How many bytes from `at` on the alignment can be followed without a look at anything else.
    fn follow(&self, at: usize) -> usize {
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

    /// Looks positions up from `at` on, until an alignment is taken or the current one can be followed again; where to go on.
    fn search(&mut self, mut at: usize) -> usize {
        let from = at;
        let key = self.index.key();
        let mut buckets = [Bucket::default(); BATCH];
        loop {
            let count = BATCH.min((self.to + 1).saturating_sub(at + key));
            if count == 0 {
                return self.to;
            }
            self.index.buckets(self.new, at, &mut buckets[..count]);
            for bucket in &buckets[..count] {
                if !bucket.is_empty()
                    && let Some(candidate) = self.index.best(*bucket, &self.new[at..], self.aligned(at))
                    && self.gains(at, &candidate)
                {
                    return self.take(at, candidate);
                }
                at += 1;
            }
            if self.follow(at) > 0 {
                if at - from >= LONG_GAP {
                    self.close(at, Some(self.aligned(at)));
                }
                return at;
            }
        }
    }

    /// Whether the candidate agrees on clearly more bytes than the current alignment.
    fn gains(&self, at: usize, candidate: &Candidate) -> bool {
        let aligned = self.aligned(at);
        if candidate.position == aligned {
            return false;
        }
        let span = candidate.extension.span;
        let current = matches(&self.old[aligned..], &self.new[at..at + span]);
        candidate.extension.equal > current + GAIN
    }

    /// Makes the candidate the alignment, and closes the open piece.
    fn take(&mut self, at: usize, candidate: Candidate) -> usize {
        self.close(at, Some(candidate.position));
        // The exact length may go beyond the segment.
        (at + candidate.extension.exact).min(self.to)
    }

    /// Ends the open piece at `at`, where the new content continues the old one at `next`, or at its end.
    fn close(&mut self, at: usize, next: Option<usize>) {
        let new = &self.new[self.start_new..at];
        let open_old = &self.old[self.start_old..];
        let mut forward = best_forward(open_old, new);
        let mut backward = next.map_or(0, |next| best_backward(&self.old[..next], new));
        if let Some(next) = next
            && forward + backward > new.len()
        {
            // Both reach over the same bytes: cut where most of them agree.
            let overlap = forward + backward - new.len();
            let shared = &new[forward - overlap..forward];
            let first = &open_old[forward - overlap..forward];
            let second = &self.old[next - backward..next - backward + overlap];
            let cut = best_cut(shared, first, second);
            forward -= overlap - cut;
            backward -= cut;
        }
        let insert = new.len() - forward - backward;
        if forward + insert > 0 {
            self.pieces.push(Piece { new: self.start_new, old: self.start_old, add: forward, insert });
        }
        self.start_new = at - backward;
        self.start_old = next.map_or(self.start_old, |next| next - backward);
    }
}
