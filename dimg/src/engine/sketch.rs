//! Sketches: finding a similar content among many without comparing bytes.
//!
//! A sketch holds the smallest hashes of a content's 32-byte windows. Of two contents, the share of hashes that both hold estimates
//! the share of windows that both have, wherever in the contents these lie. Nothing of it is stored in a file.

use std::collections::HashMap;

/// Hashes of a sketch, at most.
const FEATURES: usize = 32;

/// Contents below this length have too few windows to say anything.
pub const MIN_CONTENT_BYTES: usize = 512;

/// Of longer contents, this many pieces of [`PIECE_BYTES`] are looked at, evenly spread.
const PIECES: usize = 16;
const PIECE_BYTES: usize = 1 << 20;

/// A hash that more contents than this hold says nothing about any of them.
const MAX_HOLDERS: usize = 64;

/// Hashes that two contents must share, in 32, to be called similar.
const MIN_SHARED: usize = 4;

/// A random number per byte value.
const GEAR: [u64; 256] = gear();

const fn gear() -> [u64; 256] {
    let mut table = [0u64; 256];
    let mut state = 0x5851_f42d_4c95_7f2du64;
    let mut index = 0;
    while index < table.len() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = state;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[index] = value ^ (value >> 31);
        index += 1;
    }
    table
}

/// The sketch of a content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sketch {
    /// The smallest hashes, rising, each once.
    features: Vec<u64>,
}

impl Sketch {
    /// The sketch of `content`; empty for a very short one. Looks at no more than 16 MiB of it.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        let mut sketch = Self::default();
        if content.len() < MIN_CONTENT_BYTES {
            return sketch;
        }
        if content.len() <= PIECES * PIECE_BYTES {
            sketch.add(content);
        } else {
            let stride = (content.len() - PIECE_BYTES) / (PIECES - 1);
            for piece in 0..PIECES {
                let start = piece * stride;
                sketch.add(&content[start..start + PIECE_BYTES]);
            }
        }
        sketch
    }

    fn add(&mut self, bytes: &[u8]) {
        const WINDOW: usize = 32;
        let mut hash = 0u64;
        // What is not below says nothing.
        let limit = |features: &[u64]| features.get(FEATURES - 1).copied().unwrap_or(u64::MAX);
        let mut below = limit(&self.features);
        for (index, &byte) in bytes.iter().enumerate() {
            // Two bits a byte: what is 32 bytes back has left the hash.
            hash = (hash << 2).wrapping_add(GEAR[usize::from(byte)]);
            let feature = (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            if feature > below || index + 1 < WINDOW {
                continue;
            }
            if let Err(place) = self.features.binary_search(&feature) {
                self.features.truncate(FEATURES - 1);
                self.features.insert(place.min(FEATURES - 1), feature);
                below = limit(&self.features);
            }
        }
    }

    /// The number of hashes that both hold.
    #[must_use]
    pub fn shared(&self, other: &Self) -> usize {
        self.features.iter().filter(|feature| other.features.binary_search(feature).is_ok()).count()
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.features.is_empty()
    }
}

/// Many sketches, to find the most similar.
#[derive(Debug, Default)]
pub struct SketchIndex {
    /// Hashes, each with the number of a content that holds it; ascending.
    holders: Vec<(u64, u32)>,
    /// By number.
    sizes: Vec<u64>,
}

impl SketchIndex {
    /// Of contents with their sizes: their numbers count from 0. Those beyond what 32 bits count are left out.
    pub fn new<'s>(contents: impl IntoIterator<Item = (u64, &'s Sketch)>) -> Self {
        let mut index = Self::default();
        for (number, (size, sketch)) in (0..u32::MAX).zip(contents) {
            index.sizes.push(size);
            index.holders.extend(sketch.features.iter().map(|&feature| (feature, number)));
        }
        index.holders.sort_unstable();
        index
    }

    /// The contents that hold this hash; none where there are too many.
    fn holders(&self, feature: u64) -> &[(u64, u32)] {
        let first = self.holders.partition_point(|&(other, _)| other < feature);
        let rest = &self.holders[first..];
        let count = rest.iter().take(MAX_HOLDERS + 1).take_while(|&&(other, _)| other == feature).count();
        &rest[..if count > MAX_HOLDERS { 0 } else { count }]
    }

    /// The number of the content that shares most hashes with a content of `size` bytes; of several the one nearest in size, then
    /// the lowest number. None when no content shares enough.
    #[must_use]
    pub fn most_similar(&self, size: u64, sketch: &Sketch) -> Option<u32> {
        let mut shared: HashMap<u32, usize> = HashMap::new();
        for &feature in &sketch.features {
            for &(_, number) in self.holders(feature) {
                *shared.entry(number).or_default() += 1;
            }
        }
        let distance =
            |number: u32| self.sizes.get(number as usize).map_or(u64::MAX, |&other| other.abs_diff(size));
        shared
            .into_iter()
            .filter(|&(_, count)| count >= MIN_SHARED.min(sketch.features.len()))
            .min_by_key(|&(number, count)| (std::cmp::Reverse(count), distance(number), number))
            .map(|(number, _)| number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut step = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24).to_le_bytes()[0]
        };
        (0..length).map(|_| step()).collect()
    }

    #[test]
    fn finds_the_edited_content_among_many() {
        let contents: Vec<Vec<u8>> =
            (1u8..40).map(|seed| noise(5000 + 100 * usize::from(seed), u64::from(seed))).collect();
        let sketches: Vec<_> = contents.iter().map(|content| Sketch::of(content)).collect();
        let index = SketchIndex::new(contents.iter().map(|content| content.len() as u64).zip(&sketches));
        for (number, content) in (0u32..).zip(&contents) {
            let mut edited = content[1000..].to_vec();
            edited.splice(300..400, noise(250, 99));
            assert_eq!(index.most_similar(edited.len() as u64, &Sketch::of(&edited)), Some(number));
        }
        assert_eq!(index.most_similar(5000, &Sketch::of(&noise(5000, 1234))), None);
        assert_eq!(index.most_similar(5, &Sketch::of(b"short")), None);
    }

    #[test]
    fn large_contents_are_sampled_and_shifts_do_not_matter() {
        let content = noise(40 << 20, 7);
        let shifted = [&noise(5000, 8)[..], &content[..]].concat();
        assert!(Sketch::of(&content).shared(&Sketch::of(&shifted)) > FEATURES / 2);
    }

    #[test]
    fn uniform_contents_have_one_hash() {
        assert_eq!(Sketch::of(&[0; 100_000]).features.len(), 1);
        assert!(Sketch::of(&[0; 100]).is_empty());
    }
}
