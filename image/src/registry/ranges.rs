//! Which bytes of a blob are there, and the record of it behind them in their file.
//!
//! Layout of the record, all numbers little-endian, [`SLOT_BYTES`] in all: magic (8 bytes), number of the record, size of the blob, number of
//! ranges, then start and end of each range (8 bytes each), zeros, and in the last 32 bytes the SHA-256 of what stands before.

use std::collections::VecDeque;
use std::ops::Range;

use dimg::Digest;

/// Bytes of one record.
pub(super) const SLOT_BYTES: usize = 4096;
const MAGIC: [u8; 8] = *b"d4cpart\x01";
const SUM_BYTES: usize = 32;
const HEAD_BYTES: usize = 32;
const RANGE_BYTES: usize = 16;
/// Ranges that a record has at most; there are hardly more than downloads at the same time.
const MAX_RANGES: usize = (SLOT_BYTES - HEAD_BYTES - SUM_BYTES) / RANGE_BYTES;

/// Ranges of bytes, none empty, in their order, with gaps between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// The first `bytes`.
    pub(super) fn front(bytes: u64) -> Self {
        Self(if bytes == 0 { Vec::new() } else { vec![Range { start: 0, end: bytes }] })
    }

    /// Adds a range; it may overlap others.
    pub(super) fn add(&mut self, mut new: Range<u64>) {
        if new.is_empty() {
            return;
        }
        let first = self.0.partition_point(|range| range.end < new.start);
        let behind = self.0.partition_point(|range| range.start <= new.end);
        if let Some(range) = self.0.get(first..behind).and_then(<[_]>::first) {
            new.start = new.start.min(range.start);
        }
        if let Some(range) = self.0.get(first..behind).and_then(<[_]>::last) {
            new.end = new.end.max(range.end);
        }
        self.0.splice(first..behind.max(first), [new]);
    }

    /// How many bytes they are.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// What the first `size` bytes lack, in order.
    pub(super) fn missing(&self, size: u64) -> VecDeque<Range<u64>> {
        let mut gaps = VecDeque::new();
        let mut at = 0;
        let end = Range { start: size, end: size };
        for range in self.0.iter().chain([&end]) {
            let to = range.start.min(size);
            if at < to {
                gaps.push_back(at..to);
            }
            at = at.max(range.end);
        }
        gaps
    }

    /// The record with this number, of a blob of `size` bytes. Ranges that have no room in it are fetched again.
    pub(super) fn record(&self, number: u64, size: u64) -> Vec<u8> {
        let told = &self.0[..self.0.len().min(MAX_RANGES)];
        let mut slot = Vec::with_capacity(SLOT_BYTES);
        slot.extend(MAGIC);
        for value in [number, size, told.len() as u64] {
            slot.extend(value.to_le_bytes());
        }
        for range in told {
            slot.extend(range.start.to_le_bytes());
            slot.extend(range.end.to_le_bytes());
        }
        slot.resize(SLOT_BYTES - SUM_BYTES, 0);
        let sum = Digest::of(&slot);
        slot.extend(sum.0);
        slot
    }

    /// Reads a record: its number, the size of the blob, and the ranges. None where it is not one, whole and sensible.
    pub(super) fn of_record(slot: &[u8]) -> Option<(u64, u64, Self)> {
        let slot: &[u8; SLOT_BYTES] = slot.try_into().ok()?;
        let (told, sum) = slot.split_at(SLOT_BYTES - SUM_BYTES);
        if !told.starts_with(&MAGIC) || Digest::of(told).0 != *sum {
            return None;
        }
        let number = |at: usize| Some(u64::from_le_bytes(told.get(at..at + 8)?.try_into().ok()?));
        let (sequence, size) = (number(8)?, number(16)?);
        let count = usize::try_from(number(24)?).ok().filter(|&count| count <= MAX_RANGES)?;
        let mut ranges = Vec::with_capacity(count);
        let mut before = None;
        for index in 0..count {
            let at = HEAD_BYTES + index * RANGE_BYTES;
            let range = number(at)?..number(at + 8)?;
            if range.is_empty() || range.end > size || before.is_some_and(|before| before >= range.start) {
                return None;
            }
            before = Some(range.end);
            ranges.push(range);
        }
        Some((sequence, size, Self(ranges)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ranges: &[Range<u64>]) -> Ranges {
        let mut all = Ranges::default();
        ranges.iter().for_each(|range| all.add(range.clone()));
        all
    }

    #[test]
    fn ranges_grow_together() {
        assert_eq!(of(&[5..7, 0..2, 9..9]).0, [0..2, 5..7]);
        assert_eq!(of(&[5..7, 0..2, 2..5]).0, [Range { start: 0, end: 7 }]);
        assert_eq!(of(&[0..2, 4..6, 8..10, 1..9]).0, [Range { start: 0, end: 10 }]);
        assert_eq!(of(&[4..6, 4..5, 3..8, 20..21]).0, [3..8, 20..21]);
        assert_eq!(of(&[0..2, 5..7]).bytes(), 4);
        assert_eq!(Ranges::front(0), Ranges::default());
    }

    #[test]
    fn any_order_leads_to_the_same() {
        // Against a plain map of bytes, for all sets of three ranges of a short blob.
        let all: Vec<Range<u64>> = (0..6).flat_map(|a| (a + 1..=6).map(move |b| a..b)).collect();
        for a in &all {
            for b in &all {
                for c in &all {
                    let ranges = of(&[a.clone(), b.clone(), c.clone()]);
                    let there = |byte: &u64| [a, b, c].iter().any(|range| range.contains(byte));
                    let missing: Vec<u64> = (0..6).filter(|byte| !there(byte)).collect();
                    assert_eq!(ranges.missing(6).into_iter().flatten().collect::<Vec<_>>(), missing);
                    assert_eq!(ranges.bytes(), 6 - missing.len() as u64);
                    assert!(ranges.0.windows(2).all(|two| two[0].end < two[1].start), "{ranges:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_missing() {
        assert_eq!(Ranges::default().missing(5), [Range { start: 0, end: 5 }]);
        assert_eq!(Ranges::default().missing(0), []);
        assert_eq!(of(&[0..2, 5..7]).missing(10), [2..5, 7..10]);
        assert_eq!(of(&[0..20, 22..30]).missing(10), []);
        assert_eq!(Ranges::default().missing(u64::MAX).len(), 1);
    }

    #[test]
    fn records_are_read_again_or_refused() {
        let ranges = of(&[0..2, 5..7, 1 << 40..1 << 41]);
        let slot = ranges.record(9, 1 << 41);
        assert_eq!(slot.len(), SLOT_BYTES);
        assert_eq!(Ranges::of_record(&slot), Some((9, 1 << 41, ranges.clone())));
        for at in 0..SLOT_BYTES {
            let mut wrong = slot.clone();
            wrong[at] ^= 1;
            assert_eq!(Ranges::of_record(&wrong), None, "byte {at}");
        }
        assert_eq!(Ranges::of_record(&slot[1..]), None);
        // A sum over nonsense.
        let too_long = ranges.record(9, 6);
        assert_eq!(Ranges::of_record(&too_long), None);
        let many = Ranges((0..1000).map(|number| 2 * number..2 * number + 1).collect());
        let (_, _, read) = Ranges::of_record(&many.record(1, 5000)).unwrap();
        assert_eq!(read.0, many.0[..MAX_RANGES]);
    }
}
