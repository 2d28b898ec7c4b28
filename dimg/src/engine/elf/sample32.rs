//! Small executables for 32-bit ARM, laid out as linkers do it: half of their functions are of Thumb.

use super::sample::{noise, put32};

/// What to build.
#[derive(Clone, Copy, Debug)]
pub struct Sample32 {
    /// Loaded where it says.
    pub fixed: bool,
    /// With section headers.
    pub sections: bool,
    /// The functions that it has.
    pub functions: usize,
    /// Functions whose number is a multiple of this are longer.
    pub longer: usize,
}

impl Default for Sample32 {
    fn default() -> Self {
        Self { fixed: false, sections: true, functions: 300, longer: usize::MAX }
    }
}

const PAGE: u64 = 0x1000;

/// Name, kind, flags, link, offset, bytes.
type Section = (&'static str, u64, u64, u64, usize, usize);

fn put16(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes()[..2]);
}

/// Both halves of an instruction of Thumb.
fn put_thumb(out: &mut Vec<u8>, first: u64, second: u64) {
    put16(out, first);
    put16(out, second);
}

/// A half of a number as movw and movt of Thumb have it.
fn put_half(out: &mut Vec<u8>, opcode: u64, register: u64, half: u64) {
    let first = opcode | half >> 12 & 15 | (half >> 11 & 1) << 10;
    put_thumb(out, first, (half >> 8 & 7) << 12 | register << 8 | half & 0xff);
}

/// What a function names.
struct Names {
    function: u64,
    variable: u64,
    other: u64,
}

impl Sample32 {
    fn base(&self) -> u64 {
        if self.fixed { 0x1_0000 } else { 0 }
    }

    fn is_thumb(&self, number: usize) -> bool {
        number < self.functions / 2
    }

    fn body(&self, number: usize) -> usize {
        let extra = if number.is_multiple_of(self.longer) { 40 } else { 0 };
        64 + extra + 8 * (number % 5)
    }

    /// The file.
    ///
    /// # Panics
    /// It would be too large.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let (count, base) = (self.functions, self.base());
        let tables = [16 * count, 16 * count, 8 * count, 8 * count, 4 * count, 8 * 8, 12 * count];
        let mut at = 0x400usize;
        let places = tables.map(|bytes| {
            let place = at;
            at = (at + bytes).next_multiple_of(64);
            place
        });
        let [symbols, strings, relocations, index, records, dynamic, jumps] = places;
        let code = at;
        let mut starts = Vec::new();
        for number in 0..count {
            starts.push(at);
            // The sets of instructions do not share 64 bytes.
            let align = if self.is_thumb(number) == self.is_thumb(number + 1) { 8 } else { 64 };
            at = (at + self.body(number)).next_multiple_of(align);
        }
        let (end, data) = (at, at.next_multiple_of(0x1000));
        let data_address = base + PAGE + data as u64;
        let va = |offset: usize| base + offset as u64;
        let entry = |number: usize| va(starts[number]) | u64::from(self.is_thumb(number));
        let mut file = vec![0u8; symbols];
        for number in 0..count {
            put32(&mut file, 16 * number as u64 + 1);
            put32(&mut file, entry(number));
            put32(&mut file, self.body(number) as u64);
            put32(&mut file, 0x0007_0012);
        }
        file.resize(strings, 0);
        for number in 0..count {
            file.extend_from_slice(format!("\0name_{:010x}", noise(number as u64) >> 24).as_bytes());
        }
        file.resize(relocations, 0);
        for number in 0..count {
            put32(&mut file, data_address + 4 * number as u64);
            put32(&mut file, if number % 3 == 0 { (number as u64) << 8 | 2 } else { 23 });
        }
        file.resize(index, 0);
        for (number, &place) in starts.iter().enumerate() {
            let at = index + 8 * number;
            put32(&mut file, (place.wrapping_sub(at) as u64) & 0x7fff_ffff);
            match number % 3 {
                0 => put32(&mut file, 1),
                1 => put32(&mut file, 0x80b0_b0b0),
                _ => put32(&mut file, ((records + 4 * number).wrapping_sub(at + 4) as u64) & 0x7fff_ffff),
            }
        }
        file.resize(records, 0);
        for number in 0..count {
            put32(
                &mut file,
                (starts[number * 3 % count].wrapping_sub(records + 4 * number) as u64) & 0x7fff_ffff,
            );
        }
        file.resize(dynamic, 0);
        let bytes = 8 * count as u64;
        for (tag, value) in
            [(5, va(strings)), (6, va(symbols)), (17, va(relocations)), (18, bytes), (12, va(code)), (0, 0)]
        {
            put32(&mut file, tag);
            put32(&mut file, value);
        }
        file.resize(jumps, 0);
        for number in 0..count {
            let distance = data_address + 4 * number as u64 - va(file.len()) - 8;
            put32(&mut file, 0xe28f_c600 | distance >> 20 & 0xff);
            put32(&mut file, 0xe28c_ca00 | distance >> 12 & 0xff);
            put32(&mut file, 0xe5bc_f000 | distance & 0xfff);
        }
        for (number, &place) in starts.iter().enumerate() {
            file.resize(place, 0);
            let names = Names {
                function: va(starts[number * 31 % count]),
                variable: data_address + 4 * (number as u64 * 13 % (2 * count as u64)),
                other: va(symbols + number * 7 % (32 * count)),
            };
            let is_same = self.is_thumb(number) == self.is_thumb(number * 31 % count);
            if self.is_thumb(number) {
                self.thumb(&mut file, number, &names, is_same);
            } else {
                self.arm(&mut file, number, &names, is_same);
            }
        }
        file.resize(data, 0);
        for number in 0..count {
            put32(&mut file, if number % 3 == 0 { 0 } else { entry(number * 17 % count) });
        }
        let sections: [Section; 11] = [
            ("", 0, 0, 0, 0, 0),
            (".dynsym", 11, 2, 2, symbols, tables[0]),
            (".dynstr", 3, 2, 0, strings, tables[1]),
            (".rel.dyn", 9, 2, 1, relocations, tables[2]),
            (".ARM.exidx", 0x7000_0001, 0x82, 8, index, tables[3]),
            (".ARM.extab", 1, 2, 0, records, tables[4]),
            (".dynamic", 6, 3, 2, dynamic, tables[5]),
            (".plt", 1, 6, 0, jumps, tables[6]),
            (".text", 1, 6, 0, code, end - code),
            (".data", 1, 3, 0, data, 4 * count),
            (".shstrtab", 3, 0, 0, file.len(), 128),
        ];
        let table = if self.sections { section_table(&mut file, &sections) } else { 0 };
        let loads = [
            (1, 0, va(0), data, data, 5),
            (1, data, data_address, 4 * count, 8 * count, 6),
            (2, dynamic, va(dynamic), tables[5], tables[5], 6),
            (0x7000_0001, index, va(index), tables[3], tables[3], 4),
        ];
        self.headers(&mut file, &loads, table, sections.len());
        file
    }

    /// Where the next instruction is.
    fn place(&self, file: &[u8]) -> u64 {
        self.base() + file.len() as u64
    }

    fn thumb(&self, file: &mut Vec<u8>, number: usize, names: &Names, is_same: bool) {
        let begun = file.len();
        let end = begun + self.body(number);
        let place = self.place(file) + 4;
        let distance = names.function.wrapping_sub(if is_same { place } else { place & !3 });
        let sign = distance >> 24 & 1;
        let [high, low] = [23, 22].map(|bit| distance >> bit & 1 ^ sign ^ 1);
        let opcode = if is_same { 0xd000 } else { 0xc000 };
        put_thumb(
            file,
            0xf000 | sign << 10 | distance >> 12 & 0x3ff,
            opcode | high << 13 | low << 11 | distance >> 1 & 0x7ff,
        );
        // ldr r0, the last word
        let word = end - 4;
        put16(file, 0x4800 | ((word - (file.len() + 4) / 4 * 4) / 4) as u64);
        let mut value = names.variable;
        if !self.fixed {
            value = value.wrapping_sub(self.place(file) + 4);
            put16(file, 0x4478);
        }
        let base = if self.fixed { 0 } else { self.place(file) + 12 };
        let other = names.other.wrapping_sub(base);
        put_half(file, 0xf240, 1, other & 0xffff);
        put_half(file, 0xf2c0, 1, other >> 16 & 0xffff);
        put16(file, if self.fixed { 0x4608 } else { 0x4479 });
        let mut seed = number as u64 * 64;
        while file.len() + 2 < word {
            put16(file, 0x2000 | noise(seed) & 0x7ff);
            seed += 1;
        }
        put16(file, 0x4770);
        file.resize(word, 0);
        put32(file, value);
    }

    fn arm(&self, file: &mut Vec<u8>, number: usize, names: &Names, is_same: bool) {
        let begun = file.len();
        let word = begun + self.body(number) - 4;
        let words = names.function.wrapping_sub(self.place(file) + 8) >> 2 & 0xff_ffff;
        put32(file, if is_same { 0xeb00_0000 } else { 0xfa00_0000 } | words);
        put32(file, 0xe59f_0000 | (word - file.len() - 8) as u64);
        let mut value = names.variable;
        if !self.fixed {
            value = value.wrapping_sub(self.place(file) + 8);
            put32(file, 0xe08f_0000);
        }
        let base = if self.fixed { 0 } else { self.place(file) + 16 };
        let other = names.other.wrapping_sub(base);
        for (opcode, half) in [(0xe300_1000, other & 0xffff), (0xe340_1000, other >> 16 & 0xffff)] {
            put32(file, opcode | (half & 0xf000) << 4 | half & 0xfff);
        }
        put32(file, if self.fixed { 0xe1a0_0001 } else { 0xe08f_1001 });
        let mut seed = number as u64 * 64;
        while file.len() + 4 < word {
            put32(file, 0xe3a0_0000 | noise(seed) & 0xffff);
            seed += 1;
        }
        put32(file, 0xe12f_ff1e);
        put32(file, value);
    }

    fn headers(
        &self,
        file: &mut [u8],
        loads: &[(u64, usize, u64, usize, usize, u64)],
        table: usize,
        sections: usize,
    ) {
        let mut head = b"\x7fELF\x01\x01\x01".to_vec();
        head.resize(16, 0);
        put32(&mut head, 40 << 16 | if self.fixed { 2 } else { 3 });
        let count = if table == 0 { 0 } else { sections as u64 };
        let sizes = [52 | 32 << 16, loads.len() as u64 | 40 << 16, count | count.saturating_sub(1) << 16];
        for word in [1, 0, 52, table as u64, 0x0500_0400].into_iter().chain(sizes) {
            put32(&mut head, word);
        }
        for &(kind, offset, address, bytes, memory, flags) in loads {
            for word in [kind, offset as u64, address, address, bytes as u64, memory as u64, flags, PAGE] {
                put32(&mut head, word);
            }
        }
        file[..head.len()].copy_from_slice(&head);
    }
}

/// Where the table is; addresses are left out.
fn section_table(file: &mut Vec<u8>, sections: &[Section]) -> usize {
    let (begun, mut names) = (file.len(), Vec::new());
    for (name, ..) in sections {
        file.extend_from_slice(name.as_bytes());
        names.push(file.len() - begun - name.len());
        file.push(0);
    }
    file.resize(begun + 128, 0);
    let table = file.len();
    for (&(_, kind, flags, link, offset, bytes), name) in sections.iter().zip(names) {
        for word in [name as u64, kind, flags, 0, offset as u64, bytes as u64, link, 0, 4, 0] {
            put32(file, word);
        }
    }
    table
}
