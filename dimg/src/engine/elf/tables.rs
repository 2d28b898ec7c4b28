//! Where the parts of a file are that hold fields, and the fields of those that are tables.

use super::Version;
use super::headers::program_headers;
use super::image::{Image, Machine, UNLOADED, distance_at, u32_at, u64_at};
use super::scan::{Field, Form, Sink};
use super::wasm;

/// Regions beyond so many are left as they are.
const MAX_REGIONS: usize = 1024;

/// What a region holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RegionKind {
    Code,
    Data,
    /// Relocations with addends.
    Relocations {
        /// The address of their symbols.
        symbols: Option<u64>,
    },
    /// Relative relocations, packed.
    Packed,
    Symbols {
        /// The address of their names.
        strings: Option<u64>,
    },
    Dynamic,
    /// What unwinds the stack, and its index.
    Frames,
    FrameIndex,
    /// The same of 32-bit ARM: the index, and what it points to.
    Unwinding,
    Exceptions,
    /// Go's table of functions and lines.
    GoLines,
    /// Go's list of types.
    GoLinks,
    /// What is mapped of a class data archive.
    Archive,
    /// What tables of a WebAssembly module hold, its functions, its memory.
    Elements,
    Functions,
    Memory,
}

/// A part of the file that lies within one segment, or outside of all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Region {
    pub(super) kind: RegionKind,
    pub(super) start: usize,
    pub(super) end: usize,
    /// The address of its first byte.
    pub(super) address: u64,
}

/// Takes regions, the more certain first.
struct Claims<'i> {
    image: &'i Image<'i>,
    /// By offset; they do not overlap.
    regions: Vec<Region>,
}

impl Claims<'_> {
    /// Adds what is free of these bytes.
    fn claim(&mut self, kind: RegionKind, start: usize, bytes: usize) {
        let end = start.saturating_add(bytes).min(self.image.bytes.len());
        let mut at = start;
        while at < end && self.regions.len() < MAX_REGIONS {
            let next = self.regions.partition_point(|region| region.end <= at);
            let free = self.regions.get(next).map_or(end, |region| region.start.min(end));
            if free > at {
                let stop = free.min(self.image.run_end(at));
                let address = self.image.address_of(at);
                self.regions.insert(next, Region { kind, start: at, end: stop, address });
                at = stop;
            } else {
                at = self.regions.get(next).map_or(end, |region| region.end);
            }
        }
    }

    fn claim_address(&mut self, kind: RegionKind, address: Option<u64>, bytes: Option<u64>) {
        let start = address.and_then(|address| self.image.offset_of(address));
        if let (Some(start), Some(bytes)) = (start, bytes) {
            self.claim(kind, start, usize::try_from(bytes).unwrap_or(usize::MAX));
        }
    }
}

/// The regions of a file, by offset.
pub(super) fn regions(image: &Image<'_>, version: Version) -> Vec<Region> {
    let mut claims = Claims { image, regions: Vec::new() };
    if image.machine == Machine::Archive {
        for segment in image.segments.iter().filter(|_| version >= Version::Three) {
            claims.claim(RegionKind::Archive, segment.offset, segment.bytes);
        }
        return claims.regions;
    }
    if image.machine == Machine::Wasm {
        if version >= Version::Four {
            wasm::regions(image, |kind, start, bytes| claims.claim(kind, start, bytes));
        }
        return claims.regions;
    }
    let is_arm32 = image.machine == Machine::Arm32;
    if is_arm32 && version < Version::Five {
        return claims.regions;
    }
    let sections = image.sections();
    let loaded = |flags: u64| flags & 2 != 0;
    for section in &sections {
        let linked = || sections.get(section.link).map(|linked| image.address_of(linked.offset));
        let kind = match (section.kind, section.name) {
            (2 | 11, _) => RegionKind::Symbols { strings: linked() },
            (9, _) if is_arm32 && loaded(section.flags) => RegionKind::Relocations { symbols: linked() },
            (4 | 19, _) if is_arm32 => continue,
            (0x7000_0001, _) if is_arm32 => RegionKind::Unwinding,
            (1, b".ARM.extab") if is_arm32 => RegionKind::Exceptions,
            (4, _) if loaded(section.flags) => RegionKind::Relocations { symbols: linked() },
            (6, _) => RegionKind::Dynamic,
            (19, _) => RegionKind::Packed,
            (1 | 0x7000_0001, b".eh_frame") => RegionKind::Frames,
            (1, b".eh_frame_hdr") => RegionKind::FrameIndex,
            (1, b".gopclntab") => RegionKind::GoLines,
            (1, b".typelink" | b".data.rel.ro.typelink") if version >= Version::Two => RegionKind::GoLinks,
            _ => continue,
        };
        claims.claim(kind, section.offset, section.bytes);
    }
    unsectioned(image, &mut claims);
    for section in &sections {
        let code = section.kind == 1 && section.flags & 6 == 6;
        if code {
            claims.claim(RegionKind::Code, section.offset, section.bytes);
        }
    }
    for section in &sections {
        if loaded(section.flags) && section.flags & 4 == 0 && matches!(section.kind, 1 | 14..=16) {
            claims.claim(RegionKind::Data, section.offset, section.bytes);
        }
    }
    if sections.is_empty() {
        for segment in &image.segments {
            let kind = if segment.code { RegionKind::Code } else { RegionKind::Data };
            claims.claim(kind, segment.offset, segment.bytes);
        }
    }
    claims.regions
}

/// The tables that the dynamic section and the program headers tell of; those of sections are known already.
fn unsectioned(image: &Image<'_>, claims: &mut Claims<'_>) {
    for header in program_headers(image.bytes) {
        match header.kind {
            2 => {
                claims.claim(RegionKind::Dynamic, header.offset, header.bytes);
                let end = header.offset.saturating_add(header.bytes);
                dynamic_tables(image, header.offset, end, claims);
            }
            0x7000_0001 if image.machine == Machine::Arm32 => {
                claims.claim(RegionKind::Unwinding, header.offset, header.bytes);
            }
            0x6474_e550 => {
                claims.claim(RegionKind::FrameIndex, header.offset, header.bytes);
                // The frames are where the index says, up to the next region or the segment's end.
                if let Some(distance) = distance_at(image.bytes, header.offset.saturating_add(4)) {
                    let address = header.address.wrapping_add(4).wrapping_add(distance);
                    let known = |region: &Region| region.kind == RegionKind::Frames;
                    if !claims.regions.iter().any(known) {
                        let bytes = image.offset_of(address).map(|start| frames_bytes(image.bytes, start));
                        claims.claim_address(RegionKind::Frames, Some(address), bytes);
                    }
                }
            }
            _ => {}
        }
    }
}

/// The bytes of the frames that start here, up to their end mark.
fn frames_bytes(bytes: &[u8], start: usize) -> u64 {
    let mut at = start;
    while let Some(length) = u32_at(bytes, at).filter(|&length| length != 0 && length != u32::MAX) {
        at = at.saturating_add(4).saturating_add(length as usize);
    }
    (at - start) as u64
}

fn dynamic_tables(image: &Image<'_>, start: usize, end: usize, claims: &mut Claims<'_>) {
    let (mut values, word_bytes) = ([None; 40], image.word_bytes());
    let mut at = start;
    while at < end.min(image.bytes.len()) {
        let (Some(tag), Some(value)) = (image.word_at(at), image.word_at(at + word_bytes)) else { break };
        if tag == 0 {
            break;
        }
        if let Some(place) = usize::try_from(tag).ok().and_then(|tag| values.get_mut(tag)) {
            *place = Some(value);
        }
        at += 2 * word_bytes;
    }
    let (strings, symbols) = (values[5], values[6]);
    let (relocations, bytes) =
        if image.machine == Machine::Arm32 { (values[17], values[18]) } else { (values[7], values[8]) };
    claims.claim_address(RegionKind::Relocations { symbols }, relocations, bytes);
    claims.claim_address(RegionKind::Relocations { symbols }, values[23], values[2]);
    if image.machine != Machine::Arm32 {
        claims.claim_address(RegionKind::Packed, values[36], values[35]);
    }
    // No entry says how many symbols there are; linkers put their names right after them.
    let known = |region: &Region| Some(region.address) == symbols;
    if let (Some(first), Some(names)) = (symbols, strings)
        && names > first
        && !claims.regions.iter().any(known)
    {
        claims.claim_address(RegionKind::Symbols { strings }, symbols, Some(names - first));
    }
}

/// Entries of 24 bytes: place, symbol and kind, addend.
pub(super) fn relocations(image: &Image<'_>, region: &Region, symbols: Option<u64>, sink: &mut Sink<'_>) {
    for at in (region.start..region.end).step_by(24) {
        let (Some(place), Some(info), Some(addend)) =
            (u64_at(image.bytes, at), u64_at(image.bytes, at + 8), u64_at(image.bytes, at + 16))
        else {
            break;
        };
        absolute(image, at, place, sink);
        let symbol = info >> 32;
        if let Some(base) = symbols.filter(|_| symbol != 0) {
            let target = base.wrapping_add(symbol * 24);
            sink.put(&Field { offset: at + 12, form: Form::Entry32, target, base: Some(base) });
        } else {
            absolute(image, at + 16, addend, sink);
        }
    }
}

pub(super) fn absolute(image: &Image<'_>, offset: usize, target: u64, sink: &mut Sink<'_>) {
    if target != 0 && image.contains(target) {
        let form = if image.word_bytes() == 4 { Form::Add32 } else { Form::Add64 };
        sink.put(&Field { offset, form, target, base: None });
    }
}

/// Entries of eight bytes: a place (even), or a mask of those after it.
pub(super) fn packed(image: &Image<'_>, region: &Region, sink: &mut Sink<'_>) {
    for at in (region.start..region.end).step_by(8) {
        let Some(place) = u64_at(image.bytes, at) else { break };
        if place & 1 == 0 {
            absolute(image, at, place, sink);
        }
    }
}

/// Entries of 24 bytes: name, kinds, section, value, size.
pub(super) fn symbols(
    image: &Image<'_>,
    region: &Region,
    strings: Option<u64>,
    version: Version,
    sink: &mut Sink<'_>,
) {
    for at in (region.start..region.end).step_by(24) {
        let (Some(name), Some(kinds), Some(value)) =
            (u32_at(image.bytes, at), u32_at(image.bytes, at + 4), u64_at(image.bytes, at + 8))
        else {
            break;
        };
        if let Some(base) = strings.filter(|_| name != 0) {
            let target = base.wrapping_add(name.into());
            sink.put(&Field { offset: at, form: Form::Add32, target, base: Some(base) });
        }
        let (kind, section) = (kinds & 15, kinds >> 16);
        // Not undefined ones, absolute ones, and places among thread-local data.
        if section != 0 && section != 0xfff1 && kind != 6 {
            absolute(image, at + 8, value, sink);
            // What has a length ends where its last byte goes.
            if let Some(length) = u64_at(image.bytes, at + 16)
                && version >= Version::Two
                && matches!(kind, 1 | 2)
            {
                extent(image, at + 16, Form::Add64, value, length, sink);
            }
        }
    }
}

/// The bytes from one address on to the end of what starts there.
pub(super) fn extent(
    image: &Image<'_>,
    offset: usize,
    form: Form,
    start: u64,
    length: u64,
    sink: &mut Sink<'_>,
) {
    let target = start.wrapping_add(length).wrapping_sub(1);
    if length != 0 && image.contains(start) && image.contains(target) && target >= start {
        sink.put(&Field { offset, form, target, base: Some(start) });
    }
}

/// Entries of two words: a tag, and what may be an address.
pub(super) fn dynamic(image: &Image<'_>, region: &Region, sink: &mut Sink<'_>) {
    let word_bytes = image.word_bytes();
    for at in (region.start..region.end).step_by(2 * word_bytes) {
        let (Some(tag), Some(value)) = (image.word_at(at), image.word_at(at + word_bytes)) else { break };
        if matches!(
            tag,
            3..=7
                | 12
                | 13
                | 17
                | 23
                | 25
                | 26
                | 32
                | 36
                | 0x6fff_fef5
                | 0x6fff_fff0
                | 0x6fff_fffc
                | 0x6fff_fffe
        ) {
            absolute(image, at + word_bytes, value, sink);
        }
    }
}

/// Records: length, distance back to the common record (none: it is one), then start, length, and what to do about exceptions.
pub(super) fn frames(image: &Image<'_>, region: &Region, version: Version, sink: &mut Sink<'_>) {
    let (bytes, mut at) = (&image.bytes[..region.end], region.start);
    while let (Some(length), Some(common)) = (u32_at(bytes, at), u32_at(bytes, at.saturating_add(4))) {
        if length == u32::MAX {
            break;
        }
        let address = |offset: usize| region.address.wrapping_add((offset - region.start) as u64);
        if length >= 12 && common != 0 {
            let base = address(at + 4);
            let target = base.wrapping_sub(common.into());
            sink.put(&Field { offset: at + 4, form: Form::Sub32, target, base: Some(base) });
            near(image, bytes, at + 8, address(at + 8), sink);
            if let (Some(start), Some(length)) = (distance_at(bytes, at + 8), u32_at(bytes, at + 12))
                && version >= Version::Two
            {
                let start = address(at + 8).wrapping_add(start);
                extent(image, at + 12, Form::Add32, start, length.into(), sink);
            }
            // Where augmentation data are four bytes, they are the distance to the exception table.
            if length >= 17
                && bytes.get(at + 16) == Some(&4)
                && u32_at(bytes, at + 17).is_some_and(|distance| distance != 0)
            {
                near(image, bytes, at + 17, address(at + 17), sink);
            }
        }
        at = at.saturating_add(4).saturating_add(length as usize);
    }
}

/// A signed distance from the field itself.
fn near(image: &Image<'_>, bytes: &[u8], offset: usize, address: u64, sink: &mut Sink<'_>) {
    if let Some(distance) = distance_at(bytes, offset) {
        let target = address.wrapping_add(distance);
        if image.contains(target) {
            sink.put(&Field { offset, form: Form::Add32, target, base: Some(address) });
        }
    }
}

/// Distances from the start: pairs of function and record.
pub(super) fn frame_index(image: &Image<'_>, region: &Region, sink: &mut Sink<'_>) {
    let bytes = &image.bytes[..region.end];
    if bytes.get(region.start..region.start + 4) != Some(&[1, 0x1b, 0x03, 0x3b]) {
        return;
    }
    near(image, bytes, region.start + 4, region.address.wrapping_add(4), sink);
    for at in (region.start + 12..region.end).step_by(4) {
        let Some(distance) = distance_at(bytes, at) else { break };
        let target = region.address.wrapping_add(distance);
        sink.put(&Field { offset: at, form: Form::Add32, target, base: Some(region.address) });
    }
}

/// The table of functions, and the records that it points to, as Go 1.18 and later write them.
pub(super) fn go_lines(image: &Image<'_>, region: &Region, sink: &mut Sink<'_>) {
    let bytes = &image.bytes[region.start..region.end];
    let number = |place: usize| u64_at(bytes, place).filter(|&value| value < UNLOADED);
    if !matches!(u32_at(bytes, 0), Some(0xffff_fff0 | 0xffff_fff1)) || bytes.get(6..8) != Some(&[1, 8]) {
        return;
    }
    let (Some(count), Some(text), Some(names), Some(values), Some(functions)) =
        (number(8), number(24), number(32), number(56), number(64))
    else {
        return;
    };
    absolute(image, region.start + 24, text, sink);
    let Ok(start) = usize::try_from(functions) else { return };
    let base = |distance: u64| region.address.wrapping_add(distance);
    let mut put = |place: usize, base: u64| {
        let Some(distance) = u32_at(bytes, place) else { return };
        let target = base.wrapping_add(distance.into());
        let offset = region.start + place;
        sink.put(&Field { offset, form: Form::Add32, target, base: Some(base) });
    };
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(bytes.len() / 8);
    for number in 0..count {
        let place = start.saturating_add(number * 8);
        put(place, text);
        put(place.saturating_add(4), base(functions));
    }
    for number in 0..count {
        let Some(record) = u32_at(bytes, start.saturating_add(number * 8 + 4)) else { break };
        let record = start.saturating_add(record as usize);
        let Some(tables) = u32_at(bytes, record.saturating_add(28)) else { continue };
        put(record, text);
        put(record + 4, base(names));
        for place in [16, 20, 24] {
            put(record + place, base(values));
        }
        for table in 0..(tables as usize).min(16) {
            put(record + 44 + 4 * table, base(values));
        }
    }
}
