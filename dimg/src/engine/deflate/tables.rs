//! The fixed numbers of RFC 1951: codes of lengths and distances, their extra bits, the fixed trees.

use std::sync::LazyLock;

/// Literals, the end of a block, and lengths.
pub(super) const LITERAL_CODES: usize = 286;
pub(super) const DISTANCE_CODES: usize = 30;
/// Codes of code lengths.
pub(super) const LENGTH_CODES: usize = 19;
pub(super) const END_OF_BLOCK: usize = 256;
pub(super) const MIN_MATCH: usize = 3;
pub(super) const MAX_MATCH: usize = 258;

/// Extra bits of the length codes 257 to 285.
pub(super) const LENGTH_EXTRA: [u8; 29] =
    [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
/// Extra bits of the distance codes.
pub(super) const DISTANCE_EXTRA: [u8; 30] =
    [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13];
/// Extra bits of the codes that repeat code lengths: 16, 17, 18.
pub(super) const REPEAT_EXTRA: [u8; 3] = [2, 3, 7];
/// The order in which the lengths of the codes of code lengths are sent.
pub(super) const LENGTH_ORDER: [usize; LENGTH_CODES] =
    [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// Codes by value.
pub(super) struct Codes {
    /// By match length less 3: the code less 257.
    pub(super) length: [u8; 256],
    /// The smallest length less 3 of a code.
    pub(super) length_base: [u16; 29],
    /// The smallest distance less 1 of a code.
    pub(super) distance_base: [u16; 30],
    /// Of distances less 1 below 256, then of multiples of 128.
    distance: [u8; 512],
}

impl Codes {
    /// The code of a distance less 1.
    pub(super) fn distance(&self, distance: u16) -> u8 {
        let at = usize::from(distance);
        self.distance[if at < 256 { at } else { 256 + (at >> 7) }]
    }
}

pub(super) static CODES: LazyLock<Codes> = LazyLock::new(|| {
    let (mut length, mut length_base) = ([0; 256], [0; 29]);
    let mut start = 0usize;
    for (code, extra) in (0u8..28).zip(LENGTH_EXTRA) {
        length_base[usize::from(code)] = u16::try_from(start).unwrap_or(u16::MAX);
        // The longest match has a code of its own, though the last range reaches it.
        let end = (start + (1 << extra)).min(256);
        length[start..end].fill(code);
        start = end;
    }
    (length[255], length_base[28]) = (28, 255);
    let (mut distance, mut distance_base) = ([0; 512], [0; 30]);
    let mut start = 0usize;
    for (code, extra) in (0u8..30).zip(DISTANCE_EXTRA) {
        distance_base[usize::from(code)] = u16::try_from(start).unwrap_or(u16::MAX);
        let end = start + (1 << extra);
        match start < 256 {
            true => distance[start..end].fill(code),
            false => distance[256 + (start >> 7)..256 + (end >> 7)].fill(code),
        }
        start = end;
    }
    Codes { length, length_base, distance_base, distance }
});

/// Length of the fixed code of a literal or length.
pub(super) fn fixed_literal_bits(code: usize) -> u8 {
    match code {
        0..=143 => 8,
        144..=255 => 9,
        256..=279 => 7,
        _ => 8,
    }
}

/// Length of every fixed code of a distance.
pub(super) const FIXED_DISTANCE_BITS: u8 = 5;
