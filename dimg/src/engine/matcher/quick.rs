//! The index of the fast level and of first looks: few keys of the old content, at places that their own bytes choose.
//!
//! A key is taken where a hash of its first bytes, of eight bits, has a given value in its top bits. The new content's keys are looked
//! up at such places only, so that both sides take one look-up in 16 bytes or fewer and still find whatever long enough they have in
//! common, wherever it lies. That hash is made of many places at once, by operations on bytes that compilers make vectors of.

use super::compare::{extend, word};
use super::index::{Candidate, better, hash};
use super::scan::{Find, Scan};
use crate::engine::parallel::map;
use d4c_sys::{Wide, prefer_huge_pages, prefetch, with_vectors};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Keys of a bucket, at most: the last ones.
const WAYS: usize = 4;
/// Keys of a bucket on average.
const LOAD: u64 = 2;
/// Bytes of the new content between two looks at whether the alignment goes on, or a hint does.
const LOOK: usize = 32;
/// Places that are looked at together.
const BLOCK: usize = 256;
/// Those of which it is told at once whether they are chosen.
const MARKED: usize = 64;
/// Bytes by which a key is chosen.
const CHOICE: usize = 6;
/// Keys that are entered together.
const WAITING: usize = 64;
/// A thread is worth its start for so many bytes.
const THREAD_BYTES: usize = 4 << 20;

/// Which keys are taken, and the room for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sparse {
    /// The length of a key in bytes: a multiple of 8.
    pub(super) key: usize,
    /// The logarithm of how many places there are to a key; at most 8.
    pub(super) bits: u32,
    /// Buckets.
    buckets: u32,
}

impl Sparse {
    /// For an old content of this length, an index of at most `limit` bytes.
    pub(super) fn fit(old_bytes: u64, limit: u64) -> Self {
        let (key, bits) = if old_bytes < 0x0004_0000 { (8, 2) } else { (16, 4) };
        let sparse = Self { key, bits, buckets: 0 };
        let most = (limit / (WAYS * 8) as u64).saturating_sub(1);
        let buckets = ((old_bytes >> bits) / LOAD + 1).min(most).max(1);
        Self { buckets: u32::try_from(buckets).unwrap_or(u32::MAX), ..sparse }
    }

    /// Whether such an index can tell all places of an old content of this length.
    pub(super) fn holds(old_bytes: u64) -> bool {
        old_bytes < u64::from(u32::MAX)
    }

    /// The memory of the index.
    pub(super) fn memory(self) -> u64 {
        (u64::from(self.buckets) + 1) * (WAYS * 8) as u64
    }

    /// Puts those of the places `from` to before `to` that are chosen into `places`, and how many they are; of a run of places with
    /// the same eight bytes only the first. At most [`BLOCK`] places; a key has to be there at each.
    #[inline]
    fn choose(self, bytes: &[u8], from: usize, to: usize, places: &mut [usize; BLOCK]) -> usize {
        let (mut count, mut before) = (0, 0);
        for from in (from..to.min(from + BLOCK)).step_by(MARKED) {
            let mut bits = with_vectors(Mark { sparse: self, bytes, from });
            while bits != 0 {
                let at = from + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                if at >= to {
                    return count;
                }
                let word = word(bytes, at);
                places[count] = at;
                count += usize::from(word != before);
                before = word;
            }
        }
        count
    }
}

/// Telling which of the places from `from` on are chosen: a bit for each.
struct Mark<'b> {
    sparse: Sparse,
    bytes: &'b [u8],
    from: usize,
}

impl Wide for Mark<'_> {
    type Output = u64;

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "to be compiled for wider vectors")]
    fn run(self) -> u64 {
        let Self { sparse, bytes, from } = self;
        let mut tail = [0; MARKED + CHOICE];
        let block: &[u8; MARKED + CHOICE] = match bytes.get(from..).and_then(<[u8]>::first_chunk) {
            Some(block) => block,
            None => {
                let rest = bytes.get(from..).unwrap_or_default();
                tail[..rest.len()].copy_from_slice(rest);
                &tail
            }
        };
        // Not zero, as that is the hash of zeros.
        let (mask, value) = (!(0xffu32 >> sparse.bits), 0xb4u8);
        let mask = mask.to_le_bytes()[0];
        let mut chosen = [0u8; MARKED];
        for (at, chosen) in chosen.iter_mut().enumerate() {
            let mut hash = block[at];
            hash = hash.rotate_left(3).wrapping_add(block[at + 1]);
            hash = hash.rotate_left(3) ^ block[at + 2];
            hash = hash.rotate_left(3).wrapping_add(block[at + 3]);
            hash = hash.rotate_left(3) ^ block[at + 4];
            hash = hash.rotate_left(3).wrapping_add(block[at + 5]);
            *chosen = u8::from((hash ^ value) & mask == 0);
        }
        let mut bits = 0u64;
        for (number, marks) in chosen.chunks_exact(8).enumerate() {
            // Bit 8k moves to bit 56 + k.
            bits |= (word(marks, 0).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * number);
        }
        bits
    }
}

/// The index.
pub(super) struct Quick<'o> {
    old: &'o [u8],
    sparse: Sparse,
    /// Buckets one after the other; an entry is 32 bits of its key's hash, then its position + 1. Zero is none.
    entries: Vec<u64>,
    /// Where the first bucket starts: on a cache line.
    skip: usize,
}

/// Puts entries into their buckets, before those that are there.
fn enter(share: &mut [u64], entries: &[(usize, u64)]) {
    for &(bucket, entry) in entries {
        let bucket = &mut share[bucket * WAYS..][..WAYS];
        bucket.copy_within(..WAYS - 1, 1);
        bucket[0] = entry;
    }
}

/// A key of the new content.
#[derive(Clone, Copy, Default)]
struct Key {
    at: usize,
    bucket: usize,
    tag: u64,
}

/// Room for the keys of a block, which is not made anew for each search.
pub(super) struct Found {
    places: [usize; BLOCK],
    keys: [Key; BLOCK],
}

impl Default for Found {
    fn default() -> Self {
        Self { places: [0; BLOCK], keys: [Key::default(); BLOCK] }
    }
}

impl<'o> Quick<'o> {
    /// Indexes `old` with so many threads; the index is the same.
    pub(super) fn new(old: &'o [u8], sparse: Sparse, threads: usize) -> Self {
        Self::of_parts(old, std::slice::from_ref(&(0..old.len())), sparse, threads)
    }

    /// As [`Quick::new`], of keys that start in these parts of `old` alone, which ascend.
    pub(super) fn of_parts(old: &'o [u8], parts: &[Range<usize>], sparse: Sparse, threads: usize) -> Self {
        let buckets = usize::try_from(sparse.buckets).unwrap_or(usize::MAX);
        let mut entries = vec![0u64; (buckets + 2) * WAYS];
        prefer_huge_pages(&mut entries);
        let skip = entries.as_ptr().align_offset(WAYS * 16).min(2 * WAYS);
        let mut quick = Self { old, sparse, entries: Vec::new(), skip };
        let threads = threads.clamp(1, old.len() / THREAD_BYTES + 1);
        let per_thread = buckets.div_ceil(threads);
        let whole = &mut entries[skip..skip + buckets * WAYS];
        let shares = Mutex::new(whole.chunks_mut(per_thread * WAYS).map(Some).collect::<Vec<_>>());
        // Each goes over all keys and keeps those of its buckets.
        map(threads, threads, |number| {
            let mut shares = shares.lock().unwrap_or_else(PoisonError::into_inner);
            let share = shares.get_mut(number).and_then(Option::take);
            drop(shares);
            if let Some(share) = share {
                quick.fill(parts, number * per_thread, share);
            }
        });
        drop(shares);
        quick.entries = entries;
        quick
    }

    /// Puts the keys whose buckets are those from `first` on into `share`, which has these buckets.
    fn fill(&self, parts: &[Range<usize>], first: usize, share: &mut [u64]) {
        let buckets = share.len() / WAYS;
        let Some(last) = (self.old.len() + 1).checked_sub(self.sparse.key) else { return };
        let mut places = [0; BLOCK];
        // Their buckets are on their way to the cache meanwhile.
        let mut waiting: Vec<(usize, u64)> = Vec::with_capacity(WAITING + BLOCK);
        let blocks = parts.iter().flat_map(|part| {
            let to = part.end.min(last);
            (part.start..to).step_by(BLOCK).map(move |from| (from, to.min(from + BLOCK)))
        });
        for (from, to) in blocks {
            let count = self.sparse.choose(self.old, from, to, &mut places);
            for &at in &places[..count] {
                let (bucket, tag) = self.place(hash(self.old, at, self.sparse.key));
                let bucket = bucket.wrapping_sub(first);
                if bucket < buckets {
                    prefetch(share, bucket * WAYS);
                    waiting.push((bucket, tag << 32 | (at as u64 + 1)));
                }
            }
            if waiting.len() >= WAITING {
                enter(share, &waiting);
                waiting.clear();
            }
        }
        enter(share, &waiting);
    }

    /// Bucket and tag of a key with this hash.
    #[inline]
    fn place(&self, hash: u64) -> (usize, u64) {
        // Less than the number of buckets.
        let bucket = ((hash >> 32) * u64::from(self.sparse.buckets)) >> 32;
        (usize::try_from(bucket).unwrap_or(0), hash & 0xffff_ffff)
    }

    /// Where the keys in a bucket stand that may be `key`.
    #[inline]
    fn positions(&self, key: Key) -> impl Iterator<Item = usize> {
        let bucket = &self.entries[self.skip + key.bucket * WAYS..][..WAYS];
        let equal = bucket.iter().filter(move |&&entry| entry >> 32 == key.tag && entry != 0);
        equal.map(|&entry| usize::try_from((entry & 0xffff_ffff).wrapping_sub(1)).unwrap_or(usize::MAX))
    }

    /// The candidate that goes on best with `new`, which begins with `key`; of equally good ones the nearest to `expected`.
    fn best(&self, key: Key, new: &[u8], expected: usize) -> Option<Candidate> {
        let mut best: Option<Candidate> = None;
        for position in self.positions(key) {
            if position.saturating_add(8) > self.old.len() || word(self.old, position) != word(new, 0) {
                continue;
            }
            let extension = extend(&self.old[position..], new);
            if extension.exact < self.sparse.key {
                continue;
            }
            let candidate = Candidate { position, extension };
            if best.is_none_or(|best| better(&candidate, &best, expected)) {
                best = Some(candidate);
            }
        }
        best
    }

    /// The keys of `new` that are taken from `from` to before `to`, at most [`BLOCK`] bytes on, on their way to the cache.
    fn keys<'f>(&self, new: &[u8], from: usize, to: usize, found: &'f mut Found) -> &'f [Key] {
        let Some(last) = (new.len() + 1).checked_sub(self.sparse.key) else { return &[] };
        let Found { places, keys } = found;
        let count = if from < last { self.sparse.choose(new, from, to.min(last), places) } else { 0 };
        for (key, &at) in keys.iter_mut().zip(&places[..count]) {
            let (bucket, tag) = self.place(hash(new, at, self.sparse.key));
            prefetch(&self.entries, self.skip + bucket * WAYS);
            *key = Key { at, bucket, tag };
        }
        let keys = &keys[..count];
        for key in keys {
            self.positions(*key).for_each(|position| prefetch(self.old, position));
        }
        keys
    }
}

impl Find for Quick<'_> {
    const TRUSTS: bool = true;
    type Scratch = Option<Box<Found>>;

    fn old(&self) -> &[u8] {
        self.old
    }

    fn search(scan: &mut Scan<'_, Self>, at: usize) -> usize {
        search(scan, scan.index, |_, _| None, at)
    }
}

/// Looks `keys` up from `at` on, as [`Find::search`] is to; a candidate that `hinted` tells for a place is taken first.
#[inline]
pub(super) fn search<'s, I: Find<Scratch = Option<Box<Found>>>>(
    scan: &mut Scan<'s, I>,
    keys: &Quick<'_>,
    hinted: impl Fn(&Scan<'s, I>, usize) -> Option<Candidate>,
    at: usize,
) -> usize {
    let mut found = scan.scratch.take().unwrap_or_default();
    let next = search_with(scan, keys, hinted, at, &mut found);
    scan.scratch = Some(found);
    next
}

#[inline]
fn search_with<'s, I: Find>(
    scan: &mut Scan<'s, I>,
    keys: &Quick<'_>,
    hinted: impl Fn(&Scan<'s, I>, usize) -> Option<Candidate>,
    mut at: usize,
    found: &mut Found,
) -> usize {
    let from = at;
    loop {
        if let Some(candidate) = hinted(scan, at) {
            return scan.take(at, candidate);
        }
        let end = (at + BLOCK).min(scan.to);
        // Up to where the alignment goes on again, or a hint does.
        let (mut stop, mut again) = (at + LOOK, false);
        while stop < end {
            again = scan.follow(stop) > 0;
            if again || hinted(scan, stop).is_some() {
                break;
            }
            stop += LOOK;
        }
        let stop = stop.min(end);
        for key in keys.keys(scan.new, at, stop, found) {
            if let Some(candidate) = keys.best(*key, &scan.new[key.at..], scan.aligned(key.at))
                && scan.gains(key.at, &candidate)
            {
                return scan.take(key.at, candidate);
            }
        }
        if again {
            scan.resume(from, stop);
            return stop;
        }
        at = stop;
        if at >= scan.to {
            return scan.to;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: u32) -> Vec<u8> {
        (0..count).flat_map(|i| (i / 3).wrapping_mul(2_654_435_761).to_le_bytes()).collect()
    }

    #[test]
    fn is_the_same_for_any_number_of_threads() {
        let old = numbers(4_000_000);
        let sparse = Sparse { key: 16, bits: 4, buckets: 500_000 };
        let one = Quick::new(&old, sparse, 1);
        for threads in [2, 3] {
            let other = Quick::new(&old, sparse, threads);
            let end = other.entries.len() - 2 * WAYS;
            assert!(one.entries[one.skip..][..end] == other.entries[other.skip..][..end]);
        }
    }

    #[test]
    fn fits_memory_and_any_length() {
        for bytes in [0, 7, 8, 1 << 10, 96 << 20, 565 << 20, (4 << 30) - 2] {
            let sparse = Sparse::fit(bytes, 64 << 20);
            assert!(sparse.memory() <= 64 << 20, "{bytes}");
        }
        for length in [0, 7, 8, 9, 16, 1000] {
            for key in [8, 16] {
                let old = &numbers(1000)[..length];
                let quick = Quick::new(old, Sparse { key, bits: 2, buckets: 3 }, 2);
                for key in quick.keys(old, 0, length, &mut Found::default()) {
                    assert!(
                        quick.best(*key, &old[key.at..], 0).is_none_or(|found| found.extension.exact > 0)
                    );
                }
            }
        }
    }
}
