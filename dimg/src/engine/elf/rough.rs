//! Where code went, seen without the addresses in it.
//!
//! Between two builds most instructions that name an address differ in it, so that no 16 bytes of code without one stay the same for
//! long. Here the places that look like such addresses are left out of both files, by rules on the bytes around them alone, and
//! what is left is compared: keys of 32 bytes at one place in 64, chosen by their own bytes. What is found is good enough to vote on where
//! addresses went, at a third of the time that a look at all bytes takes; it is no program, as nothing tells which bytes are equal.

use super::image::{Image, Machine};
use crate::engine::matcher::{Copied, SEGMENT_BYTES, borders};
use crate::engine::parallel::map;
use d4c_sys::{Wide, prefer_huge_pages, prefetch, with_vectors};

/// The length of a key.
const KEY: usize = 32;
/// Bytes by which a key is chosen.
const CHOICE: usize = 6;
/// The logarithm of how many places there are to a key.
const BITS: u32 = 6;
/// Places that are looked at together.
const BLOCK: usize = 256;
/// Bytes of a block and of the keys that start in it.
const VIEW: usize = BLOCK + KEY;
/// Keys of a bucket, at most: the last ones. Their tags and positions fill a cache line.
const WAYS: usize = 12;
/// Keys of a bucket on average.
const LOAD: usize = 7;
/// An alignment that is found again after so many bytes is one copy with what was before.
const JOINED: usize = 256;
/// Keys that are added together.
const WAITING: usize = 32;
/// What an alignment has to agree on to take the place of another that was followed so far back.
const CLEAR: usize = 64;
const CLOSE: usize = 256;
/// Bytes looked at in either direction to tell how good an alignment is.
const REACH: usize = 256;

/// A file, and which of its bytes are left out.
#[derive(Clone, Copy)]
struct Masked<'b> {
    bytes: &'b [u8],
    machine: Machine,
}

impl Masked<'_> {
    /// The bytes from `from` on, those that may be of an address as zeros, as are those beyond the end.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "to be compiled for wider vectors")]
    fn read<const COUNT: usize, const AROUND: usize>(&self, from: usize, out: &mut [u8; COUNT]) {
        const { assert!(AROUND >= COUNT + 8) };
        // Four bytes before, and four behind; words stand at multiples of their length.
        let skip = match self.machine {
            Machine::X86 | Machine::Wasm => 0,
            Machine::Arm | Machine::Arm32 => from % 4,
            Machine::Archive => from % 8,
        };
        let start = from - skip;
        let mut around = [0u8; AROUND];
        match start.checked_sub(4).and_then(|start| self.bytes.get(start..start + AROUND)) {
            Some(bytes) => around.copy_from_slice(bytes),
            None => {
                let before = start.min(4);
                let bytes = self.bytes.get(start - before..).unwrap_or_default();
                let count = bytes.len().min(AROUND + before - 4);
                around[4 - before..][..count].copy_from_slice(&bytes[..count]);
            }
        }
        match self.machine {
            Machine::X86 => {
                let mut kept = [0u8; AROUND];
                for at in 0..AROUND - 4 {
                    let (opcode, top) = (around[at], around[at + 4]);
                    let names = (opcode & 0xfe == 0xe8) | (opcode & 0xc7 == 0x05);
                    let near = top.wrapping_add(8) <= 16;
                    kept[at] = if names & near { 0 } else { 0xff };
                }
                for (at, out) in out.iter_mut().enumerate() {
                    let at = at + 4;
                    *out = around[at] & kept[at - 1] & kept[at - 2] & kept[at - 3];
                }
            }
            Machine::Wasm => {
                let mut kept = [0u8; AROUND];
                for at in 0..AROUND - 4 {
                    let (head, top) = (around[at], around[at + 4]);
                    kept[at] = if (head & 0xf0 == 0x80) & (top < 0x40) { 0 } else { 0xff };
                }
                for (at, out) in out.iter_mut().enumerate() {
                    let at = at + 4;
                    *out = around[at] & kept[at - 1] & kept[at - 2] & kept[at - 3];
                }
            }
            Machine::Arm => {
                let mut words = [0u8; AROUND];
                for (word, kept) in around.chunks_exact(4).zip(words.chunks_exact_mut(4)) {
                    let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
                    let branch = if word & 0x7c00_0000 == 0x1400_0000 { 0x03ff_ffff } else { 0 };
                    let page = if word & 0x9f00_0000 == 0x9000_0000 { 0x60ff_ffe0 } else { 0 };
                    let add = if word & 0x7fc0_0000 == 0x1100_0000 { 0x003f_fc00 } else { 0 };
                    let load = if word & 0x3b00_0000 == 0x3900_0000 { 0x003f_fc00 } else { 0 };
                    kept.copy_from_slice(&(word & !(branch | page | add | load)).to_le_bytes());
                }
                out.copy_from_slice(&words[4 + skip..][..COUNT]);
            }
            Machine::Arm32 => {
                let mut kept = [0u8; AROUND];
                for at in (0..AROUND - 3).step_by(2) {
                    let names = (around[at + 1] & 0xf8 == 0xf0) & (around[at + 3] & 0x80 != 0);
                    let (low, high) = if names { (0xff, 0x07) } else { (0, 0) };
                    kept[at] |= low;
                    kept[at + 1] |= high;
                    kept[at + 2] |= low;
                    kept[at + 3] |= if names { 0x2f } else { 0 };
                }
                for at in (0..AROUND - 3).step_by(4) {
                    if around[at + 3] & 0xfe == 0xea {
                        kept[at..at + 3].fill(0xff);
                    }
                }
                for (at, out) in out.iter_mut().enumerate() {
                    *out = around[at + 4 + skip] & !kept[at + 4 + skip];
                }
            }
            Machine::Archive => {
                let mut words = [0u8; AROUND];
                for (word, kept) in around[4..].chunks_exact(8).zip(words.chunks_exact_mut(8)) {
                    // An address, in the first 4 GiB of those of archives.
                    if word[4..] != [8, 0, 0, 0] {
                        kept.copy_from_slice(word);
                    }
                }
                out.copy_from_slice(&words[skip..][..COUNT]);
            }
        }
    }

    /// Sixteen of them.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "to be compiled for wider vectors")]
    fn piece(&self, from: usize) -> u128 {
        let mut piece = [0; 16];
        self.read::<16, 28>(from, &mut piece);
        u128::from_le_bytes(piece)
    }
}

/// The chosen keys of a block: their places and hashes.
struct Keys {
    keys: [(usize, u64); BLOCK],
    count: usize,
}

impl Keys {
    /// Those that start from `from` to before `to`, at most [`BLOCK`] bytes on.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "to be compiled for wider vectors")]
    fn find(&mut self, masked: &Masked<'_>, from: usize, to: usize) {
        self.count = 0;
        let mut view = [0u8; VIEW];
        masked.read::<VIEW, { VIEW + 12 }>(from, &mut view);
        let mut chosen = [0u8; BLOCK];
        for (at, chosen) in chosen.iter_mut().enumerate() {
            let mut hash = view[at];
            for next in 1..CHOICE {
                hash = hash.rotate_left(3);
                hash =
                    if next % 2 == 1 { hash.wrapping_add(view[at + next]) } else { hash ^ view[at + next] };
            }
            // Not zero, as that is the hash of zeros.
            *chosen = u8::from((hash ^ 0xb4) >> (8 - BITS) == 0);
        }
        let word = |at: usize| {
            let mut word = [0u8; 8];
            word.copy_from_slice(&view[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let mut before = 0;
        for (number, marks) in chosen.chunks_exact(8).enumerate() {
            let mut marks = u64::from_le_bytes(marks.try_into().unwrap_or_default());
            while marks != 0 {
                let at = 8 * number + marks.trailing_zeros() as usize / 8;
                marks &= marks - 1;
                if from + at >= to {
                    return;
                }
                let first = word(at);
                let mut hash = first;
                for next in [8, 16, 24] {
                    hash = (hash.wrapping_mul(MULTIPLIER).rotate_left(29) ^ word(at + next))
                        .wrapping_mul(MULTIPLIER);
                }
                // Of a run only the first.
                if first != before {
                    self.keys[self.count] = (from + at, hash ^ hash >> 32);
                    self.count += 1;
                }
                before = first;
            }
        }
    }

    fn new() -> Self {
        Self { keys: [(0, 0); BLOCK], count: 0 }
    }

    fn iter(&self) -> impl Iterator<Item = (usize, u64)> {
        self.keys[..self.count].iter().copied()
    }
}

const MULTIPLIER: u64 = 0x9fb2_1c65_1e98_df25;

/// Keys of one bucket: a position is one more than it is, as 0 is none.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Bucket {
    positions: [u32; WAYS],
    tags: [u8; WAYS],
}

/// The keys of the old file.
struct Index {
    buckets: Vec<Bucket>,
}

impl Index {
    fn new(old: &Masked<'_>, limit: u64) -> Self {
        let most = usize::try_from(limit).unwrap_or(usize::MAX) / size_of::<Bucket>();
        let count = ((old.bytes.len() >> BITS) / LOAD + 1).min(most.max(1));
        let mut buckets = vec![Bucket::default(); count];
        prefer_huge_pages(&mut buckets);
        let mut index = Self { buckets };
        with_vectors(Fill { index: &mut index, old });
        index
    }

    /// Adds keys, given as by [`Keys`].
    #[inline]
    fn add(&mut self, keys: &[(usize, u64)]) {
        for &(at, hash) in keys {
            let (bucket, tag) = self.place(hash);
            let bucket = &mut self.buckets[bucket];
            bucket.positions.copy_within(..WAYS - 1, 1);
            bucket.tags.copy_within(..WAYS - 1, 1);
            bucket.positions[0] = u32::try_from(at + 1).unwrap_or(0);
            bucket.tags[0] = tag;
        }
    }

    #[inline]
    fn place(&self, hash: u64) -> (usize, u8) {
        let bucket = ((hash >> 32) * self.buckets.len() as u64) >> 32;
        (usize::try_from(bucket).unwrap_or(0), hash.to_le_bytes()[0])
    }

    /// Where keys stand that may have this hash.
    fn positions(&self, hash: u64) -> impl Iterator<Item = usize> {
        let (bucket, tag) = self.place(hash);
        let Bucket { positions, tags } = &self.buckets[bucket];
        let equal =
            positions.iter().zip(tags).filter(move |&(&position, &known)| position > 0 && known == tag);
        equal.filter_map(|(&position, _)| usize::try_from(position).ok()?.checked_sub(1))
    }
}

/// Filling an index.
struct Fill<'f> {
    index: &'f mut Index,
    old: &'f Masked<'f>,
}

impl Wide for Fill<'_> {
    type Output = ();

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "to be compiled for wider vectors")]
    fn run(self) {
        let Self { index, old } = self;
        let mut keys = Keys::new();
        // Their buckets are on their way to the cache meanwhile.
        let mut waiting = Vec::with_capacity(WAITING + BLOCK);
        for from in (0..old.bytes.len()).step_by(BLOCK) {
            keys.find(old, from, from + BLOCK);
            for (at, hash) in keys.iter() {
                prefetch(&index.buckets, index.place(hash).0);
                waiting.push((at, hash));
            }
            if waiting.len() >= WAITING {
                index.add(&waiting);
                waiting.clear();
            }
        }
        index.add(&waiting);
    }
}

/// What of `new` looks like what of `old`, ascending. Takes at most `limit` bytes for an index, and about a seventh of the old file's.
pub(super) fn copies(old: &Image<'_>, new: &Image<'_>, limit: u64, threads: usize) -> Vec<Copied> {
    let old = Masked { bytes: old.bytes, machine: old.machine };
    let new = Masked { bytes: new.bytes, machine: new.machine };
    let index = Index::new(&old, limit);
    let segments = new.bytes.len().div_ceil(SEGMENT_BYTES);
    let found = map(threads, segments, |segment| {
        let from = segment * SEGMENT_BYTES;
        let to = new.bytes.len().min(from + SEGMENT_BYTES);
        with_vectors(Rough { index: &index, old, new, from, to, open: None, found: Vec::new() })
    });
    joined(old.bytes, new.bytes, found.concat())
}

/// The copies, ascending, with what lies between two of them as far as most bytes go on with either.
fn joined(old: &[u8], new: &[u8], copies: Vec<Copied>) -> Vec<Copied> {
    let mut all: Vec<Copied> = Vec::with_capacity(copies.len());
    let mut open = Copied { old: 0, new: 0, bytes: 0 };
    for mut next in copies {
        let end = open.new + open.bytes;
        // Copies may reach back into the one before.
        let over = end.saturating_sub(next.new).min(next.bytes);
        next = Copied { old: next.old + over, new: next.new + over, bytes: next.bytes - over };
        if next.bytes == 0 {
            continue;
        }
        let gap = &new[end..next.new];
        if next.old.wrapping_sub(next.new) == open.old.wrapping_sub(open.new) {
            open.bytes = next.new + next.bytes - open.new;
            continue;
        }
        let (forward, backward) = borders(old, (open.old + open.bytes).min(old.len()), Some(next.old), gap);
        open.bytes += forward;
        all.push(open);
        open = Copied { old: next.old - backward, new: next.new - backward, bytes: next.bytes + backward };
    }
    let end = open.new + open.bytes;
    open.bytes += borders(old, (open.old + open.bytes).min(old.len()), None, &new[end..]).0;
    all.push(open);
    all.retain(|copied| copied.bytes > 0);
    all
}

/// A scan under way.
struct Rough<'s> {
    index: &'s Index,
    old: Masked<'s>,
    new: Masked<'s>,
    from: usize,
    to: usize,
    open: Option<Copied>,
    found: Vec<Copied>,
}

impl Wide for Rough<'_> {
    type Output = Vec<Copied>;

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "to be compiled for wider vectors")]
    fn run(mut self) -> Vec<Copied> {
        let mut keys = Keys::new();
        for from in (self.from..self.to).step_by(BLOCK) {
            if self.goes_on_for(from) {
                continue;
            }
            keys.find(&self.new, from, self.to.min(from + BLOCK));
            let mut fetched = false;
            for number in 0..keys.count {
                let (at, hash) = keys.keys[number];
                if self.goes_on(at) {
                    continue;
                }
                if !fetched {
                    fetched = true;
                    for (_, hash) in keys.iter().skip(number) {
                        prefetch(&self.index.buckets, self.index.place(hash).0);
                    }
                }
                self.search(at, hash);
            }
        }
        self.found.extend(self.open);
        self.found.retain(|copied| copied.bytes > 0);
        self.found
    }
}

impl Rough<'_> {
    /// Whether the alignment goes on for the block at `at`.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "to be compiled for wider vectors")]
    fn goes_on_for(&mut self, at: usize) -> bool {
        let Some(open) = self.open.filter(|open| open.new <= at) else { return false };
        let old = open.old + (at - open.new);
        if at + BLOCK > self.to || old + BLOCK > self.old.bytes.len() {
            return false;
        }
        let (mut before, mut after) = ([0u8; BLOCK], [0u8; BLOCK]);
        self.old.read::<BLOCK, { BLOCK + 12 }>(old, &mut before);
        self.new.read::<BLOCK, { BLOCK + 12 }>(at, &mut after);
        if before == after {
            self.go_on(open, at, BLOCK);
        }
        before == after
    }

    /// Goes on with the alignment at `at` for so many bytes.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "to be compiled for wider vectors")]
    fn go_on(&mut self, open: Copied, at: usize, bytes: usize) {
        let (end, old) = (open.new + open.bytes, open.old + (at - open.new));
        if at > end + JOINED {
            let back = self.back(old, at, at - end);
            self.found.push(open);
            self.open = Some(Copied { old: old - back, new: at - back, bytes: bytes + back });
        } else {
            self.open = Some(Copied { bytes: (at + bytes - open.new).max(open.bytes), ..open });
        }
    }

    /// Whether the alignment goes on at `at`.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "to be compiled for wider vectors")]
    fn goes_on(&mut self, at: usize) -> bool {
        let Some(open) = self.open else { return false };
        let old = open.old + (at - open.new);
        let (Some(before), Some(after)) =
            (self.old.bytes.get(old..old + KEY), self.new.bytes.get(at..at + KEY))
        else {
            return false;
        };
        if before != after && self.matched(old, at, KEY) < KEY {
            return false;
        }
        self.go_on(open, at, KEY);
        true
    }

    /// Takes the best of the places where the key may stand, if it is better than what was followed.
    fn search(&mut self, at: usize, hash: u64) {
        let end = self.open.map_or(0, |open| open.new + open.bytes);
        let expected = self.open.map_or(at, |open| open.old + (at - open.new));
        let mut best: Option<(usize, usize, usize)> = None;
        for old in self.index.positions(hash) {
            let forward = self.matched(old, at, REACH);
            if forward < KEY {
                continue;
            }
            let far = old.abs_diff(expected);
            if best.is_none_or(|(most, _, distance)| forward > most || forward == most && far < distance) {
                best = Some((forward, old, far));
            }
        }
        let Some((forward, old, _)) = best else { return };
        let back = self.back(old, at, at.saturating_sub(end).min(REACH));
        if forward + back < CLEAR && self.open.is_some() && at < end + CLOSE {
            return;
        }
        self.found.extend(self.open);
        let bytes = (forward + back).min(self.new.bytes.len() - (at - back));
        self.open = Some(Copied { old: old - back, new: at - back, bytes });
    }

    /// How many bytes agree from these places on, up to `most` and in steps of sixteen.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "to be compiled for wider vectors")]
    fn matched(&self, old: usize, new: usize, most: usize) -> usize {
        let left = (self.old.bytes.len() - old).min(self.new.bytes.len() - new);
        let most = most.min(left);
        let mut done = 0;
        while done + 16 <= most && self.old.piece(old + done) == self.new.piece(new + done) {
            done += 16;
        }
        done
    }

    /// The same before these places.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "to be compiled for wider vectors")]
    fn back(&self, old: usize, new: usize, most: usize) -> usize {
        let most = most.min(old).min(new);
        let mut done = 16;
        while done <= most && self.old.piece(old - done) == self.new.piece(new - done) {
            done += 16;
        }
        done - 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is left out, a byte at a time.
    fn simple(bytes: &[u8], machine: Machine, at: usize) -> u8 {
        let byte = |at: Option<usize>| at.and_then(|at| bytes.get(at)).copied().unwrap_or(0);
        match machine {
            Machine::X86 => {
                let left_out = (1..=3).any(|back| {
                    let opcode = byte(at.checked_sub(back));
                    let top = (at + 4).checked_sub(back).map(|at| byte(Some(at))).unwrap_or(0);
                    at >= back
                        && matches!(
                            opcode,
                            0xe8 | 0xe9 | 0x05 | 0x0d | 0x15 | 0x1d | 0x25 | 0x2d | 0x35 | 0x3d
                        )
                        && matches!(top, 0..=8 | 0xf8..)
                });
                if left_out { 0 } else { byte(Some(at)) }
            }
            Machine::Arm => {
                let start = at / 4 * 4;
                let word = u32::from_le_bytes([0, 1, 2, 3].map(|next| byte(Some(start + next))));
                let mask: u32 = match word {
                    _ if word >> 26 & 31 == 5 => 0x03ff_ffff,
                    _ if word >> 24 & 0x9f == 0x90 => 0x60ff_ffe0,
                    _ if word >> 22 & 0x1ff == 0x44 || word >> 24 & 0x3b == 0x39 => 0x003f_fc00,
                    _ => 0,
                };
                (word & !mask).to_le_bytes()[at % 4]
            }
            Machine::Arm32 => {
                let left_out = |start: Option<usize>, word: bool, mask: [u8; 4]| {
                    let bytes = [0, 1, 2, 3].map(|next| byte(start.map(|start| start + next)));
                    let is_branch = bytes[1] & 0xf8 == 0xf0 && bytes[3] & 0x80 != 0;
                    let names = if word { bytes[3] & 0xfe == 0xea } else { is_branch };
                    let place = start.and_then(|start| at.checked_sub(start));
                    if names { place.and_then(|place| mask.get(place)).copied().unwrap_or(0) } else { 0 }
                };
                let thumb = [0xff, 0x07, 0xff, 0x2f];
                let mask = left_out(Some(at / 2 * 2), false, thumb)
                    | left_out((at / 2 * 2).checked_sub(2), false, thumb)
                    | left_out(Some(at / 4 * 4), true, [0xff, 0xff, 0xff, 0]);
                byte(Some(at)) & !mask
            }
            Machine::Wasm => {
                let left_out = (1..=3).any(|back| {
                    let place = |at: usize| at.checked_sub(back).map(|at| byte(Some(at)));
                    matches!((place(at), place(at + 4)), (Some(0x80..=0x8f), Some(0..=0x3f)))
                });
                if left_out { 0 } else { byte(Some(at)) }
            }
            Machine::Archive => {
                let start = at / 8 * 8;
                let names = [4, 5, 6, 7].map(|next| byte(Some(start + next))) == [8, 0, 0, 0];
                if names { 0 } else { byte(Some(at)) }
            }
        }
    }

    proptest! {
        #[test]
        fn leaves_out_the_same_a_byte_at_a_time(
            bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(0xe8), Just(0x84), Just(0x94), Just(0x91), Just(0xf3), Just(0xeb), Just(8), any::<u8>()], 0..90),
            from in 0usize..100,
            machine in prop::sample::select(vec![Machine::X86, Machine::Arm, Machine::Arm32, Machine::Archive, Machine::Wasm]),
        ) {
            let masked = Masked { bytes: &bytes, machine };
            let mut some = [0u8; 40];
            masked.read::<40, 52>(from, &mut some);
            let simple: Vec<u8> = (from..from + 40).map(|at| simple(&bytes, masked.machine, at)).collect();
            prop_assert_eq!(&some[..], &simple[..]);
            prop_assert_eq!(&masked.piece(from).to_le_bytes()[..], &simple[..16]);
        }

        #[test]
        fn copies_ascend_and_are_within_both(
            old in prop::collection::vec(0u8..4, 0..3000),
            new in prop::collection::vec(0u8..4, 0..3000),
            cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..5),
        ) {
            let mut new = new;
            for (from, to) in cuts {
                new.extend_from_slice(&old[from.index(old.len() + 1)..].iter().take(to.index(2000)).copied().collect::<Vec<_>>());
            }
            let (before, after) = (Masked { bytes: &old, machine: Machine::X86 }, Masked { bytes: &new, machine: Machine::X86 });
            let index = Index::new(&before, 1 << 20);
            let rough = Rough { index: &index, old: before, new: after, from: 0, to: new.len(), open: None, found: Vec::new() };
            let mut at = 0;
            for copied in joined(&old, &new, with_vectors(rough)) {
                prop_assert!(copied.new >= at && copied.bytes > 0);
                at = copied.new + copied.bytes;
                prop_assert!(at <= new.len() && copied.old + copied.bytes <= old.len());
            }
        }
    }
}
