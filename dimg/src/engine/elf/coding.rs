//! How words of 32-bit ARM hold addresses: instructions of both sets, and tables.
//!
//! An instruction of Thumb is two halves, the first one in the lower half of the word.

use super::image::u32_at;

/// How a word holds an address, or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// The upper 24 bits: a number of entries of 16 bytes from the base.
    Symbol,
    /// The lower 31 bits: the distance from the base.
    Near31,
    /// Thumb's bl, blx and b.w, its conditional b.w, and ARM's b, bl and blx.
    Branch,
    Conditional,
    Word,
    /// The lower half of a distance from the base, and its upper half, so many bytes behind the other.
    Low16,
    High16 {
        back: u16,
    },
    /// The parts of a distance from the base + 8 in the three instructions of an entry that jumps over a table.
    First8,
    Second8,
    Last12,
}

/// The lowest `bits` of `value` with their sign.
pub(super) fn signed(value: u64, bits: u32) -> u64 {
    ((value << (64 - bits)).cast_signed() >> (64 - bits)).cast_unsigned()
}

/// Whether a word is Thumb's blx, which goes to whole words from whole words on.
fn is_exchange(word: u64) -> bool {
    word & 0xd000_f800 == 0xc000_f000
}

/// What a branch of Thumb at `place` is relative to.
fn after(word: u64, place: u64) -> u64 {
    let after = place.wrapping_add(4);
    if is_exchange(word) { after & !3 } else { after }
}

/// The bits of Thumb's bl, blx and b.w that hold the distance.
const BRANCH: u64 = 0x2fff_07ff;
const CONDITIONAL: u64 = 0x2fff_043f;
/// Those of its movw and movt, and of ARM's.
const MOVE: u64 = 0x70ff_040f;
const ARM_MOVE: u64 = 0x000f_0fff;

fn branch(word: u64) -> u64 {
    let sign = word >> 10 & 1;
    let [first, second] = [29, 27].map(|bit| word >> bit & 1 ^ sign ^ 1);
    let high = sign << 24 | first << 23 | second << 22;
    signed(high | (word & 0x3ff) << 12 | (word >> 16 & 0x7ff) << 1, 25)
}

fn with_branch(word: u64, distance: u64) -> u64 {
    let sign = distance >> 24 & 1;
    let [first, second] = [23, 22].map(|bit| distance >> bit & 1 ^ sign ^ 1);
    let low = first << 29 | second << 27 | (distance >> 1 & 0x7ff) << 16;
    word & !BRANCH | low | sign << 10 | distance >> 12 & 0x3ff
}

fn conditional(word: u64) -> u64 {
    let high = (word >> 10 & 1) << 20 | (word >> 27 & 1) << 19 | (word >> 29 & 1) << 18;
    signed(high | (word & 0x3f) << 12 | (word >> 16 & 0x7ff) << 1, 21)
}

fn with_conditional(word: u64, distance: u64) -> u64 {
    let low = (distance >> 18 & 1) << 29 | (distance >> 19 & 1) << 27 | (distance >> 1 & 0x7ff) << 16;
    word & !CONDITIONAL | low | (distance >> 20 & 1) << 10 | distance >> 12 & 0x3f
}

/// Of ARM's branches the distance; blx has one bit more.
fn words(word: u64) -> u64 {
    let half = if word >> 28 == 15 { word >> 23 & 2 } else { 0 };
    signed((word & 0xff_ffff) << 2, 26) | half
}

fn with_words(word: u64, distance: u64) -> Option<u64> {
    let bits = distance >> 2 & 0xff_ffff;
    match (word >> 28, distance & 3) {
        (15, 0 | 2) => Some(word & !0x1ff_ffff | (distance & 2) << 23 | bits),
        (0..15, 0) => Some(word & !0xff_ffff | bits),
        _ => None,
    }
}

/// The number in a movw or movt of either set: those of ARM have their condition where Thumb's have no bit.
pub(super) fn half(word: u64) -> u64 {
    if word >> 31 == 1 {
        word >> 4 & 0xf000 | word & 0xfff
    } else {
        (word & 15) << 12 | (word >> 10 & 1) << 11 | (word >> 28 & 7) << 8 | word >> 16 & 0xff
    }
}

fn with_half(word: u64, half: u64) -> u64 {
    if word >> 31 == 1 {
        word & !ARM_MOVE | (half & 0xf000) << 4 | half & 0xfff
    } else {
        let low = (half >> 8 & 7) << 28 | (half & 0xff) << 16;
        word & !MOVE | low | (half >> 11 & 1) << 10 | half >> 12 & 15
    }
}

/// Whether a movw belongs to a movt, of both of which only the bits of the number differ.
fn is_pair(low: u64, high: u64) -> bool {
    if high >> 31 == 1 {
        (low ^ high) & !ARM_MOVE == 0x0040_0000
    } else {
        (low ^ high) & !MOVE == 0x0000_0080
    }
}

/// Where an entry that jumps over a table at `place` goes to.
pub(super) fn jumps_to(words: [u64; 3], place: u64) -> Option<u64> {
    let [first, second, last] = words;
    let is_entry =
        first & !0xff == 0xe28f_c600 && second & !0xff == 0xe28c_ca00 && last & !0xfff == 0xe5bc_f000;
    let distance = (first & 0xff) << 20 | (second & 0xff) << 12 | last & 0xfff;
    is_entry.then(|| place.wrapping_add(8 + distance))
}

impl Coding {
    /// Bytes before the field that are read with it.
    pub(super) fn back(self) -> usize {
        match self {
            Self::High16 { back } => back.into(),
            Self::Last12 => 8,
            _ => 0,
        }
    }

    /// The word that names `target` from `base`; the same if it cannot.
    pub(super) fn with(self, word: u64, target: u64, base: u64) -> u64 {
        let distance = target.wrapping_sub(base);
        match self {
            Self::Symbol if distance.is_multiple_of(16) => word & 0xff | (distance << 4 & 0xffff_ff00),
            Self::Symbol => word,
            Self::Near31 => word & 0x8000_0000 | distance & 0x7fff_ffff,
            Self::Branch if is_exchange(word) && !target.is_multiple_of(4) => word,
            Self::Branch => with_branch(word, target.wrapping_sub(after(word, base))),
            Self::Conditional => with_conditional(word, target.wrapping_sub(after(word, base))),
            Self::Word => with_words(word, distance.wrapping_sub(8)).unwrap_or(word),
            Self::Low16 => with_half(word, distance & 0xffff),
            Self::High16 { .. } => with_half(word, distance >> 16 & 0xffff),
            Self::First8 => word & !0xff | distance.wrapping_sub(8) >> 20 & 0xff,
            Self::Second8 => word & !0xff | distance.wrapping_sub(8) >> 12 & 0xff,
            Self::Last12 => word & !0xfff | distance.wrapping_sub(8) & 0xfff,
        }
    }

    /// What the word at `at` names from `base`, if `was` is like it but for the address; parts do not tell.
    pub(super) fn target(self, bytes: &[u8], at: usize, was: u64, base: u64) -> Option<u64> {
        let word = |at: usize| u32_at(bytes, at).map(u64::from);
        let is = word(at)?;
        let same = |mask: u64| ((was ^ is) & !mask == 0).then_some(());
        match self {
            Self::Symbol => Some(base.wrapping_add(is >> 8 << 4)),
            Self::Near31 => same(0x7fff_ffff).map(|()| base.wrapping_add(signed(is, 31))),
            Self::Branch => {
                same(BRANCH)?;
                Some(after(is, base).wrapping_add(branch(is)))
            }
            Self::Conditional => {
                same(CONDITIONAL)?;
                Some(after(is, base).wrapping_add(conditional(is)))
            }
            Self::Word => {
                same(if was >> 28 == 15 { 0x1ff_ffff } else { 0xff_ffff })?;
                Some(base.wrapping_add(8).wrapping_add(words(is)))
            }
            Self::High16 { back } => {
                let low = word(at.checked_sub(back.into())?)?;
                same(if was >> 31 == 1 { ARM_MOVE } else { MOVE })?;
                is_pair(low, is).then(|| base.wrapping_add(half(is) << 16 | half(low)))
            }
            Self::Last12 => jumps_to([word(at.checked_sub(8)?)?, word(at - 4)?, is], base),
            Self::Low16 | Self::First8 | Self::Second8 => None,
        }
    }

    /// The address that a branch at `place` goes to.
    pub(super) fn branch_target(self, word: u64, place: u64) -> u64 {
        let target = match self {
            Self::Branch => after(word, place).wrapping_add(branch(word)),
            Self::Conditional => after(word, place).wrapping_add(conditional(word)),
            _ => place.wrapping_add(8).wrapping_add(words(word)),
        };
        target & 0xffff_ffff
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As disassemblers read them.
    #[test]
    fn instructions_name_what_they_do() {
        let thumb = |first: u64, second: u64| second << 16 | first;
        let all = [
            (Coding::Branch, 0x10_0062, thumb(0xf769, 0xeab0), 0x6_95c4),
            (Coding::Branch, 0x10_0114, thumb(0xf770, 0xea3a), 0x7_058c),
            (Coding::Branch, 0x1000, thumb(0xf000, 0xf800), 0x1004),
            (Coding::Branch, 0x1000, thumb(0xf7ff, 0xbffe), 0x1000),
            (Coding::Conditional, 0x1000, thumb(0xf43f, 0xaffe), 0x1000),
            (Coding::Conditional, 0x1002, thumb(0xf000, 0x8080), 0x1106),
            (Coding::Word, 0x1000, 0xebff_fffe, 0x1000),
            (Coding::Word, 0x1000, 0x0a00_0001, 0x100c),
            (Coding::Word, 0x1000, 0xfb00_0000, 0x100a),
        ];
        for (coding, place, word, target) in all {
            assert_eq!(coding.branch_target(word, place), target, "{word:x}");
            assert_eq!(coding.with(word, target, place), word, "{word:x}");
        }
        assert_eq!((half(thumb(0xf240, 0x2126)), half(thumb(0xf2c0, 0x0108))), (0x226, 8));
        assert_eq!((half(0xe30f_0abc), half(0xe341_2345)), (0xfabc, 0x1345));
        assert_eq!(
            jumps_to([0xe28f_c601, 0xe28c_ca02, 0xe5bc_f003], 0x1000),
            Some(0x10_3000 + 0x1008 - 0x1000 + 3)
        );
    }

    proptest! {
        #[test]
        fn what_is_put_in_is_named(
            place in 0u64..1 << 24,
            far in -(1i64 << 19)..1 << 19,
            bits: u32,
            which in 0usize..4,
        ) {
            let (coding, word) = [
                (Coding::Branch, 0xd000_f000 | u64::from(bits) & 0x2fff_07ff),
                (Coding::Branch, 0xc000_f000 | u64::from(bits) & 0x2ffe_07ff),
                (Coding::Conditional, 0x8000_f000 | u64::from(bits) & CONDITIONAL),
                (Coding::Word, 0xeb00_0000 | u64::from(bits) & 0xff_ffff),
            ][which];
            let place = place & !3;
            let target = (place.wrapping_add_signed(far) & !3) & 0xffff_ffff;
            let made = coding.with(word, target, place);
            let bytes = u32::try_from(made).unwrap().to_le_bytes();
            prop_assert_eq!(coding.branch_target(made, place), target);
            prop_assert_eq!(coding.target(&bytes, 0, word, place).map(|target| target & 0xffff_ffff), Some(target));
            prop_assert_eq!(coding.with(made, coding.branch_target(word, place), place), word);
        }

        #[test]
        fn a_number_in_halves_comes_back(target: u32, base: u32, register in 0u64..15, arm: bool) {
            let (low, high) = if arm {
                (0xe300_0000 | register << 12, 0xe340_0000 | register << 12)
            } else {
                (0xf240 | register << 24, 0xf2c0 | register << 24)
            };
            let (target, base) = (u64::from(target), u64::from(base));
            let coding = Coding::High16 { back: 4 };
            let words = [Coding::Low16.with(low, target, base), coding.with(high, target, base)];
            let bytes = words.map(|word| u32::try_from(word).unwrap().to_le_bytes()).concat();
            prop_assert!(is_pair(words[0], words[1]));
            prop_assert_eq!(coding.target(&bytes, 4, high, base).map(|found| found & 0xffff_ffff), Some(target));
            prop_assert_eq!(coding.target(&bytes, 4, high ^ 1 << if arm { 12 } else { 24 }, base), None);
        }
    }
}
