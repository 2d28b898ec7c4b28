//! The index of an old content: hashes of keys at every step-th position, in buckets.

use super::compare::{Extension, extend, word};
use crate::engine::parallel::map;
use d4c_sys::{on_threads, prefer_huge_pages, prefetch};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// The logarithm of the most buckets.
const MAX_BITS: u32 = 28;

/// The logarithm of the number of partitions in which buckets are filled; each has at most 2^16 buckets.
const PARTITION_BITS: u32 = 12;

/// Candidates of a bucket that are fetched before they are looked at.
const FETCHED: u32 = 4;

/// A thread is worth its start for so many samples.
const THREAD_SAMPLES: usize = 1 << 16;

/// Up to so many samples an index is filled in one step, as its tables stay in the cache.
const DIRECT_SAMPLES: usize = 1 << 19;

/// Samples of a block, at most.
const BLOCK_SAMPLES: usize = 1 << 14;

/// How an index samples the old content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sampling {
    /// The length of a key in bytes: a multiple of 8.
    pub(super) key: usize,
    /// The distance of two samples.
    pub(super) step: usize,
    /// The candidates looked at per lookup, at most.
    pub(super) depth: usize,
}

impl Sampling {
    fn samples(self, old_bytes: u64) -> u64 {
        match old_bytes.checked_sub(self.key as u64) {
            Some(last) => last / self.step as u64 + 1,
            None => 0,
        }
    }

    /// The logarithm of the number of buckets for so many samples: one to two of them per bucket.
    fn bits(samples: u64) -> u32 {
        (64 - samples.leading_zeros()).saturating_sub(1).clamp(8, MAX_BITS)
    }

    /// The memory of an index of an old content of this length while it is made.
    pub(super) fn memory(self, old_bytes: u64) -> u64 {
        7 * self.samples(old_bytes) + 4 * (1 << Self::bits(self.samples(old_bytes))) + (1 << 20)
    }

    /// The sampling with the step so large that the index fits `limit` bytes.
    pub(super) fn fit(mut self, old_bytes: u64, limit: u64) -> Self {
        // Below 256 samples an index takes next to nothing.
        while self.samples(old_bytes) > 256
            && (self.memory(old_bytes) > limit || self.samples(old_bytes) >= u64::from(u32::MAX))
        {
            self.step += self.step.div_ceil(4);
        }
        self
    }
}

/// A place in the old content, and how it goes on together with the new one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) position: usize,
    pub(super) extension: Extension,
}

/// Whether a candidate goes on better than another, or as well and nearer to `expected`.
#[inline]
pub(super) fn better(candidate: &Candidate, other: &Candidate, expected: usize) -> bool {
    let (score, best) = (candidate.extension.score(), other.extension.score());
    score > best || score == best && candidate.position.abs_diff(expected) < other.position.abs_diff(expected)
}

/// The index.
pub(super) struct Index<'o> {
    pub(super) old: &'o [u8],
    sampling: Sampling,
    shift: u32,
    /// Where each bucket starts in `samples`; one entry more for the end.
    starts: Vec<u32>,
    /// Sample numbers: the position divided by the step; rising within a bucket. So 32 bits do for contents over 4 GiB.
    samples: Vec<u32>,
    /// A byte of each sample's hash, which saves most looks at the old content.
    tags: Vec<u8>,
}

/// The bucket of a key, as a range of sample slots.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    start: u32,
    end: u32,
    tag: u8,
}

impl Bucket {
    #[inline]
    pub(super) fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// The hash of a key of this length.
#[inline]
pub(super) fn hash(bytes: &[u8], at: usize, key: usize) -> u64 {
    const MULTIPLIER: u64 = 0x9fb2_1c65_1e98_df25;
    let mut hash = word(bytes, at).wrapping_mul(MULTIPLIER);
    let mut next = at + 8;
    while next < at + key {
        hash = (hash.rotate_left(29) ^ word(bytes, next)).wrapping_mul(MULTIPLIER);
        next += 8;
    }
    (hash ^ (hash >> 32)).wrapping_mul(MULTIPLIER)
}

/// Samples by number: every `stride`-th, from one on to before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    from: usize,
    to: usize,
    stride: usize,
}

impl Block {
    fn samples(self) -> usize {
        (self.to - self.from).div_ceil(self.stride)
    }
}

/// The keys that are sampled, and where they belong.
#[derive(Clone, Copy)]
struct Keys<'o> {
    old: &'o [u8],
    sampling: Sampling,
    shift: u32,
    local_bits: u32,
}

impl Keys<'_> {
    /// Calls `each` with numbers and hashes of the samples in a block. A key that equals the one before it belongs to a run or to a
    /// table of one value: its first sample stands for all.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "Sampling::fit keeps samples below u32::MAX")]
    #[expect(clippy::inline_always, reason = "it is the body of two hot loops")]
    fn hashes(self, block: Block, mut each: impl FnMut(u32, u64)) {
        let Self { old, sampling: Sampling { key, step, .. }, .. } = self;
        for sample in (block.from..block.to).step_by(block.stride) {
            let at = sample * step;
            let before = at.wrapping_sub(step * block.stride);
            let repeats = sample >= block.stride
                && word(old, at) == word(old, before)
                && old[at..at + key] == old[before..before + key];
            if !repeats {
                each(sample as u32, hash(old, at, key));
            }
        }
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "shifted to at most 12 bits")]
    fn partition(self, hash: u64) -> usize {
        (hash >> self.shift >> self.local_bits) as usize
    }
}

/// Some partitions of an index under way, all within its arrays.
struct Part<'p> {
    partitions: Range<usize>,
    /// Where each of them ends, from the start of the whole index.
    ends: &'p [usize],
    /// Where the first starts.
    start: usize,
    starts: &'p mut [u32],
    samples: &'p mut [u32],
    tags: &'p mut [u8],
}

impl Part<'_> {
    /// Takes the samples whose partitions these are out of all, and sorts them by bucket.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "Sampling::fit keeps samples below u32::MAX, and hashes are shifted to the width they are cast to"
    )]
    fn fill(self, keys: Keys<'_>, blocks: &[Block]) {
        let Self { partitions, ends, start: first_slot, starts, samples, tags } = self;
        let mut next: Vec<usize> = std::iter::once(first_slot).chain(ends.iter().copied()).collect();
        next.pop();
        next.iter_mut().for_each(|slot| *slot -= first_slot);
        let mut locals = vec![0u16; samples.len()];
        let local_mask = (1u64 << keys.local_bits) - 1;
        let mut take = |sample, hash| {
            let partition = keys.partition(hash);
            if !partitions.contains(&partition) {
                return;
            }
            let slot = &mut next[partition - partitions.start];
            samples[*slot] = sample;
            tags[*slot] = hash as u8;
            locals[*slot] = (hash >> keys.shift & local_mask) as u16;
            *slot += 1;
        };
        blocks.iter().for_each(|block| keys.hashes(*block, &mut take));
        let mut start = 0;
        let mut moved: Vec<(u32, u8)> = Vec::new();
        for (slots, &end) in starts.chunks_exact_mut(1 << keys.local_bits).zip(ends) {
            let end = end - first_slot;
            for &local in &locals[start..end] {
                slots[local as usize] += 1;
            }
            let mut total = start as u32;
            for slot in slots.iter_mut() {
                let length = *slot;
                *slot = total;
                total += length;
            }
            moved.clear();
            moved.extend(samples[start..end].iter().copied().zip(tags[start..end].iter().copied()));
            for (&local, &(sample, tag)) in locals[start..end].iter().zip(&moved) {
                let slot = &mut slots[local as usize];
                samples[*slot as usize] = sample;
                tags[*slot as usize] = tag;
                *slot += 1;
            }
            // Each slot is the end of its bucket now, which is the start of the next one.
            slots.copy_within(..slots.len() - 1, 1);
            slots[0] = start as u32;
            slots.iter_mut().for_each(|slot| *slot += first_slot as u32);
            start = end;
        }
    }
}

/// The blocks of so many samples. A part is the offset where it ends, and of how many samples there one is taken.
fn blocks(samples: usize, parts: &[(usize, usize)], step: usize) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut from = 0;
    for &(end, stride) in parts {
        let to = end.div_ceil(step).min(samples);
        while from < to {
            let end = to.min(from + BLOCK_SAMPLES * stride);
            blocks.push(Block { from, to: end, stride });
            from = end;
        }
    }
    blocks
}

impl<'o> Index<'o> {
    /// Indexes `old` with so many threads; the index is the same.
    ///
    /// Samples are sorted by bucket in two steps, first by partitions of the buckets and then within each, as one step would miss
    /// the cache with every sample. Each thread goes over all samples and keeps those of its partitions: hashing them again costs
    /// less than moving them.
    pub(super) fn new(old: &'o [u8], sampling: Sampling, threads: usize) -> Self {
        Self::of_parts(old, &[(old.len(), 1)], sampling, threads)
    }

    /// As [`Index::new`], of some samples: a part of `old` is the offset where it ends, and of how many samples there one is taken.
    #[expect(clippy::cast_possible_truncation, reason = "Sampling::fit keeps samples below u32::MAX")]
    pub(super) fn of_parts(
        old: &'o [u8],
        parts: &[(usize, usize)],
        sampling: Sampling,
        threads: usize,
    ) -> Self {
        let blocks = blocks(sampling.samples(old.len() as u64) as usize, parts, sampling.step);
        let count: usize = blocks.iter().map(|block| block.samples()).sum();
        let bits = Sampling::bits(count as u64);
        let local_bits = bits.saturating_sub(PARTITION_BITS);
        let keys = Keys { old, sampling, shift: 64 - bits, local_bits };
        if sampling.samples(old.len() as u64) <= DIRECT_SAMPLES as u64 {
            return Self::direct(keys, &blocks, bits);
        }
        let threads = threads.clamp(1, count / THREAD_SAMPLES + 1);
        let partitions = 1usize << (bits - local_bits);
        let per_thread = blocks.len().div_ceil(threads).max(1);
        let counts = map(threads, threads, |number| {
            let mut counts = vec![0usize; partitions];
            for block in blocks.iter().skip(number * per_thread).take(per_thread) {
                keys.hashes(*block, |_, hash| counts[keys.partition(hash)] += 1);
            }
            counts
        });
        let mut total = 0;
        let mut ends = Vec::with_capacity(partitions);
        for partition in 0..partitions {
            total += counts.iter().map(|counts| counts[partition]).sum::<usize>();
            ends.push(total);
        }
        let mut starts = vec![0u32; (1usize << bits) + 1];
        let mut samples = vec![0u32; total];
        let mut tags = vec![0u8; total];
        prefer_huge_pages(&mut starts);
        prefer_huge_pages(&mut samples);
        prefer_huge_pages(&mut tags);
        starts[1 << bits] = total as u32;
        let (mut rest_starts, mut rest_samples, mut rest_tags) =
            (&mut starts[..1 << bits], &mut samples[..], &mut tags[..]);
        let (mut first, mut start) = (0, 0);
        let mut parts = Vec::new();
        for number in 1..=threads {
            let last = match number == threads {
                true => partitions,
                // About as many samples each.
                false => ends.partition_point(|&end| end < total / threads * number).max(first),
            };
            let end = if last > first { ends[last - 1] } else { start };
            let (part_starts, after) = rest_starts.split_at_mut((last - first) << local_bits);
            rest_starts = after;
            let (part_samples, after) = rest_samples.split_at_mut(end - start);
            rest_samples = after;
            let (part_tags, after) = rest_tags.split_at_mut(end - start);
            rest_tags = after;
            parts.push(Part {
                partitions: first..last,
                ends: &ends[first..last],
                start,
                starts: part_starts,
                samples: part_samples,
                tags: part_tags,
            });
            (first, start) = (last, end);
        }
        let parts = Mutex::new(parts);
        let next = || parts.lock().unwrap_or_else(PoisonError::into_inner).pop();
        on_threads(threads, || {
            while let Some(part) = next() {
                part.fill(keys, &blocks);
            }
        });
        drop(parts);
        Self { old, sampling, shift: keys.shift, starts, samples, tags }
    }

    /// The same index of few samples: each is hashed once, and sorted by bucket in one step.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "there are at most DIRECT_SAMPLES, in no more buckets; the low byte of a hash"
    )]
    fn direct(keys: Keys<'o>, blocks: &[Block], bits: u32) -> Self {
        const NONE: u32 = u32::MAX;
        let Keys { old, sampling, shift, .. } = keys;
        let mut starts = vec![0u32; (1usize << bits) + 1];
        // Of each sample its bucket and its tag.
        let mut places = vec![NONE; blocks.last().map_or(0, |block| block.to)];
        let mut total = 0;
        for block in blocks {
            keys.hashes(*block, |sample, hash| {
                let bucket = (hash >> shift) as u32;
                starts[bucket as usize] += 1;
                places[sample as usize] = bucket << 8 | u32::from(hash as u8);
                total += 1;
            });
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += std::mem::replace(start, sum);
        }
        let (mut samples, mut tags) = (vec![0u32; total], vec![0u8; total]);
        for (sample, &place) in places.iter().enumerate().filter(|&(_, &place)| place != NONE) {
            let slot = &mut starts[(place >> 8) as usize];
            samples[*slot as usize] = sample as u32;
            tags[*slot as usize] = place as u8;
            *slot += 1;
        }
        // Each is the end of its bucket now, which is the start of the next one.
        starts.copy_within(..1 << bits, 1);
        starts[0] = 0;
        Self { old, sampling, shift, starts, samples, tags }
    }

    /// The length of a key.
    pub(super) fn key(&self) -> usize {
        self.sampling.key
    }

    /// The buckets of the keys from `at` on in `new`, which must have as many whole keys there, and what they will be looked at for
    /// on its way to the cache.
    #[inline]
    pub(super) fn buckets(&self, new: &[u8], at: usize, buckets: &mut [Bucket]) {
        for (offset, bucket) in buckets.iter_mut().enumerate() {
            let hash = hash(new, at + offset, self.sampling.key);
            #[expect(
                clippy::cast_possible_truncation,
                reason = "shifted to at most 28 bits, and the low byte"
            )]
            let (place, tag) = ((hash >> self.shift) as u32, hash as u8);
            prefetch(&self.starts, place as usize);
            *bucket = Bucket { start: place, end: place, tag };
        }
        for bucket in buckets.iter_mut() {
            let place = bucket.start as usize;
            (bucket.start, bucket.end) = (self.starts[place], self.starts[place + 1]);
            if !bucket.is_empty() {
                prefetch(&self.tags, bucket.start as usize);
            }
        }
        for bucket in buckets {
            // Of large ones only a part is looked at, and not the first.
            let range = bucket.start as usize..bucket.end.min(bucket.start.saturating_add(FETCHED)) as usize;
            // Few have a tag that is right by chance: the rest is not even fetched.
            let start = range.start;
            for (number, _) in self.tags[range].iter().enumerate().filter(|&(_, &tag)| tag == bucket.tag) {
                prefetch(self.old, self.samples[start + number] as usize * self.sampling.step);
            }
        }
    }

    /// The candidate of a bucket that goes on best with `new`; of equally good ones the nearest to `expected`.
    pub(super) fn best(&self, bucket: Bucket, new: &[u8], expected: usize) -> Option<Candidate> {
        let Sampling { key, step, depth } = self.sampling;
        let range = bucket.start as usize..bucket.end as usize;
        let (mut slots, mut tags) = (&self.samples[range.clone()], &self.tags[range]);
        if slots.len() > depth {
            let middle = slots.partition_point(|&sample| (sample as usize) * step < expected);
            let start = middle.saturating_sub(depth / 2).min(slots.len() - depth);
            slots = &slots[start..start + depth];
            tags = &tags[start..start + depth];
        }
        let mut best: Option<Candidate> = None;
        for (&sample, _) in slots.iter().zip(tags).filter(|&(_, &tag)| tag == bucket.tag) {
            let position = sample as usize * step;
            if word(self.old, position) != word(new, 0) {
                continue;
            }
            let extension = extend(&self.old[position..], new);
            if extension.exact < key {
                continue;
            }
            let candidate = Candidate { position, extension };
            if best.is_none_or(|best| better(&candidate, &best, expected)) {
                best = Some(candidate);
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_sampled_key() {
        let old: Vec<u8> = (0u32..4000).flat_map(|i| (i.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
        for (key, step) in [(8, 1), (16, 4), (32, 16), (16, 7)] {
            let index = Index::new(&old, Sampling { key, step, depth: 32 }, 1);
            for at in (0..=old.len() - key).step_by(step) {
                let mut bucket = [Bucket::default()];
                index.buckets(&old, at, &mut bucket);
                let found = index.best(bucket[0], &old[at..], at).unwrap();
                assert_eq!(found.position, at);
            }
        }
    }

    #[test]
    fn small_and_uniform_contents() {
        for length in [0usize, 7, 8, 9, 1000] {
            let old = vec![0u8; length];
            let index = Index::new(&old, Sampling { key: 8, step: 1, depth: 4 }, 2);
            assert!(index.samples.len() <= 1);
        }
    }

    #[test]
    fn of_parts_only_some_samples_are_there() {
        let old: Vec<u8> =
            (0u32..60_000).flat_map(|i| (i.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
        let sampling = Sampling { key: 16, step: 3, depth: 32 };
        let parts = [(90_001, 5), (150_000, 1), (old.len(), 7)];
        let index = Index::of_parts(&old, &parts, sampling, 2);
        let mut samples = index.samples.clone();
        samples.sort_unstable();
        let last = u32::try_from((old.len() - 16) / 3).unwrap();
        let wanted = (0..30_001).step_by(5).chain(30_001..50_000).chain((50_000..=last).step_by(7));
        assert!(samples.into_iter().eq(wanted));
        let one = Index::of_parts(&old, &parts, sampling, 1);
        assert_eq!((&one.starts, &one.samples, &one.tags), (&index.starts, &index.samples, &index.tags));
    }

    #[test]
    fn is_the_same_for_any_number_of_threads() {
        let old: Vec<u8> =
            (0u32..200_000).flat_map(|i| (i / 3).wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let sampling = Sampling { key: 16, step: 3, depth: 32 };
        let one = Index::new(&old, sampling, 1);
        for threads in [2, 3, 8] {
            let other = Index::new(&old, sampling, threads);
            assert_eq!((&one.starts, &one.samples, &one.tags), (&other.starts, &other.samples, &other.tags));
        }
    }

    #[test]
    fn fits_memory() {
        let sampling = Sampling { key: 16, step: 4, depth: 32 };
        for bytes in [0, 1 << 10, 96 << 20, 565 << 20, 40 << 30, 1 << 44] {
            let fitted = sampling.fit(bytes, 64 << 20);
            assert!(fitted.memory(bytes) <= 64 << 20);
            assert!(fitted.samples(bytes) < u64::from(u32::MAX));
        }
        assert_eq!(sampling.fit(96 << 20, 1 << 30), sampling);
    }
}
