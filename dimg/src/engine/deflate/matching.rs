//! How GNU gzip and zlib find matches: hash chains, greedy for levels 1 to 3, lazy above.
//!
//! Both see the input through a window of 64 KiB that moves on by 32 KiB when its reader is near its end. That shows in
//! the output: the window's first byte is never the start of a match, a block that starts before the window cannot be stored, and
//! gzip compares beyond the end of the input with what an earlier position of the window left there. So positions here
//! are those in the input, and `base` is where the window would start.

use super::bits::BitWriter;
use super::block::Block;
use super::links::{Links, Long, of};
use super::tables::{MAX_MATCH, MIN_MATCH};
use super::{Encoder, Maker};
use std::io;

const WINDOW: usize = 1 << 15;
/// The window is moved or filled when less than this is ahead.
const MIN_AHEAD: usize = MAX_MATCH + MIN_MATCH + 1;
const MAX_DISTANCE: usize = WINDOW - MIN_AHEAD;
/// Matches of three bytes from farther away are not worth it.
const TOO_FAR: usize = 4096;

/// What a level means.
#[derive(Clone, Copy)]
struct Effort {
    /// From this length of the match before on, a quarter of the chain is searched.
    good: usize,
    /// From this length of the match before on, none is searched; with greedy search, matches up to this length are
    /// entered into the hash.
    lazy: usize,
    /// A match of this length is good enough.
    nice: usize,
    /// Places of a chain looked at.
    chain: usize,
}

const fn effort(good: usize, lazy: usize, nice: usize, chain: usize) -> Effort {
    Effort { good, lazy, nice, chain }
}

static EFFORTS: [Effort; 9] = [
    effort(4, 4, 8, 4),
    effort(4, 5, 16, 8),
    effort(4, 6, 32, 32),
    effort(4, 4, 16, 16),
    effort(8, 16, 32, 32),
    effort(8, 16, 128, 128),
    effort(8, 32, 128, 256),
    effort(32, 128, 258, 1024),
    effort(32, 258, 258, 4096),
];

/// Chains of so many places are gone through faster by longer ones.
const LONG_CHAIN: usize = 128;
/// A match of so many bytes is looked for on the longest chain.
const LONG: usize = 6;

/// How far to go along a chain, and what is good enough.
#[derive(Clone, Copy)]
struct Chain {
    steps: usize,
    nice: usize,
    limit: usize,
}

/// Searches one input.
pub(super) struct Finder<'a> {
    input: &'a [u8],
    gnu: bool,
    effort: Effort,
    block: Block,
    links: Links<'a>,
    /// Where the finder stands.
    at: usize,
    /// Where the window starts.
    base: usize,
    /// Where what was read ends.
    filled: usize,
    /// Whether a read gave nothing.
    ended: bool,
    block_start: usize,
    /// The input's last bytes and what the window has after them, from `tail_start` on; made at the end.
    tail: Vec<u8>,
    tail_start: usize,
}

impl<'a> Finder<'a> {
    pub(super) fn new(encoder: Encoder, input: &'a [u8]) -> Self {
        let effort = EFFORTS[usize::from(encoder.level - 1)];
        let mut finder = Self {
            input,
            gnu: encoder.maker == Maker::Gnu,
            effort,
            block: Block::new(encoder),
            links: Links::new(input, encoder.hash_bits(), effort.chain >= LONG_CHAIN),
            at: 0,
            base: 0,
            filled: input.len().min(2 * WINDOW),
            ended: input.is_empty(),
            block_start: 0,
            tail: Vec::new(),
            tail_start: usize::MAX,
        };
        finder.fill();
        finder
    }

    fn ahead(&self) -> usize {
        self.filled - self.at
    }

    /// Reads on and moves the window, as far as the compressor would by now.
    fn fill(&mut self) {
        while self.ahead() < MIN_AHEAD && !(self.gnu && self.ended) {
            if self.at - self.base >= WINDOW + MAX_DISTANCE {
                self.base += WINDOW;
            }
            let room = 2 * WINDOW - (self.filled - self.base);
            let count = room.min(self.input.len() - self.filled);
            self.filled += count;
            if count == 0 {
                self.ended = true;
                break;
            }
        }
        if self.tail.is_empty() && self.filled == self.input.len() && self.ahead() < MIN_AHEAD {
            self.make_tail();
        }
    }

    /// The end of the input, and what comparisons see beyond it.
    fn make_tail(&mut self) {
        self.tail_start = self.filled.saturating_sub(2 * WINDOW);
        self.tail.extend_from_slice(&self.input[self.tail_start..]);
        for beyond in 0..MAX_MATCH + MIN_MATCH {
            let at = self.filled + beyond;
            let fresh = self.base == 0 || (self.base == WINDOW && at - self.base < WINDOW);
            let stale = if self.gnu && beyond >= MIN_MATCH - 1 && !fresh {
                self.input.get(at - WINDOW).copied().unwrap_or_default()
            } else {
                0
            };
            self.tail.push(stale);
        }
    }

    /// The last place of the same hash as that where the finder stands, which is entered, if it is near enough.
    fn before(&self) -> Option<usize> {
        if self.at + MIN_MATCH > self.input.len() {
            return None;
        }
        let before = self.links.before(self.at);
        let near = before > self.base && self.at - before <= MAX_DISTANCE;
        // gzip stops searching in the last bytes of a full window, which does not move once the input has ended.
        (near && self.at - self.base <= 2 * WINDOW - MIN_AHEAD).then_some(before)
    }

    /// The longest match from `start` or a place before it that is longer than `known`: length and place.
    fn longest(&self, start: usize, known: usize) -> Option<(usize, usize)> {
        let mut chain = if known >= self.effort.good { self.effort.chain >> 2 } else { self.effort.chain };
        let ahead = self.ahead();
        let nice = if self.gnu { self.effort.nice } else { self.effort.nice.min(ahead) };
        // Near the end of the input it is the tail that is searched.
        let (text, shift) = match self.tail.is_empty() {
            true => (self.input, 0),
            false => (&self.tail[..], self.tail_start),
        };
        let here = self.at - shift;
        let most = if self.gnu { MAX_MATCH } else { MAX_MATCH.min(ahead) };
        let scan = text.get(here..here + most)?;
        let limit = self.at.saturating_sub(MAX_DISTANCE).max(self.base);
        let (mut best, mut found) = (known, None);
        let mut place = start;
        if best >= most {
            return None;
        }
        if let Some(long) = self.links.long().filter(|_| self.tail.is_empty()) {
            let chain = Chain { steps: chain, nice, limit };
            if let Some(found) = self.longest_of_few(long, start, known, chain) {
                return found;
            }
        }
        // Few places have the bytes that make a longer match end where it would: those are looked at first.
        let mut last = Last::new(scan, best);
        loop {
            let from = place - shift;
            if last.agrees(text, from) {
                let length = common(scan, text.get(from..from + most)?);
                if length > best && length >= MIN_MATCH {
                    (best, found) = (length, Some((length, place)));
                    if length >= nice || length >= most {
                        break;
                    }
                    last = Last::new(scan, best);
                }
            }
            // A place's own chain is never 0: no place is entered twice.
            place = self.links.before(place);
            chain -= 1;
            if place <= limit || chain == 0 {
                break;
            }
        }
        found.map(|(length, place)| (length.min(ahead), place))
    }

    /// What [`Finder::longest`] is to find, along longer chains; none when these are longer than the compressor's, which other bytes
    /// than those of a text can bring about.
    #[inline]
    fn longest_of_few(
        &self,
        long: &Long,
        start: usize,
        known: usize,
        chain: Chain,
    ) -> Option<Option<(usize, usize)>> {
        let (text, Chain { steps, nice, limit }) = (self.input, chain);
        let scan = text.get(self.at..self.at + MAX_MATCH)?;
        let (mut best, mut found, mut place) = (known, None, self.at);
        if best < MIN_MATCH {
            let first = self.first(start, scan, chain);
            let Some(first) = first else { return Some(None) };
            best = common(scan, text.get(first..first + MAX_MATCH)?);
            found = Some((best, first));
            if best >= nice {
                return Some(found);
            }
            if best >= LONG {
                place = first;
            }
        }
        let mut last = Last::new(scan, best);
        let mut back = long.chain(best >= LONG);
        for _ in 0..steps {
            let distance = usize::from(of(back, place));
            place = place.saturating_sub(distance);
            if distance == 0 || place <= limit {
                return Some(found);
            }
            if !last.agrees(text, place) {
                continue;
            }
            let length = common(scan, text.get(place..place + MAX_MATCH)?);
            if length <= best {
                continue;
            }
            if long.steps(self.at, place) > steps {
                return Some(found);
            }
            found = Some((length, place));
            if length >= nice {
                return Some(found);
            }
            best = length;
            last = Last::new(scan, best);
            back = long.chain(best >= LONG);
        }
        None
    }

    /// The first place of the chain from `start` on that begins as `scan` does.
    fn first(&self, start: usize, scan: &[u8], chain: Chain) -> Option<usize> {
        let mut place = start;
        for _ in 0..chain.steps {
            if self.input[place..place + MIN_MATCH] == scan[..MIN_MATCH] {
                return Some(place);
            }
            place = self.links.before(place);
            if place <= chain.limit {
                break;
            }
        }
        None
    }

    fn end_block(&mut self, last: bool, out: &mut BitWriter<'_>) -> io::Result<()> {
        let raw = (self.block_start >= self.base).then(|| &self.input[self.block_start..self.at]);
        self.block.flush(raw, self.at - self.block_start, last, out)?;
        self.block_start = self.at;
        Ok(())
    }

    fn matched(&mut self, at: usize, length: usize, place: usize) -> bool {
        // A distance is at most MAX_DISTANCE, a length at most MAX_MATCH.
        let distance = u16::try_from(at - place).unwrap_or(u16::MAX);
        let length = u8::try_from(length - MIN_MATCH).unwrap_or(u8::MAX);
        self.block.matched(distance, length, self.at - self.block_start)
    }

    /// Takes each match that it finds.
    pub(super) fn greedy(mut self, out: &mut BitWriter<'_>) -> io::Result<()> {
        while self.ahead() > 0 {
            self.links.enter(self.at);
            let found = self.before().and_then(|start| self.longest(start, MIN_MATCH - 1));
            let full = match found.filter(|(length, _)| *length >= MIN_MATCH) {
                Some((length, place)) => {
                    let full = self.matched(self.at, length, place);
                    if length <= self.effort.lazy && (self.gnu || self.ahead() - length >= MIN_MATCH) {
                        for _ in 1..length {
                            self.at += 1;
                            self.links.enter(self.at);
                        }
                        self.at += 1;
                    } else {
                        self.at += length;
                    }
                    full
                }
                None => {
                    let full = self.block.literal(self.input[self.at], self.at - self.block_start);
                    self.at += 1;
                    full
                }
            };
            if full {
                self.end_block(false, out)?;
            }
            self.fill();
        }
        self.end_block(true, out)
    }

    /// Takes a match only when none from the next byte on is longer.
    pub(super) fn lazy(mut self, out: &mut BitWriter<'_>) -> io::Result<()> {
        let (mut length, mut place, mut pending) = (MIN_MATCH - 1, 0, false);
        while self.ahead() > 0 {
            self.links.reach(self.at);
            let start = self.before();
            let (before, place_before) = (length, place);
            length = MIN_MATCH - 1;
            if let Some(start) = start.filter(|_| before < self.effort.lazy)
                && let Some(found) = self.longest(start, before)
            {
                (length, place) = found;
                if length <= MIN_MATCH && (length < MIN_MATCH || self.at - place > TOO_FAR) {
                    length = MIN_MATCH - 1;
                }
            }
            if before >= MIN_MATCH && length <= before {
                let full = self.matched(self.at - 1, before, place_before);
                self.at += before - 1;
                (pending, length) = (false, MIN_MATCH - 1);
                if full {
                    self.end_block(false, out)?;
                }
            } else {
                if pending {
                    let full = self.block.literal(self.input[self.at - 1], self.at - self.block_start);
                    if full {
                        self.end_block(false, out)?;
                    }
                }
                pending = true;
                self.at += 1;
            }
            self.fill();
        }
        if pending {
            self.block.literal(self.input[self.at - 1], self.at - self.block_start);
        }
        self.end_block(true, out)
    }
}

/// The bytes that a match has at its end if it is longer than one that is known.
#[derive(Clone, Copy)]
struct Last {
    from: usize,
    bytes: [u8; LAST],
}

/// Bytes looked at together.
const LAST: usize = 3;

impl Last {
    /// Of matches with `scan` longer than `best` bytes, which are at least 2.
    fn new(scan: &[u8], best: usize) -> Self {
        let from = (best + 1).saturating_sub(LAST);
        Self { from, bytes: scan.get(from..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default() }
    }

    #[inline]
    fn agrees(&self, text: &[u8], place: usize) -> bool {
        text.get(place + self.from..).and_then(<[u8]>::first_chunk) == Some(&self.bytes)
    }
}

/// How many first bytes two slices of one length share.
fn common(one: &[u8], other: &[u8]) -> usize {
    let mut count = 0;
    let (mut left, mut right) = (one.chunks_exact(8), other.chunks_exact(8));
    for (one, other) in left.by_ref().zip(right.by_ref()) {
        let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        let differs = word(one) ^ word(other);
        if differs != 0 {
            return count + (differs.trailing_zeros() / 8) as usize;
        }
        count += 8;
    }
    count + left.remainder().iter().zip(right.remainder()).take_while(|(one, other)| one == other).count()
}
