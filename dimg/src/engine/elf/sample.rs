//! Small executables, laid out as linkers do it.

/// What to build.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// For aarch64, not x86-64.
    pub arm: bool,
    /// Loaded where it says.
    pub fixed: bool,
    /// With section headers.
    pub sections: bool,
    /// The functions that it has.
    pub functions: usize,
    /// Functions whose number is a multiple of this are longer.
    pub longer: usize,
}

impl Default for Sample {
    fn default() -> Self {
        Self { arm: false, fixed: false, sections: true, functions: 300, longer: usize::MAX }
    }
}

struct Section {
    name: &'static str,
    kind: u32,
    flags: u64,
    link: u32,
    offset: usize,
    address: u64,
    bytes: usize,
}

pub(super) fn put32(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes()[..4]);
}

fn put64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

const PAGE: u64 = 0x1000;
const PAGE_BYTES: usize = 0x1000;

/// Bytes without a pattern.
pub(super) fn noise(seed: u64) -> u64 {
    let mut value = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    value ^= value >> 29;
    value = value.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value ^ value >> 32
}

impl Sample {
    fn body(&self, number: usize) -> usize {
        let extra = if number.is_multiple_of(self.longer) { 40 } else { 0 };
        32 + extra + 8 * (number % 5)
    }

    /// The file.
    ///
    /// # Panics
    /// It would be too large.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let base = if self.fixed { 0x40_0000 } else { 0 };
        let count = self.functions;
        let tables = [24 * count, 16 * count, 24 * count, 8 * count + 12, 32 * count + 24, 4 * count, 16 * 8];
        let mut at = 0x400usize;
        let places = tables.map(|bytes| {
            let place = at;
            at = (at + bytes).next_multiple_of(16);
            place
        });
        let [symbols, strings, relocations, index, frames, jumps, dynamic] = places;
        let code = at.next_multiple_of(PAGE_BYTES);
        let mut starts = Vec::new();
        let mut end = code;
        for number in 0..count {
            starts.push(end);
            end = (end + self.body(number)).next_multiple_of(16);
        }
        let data = end.next_multiple_of(PAGE_BYTES);
        let data_bytes = 8 * count;
        // Data are loaded a page further on than they lie in the file.
        let data_address = base + PAGE + data as u64;
        let va = |offset: usize| base + offset as u64;
        let bss = data_address + data_bytes as u64;
        let mut file = vec![0u8; 0x400];
        let start = |file: &mut Vec<u8>, place: usize| file.resize(place, 0);
        start(&mut file, symbols);
        for (number, &place) in starts.iter().enumerate() {
            put32(&mut file, 16 * number as u64 + 1);
            put32(&mut file, 0x0007_0012);
            put64(&mut file, va(place));
            put64(&mut file, self.body(number) as u64);
        }
        start(&mut file, strings);
        for number in 0..count {
            file.extend_from_slice(format!("\0name_{:010x}", noise(number as u64) >> 24).as_bytes());
        }
        start(&mut file, relocations);
        for number in 0..count {
            put64(&mut file, data_address + 8 * number as u64);
            put64(&mut file, if self.arm { 1027 } else { 8 });
            put64(&mut file, va(starts[number * 17 % count]));
        }
        start(&mut file, index);
        file.extend_from_slice(&[1, 0x1b, 3, 0x3b]);
        put32(&mut file, (frames - index) as u64 - 4);
        put32(&mut file, count as u64);
        let record = |number: usize| frames + 24 + 32 * number;
        for (number, &place) in starts.iter().enumerate() {
            put32(&mut file, (place - index) as u64);
            put32(&mut file, (record(number) - index) as u64);
        }
        start(&mut file, frames);
        put32(&mut file, 20);
        put32(&mut file, 0);
        start(&mut file, frames + 24);
        for (number, &place) in starts.iter().enumerate() {
            let at = record(number);
            put32(&mut file, 28);
            put32(&mut file, (at + 4 - frames) as u64);
            put32(&mut file, (place - at - 8) as u64);
            put32(&mut file, self.body(number) as u64);
            start(&mut file, at + 32);
        }
        start(&mut file, jumps);
        for number in 0..count {
            put32(&mut file, (starts[number * 5 % count] - jumps) as u64);
        }
        start(&mut file, dynamic);
        for (tag, value) in [
            (5, va(strings)),
            (6, va(symbols)),
            (7, va(relocations)),
            (8, 24 * count as u64),
            (12, va(starts[0])),
            (0, 0),
        ] {
            put64(&mut file, tag);
            put64(&mut file, value);
        }
        for (number, &place) in starts.iter().enumerate() {
            start(&mut file, place);
            let target = starts[number * 31 % count];
            let variable = bss + 8 * (number as u64 * 13 % count as u64);
            if self.arm {
                self.arm_function(&mut file, number, va(place), va(target), variable);
            } else {
                let jumps = (number == 0).then(|| va(jumps));
                self.x86_function(&mut file, number, va(place), va(target), jumps.unwrap_or(variable));
            }
        }
        start(&mut file, data);
        for number in 0..count {
            put64(&mut file, va(starts[number * 17 % count]));
        }
        let sections = [
            ("", 0, 0, 0, 0, 0),
            (".dynsym", 11, 2, 2, symbols, tables[0]),
            (".dynstr", 3, 2, 0, strings, tables[1]),
            (".rela.dyn", 4, 2, 1, relocations, tables[2]),
            (".eh_frame_hdr", 1, 2, 0, index, tables[3]),
            (".eh_frame", 1, 2, 0, frames, tables[4]),
            (".rodata", 1, 2, 0, jumps, tables[5]),
            (".dynamic", 6, 2, 2, dynamic, tables[6]),
            (".text", 1, 6, 0, code, end - code),
            (".data", 1, 3, 0, data, data_bytes),
            (".shstrtab", 3, 0, 0, file.len(), 128),
        ];
        let sections = sections.map(|(name, kind, flags, link, offset, bytes)| {
            let address = if name == ".data" { data_address } else { va(offset) };
            Section { name, kind, flags, link, offset, address, bytes }
        });
        let table = if self.sections { self.section_table(&mut file, &sections) } else { 0 };
        let loads = [
            (1u32, 4u32, 0, va(0), code, code),
            (1, 5, code, va(code), data - code, data - code),
            (1, 6, data, data_address, data_bytes, data_bytes * 2),
            (2, 6, dynamic, va(dynamic), tables[6], tables[6]),
            (0x6474_e550, 4, index, va(index), tables[3], tables[3]),
        ];
        self.headers(&mut file, &loads, table, sections.len());
        file
    }

    fn x86_function(&self, file: &mut Vec<u8>, number: usize, place: u64, target: u64, variable: u64) {
        let from = |file: &Vec<u8>, length: usize| {
            place + (file.len() - self.begun(file, place)) as u64 + length as u64
        };
        let next = from(file, 5);
        file.push(0xe8);
        put32(file, target.wrapping_sub(next));
        let next = from(file, 7);
        file.extend_from_slice(&[0x48, 0x8d, 0x05]);
        put32(file, variable.wrapping_sub(next));
        // cmp byte [rip + …], 3: the distance is from after the number.
        let next = from(file, 7);
        file.extend_from_slice(&[0x80, 0x3d]);
        put32(file, variable.wrapping_sub(next));
        file.push(3);
        let end = self.begun(file, place) + self.body(number);
        let mut seed = number as u64 * 64;
        while file.len() + 11 <= end {
            file.extend_from_slice(&[0x48, 0xb8]);
            put64(file, noise(seed));
            seed += 1;
        }
        file.resize(end - 1, 0x90);
        file.push(0xc3);
        file.resize(end.next_multiple_of(16), 0xcc);
    }

    fn arm_function(&self, file: &mut Vec<u8>, number: usize, place: u64, target: u64, variable: u64) {
        let begun = self.begun(file, place);
        let branch = target.wrapping_sub(place) >> 2 & 0x03ff_ffff;
        put32(file, 0x9400_0000 | branch);
        let pages = (variable >> 12).wrapping_sub(place >> 12);
        put32(file, 0x9000_0000 | (pages & 3) << 29 | (pages >> 2 & 0x7_ffff) << 5);
        put32(file, 0xf940_0000 | (variable & 0xfff) >> 3 << 10);
        let end = begun + self.body(number);
        let mut seed = number as u64 * 64;
        while file.len() + 8 <= end {
            put32(file, 0xd280_0000 | noise(seed) & 0x1f_ffff);
            seed += 1;
        }
        put32(file, 0xd65f_03c0);
        file.resize(end.next_multiple_of(16), 0);
    }

    /// The offset of a place in code.
    fn begun(&self, _: &[u8], place: u64) -> usize {
        usize::try_from(place - if self.fixed { 0x40_0000 } else { 0 })
            .expect("places of code are from the base on, and small")
    }

    fn section_table(&self, file: &mut Vec<u8>, sections: &[Section]) -> usize {
        let mut names = Vec::new();
        let places: Vec<_> = sections
            .iter()
            .map(|section| {
                let place = names.len();
                names.extend_from_slice(section.name.as_bytes());
                names.push(0);
                place
            })
            .collect();
        names.resize(128, 0);
        file.extend_from_slice(&names);
        let table = file.len();
        for (section, name) in sections.iter().zip(places) {
            put32(file, name as u64);
            put32(file, section.kind.into());
            put64(file, section.flags);
            put64(file, section.address);
            put64(file, section.offset as u64);
            put64(file, section.bytes as u64);
            put32(file, section.link.into());
            put32(file, 0);
            put64(file, 8);
            put64(file, 0);
        }
        table
    }

    fn headers(
        &self,
        file: &mut [u8],
        loads: &[(u32, u32, usize, u64, usize, usize)],
        table: usize,
        sections: usize,
    ) {
        let mut head = b"\x7fELF\x02\x01\x01".to_vec();
        head.resize(16, 0);
        let machine: u32 = if self.arm { 183 } else { 62 };
        put32(&mut head, u64::from(machine << 16 | if self.fixed { 2 } else { 3 }));
        put32(&mut head, 1);
        put64(&mut head, 0);
        put64(&mut head, 64);
        put64(&mut head, table as u64);
        put32(&mut head, 0);
        put32(&mut head, 64 | 56 << 16);
        put32(&mut head, loads.len() as u64 | 64 << 16);
        let count = if table == 0 { 0 } else { sections as u64 };
        put32(&mut head, count | count.saturating_sub(1) << 16);
        for &(kind, flags, offset, address, bytes, memory) in loads {
            put32(&mut head, kind.into());
            put32(&mut head, flags.into());
            put64(&mut head, offset as u64);
            put64(&mut head, address);
            put64(&mut head, address);
            put64(&mut head, bytes as u64);
            put64(&mut head, memory as u64);
            put64(&mut head, PAGE);
        }
        file[..head.len()].copy_from_slice(&head);
    }
}

/// A class data archive of so many objects, each with two addresses and the distances of the same; those whose number is a multiple of `longer` are longer.
///
/// # Panics
/// It would be too large.
#[must_use]
pub fn archive(objects: usize, longer: usize) -> Vec<u8> {
    let words = |number: usize| 7 + number % 4 + if number.is_multiple_of(longer) { 2 } else { 0 };
    let mut places = vec![0u64];
    for number in 0..objects {
        places.push(places[number] + 8 * words(number) as u64);
    }
    let named = |number: usize| places[usize::try_from(noise(number as u64) >> 32).unwrap_or(0) % objects];
    let mut file = Vec::new();
    put32(&mut file, 0xf00b_aba2);
    put32(&mut file, 7);
    for word in [11, 0, 0, 0, PAGE, 0, places[objects]] {
        put64(&mut file, word);
    }
    file.resize(PAGE_BYTES, 0);
    for number in 0..objects {
        for word in 0..words(number) {
            match word {
                1 | 4 => put64(&mut file, (32 << 30) + named(3 * number + word)),
                2 => {
                    put32(&mut file, named(3 * number + 4));
                    put32(&mut file, named(3 * number + 1));
                }
                _ => put64(&mut file, noise((number * 16 + word) as u64)),
            }
        }
    }
    file
}
