//! Symbols collected for a block, and the block written in the shortest of its three forms.

use super::bits::BitWriter;
use super::tables::{
    CODES, DISTANCE_CODES, DISTANCE_EXTRA, END_OF_BLOCK, FIXED_DISTANCE_BITS, LENGTH_CODES, LENGTH_EXTRA,
    LENGTH_ORDER, LITERAL_CODES, REPEAT_EXTRA, fixed_literal_bits,
};
use super::tree::{Kind, Tree, assign};
use super::{Encoder, Maker};
use std::io;
use std::sync::LazyLock;

const STORED: u32 = 0;
const FIXED: u32 = 1;
const DYNAMIC: u32 = 2;
/// Bytes of one stored block at most.
const STORED_BYTES: usize = 0xffff;

static LITERALS: Kind = Kind {
    symbols: LITERAL_CODES,
    max_bits: 15,
    extra: |code| if code > END_OF_BLOCK { LENGTH_EXTRA[code - END_OF_BLOCK - 1] } else { 0 },
    fixed: fixed_literal_bits,
};
static DISTANCES: Kind = Kind {
    symbols: DISTANCE_CODES,
    max_bits: 15,
    extra: |code| DISTANCE_EXTRA[code],
    fixed: |_| FIXED_DISTANCE_BITS,
};
static LENGTHS: Kind = Kind {
    symbols: LENGTH_CODES,
    max_bits: 7,
    extra: |code| if code < 16 { 0 } else { REPEAT_EXTRA[code - 16] },
    fixed: |_| 0,
};

/// The code lengths of the fixed trees, and the codes.
static FIXED_LITERALS: LazyLock<([u8; 288], [u16; 288])> = LazyLock::new(|| {
    let mut bits = [0; 288];
    for (code, bits) in bits.iter_mut().enumerate() {
        *bits = fixed_literal_bits(code);
    }
    // The last two are never used, but count.
    let codes = assign(&bits);
    (bits, codes)
});

#[derive(Clone, Copy)]
struct Symbol {
    /// 0: a literal.
    distance: u16,
    /// The literal, or the match length less 3.
    value: u8,
}

/// The symbols of the block under way.
pub(super) struct Block {
    encoder: Encoder,
    symbols: Vec<Symbol>,
    limit: usize,
    matches: usize,
    literal_weights: [u32; LITERAL_CODES],
    distance_weights: [u32; DISTANCE_CODES],
}

impl Block {
    pub(super) fn new(encoder: Encoder) -> Self {
        let limit = encoder.block_symbols() - 1;
        let mut block = Self {
            encoder,
            symbols: Vec::with_capacity(limit),
            limit,
            matches: 0,
            literal_weights: [0; LITERAL_CODES],
            distance_weights: [0; DISTANCE_CODES],
        };
        block.clear();
        block
    }

    fn clear(&mut self) {
        self.symbols.clear();
        self.matches = 0;
        self.literal_weights.fill(0);
        self.literal_weights[END_OF_BLOCK] = 1;
        self.distance_weights.fill(0);
    }

    /// Adds a literal; whether the block has to end. `covered` are the bytes of the input from the block's start to where the finder
    /// stands.
    pub(super) fn literal(&mut self, literal: u8, covered: usize) -> bool {
        self.symbols.push(Symbol { distance: 0, value: literal });
        self.literal_weights[usize::from(literal)] += 1;
        self.is_full(covered)
    }

    /// Adds a match of `length` less 3 bytes; as [`Block::literal`].
    pub(super) fn matched(&mut self, distance: u16, length: u8, covered: usize) -> bool {
        self.symbols.push(Symbol { distance, value: length });
        self.matches += 1;
        let code = usize::from(CODES.length[usize::from(length)]);
        self.literal_weights[END_OF_BLOCK + 1 + code] += 1;
        self.distance_weights[usize::from(CODES.distance(distance - 1))] += 1;
        self.is_full(covered)
    }

    fn is_full(&self, covered: usize) -> bool {
        let count = self.symbols.len();
        if self.encoder.maker == Maker::Gnu && self.encoder.level > 2 && count.is_multiple_of(0x1000) {
            // gzip ends a block that does well with few matches: what follows may be of another kind.
            let bits = |(weight, extra): (&u32, &u8)| u64::from(*weight) * (5 + u64::from(*extra));
            let distances: u64 = self.distance_weights.iter().zip(&DISTANCE_EXTRA).map(bits).sum();
            let estimate = (count as u64 * 8 + distances) >> 3;
            if self.matches < count / 2 && estimate < covered as u64 / 2 {
                return true;
            }
        }
        count == self.limit
    }

    /// Writes the block and starts the next one. `raw` is what the block stands for, when it is still in the window.
    pub(super) fn flush(
        &mut self,
        raw: Option<&[u8]>,
        raw_bytes: usize,
        last: bool,
        out: &mut BitWriter<'_>,
    ) -> io::Result<()> {
        let literals = Tree::build(&LITERALS, &self.literal_weights);
        let distances = Tree::build(&DISTANCES, &self.distance_weights);
        let lengths = Lengths::new(&literals, &distances);
        let dynamic = (literals.cost + distances.cost + lengths.cost() + 3).div_ceil(8);
        let fixed = (literals.fixed_cost + distances.fixed_cost + 3).div_ceil(8);
        let best = dynamic.min(fixed);
        let raw = raw.filter(|raw| raw.len() <= STORED_BYTES && raw_bytes as u64 + 4 <= best);
        let last_bit = u32::from(last);
        if let Some(raw) = raw {
            out.put(STORED << 1 | last_bit, 3);
            out.align();
            // Checked above.
            let count = u32::try_from(raw.len()).unwrap_or(u32::MAX);
            out.put(count, 16);
            out.put(count ^ 0xffff, 16);
            out.bytes(raw)?;
        } else if fixed == best {
            out.put(FIXED << 1 | last_bit, 3);
            let (bits, codes) = &*FIXED_LITERALS;
            let distance = |code: usize| {
                let code = u8::try_from(code).unwrap_or(u8::MAX);
                (u32::from(code.reverse_bits() >> 3), u32::from(FIXED_DISTANCE_BITS))
            };
            self.write(|code| (u32::from(codes[code]), u32::from(bits[code])), distance, out)?;
        } else {
            out.put(DYNAMIC << 1 | last_bit, 3);
            lengths.write(&literals, &distances, out);
            let literal = |code: usize| (u32::from(literals.codes[code]), u32::from(literals.bits[code]));
            let distance = |code: usize| (u32::from(distances.codes[code]), u32::from(distances.bits[code]));
            self.write(literal, distance, out)?;
        }
        self.clear();
        out.spill()
    }

    fn write(
        &self,
        literal: impl Fn(usize) -> (u32, u32),
        distance: impl Fn(usize) -> (u32, u32),
        out: &mut BitWriter<'_>,
    ) -> io::Result<()> {
        let codes = &*CODES;
        for (at, symbol) in self.symbols.iter().enumerate() {
            if symbol.distance == 0 {
                let (code, bits) = literal(usize::from(symbol.value));
                out.put(code, bits);
                continue;
            }
            let code = usize::from(codes.length[usize::from(symbol.value)]);
            let (bits, count) = literal(END_OF_BLOCK + 1 + code);
            out.put(bits, count);
            out.put(
                u32::from(symbol.value) - u32::from(codes.length_base[code]),
                u32::from(LENGTH_EXTRA[code]),
            );
            let value = symbol.distance - 1;
            let code = usize::from(codes.distance(value));
            let (bits, count) = distance(code);
            out.put(bits, count);
            out.put(u32::from(value - codes.distance_base[code]), u32::from(DISTANCE_EXTRA[code]));
            if at % 0x1000 == 0 {
                out.spill()?;
            }
        }
        let (code, bits) = literal(END_OF_BLOCK);
        out.put(code, bits);
        Ok(())
    }
}

/// The code lengths of both trees as codes of their own.
struct Lengths {
    /// Code and value of its extra bits.
    items: Vec<(u8, u8)>,
    tree: Tree,
    /// How many of [`LENGTH_ORDER`] are sent.
    sent: usize,
}

impl Lengths {
    fn new(literals: &Tree, distances: &Tree) -> Self {
        let mut items = Vec::new();
        runs(&literals.bits[..=literals.last], &mut items);
        runs(&distances.bits[..=distances.last], &mut items);
        let mut weights = [0; LENGTH_CODES];
        for (code, _) in &items {
            weights[usize::from(*code)] += 1;
        }
        let tree = Tree::build(&LENGTHS, &weights);
        let sent = LENGTH_ORDER.iter().rposition(|code| tree.bits[*code] != 0).map_or(0, |at| at + 1).max(4);
        Self { items, tree, sent }
    }

    fn cost(&self) -> u64 {
        self.tree.cost + 3 * self.sent as u64 + 5 + 5 + 4
    }

    fn write(&self, literals: &Tree, distances: &Tree, out: &mut BitWriter<'_>) {
        // All three are below 32.
        let small = |count: usize| u32::try_from(count).unwrap_or(0);
        out.put(small(literals.last - END_OF_BLOCK), 5);
        out.put(small(distances.last), 5);
        out.put(small(self.sent - 4), 4);
        for &code in &LENGTH_ORDER[..self.sent] {
            out.put(u32::from(self.tree.bits[code]), 3);
        }
        for &(code, extra) in &self.items {
            let at = usize::from(code);
            out.put(u32::from(self.tree.codes[at]), u32::from(self.tree.bits[at]));
            if at >= 16 {
                out.put(u32::from(extra), u32::from(REPEAT_EXTRA[at - 16]));
            }
        }
    }
}

/// Cuts code lengths into runs: 16 repeats the one before 3 to 6 times, 17 zeros 3 to 10 times, 18 zeros 11 to 138 times.
pub(super) fn runs(bits: &[u8], items: &mut Vec<(u8, u8)>) {
    let mut before = None;
    let mut at = 0;
    while at < bits.len() {
        let value = bits[at];
        let most = match (value, before) {
            (0, _) => 138,
            (_, Some(before)) if before == value => 6,
            _ => 7,
        };
        let count = bits[at..].iter().take(most).take_while(|other| **other == value).count();
        at += count;
        // Below 139.
        let repeats = u8::try_from(count).unwrap_or(0);
        match (value, count) {
            (0, 11..) => items.push((18, repeats - 11)),
            (0, 3..) => items.push((17, repeats - 3)),
            (0, _) => items.extend(std::iter::repeat_n((0, 0), count)),
            (_, 3..) if before == Some(value) => items.push((16, repeats - 3)),
            (_, 4..) => items.extend([(value, 0), (16, repeats - 4)]),
            _ => items.extend(std::iter::repeat_n((value, 0), count)),
        }
        before = Some(value);
    }
}
