//! Comparing byte strings, a word at a time.

/// The word of eight bytes at `at`, which must be within `bytes`.
#[inline]
pub(super) fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0u8; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// The length of the longest common prefix.
#[must_use]
#[inline]
pub fn equal_prefix(a: &[u8], b: &[u8]) -> usize {
    let limit = a.len().min(b.len());
    let (a, b) = (&a[..limit], &b[..limit]);
    let mut at = 0;
    while at + 8 <= limit {
        let difference = word(a, at) ^ word(b, at);
        if difference != 0 {
            return at + (difference.trailing_zeros() / 8) as usize;
        }
        at += 8;
        // Long runs: 32 bytes at a time, which compiles to vector compares.
        if at >= 64 {
            const BLOCK: usize = 32;
            let blocks = a[at..].chunks_exact(BLOCK).zip(b[at..].chunks_exact(BLOCK));
            let equal = blocks.take_while(|(a, b)| a == b).count();
            at += equal * BLOCK;
            if at + 8 <= limit {
                let difference = word(a, at) ^ word(b, at);
                if difference != 0 {
                    return at + (difference.trailing_zeros() / 8) as usize;
                }
            }
        }
    }
    at + a[at..].iter().zip(&b[at..]).take_while(|(a, b)| a == b).count()
}

/// The number of equal bytes in two words, given their exclusive or.
#[inline]
pub(super) fn equal_bytes(difference: u64) -> u32 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    // The top bit of each byte is set where the byte is not zero.
    let unequal = (((difference & LOW) + LOW) | difference) & !LOW;
    // Each byte's bit moves to its lowest place; the product has their sum at the top.
    8 - u32::from((unequal >> 7).wrapping_mul(0x0101_0101_0101_0101).to_le_bytes()[7])
}

/// Bytes that are compared together: as many as a byte can count, and vectors have.
const EQUAL_IN: usize = 64;

#[inline]
fn equal_in(a: &[u8; EQUAL_IN], b: &[u8; EQUAL_IN]) -> usize {
    usize::from(a.iter().zip(b).fold(0, |count, (a, b)| count + u8::from(a == b)))
}

/// The number of equal bytes at the same places, up to the shorter length.
#[inline]
pub(super) fn matches(a: &[u8], b: &[u8]) -> usize {
    let limit = a.len().min(b.len());
    let (a, b) = (&a[..limit], &b[..limit]);
    let mut count = 0;
    let mut at = 0;
    while let (Some(a), Some(b)) = (a[at..].first_chunk(), b[at..].first_chunk()) {
        count += equal_in(a, b);
        at += EQUAL_IN;
    }
    while at + 8 <= limit {
        count += equal_bytes(word(a, at) ^ word(b, at)) as usize;
        at += 8;
    }
    count + a[at..].iter().zip(&b[at..]).filter(|(a, b)| a == b).count()
}

/// How two strings go on together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extension {
    /// The length of the common prefix, at most [`EXACT_CAP`].
    pub(super) exact: usize,
    /// The length over which the balance of equal and unequal bytes is best, in steps of eight past the common prefix.
    pub(super) span: usize,
    /// The equal bytes within `span`.
    pub(super) equal: usize,
}

impl Extension {
    /// Equal minus unequal bytes.
    #[inline]
    pub(super) fn score(self) -> usize {
        (2 * self.equal).saturating_sub(self.span)
    }
}

/// Past this many equal bytes one extension is as good as any other.
pub(super) const EXACT_CAP: usize = 2048;

/// How far past the common prefix an extension looks.
const APPROXIMATE_BYTES: usize = 192;

/// Where an extension gives up: this much below its best balance.
const GIVE_UP: usize = 24;

/// How `a` and `b` go on together. Looks at no more than [`EXACT_CAP`] and some bytes.
#[inline]
pub(super) fn extend(a: &[u8], b: &[u8]) -> Extension {
    let limit = a.len().min(b.len()).min(EXACT_CAP);
    let exact = equal_prefix(&a[..limit], &b[..limit]);
    let mut best = Extension { exact, span: exact, equal: exact };
    if exact == limit {
        return best;
    }
    let limit = a.len().min(b.len()).min(exact + APPROXIMATE_BYTES);
    let (a, b) = (&a[..limit], &b[..limit]);
    let (mut at, mut equal) = (exact, exact);
    while at + 8 <= limit {
        equal += equal_bytes(word(a, at) ^ word(b, at)) as usize;
        at += 8;
        let score = (2 * equal).saturating_sub(at);
        if score > best.score() {
            best = Extension { exact, span: at, equal };
        } else if score + GIVE_UP < best.score() {
            break;
        }
    }
    best
}

/// The length at which the balance of equal and unequal bytes of `a` and `b` is best, from their fronts.
pub(super) fn best_forward(a: &[u8], b: &[u8]) -> usize {
    let limit = a.len().min(b.len());
    let (a, b) = (&a[..limit], &b[..limit]);
    best_length(limit, |at| word(a, at) ^ word(b, at), |at| a[at] == b[at])
}

/// As [`best_forward`], from the ends.
pub(super) fn best_backward(a: &[u8], b: &[u8]) -> usize {
    let limit = a.len().min(b.len());
    let (a, b) = (&a[a.len() - limit..], &b[b.len() - limit..]);
    let difference = |at| (word(a, limit - at - 8) ^ word(b, limit - at - 8)).swap_bytes();
    best_length(limit, difference, |at| a[limit - at - 1] == b[limit - at - 1])
}

/// `difference` is the exclusive or of eight bytes from a place on, `equal` whether the bytes at one are.
#[inline]
fn best_length(limit: usize, difference: impl Fn(usize) -> u64, equal: impl Fn(usize) -> bool) -> usize {
    let (mut at, mut balance, mut best, mut best_at) = (0usize, 0i64, 0i64, 0usize);
    while at + 8 <= limit {
        let difference = difference(at);
        if difference == 0 {
            balance += 8;
            if balance > best {
                (best, best_at) = (balance, at + 8);
            }
        } else {
            let step = STEPS[unequal_mask(difference)];
            if balance + i64::from(step.most) > best {
                (best, best_at) = (balance + i64::from(step.most), at + usize::from(step.most_at));
            }
            balance += i64::from(step.total);
            if balance < best - STOP {
                return best_at;
            }
        }
        at += 8;
    }
    for at in at..limit {
        balance += if equal(at) { 1 } else { -1 };
        if balance > best {
            (best, best_at) = (balance, at + 1);
        }
    }
    best_at
}

/// Where to go over from `first` to `second`, all of one length, so that most of `shared` agrees.
pub(super) fn best_cut(shared: &[u8], first: &[u8], second: &[u8]) -> usize {
    let limit = shared.len().min(first.len()).min(second.len());
    let (mut balance, mut best, mut cut) = (0i64, 0i64, 0);
    let mut byte = |at: usize| {
        balance += i64::from(shared[at] == first[at]) - i64::from(shared[at] == second[at]);
        if balance > best {
            (best, cut) = (balance, at + 1);
        }
    };
    let mut at = 0;
    while at + 8 <= limit {
        let new = word(shared, at);
        // Most words agree with both, or with neither at the same bytes: nothing is gained by them.
        let (first, second) = (new ^ word(first, at), new ^ word(second, at));
        if first != second && unequal_mask(first) != unequal_mask(second) {
            (at..at + 8).for_each(&mut byte);
        }
        at += 8;
    }
    (at..limit).for_each(byte);
    cut
}

/// How the balance goes over eight bytes.
#[derive(Clone, Copy)]
struct Step {
    total: i8,
    /// The most that it is above its start behind any of them, and behind how many it is that first.
    most: i8,
    most_at: u8,
}

/// By which of eight bytes are unequal.
const STEPS: [Step; 256] = steps();

const fn steps() -> [Step; 256] {
    let mut steps = [Step { total: 0, most: i8::MIN, most_at: 0 }; 256];
    let mut mask = 0;
    while mask < 256 {
        let step = &mut steps[mask];
        let mut at = 0u8;
        while at < 8 {
            step.total += if mask >> at & 1 == 0 { 1 } else { -1 };
            at += 1;
            if step.total > step.most {
                step.most = step.total;
                step.most_at = at;
            }
        }
        mask += 1;
    }
    steps
}

/// A bit for each of eight bytes that are unequal, given their exclusive or; the first one's is the lowest.
#[inline]
fn unequal_mask(difference: u64) -> usize {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let unequal = (((difference & LOW) + LOW) | difference) & !LOW;
    // Bit 8k moves to bit 56 + k.
    usize::from((unequal >> 7).wrapping_mul(0x0102_0408_1020_4080).to_le_bytes()[7])
}

/// How far below its best the balance may fall before an extension to a border stops looking further.
const STOP: i64 = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        (
            prop::collection::vec(0u8..3, 0..400),
            prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        )
            .prop_map(|(a, changes)| {
                let mut b = a.clone();
                for (at, value) in changes {
                    if !b.is_empty() {
                        let at = at.index(b.len());
                        b[at] = value;
                    }
                }
                (a, b)
            })
    }

    proptest! {
        #[test]
        fn agree_with_the_simple_way((a, b) in pair()) {
            let prefix = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            prop_assert_eq!(equal_prefix(&a, &b), prefix);
            prop_assert_eq!(matches(&a, &b), a.iter().zip(&b).filter(|(a, b)| a == b).count());
            let extension = extend(&a, &b);
            prop_assert_eq!(extension.exact, prefix);
            prop_assert_eq!(extension.equal, matches(&a[..extension.span], &b[..extension.span]));
            let balance = |n: usize| 2 * matches(&a[..n], &b[..n]).cast_signed() - n.cast_signed();
            let best = (0..=a.len()).map(balance).max().unwrap();
            prop_assert_eq!(balance(best_forward(&a, &b)), best);
            let (ra, rb): (Vec<u8>, Vec<u8>) = (a.iter().rev().copied().collect(), b.iter().rev().copied().collect());
            prop_assert_eq!(best_backward(&ra, &rb), best_forward(&a, &b));
            let c: Vec<u8> = a.iter().skip(1).chain([&0]).copied().collect();
            let agree = |at: usize| matches(&a[..at], &b[..at]) + matches(&a[at..], &c[at..]);
            let cut = (0..=a.len()).max_by_key(|&at| (agree(at), std::cmp::Reverse(at))).unwrap();
            prop_assert_eq!(best_cut(&a, &b, &c), cut);
        }
    }
}
