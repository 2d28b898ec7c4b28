//! The index of an old content: hashes of keys at every step-th position, in buckets.

use super::compare::{Extension, extend, word};

/// The logarithm of the most buckets.
const MAX_BITS: u32 = 28;

/// The logarithm of the number of partitions in which buckets are filled; each has at most 2^16 buckets.
const PARTITION_BITS: u32 = 12;

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

    /// The logarithm of the number of buckets: one to two samples per bucket.
    fn bits(self, old_bytes: u64) -> u32 {
        (64 - self.samples(old_bytes).leading_zeros()).saturating_sub(1).clamp(8, MAX_BITS)
    }

    /// The memory of an index of an old content of this length while it is made.
    pub(super) fn memory(self, old_bytes: u64) -> u64 {
        7 * self.samples(old_bytes) + 4 * (1 << self.bits(old_bytes)) + (1 << 20)
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

#[inline]
fn hash(bytes: &[u8], at: usize, key: usize) -> u64 {
    const MULTIPLIER: u64 = 0x9fb2_1c65_1e98_df25;
    let mut hash = word(bytes, at).wrapping_mul(MULTIPLIER);
    let mut next = at + 8;
    while next < at + key {
        hash = (hash.rotate_left(29) ^ word(bytes, next)).wrapping_mul(MULTIPLIER);
        next += 8;
    }
    (hash ^ (hash >> 32)).wrapping_mul(MULTIPLIER)
}

impl<'o> Index<'o> {
    /// Indexes `old`.
    ///
    /// Samples are sorted by bucket in two steps, first by partitions of the buckets and then within each, as one step would miss
    /// the cache with every sample.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "Sampling::fit keeps samples below u32::MAX, and hashes are shifted to the width they are cast to"
    )]
    pub(super) fn new(old: &'o [u8], sampling: Sampling) -> Self {
        let Sampling { key, step, .. } = sampling;
        let bits = sampling.bits(old.len() as u64);
        let shift = 64 - bits;
        let local_bits = bits.saturating_sub(PARTITION_BITS);
        let count = sampling.samples(old.len() as u64) as usize;
        // A key that equals the one before it belongs to a run or to a table of one value: its first sample stands for all.
        let hashes = || {
            (0..count).filter_map(|sample| {
                let at = sample * step;
                let repeats = sample > 0
                    && word(old, at) == word(old, at - step)
                    && old[at..at + key] == old[at - step..at - step + key];
                (!repeats).then(|| (sample as u32, hash(old, at, key)))
            })
        };
        let partition_of = |hash: u64| (hash >> shift >> local_bits) as usize;
        let mut ends = vec![0usize; 1 << (bits - local_bits)];
        for (_, hash) in hashes() {
            ends[partition_of(hash)] += 1;
        }
        let mut total = 0;
        for end in &mut ends {
            let length = *end;
            *end = total;
            total += length;
        }
        let mut samples = vec![0u32; total];
        let mut tags = vec![0u8; total];
        let mut locals = vec![0u16; total];
        let local_mask = (1u64 << local_bits) - 1;
        for (sample, hash) in hashes() {
            // Each end is the start of its partition first, and moves on.
            let slot = &mut ends[partition_of(hash)];
            samples[*slot] = sample;
            tags[*slot] = hash as u8;
            locals[*slot] = (hash >> shift & local_mask) as u16;
            *slot += 1;
        }
        let mut starts = vec![0u32; (1usize << bits) + 1];
        let mut start = 0;
        let mut moved: Vec<(u32, u8)> = Vec::new();
        for (partition, &end) in ends.iter().enumerate() {
            let first = partition << local_bits;
            let slots = &mut starts[first..first + (1 << local_bits)];
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
            start = end;
        }
        starts[1 << bits] = start as u32;
        Self { old, sampling, shift, starts, samples, tags }
    }

    /// The length of a key.
    pub(super) fn key(&self) -> usize {
        self.sampling.key
    }

    /// The bucket of the key at `at` in `new`, which must have a whole key there.
    #[inline]
    pub(super) fn bucket(&self, new: &[u8], at: usize) -> Bucket {
        let hash = hash(new, at, self.sampling.key);
        #[expect(clippy::cast_possible_truncation, reason = "shifted to at most 28 bits, and the low byte")]
        let (bucket, tag) = ((hash >> self.shift) as usize, hash as u8);
        Bucket { start: self.starts[bucket], end: self.starts[bucket + 1], tag }
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
            let better = best.is_none_or(|best| {
                extension.score() > best.extension.score()
                    || extension.score() == best.extension.score()
                        && position.abs_diff(expected) < best.position.abs_diff(expected)
            });
            if better {
                best = Some(Candidate { position, extension });
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
            let index = Index::new(&old, Sampling { key, step, depth: 32 });
            for at in (0..=old.len() - key).step_by(step) {
                let found = index.best(index.bucket(&old, at), &old[at..], at).unwrap();
                assert_eq!(found.position, at);
            }
        }
    }

    #[test]
    fn small_and_uniform_contents() {
        for length in [0usize, 7, 8, 9, 1000] {
            let old = vec![0u8; length];
            let index = Index::new(&old, Sampling { key: 8, step: 1, depth: 4 });
            assert!(index.samples.len() <= 1);
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
