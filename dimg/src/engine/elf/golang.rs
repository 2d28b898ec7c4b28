//! What Go's linker leaves in a program for its runtime: types, their methods, and what belongs to each function.
//!
//! The runtime's description of the program (`moduledata`) says where things are; it is found by the address of the table of
//! functions that it begins with. Types stand one after the other, with names and offsets of each other: a type is taken for one when
//! its numbers are what a type can have, so that names between them, or a layout of another version, are passed over.

use super::image::{Image, Machine, UNLOADED, u16_at, u32_at, u64_at};
use super::scan::{Field, Form, Sink};
use super::tables::{Region, RegionKind};
use super::wasm;
use std::ops::Range;

/// Lists of inlined calls beyond so many are not kept.
const MAX_LISTS: usize = if cfg!(fuzzing) { 1 << 8 } else { 1 << 20 };
/// Methods of one type beyond so many are not looked at.
const MAX_METHODS: usize = 1 << 12;
/// Marks, among the starts of what belongs to functions, those of lists of inlined calls; addresses are below.
const INLINED: u64 = 1 << 63;

/// The places that the runtime is told of.
#[derive(Clone, Copy, Debug)]
struct Module {
    text: u64,
    /// Addresses of types and their names.
    types: (u64, u64),
    /// What belongs to functions is told from here on; none: 0.
    functions: u64,
}

/// Go's parts of a program, for the scan of its data.
#[derive(Debug, Default)]
pub(super) struct Golang {
    module: Option<Module>,
    /// The address of the names of functions.
    names: Range<u64>,
    /// Where what belongs to functions starts, ascending, those of lists of inlined calls with [`INLINED`].
    starts: Vec<u64>,
}

/// The header of Go's table of functions.
struct Lines<'i> {
    bytes: &'i [u8],
    address: u64,
    count: usize,
    text: u64,
    /// Distances from the start: names of functions, files of units, names of files, values by address, functions.
    names: u64,
    units: u64,
    files: u64,
    values: u64,
    functions: u64,
    /// Bytes of a function's record before its tables.
    record: usize,
}

impl<'i> Lines<'i> {
    fn new(image: &'i Image<'_>, region: &Region) -> Option<Self> {
        let bytes = &image.bytes[region.start..region.end];
        let number = |place: usize| u64_at(bytes, place).filter(|&value| value < UNLOADED);
        let record = match u32_at(bytes, 0)? {
            0xffff_fff0 => 40,
            0xffff_fff1 => 44,
            _ => return None,
        };
        (bytes.get(6..8) == Some(&[1, 8])).then_some(())?;
        let count = usize::try_from(number(8)?).unwrap_or(usize::MAX).min(bytes.len() / 8);
        Some(Self {
            bytes,
            address: region.address,
            count,
            text: number(24)?,
            names: number(32)?,
            units: number(40)?,
            files: number(48)?,
            values: number(56)?,
            functions: number(64)?,
            record,
        })
    }

    fn at(&self, distance: u64) -> u64 {
        self.address.wrapping_add(distance)
    }

    /// Where in the region the record of a function is, and how many values and data it has.
    fn function(&self, number: usize) -> Option<(usize, usize, usize)> {
        let start = usize::try_from(self.functions).ok()?;
        let record = u32_at(self.bytes, start.checked_add(number * 8 + 4)?)?;
        let record = start.checked_add(record as usize)?;
        let values = u32_at(self.bytes, record.checked_add(28)?)? as usize;
        let data = *self.bytes.get(record + self.record - 1)?;
        Some((record, values.min(16), usize::from(data).min(16)))
    }
}

impl Golang {
    /// Looks for them.
    pub(super) fn new(image: &Image<'_>, regions: &[Region]) -> Self {
        let mut found = Self::default();
        let Some(region) = regions.iter().find(|region| region.kind == RegionKind::GoLines) else {
            return found;
        };
        let Some(lines) = Lines::new(image, region) else { return found };
        found.names = lines.at(lines.names)..lines.at(lines.units);
        found.module = module(image, regions, region.address);
        let Some(module) = found.module.filter(|module| module.functions != 0) else { return found };
        for number in 0..lines.count {
            let Some((record, values, data)) = lines.function(number) else { break };
            let first = record + lines.record + 4 * values;
            for place in 0..data {
                let Some(distance) = u32_at(lines.bytes, first + 4 * place) else { break };
                if distance != u32::MAX && found.starts.len() < MAX_LISTS {
                    let start = module.functions.wrapping_add(distance.into()) & !INLINED;
                    found.starts.push(if place == 3 && lines.record == 44 { start | INLINED } else { start });
                }
            }
        }
        found.starts.sort_unstable_by_key(|&start| (start & !INLINED, start & INLINED == 0));
        found.starts.dedup_by_key(|start| *start & !INLINED);
        found
    }

    /// The fields of the table of functions.
    pub(super) fn lines(&self, image: &Image<'_>, region: &Region, sink: &mut Sink<'_>) {
        let Some(lines) = Lines::new(image, region) else { return };
        let text = self.module.map_or(lines.text, |module| module.text);
        let mut put = |place: usize, form: Form, base: Option<u64>, target: u64| {
            sink.put(&Field { offset: region.start + place, form, target, base });
        };
        if image.contains(lines.text) {
            put(24, Form::Add64, None, lines.text);
        }
        for (place, distance) in [
            (32, lines.names),
            (40, lines.units),
            (48, lines.files),
            (56, lines.values),
            (64, lines.functions),
        ] {
            put(place, Form::Add64, Some(lines.address), lines.at(distance));
        }
        let mut number = |place: usize, form: Form, base: u64, bytes: u64| {
            if let Some(value) = u32_at(lines.bytes, place).filter(|&value| value != u32::MAX) {
                let target = base.wrapping_add(u64::from(value) * bytes);
                // Functions of WebAssembly stand alone.
                put(place, form, (form != Form::Block32).then_some(base), target);
            }
        };
        let place = |distance: u64| usize::try_from(distance).unwrap_or(usize::MAX).min(lines.bytes.len());
        for at in (place(lines.units)..place(lines.files)).step_by(4) {
            number(at, Form::Add32, lines.at(lines.files), 1);
        }
        let start = place(lines.functions);
        let (form, text, unit) = match image.machine {
            Machine::Wasm => (Form::Block32, 0, 1 << 16),
            _ => (Form::Add32, text, 1),
        };
        for function in 0..lines.count {
            number(start + function * 8, form, text, unit);
            number(start + function * 8 + 4, Form::Add32, lines.at(lines.functions), 1);
        }
        number(start + lines.count * 8, form, text, unit);
        let functions = self.module.map_or(0, |module| module.functions);
        for function in 0..lines.count {
            let Some((record, values, data)) = lines.function(function) else { break };
            number(record, form, text, unit);
            number(record + 4, Form::Add32, lines.at(lines.names), 1);
            for place in [16, 20, 24] {
                number(record + place, Form::Add32, lines.at(lines.values), 1);
            }
            number(record + 32, Form::Word32, lines.at(lines.units), 4);
            let mut at = record + lines.record;
            for _ in 0..values {
                number(at, Form::Add32, lines.at(lines.values), 1);
                at += 4;
            }
            if functions != 0 {
                for _ in 0..data {
                    number(at, Form::Add32, functions, 1);
                    at += 4;
                }
            }
        }
    }

    /// The fields of the list of types that can be looked up.
    pub(super) fn links(&self, image: &Image<'_>, region: &Region, sink: &mut Sink<'_>) {
        let Some(Module { types: (types, end), .. }) = self.module else { return };
        for at in (region.start..region.end).step_by(4) {
            offset(image, at, types, (types, end), sink);
        }
    }

    /// The fields in types and in lists of inlined calls, for the data of a region.
    pub(super) fn walk<'g>(&'g self, image: &'g Image<'g>, region: &'g Region) -> Walk<'g> {
        let last = region.address.wrapping_add((region.end - region.start) as u64);
        let first = self.starts.partition_point(|&start| start & !INLINED < region.address);
        let end = self.starts.partition_point(|&start| start & !INLINED < last);
        let place = |address: u64| {
            let distance = address.saturating_sub(region.address);
            region.start + usize::try_from(distance).unwrap_or(usize::MAX).min(region.end - region.start)
        };
        let types = self.module.map_or(0..0, |module| place(module.types.0)..place(module.types.1));
        let starts = &self.starts[first..end.max(first)];
        Walk { golang: self, image, region, types, starts, pending: Vec::new() }
    }
}

/// The description of the program, whose first word is the address of the table of functions.
fn module(image: &Image<'_>, regions: &[Region], lines: u64) -> Option<Module> {
    for region in regions.iter().filter(|region| region.kind == RegionKind::Data) {
        let misaligned = usize::try_from(region.address % 8).unwrap_or(0);
        for at in (region.start + (8 - misaligned) % 8..region.end).step_by(8) {
            if u64_at(image.bytes, at) != Some(lines) {
                continue;
            }
            let word =
                |number: usize| u64_at(image.bytes, at + 8 * number).filter(|_| at + 8 * number < region.end);
            let text = match image.machine {
                Machine::Wasm => wasm::text(image),
                _ => word(22).zip(word(23)),
            };
            let Some((text, end)) = text else { continue };
            if !image.in_code(text) || end <= text || word(20).is_none_or(|first| first < text) {
                continue;
            }
            // Go 1.20 has two words more before.
            for first in [37, 35] {
                if let (Some(low), Some(high), Some(data), Some(functions)) =
                    (word(first), word(first + 1), word(first + 2), word(first + 3))
                    && image.contains(low)
                    && image.contains(high)
                    && image.contains(data)
                    && image.contains(functions)
                    && !image.in_code(low)
                    && low < high
                    && functions >= data
                {
                    return Some(Module { text, types: (low, high), functions });
                }
            }
        }
    }
    None
}

/// A distance of 32 bits from `base` to something within `range`; 0 and −1 are none.
fn offset(image: &Image<'_>, at: usize, base: u64, range: (u64, u64), sink: &mut Sink<'_>) {
    if let Some(distance) = u32_at(image.bytes, at).filter(|&distance| distance != 0 && distance != u32::MAX)
    {
        let target = base.wrapping_add(distance.into());
        if target >= range.0 && target < range.1 {
            sink.put(&Field { offset: at, form: Form::Add32, target, base: Some(base) });
        }
    }
}

/// Fields of four bytes that belong to a type further on.
#[derive(Clone, Copy, Debug)]
struct Pending {
    start: usize,
    at: usize,
    end: usize,
    /// Of each 16 bytes the last 8 are told from the text.
    methods: bool,
}

impl Pending {
    fn new(start: usize, end: usize, methods: bool) -> Self {
        Self { start, at: start, end, methods }
    }
}

/// Goes through the data of a region, eight bytes after eight bytes.
pub(super) struct Walk<'g> {
    golang: &'g Golang,
    image: &'g Image<'g>,
    region: &'g Region,
    /// Offsets at which types are looked for; from the end of the last one on.
    types: Range<usize>,
    starts: &'g [u64],
    /// What is still to come of the last type, the next one last.
    pending: Vec<Pending>,
}

impl Walk<'_> {
    /// The fields from one offset to before another; offsets ascend from call to call.
    pub(super) fn to(&mut self, from: usize, to: usize, sink: &mut Sink<'_>) {
        self.types_to(from, to, sink);
        self.lists_to(to, sink);
    }

    fn types_to(&mut self, from: usize, to: usize, sink: &mut Sink<'_>) {
        let Some(module) = self.golang.module else { return };
        let (types, all) = (module.types.0, module.types);
        let skew = self.region.address.wrapping_sub(self.region.start as u64);
        let mut at = from + usize::try_from(skew.wrapping_add(from as u64).wrapping_neg() % 8).unwrap_or(0);
        while at < to && at < self.types.end {
            while let Some(pending) = self.pending.last_mut().filter(|pending| pending.at < at + 8) {
                match pending.methods && (pending.at - pending.start) % 16 >= 8 {
                    true if self.image.machine == Machine::Wasm => {
                        wasm::entry(self.image, pending.at, sink);
                    }
                    true => offset(self.image, pending.at, module.text, (module.text, UNLOADED), sink),
                    false => offset(self.image, pending.at, types, all, sink),
                }
                pending.at += 4;
                if pending.at >= pending.end {
                    self.pending.pop();
                }
            }
            if at >= self.types.start
                && let Some(end) = self.taken(at)
            {
                self.types.start = end;
            }
            at += 8;
        }
    }

    /// If a type is here, its fields become pending; where the next one may start.
    fn taken(&mut self, at: usize) -> Option<usize> {
        let bytes = &self.image.bytes[..self.types.end];
        let (size, pointers) = (u64_at(bytes, at)?, u64_at(bytes, at + 8)?);
        let [flags, align, field_align, kind]: [u8; 4] = bytes.get(at + 20..at + 24)?.try_into().ok()?;
        let name = u32_at(bytes, at + 40)?;
        let small = |align: u8| align.is_power_of_two() && align <= 16;
        if size >= UNLOADED
            || pointers > size
            || flags >= 64
            || kind >= 128
            || !small(align)
            || !small(field_align)
            || u32_at(bytes, at + 16)? == 0
            || !self.named(name)
        {
            return None;
        }
        let fixed = match kind & 31 {
            1..=16 | 24 | 26 => 48,
            17 => 72,
            18 => 64,
            19 | 22 | 23 => 56,
            20 | 25 => 80,
            // Maps of Go 1.24 have more.
            21 if self.uncommon(at + 88) => 88,
            21 => 112,
            _ => return None,
        };
        self.pending.clear();
        let uncommon = flags & 1 != 0;
        let after = at + fixed + if uncommon { 16 } else { 0 };
        if uncommon {
            let place = at + fixed;
            let (count, distance) = (u16_at(bytes, place + 4)?, u32_at(bytes, place + 8)?);
            let methods = place.checked_add(distance as usize)?;
            let count = usize::from(count).min(MAX_METHODS);
            if count > 0 && methods >= after {
                self.pending.push(Pending::new(methods, methods + 16 * count, true));
            }
        }
        if kind & 31 == 20 {
            let count =
                usize::try_from(u64_at(bytes, at + 64)?).ok().filter(|&count| count <= MAX_METHODS)?;
            if count > 0 {
                self.pending.push(Pending::new(after, after + 8 * count, false));
            }
        }
        if uncommon {
            self.pending.push(Pending::new(at + fixed, at + fixed + 4, false));
        }
        self.pending.push(Pending::new(at + 40, at + 48, false));
        Some(after)
    }

    /// Whether a name is here: flags, a length, and bytes within the types.
    fn named(&self, distance: u32) -> bool {
        let Some(module) = self.golang.module else { return false };
        let address = module.types.0.wrapping_add(distance.into());
        let Some(at) = self.image.offset_of(address).filter(|_| distance != 0 && address < module.types.1)
        else {
            return false;
        };
        match self.image.bytes.get(at..) {
            Some([flags, low, high, ..]) if *flags < 16 => *low > 0 && (*low < 128 || *high < 128),
            _ => false,
        }
    }

    /// Whether the part that types with methods or a package have is here.
    fn uncommon(&self, at: usize) -> bool {
        u32_at(self.image.bytes, at + 8) == Some(16) && u32_at(self.image.bytes, at + 12) == Some(0)
    }

    /// Lists of inlined calls, 16 bytes each: what function, its name, where in the caller, its line.
    fn lists_to(&mut self, to: usize, sink: &mut Sink<'_>) {
        let place = |start: u64| {
            let distance = (start & !INLINED).wrapping_sub(self.region.address);
            self.region.start.saturating_add(usize::try_from(distance).unwrap_or(usize::MAX))
        };
        while let Some((&start, rest)) = self.starts.split_first() {
            let at = place(start);
            if at >= to {
                break;
            }
            self.starts = rest;
            if start & INLINED == 0 {
                continue;
            }
            let stop = rest.first().map_or(self.region.end, |&next| place(next)).min(self.region.end);
            let names = &self.golang.names;
            for call in (at..stop).step_by(16).take_while(|&call| call + 16 <= stop) {
                let (Some(what), Some(name)) =
                    (u32_at(self.image.bytes, call), u32_at(self.image.bytes, call + 4))
                else {
                    break;
                };
                let target = names.start.wrapping_add(name.into());
                if what >= 64 || target >= names.end {
                    break;
                }
                let base = Some(names.start);
                sink.put(&Field { offset: call + 4, form: Form::Add32, target, base });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Version;
    use super::super::scan::Scan;
    use super::*;

    const BASE: u64 = 0x40_0000;

    struct File(Vec<u8>);

    impl File {
        fn put(&mut self, at: usize, bytes: usize, values: &[u64]) {
            for (place, value) in values.iter().enumerate() {
                let at = at + place * bytes;
                self.0[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
            }
        }
    }

    /// Code at 1000, types at 2000 to 2200, then what belongs to functions, links at 3000, lines at 4000, the module at 5000.
    fn program() -> Vec<u8> {
        let mut file = File(vec![0; 0x6000]);
        file.put(0, 1, b"\x7fELF\x02\x01\x01".map(u64::from).as_slice());
        file.put(0x10, 2, &[2, 62]);
        file.put(0x20, 8, &[0x40, 0x5900]);
        file.put(0x36, 2, &[56, 2, 64, 7, 6]);
        for (number, flags, start, end) in [(0, 5, 0x1000, 0x2000), (1, 6, 0x2000, 0x5800)] {
            let at = 0x40 + 56 * number;
            file.put(at, 4, &[1, flags]);
            file.put(at + 8, 8, &[start, BASE + start, BASE + start, end - start, end - start, 0x1000]);
        }
        let mut names = 1u64;
        for (number, name, flags, start, end) in [
            (1, ".text", 6, 0x1000, 0x2000),
            (2, ".rodata", 2, 0x2000, 0x3000),
            (3, ".typelink", 2, 0x3000, 0x3008),
            (4, ".gopclntab", 2, 0x4000, 0x4200),
            (5, ".noptrdata", 3, 0x5000, 0x5800),
            (6, ".shstrtab", 0, 0x5b00, 0x5c00),
        ] {
            let at = 0x5900 + 64 * number;
            file.put(at, 4, &[names, 1]);
            file.put(at + 8, 8, &[flags, BASE + start, start, end - start]);
            let place = 0x5b00 + usize::try_from(names).unwrap();
            file.0[place..place + name.len()].copy_from_slice(name.as_bytes());
            names += name.len() as u64 + 1;
        }
        for (at, flags, kind, pointer) in [(0x2000, 1, 25, 0x70), (0x2070, 0, 22, 0), (0x20a8, 0, 20, 0)] {
            file.put(at, 8, &[16, 8]);
            file.put(at + 16, 4, &[7]);
            file.put(at + 20, 1, &[flags, 8, 8, kind]);
            file.put(at + 40, 4, &[0x101, pointer]);
        }
        file.put(0x2050, 4, &[0x101, 1, 16, 0]);
        file.put(0x2060, 4, &[0x101, 0x70, 0x20, u64::from(u32::MAX)]);
        file.put(0x20a8 + 64, 8, &[1]);
        file.put(0x20f8, 4, &[0x101, 0x70]);
        file.put(0x2101, 1, &[0, 3, 102, 111, 111]);
        file.put(0x2210, 4, &[0, 2, 9, 1, 5, 7, 9, 1, 99, 1, 1, 1]);
        file.put(0x3000, 4, &[0x70, 0x70_0000]);
        file.put(0x4000, 1, &[0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8]);
        file.put(0x4008, 8, &[1, 1, BASE + 0x1000, 0x48, 0x60, 0x68, 0x80, 0xa0]);
        file.put(0x4060, 4, &[0, u64::from(u32::MAX)]);
        file.put(0x40a0, 4, &[0x10, 16, 0x40]);
        file.put(0x40b0, 4, &[0x10, 2, 0, 0, 1, 2, 3, 1, 1, 9]);
        file.put(0x40b0 + 43, 1, &[4]);
        file.put(0x40b0 + 44, 4, &[4, u64::from(u32::MAX), 0x40, 0, 0x10]);
        file.put(0x5000, 8, &[BASE + 0x4000]);
        file.put(0x5000 + 8 * 20, 8, &[BASE + 0x1000, 0, BASE + 0x1000, BASE + 0x1800]);
        file.put(0x5000 + 8 * 37, 8, &[0x2000, 0x2200, 0x2000, 0x2200].map(|place| BASE + place));
        file.0
    }

    fn fields(file: &[u8], version: Version) -> Vec<(usize, u64)> {
        let (image, mut found) = (Image::parse(file).unwrap(), Vec::new());
        Scan::new(&image, version, 1).run(&mut |field| found.push((field.offset, field.target - BASE)));
        found
    }

    #[test]
    fn what_the_runtime_knows_is_found() {
        let file = program();
        let all = fields(&file, Version::Two);
        let within = |from: usize, to: usize| -> Vec<(usize, u64)> {
            all.iter().copied().filter(|(offset, _)| (from..to).contains(offset)).collect()
        };
        let types = [
            (0x2028, 0x2101),
            (0x202c, 0x2070),
            (0x2050, 0x2101),
            (0x2060, 0x2101),
            (0x2064, 0x2070),
            (0x2068, 0x1020),
            (0x2098, 0x2101),
            (0x20d0, 0x2101),
            (0x20f8, 0x2101),
            (0x20fc, 0x2070),
        ];
        assert_eq!(within(0x2000, 0x2200), types);
        assert_eq!(within(0x2200, 0x3000), [(0x2214, 0x404a), (0x2224, 0x404f)]);
        assert_eq!(within(0x3000, 0x4000), [(0x3000, 0x2070)]);
        let lines = [
            (0x4018, 0x1000),
            (0x4020, 0x4048),
            (0x4028, 0x4060),
            (0x4030, 0x4068),
            (0x4038, 0x4080),
            (0x4040, 0x40a0),
            (0x4060, 0x4068),
            (0x40a0, 0x1010),
            (0x40a4, 0x40b0),
            (0x40a8, 0x1040),
            (0x40b0, 0x1010),
            (0x40b4, 0x404a),
            (0x40c0, 0x4081),
            (0x40c4, 0x4082),
            (0x40c8, 0x4083),
            (0x40d0, 0x4064),
            (0x40dc, 0x4084),
            (0x40e4, 0x2240),
            (0x40e8, 0x2200),
            (0x40ec, 0x2210),
        ];
        assert_eq!(within(0x4000, 0x5000), lines);
        let before = fields(&file, Version::One);
        assert!(
            before.iter().all(|(offset, _)| !(0x2000..0x4000).contains(offset))
                && before.len() + 13 < all.len()
        );
    }

    #[test]
    fn damage_is_scanned_within_the_file() {
        let file = program();
        for at in 0..file.len() / 4 {
            let mut damaged = file.clone();
            damaged[at * 4..at * 4 + 4].copy_from_slice(&[[0; 4], [0xff; 4], [0, 0, 0, 0x80]][at % 3]);
            if let Some(image) = Image::parse(&damaged) {
                let mut end = 0;
                Scan::new(&image, Version::Two, 1).run(&mut |field| {
                    assert!(field.offset >= end);
                    end = field.offset + field.form.bytes();
                });
                assert!(end <= damaged.len());
            }
        }
    }
}
