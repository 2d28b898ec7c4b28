//! Class data archives of HotSpot (`lib/server/classes.jsa`): memory images of loaded classes.
//!
//! The JVM maps such a file at one address ([`BASE`], unless it was told another when the file was made), so that addresses stand in it as they
//! are, a word in five of it; its tables of symbols have 32-bit distances from that address. When a class grows all behind it moves. A
//! file has no list of these places that would be simpler than the words themselves: a word that is an address of the file is taken
//! for one, and 32 bits are taken for a distance where some word is that address.

use super::image::{Image, Segment, u32_at, u64_at};
use super::scan::{Field, Form, Sink};
use super::tables::Region;

/// The first four bytes.
const MAGIC: u32 = 0xf00b_aba2;
/// `SharedBaseAddress`, as it is unless it is set.
const BASE: u64 = 32 << 30;
/// Parts of the file begin at multiples of this.
const PAGE: u64 = 4 << 10;
/// The header is no longer.
const MAX_HEADER: u64 = 1 << 20;
/// Words of the header in which its first part is looked for.
const HEADER_WORDS: std::ops::Range<usize> = 2..16;
/// Bytes of a word.
const WORD: usize = 8;
/// Words beyond so many are not noted as targets.
const MAX_NOTED: usize = if cfg!(fuzzing) { 1 << 16 } else { 64 << 20 };

/// What is mapped of a file; `None` for any other.
///
/// The first part of a file is told of by three words: where it begins in the file, how far behind [`BASE`] it is mapped, and its length. The others follow it
/// in both at the same distances.
pub(super) fn mapped(bytes: &[u8]) -> Option<Segment> {
    if u32_at(bytes, 0)? != MAGIC {
        return None;
    }
    let length = bytes.len() as u64;
    for word in HEADER_WORDS {
        let at = word * WORD;
        let (start, behind, used) =
            (u64_at(bytes, at)?, u64_at(bytes, at + WORD)?, u64_at(bytes, at + 2 * WORD)?);
        let aligned = start.is_multiple_of(PAGE) && behind.is_multiple_of(PAGE);
        let begins = aligned && (PAGE..=MAX_HEADER).contains(&start) && behind <= start;
        if begins && used > 0 && start.checked_add(used).is_some_and(|end| end <= length) {
            let (offset, address) = (usize::try_from(start).ok()?, BASE + behind);
            let end = address + (length - start);
            return Some(Segment { address, end, offset, bytes: bytes.len() - offset, code: false });
        }
    }
    None
}

/// The addresses that words of an archive name.
#[derive(Debug, Default)]
pub(super) struct Targets {
    low: u64,
    /// A bit for each word.
    named: Vec<u64>,
}

impl Targets {
    /// Those of an archive; none of any other file.
    pub(super) fn new(image: &Image<'_>) -> Self {
        let mut targets = Self { low: image.low, named: Vec::new() };
        let [segment] = image.segments[..] else { return targets };
        let noted = (segment.bytes / WORD + 1).min(MAX_NOTED);
        targets.named = vec![0; noted.div_ceil(64)];
        for word in image.bytes[segment.offset..].chunks_exact(WORD) {
            let target = u64_at(word, 0).unwrap_or(0);
            if image.contains(target)
                && let Some((place, bit)) = targets.place(target)
            {
                targets.named[place] |= bit;
            }
        }
        targets
    }

    fn place(&self, target: u64) -> Option<(usize, u64)> {
        let distance = target.checked_sub(self.low)?;
        let word = usize::try_from(distance / WORD as u64).ok()?;
        (distance.is_multiple_of(WORD as u64) && word / 64 < self.named.len())
            .then_some((word / 64, 1 << (word % 64)))
    }

    fn has(&self, target: u64) -> bool {
        self.place(target).is_some_and(|(place, bit)| self.named[place] & bit != 0)
    }

    /// The fields of a part of the archive that begins at a word.
    pub(super) fn scan(&self, image: &Image<'_>, part: &Region, sink: &mut Sink<'_>) {
        for at in (part.start..part.end).step_by(WORD) {
            let Some(word) = u64_at(image.bytes, at) else { break };
            if image.contains(word) {
                sink.put(&Field { offset: at, form: Form::Add64, target: word, base: None });
                continue;
            }
            for (offset, half) in [(at, word & 0xffff_ffff), (at + 4, word >> 32)] {
                let target = BASE + half;
                if half != 0 && self.has(target) {
                    sink.put(&Field { offset, form: Form::Add32, target, base: None });
                }
            }
        }
    }
}
