//! Data: jump tables, and addresses that stand in the file.

use super::golang::{Golang, Walk};
use super::image::{Image, Machine, distance_at, u64_at, word_at};
use super::scan::{Field, Form, Sink};
use super::tables::{Region, RegionKind, absolute};

/// Regions in which places named by relocations are looked for.
const MAX_RELOCATED: usize = 64;

/// The fields of a region of data.
pub(super) fn scan(
    image: &Image<'_>,
    region: &Region,
    (regions, jump_tables, golang): (&[Region], &[u64], &Golang),
    sink: &mut Sink<'_>,
) {
    let end = region.address.saturating_add((region.end - region.start) as u64);
    let first = jump_tables.partition_point(|&table| table < region.address);
    let last = jump_tables.partition_point(|&table| table < end);
    let tables = &jump_tables[first..last.max(first)];
    let mut next = region.start;
    let mut places = Places::new(image, region, regions, golang);
    for (number, &table) in tables.iter().enumerate() {
        let start = region.start + usize::try_from(table - region.address).unwrap_or(0);
        let stop = tables
            .get(number + 1)
            .map_or(region.end, |&after| region.start + usize::try_from(after - region.address).unwrap_or(0));
        places.addresses(next, start, sink);
        next = jump_table(image, table, start, stop, sink);
    }
    places.addresses(next, region.end, sink);
}

/// The entries of a table up to the first that is none, or `stop`; where that is.
fn jump_table(image: &Image<'_>, table: u64, start: usize, stop: usize, sink: &mut Sink<'_>) -> usize {
    let mut at = start;
    while at + 4 <= stop {
        let Some(entry) = distance_at(image.bytes, at) else { break };
        let target = table.wrapping_add(entry);
        if entry == 0 || !image.in_code(target) {
            break;
        }
        sink.put(&Field { offset: at, form: Form::Add32, target, base: Some(table) });
        at += 4;
    }
    at
}

/// Where whole addresses stand.
enum Places<'i> {
    /// Wherever an aligned word names a place in the image.
    Any { image: &'i Image<'i>, region: &'i Region, golang: Walk<'i> },
    /// Where relocations say.
    Relocated { image: &'i Image<'i>, region: &'i Region, golang: Walk<'i>, sources: Vec<Source<'i>> },
}

impl<'i> Places<'i> {
    fn new(image: &'i Image<'i>, region: &'i Region, regions: &'i [Region], golang: &'i Golang) -> Self {
        let golang = golang.walk(image, region);
        if image.fixed {
            return Self::Any { image, region, golang };
        }
        let data = |other: &&Region| other.kind == RegionKind::Data && other.start < region.start;
        let mut sources = Vec::new();
        if regions.iter().filter(data).count() < MAX_RELOCATED {
            for table in regions {
                let packed = match table.kind {
                    RegionKind::Relocations { .. } => false,
                    RegionKind::Packed => true,
                    _ => continue,
                };
                if sources.len() < 4 {
                    sources.push(Source::new(image, table, packed));
                }
            }
        }
        Self::Relocated { image, region, golang, sources }
    }

    /// The fields from one offset to another.
    fn addresses(&mut self, from: usize, to: usize, sink: &mut Sink<'_>) {
        match self {
            Self::Any { image, region, golang } => {
                let skew = region.address.wrapping_sub(region.start as u64);
                let bytes = image.word_bytes();
                let misaligned = usize::try_from(skew.wrapping_add(from as u64) % bytes as u64).unwrap_or(0);
                let mut at = from + (bytes - misaligned) % bytes;
                while at + bytes <= to {
                    golang.to(at, at + bytes, sink);
                    put(image, at, sink);
                    at += bytes;
                }
            }
            Self::Relocated { image, region, golang, sources } => {
                let skew = region.address.wrapping_sub(region.start as u64);
                let mut done = from;
                let (start, end) = (skew.wrapping_add(from as u64), skew.wrapping_add(to as u64));
                loop {
                    let next = sources.iter_mut().filter_map(|source| source.at_least(start));
                    let Some(address) = next.min().filter(|&address| address < end) else { break };
                    let at = usize::try_from(address.wrapping_sub(skew)).unwrap_or(usize::MAX);
                    let stop = at.saturating_add(image.word_bytes());
                    if stop <= to {
                        golang.to(done, stop, sink);
                        done = stop;
                        put(image, at, sink);
                    }
                    for source in &mut *sources {
                        source.pass(address);
                    }
                }
                golang.to(done, to, sink);
            }
        }
    }
}

fn put(image: &Image<'_>, offset: usize, sink: &mut Sink<'_>) {
    if let Some(target) = image.word_at(offset) {
        absolute(image, offset, target, sink);
    }
}

/// A table of relocations as the places that it names, those that do not ascend left out.
struct Source<'i> {
    table: &'i [u8],
    packed: bool,
    /// Bytes of an entry that is not, and of the place that it begins with.
    entry_bytes: usize,
    word_bytes: usize,
    at: usize,
    /// Of packed ones: the places of the mask that are still to come, and where it starts.
    mask: u64,
    base: u64,
    next: Option<u64>,
}

impl<'i> Source<'i> {
    fn new(image: &'i Image<'i>, table: &Region, packed: bool) -> Self {
        let table = &image.bytes[table.start..table.end];
        let entry_bytes = if image.machine == Machine::Arm32 { 8 } else { 24 };
        let word_bytes = image.word_bytes();
        let mut source = Self { table, packed, entry_bytes, word_bytes, at: 0, mask: 0, base: 0, next: None };
        source.next = source.advance();
        source
    }

    fn advance(&mut self) -> Option<u64> {
        if !self.packed {
            let place = word_at(self.table, self.at, self.word_bytes)?;
            self.at += self.entry_bytes;
            return Some(place);
        }
        loop {
            if self.mask != 0 {
                let place = self.base.wrapping_add(u64::from(self.mask.trailing_zeros()) * 8);
                self.mask &= self.mask - 1;
                return Some(place);
            }
            let entry = u64_at(self.table, self.at)?;
            let first = self.at == 0 || u64_at(self.table, self.at - 8)? & 1 == 0;
            self.at += 8;
            if entry & 1 == 0 {
                self.base = entry.wrapping_add(8);
                return Some(entry);
            }
            // Each mask tells of the 63 places after those of the one before.
            if !first {
                self.base = self.base.wrapping_add(63 * 8);
            }
            self.mask = entry >> 1;
        }
    }

    /// The next place, if it is at least `start`; those before are passed.
    fn at_least(&mut self, start: u64) -> Option<u64> {
        while self.next.is_some_and(|next| next < start) {
            self.next = self.advance();
        }
        self.next
    }

    /// Goes on beyond `place`.
    fn pass(&mut self, place: u64) {
        while self.next.is_some_and(|next| next <= place) {
            self.next = self.advance();
        }
    }
}
