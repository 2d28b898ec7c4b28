//! Huffman codes of limited length, with the choices among equals that zlib and gzip make.

/// Most symbols of a tree.
const MAX_SYMBOLS: usize = super::tables::LITERAL_CODES;
const MAX_NODES: usize = 2 * MAX_SYMBOLS + 1;
const MAX_BITS: usize = 15;

/// What sort of tree it is.
pub(super) struct Kind {
    pub(super) symbols: usize,
    pub(super) max_bits: u8,
    /// Extra bits of a symbol.
    pub(super) extra: fn(usize) -> u8,
    /// Bits of its fixed code.
    pub(super) fixed: fn(usize) -> u8,
}

/// Code lengths and codes, by symbol.
pub(super) struct Tree {
    pub(super) bits: [u8; MAX_SYMBOLS],
    /// Reversed, so that they can be written the least significant bit first.
    pub(super) codes: [u16; MAX_SYMBOLS],
    /// The last symbol that has a code.
    pub(super) last: usize,
    /// Bits that all symbols take with this tree, extra bits included.
    pub(super) cost: u64,
    /// The same with the fixed codes.
    pub(super) fixed_cost: u64,
}

/// A binary heap of nodes, numbered from 1, the rarest first; of equals the shallower one.
struct Heap {
    nodes: [u16; MAX_NODES + 1],
    count: usize,
    weights: [u32; MAX_NODES],
    depths: [u8; MAX_NODES],
}

impl Heap {
    fn before(&self, one: u16, other: u16) -> bool {
        let (one, other) = (usize::from(one), usize::from(other));
        (self.weights[one], self.depths[one]) <= (self.weights[other], self.depths[other])
    }

    fn sift_down(&mut self, mut at: usize) {
        let moved = self.nodes[at];
        let mut child = 2 * at;
        while child <= self.count {
            if child < self.count && self.before(self.nodes[child + 1], self.nodes[child]) {
                child += 1;
            }
            if self.before(moved, self.nodes[child]) {
                break;
            }
            self.nodes[at] = self.nodes[child];
            at = child;
            child *= 2;
        }
        self.nodes[at] = moved;
    }
}

impl Tree {
    /// The best tree for `weights`. A tree has two codes at least: the lowest symbols without one are taken.
    pub(super) fn build(kind: &Kind, weights: &[u32]) -> Self {
        let mut heap =
            Heap { nodes: [0; MAX_NODES + 1], count: 0, weights: [0; MAX_NODES], depths: [0; MAX_NODES] };
        let mut last = None;
        for (symbol, &weight) in (0u16..).zip(weights.iter().take(kind.symbols)) {
            heap.weights[usize::from(symbol)] = weight;
            if weight != 0 {
                heap.count += 1;
                heap.nodes[heap.count] = symbol;
                last = Some(symbol);
            }
        }
        let (mut cost, mut fixed_cost) = (0i64, 0i64);
        while heap.count < 2 {
            let symbol = match last {
                None => 0,
                Some(last) if last < 2 => last + 1,
                Some(_) => 0,
            };
            last = last.max(Some(symbol));
            heap.count += 1;
            heap.nodes[heap.count] = symbol;
            heap.weights[usize::from(symbol)] = 1;
            cost -= 1;
            fixed_cost -= i64::from((kind.fixed)(usize::from(symbol)));
        }
        let last = usize::from(last.unwrap_or_default());
        for at in (1..=heap.count / 2).rev() {
            heap.sift_down(at);
        }
        // Nodes in the order in which they were joined, the last joined first.
        let mut joined = [0u16; MAX_NODES];
        let mut first = MAX_NODES;
        let mut parents = [0u16; MAX_NODES];
        let mut push = |node: u16| {
            first -= 1;
            joined[first] = node;
        };
        let mut next = kind.symbols;
        loop {
            let one = heap.nodes[1];
            heap.nodes[1] = heap.nodes[heap.count];
            heap.count -= 1;
            heap.sift_down(1);
            let other = heap.nodes[1];
            push(one);
            push(other);
            let (left, right) = (usize::from(one), usize::from(other));
            heap.weights[next] = heap.weights[left] + heap.weights[right];
            heap.depths[next] = heap.depths[left].max(heap.depths[right]).saturating_add(1);
            let node = u16::try_from(next).unwrap_or(u16::MAX);
            (parents[left], parents[right]) = (node, node);
            heap.nodes[1] = node;
            next += 1;
            heap.sift_down(1);
            if heap.count < 2 {
                break;
            }
        }
        push(heap.nodes[1]);
        let order = &joined[first..];
        let mut counts = [0u32; MAX_BITS + 2];
        let mut lengths = [0u8; MAX_NODES];
        let mut overflow = 0i32;
        for &node in &order[1..] {
            let at = usize::from(node);
            let mut bits = lengths[usize::from(parents[at])] + 1;
            if bits > kind.max_bits {
                bits = kind.max_bits;
                overflow += 1;
            }
            lengths[at] = bits;
            if at < kind.symbols {
                counts[usize::from(bits)] += 1;
                let (weight, extra) = (i64::from(heap.weights[at]), i64::from((kind.extra)(at)));
                cost += weight * (i64::from(bits) + extra);
                fixed_cost += weight * (i64::from((kind.fixed)(at)) + extra);
            }
        }
        if overflow > 0 {
            let max = usize::from(kind.max_bits);
            while overflow > 0 {
                let mut bits = max - 1;
                while counts[bits] == 0 {
                    bits -= 1;
                }
                counts[bits] -= 1;
                counts[bits + 1] += 2;
                counts[max] -= 1;
                overflow -= 2;
            }
            let mut leaves =
                order[1..].iter().rev().map(|node| usize::from(*node)).filter(|at| *at < kind.symbols);
            for bits in (1..=kind.max_bits).rev() {
                for at in leaves.by_ref().take(counts[usize::from(bits)] as usize) {
                    cost += (i64::from(bits) - i64::from(lengths[at])) * i64::from(heap.weights[at]);
                    lengths[at] = bits;
                }
            }
        }
        let mut bits = [0; MAX_SYMBOLS];
        bits[..kind.symbols].copy_from_slice(&lengths[..kind.symbols]);
        let codes = assign(&bits);
        let whole = |cost: i64| u64::try_from(cost).unwrap_or(0);
        Self { bits, codes, last, cost: whole(cost), fixed_cost: whole(fixed_cost) }
    }
}

/// The codes of these lengths, as RFC 1951 assigns them, reversed.
pub(super) fn assign<const N: usize>(bits: &[u8; N]) -> [u16; N] {
    let mut counts = [0u16; MAX_BITS + 1];
    for &bits in bits {
        counts[usize::from(bits)] += 1;
    }
    counts[0] = 0;
    let mut next = [0u16; MAX_BITS + 1];
    for bits in 1..=MAX_BITS {
        next[bits] = (next[bits - 1].wrapping_add(counts[bits - 1])) << 1;
    }
    let mut codes = [0; N];
    for (code, &bits) in codes.iter_mut().zip(bits) {
        if bits > 0 {
            let next = &mut next[usize::from(bits)];
            *code = next.reverse_bits() >> (16 - bits);
            *next = next.wrapping_add(1);
        }
    }
    codes
}
