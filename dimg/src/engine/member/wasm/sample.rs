//! Modules made up for tests and fuzzing.

use super::side::{put_length, put_signed};
use super::{CODE, DATA, ELEMENTS, MAGIC, VERSION};

/// What a module has.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Functions, each of which calls another and names a datum of its own.
    pub functions: u32,
    /// Functions and data before all of those.
    pub more: u32,
    /// Numbers as a linker leaves them that fills them in: in five bytes.
    pub padded: bool,
}

/// The address of the first datum.
const ADDRESS: u32 = 1 << 20;
/// Bytes of a datum, and of zeros behind it, which are left out.
const DATUM: (u32, u32) = (24, 12);

impl Sample {
    /// The module.
    #[must_use]
    pub fn build(self) -> Vec<u8> {
        let count = self.functions + self.more;
        let mut content = [&MAGIC[..], &VERSION].concat();
        section(1, &[1, 0x60, 1, 0x7f, 1, 0x7f], &mut content);
        section(2, b"\x01\x01m\x01f\0\0", &mut content);
        let mut types = number(count);
        types.resize(types.len() + count as usize, 0);
        section(3, &types, &mut content);
        section(5, &[1, 0, 32], &mut content);
        section(7, b"\x01\x01f\0\x01", &mut content);
        let mut elements = vec![1, 0, 0x41, 1, 0x0b];
        elements.extend(number(count));
        (0..count).for_each(|place| elements.extend(number(1 + place)));
        section(ELEMENTS, &elements, &mut content);
        let mut code = number(count);
        for place in 0..count {
            let body = self.body(place);
            code.extend(number(u32::try_from(body.len()).unwrap_or(0)));
            code.extend(body);
        }
        section(CODE, &code, &mut content);
        let mut data = number(count);
        for place in 0..count {
            data.extend([0, 0x41]);
            data.extend(signed(datum(place)));
            data.push(0x0b);
            data.extend(number(DATUM.0));
            data.extend(
                (0..DATUM.0 - 4).map(|at| (1 + (self.own(place) * 31 + at * at) % 251).to_le_bytes()[0]),
            );
            data.extend((datum((place * 5 + 1) % count) | 1).to_le_bytes().map(|byte| byte.max(1)));
        }
        section(DATA, &data, &mut content);
        section(0, b"\x08producersx", &mut content);
        content
    }

    /// The number of a function or datum that those before do not change.
    fn own(self, place: u32) -> u32 {
        place.checked_sub(self.more).unwrap_or(1000 + place)
    }

    fn body(self, place: u32) -> Vec<u8> {
        let count = self.functions + self.more;
        let own = self.own(place);
        let callee = if place < self.more { place } else { self.more + own * 7 % self.functions };
        let mut body = vec![1, 2, 0x7f];
        for step in 0..4 + own % 5 {
            body.extend([0x20, 0, 0x41]);
            body.extend(self.constant(datum((callee + step) % count)));
            body.extend([0x28, 2]);
            body.extend(self.number(datum(place)));
            body.extend([0x6a, 0x41]);
            body.extend(signed(own * 8 + step));
            body.extend([0x6a, 0x21, 1, 0x20, 1, 0x10]);
            body.extend(self.number(1 + callee));
            body.extend([0x1a, 0x02, 0x40, 0x20, 0, 0x0d, 0, 0x0b]);
        }
        body.extend([0x20, 0, 0x0b]);
        body
    }

    fn number(self, value: u32) -> Vec<u8> {
        let mut out = Vec::new();
        put_length(&mut out, value as usize, if self.padded { 5 } else { 0 });
        out
    }

    fn constant(self, value: u32) -> Vec<u8> {
        // Not negative.
        if self.padded { self.number(value) } else { signed(value) }
    }
}

fn datum(place: u32) -> u32 {
    ADDRESS + place * (DATUM.0 + DATUM.1)
}

fn number(value: u32) -> Vec<u8> {
    let mut out = Vec::new();
    put_length(&mut out, value as usize, 0);
    out
}

fn signed(value: u32) -> Vec<u8> {
    let mut out = Vec::new();
    put_signed(&mut out, value.cast_signed());
    out
}

fn section(number_of: u8, bytes: &[u8], content: &mut Vec<u8>) {
    content.push(number_of);
    content.extend(number(u32::try_from(bytes.len()).unwrap_or(0)));
    content.extend_from_slice(bytes);
}
