//! Builds a program from copies and insertions.

use super::{Program, STREAMS, StreamKind};
use crate::engine::varint;

/// Collects copies and insertions in the order of the new content. What continues an operation is merged into it, so a caller may
/// hand over pieces of any length.
#[derive(Debug, Default)]
pub struct Builder {
    program: Program,
    /// Where the operation before the current one stopped in the old content.
    stopped: u64,
    /// The current operation: where it starts in the old content, and its lengths.
    start: u64,
    add: u64,
    insert: u64,
    /// The current run of differences.
    zeros: u64,
    nonzeros: u64,
}

impl Builder {
    /// An empty program.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the current operation one that adds from `position` of the old content.
    fn seek(&mut self, position: u64) {
        if self.insert > 0 || self.start + self.add != position {
            self.flush_op();
            self.start = position;
        }
    }

    fn flush_op(&mut self) {
        if self.add == 0 && self.insert == 0 {
            return;
        }
        self.put(StreamKind::AddLengths, self.add);
        self.put(StreamKind::InsertLengths, self.insert);
        self.put(
            StreamKind::Seeks,
            varint::zigzag(self.start.cast_signed().wrapping_sub(self.stopped.cast_signed())),
        );
        self.program.ops += 1;
        self.program.out_bytes += self.add + self.insert;
        self.stopped = self.start + self.add;
        self.start = self.stopped;
        self.add = 0;
        self.insert = 0;
    }

    fn put(&mut self, kind: StreamKind, value: u64) {
        varint::put(&mut self.program.streams[kind.index()], value);
    }

    fn zero_differences(&mut self, count: u64) {
        if count == 0 {
            return;
        }
        if self.nonzeros > 0 {
            self.put(StreamKind::NonzeroRuns, self.nonzeros);
            self.nonzeros = 0;
        }
        self.zeros += count;
    }

    fn nonzero_differences(&mut self, differences: impl ExactSizeIterator<Item = u8>) {
        if differences.len() == 0 {
            return;
        }
        if self.nonzeros == 0 {
            self.put(StreamKind::ZeroRuns, self.zeros);
            self.zeros = 0;
        }
        self.nonzeros += differences.len() as u64;
        self.program.streams[StreamKind::Nonzero.index()].extend(differences);
    }

    /// Copies `count` bytes from `position` of the old content.
    pub fn copy(&mut self, position: u64, count: u64) {
        if count > 0 {
            self.seek(position);
            self.add += count;
            self.zero_differences(count);
        }
    }

    /// Copies from `position` of the old content with these differences added.
    pub fn copy_add(&mut self, position: u64, differences: &[u8]) {
        if differences.is_empty() {
            return;
        }
        self.seek(position);
        self.add += differences.len() as u64;
        let mut rest = differences;
        while !rest.is_empty() {
            let zeros = rest.iter().take_while(|&&byte| byte == 0).count();
            self.zero_differences(zeros as u64);
            rest = &rest[zeros..];
            let nonzeros = rest.iter().take_while(|&&byte| byte != 0).count();
            self.nonzero_differences(rest[..nonzeros].iter().copied());
            rest = &rest[nonzeros..];
        }
    }

    /// Makes `new` from the equally long `old`, which starts at `position` of the old content.
    pub fn copy_to(&mut self, position: u64, old: &[u8], new: &[u8]) {
        let count = old.len().min(new.len());
        if count == 0 {
            return;
        }
        self.seek(position);
        self.add += count as u64;
        let (mut old, mut new) = (&old[..count], &new[..count]);
        while !new.is_empty() {
            let equal = crate::engine::matcher::equal_prefix(old, new);
            self.zero_differences(equal as u64);
            (old, new) = (&old[equal..], &new[equal..]);
            let unequal = old.iter().zip(new).take_while(|(old, new)| old != new).count();
            self.nonzero_differences(
                old[..unequal].iter().zip(&new[..unequal]).map(|(old, new)| new.wrapping_sub(*old)),
            );
            (old, new) = (&old[unequal..], &new[unequal..]);
        }
    }

    /// Inserts `bytes`.
    pub fn insert(&mut self, bytes: &[u8]) {
        self.insert += bytes.len() as u64;
        self.program.streams[StreamKind::Inserted.index()].extend_from_slice(bytes);
    }

    /// The length of all streams so far, about.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.program.raw_bytes()
    }

    /// The program.
    #[must_use]
    pub fn finish(mut self) -> Program {
        self.flush_op();
        if self.nonzeros > 0 {
            self.put(StreamKind::NonzeroRuns, self.nonzeros);
        } else if self.zeros > 0 {
            self.put(StreamKind::ZeroRuns, self.zeros);
        }
        const { assert!(STREAMS == 7) };
        self.program
    }
}
