//! The matcher: finds the program that makes a new content from an old one.
//!
//! The old content is indexed by hashes of short keys at every step-th position ([`index`]), the step so large that the index stays
//! within a memory limit. The new content is scanned in segments of a fixed length, each by itself, so that any number of threads
//! gives the same program. The work per position is bounded, whatever the contents.

mod compare;
mod hinted;
mod index;
mod quick;
mod scan;

pub use compare::equal_prefix;

use super::compress::Level;
use super::parallel::map;
use super::program::{Builder, Program};
use hinted::{Careful, Hinted};
use index::{Index, Sampling};
use quick::{Quick, Sparse};
pub(crate) use scan::borders;
use scan::{Find, scan};

/// The new content is scanned in segments of this length.
pub const SEGMENT_BYTES: usize = 16 << 20;

/// How to match.
#[derive(Clone, Copy, Debug)]
pub struct MatchOptions {
    /// How hard to try.
    pub level: Level,
    /// The memory of the index, at most, in bytes. A part of the result: another limit may give another program.
    pub index_bytes: u64,
    /// The threads that scan. Not a part of the result.
    pub threads: usize,
}

impl Default for MatchOptions {
    fn default() -> Self {
        Self { level: Level::Default, index_bytes: 512 << 20, threads: 1 }
    }
}

impl MatchOptions {
    fn sampling(&self, old_bytes: u64) -> Sampling {
        let sampling = match (self.level, old_bytes) {
            (Level::Best, 0..0x0100_0000) => Sampling { key: 8, step: 1, depth: 64 },
            (Level::Best, _) => Sampling { key: 16, step: 1, depth: 64 },
            (_, 0..0x0010_0000) => Sampling { key: 8, step: 1, depth: 16 },
            // Odd steps: the tables of executables repeat every 4 or 8 bytes, and an even step would see the same place of each
            // entry every time (esbuild: 216 KB with step 4, 153 KB with step 3).
            (_, 0..0x0800_0000) => Sampling { key: 16, step: 3, depth: 32 },
            (_, 0..0x4000_0000) => Sampling { key: 16, step: 5, depth: 32 },
            (_, _) => Sampling { key: 32, step: 17, depth: 32 },
        };
        sampling.fit(old_bytes, self.index_bytes)
    }

    /// The memory that the index of an old content of this length takes.
    #[must_use]
    pub fn index_memory(&self, old_bytes: u64) -> u64 {
        match self.sparse(old_bytes) {
            Some(sparse) => sparse.memory(),
            None => self.sampling(old_bytes).memory(old_bytes),
        }
    }

    /// How the fast level samples.
    fn sparse(&self, old_bytes: u64) -> Option<Sparse> {
        (self.level == Level::Fast && Sparse::holds(old_bytes))
            .then(|| Sparse::fit(old_bytes, self.index_bytes))
    }
}

/// The program that makes `new` from `old`.
#[must_use]
pub fn diff(old: &[u8], new: &[u8], options: &MatchOptions) -> Program {
    let old_bytes = old.len() as u64;
    match options.sparse(old_bytes) {
        Some(sparse) => make(&Quick::new(old, sparse, options.threads), new, options.threads),
        None => make(&Index::new(old, options.sampling(old_bytes), options.threads), new, options.threads),
    }
}

/// A part of a new content that goes on as an old one does from a place, more or less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) old: usize,
    pub(crate) new: usize,
    pub(crate) bytes: usize,
}

/// As [`diff`], where it is known of most of `new` where it goes on in `old`: by `hints`, which ascend in `new` and do not overlap there.
pub(crate) fn diff_hinted(old: &[u8], new: &[u8], hints: &[Copied], options: &MatchOptions) -> Program {
    if !Sparse::holds(old.len() as u64) {
        return diff(old, new, options);
    }
    make(&Hinted::new(old, new, hints, options.index_bytes, options.threads), new, options.threads)
}

/// As [`diff_hinted`], with the care of [`diff`] where hints tell nothing.
pub(crate) fn diff_careful(old: &[u8], new: &[u8], hints: &[Copied], options: &MatchOptions) -> Program {
    let sampling = options.sampling(old.len() as u64);
    make(&Careful::new(old, new, hints, sampling, options.threads), new, options.threads)
}

/// The program of these copies alone, which ascend in `new` and do not overlap there: what lies between them is inserted.
pub(crate) fn follow(old: &[u8], new: &[u8], copies: &[Copied]) -> Program {
    let (mut builder, mut at) = (Builder::new(), 0);
    for copied in copies {
        builder.insert(&new[at..copied.new]);
        at = copied.new + copied.bytes;
        builder.copy_to(copied.old as u64, &old[copied.old..copied.old + copied.bytes], &new[copied.new..at]);
    }
    builder.insert(&new[at..]);
    builder.finish()
}

fn make<I: Find + Sync>(index: &I, new: &[u8], threads: usize) -> Program {
    let old = index.old();
    let segments = new.len().div_ceil(SEGMENT_BYTES);
    let found = map(threads, segments, |segment| {
        let from = segment * SEGMENT_BYTES;
        scan(index, new, from, new.len().min(from + SEGMENT_BYTES))
    });
    let mut builder = Builder::new();
    for piece in found.into_iter().flatten() {
        let middle = piece.new + piece.add;
        builder.copy_to(piece.old as u64, &old[piece.old..piece.old + piece.add], &new[piece.new..middle]);
        builder.insert(&new[middle..middle + piece.insert]);
    }
    builder.finish()
}

#[cfg(test)]
mod tests;
