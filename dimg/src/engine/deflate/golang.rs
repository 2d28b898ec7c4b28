//! Streams as Go's `compress/flate` writes them at its level 1 (`BestSpeed`; Go 1.21 to 1.26 at least), which is how Go's linker deflates debug sections.
//!
//! A table remembers for each hash of four bytes where they were last; a match is taken at once, and after many places without one places are
//! left out. A block is 65,535 bytes of the input, written by dynamic codes, literals alone where there are hardly any matches, or as it is where
//! that hardly takes more. The stream ends with an empty stored block.

use super::bits::BitWriter;
use super::block::runs;
use super::tables::{
    CODES, DISTANCE_CODES, DISTANCE_EXTRA, END_OF_BLOCK, LENGTH_CODES, LENGTH_EXTRA, LENGTH_ORDER,
    LITERAL_CODES, MAX_MATCH, REPEAT_EXTRA,
};
use super::tree::assign;
use std::io;

/// Bytes of a block, and of a stored one at most.
const BLOCK_BYTES: usize = 0xffff;
/// A last block of fewer bytes has no matches.
const LITERAL_BYTES: usize = 128;
/// One of so many is stored.
const STORED_BYTES: usize = 16;
/// No match begins in the last bytes of a block.
const MARGIN: usize = 15;
const MAX_DISTANCE: usize = 1 << 15;
const HASH_BITS: u32 = 14;
const MAX_CODE_BITS: usize = 15;
const MAX_LENGTH_BITS: usize = 7;

/// Where four bytes were last.
#[derive(Clone, Copy)]
struct Seen {
    /// The place in the input, and one more; 0: nowhere.
    after: usize,
    bytes: u32,
}

/// A literal, or a match.
#[derive(Clone, Copy)]
struct Token {
    /// 0: a literal.
    distance: u16,
    /// The literal, or the match length less 3.
    value: u8,
}

/// Writes the stream of `input`.
pub(super) fn encode(input: &[u8], out: &mut BitWriter<'_>) -> io::Result<()> {
    let mut matcher =
        Matcher { input, table: vec![Seen { after: 0, bytes: 0 }; 1 << HASH_BITS], tokens: Vec::new() };
    let mut start = 0;
    while start < input.len() {
        let end = input.len().min(start + BLOCK_BYTES);
        let raw = &input[start..end];
        match raw.len() {
            count if count <= STORED_BYTES => stored(raw, false, out)?,
            count if count < LITERAL_BYTES => literals(raw, out)?,
            count => {
                matcher.block(start, end);
                if matcher.tokens.len() > count - count / 16 {
                    literals(raw, out)?;
                } else {
                    block(&matcher.tokens, raw, out)?;
                }
            }
        }
        start = end;
    }
    stored(&[], true, out)
}

struct Matcher<'a> {
    input: &'a [u8],
    table: Vec<Seen>,
    tokens: Vec<Token>,
}

impl Matcher<'_> {
    fn load(&self, at: usize) -> u32 {
        let bytes = self.input.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        u32::from_le_bytes(bytes.unwrap_or_default())
    }

    /// Remembers the four bytes at `at`; where they were before, if that is near enough.
    fn exchange(&mut self, at: usize, bytes: u32) -> Option<usize> {
        let slot = &mut self.table[(bytes.wrapping_mul(0x1e35_a7bd) >> (32 - HASH_BITS)) as usize];
        let before = std::mem::replace(slot, Seen { after: at + 1, bytes });
        let place = before.after.checked_sub(1)?;
        (before.bytes == bytes && at - place <= MAX_DISTANCE).then_some(place)
    }

    fn literals(&mut self, from: usize, to: usize) {
        let bytes = &self.input[from..to];
        self.tokens.extend(bytes.iter().map(|&value| Token { distance: 0, value }));
    }

    /// Finds the tokens of the block from `start` to `end`, which has more bytes than the margin.
    fn block(&mut self, start: usize, end: usize) {
        self.tokens.clear();
        let limit = end - MARGIN;
        let (mut at, mut written) = (start, start);
        let mut bytes = self.load(at);
        while let Some((place, found)) = self.search(at, bytes, limit) {
            self.literals(written, place);
            let (mut place, mut found) = (place, found);
            loop {
                let most = end.min(place + MAX_MATCH);
                let same = (place + 4..most).zip(found + 4..);
                let length =
                    4 + same.take_while(|&(one, other)| self.input[one] == self.input[other]).count();
                // 3 to 258, and 1 to 32,768.
                let value = u8::try_from(length - 3).unwrap_or(u8::MAX);
                let distance = u16::try_from(place - found).unwrap_or(u16::MAX);
                self.tokens.push(Token { distance, value });
                place += length;
                written = place;
                if place >= limit {
                    return self.literals(written, end);
                }
                let before = self.load(place - 1);
                self.exchange(place - 1, before);
                let here = self.load(place);
                match self.exchange(place, here) {
                    Some(again) => found = again,
                    None => break,
                }
            }
            at = place + 1;
            bytes = self.load(at);
        }
        self.literals(written, end);
    }

    /// The next place from `at` on, whose four bytes are `bytes`, with a match, and the match's; in longer and longer steps.
    fn search(&mut self, at: usize, mut bytes: u32, limit: usize) -> Option<(usize, usize)> {
        let (mut next, mut skip) = (at, 32);
        loop {
            let place = next;
            let step = skip >> 5;
            next = place + step;
            skip += step;
            if next > limit {
                return None;
            }
            if let Some(found) = self.exchange(place, bytes) {
                return Some((place, found));
            }
            bytes = self.load(next);
        }
    }
}

/// Code lengths, and the codes, by symbol.
struct Codes<const N: usize> {
    bits: [u8; N],
    codes: [u16; N],
}

impl<const N: usize> Codes<N> {
    /// The best code of at most `max_bits` bits; rarer symbols, and of equals those that come first, have the longer ones.
    fn build(weights: &[u32; N], max_bits: usize) -> Self {
        let mut leaves: Vec<(u64, usize)> = Vec::with_capacity(N);
        leaves.extend(
            weights
                .iter()
                .zip(0..)
                .filter(|(weight, _)| **weight > 0)
                .map(|(&weight, at)| (weight.into(), at)),
        );
        leaves.sort_unstable();
        let mut bits = [0u8; N];
        let depth = max_bits.min(leaves.len().saturating_sub(1)).max(1);
        // Every leaf that a level takes has a bit more.
        for count in deepest(&leaves, depth) {
            leaves.iter().take(count).for_each(|&(_, at)| bits[at] += 1);
        }
        Self { codes: assign(&bits), bits }
    }

    fn cost(&self, weights: &[u32; N]) -> u64 {
        self.bits.iter().zip(weights).map(|(bits, weight)| u64::from(*bits) * u64::from(*weight)).sum()
    }

    fn put(&self, symbol: usize, out: &mut BitWriter<'_>) {
        out.put(u32::from(self.codes[symbol]), u32::from(self.bits[symbol]));
    }
}

/// How many of the lightest leaves each level of a code of at most `depth` bits takes: leaves and pairs of the level below, by weight, of
/// equals the pair first (Larmore and Hirschberg, "A fast algorithm for optimal length-limited Huffman codes", 1990).
fn deepest(leaves: &[(u64, usize)], depth: usize) -> Vec<usize> {
    if leaves.len() <= 2 {
        return vec![leaves.len()];
    }
    // Of each level what its items weigh, and whether they are leaves.
    let mut levels: Vec<Vec<(u64, bool)>> = Vec::with_capacity(depth);
    for _ in 0..depth {
        let below = levels.last().map_or(&[][..], Vec::as_slice);
        let mut pairs = below.chunks_exact(2).map(|pair| pair[0].0 + pair[1].0).peekable();
        let mut items = Vec::with_capacity(2 * leaves.len());
        for &(weight, _) in leaves {
            while let Some(pair) = pairs.next_if(|pair| *pair <= weight) {
                items.push((pair, false));
            }
            items.push((weight, true));
        }
        items.extend(pairs.map(|pair| (pair, false)));
        levels.push(items);
    }
    let mut taken = 2 * leaves.len() - 2;
    let mut counts = Vec::with_capacity(depth);
    for level in levels.iter().rev() {
        let of_leaves = level.iter().take(taken).filter(|(_, leaf)| *leaf).count();
        counts.push(of_leaves);
        taken = 2 * (taken - of_leaves);
    }
    counts
}

/// The codes of a block with a head that tells them.
struct Head {
    literals: Codes<LITERAL_CODES>,
    distances: Codes<DISTANCE_CODES>,
    /// How many of both are told.
    told: (usize, usize),
    lengths: Codes<LENGTH_CODES>,
    items: Vec<(u8, u8)>,
    /// How many of [`LENGTH_ORDER`] are told.
    sent: usize,
    /// Bits of all, extra bits of lengths and distances left out.
    bits: u64,
}

impl Head {
    fn of(literal_weights: &[u32; LITERAL_CODES], distance_weights: &[u32; DISTANCE_CODES]) -> Self {
        let literals = Codes::build(literal_weights, MAX_CODE_BITS);
        let distances = Codes::build(distance_weights, MAX_CODE_BITS);
        let last = |weights: &[u32]| weights.iter().rposition(|weight| *weight > 0).map_or(1, |at| at + 1);
        let told = (last(literal_weights), last(distance_weights));
        let bits = [&literals.bits[..told.0], &distances.bits[..told.1]].concat();
        let mut items = Vec::new();
        runs(&bits, &mut items);
        let mut weights = [0; LENGTH_CODES];
        items.iter().for_each(|(code, _)| weights[usize::from(*code)] += 1);
        let lengths = Codes::build(&weights, MAX_LENGTH_BITS);
        let sent = LENGTH_ORDER.iter().rposition(|code| weights[*code] > 0).map_or(0, |at| at + 1).max(4);
        let extra: u64 = REPEAT_EXTRA
            .iter()
            .zip(&weights[16..])
            .map(|(bits, count)| u64::from(*bits) * u64::from(*count))
            .sum();
        let head = 3 + 5 + 5 + 4 + 3 * sent as u64 + lengths.cost(&weights) + extra;
        let bits = head + literals.cost(literal_weights) + distances.cost(distance_weights);
        Self { literals, distances, told, lengths, items, sent, bits }
    }

    /// Whether a block of these bytes had better be stored.
    fn is_worse_than(&self, raw: &[u8]) -> bool {
        (raw.len() as u64 + 5) * 8 < self.bits + self.bits / 16
    }

    fn write(&self, out: &mut BitWriter<'_>) {
        // All are below 32.
        let small = |count: usize| u32::try_from(count).unwrap_or(0);
        out.put(0b100, 3);
        out.put(small(self.told.0 - END_OF_BLOCK - 1), 5);
        out.put(small(self.told.1 - 1), 5);
        out.put(small(self.sent - 4), 4);
        for &code in &LENGTH_ORDER[..self.sent] {
            out.put(u32::from(self.lengths.bits[code]), 3);
        }
        for &(code, extra) in &self.items {
            let code = usize::from(code);
            self.lengths.put(code, out);
            if code >= 16 {
                out.put(u32::from(extra), u32::from(REPEAT_EXTRA[code - 16]));
            }
        }
    }
}

fn stored(raw: &[u8], last: bool, out: &mut BitWriter<'_>) -> io::Result<()> {
    out.put(u32::from(last), 3);
    out.align();
    // At most a block.
    let count = u32::try_from(raw.len()).unwrap_or(u32::MAX);
    out.put(count, 16);
    out.put(count ^ 0xffff, 16);
    out.bytes(raw)
}

/// A block without matches.
fn literals(raw: &[u8], out: &mut BitWriter<'_>) -> io::Result<()> {
    let mut weights = [0; LITERAL_CODES];
    raw.iter().for_each(|byte| weights[usize::from(*byte)] += 1);
    weights[END_OF_BLOCK] = 1;
    let mut distances = [0; DISTANCE_CODES];
    distances[0] = 1;
    let head = Head::of(&weights, &distances);
    if head.is_worse_than(raw) {
        return stored(raw, false, out);
    }
    head.write(out);
    for &byte in raw {
        head.literals.put(usize::from(byte), out);
    }
    head.literals.put(END_OF_BLOCK, out);
    out.spill()
}

fn block(tokens: &[Token], raw: &[u8], out: &mut BitWriter<'_>) -> io::Result<()> {
    let codes = &*CODES;
    let length_code = |token: &Token| usize::from(codes.length[usize::from(token.value)]);
    let (mut literals, mut distances) = ([0; LITERAL_CODES], [0; DISTANCE_CODES]);
    literals[END_OF_BLOCK] = 1;
    for token in tokens {
        if token.distance == 0 {
            literals[usize::from(token.value)] += 1;
        } else {
            literals[END_OF_BLOCK + 1 + length_code(token)] += 1;
            distances[usize::from(codes.distance(token.distance - 1))] += 1;
        }
    }
    if distances.iter().all(|weight| *weight == 0) {
        distances[0] = 1;
    }
    let head = Head::of(&literals, &distances);
    if head.is_worse_than(raw) {
        return stored(raw, false, out);
    }
    head.write(out);
    for token in tokens {
        if token.distance == 0 {
            head.literals.put(usize::from(token.value), out);
            continue;
        }
        let code = length_code(token);
        head.literals.put(END_OF_BLOCK + 1 + code, out);
        out.put(u32::from(token.value) - u32::from(codes.length_base[code]), u32::from(LENGTH_EXTRA[code]));
        let value = token.distance - 1;
        let code = usize::from(codes.distance(value));
        head.distances.put(code, out);
        out.put(u32::from(value - codes.distance_base[code]), u32::from(DISTANCE_EXTRA[code]));
    }
    head.literals.put(END_OF_BLOCK, out);
    out.spill()
}
