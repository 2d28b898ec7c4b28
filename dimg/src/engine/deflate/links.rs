//! How far before each place of an input the last one is that begins alike.
//!
//! The compressors look for matches along chains of places with the same hash of three bytes. A match longer than one that is known begins with
//! more bytes, so it stands as well on a chain of places with the same hash of four, or six bytes, on which there are far fewer. A *rank* tells
//! how many places of the first chain lie between two: whether the compressor would have come to a place before it gave up.

use super::tables::MIN_MATCH;

/// The places that are kept: those in a window, and those entered ahead.
const RING: usize = 1 << 16;
/// Places entered at a time.
const AHEAD: usize = 1 << 12;
/// Bits of the hashes of four and six bytes, at most.
const LONG_BITS: u32 = 15;
/// The bytes of a word: places with fewer to the end have no longer chains.
const WORD: usize = 8;

/// The chains of an input.
pub(super) struct Links<'a> {
    input: &'a [u8],
    three: Three,
    long: Option<Long>,
    /// Up to where places are entered ahead.
    entered: usize,
}

/// The last place of each hash of three bytes, and the distances; farther than matches may be counts as [`u16::MAX`].
struct Three {
    shift: u32,
    heads: Vec<u32>,
    back: Vec<u16>,
}

/// The longer chains. Places count modulo 2^16: one much farther may look near, but the bytes there are others, and all that are near come
/// before it.
pub(super) struct Long {
    bits: u32,
    heads: [Vec<u16>; 2],
    four: Vec<u16>,
    six: Vec<u16>,
    ranks: Vec<u16>,
}

impl<'a> Links<'a> {
    /// None are entered yet. `bits` are those of the compressor's hash; longer chains are kept only where all places are entered ahead.
    pub(super) fn new(input: &'a [u8], bits: u32, long: bool) -> Self {
        let ring = input.len().next_power_of_two().min(RING);
        let long_bits = ring.ilog2().clamp(1, LONG_BITS);
        let heads = || vec![0; 1 << long_bits];
        let back = || vec![0; ring];
        Self {
            input,
            three: Three { shift: bits.div_ceil(3), heads: vec![0; 1 << bits], back: back() },
            long: long.then(|| Long {
                bits: long_bits,
                heads: [heads(), heads()],
                four: back(),
                six: back(),
                ranks: back(),
            }),
            entered: 0,
        }
    }

    /// Enters a place, if three bytes begin there.
    pub(super) fn enter(&mut self, at: usize) {
        if let Some(&[a, b, c]) = self.input.get(at..at + MIN_MATCH) {
            self.three.put(at, [a, b, c]);
        }
    }

    /// Sees to it that all places up to `at` are entered.
    #[inline]
    pub(super) fn reach(&mut self, at: usize) {
        if at >= self.entered {
            self.enter_ahead();
        }
    }

    #[inline(never)]
    fn enter_ahead(&mut self) {
        let (from, to) = (self.entered, self.input.len().min(self.entered + AHEAD));
        let mut at = from;
        if let Some(long) = &mut self.long {
            let words = self.input.get(from..).unwrap_or_default().windows(WORD);
            for word in words.take(to - from) {
                let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
                let [a, b, c, ..] = word.to_le_bytes();
                let before = self.three.put(at, [a, b, c]);
                long.put(at, before, word);
                at += 1;
            }
        }
        (at..to).for_each(|at| self.enter(at));
        self.entered = to;
    }

    /// The place before one that was entered on its chain of three bytes, or 0.
    #[inline]
    pub(super) fn before(&self, at: usize) -> usize {
        at.saturating_sub(usize::from(of(&self.three.back, at)))
    }

    /// The longer chains, if there are any.
    #[inline]
    pub(super) fn long(&self) -> Option<&Long> {
        self.long.as_ref()
    }
}

impl Three {
    /// Enters a place where these bytes begin; the last one of the same hash.
    #[inline]
    fn put(&mut self, at: usize, [a, b, c]: [u8; MIN_MATCH]) -> usize {
        let hash = usize::from(a) << (2 * self.shift) ^ usize::from(b) << self.shift ^ usize::from(c);
        let mask = self.heads.len() - 1;
        let head = &mut self.heads[hash & mask];
        let before = *head as usize;
        // Inputs are below 2 GiB.
        *head = u32::try_from(at).unwrap_or(0);
        let ring = self.back.len() - 1;
        self.back[at & ring] = u16::try_from(at - before).unwrap_or(u16::MAX);
        before
    }
}

impl Long {
    /// Enters a place where this word begins, and of which this is the one before on the chain of three bytes.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "places count modulo 2^16, hashes have at most 15 bits"
    )]
    fn put(&mut self, at: usize, before: usize, word: u64) {
        const MULTIPLIER: u64 = 0x9fb2_1c65_1e98_df25;
        let ring = self.four.len() - 1;
        self.ranks[at & ring] = of(&self.ranks, before).wrapping_add(1);
        let [heads_four, heads_six] = &mut self.heads;
        let chains = [(heads_four, &mut self.four, 32), (heads_six, &mut self.six, 16)];
        for (heads, chain, left_out) in chains {
            let hash = ((word << left_out).wrapping_mul(MULTIPLIER) >> (u64::BITS - self.bits)) as usize;
            let place = at as u16;
            chain[at & ring] = place.wrapping_sub(std::mem::replace(&mut heads[hash], place));
        }
    }

    /// The distances on the chain of six bytes or that of four.
    #[inline]
    pub(super) fn chain(&self, six: bool) -> &[u16] {
        if six { &self.six } else { &self.four }
    }

    /// How many steps on the chain of three bytes lead from a place to an earlier one that is on it.
    #[inline]
    pub(super) fn steps(&self, from: usize, to: usize) -> usize {
        usize::from(of(&self.ranks, from).wrapping_sub(of(&self.ranks, to)))
    }
}

/// What a ring of numbers has for a place.
#[inline]
pub(super) fn of(ring: &[u16], at: usize) -> u16 {
    ring[at & (ring.len() - 1)]
}
