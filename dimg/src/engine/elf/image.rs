//! The parts of an ELF file that say where its bytes lie in memory.

use super::headers::{Class, program_headers, sections};
use super::{Version, archive, wasm};
use std::ops::Range;

pub(super) use super::headers::Section;

/// Addresses from here on are places in the file that are not loaded: this plus the offset. Segments end below.
pub(super) const UNLOADED: u64 = 1 << 48;

/// The instruction sets that are understood, or what has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    X86,
    Arm,
    /// 32 bits, with Thumb or not.
    Arm32,
    /// None: a class data archive.
    Archive,
    /// An opened WebAssembly module.
    Wasm,
}

/// A loaded segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// Its addresses, those without bytes in the file included.
    pub(super) address: u64,
    pub(super) end: u64,
    /// Its bytes in the file.
    pub(super) offset: usize,
    pub(super) bytes: usize,
    pub(super) code: bool,
}

/// An ELF file, little-endian, of an executable or a shared object; or a class data archive, which is one segment.
#[derive(Debug)]
pub(super) struct Image<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) machine: Machine,
    /// Loaded where it says, not anywhere: addresses may stand in code and data.
    pub(super) fixed: bool,
    /// By address; they do not overlap.
    pub(super) segments: Vec<Segment>,
    /// The places of the segments by offset.
    by_offset: Vec<u16>,
    /// The addresses from the first to the last segment, and of those with code.
    pub(super) low: u64,
    pub(super) high: u64,
    code_low: u64,
    code_high: u64,
    /// Addresses between them that are of nothing.
    hole: Range<u64>,
    /// Of WebAssembly.
    pub(super) module: Option<wasm::Module>,
}

#[inline]
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

#[inline]
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[inline]
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// The number of four or eight bytes there.
#[inline]
pub(super) fn word_at(bytes: &[u8], at: usize, count: usize) -> Option<u64> {
    if count == 4 { u32_at(bytes, at).map(u64::from) } else { u64_at(bytes, at) }
}

/// The signed 32-bit number there, as a distance to add to an address.
#[inline]
pub(super) fn distance_at(bytes: &[u8], at: usize) -> Option<u64> {
    u32_at(bytes, at).map(|value| i64::from(value.cast_signed()).cast_unsigned())
}

/// The places of segments, of which there are at most as many as a number of two bytes has values, by offset.
fn by_offset(segments: &[Segment]) -> Vec<u16> {
    let mut places: Vec<u16> = (0..).take(segments.len()).collect();
    places.sort_by_key(|&place| segments[usize::from(place)].offset);
    places
}

impl<'a> Image<'a> {
    /// Reads the headers; `None` for any other file.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        if let Some(mapped) = archive::mapped(bytes) {
            return Some(Self {
                bytes,
                machine: Machine::Archive,
                fixed: true,
                low: mapped.address,
                high: mapped.end,
                code_low: 0,
                code_high: 0,
                hole: 0..0,
                module: None,
                by_offset: vec![0],
                segments: vec![mapped],
            });
        }
        if let Some(image) = wasm::image(bytes) {
            return Some(image);
        }
        let class = Class::of(bytes)?;
        let fixed = match u16_at(bytes, 0x10)? {
            2 => true,
            3 => false,
            _ => return None,
        };
        let machine = match (u16_at(bytes, 0x12)?, class) {
            (62, Class::Elf64) => Machine::X86,
            (183, Class::Elf64) => Machine::Arm,
            (40, Class::Elf32) => Machine::Arm32,
            _ => return None,
        };
        let mut segments: Vec<Segment> = program_headers(bytes)
            .filter(|header| header.kind == 1)
            .filter_map(|header| {
                let end = header.address.checked_add(header.memory.max(header.bytes as u64))?;
                let file_end = header.offset.checked_add(header.bytes)?;
                (end < UNLOADED && end > header.address && file_end <= bytes.len()).then_some(Segment {
                    address: header.address,
                    end,
                    offset: header.offset,
                    bytes: header.bytes,
                    code: header.flags & 1 != 0,
                })
            })
            .collect();
        segments.sort_by_key(|segment| segment.address);
        let mut end = 0;
        segments.retain(|segment| {
            let apart = segment.address >= end;
            if apart {
                end = segment.end;
            }
            apart
        });
        let by_offset = by_offset(&segments);
        let code = || segments.iter().filter(|segment| segment.code);
        Some(Self {
            bytes,
            machine,
            fixed,
            low: segments.first()?.address,
            high: segments.last()?.end,
            code_low: code().next().map_or(0, |segment| segment.address),
            code_high: code().next_back().map_or(0, |segment| segment.end),
            hole: 0..0,
            module: None,
            by_offset,
            segments,
        })
    }

    /// That of a module, from the lowest to the highest address, but for a hole.
    pub(super) fn of_module(
        bytes: &'a [u8],
        segments: Vec<Segment>,
        all: Range<u64>,
        hole: Range<u64>,
        module: wasm::Module,
    ) -> Option<Self> {
        let code = segments.iter().find(|segment| segment.code);
        let (code_low, code_high) = code.map_or((0, 0), |segment| (segment.address, segment.end));
        let (by_offset, module) = (by_offset(&segments), Some(module));
        let (low, high, machine) = (all.start, all.end, Machine::Wasm);
        Some(Self {
            bytes,
            machine,
            fixed: true,
            segments,
            by_offset,
            low,
            high,
            code_low,
            code_high,
            hole,
            module,
        })
    }

    /// The section headers that are whole and lie within the file; none when the file has no valid table.
    pub(super) fn sections(&self) -> Vec<Section<'a>> {
        sections(self.bytes).unwrap_or_default()
    }

    /// The first version that finds all fields of such a file; of those that any finds the usual one.
    pub(super) fn version(&self) -> Version {
        match self.machine {
            Machine::X86 | Machine::Arm | Machine::Archive => Version::USUAL,
            Machine::Wasm => Version::Four,
            Machine::Arm32 => Version::Five,
        }
    }

    /// Bytes of an address in data and tables.
    #[inline]
    pub(super) fn word_bytes(&self) -> usize {
        if self.machine == Machine::Arm32 { 4 } else { 8 }
    }

    /// The address that stands there.
    #[inline]
    pub(super) fn word_at(&self, at: usize) -> Option<u64> {
        word_at(self.bytes, at, self.word_bytes())
    }

    /// The segment that has the byte at this offset, and where its bytes end.
    pub(super) fn segment_of(&self, offset: usize) -> Option<&Segment> {
        let place =
            self.by_offset.partition_point(|&place| self.segments[usize::from(place)].offset <= offset);
        let segment = &self.segments[usize::from(*self.by_offset.get(place.checked_sub(1)?)?)];
        (offset - segment.offset < segment.bytes).then_some(segment)
    }

    /// Where bytes are that have the same distance to their addresses as the one at this offset, from there on.
    pub(super) fn run_end(&self, offset: usize) -> usize {
        if let Some(segment) = self.segment_of(offset) {
            return segment.offset + segment.bytes;
        }
        let next =
            self.by_offset.partition_point(|&place| self.segments[usize::from(place)].offset <= offset);
        self.by_offset.get(next).map_or(self.bytes.len(), |&place| self.segments[usize::from(place)].offset)
    }

    /// The address of the byte at this offset.
    pub(super) fn address_of(&self, offset: usize) -> u64 {
        match self.segment_of(offset) {
            Some(segment) => segment.address + (offset - segment.offset) as u64,
            None => UNLOADED + offset as u64,
        }
    }

    /// Where in the file the byte of this address is.
    pub(super) fn offset_of(&self, address: u64) -> Option<usize> {
        if address >= UNLOADED {
            return usize::try_from(address - UNLOADED).ok().filter(|&offset| offset < self.bytes.len());
        }
        let place = self.segments.partition_point(|segment| segment.address <= address);
        let segment = &self.segments[place.checked_sub(1)?];
        let offset = usize::try_from(address - segment.address).ok()?;
        (offset < segment.bytes).then(|| segment.offset + offset)
    }

    /// Whether the address is one of the image, its end included.
    #[inline]
    pub(super) fn contains(&self, address: u64) -> bool {
        address >= self.low && address <= self.high && !self.hole.contains(&address)
    }

    /// Whether the address is the place of a function of a module, which nothing has as an address.
    pub(super) fn in_functions(&self, address: u64) -> bool {
        self.module.as_ref().is_some_and(|module| module.is_place(address))
    }

    /// Whether the address is among those of code.
    #[inline]
    pub(super) fn in_code(&self, address: u64) -> bool {
        address >= self.code_low && address < self.code_high
    }
}
